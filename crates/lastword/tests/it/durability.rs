//! G1 and G2: whoever is killed, whenever: one end for each accepted run, and never `complete` when a byte is missing.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::lab::{Lab, Program, ended, finish, needs_root, wait_for};
use crate::object::Object;
use crate::soak;

/// What a supervisor's executable is called.
const NAME: &str = "lastword-supervisor";

/// Supervisors that work on runs of this data directory: they hold a spool, and run from memory.
pub(crate) fn supervisors(lab: &Lab) -> Vec<u32> {
    let spools = lab.data.join("spool");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if !std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.to_string_lossy().contains(NAME))
        {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let mut targets = descriptors.flatten().filter_map(|link| std::fs::read_link(link.path()).ok());
        if targets.any(|target| target.starts_with(&spools)) {
            found.push(pid);
        }
    }
    found
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(number.try_into().unwrap()).unwrap()
}

/// `lastword run`, leader of its own process group.
pub(crate) fn start(lab: &Lab, options: &[&str], program: &Program) -> Child {
    let arguments = lab.arguments(options, program);
    lab.command()
        .args(arguments)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the command has passed on `text`, its first output.
pub(crate) fn wait_for_output(child: &mut Child, text: &str) {
    let mut bytes = vec![0; text.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

/// All that would get a signal by the terminal, at once and without a chance.
pub(crate) fn kill_group(child: &mut Child) {
    kill_process_group(pid(child.id()), Signal::KILL).unwrap();
    child.wait().unwrap();
}

pub(crate) fn no_supervisor(lab: &Lab) {
    wait_for("supervisors end", || supervisors(lab).is_empty().then_some(()));
}

/// Whether any process has this word in its command line.
pub(crate) fn runs(word: &str) -> bool {
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        entry.file_name() != *own
            && std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
    })
}

#[test]
fn row_40_lastword_run_is_killed_and_the_supervisor_finishes() {
    let lab = Lab::new();
    let code = "echo before\nsleep 1\necho after >&2\necho last\nexit 3";
    let mut child = start(&lab, &[], &Program::Sh(code));
    wait_for_output(&mut child, "before\n");
    kill_group(&mut child);
    let id = lab.ids().remove(0);
    assert_eq!(lab.get(&id).status(), "running");
    no_supervisor(&lab);
    let object = lab.get(&id);
    assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(3)), "{:?}", object.0);
    assert_eq!((object.stdout(), object.stderr()), (b"before\nlast\n".to_vec(), b"after\n".to_vec()));
    assert!(object.complete(), "{}", object.at("/transcript"));
    lab.agree(&object);
}

#[test]
fn limits_hold_after_lastword_run_was_killed() {
    let lab = Lab::new();
    let mut child = start(&lab, &["--timeout", "700ms"], &Program::Sh("echo before; sleep 1000"));
    wait_for_output(&mut child, "before\n");
    kill_group(&mut child);
    no_supervisor(&lab);
    let object = lab.get(&lab.ids()[0]);
    assert_eq!(object.end(), "timed_out/wall_time");
    assert!(object.complete());
}

/// What a run that lost its supervisor has to look like.
fn lost(lab: &Lab, id: &str, stdout: &[u8]) -> Object {
    let object = lab.get(id);
    assert_eq!(object.end(), "error/lost", "{:?}", object.0);
    assert!(!object.complete() && object.at("/ok") == false);
    assert!(!object.text("/transcript/why_incomplete").is_empty());
    assert!(!object.at("/problem").is_null() && object.at("/exit_code").is_null());
    assert_eq!(object.stdout(), stdout);
    lab.agree(&object);
    object
}

#[test]
fn row_30_the_supervisor_is_killed() {
    let lab = Lab::new();
    let marker = format!("7{:09}", std::process::id());
    let code = format!("echo before\nsetsid sleep {marker} &\nexec sleep {marker}");
    let mut child = start(&lab, &["--timeout", "100s"], &Program::Sh(&code));
    wait_for_output(&mut child, "before\n");
    let found = wait_for("the program", || runs(&marker).then(|| supervisors(&lab)));
    assert_eq!(found.len(), 1);
    kill_process(pid(found[0]), Signal::KILL).unwrap();
    let ended = ended(child, None).expect(125);
    assert!(!ended.stderr.is_empty());
    wait_for("the program's death", || (!runs(&marker)).then_some(()));
    let object = lost(&lab, &lab.ids()[0], b"before\n");
    assert_eq!(object.at("/retry/program_started"), true);
    assert_eq!(object.at("/retry/safe"), false);
}

#[test]
fn row_30_both_are_killed() {
    let lab = Lab::new();
    let marker = format!("8{:09}", std::process::id());
    let code = format!("echo before\nexec sleep {marker}");
    let mut child = start(&lab, &["--timeout", "100s"], &Program::Sh(&code));
    wait_for_output(&mut child, "before\n");
    let found = supervisors(&lab);
    kill_process(pid(child.id()), Signal::STOP).unwrap();
    kill_process(pid(found[0]), Signal::KILL).unwrap();
    kill_group(&mut child);
    wait_for("the program's death", || (!runs(&marker)).then_some(()));
    lost(&lab, &lab.ids()[0], b"before\n");
}

/// A supervisor that is stopped, not dead, is not given up: its lock says that it lives.
#[test]
fn a_stopped_supervisor_is_not_lost() {
    let lab = Lab::new();
    let mut child = start(&lab, &[], &Program::Sh("echo before; sleep 0.2; echo after"));
    wait_for_output(&mut child, "before\n");
    let found = supervisors(&lab);
    kill_process(pid(found[0]), Signal::STOP).unwrap();
    kill_group(&mut child);
    let id = lab.ids().remove(0);
    assert_eq!(lab.get(&id).status(), "running");
    kill_process(pid(found[0]), Signal::CONT).unwrap();
    no_supervisor(&lab);
    let object = lab.get(&id);
    assert_eq!((object.end().as_str(), object.stdout()), ("succeeded/exit", b"before\nafter\n".to_vec()));
}

/// Numbers that differ from run to run of the suite; printed, so that a failure can be looked at.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        eprintln!("seed {seed}");
        Self(u64::from(seed) | 1)
    }

    /// Below `end`; xorshift64.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const SHORT: &str = "echo out 1\necho err 2 >&2\necho out 3\nexit 4";

fn is_whole(object: &Object) -> bool {
    object.end() == "failed/exit"
        && object.exit_code() == Some(4)
        && object.inline("output") == b"out 1\nerr 2\nout 3\n"
        && object.complete()
}

/// Every run has its one end and tells the truth: the whole, or that it isn't.
fn all_true(lab: &Lab) -> (usize, usize) {
    no_supervisor(lab);
    let verify = lab.lastword(["verify", "--all", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&verify.stdout).unwrap();
    let wrong: Vec<_> =
        report["items"].as_array().unwrap().iter().filter(|item| item["ok"] != true).collect();
    assert!(wrong.is_empty() && verify.code() == 0, "{wrong:?} {} {}", report["segments"], verify.message());
    let (mut whole, mut others) = (0, 0);
    for id in lab.ids() {
        let object = lab.get(&id);
        lab.agree(&object);
        if is_whole(&object) {
            whole += 1;
            continue;
        }
        others += 1;
        assert_eq!(object.status(), "error", "{:?}", object.0);
        // A run whose program was never started has no byte to miss.
        let never_ran =
            object.at("/retry/program_started") == false && object.number("/transcript/records") == 0;
        assert!(!object.complete() || never_ran, "{:?}", object.0);
        assert!(b"out 1\nerr 2\nout 3\n".starts_with(&object.inline("output")), "{:?}", object.0);
    }
    (whole, others)
}

/// Time of one run here and now, from which points to kill at are drawn.
fn usual(lab: &Lab) -> u64 {
    let start = Instant::now();
    lab.run(&[], &Program::Sh(SHORT));
    start.elapsed().as_micros().try_into().unwrap()
}

#[test]
fn lastword_killed_at_random_points() {
    let lab = Lab::new();
    let span = usual(&lab);
    let rounds = soak::count(30, 200);
    let (mut dice, mut seen) = (Dice::new(), 1);
    for _ in 0..rounds {
        let mut child = start(&lab, &[], &Program::Sh(SHORT));
        // The point to kill at, not a wait for something.
        std::thread::sleep(Duration::from_micros(dice.below(span * 5 / 4)));
        kill_group(&mut child);
        let mut output = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
        // Who has seen a byte of it has been promised the run.
        seen += usize::from(!output.is_empty());
    }
    let (whole, others) = all_true(&lab);
    assert!(whole + others >= seen, "{seen} runs have been heard of, {whole} + {others} are there");
    // Those that were accepted were finished by their supervisors, unless they had none yet.
    soak::figure(
        "kill -9 of lastword at random points",
        &format!("{rounds} kills: {whole} runs whole, {others} lost and said so, none wrong"),
    );
}

#[test]
fn supervisors_killed_at_random_points() {
    let lab = Lab::new();
    let span = usual(&lab);
    let rounds = soak::count(30, 200);
    let mut dice = Dice::new();
    for _ in 0..rounds {
        let child = start(&lab, &[], &Program::Sh(SHORT));
        let found = wait_for("a supervisor or the end", || match supervisors(&lab) {
            found if !found.is_empty() => Some(found),
            _ => std::fs::read_link(format!("/proc/{}/exe", child.id())).is_err().then(Vec::new),
        });
        std::thread::sleep(Duration::from_micros(dice.below(span)));
        for number in found {
            // It may have ended meanwhile; its number isn't given to another that fast.
            let _ = kill_process(pid(number), Signal::KILL);
        }
        let ended = ended(child, None);
        assert!([4, 125].contains(&ended.code()), "{}", ended.message());
    }
    let (whole, others) = all_true(&lab);
    assert_eq!(whole + others, rounds + 1, "each has one end");
    soak::figure(
        "kill -9 of supervisors at random points",
        &format!("{rounds} kills: {whole} runs whole, {others} lost and said so, none wrong"),
    );
}

#[test]
fn eight_at_once_on_one_data_directory() {
    let lab = Lab::new();
    let rounds = soak::count(5, 50);
    let arguments = lab.arguments(&["--json"], &Program::Sh(SHORT));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let ended = finish(lab.command().args(&arguments), None).expect(0);
                    assert!(is_whole(&Object::parse(&ended.stdout)), "{}", ended.stdout.escape_ascii());
                }
            });
        }
    });
    let (whole, others) = all_true(&lab);
    assert_eq!((whole, others), (8 * rounds, 0));
}

#[test]
fn eight_at_once_and_some_are_killed() {
    let lab = Lab::new();
    let span = usual(&lab) * 4;
    let rounds = soak::count(4, 30);
    let arguments = lab.arguments(&[], &Program::Sh(SHORT));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (lab, arguments) = (&lab, &arguments);
            let mut dice = Dice(0x9e37_79b9 + number * 77);
            scope.spawn(move || {
                for _ in 0..rounds {
                    let mut command = lab.command();
                    command.args(arguments).process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
                    let mut child = command.spawn().unwrap();
                    if number % 2 == 0 {
                        std::thread::sleep(Duration::from_micros(dice.below(span)));
                        kill_group(&mut child);
                    } else {
                        assert_eq!(child.wait().unwrap().code(), Some(4));
                    }
                }
            });
        }
    });
    let (whole, _) = all_true(&lab);
    assert!(whole > 4 * rounds, "{whole}");
}

/// An end that somebody was told of is on disk: the index is thrown away and made anew from what is there.
#[test]
fn the_index_is_made_anew() {
    let lab = Lab::new();
    let before: Vec<Object> =
        (0..3).map(|_| lab.run(&[], &Program::Sh(SHORT))).map(|o| lab.get(o.id())).collect();
    for entry in std::fs::read_dir(&lab.data).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("index.sqlite") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    for object in &before {
        assert_eq!(lab.get(object.id()), *object);
    }
    all_true(&lab);
}

#[test]
fn a_damaged_index_is_made_anew() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::Sh(SHORT));
    let before = lab.get(object.id());
    for entry in std::fs::read_dir(&lab.data).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "index.sqlite" {
            std::fs::write(entry.path(), b"this is no database\n".repeat(500)).unwrap();
        } else if name.starts_with("index.sqlite") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(lab.get(object.id()), before);
}

fn segments(lab: &Lab) -> Vec<PathBuf> {
    std::fs::read_dir(lab.data.join("segments")).unwrap().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_changed_byte_is_found() {
    let lab = Lab::new();
    let needle = b"needle-in-the-segment";
    let object = lab.run(&[], &Program::Sh("echo needle-in-the-segment"));
    let (path, mut bytes, at) = segments(&lab)
        .into_iter()
        .find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((path, bytes, at))
        })
        .expect("a transcript this small isn't compressed");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let verify = lab.lastword(["verify", object.id()]);
    assert_eq!(verify.code(), 1, "{verify:?}");
    assert_eq!(lab.lastword(["verify", "--all"]).code(), 1);
    let logs = lab.lastword(["logs", object.id()]);
    assert!(!logs.status.success() && !logs.stderr.is_empty(), "{logs:?}");
    // Another one can still be run and read.
    let next = lab.run(&[], &Program::Sh("echo next"));
    assert_eq!(next.stdout(), b"next\n");
}

#[test]
fn a_torn_tail_of_a_segment_does_no_harm() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::Sh(SHORT));
    for path in segments(&lab) {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&bytes.clone()[64..bytes.len().min(100)]);
        std::fs::write(path, bytes).unwrap();
    }
    let next = lab.run(&[], &Program::Sh(SHORT));
    assert!(is_whole(&lab.get(object.id())) && is_whole(&lab.get(next.id())));
    all_true(&lab);
}

/// A small file system of our own; unmounted when dropped.
pub(crate) struct Small {
    path: PathBuf,
}

impl Small {
    pub(crate) fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "lastword-test"])
            .arg(path)
            .status();
        assert!(status.unwrap().success());
        Self { path: path.to_owned() }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").args(["--lazy"]).arg(&self.path).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn heavy_row_32_the_disk_fills_up_in_a_run() {
    if !needs_root("mounts a file system") {
        return;
    }
    let lab = Lab::new();
    let _small = Small::mount(&lab.data, "6m");
    let code = "import os\nfor i in range(16384): os.write(1, b'%01023d\\n' % i)\n";
    let ended = lab.plain(&["--timeout", "60s"], &Program::Python(code));
    assert_eq!(ended.code(), 125, "{}", ended.message());
    let message = ended.message().to_lowercase();
    assert!(["full", "space", "disk"].iter().any(|word| message.contains(word)), "{message}");
    // Nothing more fits; what is there must be readable all the same, or say why it can't be.
    no_supervisor(&lab);
    for id in lab.ids() {
        assert!(!lab.get(&id).complete());
    }
}

#[test]
fn row_32_a_full_disk_takes_no_run() {
    if !needs_root("mounts a file system") {
        return;
    }
    let lab = Lab::new();
    let _small = Small::mount(&lab.data, "6m");
    let kept = lab.run(&[], &Program::Sh(SHORT));
    let filler = lab.data.join("filler");
    let fill = Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", filler.display()))
        .output()
        .unwrap();
    assert!(!fill.status.success());
    let ended = lab.plain(&[], &Program::Sh(SHORT));
    assert_eq!(ended.code(), 125, "{}", ended.message());
    assert!(ended.message().to_lowercase().contains("space"), "{}", ended.message());
    std::fs::remove_file(filler).unwrap();
    // It goes on when there is room again, and nothing was lost.
    assert!(is_whole(&lab.run(&[], &Program::Sh(SHORT))));
    assert!(is_whole(&lab.get(kept.id())));
    all_true(&lab);
}

/// With a little room left a run fails at another place each time: in the accept, in the first bytes of its spool, in its end.
#[test]
fn row_32_an_almost_full_disk_holds_nobody_up() {
    if !needs_root("mounts a file system") {
        return;
    }
    let lab = Lab::new();
    let _small = Small::mount(&lab.data, "6m");
    let kept = lab.run(&[], &Program::Sh(SHORT));
    let filler = lab.data.join("filler");
    for pages in 0..16 {
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full - full.min(pages * 4096)).unwrap();
        let began = Instant::now();
        let ended = lab.plain(&[], &Program::Sh(SHORT));
        assert!(began.elapsed() < Duration::from_secs(30), "{pages} pages free: it waited too long");
        // 4 is the program's own: then there was room for all of it.
        assert!([4, 125].contains(&ended.code()), "{pages}: {}", ended.message());
    }
    std::fs::remove_file(filler).unwrap();
    assert!(is_whole(&lab.run(&[], &Program::Sh(SHORT))));
    assert!(is_whole(&lab.get(kept.id())));
}

/// The command line of `logs -f` on a run that has no end yet.
#[test]
fn following_a_run_shows_all_of_it() {
    let lab = Lab::new();
    let code = "echo first\nfor i in 1 2 3 4 5; do sleep 0.1; echo line $i; echo err $i >&2; done";
    let mut child = start(&lab, &[], &Program::Sh(code));
    wait_for_output(&mut child, "first\n");
    let id = lab.ids().remove(0);
    let follow: Vec<OsString> = ["logs", &id, "-f", "--stream", "stdout"].map(OsString::from).to_vec();
    let followed = lab.lastword(follow).expect(0);
    assert_eq!(followed.stdout, b"first\nline 1\nline 2\nline 3\nline 4\nline 5\n");
    ended(child, None).expect(0);
}

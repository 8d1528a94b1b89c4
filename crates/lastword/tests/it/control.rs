//! Speaking to a run from another process: `lastword cancel`, and a stdin that grows.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use lastword::execution::request::{Program as Asked, Stdin};
use lastword::execution::{Cancel, Engine, Request, Sink};
use lastword_store::{Error, Store};
use rustix::fs::Mode;
use uuid::Uuid;

use crate::durability::{kill_group, no_supervisor, runs, start, supervisors, wait_for_output};
use crate::lab::{Lab, Program, ended, finish, needs_root, wait_for};

const SLEEPER: &str = "echo before\necho trouble >&2\nsleep 1000\necho after";

fn spool(lab: &Lab) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lab.data.join("spool")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn beside(lab: &Lab, id: &str, kind: &str) -> PathBuf {
    lab.data.join(format!("spool/{id}.{kind}"))
}

fn is_cancelled_and_whole(lab: &Lab, id: &str) {
    let object = lab.get(id);
    assert_eq!(object.end(), "cancelled/cancelled", "{:?}", object.0);
    assert_eq!((object.stdout(), object.stderr()), (b"before\n".to_vec(), b"trouble\n".to_vec()));
    assert!(object.complete(), "{}", object.at("/transcript"));
    lab.agree(&object);
    assert_eq!(spool(lab), Vec::<PathBuf>::new());
}

// ---- lastword cancel ---------------------------------------------------------------------------------------------

#[test]
fn cancel_ends_a_run_of_another_process() {
    let lab = Lab::new();
    let mut child = start(&lab, &["--timeout", "100s"], &Program::Sh(SLEEPER));
    wait_for_output(&mut child, "before\n");
    let id = lab.ids().remove(0);
    let told = lab.lastword(["cancel", &id[..30]]).expect(0);
    assert_eq!(String::from_utf8_lossy(&told.stdout), format!("{id}\n"));
    assert_eq!(told.message(), "");
    assert_ne!(ended(child, None).code(), 0);
    is_cancelled_and_whole(&lab, &id);
}

#[test]
fn cancel_ends_a_run_whose_starter_was_killed() {
    let lab = Lab::new();
    let mut child = start(&lab, &["--timeout", "100s"], &Program::Sh(SLEEPER));
    wait_for_output(&mut child, "before\n");
    kill_group(&mut child);
    let id = lab.ids().remove(0);
    assert_eq!(lab.get(&id).status(), "running");
    let told = lab.lastword(["cancel", &id]).expect(0);
    assert_eq!(String::from_utf8_lossy(&told.stdout), format!("{id}\n"));
    // Its end is durable when the command returns, without anybody else's help.
    is_cancelled_and_whole(&lab, &id);
}

#[test]
fn cancel_of_several_goes_on_behind_one_that_is_not_there() {
    let lab = Lab::new();
    let over = lab.run(&[], &Program::Sh("echo over"));
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..2 {
        let mut child = start(&lab, &["--timeout", "100s"], &Program::Sh(SLEEPER));
        wait_for_output(&mut child, "before\n");
        children.push(child);
    }
    let mut ids = lab.ids();
    ids.retain(|id| id != over.id());
    let told = lab.lastword(["cancel", &ids[0], "00000000", over.id(), &ids[1]]).expect(1);
    assert_eq!(String::from_utf8_lossy(&told.stdout), format!("{}\n{}\n", ids[0], ids[1]));
    let message = told.message();
    assert!(message.contains("no execution matches `00000000`"), "{message}");
    assert!(message.contains(&format!("execution {} has ended already: succeeded", over.id())), "{message}");
    for child in children {
        assert_ne!(ended(child, None).code(), 0);
    }
    for id in ids {
        is_cancelled_and_whole(&lab, &id);
    }
}

#[test]
fn cancel_of_what_has_ended_is_no_error() {
    let lab = Lab::new();
    let over = lab.run(&[], &Program::Sh("echo over"));
    let told = lab.lastword(["cancel", over.id()]).expect(0);
    assert!(told.stdout.is_empty() && told.message().contains("has ended already: succeeded"), "{told:?}");
    assert_eq!(lab.get(over.id()).end(), "succeeded/exit");
}

// ---- the FIFO ----------------------------------------------------------------------------------------------------

/// The paths that a process has open.
fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect()
}

fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn running(word: &str) -> u32 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let command = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.find(|pid| command(*pid).starts_with(format!("sleep\0{word}").as_bytes())).unwrap()
}

#[test]
fn only_the_supervisor_and_its_starter_have_the_fifo() {
    if !needs_root("looks into processes of the sandbox") {
        return;
    }
    let lab = Lab::new();
    let marker = format!("6{:09}", std::process::id());
    // A host path: what is not in the sandbox can't be opened in there.
    let code = format!("ls {} && echo seen\necho before\nexec sleep {marker}", lab.data.display());
    let mut child = start(&lab, &["--timeout", "100s"], &Program::Sh(&code));
    wait_for_output(&mut child, "before\n");
    wait_for("the program", || runs(&format!("sleep\0{marker}")).then_some(()));
    let id = lab.ids().remove(0);
    let fifo = beside(&lab, &id, "control");
    let mode = std::fs::metadata(&fifo).unwrap();
    assert!(mode.file_type().is_fifo());
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    let program = running(&marker);
    let init = parent(program);
    let supervisor = parent(init);
    assert_eq!(supervisors(&lab), [supervisor]);
    assert!(open_files(supervisor).contains(&fifo), "{:?}", open_files(supervisor));
    for pid in [program, init] {
        let files = open_files(pid);
        assert!(!files.is_empty());
        assert!(!files.iter().any(|path| path.starts_with(&lab.data)), "{files:?}");
    }
    lab.lastword(["cancel", &id]).expect(0);
    ended(child, None);
    assert_eq!(lab.get(&id).end(), "cancelled/cancelled");
}

/// A client that writes what it likes, as fast as it can, until nobody reads any more.
fn flood(lab: &Lab, id: &str, bytes: &[u8]) -> std::thread::JoinHandle<()> {
    let mut fifo = OpenOptions::new().write(true).open(beside(lab, id, "control")).unwrap();
    let bytes = bytes.repeat(4096 / bytes.len());
    std::thread::spawn(move || while fifo.write_all(&bytes).is_ok() {})
}

#[test]
fn a_flooded_fifo_does_no_harm() {
    let lab = Lab::new();
    let code =
        "echo before\nread -r line\necho \"$line\"\nfor i in $(seq 2000); do echo $i; done\nsleep 1000";
    let starter = start_open(&lab, code, "");
    let id = wait_for_id(&lab);
    said(&lab, &id, "before\n");
    let flooding = flood(&lab, &id, b"\0SxyzS\xff\n");
    let store = Store::open(&lab.data).unwrap();
    let uuid = id.parse().unwrap();
    assert_eq!(store.add_stdin(uuid, 0, b"through\n", false).unwrap(), 8);
    let numbers: String = (1..=2000).map(|i| format!("{i}\n")).collect();
    let all = format!("before\nthrough\n{numbers}");
    said(&lab, &id, &all);
    assert_eq!(lab.get(&id).status(), "running", "only one byte means a cancel");
    // Room may have to be waited for.
    wait_for("room for the cancel", || store.ask_to_end(uuid).ok());
    ended(starter, None).expect(0);
    flooding.join().unwrap();
    let object = lab.get(&id);
    assert_eq!((object.end().as_str(), object.stdout()), ("cancelled/cancelled", all.into_bytes()));
    assert!(object.complete());
    lab.agree(&object);
    assert_eq!(spool(&lab), Vec::<PathBuf>::new());
}

/// A request before there is a supervisor is kept for it.
#[test]
fn a_word_before_the_start_waits_in_the_fifo() {
    let lab = Lab::new();
    let store = Store::open(&lab.data).unwrap();
    let spool = store.create_spool(Uuid::now_v7()).unwrap();
    assert!(store.ask_to_end(spool.id).unwrap());
    let mut bytes = [0; 8];
    let n = rustix::io::read(spool.control.as_ref().unwrap(), &mut bytes).unwrap();
    assert_eq!(&bytes[..n], b"C");
    // Nobody listens any more, then nobody ever did.
    let copy = store.wait_for_spool(Uuid::now_v7()).unwrap();
    assert!(copy.is_none());
    let (id, path) = (spool.id, spool.path.clone());
    drop(spool);
    assert!(!store.ask_to_end(id).unwrap());
    std::fs::remove_file(path).unwrap();
    assert!(store.orphans().unwrap().is_empty());
    assert!(!store.ask_to_end(id).unwrap());
}

/// A full FIFO that nobody empties: the caller is not told that it was heard.
#[test]
fn a_cancel_that_finds_no_room_is_an_error() {
    let lab = Lab::new();
    let store = Store::open(&lab.data).unwrap();
    let spool = store.create_spool(Uuid::now_v7()).unwrap();
    let fifo = spool.control.as_ref().unwrap();
    while rustix::io::write(fifo, &[b'x'; 4096]).is_ok() {}
    assert!(store.ask_to_end(spool.id).is_err());
    store.discard_spool(&spool);
    drop(spool);
}

/// What has the name of a FIFO and is none is neither followed nor written to.
#[test]
fn only_a_fifo_is_written_to() {
    let lab = Lab::new();
    let store = Store::open(&lab.data).unwrap();
    let target = lab.file("target", "");
    let id = Uuid::now_v7();
    let path = beside(&lab, &id.to_string(), "control");
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(store.ask_to_end(id).is_err());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(store.ask_to_end(id).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    assert_eq!(std::fs::read(&target).unwrap(), b"");
    // One that is in the way of a new one goes.
    let spool = store.create_spool(id).unwrap();
    assert!(store.ask_to_end(id).unwrap());
    store.discard_spool(&spool);
    assert_eq!(self::spool(&lab), Vec::<PathBuf>::new());
}

#[test]
fn leftovers_without_a_spool_are_swept_and_the_living_are_spared() {
    let lab = Lab::new();
    let over = lab.run(&[], &Program::Sh("true"));
    let store = Store::open(&lab.data).unwrap();
    let living = store.create_spool(Uuid::now_v7()).unwrap();
    store.open_stdin(living.id).unwrap();
    for id in [over.id().to_owned(), Uuid::now_v7().to_string()] {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, beside(&lab, &id, "control"), mode).unwrap();
        File::create(beside(&lab, &id, "stdin")).unwrap();
    }
    lab.lastword(["list"]).expect(0);
    let id = living.id.to_string();
    let mut expected = ["control", "spool", "stdin"].map(|kind| beside(&lab, &id, kind)).to_vec();
    let mut found = spool(&lab);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    store.discard_spool(&living);
    assert_eq!(spool(&lab), Vec::<PathBuf>::new());
}

// ---- a stdin that grows --------------------------------------------------------------------------------------------

const STARTER: &str = "control::starter_with_an_open_stdin";
const DATA: &str = "IT_STARTER_DATA";
const CODE: &str = "IT_STARTER_CODE";
const FIRST: &str = "IT_STARTER_FIRST";

struct Silent;

impl Sink for Silent {
    fn record(&mut self, _: lastword_api::Stream, _: i64, _: u64, _: &[u8]) {}
    fn dropped(&mut self, _: lastword_api::Stream, _: i64, _: u64, _: u64) {}
}

/// Only together with [`start_open`]: a starter in a process of its own, that can be killed.
#[test]
#[ignore = "run by other tests, as a process of its own"]
fn starter_with_an_open_stdin() {
    let Some(data) = std::env::var_os(DATA).map(PathBuf::from) else { return };
    let argv = ["sh".into(), "-c".into(), std::env::var_os(CODE).unwrap()].to_vec();
    let mut request = Request::new(Asked::Command { argv });
    request.stdin = Stdin::Open { first: std::env::var(FIRST).unwrap().into_bytes() };
    let engine = Engine::new(Store::open(&data).unwrap(), &data);
    engine.run(request, &mut Silent, &Cancel::default()).unwrap();
}

fn start_open(lab: &Lab, code: &str, first: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", STARTER, "--ignored", "--nocapture"])
        .envs([(CODE, code), (FIRST, first)])
        .env(DATA, &lab.data)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for_id(lab: &Lab) -> String {
    wait_for("an execution", || lab.ids().into_iter().next())
}

/// Waits until this is all of stdout.
fn said(lab: &Lab, id: &str, all: &str) {
    wait_for(all, || (lab.stream(id, "stdout") == all.as_bytes()).then_some(()));
}

const READER: &str = "while IFS= read -r line; do echo \"got $line\"; done\necho end";

#[test]
fn a_stdin_that_grows() {
    let lab = Lab::new();
    let starter = start_open(&lab, READER, "zero\n");
    let id = wait_for_id(&lab);
    said(&lab, &id, "got zero\n");
    let store = Store::open(&lab.data).unwrap();
    let uuid = id.parse().unwrap();
    assert_eq!(store.add_stdin(uuid, 0, b"one\n", false).unwrap(), 4);
    said(&lab, &id, "got zero\ngot one\n");
    // Said again, with more behind it.
    assert_eq!(store.add_stdin(uuid, 0, b"one\n", false).unwrap(), 4);
    assert_eq!(store.add_stdin(uuid, 0, b"one\ntwo\n", false).unwrap(), 8);
    assert_eq!(store.add_stdin(uuid, 2, b"e\n", false).unwrap(), 8);
    let gap = store.add_stdin(uuid, 9, b"four\n", true);
    assert!(matches!(gap, Err(Error::StdinGap { have: 8, offset: 9, .. })), "{gap:?}");
    assert_eq!(store.add_stdin(uuid, 8, b"three", true).unwrap(), 13);
    ended(starter, None).expect(0);
    let object = lab.get(&id);
    // Not a line without its end, for `read`.
    assert_eq!(object.stdout(), b"got zero\ngot one\ngot two\nend\n");
    assert_eq!(object.end(), "succeeded/exit");
    assert!(object.complete());
    let late = store.add_stdin(uuid, 13, b"late\n", false);
    assert!(matches!(late, Err(Error::Ended { .. })), "{late:?}");
    assert_eq!(spool(&lab), Vec::<PathBuf>::new());
}

#[test]
fn a_stdin_that_was_closed_takes_what_it_has_and_no_more() {
    let lab = Lab::new();
    let starter = start_open(&lab, "cat; echo end; sleep 1000", "");
    let id = wait_for_id(&lab);
    let store = Store::open(&lab.data).unwrap();
    let uuid = id.parse().unwrap();
    assert_eq!(store.add_stdin(uuid, 0, b"all\n", true).unwrap(), 4);
    said(&lab, &id, "all\nend\n");
    assert_eq!(store.add_stdin(uuid, 0, b"all\n", true).unwrap(), 4);
    assert_eq!(store.add_stdin(uuid, 4, b"", false).unwrap(), 4);
    let more = store.add_stdin(uuid, 0, b"all\nmore", false);
    assert!(matches!(more, Err(Error::StdinClosed { have: 4, .. })), "{more:?}");
    let mode = std::fs::metadata(beside(&lab, &id, "stdin")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o400);
    lab.lastword(["cancel", &id]).expect(0);
    ended(starter, None).expect(0);
    assert_eq!(lab.get(&id).stdout(), b"all\nend\n");
    assert_eq!(spool(&lab), Vec::<PathBuf>::new());
}

#[test]
fn a_stdin_grows_on_when_the_starter_was_killed() {
    let lab = Lab::new();
    let mut starter = start_open(&lab, READER, "");
    let id = wait_for_id(&lab);
    let store = Store::open(&lab.data).unwrap();
    let uuid = id.parse().unwrap();
    store.add_stdin(uuid, 0, b"one\n", false).unwrap();
    said(&lab, &id, "got one\n");
    kill_group(&mut starter);
    store.add_stdin(uuid, 4, b"two\n", false).unwrap();
    said(&lab, &id, "got one\ngot two\n");
    assert_eq!(lab.get(&id).status(), "running");
    store.add_stdin(uuid, 8, b"", true).unwrap();
    no_supervisor(&lab);
    let object = lab.get(&id);
    assert_eq!(
        (object.end().as_str(), object.stdout()),
        ("succeeded/exit", b"got one\ngot two\nend\n".to_vec())
    );
    assert!(object.complete());
    assert_eq!(spool(&lab), Vec::<PathBuf>::new());
}

/// Far more than the pipe holds, and nobody reads it.
#[test]
fn a_program_that_does_not_read_its_stdin_blocks_nothing() {
    let lab = Lab::new();
    let starter = start_open(&lab, "echo before\nwhile [ ! -e /tmp/x ]; do echo on; sleep 0.05; done", "");
    let id = wait_for_id(&lab);
    let store = Store::open(&lab.data).unwrap();
    let uuid = id.parse().unwrap();
    let bytes = vec![b'x'; 4 << 20];
    assert_eq!(store.add_stdin(uuid, 0, &bytes, false).unwrap(), bytes.len() as u64);
    let before = lab.stream(&id, "stdout").len();
    wait_for("more output", || (lab.stream(&id, "stdout").len() > before + 9).then_some(()));
    assert_eq!(store.add_stdin(uuid, bytes.len() as u64, b"", true).unwrap(), bytes.len() as u64);
    lab.lastword(["cancel", &id]).expect(0);
    ended(starter, None).expect(0);
    let object = lab.get(&id);
    assert_eq!(object.end(), "cancelled/cancelled");
    assert!(object.complete());
    lab.agree(&object);
    assert_eq!(spool(&lab), Vec::<PathBuf>::new());
}

#[test]
fn a_large_stdin_arrives_whole() {
    let lab = Lab::new();
    let starter = start_open(&lab, "wc -c; echo end", "first");
    let id = wait_for_id(&lab);
    let store = Store::open(&lab.data).unwrap();
    let uuid = id.parse().unwrap();
    let piece = vec![b'x'; 300_000];
    for n in 0..10 {
        store.add_stdin(uuid, n * 300_000, &piece, n == 9).unwrap();
    }
    ended(starter, None).expect(0);
    assert_eq!(lab.get(&id).stdout(), b"3000005\nend\n");
}

#[test]
fn a_stdin_is_bounded_and_belongs_to_somebody() {
    let lab = Lab::new();
    let starter = start_open(&lab, "echo before; sleep 1000", "");
    let id = wait_for_id(&lab);
    let store = Store::open(&lab.data).unwrap();
    let uuid = id.parse().unwrap();
    let max = lastword_store::limits::STDIN_BYTES_MAX;
    let large = store.add_stdin(uuid, 0, &vec![0; max + 1], false);
    assert!(matches!(large, Err(Error::TooLarge { what: "stdin", .. })), "{large:?}");
    assert_eq!(store.add_stdin(uuid, 0, b"", false).unwrap(), 0);
    let nobody = store.add_stdin(Uuid::now_v7(), 0, b"x", false);
    assert!(matches!(nobody, Err(Error::NotFound { .. })), "{nobody:?}");
    lab.lastword(["cancel", &id]).expect(0);
    ended(starter, None).expect(0);
    assert_eq!(spool(&lab), Vec::<PathBuf>::new());
}

/// The mode that closes a stdin keeps its owner from opening it for writing, unless that is root.
#[test]
fn a_closed_stdin_of_an_ordinary_user() {
    if !needs_root("becomes another user") {
        return;
    }
    let lab = Lab::new();
    let own = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(path, Some(1001), Some(1001)).unwrap();
    };
    let program = lab.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::create_dir(&lab.data).unwrap();
    for path in [lab.path(), &lab.data, &program] {
        own(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1001", "--regid=1001", "--clear-groups", "--"]).arg(&program);
    command.args(["--exact", "control::owner_of_a_closed_stdin", "--ignored", "--nocapture"]);
    let ended = finish(command.env(DATA, &lab.data).current_dir("/").stdin(Stdio::null()), None).expect(0);
    assert!(String::from_utf8_lossy(&ended.stdout).contains("1 passed"), "{ended:?}");
}

#[test]
#[ignore = "run by another test, as another user"]
fn owner_of_a_closed_stdin() {
    let Some(data) = std::env::var_os(DATA).map(PathBuf::from) else { return };
    assert!(!crate::lab::is_root());
    let store = Store::open(&data).unwrap();
    let spool = store.create_spool(Uuid::now_v7()).unwrap();
    let meta = lastword_store::Meta::default();
    store.accept(spool.id, &meta, b"{}").unwrap();
    assert_eq!(store.add_stdin(spool.id, 0, b"all", true).unwrap(), 3);
    assert_eq!(store.add_stdin(spool.id, 0, b"all", true).unwrap(), 3);
    let more = store.add_stdin(spool.id, 3, b"more", false);
    assert!(matches!(more, Err(Error::StdinClosed { have: 3, .. })), "{more:?}");
    store.open_stdin(spool.id).unwrap();
    store.finish(spool, &meta, b"{}").unwrap();
}

/// The first bytes may come before the start: they wait in the file.
#[test]
fn a_stdin_that_came_before_the_start() {
    let lab = Lab::new();
    let store = Store::open(&lab.data).unwrap();
    let spool = store.create_spool(Uuid::now_v7()).unwrap();
    let meta = lastword_store::Meta { status: "queued".to_owned(), ..lastword_store::Meta::default() };
    store.accept(spool.id, &meta, b"{}").unwrap();
    assert_eq!(store.add_stdin(spool.id, 0, b"early", true).unwrap(), 5);
    let mut read = String::new();
    std::io::Read::read_to_string(&mut store.open_stdin(spool.id).unwrap(), &mut read).unwrap();
    assert_eq!(read, "early");
    // It waits again: only its spool goes.
    let (id, path) = (spool.id.to_string(), beside(&lab, &spool.id.to_string(), "stdin"));
    store.discard_spool(&spool);
    drop(spool);
    assert!(path.exists() && !beside(&lab, &id, "control").exists());
    let spool = store.create_spool(id.parse().unwrap()).unwrap();
    store.finish(spool, &meta, b"{}").unwrap();
    assert_eq!(self::spool(&lab), Vec::<PathBuf>::new());
}

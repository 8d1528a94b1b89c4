//! `lastword batch`: each row has its one result, and no program runs twice, whoever is killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lastword_api::{Backend, Execution, Limits, Status, Timestamp};
use lastword_frame::verify::Verifier;
use lastword_frame::{Begin, Frame, Note, Ordering, Stream, binary};
use lastword_store::{Entry, Filter, Meta, Store};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::durability::{Small, runs, supervisors};
use crate::lab::{Ended, Lab, args, ended, finish, needs_root, wait_for};
use crate::soak;

fn lines(text: &[u8]) -> Vec<Value> {
    let parse = |line: &[u8]| serde_json::from_slice(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse).collect()
}

fn text(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn sh(code: &str) -> Value {
    json!({"runtime": "sh", "code": code})
}

/// Rows whose programs print their own number, and exit with part of it.
fn numbered(count: usize) -> Vec<Value> {
    let code = |row: usize| format!("echo out {row}\necho err {row} >&2\nexit {}", row % 3);
    (0..count).map(|row| json!({"runtime": "sh", "code": code(row), "key": format!("k{row}")})).collect()
}

fn is_right(line: &Value, row: usize) -> bool {
    let status = if row.is_multiple_of(3) { "succeeded" } else { "failed" };
    line["row"] == row
        && line["key"] == format!("k{row}")
        && line["status"] == status
        && line["exit_code"] == row % 3
        && line["stdout"] == format!("out {row}\n")
        && line["stderr"] == format!("err {row}\n")
        && line["transcript"]["complete"] == true
}

fn all_right(lines: &[Value], count: usize) {
    assert_eq!(lines.len(), count);
    for (row, line) in lines.iter().enumerate() {
        assert!(is_right(line, row), "row {row}: {line}");
    }
}

/// Every execution that carries the label of some batch.
fn of_batches(lab: &Lab) -> Vec<Entry> {
    let store = Store::open(&lab.data).unwrap();
    let all = store.list(&Filter::default()).unwrap();
    all.into_iter().filter(|entry| entry.meta.labels.contains_key("lastword.batch")).collect()
}

/// How often each row's program was started, or may have been.
fn starts(lab: &Lab) -> BTreeMap<u64, u64> {
    let mut starts = BTreeMap::new();
    for entry in of_batches(lab) {
        let object: Value = serde_json::from_slice(&entry.object).unwrap();
        let row = entry.meta.labels["lastword.row"].parse().unwrap();
        *starts.entry(row).or_default() += u64::from(object["retry"]["program_started"] == true);
    }
    starts
}

fn none_twice(lab: &Lab, count: usize) {
    let starts = starts(lab);
    let twice: Vec<_> = starts.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(starts.len(), count);
}

fn batch(lab: &Lab, options: &[&str], input: &str) -> Ended {
    finish(lab.command().arg("batch").args(options), Some(input.as_bytes()))
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn spawn(lab: &Lab, arguments: &[OsString]) -> Child {
    let mut command = lab.command();
    command.arg("batch").args(arguments).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until so many programs of the batch have been started.
fn wait_for_running(lab: &Lab, count: usize) {
    wait_for("running rows", || {
        (supervisors(lab).len() == count && lab.data.join("index.sqlite").exists()).then_some(())
    });
    // Handed over: a supervisor that was not would not outlive its starter.
    wait_for("started programs", || {
        let spools = std::fs::read_dir(lab.data.join("spool")).unwrap().flatten();
        // The FIFOs beside them would keep us waiting.
        let spools = spools.filter(|file| file.path().extension().is_some_and(|kind| kind == "spool"));
        let started = spools.filter(|spool| {
            let mut verifier = Verifier::new();
            verifier.push(&std::fs::read(spool.path()).unwrap_or_default());
            verifier.finish().started.is_some()
        });
        (started.count() == count).then_some(())
    });
}

#[test]
fn each_row_has_its_line_in_order() {
    let lab = Lab::new();
    let mut rows = numbered(7);
    rows[2] = json!({"command": [], "key": "empty"});
    let input = text(&rows).replace("\n", "\r\n\n   \n");
    let ended = batch(&lab, &["-j3"], &input).expect(1);
    let found = lines(&ended.stdout);
    assert_eq!(found.len(), 7);
    for (row, line) in found.iter().enumerate().filter(|(row, _)| *row != 2) {
        assert!(is_right(line, row), "{line}");
        assert_eq!(line["labels"]["lastword.row"], row.to_string());
    }
    let expected = json!({"row": 2, "key": "empty", "id": null, "status": "error", "reason": null, "ok": false,
        "problem": {"code": "bad_request", "message": "command is empty", "backend_message": null},
        "retry": {"safe": false, "program_started": false}});
    assert_eq!(found[2], expected);
    let message = ended.message();
    assert!(message.contains("7 rows") && message.contains("3 succeeded"), "{message}");
    assert!(message.contains("1 of them failed through no fault of their program"), "{message}");
    // The object is the one that everything else shows.
    let mut shown = found[1].clone();
    for own in ["row", "key"] {
        shown.as_object_mut().unwrap().remove(own);
    }
    assert_eq!(shown, lab.get(found[1]["id"].as_str().unwrap()).0);
}

#[test]
fn programs_that_fail_are_results() {
    let lab = Lab::new();
    let rows = [
        sh("exit 7"),
        sh("kill -SEGV $$"),
        json!({"runtime": "sh", "code": "sleep 9", "limits": {"wall_ms": 100}}),
        json!({"runtime": "sh", "code": "yes", "limits": {"output_bytes": 65536}}),
        json!({"command": ["no-such-program"]}),
    ];
    let ended = batch(&lab, &["--quiet"], &text(&rows)).expect(0);
    let ends: Vec<String> = lines(&ended.stdout)
        .iter()
        .map(|line| format!("{}/{}", line["status"].as_str().unwrap(), line["reason"].as_str().unwrap()))
        .collect();
    let expected = [
        "failed/exit",
        "failed/signal",
        "timed_out/wall_time",
        "failed/output_limit",
        "failed/start_failure",
    ];
    assert_eq!(ends, expected);
    assert_eq!(ended.message(), "");
}

#[test]
fn wrong_rows_name_their_field_and_stop_nobody() {
    let lab = Lab::new();
    let wrong = [
        ("nonsense", "no request"),
        (r#"{"command": "true"}"#, "command: invalid type"),
        (r#"{"command": ["true"], "limits": {"memry": 1}}"#, "limits: unknown field `memry`"),
        (r#"{"command": ["true"], "labels": {"lastword.batch": "x"}}"#, "lastword.batch"),
        (r#"{"command": ["true"], "limits": {"pids": 0}}"#, "limits.pids is 0"),
        (r#"{"runtime": "cobol", "code": ""}"#, "runtime is not known"),
        (r#"{"secrets": {"K": ["hidden"]}}"#, "secrets"),
    ];
    let mut input: String = wrong.iter().map(|(line, _)| format!("{line}\n")).collect();
    input.push_str(r#"{"command": ["true"]}"#);
    let found = lines(&batch(&lab, &[], &input).expect(1).stdout);
    assert_eq!(found.len(), wrong.len() + 1);
    for ((_, named), line) in wrong.iter().zip(&found) {
        let message = line["problem"]["message"].as_str().unwrap();
        assert!(message.contains(named) && !message.contains("hidden"), "{message}");
        assert_eq!((&line["id"], &line["status"]), (&Value::Null, &json!("error")));
        assert_eq!(line["retry"], json!({"safe": false, "program_started": false}));
    }
    assert_eq!(found[wrong.len()]["status"], "succeeded");
    let refused = lab.lastword(["run", "--label", "lastword.row=1", "--", "true"]).expect(125);
    assert!(refused.message().contains("lastword.row"), "{}", refused.message());
}

/// Rows start as they arrive, and results are there as soon as they are known.
#[test]
fn rows_and_results_are_not_held_back() {
    for options in [&[][..], &["--as-they-end"]] {
        let lab = Lab::new();
        let mut command = lab.command();
        let mut child = command
            .args(["batch", "-", "-j2"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        for (row, request) in numbered(5).iter().enumerate() {
            writeln!(stdin, "{request}").unwrap();
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            assert!(is_right(&serde_json::from_str(&line).unwrap(), row), "{line}");
        }
        drop(stdin);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn as_they_end_the_fast_one_is_first() {
    let lab = Lab::new();
    let rows = [sh("while test ! -e /shared/go; do sleep 0.05; done; echo slow"), sh("echo fast")];
    let shared = lab.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let ro = format!("{}:/shared", shared.display());
    let input = lab.file("rows.jsonl", text(&rows));
    let arguments = args!["-j2", "--as-they-end", "--ro", ro, &input];
    let mut child = spawn(&lab, &arguments);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    assert!(first.contains("fast\\n"), "{first}");
    std::fs::write(shared.join("go"), "").unwrap();
    let mut second = String::new();
    stdout.read_line(&mut second).unwrap();
    assert!(second.contains("slow\\n"), "{second}");
    ended(child, None).expect(0);
}

/// Xorshift64; the seed is printed, so that a failure can be looked at.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = std::env::var("LASTWORD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(now.subsec_nanos()));
        eprintln!("LASTWORD_TEST_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Waits until the file has so many lines. The batch has written a part of them when this begins.
fn wait_for_lines(path: &Path, count: usize) {
    let mut file = wait_for("the results", || std::fs::File::open(path).ok());
    let mut found = 0;
    while found < count {
        wait_for("one more result", || {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            found += bytes.iter().filter(|byte| **byte == b'\n').count();
            (!bytes.is_empty()).then_some(())
        });
    }
}

/// `kill -9` of the batch at five random moments, and `--resume` each time.
fn killed_and_resumed(lab: &Lab, count: usize, options: &[&str]) -> PathBuf {
    let mut rows = numbered(count);
    // Some live on after a kill, and are met again by the next process.
    let nap = format!("1.00{:09}", std::process::id());
    for row in rows.iter_mut().skip(5).step_by(if soak::soaking() { 50 } else { 10 }) {
        row["code"] = format!("sleep {nap}\n{}", row["code"].as_str().unwrap()).into();
    }
    let input = lab.file("rows.jsonl", text(&rows));
    let out = lab.path().join("results.jsonl");
    let mut dice = Dice::new();
    let mut arguments = args!["-j4", "--quiet", "--out", &out, &input];
    arguments.extend(options.iter().map(OsString::from));
    for kill in 0..5 {
        let mut child = spawn(lab, &arguments);
        // At some result of the part of this round, and then at any moment.
        let part = count as u64 / 6;
        let at = (kill * part + dice.below(part)) as usize;
        wait_for_lines(&out, at);
        if kill % 2 == 0 {
            wait_for("a row that takes its time", || runs(&nap).then_some(()));
        }
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        assert!(child.try_wait().unwrap().is_none(), "it ended before kill {kill}");
        signal(&child, Signal::KILL);
        child.wait().unwrap();
        if kill == 0 {
            arguments.push("--resume".into());
        }
    }
    // As long as it takes: there is no such deadline for 10,000 rows as for one.
    let mut last = spawn(lab, &arguments);
    assert_eq!(last.wait().unwrap().code(), Some(0));
    out
}

#[test]
fn killed_five_times_no_row_runs_twice() {
    let lab = Lab::new();
    // 10,000 rows take minutes.
    let count = soak::count(300, 10_000);
    let begin = Instant::now();
    let out = killed_and_resumed(&lab, count, &[]);
    all_right(&lines(&std::fs::read(&out).unwrap()), count);
    none_twice(&lab, count);
    let attempts = of_batches(&lab).len();
    soak::figure(
        "batch killed five times and resumed",
        &format!(
            "{count} rows: {count} results, none twice, none wrong; {} were accepted and never started; {:.0} s",
            attempts - count,
            begin.elapsed().as_secs_f64()
        ),
    );
    // Once more: everything is there, nothing is run.
    let again = lab.lastword(args!["batch", "--resume", lab.path().join("rows.jsonl")]).expect(0);
    all_right(&lines(&again.stdout), count);
    assert_eq!(of_batches(&lab).len(), attempts);
}

#[test]
fn killed_five_times_with_results_as_they_end() {
    let lab = Lab::new();
    let count = soak::count(120, 2_000);
    let out = killed_and_resumed(&lab, count, &["--as-they-end"]);
    let mut found = lines(&std::fs::read(&out).unwrap());
    found.sort_by_key(|line| line["row"].as_u64());
    all_right(&found, count);
    none_twice(&lab, count);
}

/// Killed with rows in flight: their supervisors finish alone, and are waited for.
#[test]
fn running_rows_are_adopted() {
    let lab = Lab::new();
    let input =
        lab.file("rows.jsonl", text(&[sh("echo a; sleep 1; echo b"), sh("sleep 1; echo c"), sh("echo d")]));
    let mut child = spawn(&lab, &args!["-j2", &input]);
    wait_for_running(&lab, 2);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert_eq!(supervisors(&lab).len(), 2);
    let resumed = lab.lastword(args!["batch", "-j2", "--resume", &input]).expect(0);
    let found = lines(&resumed.stdout);
    let said: Vec<&str> = found.iter().map(|line| line["stdout"].as_str().unwrap()).collect();
    assert_eq!(said, ["a\nb\n", "c\n", "d\n"]);
    assert!(resumed.message().contains("2 rows have been run"), "{}", resumed.message());
    none_twice(&lab, 3);
}

#[test]
fn a_signal_lets_running_rows_end_and_a_second_one_does_not() {
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let lab = Lab::new();
        let input = lab.file("rows.jsonl", text(&[sh("sleep 0.5; echo ended"), sh("echo never")]));
        let child = spawn(&lab, &args!["-j1", &input]);
        wait_for_running(&lab, 1);
        signal(&child, number);
        let stopped = ended(child, None).expect(code);
        assert_eq!(lines(&stopped.stdout).len(), 1);
        assert!(stopped.message().contains("--resume"), "{}", stopped.message());
        let resumed = lab.lastword(args!["batch", "-j1", "--resume", &input]).expect(0);
        assert_eq!(lines(&resumed.stdout)[0]["stdout"], "ended\n");
        none_twice(&lab, 2);
    }
    let lab = Lab::new();
    let input = lab.file("rows.jsonl", text(&[sh("sleep 2; echo ended")]));
    let child = spawn(&lab, &args![&input]);
    wait_for_running(&lab, 1);
    signal(&child, Signal::INT);
    // The second one counts as such only if the first was seen.
    let mut child = child;
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("stopping"), "{said}");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(supervisors(&lab).len(), 1, "it was not waited for");
    let resumed = lab.lastword(args!["batch", "--resume", &input]).expect(0);
    assert_eq!(lines(&resumed.stdout)[0]["stdout"], "ended\n");
    none_twice(&lab, 1);
}

#[test]
fn two_at_once_do_not_share_a_batch() {
    let lab = Lab::new();
    let input = lab.file("rows.jsonl", text(&[sh("sleep 4; echo ended")]));
    let first = spawn(&lab, &args![&input]);
    wait_for_running(&lab, 1);
    let second = lab.lastword(args!["batch", "--resume", &input]).expect(1);
    assert!(second.message().contains("another lastword process"), "{}", second.message());
    assert!(second.stdout.is_empty());
    ended(first, None).expect(0);
    none_twice(&lab, 1);
}

/// A batch of two rows whose second one was not run, and the batch's id.
fn half_done(lab: &Lab) -> (PathBuf, String) {
    let input = lab.file("rows.jsonl", text(&[sh("echo first"), sh("echo second")]));
    let child = spawn(lab, &args!["-j1", &input]);
    signal_after_first_row(lab, child);
    let entries = of_batches(lab);
    assert_eq!(entries.len(), 1);
    (input, entries[0].meta.labels["lastword.batch"].clone())
}

/// A stop while the first row runs.
fn signal_after_first_row(lab: &Lab, child: Child) {
    wait_for("the first row", || {
        lab.data.join("spool").read_dir().is_ok_and(|mut spools| spools.next().is_some()).then_some(())
    });
    signal(&child, Signal::TERM);
    let stopped = ended(child, None).expect(143);
    assert_eq!(lines(&stopped.stdout).len(), 1, "{}", stopped.message());
}

/// An execution of the second row as a crash left it.
fn left_behind(lab: &Lab, batch: &str, status: Status, frames: impl FnOnce(Uuid) -> Vec<u8>) {
    let store = Store::open(&lab.data).unwrap();
    let first = store.list(&Filter::default()).unwrap().remove(0);
    let line = blake3::hash(sh("echo second").to_string().as_bytes()).to_hex()[..32].to_owned();
    let id = Uuid::now_v7();
    let mut object = Execution::queued(id, Timestamp::now(), Backend::Native, Limits::default());
    object.status = status;
    object.labels = [("batch", batch), ("row", "1"), ("line", &line)]
        .map(|(key, value)| (format!("lastword.{key}"), value.to_owned()))
        .into();
    let meta = Meta {
        status: status.name().to_owned(),
        created_ns: first.meta.created_ns,
        backend: "native".to_owned(),
        labels: object.labels.clone(),
        ..Meta::default()
    };
    let mut spool = store.create_spool(id).unwrap();
    store.accept(id, &meta, &object.to_stored_json().unwrap()).unwrap();
    spool.file.write_all(&frames(id)).unwrap();
}

fn started(id: Uuid) -> Vec<u8> {
    let mut bytes = Vec::new();
    let begin = Begin {
        version: Begin::VERSION,
        id: *id.as_bytes(),
        boot_id: [0xb0; 16],
        wall_ns: 1_700_000_000_000_000_000,
        ordering: Ordering::Exact,
        tty: false,
    };
    binary::encode(&Frame::Begin(begin), &mut bytes);
    binary::encode(&Frame::Note { time: 1_000, note: Note::Started }, &mut bytes);
    let output = Frame::Output { seq: 0, time: 2_000, stream: Stream::Stdout, bytes: b"half of it" };
    binary::encode(&output, &mut bytes);
    bytes
}

/// The machine went down in mid-run: nobody knows how far the program came, so it isn't run again and isn't a wrong answer.
#[test]
fn a_row_that_a_reboot_cut_off_is_an_error_and_not_run_again() {
    let lab = Lab::new();
    let (input, id) = half_done(&lab);
    left_behind(&lab, &id, Status::Running, started);
    for _ in 0..2 {
        let resumed = lab.lastword(args!["batch", "--resume", &input]).expect(1);
        let found = lines(&resumed.stdout);
        assert_eq!((&found[1]["status"], &found[1]["reason"]), (&json!("error"), &json!("lost")));
        assert_eq!(found[1]["retry"], json!({"safe": false, "program_started": true}));
        assert_eq!(found[1]["stdout"], "half of it");
        assert!(resumed.message().contains("row 1"), "{}", resumed.message());
        none_twice(&lab, 2);
    }
}

/// The batch was killed before it handed the program over: it is run again, once.
#[test]
fn a_row_that_was_never_handed_over_is_run() {
    let lab = Lab::new();
    let (input, id) = half_done(&lab);
    left_behind(&lab, &id, Status::Queued, |_| Vec::new());
    let resumed = lab.lastword(args!["batch", "--resume", &input]).expect(0);
    assert_eq!(lines(&resumed.stdout)[1]["stdout"], "second\n");
    assert_eq!(of_batches(&lab).len(), 3);
    none_twice(&lab, 2);
}

/// A killed supervisor is lastword's failure: the program may have run.
#[test]
fn a_row_whose_supervisor_is_killed_is_an_error_and_not_run_again() {
    let lab = Lab::new();
    let input = lab.file("rows.jsonl", text(&[sh("echo before; sleep 100"), sh("echo after")]));
    let child = spawn(&lab, &args!["-j1", &input]);
    wait_for_running(&lab, 1);
    let pid = Pid::from_raw(supervisors(&lab)[0].try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let ended = ended(child, None).expect(1);
    let found = lines(&ended.stdout);
    assert_eq!((&found[0]["status"], &found[0]["reason"]), (&json!("error"), &json!("lost")));
    assert_eq!(found[0]["retry"], json!({"safe": false, "program_started": true}));
    assert_eq!(found[1]["stdout"], "after\n");
    let resumed = lab.lastword(args!["batch", "--resume", &input]).expect(1);
    assert_eq!(lines(&resumed.stdout)[0]["id"], found[0]["id"]);
    none_twice(&lab, 2);
}

/// No sandbox can be had: tried again a few times, then said, and never scored as a wrong answer.
#[test]
fn without_a_sandbox_rows_are_errors_and_safe_to_run_again() {
    let lab = Lab::new();
    let input = lab.file("rows.jsonl", text(&numbered(2)));
    let mut command = Command::new("unshare");
    // A limit of this user namespace alone.
    command.args(["--user", "--map-root-user", "sh", "-c"]);
    command.arg("echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"").arg("sh");
    let of = lab.command();
    command.arg(of.get_program()).args(["batch", "--retries", "1"]).arg(&input);
    command.env("LASTWORD_DATA_DIR", &lab.data);
    let ended = finish(&mut command, None).expect(1);
    for line in lines(&ended.stdout) {
        assert_eq!(
            (&line["status"], &line["problem"]["code"]),
            (&json!("error"), &json!("sandbox_unavailable"))
        );
        assert_eq!(line["retry"], json!({"safe": true, "program_started": false}));
    }
    assert_eq!(of_batches(&lab).len(), 4, "each row was tried twice");
    assert!(ended.message().contains("--resume"), "{}", ended.message());
    let resumed = lab.lastword(args!["batch", "--resume", &input]).expect(0);
    all_right(&lines(&resumed.stdout), 2);
    none_twice(&lab, 2);
}

#[test]
fn a_full_disk_stops_the_batch_and_loses_nothing() {
    if !needs_root("mounts a file system") {
        return;
    }
    let lab = Lab::new();
    // Without the filler there is room for all, with the log of the index at its longest: 4 MiB.
    let _small = Small::mount(&lab.data, "16m");
    let input = lab.file("rows.jsonl", text(&numbered(40)));
    let out = lab.path().join("results.jsonl");
    lab.lastword(["run", "--", "true"]).expect(0);
    let filler = lab.data.join("filler");
    // Room for some rows, and not for all.
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let full = file.metadata().unwrap().len();
    file.set_len(full - full.min(100 << 10)).unwrap();
    let stopped = lab.lastword(args!["batch", "-j2", "--retries", "1", "--out", &out, &input]).expect(1);
    assert!(stopped.message().contains("full"), "{}", stopped.message());
    for line in lines(&std::fs::read(&out).unwrap()) {
        let row = line["row"].as_u64().unwrap() as usize;
        assert!(is_right(&line, row) || line["status"] == "error", "{line}");
    }
    drop(file);
    std::fs::remove_file(filler).unwrap();
    let resumed = lab.lastword(args!["batch", "-j2", "--resume", "--out", &out, &input]);
    let found = lines(&std::fs::read(&out).unwrap());
    assert_eq!(found.len(), 40, "{}", resumed.message());
    for (row, line) in found.iter().enumerate() {
        // A supervisor that had no room for what its program said has ended it.
        let cut_off = line["reason"] == "storage_full" && line["retry"]["program_started"] == true;
        assert!(is_right(line, row) || (cut_off && line["status"] == "error"), "{line}");
    }
    none_twice(&lab, 40);
}

#[test]
fn a_reader_that_goes_away_ends_the_batch_politely() {
    let lab = Lab::new();
    let input = lab.file("rows.jsonl", text(&numbered(200)));
    let mut child = spawn(&lab, &args!["-j1", &input]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    let ended = ended(child, None).expect(1);
    assert!(ended.message().contains("nobody reads"), "{}", ended.message());
    assert!(of_batches(&lab).len() < 200);
}

#[test]
fn another_input_is_not_taken_for_the_same() {
    let lab = Lab::new();
    let (input, id) = half_done(&lab);
    let other = lab.file("other.jsonl", text(&[sh("echo first"), sh("echo other")]));
    // As a file it is another batch, and says so.
    let anew = lab.lastword(args!["batch", "--resume", &other]).expect(0);
    assert!(anew.message().contains("no batch of this input"), "{}", anew.message());
    assert!(anew.message().contains(&id), "{}", anew.message());
    // By name, a row that ran before has to be the same one.
    let changed = lab.file("changed.jsonl", text(&[sh("echo changed"), sh("echo second")]));
    lab.lastword(args!["batch", format!("--resume={id}"), &changed]).expect(2);
    let count = of_batches(&lab).len();
    lab.lastword(args!["batch", "--resume", &input]).expect(0);
    let refused = lab.lastword(args!["batch", format!("--resume={id}"), &other]).expect(1);
    assert!(refused.message().contains("row 1 is not the one"), "{}", refused.message());
    let shorter = lab.file("shorter.jsonl", text(&[sh("echo first")]));
    let refused = lab.lastword(args!["batch", format!("--resume={id}"), &shorter]).expect(1);
    assert!(refused.message().contains("ends before row 1"), "{}", refused.message());
    assert_eq!(of_batches(&lab).len(), count + 1);
}

#[test]
fn a_stream_is_resumed_as_well() {
    let lab = Lab::new();
    let (input, _) = half_done(&lab);
    let text = std::fs::read_to_string(input).unwrap();
    let resumed = batch(&lab, &["--resume", "-"], &text).expect(0);
    assert_eq!(lines(&resumed.stdout).len(), 2);
    none_twice(&lab, 2);
}

#[test]
fn without_resume_a_batch_is_new_and_an_old_one_is_named() {
    let lab = Lab::new();
    let (input, id) = half_done(&lab);
    let anew = lab.lastword(args!["batch", &input]).expect(0);
    assert!(anew.message().contains(&id) && anew.message().contains("--resume"), "{}", anew.message());
    assert_eq!(of_batches(&lab).len(), 3);
    // A finished one is not worth a word.
    let again = lab.lastword(args!["batch", &input]).expect(0);
    assert!(!again.message().contains("not finished"), "{}", again.message());
}

#[test]
fn a_file_that_holds_something_is_not_written_over() {
    let lab = Lab::new();
    let input = lab.file("rows.jsonl", text(&numbered(2)));
    let out = lab.file("results.jsonl", "my notes\n");
    for options in [&[][..], &["--resume"]] {
        let mut arguments = args!["batch", "--out", &out, &input];
        arguments.extend(options.iter().map(OsString::from));
        let refused = lab.lastword(&arguments).expect(2);
        assert!(refused.message().contains("results.jsonl"), "{}", refused.message());
    }
    lab.lastword(args!["batch", &input]).expect(0);
    let refused = lab.lastword(args!["batch", "--resume", "--out", &out, &input]).expect(2);
    assert!(refused.message().contains("something else"), "{}", refused.message());
    assert_eq!(std::fs::read(&out).unwrap(), b"my notes\n");
}

#[test]
fn no_rows_are_no_batch() {
    let lab = Lab::new();
    let nothing = batch(&lab, &[], "\n\n").expect(0);
    assert!(nothing.stdout.is_empty() && nothing.stderr.is_empty(), "{}", nothing.message());
    assert!(!lab.data.join("batches").exists());
    lab.lastword(["batch", "/no/such/rows.jsonl"]).expect(2);
    lab.lastword(["batch", "--ro", "/no/such/path", "/dev/null"]).expect(2);
}

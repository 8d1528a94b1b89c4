//! The commands, as the documentation shows them.

use std::path::Path;

use serde_json::Value;

use crate::lab::{Lab, Program, args};
use crate::object::Object;

#[test]
fn the_first_command_of_the_readme() {
    let lab = Lab::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fast_fail.py");
    let ended = lab.lastword(args!["run", example]).expect(1);
    assert_eq!(ended.stdout, b"Before error\n");
    assert!(ended.message().starts_with("Traceback (most recent call last):\n"), "{}", ended.message());
    let id = lab.ids().remove(0);
    let object = lab.get(&id);
    assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(1)));
    assert_eq!((object.stdout(), object.stderr()), (ended.stdout.clone(), ended.stderr.clone()));
    assert_eq!(object.inline("output"), [&*ended.stdout, &*ended.stderr].concat());
    let logs = lab.lastword(["logs", &id]).expect(0);
    assert_eq!((&logs.stdout, &logs.stderr), (&ended.stdout, &ended.stderr));
    lab.agree(&object);
}

/// Type of a field, as a word: "text", "text?" may be null.
fn fits(value: &Value, kind: &str) -> bool {
    let (kind, optional) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
    (optional && value.is_null())
        || match kind {
            "text" => value.is_string(),
            "bool" => value.is_boolean(),
            "count" => value.is_u64(),
            "number" => value.is_number(),
            "list" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("kind {other}"),
        }
}

const FIELDS: &[(&str, &str)] = &[
    ("/id", "text"),
    ("/status", "text"),
    ("/reason", "text"),
    ("/ok", "bool"),
    ("/exit_code", "count?"),
    ("/signal", "text?"),
    ("/oom_killed", "bool"),
    ("/stdout", "text"),
    ("/stderr", "text"),
    ("/output", "text"),
    ("/stdout_encoding", "text"),
    ("/stderr_encoding", "text"),
    ("/output_encoding", "text"),
    ("/inline_truncated", "bool"),
    ("/transcript/complete", "bool"),
    ("/transcript/why_incomplete", "text?"),
    ("/transcript/ordering", "text"),
    ("/transcript/ordering_until_seq", "count?"),
    ("/transcript/records", "count"),
    ("/transcript/tty", "bool"),
    ("/transcript/stdout/bytes", "count"),
    ("/transcript/stdout/dropped", "count"),
    ("/transcript/stdout/blake3", "text"),
    ("/transcript/stderr/bytes", "count"),
    ("/transcript/stderr/dropped", "count"),
    ("/transcript/stderr/blake3", "text"),
    ("/compile", "object?"),
    ("/outputs", "list"),
    ("/usage", "object?"),
    ("/limits", "object"),
    ("/enforced", "object"),
    ("/backend", "text"),
    ("/runtime", "text?"),
    ("/image", "text?"),
    ("/labels", "object"),
    ("/environment/runtime_version", "text?"),
    ("/environment/image_digest", "text?"),
    ("/environment/kernel", "text"),
    ("/environment/lastword", "text"),
    ("/problem", "object?"),
    ("/retry/safe", "bool"),
    ("/retry/program_started", "bool"),
    ("/created_at", "text"),
    ("/started_at", "text?"),
    ("/ended_at", "text"),
    ("/queue_ms", "number?"),
];

/// Of a program that ran.
const USAGE: &[(&str, &str)] = &[
    ("/usage/wall_ms", "number"),
    ("/usage/cpu_user_ms", "number?"),
    ("/usage/cpu_system_ms", "number?"),
    ("/usage/memory_peak_bytes", "count?"),
    ("/usage/processes_peak", "count?"),
];

fn has_all_fields(object: &Object) {
    for (pointer, kind) in FIELDS {
        assert!(fits(object.at(pointer), kind), "{pointer} isn't {kind}: {}", object.at(pointer));
    }
    for time in ["/created_at", "/started_at", "/ended_at"] {
        // 2026-01-31T12:00:00.000000Z or finer
        let Some(text) = object.at(time).as_str() else { continue };
        let (seconds, fraction) = text.split_once('.').unwrap_or_else(|| panic!("{time} {text}"));
        assert!(seconds.len() == 19 && fraction.ends_with('Z') && fraction.len() >= 7, "{time} {text}");
    }
}

#[test]
fn the_object_has_every_field() {
    let lab = Lab::new();
    let object = lab.run(&["--label", "job=nightly"], &Program::Python("print(1)"));
    has_all_fields(&object);
    for (pointer, kind) in USAGE {
        assert!(fits(object.at(pointer), kind), "{pointer} isn't {kind}: {}", object.at(pointer));
    }
    assert_eq!(
        (object.text("/backend"), object.text("/runtime"), object.text("/labels/job")),
        ("native", "python", "nightly")
    );
    assert_eq!(object.at("/ok"), true);
    assert!(object.text("/created_at") <= object.text("/started_at"));
    assert!(object.text("/started_at") <= object.text("/ended_at"));
    assert!(object.at("/usage/wall_ms").as_f64().unwrap() > 0.0);
    has_all_fields(&lab.run(&[], &Program::Sh("kill -9 $$")));
    has_all_fields(&lab.run(&[], &Program::Command(&["/no/such/program"])));
    has_all_fields(&lab.get(object.id()));
    for limit in
        ["wall_ms", "memory_bytes", "pids", "disk_bytes", "output_bytes", "stack_bytes", "open_files"]
    {
        assert!(object.at("/limits")[limit].is_u64(), "{limit} in {}", object.at("/limits"));
    }
}

#[test]
fn json_of_run_and_get_are_the_same() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::Sh("echo a; echo b >&2; exit 2"));
    assert_eq!(lab.get(object.id()).0, object.0);
}

#[test]
fn list_is_newest_first_and_filters() {
    let lab = Lab::new();
    let good = lab.run(&["--label", "job=a"], &Program::Sh("true"));
    let bad = lab.run(&["--label", "job=b"], &Program::Sh("false"));
    let last = lab.run(&["--label", "job=b", "--label", "x=y"], &Program::Sh("true"));
    let list = |arguments: &[&str]| -> Vec<String> {
        let ended = lab.lastword([&["list", "--json"], arguments].concat()).expect(0);
        let page: Value = serde_json::from_slice(&ended.stdout).unwrap();
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list(&[]), [last.id(), bad.id(), good.id()]);
    assert_eq!(list(&["--limit", "1"]), [last.id()]);
    assert_eq!(list(&["--status", "failed"]), [bad.id()]);
    assert_eq!(list(&["--label", "job=b"]), [last.id(), bad.id()]);
    assert_eq!(list(&["--label", "job=b", "--label", "x=y"]), [last.id()]);
    assert_eq!(list(&["--since", "1h"]).len(), 3);
    assert!(list(&["--since", bad.text("/ended_at")]).len() < 3);
    let text = String::from_utf8(lab.lastword(["list"]).expect(0).stdout).unwrap();
    assert!(text.contains("failed") && text.lines().count() >= 3, "{text}");
}

#[test]
fn an_id_may_be_its_beginning() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::Sh("echo found"));
    for length in [8, 13, 30] {
        assert_eq!(lab.lastword(["logs", &object.id()[..length]]).expect(0).stdout, b"found\n");
    }
    let other = lab.run(&[], &Program::Sh("true"));
    // Made within the same minute: the beginning is the time.
    let common: String =
        object.id().chars().zip(other.id().chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    if !common.is_empty() {
        let ended = lab.lastword(["get", &common]);
        assert!(!ended.status.success() && ended.message().contains(&common), "{}", ended.message());
    }
}

#[test]
fn rm_removes_what_has_ended() {
    let lab = Lab::new();
    let first = lab.run(&[], &Program::Sh("echo secret-of-the-removed"));
    let second = lab.run(&[], &Program::Sh("true"));
    lab.lastword(["rm", first.id()]).expect(0);
    assert_eq!(lab.ids(), [second.id()]);
    assert!(!lab.lastword(["get", first.id()]).status.success());
    lab.lastword(["verify", "--all"]).expect(0);
}

#[test]
fn parts_of_a_log() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::Sh("for i in 1 2 3; do echo out $i; echo err $i >&2; done"));
    let logs = |arguments: &[&str]| lab.lastword([&["logs", object.id()], arguments].concat()).expect(0);
    assert_eq!(logs(&["--stream", "stdout"]).stdout, b"out 1\nout 2\nout 3\n");
    assert_eq!(logs(&["--stream", "stdout"]).stderr, b"");
    let both = logs(&[]);
    assert_eq!(
        (&*both.stdout, &*both.stderr),
        (&b"out 1\nout 2\nout 3\n"[..], &b"err 1\nerr 2\nerr 3\n"[..])
    );
    let tail = logs(&["--tail", "2"]);
    assert_eq!([tail.stdout, tail.stderr].concat(), b"out 3\nerr 3\n");
    assert_eq!(logs(&["-f", "--stream", "stdout"]).stdout, b"out 1\nout 2\nout 3\n");
    assert_eq!(logs(&["--until", object.text("/created_at")]).stdout, b"");
    let stamped = String::from_utf8(logs(&["--timestamps", "--stream", "stdout"]).stdout).unwrap();
    assert!(
        stamped.lines().count() == 3
            && stamped.lines().all(|line| line.starts_with("20") && line.contains("out ")),
        "{stamped}"
    );
}

#[test]
fn messages_only_when_asked() {
    let lab = Lab::new();
    let plain = lab.plain(&[], &Program::Sh("echo a"));
    assert_eq!((&*plain.stdout, &*plain.stderr), (&b"a\n"[..], &b""[..]));
    let verbose = lab.plain(&["--verbose"], &Program::Sh("echo a"));
    assert_eq!(verbose.stdout, b"a\n");
    assert!(lab.ids().iter().any(|id| verbose.message().contains(id)), "{}", verbose.message());
    let quiet = lab.plain(&["--quiet"], &Program::Command(&["/no/such/program"]));
    assert_eq!((quiet.code(), quiet.stderr.len()), (127, 0));
}

#[test]
fn no_colour_when_piped_or_unwanted() {
    let lab = Lab::new();
    lab.run(&[], &Program::Sh("exit 1"));
    for arguments in
        [&["list"][..], &["--help"], &["run", "--help"], &["no-such"], &["get", "zzz"], &["verify", "--all"]]
    {
        let mut command = lab.command();
        let ended = crate::lab::finish(
            command.args(arguments).env("NO_COLOR", "1").env("TERM", "xterm-256color"),
            None,
        );
        assert!(!ended.stdout.contains(&0x1b) && !ended.stderr.contains(&0x1b), "{arguments:?}");
    }
}

#[test]
fn help_has_examples() {
    let lab = Lab::new();
    for command in
        ["run", "logs", "get", "list", "verify", "rm", "files", "batch", "doctor", "bench", "completions"]
    {
        let help = String::from_utf8(lab.lastword([command, "--help"]).expect(0).stdout).unwrap();
        assert!(help.contains("Examples:") && help.contains(&format!("lastword {command}")), "{help}");
    }
    let help = String::from_utf8(lab.lastword(["--help"]).expect(0).stdout).unwrap();
    assert!(help.contains("Examples:"), "{help}");
    lab.lastword(["--version"]).expect(0);
    assert!(!lab.data.exists(), "help made a data directory");
}

#[test]
fn completions_for_every_shell() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish"] {
        let text = String::from_utf8(lab.lastword(["completions", shell]).expect(0).stdout).unwrap();
        assert!(text.contains("lastword") && text.contains("verify"), "{shell}");
    }
}

#[test]
fn doctor_says_what_the_machine_gives() {
    let lab = Lab::new();
    let ended = lab.lastword(["doctor"]).expect(0);
    let text = String::from_utf8(ended.stdout).unwrap().to_lowercase();
    for word in ["kernel", "namespaces", "exact order", "memory limit", "self-test"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let json = lab.lastword(["doctor", "--json"]).expect(0).stdout;
    assert!(serde_json::from_slice::<Value>(&json).unwrap().is_object());
}

#[test]
fn bench_checks_every_byte() {
    let lab = Lab::new();
    let ended = lab.lastword(["bench", "fast-fail", "-n", "40", "-j", "4"]).expect(0);
    let text = String::from_utf8(ended.stdout).unwrap();
    assert!(text.contains("40"), "{text}");
    lab.lastword(["verify", "--all"]).expect(0);
}

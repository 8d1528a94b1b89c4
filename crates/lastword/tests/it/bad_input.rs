//! What was wrong is said in a sentence that names it, and nothing else happens.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lab::{Lab, Program, finish, needs_root};

/// Exits with `code`, prints nothing as data, and the message has every one of `words`.
fn refused(lab: &Lab, arguments: &[&str], code: i32, words: &[&str]) {
    let ended = lab.lastword(arguments);
    let message = ended.message();
    assert_eq!(ended.code(), code, "{arguments:?}: {message}");
    assert!(ended.stdout.is_empty(), "{arguments:?}: {}", ended.stdout.escape_ascii());
    for word in words {
        assert!(message.contains(word), "{arguments:?}: {word} isn't in: {message}");
    }
    assert!(!message.contains("panicked") && !message.contains("RUST_BACKTRACE"), "{message}");
}

#[test]
fn unknown_names() {
    let lab = Lab::new();
    let file = lab.file("a.py", "print(1)").display().to_string();
    refused(&lab, &["run", "--runtime", "cobol", &file], 125, &["cobol", "python"]);
    refused(&lab, &["run", "--backend", "moon", &file], 125, &["moon", "native"]);
    refused(&lab, &["run", "--network", "all", &file], 125, &["all", "none"]);
    refused(&lab, &["run", "--no-such-option", &file], 2, &["--no-such-option"]);
    refused(&lab, &["run", "--ordering", "random", &file], 2, &["random", "exact"]);
    refused(&lab, &["list", "--status", "sleepy"], 2, &["sleepy"]);
    refused(&lab, &["no-such-command"], 2, &["no-such-command"]);
    assert!(lab.ids().is_empty());
}

#[test]
fn missing_files() {
    let lab = Lab::new();
    refused(&lab, &["run", "/no/such/file.py"], 127, &["/no/such/file.py"]);
    refused(&lab, &["run", "--stdin", "/no/such/input", "--", "cat"], 125, &["/no/such/input"]);
    let text = lab.file("notes.txt", "no program").display().to_string();
    refused(&lab, &["run", &text], 125, &["notes.txt", "--runtime"]);
    let directory = lab.path().display().to_string();
    refused(&lab, &["run", &directory], 126, &[&directory]);
}

#[test]
fn bad_limits() {
    let lab = Lab::new();
    for (option, value) in [
        ("--memory", "lots"),
        ("--memory", "-1"),
        ("--memory", "1"),
        ("--memory", "99999999999999999999GiB"),
        ("--timeout", "soon"),
        ("--timeout", "0"),
        ("--timeout", "999999999d"),
        ("--cpu-time", "1x"),
        ("--pids", "0"),
        ("--pids", "many"),
        ("--cpus", "0"),
        ("--cpus", "NaN"),
        ("--disk", "1"),
        ("--output-limit", "-5"),
        ("--open-files", "1"),
        ("--stack", "1"),
        ("--on-output-limit", "cry"),
        ("--label", "novalue"),
    ] {
        // As one word, or a value with a dash would be taken for an option.
        let word = format!("{option}={value}");
        refused(&lab, &["run", &word, "--", "true"], 2, &[option, value]);
    }
    assert!(lab.ids().is_empty());
}

#[test]
fn unknown_ids() {
    let lab = Lab::new();
    lab.run(&[], &Program::Sh("true"));
    let unknown = "01900000-0000-7000-8000-000000000000";
    for command in ["logs", "get", "verify", "rm"] {
        refused(&lab, &[command, unknown], 1, &[unknown]);
        refused(&lab, &[command, "zzz"], 1, &["zzz"]);
        refused(&lab, &[command, ""], 1, &["id"]);
    }
}

#[test]
fn a_data_directory_that_is_a_file() {
    let lab = Lab::new();
    let file = lab.file("occupied", "text").display().to_string();
    refused(&lab, &["--data-dir", &file, "list"], 1, &[&file]);
    refused(&lab, &["--data-dir", &file, "run", "--", "true"], 125, &[&file]);
}

#[test]
fn a_data_directory_of_somebody_else() {
    if !needs_root("another user") {
        return;
    }
    let lab = Lab::new();
    lab.run(&[], &Program::Sh("true"));
    let binary = lab.path().join("lastword");
    std::fs::copy(env!("CARGO_BIN_EXE_lastword"), &binary).unwrap();
    std::fs::set_permissions(lab.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=1001", "--regid=1001", "--clear-groups"])
        .arg(&binary)
        .arg("--data-dir")
        .arg(&lab.data);
    let ended = finish(command.arg("list"), None);
    assert_eq!(ended.code(), 1, "{}", ended.message());
    assert!(ended.message().contains(&lab.data.display().to_string()), "{}", ended.message());
}

#[test]
fn a_store_of_a_newer_version() {
    let lab = Lab::new();
    lab.run(&[], &Program::Sh("true"));
    let format = lab.data.join("format");
    let kept = std::fs::read(&format).unwrap();
    std::fs::write(&format, "lastword store 99\n").unwrap();
    refused(&lab, &["list"], 1, &["99"]);
    refused(&lab, &["run", "--", "true"], 125, &["99"]);
    std::fs::write(&format, "garbage").unwrap();
    refused(&lab, &["list"], 1, &[&lab.data.display().to_string()]);
    std::fs::write(&format, kept).unwrap();
    assert_eq!(lab.ids().len(), 1);
}

#[test]
fn a_working_directory_that_is_not_there() {
    let lab = Lab::new();
    let object = lab.run(&["--cwd", "/no/such/dir"], &Program::Command(&["true"]));
    assert_eq!(object.end(), "failed/start_failure", "{:?}", object.0);
    assert!(object.text("/problem/message").contains("/no/such/dir"), "{:?}", object.0);
}

#[test]
fn what_this_version_has_not_is_said() {
    let lab = Lab::new();
    for arguments in
        [["--backend", "docker"], ["--network", "host"], ["--key", "x"], ["--container-runtime", "runsc"]]
    {
        refused(&lab, &["run", arguments[0], arguments[1], "--", "true"], 125, &[arguments[0]]);
    }
}

#[test]
fn what_is_shared_below_another_share_is_refused_by_name() {
    let lab = Lab::new();
    let (outer, inner) = ("/usr/bin:/data", "/usr/share:/data/share");
    for shares in [[outer, inner], [inner, outer]] {
        let arguments = ["run", "--ro", shares[0], "--ro", shares[1], "--", "true"];
        refused(&lab, &arguments, 125, &["can't be shared at /data", "something else is shared there"]);
    }
}

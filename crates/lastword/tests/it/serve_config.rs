//! What `lastword serve` is told, by whom, and when it refuses to start.

use std::process::Command;

use crate::lab::{Ended, Lab, args, finish};
use crate::rootless::Rootless;

/// Nobody's: a documentation address, which can't be bound either.
const OTHERS_REACH_IT: &str = "192.0.2.1:0";

/// Value and origin of a key in what `--check` printed.
fn row(ended: &Ended, key: &str) -> (String, String) {
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let line = text.lines().find(|line| line.split(' ').next() == Some(key));
    let line = line.unwrap_or_else(|| panic!("no {key} in\n{text}"));
    let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    (cells[1].to_owned(), cells[2].to_owned())
}

/// `--check` that isn't kept by what this machine can enforce.
fn check(lab: &Lab) -> Command {
    let mut command = lab.command();
    command.args(["serve", "--check", "--allow-unenforced"]);
    command
}

#[test]
fn the_flag_then_the_environment_then_the_file_then_the_default() {
    let lab = Lab::new();
    let file =
        lab.file("c.toml", "\nqueue = 1\nbody-limit = '1MiB'\nlisten = '127.0.0.1:1'\nlog-level = 'debug'\n");
    let with = |arguments: &[&str], env: &[(&str, &str)]| {
        let mut command = check(&lab);
        command.arg("--config").arg(&file).args(arguments).envs(env.iter().copied());
        finish(&mut command, None).expect(0)
    };
    let in_file = |line: u32| format!("{}, line {line}", file.display());
    let all = with(&["--queue", "3"], &[("LASTWORD_QUEUE", "2"), ("LASTWORD_BODY_LIMIT", "2MiB")]);
    assert_eq!(row(&all, "queue"), ("3".into(), "--queue".into()));
    assert_eq!(row(&all, "body-limit"), ("2MiB".into(), "LASTWORD_BODY_LIMIT".into()));
    assert_eq!(row(&all, "listen"), ("127.0.0.1:1".into(), in_file(4)));
    assert_eq!(row(&all, "log-level"), ("debug".into(), in_file(5)));
    assert_eq!(row(&all, "log-format"), ("text".into(), "default".into()));
    assert_eq!(row(&all, "allow-unenforced"), ("true".into(), "--allow-unenforced".into()));
    assert_eq!(row(&all, "data-dir"), (lab.data.display().to_string(), "LASTWORD_DATA_DIR".into()));
    assert!(row(&all, "concurrency").0.starts_with("auto ("), "{:?}", row(&all, "concurrency"));
    assert_eq!(row(&with(&[], &[]), "queue"), ("1".into(), in_file(2)));
    assert_eq!(row(&with(&[], &[("LASTWORD_QUEUE", "2")]), "queue").0, "2");
    // It looked, and made nothing.
    assert!(!lab.data.exists());
}

#[test]
fn the_data_directory_comes_from_the_file_too() {
    let lab = Lab::new();
    let file = lab.file("c.toml", "data-dir = '/nonexistent/here'\n");
    let mut command = check(&lab);
    command.env_remove("LASTWORD_DATA_DIR").env("LASTWORD_CONFIG", &file);
    let ended = finish(&mut command, None).expect(0);
    assert_eq!(row(&ended, "data-dir"), ("/nonexistent/here".into(), format!("{}, line 1", file.display())));
}

#[test]
fn the_example_file_is_a_configuration() {
    let lab = Lab::new();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/lastword.toml");
    let mut command = check(&lab);
    command.env_remove("LASTWORD_DATA_DIR").arg("--config").arg(file);
    // A server of this machine may have keys there that this user can't read; the configuration is printed first.
    let ended = finish(&mut command, None);
    assert_eq!(row(&ended, "data-dir").0, "/var/lib/lastword");
}

#[test]
fn what_is_wrong_in_the_file_is_named() {
    let lab = Lab::new();
    for (text, says) in [
        ("queue = 1\nlisen = 'x'\n", "line 2: unknown key lisen"),
        ("\n\nqueue = 'many'\n", "line 3: queue: it must be between 1 and 1000000"),
        ("body-limit = '1 parsec'\n", "line 1: body-limit: "),
        ("log-format = 'xml'\n", "line 1: log-format: use one of text, json"),
        ("queue = \n", "line 1: "),
        ("queue = [1]\n", "line 1: queue: it must be"),
        ("\"\\u001b[2J\" = 1\n", "unknown key \\u{1b}[2J"),
    ] {
        let file = lab.file("c.toml", text);
        let ended = finish(check(&lab).arg("--config").arg(&file), None).expect(1);
        let message = ended.message();
        assert!(message.contains(says) && message.contains(&*file.to_string_lossy()), "{text:?}: {message}");
    }
    let ended = finish(check(&lab).args(args!["--config", lab.path().join("none")]), None).expect(1);
    assert!(ended.message().contains("cannot read the configuration file"), "{}", ended.message());
}

#[test]
fn a_value_of_the_file_is_checked_also_where_a_flag_stands_before_it() {
    let lab = Lab::new();
    let file = lab.file("c.toml", "queue = 0\n");
    let ended = finish(check(&lab).arg("--config").arg(&file).args(["--queue", "5"]), None).expect(1);
    assert!(ended.message().contains("line 1: queue"), "{}", ended.message());
}

#[test]
fn nobody_else_is_let_in_without_keys() {
    let lab = Lab::new();
    let serve = ["serve", "--allow-unenforced", "--listen", OTHERS_REACH_IT];
    for command in [&serve[..], &[&serve[..], &["--check"]].concat()] {
        let ended = lab.lastword(command).expect(1);
        assert!(ended.message().contains("there are no keys"), "{}", ended.message());
        assert!(ended.message().contains("hint: make a key: lastword keys create"), "{}", ended.message());
    }
    lab.lastword(["keys", "create"]).expect(0);
    lab.lastword([&serve[..], &["--check"]].concat()).expect(0);
}

#[test]
fn keys_that_can_not_be_read_keep_it_from_starting() {
    let lab = Lab::new();
    lab.lastword(["keys", "create"]).expect(0);
    std::fs::write(lab.data.join("keys.json"), "{\"version\": 1, \"keys\": [").unwrap();
    for more in [&["--check"][..], &[]] {
        let ended =
            lab.lastword([&["serve", "--allow-unenforced", "--listen", "127.0.0.1:0"][..], more].concat());
        assert!(ended.expect(1).message().contains("keys.json is damaged"));
    }
    std::fs::remove_file(lab.data.join("keys.json")).unwrap();
}

#[test]
fn limits_that_can_not_be_enforced_keep_it_from_starting() {
    let Some(user) = Rootless::new() else { return };
    let serve =
        |more: &[&str]| finish(user.command().args(["serve", "--listen", "127.0.0.1:0"]).args(more), None);
    for more in [&["--check"][..], &[]] {
        let message = serve(more).expect(1).message();
        assert!(message.contains("memory") && message.contains("--allow-unenforced"), "{message}");
    }
    serve(&["--check", "--allow-unenforced"]).expect(0);
    // A value of the environment can be taken back.
    let mut command = user.command();
    command.env("LASTWORD_ALLOW_UNENFORCED", "1").args(["serve", "--check"]);
    finish(&mut command, None).expect(0);
    finish(command.arg("--allow-unenforced=false"), None).expect(1);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let lab = Lab::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let ended = lab.lastword(["serve", "--allow-unenforced", "--listen", &address]).expect(1);
    assert!(ended.message().contains(&format!("cannot listen on {address}")), "{}", ended.message());
}

#[test]
fn a_log_of_json_is_json_from_the_first_error() {
    let lab = Lab::new();
    let ended = lab
        .lastword(["serve", "--allow-unenforced", "--log-format", "json", "--listen", OTHERS_REACH_IT])
        .expect(1);
    let line: serde_json::Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("there are no keys"), "{line}");
    assert!(line["hint"].as_str().unwrap().contains("lastword keys create"), "{line}");
}

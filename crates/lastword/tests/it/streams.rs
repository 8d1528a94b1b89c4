//! What goes in (arguments, stdin, environment, code) and what comes out at the end.

use crate::lab::{Lab, Program, args};
use crate::object::Object;

fn python(options: &[&str], code: &str, arguments: &[&str]) -> Object {
    Lab::new().run(options, &Program::File("program.py", code.as_bytes(), arguments))
}

#[test]
fn stdin_is_nothing_unless_given() {
    let object = Lab::new().run(&[], &Program::Sh("wc -c; cat; echo end"));
    assert_eq!(object.stdout(), b"0\nend\n");
}

#[test]
fn stdin_from_a_file_is_exact() {
    let lab = Lab::new();
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    let file = lab.file("input", &bytes);
    let object = lab.run(&["--stdin", &file.to_string_lossy()], &Program::Command(&["cat"]));
    assert!(object.complete());
    assert_eq!(lab.stream(object.id(), "stdout"), bytes);
}

#[test]
fn stdin_from_a_pipe_is_exact() {
    let lab = Lab::new();
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 253) as u8).collect();
    let object = lab.run_with(&["--stdin", "-"], &Program::Command(&["cat"]), Some(&bytes));
    assert!(object.complete());
    assert_eq!(lab.stream(object.id(), "stdout"), bytes);
}

#[test]
fn stdin_that_nobody_reads_stops_nothing() {
    let lab = Lab::new();
    let bytes = vec![b'x'; 1 << 20];
    let object = lab.run_with(&["--stdin", "-"], &Program::Sh("echo done"), Some(&bytes));
    assert_eq!((object.end().as_str(), object.stdout()), ("succeeded/exit", b"done\n".to_vec()));
}

#[test]
fn nothing_of_the_hosts_environment_comes_in() {
    let lab = Lab::new();
    let file = lab.file("program.py", "import os\nfor k, v in os.environ.items(): print(k, v)\n");
    let mut command = lab.command();
    command.env("LEAK_CANARY", "secret-of-the-host").env("AWS_SECRET_ACCESS_KEY", "secret-of-the-host");
    let ended = crate::lab::finish(command.args(args!["run", "--env", "MINE=yes", file]), None).expect(0);
    let text = String::from_utf8(ended.stdout).unwrap();
    assert!(text.contains("MINE yes\n") && text.contains("PATH "), "{text}");
    for word in ["CANARY", "secret", "AWS", "CARGO", "RUST", "LASTWORD", "SSH", "NEXTEST"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
}

#[test]
fn values_of_the_environment_are_never_shown() {
    let lab = Lab::new();
    let mut command = lab.command();
    command.env("TOKEN", "value-that-is-secret");
    let program = lab.file("program.sh", "[ \"$TOKEN$OTHER\" = value-that-is-secretother-value ] && exit 9");
    let arguments =
        args!["run", "--json", "--verbose", "--secret", "TOKEN", "--env", "OTHER=other-value", program];
    let ended = crate::lab::finish(command.args(arguments), None).expect(0);
    let object = Object::parse(&ended.stdout);
    assert_eq!(object.exit_code(), Some(9), "{:?}", object.0);
    let listed = lab.lastword(["list", "--json"]).stdout;
    let got = lab.lastword(["get", object.id(), "--json"]).stdout;
    for text in [&ended.stdout, &ended.stderr, &listed, &got] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains("value-that-is-secret") && !text.contains("other-value"), "{text}");
    }
    // Not at rest either.
    let output = std::process::Command::new("grep")
        .args(["-rlaF", "value-that-is-secret"])
        .arg(&lab.data)
        .output()
        .unwrap();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn arguments_arrive_as_they_are() {
    let odd = ["with space", "with\nnewline", "", "--json", "-x", "'\"\\$*", "\u{20ac}", "{file}", "--"];
    let object = python(&[], "import sys\nprint(ascii(sys.argv[1:]))\n", &odd);
    let expected =
        "['with space', 'with\\nnewline', '', '--json', '-x', '\\'\"\\\\$*', '\\u20ac', '{file}', '--']\n";
    assert_eq!(String::from_utf8(object.stdout()).unwrap(), expected);
}

#[test]
fn many_and_long_arguments() {
    let long = "x".repeat(100_000);
    let mut arguments = vec![long.as_str(); 5];
    arguments.extend(vec!["y"; 5000]);
    let object = python(&[], "import sys\nprint(len(sys.argv), sum(map(len, sys.argv[1:])))\n", &arguments);
    assert_eq!(String::from_utf8(object.stdout()).unwrap(), "5006 505000\n");
}

#[test]
fn arguments_over_what_the_kernel_takes_are_refused_with_a_reason() {
    // 128 KiB is the kernel's own limit for one of them, so it can only come in through a file or the code.
    let lab = Lab::new();
    let code = format!("x = '{}'\nprint(len(x))\n", "x".repeat(100_000));
    let ended = lab.lastword(["run", "--runtime", "python", "-c", &code]).expect(0);
    assert_eq!(ended.stdout, b"100000\n");
}

#[test]
fn an_empty_file_is_a_program_that_says_nothing() {
    let lab = Lab::new();
    for name in ["empty.py", "empty.sh"] {
        let object = lab.run(&[], &Program::File(name, b"", &[]));
        assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
        assert!(object.complete());
        assert_eq!((object.text("/stdout"), object.text("/stderr")), ("", ""));
    }
}

#[test]
fn a_source_of_10_mb() {
    let mut code = b"x = 0\n".to_vec();
    code.resize(10_000_000, b'#');
    code.extend_from_slice(b"\nprint('end of a long file')\n");
    let object = Lab::new().run(&["--timeout", "60s"], &Program::File("long.py", &code, &[]));
    assert_eq!(object.stdout(), b"end of a long file\n");
}

#[test]
fn a_name_with_spaces_and_newlines() {
    let object = Lab::new().run(&[], &Program::File("a b\nc.py", b"print('ran')\n", &[]));
    assert_eq!(object.stdout(), b"ran\n");
}

#[test]
fn a_first_line_says_how_to_run_a_file() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::File("tool", b"#!/usr/bin/env python3\nprint('by line')\n", &[]));
    assert_eq!((object.stdout(), object.text("/runtime")), (b"by line\n".to_vec(), "python"));
    let object = lab.run(&[], &Program::File("tool", b"#!/bin/sh -e\nfalse\necho not reached\n", &[]));
    assert_eq!((object.stdout(), object.exit_code()), (Vec::new(), Some(1)));
}

#[test]
fn exit_codes_pass_through() {
    let lab = Lab::new();
    for code in [0, 1, 2, 42, 124, 125, 126, 127, 200, 255] {
        let program = format!("exit {code}");
        assert_eq!(lab.plain(&[], &Program::Sh(&program)).code(), code);
    }
    let object = lab.run(&[], &Program::Sh("exit 255"));
    assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(255)));
}

#[test]
fn signals_pass_through() {
    let lab = Lab::new();
    for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("ABRT", 6), ("PIPE", 13), ("USR1", 10)] {
        let program = format!("echo before; kill -{name} $$");
        let plain = lab.plain(&[], &Program::Sh(&program));
        assert_eq!((plain.code(), &*plain.stdout), (128 + number, &b"before\n"[..]), "{name}");
        let object = lab.run(&[], &Program::Sh(&program));
        assert_eq!((object.end().as_str(), object.exit_code()), ("failed/signal", None), "{name}");
        assert_eq!(object.signal(), Some(&*format!("SIG{name}")));
        assert!(object.complete());
    }
}

/// A program starts as after login: no signal blocked or ignored, whatever the caller did.
#[test]
fn no_signal_is_blocked_or_ignored() {
    let object =
        Lab::new().run(&[], &Program::Command(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]));
    assert_eq!(object.stdout(), b"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn the_working_directory() {
    let lab = Lab::new();
    let object = lab.run(&["--cwd", "/tmp"], &Program::Command(&["/bin/pwd"]));
    assert_eq!(object.stdout(), b"/tmp\n");
    // It may be written to.
    let object = lab.run(&[], &Program::Sh("echo x >file && cat file"));
    assert_eq!(object.stdout(), b"x\n", "{:?}", object.0);
}

#[test]
fn common_programs_work() {
    let lab = Lab::new();
    let code = "set -e\ncd /tmp\nseq 100 | sort -rn | head -1 | grep -q 100\nmkdir a; echo x >a/b; cp -r a c; diff -r a c; tar cf - a | tar tf - >/dev/null\ndate >/dev/null; id -u >/dev/null; uname -a >/dev/null; ls -l / >/dev/null; python3 -c 'import ssl, sqlite3, json, subprocess, threading, multiprocessing, tempfile; print(multiprocessing.Queue)' >/dev/null\necho random >/dev/null; head -c 8 /dev/urandom | wc -c";
    let object = lab.run(&["--timeout", "60s"], &Program::Sh(code));
    assert_eq!(
        (object.end().as_str(), object.stdout()),
        ("succeeded/exit", b"8\n".to_vec()),
        "{:?}",
        object.0
    );
}

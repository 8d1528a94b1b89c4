//! Every way known to lose output that can happen on this backend, by the row of its table.
//!
//! Not here, because nothing of the kind exists on one machine without an engine: 15, 19, 27 to 29, 34 to 36, 41.
//! Elsewhere: 12 in `limits`, 30, 32 and 40 in `durability`, 31 in `reboot`, 38 and 42 in `hostile`; 37 (the clock jumps) is not tested.

use std::io::Read as _;
use std::process::Stdio;

use crate::lab::{Lab, Program, args, ended, wait_for};
use crate::object::Object;
use crate::soak;

fn sh(code: &str) -> Object {
    Lab::new().run(&[], &Program::Sh(code))
}

/// Complete, and this and nothing else.
fn said(object: &Object, stdout: &[u8], stderr: &[u8]) {
    assert_eq!(object.stdout().escape_ascii().to_string(), stdout.escape_ascii().to_string());
    assert_eq!(object.stderr().escape_ascii().to_string(), stderr.escape_ascii().to_string());
    assert!(object.complete(), "{}", object.at("/transcript"));
}

#[test]
fn row_01_writes_and_dies_at_once() {
    let lab = Lab::new();
    let rounds = soak::count(50, 1000);
    for _ in 0..rounds {
        let object = lab.run(&[], &Program::Sh("echo out; echo err >&2; exit 1"));
        said(&object, b"out\n", b"err\n");
        assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(1)));
    }
    soak::figure("two lines and a death at once", &format!("{rounds} runs, none incomplete"));
}

#[test]
fn row_02_exec_of_a_missing_file() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::Command(&["/usr/bin/no-such-program"]));
    assert_eq!(object.end(), "failed/start_failure");
    said(&object, b"", b"");
    let problem = object.text("/problem/message");
    assert!(problem.contains("/usr/bin/no-such-program"), "{problem}");
    assert_eq!(object.at("/retry/program_started"), false);
    let plain = lab.plain(&[], &Program::Command(&["no-such-program"]));
    assert_eq!(plain.code(), 127);
    assert!(plain.message().contains("no-such-program"), "{}", plain.message());
}

#[test]
fn row_02_exec_of_a_file_that_is_no_program() {
    let lab = Lab::new();
    // There in any sandbox, and not executable.
    let words = ["/usr/share/common-licenses/GPL-3"];
    let object = lab.run(&[], &Program::Command(&words));
    assert_eq!(object.end(), "failed/start_failure");
    said(&object, b"", b"");
    assert_eq!(lab.plain(&[], &Program::Command(&words)).code(), 126);
    assert_eq!(lab.plain(&[], &Program::Command(&["/usr/bin"])).code(), 126);
}

#[test]
fn row_03_no_newline_at_the_end() {
    said(&sh("printf 'last words'; printf 'and more' >&2"), b"last words", b"and more");
}

#[test]
fn row_04_invalid_utf_8() {
    let object = sh(r"printf '\377\376ok\300\n'; printf '\355\240\200' >&2");
    said(&object, b"\xff\xfeok\xc0\n", b"\xed\xa0\x80");
    assert_eq!((object.text("/stdout_encoding"), object.text("/output_encoding")), ("base64", "base64"));
}

/// A character of three bytes over every border that anybody cuts at.
#[test]
fn row_05_characters_across_borders() {
    let code = "import sys\nfor n in (4096, 8192, 16384, 32768, 65536):\n    sys.stdout.write('x' * (n - 1) + '\\u20ac\\n')\n    sys.stdout.flush()\n";
    let expected: String =
        [4096, 8192, 16384, 32768, 65536].map(|n| "x".repeat(n - 1) + "\u{20ac}\n").concat();
    let object = Lab::new().run(&[], &Program::Python(code));
    said(&object, expected.as_bytes(), b"");
    assert_eq!(object.text("/stdout_encoding"), "utf-8");
}

#[test]
fn row_06_carriage_returns() {
    said(&sh(r"printf 'a\r\nb\r\r\n\rc\r'"), b"a\r\nb\r\r\n\rc\r", b"");
}

#[test]
fn row_07_nul_escapes_and_braces() {
    let object = sh(r#"printf '\0a\0\033[31mred\033[0m{"log":"x"}\n\0'"#);
    said(&object, b"\0a\0\x1b[31mred\x1b[0m{\"log\":\"x\"}\n\0", b"");
}

#[test]
fn row_07_every_byte_on_both_streams() {
    let code =
        "import os\nos.write(1, bytes(range(256)) * 300)\nos.write(2, bytes(range(255, -1, -1)) * 300)\n";
    let all: Vec<u8> = (0..=255).collect();
    let back: Vec<u8> = (0..=255).rev().collect();
    said(&Lab::new().run(&[], &Program::Python(code)), &all.repeat(300), &back.repeat(300));
}

/// Bytes of stdout and their digest against what the program was to write, without holding them.
fn large(lab: &Lab, options: &[&str], code: &str, expected: impl Iterator<Item = Vec<u8>>) {
    let file = lab.file("program.py", code);
    let options = [&["run", "--json"], options].concat();
    let mut arguments: Vec<std::ffi::OsString> = options.iter().map(Into::into).collect();
    arguments.push(file.into());
    let object = Object::parse(&lab.lastword(arguments).expect(0).stdout);
    assert_eq!(object.end(), "succeeded/exit", "{}", object.at("/transcript"));
    assert!(object.complete(), "{}", object.at("/transcript"));
    let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
    for block in expected {
        hasher.update(&block);
        length += block.len() as u64;
    }
    let digest = hasher.finalize();
    assert_eq!(object.bytes("stdout"), length);
    assert_eq!(object.text("/transcript/stdout/blake3"), digest.to_hex().as_str());
    assert_eq!(object.at("/inline_truncated"), true);
    // The log itself, and not only what is said of it.
    let mut logs = lab
        .command()
        .args(["logs", object.id(), "--stream", "stdout"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut hasher = blake3::Hasher::new();
    let (mut pipe, mut block) = (logs.stdout.take().unwrap(), vec![0; 1 << 16]);
    loop {
        match pipe.read(&mut block).unwrap() {
            0 => break,
            n => hasher.update(&block[..n]),
        };
    }
    assert!(logs.wait().unwrap().success());
    assert_eq!(hasher.finalize(), digest);
    lab.lastword(["verify", object.id()]).expect(0);
}

#[test]
fn heavy_row_08_one_line_of_64_mib() {
    let mib = soak::count(64, 1024);
    let code = format!(
        "import os\nblock = b'x' * (1 << 20)\nfor _ in range({mib}):\n    n = 0\n    while n < len(block): n += os.write(1, block[n:])\n"
    );
    let options = ["--output-limit", "2GiB", "--timeout", "100s"];
    large(&Lab::new(), &options, &code, (0..mib).map(|_| vec![b'x'; 1 << 20]));
    soak::figure("one line without an end", &format!("{mib} MiB, complete"));
}

#[test]
fn heavy_row_09_burst_of_100_mb() {
    let code = "import sys\nfor i in range(1600):\n    sys.stdout.buffer.write((b'%015d\\n' % i) * 4096)\n";
    let blocks = (0..1600).map(|i| format!("{i:015}\n").repeat(4096).into_bytes());
    large(&Lab::new(), &["--output-limit", "200MiB"], code, blocks);
}

/// Numbered lines without an end; returns how many there are, the last one perhaps cut.
fn numbered_prefix(bytes: &[u8]) -> usize {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let count = lines.clone().count();
    for number in 0..count {
        let line = lines.next().unwrap();
        let whole = format!("{number:063}\n");
        let fits = line == whole.as_bytes() || (number + 1 == count && whole.as_bytes().starts_with(line));
        assert!(fits, "line {number}: {}", line.escape_ascii());
    }
    count
}

const NUMBERED: &str = "import os\nn = 0\nwhile True:\n    os.write(1, b'%063d\\n' % n)\n    n += 1\n";

#[test]
fn row_10_killed_while_it_writes_without_pause() {
    let object =
        Lab::new().run(&["--timeout", "500ms", "--output-limit", "1GiB"], &Program::Python(NUMBERED));
    assert_eq!(object.end(), "timed_out/wall_time");
    assert!(object.complete(), "{}", object.at("/transcript"));
    assert!(object.bytes("stdout") > 0);
    numbered_prefix(&object.stdout());
}

#[test]
fn row_11_killed_in_the_middle_of_a_write() {
    let code = format!(
        "import os, signal\nme = os.getpid()\nif os.fork() == 0:\n    import time\n    time.sleep(0.2)\n    os.kill(me, signal.SIGKILL)\n    os._exit(0)\n{NUMBERED}"
    );
    let lab = Lab::new();
    let object = lab.run(&["--timeout", "60s", "--output-limit", "1GiB"], &Program::Python(&code));
    assert_eq!((object.end().as_str(), object.signal()), ("failed/signal", Some("SIGKILL")));
    assert_eq!(object.exit_code(), None);
    assert!(object.complete(), "{}", object.at("/transcript"));
    assert!(numbered_prefix(&lab.stream(object.id(), "stdout")) > 0);
}

#[test]
fn row_13_buffers_of_c_with_flush_help() {
    let lab = Lab::new();
    for (how, end) in [
        ("exit", "failed/exit"),
        ("kill", "failed/signal"),
        ("abort", "failed/signal"),
        ("part", "failed/exit"),
    ] {
        let object = lab.run(&[], &Program::Dynamic("buffered", &[how]));
        assert_eq!(object.end(), end, "{how}");
        said(&object, b"one\ntwo\n", b"");
    }
    let object = lab.run(&["--flush", "unbuffered"], &Program::Dynamic("buffered", &["part"]));
    said(&object, b"one\ntwo\nthree without an end", b"");
}

/// Nothing reached the kernel, so nothing is missing: empty, and complete.
#[test]
fn row_13_buffers_of_c_without_flush_help() {
    let lab = Lab::new();
    said(&lab.run(&["--flush", "off"], &Program::Dynamic("buffered", &["kill"])), b"", b"");
    // A static program can't be helped.
    said(&lab.run(&[], &Program::C("buffered", &["kill"])), b"", b"");
}

#[test]
fn row_13_buffers_of_python() {
    let lab = Lab::new();
    let code = "import os\nprint('one')\nprint('two', end='')\nos._exit(3)\n";
    said(&lab.run(&[], &Program::Python(code)), b"one\n", b"");
    said(&lab.run(&["--flush", "unbuffered"], &Program::Python(code)), b"one\ntwo", b"");
    said(&lab.run(&["--flush", "off"], &Program::Python(code)), b"", b"");
}

#[test]
fn row_14_a_grandchild_that_holds_the_pipe_and_writes_on() {
    let lab = Lab::new();
    let code = "(while :; do echo again; done) &\necho first\nexit 3";
    // Ending by the timeout would be the failure.
    let object = lab.run(&["--timeout", "60s", "--output-limit", "1GiB"], &Program::Sh(code));
    assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(3)));
    assert!(object.complete(), "{}", object.at("/transcript"));
    assert!(lab.stream(object.id(), "stdout").split(|byte| *byte == b'\n').any(|line| line == b"first"));
}

#[test]
fn row_16_a_silent_grandchild_that_holds_the_pipe() {
    let object = Lab::new().run(&["--timeout", "60s"], &Program::Sh("sleep 1000 &\necho first"));
    assert_eq!(object.end(), "succeeded/exit");
    said(&object, b"first\n", b"");
}

#[test]
fn row_17_a_daemon_that_left_session_and_group() {
    let code = "setsid sh -c 'setsid sleep 1000 & setsid sleep 1001' &\necho first";
    let object = Lab::new().run(&["--timeout", "60s"], &Program::Sh(code));
    assert_eq!(object.end(), "succeeded/exit");
    said(&object, b"first\n", b"");
}

#[test]
fn row_18_output_after_the_end_of_the_main_process() {
    let object = sh("(sleep 0.02; echo late) &\necho main");
    assert!(object.complete());
    // How much time it gets is ours to say; what it wrote in it is there as a whole.
    assert!([&b"main\n"[..], b"main\nlate\n"].contains(&&*object.stdout()), "{:?}", object.0);
}

#[test]
fn row_20_closed_streams() {
    let object = sh("exec >&- 2>&-\nsleep 0.1\nexit 7");
    said(&object, b"", b"");
    assert_eq!(object.exit_code(), Some(7));
    said(&sh("echo before; exec >&-; echo still here >&2"), b"before\n", b"still here\n");
}

#[test]
fn row_21_stderr_made_stdout() {
    said(&sh("exec 2>&1\necho a\necho b >&2"), b"a\nb\n", b"");
}

#[test]
fn row_22_streams_by_their_names() {
    let code = "echo a >/dev/stdout; echo b >/dev/stderr; echo c >/proc/self/fd/1; echo d >/proc/self/fd/2; echo e | tee /dev/stderr; echo f >>/dev/fd/1";
    said(&sh(code), b"a\nc\ne\nf\n", b"b\nd\ne\n");
}

#[test]
fn row_23_what_goes_elsewhere_is_no_output() {
    said(
        &sh("exec 3>/tmp/file; echo hidden >&3; (echo lost >/dev/tty) 2>/dev/null; echo shown"),
        b"shown\n",
        b"",
    );
}

#[test]
fn row_24_alternating_streams() {
    let object = sh("echo 1; echo 2 >&2; echo 3; echo 4 >&2");
    said(&object, b"1\n3\n", b"2\n4\n");
    assert_eq!(object.inline("output"), b"1\n2\n3\n4\n");
}

/// Nobody reads what `lastword run` prints: the program must end all the same, and nothing be missing afterwards.
#[test]
fn row_25_a_slow_reader_stops_nobody() {
    let lab = Lab::new();
    let code = "import os, sys\nfor i in range(64): sys.stdout.buffer.write(b'%c' % (65 + i % 26) * 65536)\n";
    let arguments = lab.arguments(&[], &Program::Python(code));
    let child = lab.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    // The supervisor is a child of the command or was: it must go away while we read nothing.
    wait_for("a supervisor", || (!crate::durability::supervisors(&lab).is_empty()).then_some(()));
    wait_for("its end without a reader", || crate::durability::supervisors(&lab).is_empty().then_some(()));
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    let ended = ended(child, None).expect(0);
    assert_eq!(ended.stdout.len(), 64 * 65536);
    let object = lab.get(&lab.ids()[0]);
    assert!(object.complete() && object.bytes("stdout") == 64 * 65536, "{}", object.at("/transcript"));
}

#[test]
fn row_26_a_reader_that_goes_away() {
    let lab = Lab::new();
    let code = "import time\nprint('first', flush=True)\ntime.sleep(0.3)\nfor i in range(10000): print('line', i)\nprint('last')\n";
    let arguments = lab.arguments(&[], &Program::Python(code));
    let mut child =
        lab.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0; 6];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    child.wait().unwrap();
    let id = lab.ids().remove(0);
    let object = wait_for("the end", || {
        let object = lab.get(&id);
        object.at("/ended_at").is_string().then_some(object)
    });
    assert_eq!(object.end(), "succeeded/exit");
    let whole = (0..10000).fold("first\n".to_owned(), |text, i| text + &format!("line {i}\n")) + "last\n";
    said(&object, whole.as_bytes(), b"");
}

#[test]
fn row_33_removed_before_it_was_read() {
    let lab = Lab::new();
    let id = lab.run(&[], &Program::Sh("echo gone")).id().to_owned();
    lab.lastword(["rm", &id]).expect(0);
    for command in ["logs", "get", "verify"] {
        let ended = lab.lastword([command, &id]);
        // Never an error text as if it were the log.
        assert!(!ended.status.success() && ended.stdout.is_empty(), "{command}: {ended:?}");
        assert!(ended.message().contains(&id), "{command}: {}", ended.message());
    }
}

#[test]
fn row_39_a_terminal_on_request() {
    let lab = Lab::new();
    let code = "import os, sys\nprint(os.isatty(0), os.isatty(1), os.isatty(2))\nprint('to stderr', file=sys.stderr)\n";
    let object = lab.run(&["--tty"], &Program::Python(code));
    assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
    assert_eq!(object.at("/transcript/tty"), true);
    said(&object, b"True True True\r\nto stderr\r\n", b"");
    let object = lab.run(&[], &Program::Python(code));
    assert_eq!(object.at("/transcript/tty"), false);
    said(&object, b"False False False\n", b"to stderr\n");
}

#[test]
fn row_39_a_terminal_keeps_its_tail() {
    let lab = Lab::new();
    for _ in 0..soak::count(10, 200) {
        let object = lab.run(&["--tty"], &Program::Sh("seq 1 3000; printf tail"));
        let expected = (1..=3000).fold(String::new(), |text, n| text + &format!("{n}\r\n")) + "tail";
        said(&object, expected.as_bytes(), b"");
    }
}

#[test]
fn both_streams_and_the_exit_of_the_first_example() {
    let lab = Lab::new();
    let code = "import sys\nprint('Before error')\nraise RuntimeError('deliberate')\n";
    let file = lab.file("fast_fail.py", code);
    let ended = lab.lastword(args!["run", file]).expect(1);
    assert_eq!(ended.stdout, b"Before error\n");
    assert!(
        ended.message().starts_with("Traceback ") && ended.message().ends_with("RuntimeError: deliberate\n")
    );
    let object = lab.get(&lab.ids()[0]);
    assert!(object.inline("output").starts_with(b"Before error\nTraceback "), "{:?}", object.0);
    lab.agree(&object);
}

//! G3: the order of writes is the order of records, or the label says from where it isn't.
//!
//! Line `n` says for which stream it was meant and counts over both, so the whole sequence is compared, not a
//! number of inversions: a total reversal would score as one.

use crate::lab::{Lab, Program};
use crate::object::{Object, Record};
use crate::{fixture, soak};

const LINES: &str = "2000";

/// One line and where it was found.
#[derive(Debug, PartialEq)]
struct Line {
    stream: String,
    text: String,
    /// Of the record that holds its first byte.
    seq: u64,
}

/// Lines in the order of the records. A line may be cut over several records of its stream; it counts where it begins.
fn lines(records: &[Record]) -> Vec<Line> {
    let mut all: Vec<Line> = Vec::new();
    let mut open: [Option<usize>; 2] = [None, None];
    for record in records {
        let slot = &mut open[usize::from(record.stream == "stderr")];
        for part in record.bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = std::str::from_utf8(part).unwrap();
            let index = *slot.get_or_insert_with(|| {
                all.push(Line { stream: record.stream.clone(), text: String::new(), seq: record.seq });
                all.len() - 1
            });
            all[index].text.push_str(text.trim_end_matches('\n'));
            if text.ends_with('\n') {
                *slot = None;
            }
        }
    }
    all
}

/// What is wrong with the sequence, if anything: `count` lines "o n" and "e n", n from 0.
fn fault(lines: &[Line], count: u64, exact_until: u64) -> Option<String> {
    if lines.len() as u64 != count {
        return Some(format!("{} lines instead of {count}", lines.len()));
    }
    let mut last = [None, None];
    for (index, line) in lines.iter().enumerate() {
        let Some((letter, number)) = line.text.split_once(' ') else { return Some(format!("{line:?}")) };
        let stream = if letter == "e" { "stderr" } else { "stdout" };
        if stream != line.stream {
            return Some(format!("on the wrong stream: {line:?}"));
        }
        let number: u64 = number.parse().ok()?;
        if line.seq < exact_until && number != index as u64 {
            return Some(format!("at {index} stands {line:?}"));
        }
        // Whatever the label says: within a stream the order is that of the writes.
        let before = last[usize::from(letter == "e")].replace(number);
        if before.is_some_and(|before| before >= number) {
            return Some(format!("{stream} isn't in order at {line:?}"));
        }
    }
    None
}

/// A machine without a seccomp listener keeps order by arrival; where that is known, the suite may be told.
fn demand_exact(object: &Object) {
    if std::env::var_os("LASTWORD_TEST_ARRIVAL").is_none() {
        assert_eq!(object.ordering(), "exact", "{}", object.at("/transcript"));
    }
}

/// 3 rounds, 100 in a soak; each must be whole, in order, and say `exact`.
fn exact(name: &str, options: &[&str], program: &Program, count: u64, exit: i64) {
    let rounds = soak::count(3, 100);
    let lab = Lab::new();
    for round in 0..rounds {
        let object = lab.run(options, program);
        assert_eq!(object.exit_code().unwrap_or(-1), exit, "round {round}: {:?}", object.0);
        assert!(object.complete(), "round {round}: {}", object.at("/transcript"));
        let lines = lines(&lab.records(object.id()));
        if let Some(fault) = fault(&lines, count, object.exact_until()) {
            panic!("round {round}: {fault}");
        }
        demand_exact(&object);
    }
    soak::figure(
        &format!("order: {name}"),
        &format!("{rounds} rounds, 0 of {count} lines out of order each"),
    );
}

fn exact_c(mode: &str) {
    exact(&format!("C, {mode}"), &[], &Program::C("order", &[mode, LINES]), 2000, 0);
}

#[test]
fn g3_static_c() {
    exact_c("direct");
}

#[test]
fn g3_opened_dev_stdout_and_dev_stderr() {
    exact_c("reopened");
}

#[test]
fn g3_duplicated_descriptors() {
    exact_c("duplicated");
}

#[test]
fn g3_one_and_two_swapped() {
    exact_c("swapped");
}

#[test]
fn g3_a_child_for_each_line() {
    exact("C, a child for each line", &[], &Program::C("order", &["children", "400"]), 400, 0);
}

#[test]
fn g3_writev() {
    exact_c("writev");
}

#[test]
fn g3_sendfile() {
    exact_c("sendfile");
}

#[test]
fn g3_splice() {
    exact_c("splice");
}

#[test]
fn g3_pwritev2_vmsplice_and_tee() {
    for mode in ["pwritev2", "vmsplice", "tee"] {
        exact(&format!("C, {mode}"), &[], &Program::C("moves", &[mode, LINES]), 2000, 0);
    }
}

#[test]
fn g3_a_thread_per_stream_with_a_lock() {
    exact_c("lock");
}

#[test]
fn g3_a_thread_per_stream_with_a_futex() {
    exact_c("futex");
}

#[test]
fn g3_crash_handler_on_a_duplicate_of_stderr() {
    // The last line is written by the handler of a real crash, which the program doesn't survive.
    exact("C, crash handler on a dup of stderr", &[], &Program::C("order", &["crash", LINES]), 2000, -1);
}

#[test]
fn g3_python_unbuffered() {
    let code = "import os\nfor n in range(2000):\n    os.write(2 if n % 2 else 1, b'%c %d\\n' % (b'oe'[n % 2], n))\n";
    exact("Python, os.write", &[], &Program::Python(code), 2000, 0);
}

#[test]
fn g3_python_print_with_flush_help() {
    let code = "import sys\nfor n in range(2000):\n    print('oe'[n % 2], n, file=sys.stderr if n % 2 else sys.stdout)\n";
    exact("Python, print", &[], &Program::Python(code), 2000, 0);
}

#[test]
fn g3_sh() {
    let code = "n=0\nwhile [ $n -lt 2000 ]; do echo o $n; n=$((n+1)); echo e $n >&2; n=$((n+1)); done\n";
    exact("sh, echo and echo >&2", &[], &Program::Sh(code), 2000, 0);
}

#[test]
fn g3_sh_through_dev_stdout_and_dev_stderr() {
    let code = "n=0\nwhile [ $n -lt 2000 ]; do echo o $n >/dev/stdout; n=$((n+1)); echo e $n >/dev/stderr; n=$((n+1)); done\n";
    exact("sh, >/dev/stdout and >/dev/stderr", &[], &Program::Sh(code), 2000, 0);
}

#[test]
fn g3_bash() {
    let code = b"for ((n = 0; n < 2000; n += 2)); do echo o $n; echo e $((n + 1)) >&2; done\n";
    exact("bash, echo and echo >&2", &[], &Program::File("program.bash", code, &[]), 2000, 0);
}

#[test]
fn g3_programs_one_after_the_other() {
    let code =
        "n=0\nwhile [ $n -lt 200 ]; do /bin/echo o $n; n=$((n+1)); /bin/echo e $n >&2; n=$((n+1)); done\n";
    exact("sh, /bin/echo for each line", &[], &Program::Sh(code), 200, 0);
}

/// Both threads write 10 lines freely, then meet: a round is before the next one, over both streams.
#[test]
fn g3_threads_that_meet_are_in_order_between_their_meetings() {
    let lab = Lab::new();
    for _ in 0..soak::count(3, 100) {
        let object = lab.run(&[], &Program::C("order", &["rounds", LINES]));
        assert_eq!(object.end(), "succeeded/exit");
        demand_exact(&object);
        let lines = lines(&lab.records(object.id()));
        assert_eq!(lines.len(), 2000);
        let mut next = [(0, 0), (0, 0)];
        for (index, line) in lines.iter().enumerate() {
            let words: Vec<&str> = line.text.split(' ').collect();
            let stderr = words[0] == "e";
            assert_eq!(line.stream, if stderr { "stderr" } else { "stdout" }, "{line:?}");
            let own = &mut next[usize::from(stderr)];
            let found: (usize, usize) = (words[1].parse().unwrap(), words[2].parse().unwrap());
            assert_eq!(found, *own, "at {index}");
            *own = if own.1 == 9 { (own.0 + 1, 0) } else { (own.0, own.1 + 1) };
            if line.seq < object.exact_until() {
                assert_eq!(found.0, index / 20, "round {} at {index}", found.0);
            }
        }
    }
}

/// A timer every 50 microseconds: each write may be interrupted. It must come to its end, and what the kernel said
/// was written is there, once.
fn with_timer(mode: &str) {
    let lab = Lab::new();
    let object = lab.run(&["--timeout", "60s"], &Program::C("order", &[mode, LINES]));
    assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
    let lines = lines(&lab.records(object.id()));
    // The stream follows from the attempt, the number from what was accepted: only the letter tells the stream.
    assert_eq!(fault(&lines, 2000, object.exact_until()), None);
}

#[test]
fn g3_timer_with_sa_restart_makes_progress() {
    with_timer("timer-restart");
}

#[test]
fn g3_timer_without_sa_restart_and_retries_makes_progress() {
    with_timer("timer-retry");
}

#[test]
fn g3_timer_without_sa_restart_and_lost_attempts_makes_progress() {
    with_timer("timer-ignore");
}

/// What the odd way did, and that the label holds for what was written. Exit 10 or 11 says that it wasn't refused.
fn odd(mode: &str) -> Object {
    let lab = Lab::new();
    let object = lab.run(&["--timeout", "60s"], &Program::C("odd", &[mode, LINES]));
    let exit = object.exit_code().unwrap_or(-1);
    assert!([0, 10, 11].contains(&exit), "{:?}", object.0);
    assert!(object.complete(), "{}", object.at("/transcript"));
    let lines = lines(&lab.records(object.id()));
    assert_eq!(fault(&lines, 2000, object.exact_until()), None);
    object
}

#[test]
fn g3_own_seccomp_filter() {
    let object = odd("filter");
    assert_eq!(object.exit_code(), Some(0));
    demand_exact(&object);
}

#[test]
fn g3_own_seccomp_listener() {
    odd("listener");
}

/// These would write unseen: refused, or not called exact.
fn refused_or_arrival(mode: &str) {
    let object = odd(mode);
    assert!(object.exit_code() == Some(0) || object.ordering() == "arrival", "{:?}", object.0);
}

#[test]
fn g3_32_bit_calls_of_a_64_bit_program() {
    refused_or_arrival("int80");
}

#[test]
fn g3_x32_calls() {
    refused_or_arrival("x32");
}

#[test]
fn g3_linux_aio() {
    refused_or_arrival("aio");
}

#[test]
fn g3_io_uring() {
    refused_or_arrival("uring");
}

#[test]
fn g3_32_bit_program() {
    let lab = Lab::new();
    let program = std::fs::read(fixture::bits_32("i386")).unwrap();
    let object = lab.run(&["--timeout", "30s"], &Program::File("i386", &program, &[]));
    // Refused calls end it in one way or another; it must not hang, and the label must hold for what it wrote.
    assert_ne!(object.status(), "timed_out", "{:?}", object.0);
    assert!(object.complete(), "{}", object.at("/transcript"));
    let found = lines(&lab.records(object.id()));
    assert_eq!(fault(&found, found.len() as u64, object.exact_until()), None);
}

#[test]
fn g3_arrival_on_request_is_called_so() {
    let lab = Lab::new();
    let object = lab.run(&["--ordering", "arrival"], &Program::C("order", &["direct", LINES]));
    assert_eq!((object.ordering(), object.exact_until()), ("arrival", 0));
    assert!(object.complete());
    let lines = lines(&lab.records(object.id()));
    assert_eq!(fault(&lines, 2000, 0), None);
}

#[test]
fn the_check_sees_what_is_out_of_order() {
    let record = |seq, stream: &str, bytes: &str| Record {
        seq,
        timestamp: String::new(),
        stream: stream.to_owned(),
        bytes: bytes.as_bytes().to_vec(),
        dropped: 0,
    };
    let good = [record(0, "stdout", "o 0"), record(1, "stderr", "e 1\n"), record(2, "stdout", "\no 2\n")];
    assert_eq!(fault(&lines(&good), 3, u64::MAX), None);
    let reversed = [record(0, "stderr", "e 1\n"), record(1, "stdout", "o 0\no 2\n")];
    assert!(fault(&lines(&reversed), 3, u64::MAX).is_some());
    assert_eq!(fault(&lines(&reversed), 3, 0), None);
    assert!(fault(&lines(&reversed[1..]), 3, 0).is_some());
    assert!(fault(&lines(&[record(0, "stderr", "o 0\n")]), 1, 0).is_some());
    assert!(fault(&lines(&[record(0, "stdout", "o 2\no 0\n")]), 2, 0).is_some());
}

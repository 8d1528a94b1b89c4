use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use super::*;

struct Bench {
    file: std::fs::File,
    pump: StdinPump,
    program: std::fs::File,
}

/// A growing source behind `first`, and the program's end of its pipe.
fn bench(first: &[u8], terminal: bool) -> Bench {
    let file = tempfile::tempfile().expect("a file");
    let source = Source::Growing(Growing::new(file.try_clone().expect("a copy").into()));
    let (theirs, ours) = sys::pipe().expect("a pipe");
    for end in [&theirs, &ours] {
        sys::set_nonblocking(end.as_fd()).expect("not blocking");
    }
    let pump = StdinPump::new(Some(source), first.to_vec(), ours, terminal);
    Bench { file, pump, program: theirs.into() }
}

impl Bench {
    /// Turns until there is nothing to wait for. False: the pump is through.
    fn turn(&mut self) -> bool {
        while self.pump.pollfd().is_some() {
            if !self.pump.turn() {
                return false;
            }
        }
        true
    }

    fn read(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let n = self.program.read(&mut bytes).unwrap_or(0);
        bytes.truncate(n);
        bytes
    }

    fn close(&self) {
        let mode = std::fs::Permissions::from_mode(0o400);
        self.file.set_permissions(mode).expect("the mode is changed");
    }
}

#[test]
fn a_growing_file_is_read_when_somebody_says_so() {
    let mut bench = bench(b"first ", false);
    assert!(bench.turn());
    assert_eq!(bench.read(), b"first ");
    bench.file.write_all(b"second").expect("it grows");
    assert!(bench.pump.pollfd().is_none(), "a regular file is not polled: it is always readable");
    bench.pump.look_again();
    assert!(bench.turn());
    assert_eq!(bench.read(), b"second");
    bench.pump.look_again();
    assert!(bench.turn());
    assert_eq!(bench.read(), b"");
}

#[test]
fn the_end_is_the_mode_and_comes_behind_every_byte() {
    let mut bench = bench(b"", false);
    assert!(bench.turn());
    bench.file.write_all(b"last").expect("it grows");
    bench.close();
    bench.pump.look_again();
    assert!(!bench.turn());
    assert_eq!(bench.read(), b"last");
}

#[test]
fn a_file_that_was_closed_empty_is_an_end() {
    let mut bench = bench(b"", false);
    bench.close();
    assert!(!bench.turn());
}

#[test]
fn a_terminal_gets_its_end_as_a_character() {
    let mut bench = bench(b"typed", true);
    assert!(bench.turn());
    bench.close();
    bench.pump.look_again();
    assert!(!bench.turn());
    assert_eq!(bench.read(), [&b"typed"[..], &[TERMINAL_EOF]].concat());
}

#[test]
fn a_starter_that_goes_does_not_close_it() {
    let mut bench = bench(b"", false);
    bench.pump.starter_is_gone();
    bench.file.write_all(b"still").expect("it grows");
    assert!(bench.turn());
    assert_eq!(bench.read(), b"still");
}

#[test]
fn a_program_that_does_not_read_is_waited_for() {
    let mut bench = bench(b"", false);
    let all = vec![b'x'; 1 << 20];
    bench.file.write_all(&all).expect("it grows");
    // Nobody polls here: a full pipe shows as a turn that moves nothing.
    let before = (0..64).all(|_| bench.pump.turn());
    assert!(before);
    let mut got = 0;
    bench.close();
    while got < all.len() {
        got += bench.read().len();
        bench.pump.turn();
    }
    assert_eq!(got, all.len());
}

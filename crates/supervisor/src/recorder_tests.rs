use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use lastword_frame::binary::Decoder;
use lastword_frame::{Begin, Ordering};

use super::*;

struct Bench {
    recorder: Recorder,
    spool: std::fs::File,
    pipes: Vec<(OwnedFd, OwnedFd)>,
}

fn bench(limit: Option<u64>) -> Bench {
    let spool = tempfile::tempfile().expect("a spool");
    let copy = spool.try_clone().expect("a copy");
    let mut recorder = Recorder::new(Spool::new(copy.into()), sys::monotonic_ns(), limit);
    recorder.frame(&Frame::Begin(Begin {
        version: Begin::VERSION,
        id: [1; 16],
        boot_id: [2; 16],
        wall_ns: 3,
        ordering: Ordering::Exact,
        tty: false,
    }));
    let pipes = Stream::ALL.map(|_| {
        let (ours, theirs) = sys::pipe().expect("a pipe");
        sys::set_nonblocking(ours.as_fd()).expect("non-blocking");
        (ours, theirs)
    });
    Bench { recorder, spool, pipes: pipes.into() }
}

impl Bench {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        assert_eq!(sys::write(self.pipes[stream.index()].1.as_fd(), bytes), Ok(bytes.len()));
    }

    fn drain(&mut self, stream: Stream) -> Drained {
        let (ours, _) = &self.pipes[stream.index()];
        self.recorder.drain_pipe(stream, ours.as_fd(), true).expect("readable")
    }

    /// Records of the spool as (stream, text), dropped ones as their count.
    fn records(mut self) -> Vec<(Stream, String)> {
        self.recorder.flush().expect("room");
        let mut bytes = Vec::new();
        use std::io::Seek;
        self.spool.rewind().expect("seek");
        self.spool.read_to_end(&mut bytes).expect("read");
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        let mut records = Vec::new();
        while let Some(frame) = decoder.next().expect("good frames") {
            match frame {
                Frame::Output { stream, bytes, .. } => {
                    records.push((stream, String::from_utf8_lossy(bytes).into_owned()));
                }
                Frame::Dropped { stream, bytes, .. } => records.push((stream, bytes.to_string())),
                _ => {}
            }
        }
        records
    }
}

#[test]
fn neighbours_of_one_stream_become_one_record_and_streams_stay_in_turn() {
    let mut bench = bench(None);
    for (stream, text) in
        [(Stream::Stdout, "a"), (Stream::Stdout, "b"), (Stream::Stderr, "c"), (Stream::Stdout, "d")]
    {
        bench.write(stream, text.as_bytes());
        assert_eq!(bench.drain(stream), Drained::Open);
    }
    let expected = [(Stream::Stdout, "ab"), (Stream::Stderr, "c"), (Stream::Stdout, "d")];
    assert_eq!(bench.records(), expected.map(|(stream, text)| (stream, text.to_owned())));
}

#[test]
fn the_limit_cuts_at_its_byte_and_counts_the_rest() {
    let mut bench = bench(Some(5));
    bench.write(Stream::Stdout, b"abc");
    bench.drain(Stream::Stdout);
    assert!(!bench.recorder.over_limit());
    bench.write(Stream::Stderr, b"defg");
    bench.drain(Stream::Stderr);
    assert!(bench.recorder.over_limit());
    for stream in Stream::ALL {
        bench.recorder.account_for_dropped(stream);
    }
    let expected = [(Stream::Stdout, "abc"), (Stream::Stderr, "de"), (Stream::Stderr, "2")];
    assert_eq!(bench.records(), expected.map(|(stream, text)| (stream, text.to_owned())));
}

#[test]
fn exactly_the_limit_is_not_over_it() {
    let mut bench = bench(Some(3));
    bench.write(Stream::Stdout, b"abc");
    bench.drain(Stream::Stdout);
    assert!(!bench.recorder.over_limit());
    bench.recorder.account_for_dropped(Stream::Stdout);
    assert_eq!(bench.records(), [(Stream::Stdout, "abc".to_owned())]);
}

/// In packet mode (O_DIRECT) a read ends at each packet, and one with too little room throws the packet's rest away.
#[test]
fn packets_are_read_whole_and_all_of_them() {
    let mut bench = bench(None);
    let (ours, theirs) = sys::pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::DIRECT).expect("packet mode");
    for letter in [b'a', b'b', b'c'] {
        assert_eq!(sys::write(theirs.as_fd(), &[letter; 3000]), Ok(3000));
    }
    sys::set_nonblocking(ours.as_fd()).expect("non-blocking");
    assert_eq!(bench.recorder.drain_pipe(Stream::Stdout, ours.as_fd(), true), Ok(Drained::Open));
    let text: String = ["a", "b", "c"].map(|letter| letter.repeat(3000)).concat();
    assert_eq!(bench.records(), [(Stream::Stdout, text)]);
}

#[test]
fn a_flood_is_cut_into_records_without_losing_a_byte() {
    let mut bench = bench(None);
    sys::set_pipe_size(bench.pipes[0].0.as_fd(), 1 << 20).expect("a large pipe");
    let mut expected = Vec::new();
    for round in 0..20u8 {
        let chunk = vec![b'a' + round; 300_000];
        bench.write(Stream::Stdout, &chunk);
        expected.extend(chunk);
        bench.drain(Stream::Stdout);
    }
    let records = bench.records();
    assert!(records.iter().all(|(_, text)| text.len() <= OUTPUT_BYTES_MAX));
    let got: Vec<u8> = records.iter().flat_map(|(_, text)| text.bytes()).collect();
    assert!(got == expected);
}

#[test]
fn without_a_writer_the_end_is_found_after_the_last_byte() {
    let mut bench = bench(None);
    bench.write(Stream::Stdout, b"last");
    let (ours, theirs) = bench.pipes.remove(0);
    drop(theirs);
    assert_eq!(bench.recorder.drain_pipe(Stream::Stdout, ours.as_fd(), true), Ok(Drained::Open));
    assert_eq!(bench.recorder.drain_pipe(Stream::Stdout, ours.as_fd(), true), Ok(Drained::Eof));
    assert_eq!(bench.records(), [(Stream::Stdout, "last".to_owned())]);
}

//! The frames of a transcript.

use crate::seal::Seal;

/// Which of the program's two streams. The numbers are the wire values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stream {
    Stdout = 1,
    Stderr = 2,
}

impl Stream {
    pub const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    pub fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(Stream::Stdout),
            2 => Some(Stream::Stderr),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }

    /// 0 for stdout, 1 for stderr: the place in arrays kept per stream.
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// What the order of the records says about the order of the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ordering {
    /// If write X returned before write Y was entered, X has the lower seq.
    Exact = 1,
    /// The order in which bytes were read. Within one stream it is still the order of the writes.
    Arrival = 2,
}

impl Ordering {
    pub fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(Ordering::Exact),
            2 => Some(Ordering::Arrival),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Ordering::Exact => "exact",
            Ordering::Arrival => "arrival",
        }
    }
}

/// The first frame. Its layout never changes: a reader must be able to say "newer than I am".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Format version, [`Begin::VERSION`] when written by this build.
    pub version: u16,
    /// The execution's UUIDv7.
    pub id: [u8; 16],
    /// `/proc/sys/kernel/random/boot_id` of the machine that ran it.
    pub boot_id: [u8; 16],
    /// CLOCK_REALTIME at the anchor, nanoseconds since 1970. A frame's wall time is this plus its own `time`.
    pub wall_ns: i64,
    /// What the supervisor set out to keep; a later [`Note::Arrival`] may lower it.
    pub ordering: Ordering,
    /// The program has a PTY: there is one stream, stdout.
    pub tty: bool,
}

impl Begin {
    pub const VERSION: u16 = 1;
}

/// One frame. `time` is nanoseconds of CLOCK_MONOTONIC since the anchor in [`Begin`], and never goes back.
///
/// `seq` counts from 0 without a gap over [`Frame::Output`] and [`Frame::Dropped`], the *records*.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one frame lives at a time, and a box per seal would buy nothing"
)]
pub enum Frame<'a> {
    Begin(Begin),
    /// Bytes of the program, 1 to [`crate::limits::OUTPUT_BYTES_MAX`] of them.
    Output {
        seq: u64,
        time: u64,
        stream: Stream,
        bytes: &'a [u8],
    },
    /// So many bytes of that stream were read and thrown away, over the output limit or for want of disk.
    Dropped {
        seq: u64,
        time: u64,
        stream: Stream,
        bytes: u64,
    },
    Note {
        time: u64,
        note: Note,
    },
    /// The last frame. Nothing may follow.
    Seal(Seal),
}

/// What happened, beside output. Notes carry no seq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The program's exec succeeded: from here on a retry is not safe.
    Started,
    /// From record `from_seq` on the ordering is `arrival` only. Written at most once.
    Arrival { from_seq: u64, why: String },
    /// The main process has ended; output after this came from processes that it left behind.
    MainEnded,
    /// No writer is left on this stream and all of it was read.
    StreamEnd { stream: Stream },
    /// What matched a declared output and was not kept. At most once for a path; a path over
    /// [`crate::limits::TEXT_BYTES_MAX`] is cut, and an empty one stands for what is not listed by itself.
    OutputRefused { path: Vec<u8>, why: String },
}

impl Note {
    /// Name of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Note::Started => "started",
            Note::Arrival { .. } => "arrival",
            Note::MainEnded => "main_ended",
            Note::StreamEnd { .. } => "stream_end",
            Note::OutputRefused { .. } => "output_refused",
        }
    }
}

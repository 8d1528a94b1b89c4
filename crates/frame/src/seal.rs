//! The seal: what a transcript must add up to, and how the run ended.

use crate::limits::{OUTPUT_FILES_MAX, OUTPUT_LIST_BYTES_MAX, TEXT_BYTES_MAX};
use crate::payload::OUTPUT_FILE_FIXED_BYTES;
use crate::record::Ordering;

/// Why the run came to its end, as the supervisor saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The main process ended by itself.
    Ended,
    WallTime,
    CpuTime,
    OutputLimit,
    Cancelled,
    /// The disk that holds the spool was full for longer than we wait.
    StorageFull,
    /// The program was never started. `step` names what failed (`exec`, `mount /usr`), `errno` is the kernel's answer or 0.
    StartFailure {
        step: String,
        errno: i32,
        message: String,
    },
    /// The supervisor met an error of its own and ended the run.
    Internal {
        message: String,
    },
    /// The main process failed by itself, and its writable file system was full at that moment.
    DiskLimit,
    /// The compiler said no: what it printed is the transcript, and the program was never run.
    CompileFailed,
    /// The image that the run asked for could not be had.
    ImageUnavailable {
        message: String,
    },
}

impl Cause {
    /// The step of a start failure that is nobody's but the starter's: it went away before it gave its word, so the program was
    /// surely not started, and another one may start it.
    pub const STARTER_GONE: &'static str = "wait for the word to start";

    /// Name of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Cause::Ended => "ended",
            Cause::WallTime => "wall_time",
            Cause::CpuTime => "cpu_time",
            Cause::OutputLimit => "output_limit",
            Cause::Cancelled => "cancelled",
            Cause::StorageFull => "storage_full",
            Cause::StartFailure { .. } => "start_failure",
            Cause::Internal { .. } => "internal",
            Cause::DiskLimit => "disk_limit",
            Cause::CompileFailed => "compile_failed",
            Cause::ImageUnavailable { .. } => "image_unavailable",
        }
    }
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It never ran.
    None,
    Code(u8),
    /// Signal number.
    Signal(u8),
}

/// How a stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamEnd {
    /// No writer was left, and everything was read.
    Eof = 1,
    /// A writer was left that could not be ended. What it may still write is not here.
    LeakedWriter = 2,
    /// Reading failed, or was given up with bytes left.
    Cut = 3,
}

impl StreamEnd {
    pub fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(StreamEnd::Eof),
            2 => Some(StreamEnd::LeakedWriter),
            3 => Some(StreamEnd::Cut),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            StreamEnd::Eof => "eof",
            StreamEnd::LeakedWriter => "leaked_writer",
            StreamEnd::Cut => "cut",
        }
    }
}

/// One stream's part of the seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSeal {
    /// Bytes in this stream's records.
    pub bytes: u64,
    /// Bytes that were read and dropped.
    pub dropped: u64,
    /// BLAKE3 over this stream's bytes in order.
    pub blake3: [u8; 32],
    pub end: StreamEnd,
}

/// What the run used. `None` where the machine doesn't say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From exec to the end of the main process.
    pub wall_ns: u64,
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub processes_peak: Option<u64>,
    /// `processes_peak` was sampled, not counted by the kernel: the true peak may be higher.
    pub processes_sampled: bool,
    /// Processes killed by the kernel for want of memory.
    pub oom_kills: Option<u64>,
}

/// A declared output file, copied out after the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Path as the program knew it; bytes, because names may be anything.
    pub path: Vec<u8>,
    pub bytes: u64,
    pub blake3: [u8; 32],
}

impl OutputFile {
    /// What an entry with this path takes of [`OUTPUT_LIST_BYTES_MAX`].
    pub fn list_bytes(path: &[u8]) -> usize {
        OUTPUT_FILE_FIXED_BYTES + path.len()
    }
}

/// The last frame of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Nanoseconds since the anchor.
    pub time: u64,
    /// Output and Dropped frames before this one.
    pub records: u64,
    /// In order of [`crate::Stream::index`].
    pub streams: [StreamSeal; 2],
    /// BLAKE3 over every record's (seq, time, stream, kind, length): what the two stream digests don't cover.
    pub order_blake3: [u8; 32],
    pub ordering: Ordering,
    /// With [`Ordering::Arrival`]: records below this seq are still in exact order.
    pub exact_until_seq: Option<u64>,
    pub cause: Cause,
    pub exit: Exit,
    /// Exec succeeded at this time.
    pub started: Option<u64>,
    /// The main process ended at this time.
    pub ended: Option<u64>,
    pub usage: Usage,
    pub outputs: Vec<OutputFile>,
}

impl Seal {
    /// The leading entries of `outputs` that a frame has room for, which are the ones that get encoded.
    ///
    /// An entry whose path is over [`TEXT_BYTES_MAX`] ends the list: a cut path would name another file.
    /// Who builds a seal compares lengths beforehand, so that files left out are told of.
    pub fn outputs_that_fit(&self) -> &[OutputFile] {
        let mut room = OUTPUT_LIST_BYTES_MAX;
        let fits = self.outputs.iter().take(OUTPUT_FILES_MAX).take_while(|file| {
            let wanted = OutputFile::list_bytes(&file.path);
            let fits = file.path.len() <= TEXT_BYTES_MAX && wanted <= room;
            room = room.saturating_sub(wanted);
            fits
        });
        let count = fits.count();
        &self.outputs[..count]
    }

    /// `None` if the transcript is complete as far as the supervisor saw, else why not.
    /// A program's own failure never makes a transcript incomplete.
    pub fn why_incomplete(&self) -> Option<String> {
        use crate::record::Stream;
        for stream in Stream::ALL {
            let of = &self.streams[stream.index()];
            if of.dropped > 0 {
                return Some(format!("{} bytes of {} were dropped", of.dropped, stream.name()));
            }
            match of.end {
                StreamEnd::Eof => {}
                StreamEnd::LeakedWriter => return Some(format!("{} still has a writer", stream.name())),
                StreamEnd::Cut => return Some(format!("{} was not read to its end", stream.name())),
            }
        }
        None
    }
}

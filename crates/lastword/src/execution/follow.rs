//! Reads a spool while it grows: records to a sink, everything to the verifier.

use std::fs::File;
use std::os::unix::fs::FileExt;

use lastword_frame::Frame;
use lastword_frame::binary::Decoder;
use lastword_frame::verify::{Report, Verifier};
use uuid::Uuid;

use super::{Error, Sink};

/// Bytes of the spool that one read takes.
const READ_BYTES: usize = 256 * 1024;

pub(crate) struct Follower {
    id: Uuid,
    offset: u64,
    buffer: Vec<u8>,
    decoder: Decoder,
    verifier: Verifier,
    wall_ns: i64,
    damaged: bool,
}

impl Follower {
    pub(crate) fn new(id: Uuid) -> Follower {
        Follower {
            id,
            offset: 0,
            buffer: vec![0; READ_BYTES],
            decoder: Decoder::new(),
            verifier: Verifier::new(),
            wall_ns: 0,
            damaged: false,
        }
    }

    /// Takes all that is there now.
    pub(crate) fn read(&mut self, spool: &File, sink: &mut dyn Sink) -> Result<(), Error> {
        loop {
            let n = match spool.read_at(&mut self.buffer, self.offset) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Spool { id: self.id, source }),
            };
            self.offset += n as u64;
            self.verifier.push(&self.buffer[..n]);
            if !self.damaged {
                self.decoder.push(&self.buffer[..n]);
                self.deliver(sink);
            }
        }
    }

    fn deliver(&mut self, sink: &mut dyn Sink) {
        loop {
            match self.decoder.next() {
                Ok(Some(Frame::Begin(begin))) => self.wall_ns = begin.wall_ns,
                Ok(Some(Frame::Output { seq, time, stream, bytes })) => {
                    sink.record(stream.into(), self.wall_ns.saturating_add(time as i64), seq, bytes);
                }
                Ok(Some(Frame::Dropped { seq, time, stream, bytes })) => {
                    sink.dropped(stream.into(), self.wall_ns.saturating_add(time as i64), seq, bytes);
                }
                Ok(Some(Frame::Note { .. } | Frame::Seal(_))) => {}
                Ok(None) => return,
                Err(_) => {
                    // The verifier meets the same and says so.
                    self.damaged = true;
                    return;
                }
            }
        }
    }

    pub(crate) fn finish(self) -> Report {
        self.verifier.finish()
    }
}

/// Reads without showing anything.
pub(crate) struct Silent;

impl Sink for Silent {
    fn record(&mut self, _: lastword_api::Stream, _: i64, _: u64, _: &[u8]) {}
    fn dropped(&mut self, _: lastword_api::Stream, _: i64, _: u64, _: u64) {}
}

//! From the program's descriptors to frames in the spool: reads, numbers, stamps, counts, drops over the limit.

use std::os::fd::{AsRawFd, BorrowedFd};

use lastword_frame::binary::{self, HEADER_BYTES};
use lastword_frame::limits::OUTPUT_BYTES_MAX;
use lastword_frame::tally::Tally;
use lastword_frame::{Frame, Note, Seal, Stream};
use lastword_sandbox::sys::{self, Errno};

use crate::limits::{BUFFER_BYTES, NOTES_BYTES, READ_BYTES_MIN, READS_MAX, TERMINAL_READ_BYTES};
use crate::spool::Spool;

/// Why reading stopped short.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The disk has no room: nothing was lost, try again later.
    Storage(Errno),
    /// The descriptor can't be read.
    Read(Errno),
}

/// What one turn of reading found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    Open,
    Eof,
    /// The terminal threw away what it had accepted (tcflush, or an interrupt character): nobody can know how much.
    Discarded,
}

/// Whether a pipe is empty and has no writer. A read of 0 bytes alone doesn't say so.
fn at_end(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut fds = [sys::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 }];
    sys::poll(&mut fds, Some(0))?;
    // In this order: bytes that come after a hang-up don't exist.
    Ok(fds[0].revents & libc::POLLHUP != 0 && sys::readable_bytes(fd)? == 0)
}

/// The record that is being filled; its header is written when it is closed.
struct OpenRecord {
    stream: Stream,
    at: usize,
    len: usize,
    time: u64,
}

pub(crate) struct Recorder {
    spool: Spool,
    tally: Tally,
    seq: u64,
    anchor_ns: u64,
    last_time: u64,
    buffer: Vec<u8>,
    used: usize,
    open: Option<OpenRecord>,
    /// Bytes of both streams that may still be recorded.
    left: u64,
    /// Read and thrown away, not yet accounted for.
    dropped: [u64; 2],
    over_limit: bool,
    read_total: u64,
    /// What stopped a frame that was too large for the buffer.
    torn: Option<Errno>,
    /// The disk is given up: read on, but count everything as dropped.
    pub(crate) give_up_storage: bool,
}

impl Recorder {
    pub(crate) fn new(spool: Spool, anchor_ns: u64, output_limit: Option<u64>) -> Recorder {
        Recorder {
            spool,
            tally: Tally::new(),
            seq: 0,
            anchor_ns,
            last_time: 0,
            buffer: vec![0; BUFFER_BYTES],
            used: 0,
            open: None,
            left: output_limit.unwrap_or(u64::MAX),
            dropped: [0; 2],
            over_limit: false,
            read_total: 0,
            torn: None,
            give_up_storage: false,
        }
    }

    /// Nanoseconds since the anchor; never goes back.
    pub(crate) fn now(&mut self) -> u64 {
        self.last_time = self.last_time.max(sys::monotonic_ns().saturating_sub(self.anchor_ns));
        self.last_time
    }

    pub(crate) fn last_time(&self) -> u64 {
        self.last_time
    }

    /// The seq that the next record will have.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.close_record();
        self.seq
    }

    pub(crate) fn over_limit(&self) -> bool {
        self.over_limit
    }

    /// Bytes read from the program so far, kept or not.
    pub(crate) fn read_total(&self) -> u64 {
        self.read_total
    }

    /// Reads what a pipe holds at this moment, and not what a quick writer adds meanwhile. `ready`: poll has said that there is
    /// something, if only an end.
    pub(crate) fn drain_pipe(
        &mut self,
        stream: Stream,
        fd: BorrowedFd<'_>,
        ready: bool,
    ) -> Result<Drained, Stopped> {
        let time = self.now();
        let mut left = sys::readable_bytes(fd).map_err(Stopped::Read)?;
        if left == 0 && !ready {
            return Ok(Drained::Open);
        }
        // Before room is asked for: an end takes none, and must be seen on a full disk, too.
        if left == 0 && at_end(fd).map_err(Stopped::Read)? {
            return Ok(Drained::Eof);
        }
        for _ in 0..READS_MAX {
            let room = self.room(stream, time)?;
            match sys::read(fd, &mut self.buffer[self.used..self.used + room]) {
                // No writer is left; or an empty packet, which a write that failed halfway leaves behind.
                Ok(0) if at_end(fd).map_err(Stopped::Read)? => return Ok(Drained::Eof),
                Ok(n) => {
                    self.keep(stream, n);
                    left = left.saturating_sub(n);
                }
                Err(Errno(libc::EINTR)) => continue,
                Err(Errno(libc::EAGAIN)) => return Ok(Drained::Open),
                Err(error) => return Err(Stopped::Read(error)),
            }
            if left == 0 {
                break;
            }
        }
        Ok(Drained::Open)
    }

    /// Reads once from a PTY master in packet mode (TIOCPKT), where each read starts with a status byte.
    pub(crate) fn drain_terminal(&mut self, stream: Stream, fd: BorrowedFd<'_>) -> Result<Drained, Stopped> {
        let time = self.now();
        let room = self.room(stream, time)?;
        let mut packet = vec![0; room.min(TERMINAL_READ_BYTES)];
        match sys::read(fd, &mut packet) {
            // EIO: no slave is open any more.
            Ok(0) | Err(Errno(libc::EIO)) => Ok(Drained::Eof),
            Ok(n) if packet[0] == sys::TIOCPKT_DATA => {
                self.buffer[self.used..self.used + n - 1].copy_from_slice(&packet[1..n]);
                self.keep(stream, n - 1);
                Ok(Drained::Open)
            }
            Ok(_) if packet[0] & sys::TIOCPKT_FLUSHWRITE != 0 => Ok(Drained::Discarded),
            Ok(_) | Err(Errno(libc::EINTR | libc::EAGAIN)) => Ok(Drained::Open),
            Err(error) => Err(Stopped::Read(error)),
        }
    }

    /// Finds room to read into: the rest of the open record, or a new one. Writes out first when the buffer is full.
    fn room(&mut self, stream: Stream, time: u64) -> Result<usize, Stopped> {
        if self.give_up_storage {
            // What was recorded before has its room on disk. What is read now goes behind it and is only counted.
            let _ = self.flush();
            return Ok(OUTPUT_BYTES_MAX.min(self.buffer.len() - self.used));
        }
        let full = |open: &OpenRecord| OUTPUT_BYTES_MAX - open.len < READ_BYTES_MIN;
        if self.open.as_ref().is_some_and(|open| open.stream != stream || full(open)) {
            self.close_record();
        }
        if self.used + HEADER_BYTES + OUTPUT_BYTES_MAX + NOTES_BYTES > self.buffer.len() {
            self.flush().map_err(Stopped::Storage)?;
        }
        self.spool.reserve(self.used + HEADER_BYTES + OUTPUT_BYTES_MAX).map_err(Stopped::Storage)?;
        let open = self.open.get_or_insert_with(|| {
            let at = self.used;
            self.used += HEADER_BYTES;
            OpenRecord { stream, at, len: 0, time }
        });
        Ok(OUTPUT_BYTES_MAX - open.len)
    }

    /// Takes `n` bytes that were just read behind `used` into the open record, as far as the limit allows.
    fn keep(&mut self, stream: Stream, n: usize) {
        self.read_total += n as u64;
        let kept = match &mut self.open {
            Some(open) => {
                let kept = n.min(usize::try_from(self.left).unwrap_or(usize::MAX));
                open.len += kept;
                self.used += kept;
                self.left -= kept as u64;
                kept
            }
            None => 0,
        };
        self.dropped[stream.index()] += (n - kept) as u64;
        self.over_limit |= kept < n && !self.give_up_storage;
    }

    /// Whether the disk takes what is here and one more record.
    pub(crate) fn has_room(&mut self) -> bool {
        self.flush().is_ok() && self.spool.reserve(self.used + HEADER_BYTES + OUTPUT_BYTES_MAX).is_ok()
    }

    /// Whether the disk takes what is here and so many bytes of notes and seal. Room that a run always has for those is not
    /// counted.
    pub(crate) fn reserve_for_end(&mut self, bytes: usize) -> bool {
        self.flush().is_ok() && self.spool.reserve(self.used + bytes).is_ok()
    }

    fn close_record(&mut self) {
        let Some(OpenRecord { stream, at, len, time }) = self.open.take() else { return };
        if len == 0 {
            self.used = at;
            return;
        }
        let (start, end) = (at + HEADER_BYTES, at + HEADER_BYTES + len);
        let header = binary::output_header(self.seq, time, stream, &self.buffer[start..end]);
        self.buffer[at..start].copy_from_slice(&header);
        self.tally.output(self.seq, time, stream, &self.buffer[start..end]);
        self.seq += 1;
    }

    /// Adds a frame that is no output.
    pub(crate) fn frame(&mut self, frame: &Frame<'_>) {
        self.close_record();
        let mut bytes = Vec::new();
        binary::encode(frame, &mut bytes);
        if self.used + bytes.len() > self.buffer.len() {
            // Only a seal with many output files: there is room for everything else (NOTES_BYTES).
            let _ = self.flush();
        }
        if self.used + bytes.len() <= self.buffer.len() {
            self.buffer[self.used..self.used + bytes.len()].copy_from_slice(&bytes);
            self.used += bytes.len();
        } else if self.used == 0 {
            let (_, error) = self.spool.write(&bytes);
            self.torn = self.torn.or(error);
        }
    }

    pub(crate) fn note(&mut self, note: Note) {
        let time = self.now();
        self.frame(&Frame::Note { time, note });
    }

    /// Hands everything so far to the kernel. On a full disk the rest stays here.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        self.close_record();
        let (done, error) = self.spool.write(&self.buffer[..self.used]);
        self.buffer.copy_within(done..self.used, 0);
        self.used -= done;
        error.map_or(Ok(()), Err)
    }

    pub(crate) fn has_unwritten(&self) -> bool {
        self.used > 0
    }

    /// The record of what this stream dropped, so that nothing goes in silence. Once, after its last byte was read.
    pub(crate) fn account_for_dropped(&mut self, stream: Stream) {
        self.close_record();
        let bytes = std::mem::take(&mut self.dropped[stream.index()]);
        if bytes > 0 {
            let time = self.now();
            self.frame(&Frame::Dropped { seq: self.seq, time, stream, bytes });
            self.tally.dropped(self.seq, time, stream, bytes);
            self.seq += 1;
        }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn seal(&mut self, seal: Seal) -> Result<(), Errno> {
        self.frame(&Frame::Seal(seal));
        self.flush()?;
        self.torn.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;

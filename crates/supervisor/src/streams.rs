//! Reading the program's streams, and the announced calls that put them in order.

use std::os::fd::AsFd;

use lastword_frame::{Cause, Note, Ordering, Stream, StreamEnd};

use crate::limits::{ANNOUNCED_WAIT_NS, SMALL_WRITE_BYTES};
use crate::notify::Listener;
use crate::recorder::{Drained, Stopped};
use crate::run::Run;

impl Run<'_> {
    pub(crate) fn take_notification(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        match listener.receive() {
            Ok(Some(notification)) => {
                self.held = Some(notification);
                self.answer();
            }
            Ok(None) => {}
            // No process uses the filter any more.
            Err(_) => self.listener = None,
        }
    }

    /// Reads both pipes as they are now, then lets the announced call happen: whatever was written by calls that have
    /// returned is recorded before what this one is going to write.
    pub(crate) fn answer(&mut self) {
        self.read_both();
        if self.storage_full_since.is_some() {
            return;
        }
        if let (Some(notification), Some(listener)) = (self.held.take(), &self.listener) {
            let small = Listener::most_bytes(&notification) <= SMALL_WRITE_BYTES;
            self.look_again = small.then(|| self.recorder.last_time() + ANNOUNCED_WAIT_NS);
            listener.proceed(&notification);
        }
    }

    pub(crate) fn read_both(&mut self) {
        for stream in Stream::ALL {
            self.read_stream(stream, false);
        }
    }

    /// `ready`: poll has said that there is something to read, if only the end.
    pub(crate) fn read_stream(&mut self, stream: Stream, ready: bool) {
        let source = &mut self.sources[stream.index()];
        let Some(fd) = &source.fd else { return };
        let drained = if self.plan.program.tty {
            self.recorder.drain_terminal(stream, fd.as_fd())
        } else {
            self.recorder.drain_pipe(stream, fd.as_fd(), ready)
        };
        match drained {
            Ok(Drained::Open) => {}
            Ok(Drained::Discarded) => source.end = StreamEnd::Cut,
            Ok(Drained::Eof) => {
                source.fd = None;
                self.recorder.account_for_dropped(stream);
                self.recorder.note(Note::StreamEnd { stream });
            }
            Err(Stopped::Storage(_)) => self.storage_full(),
            Err(Stopped::Read(_)) => {
                source.fd = None;
                source.end = StreamEnd::Cut;
            }
        }
        if self.ordering == Ordering::Exact
            && self.listener.as_ref().is_some_and(|listener| !listener.covers(self.recorder.read_total()))
        {
            let from_seq = self.recorder.next_seq().saturating_sub(1);
            self.lose_exactness(from_seq, "bytes arrived that no announced call can have written");
        }
        if self.recorder.over_limit() && self.plan.capture.kill_at_output_limit {
            self.end(Cause::OutputLimit);
        }
    }

    pub(crate) fn lose_exactness(&mut self, from_seq: u64, why: &str) {
        if self.ordering == Ordering::Exact && !self.plan.program.tty {
            self.ordering = Ordering::Arrival;
            self.exact_until_seq = Some(from_seq);
            self.recorder.note(Note::Arrival { from_seq, why: why.into() });
        }
    }
}

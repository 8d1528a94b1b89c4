//! After the end: read the meters, remove the control groups, seal.

use std::os::fd::AsFd;

use lastword_frame::{Cause, Exit, Note, OutputFile, Seal, Stream, StreamEnd, StreamSeal, Usage};
use lastword_sandbox::cgroup::Groups;
use lastword_sandbox::sys::Errno;

use crate::outputs;
use crate::run::Run;

impl Run<'_> {
    /// Writes the last frames. Nothing of the sandbox is left when this returns.
    pub(crate) fn settle(mut self) -> Result<(), Errno> {
        let usage = self.usage();
        let outputs = self.collect_outputs();
        if let Some(groups) = self.groups.take() {
            // What can't be removed now is found by the next start: it carries the execution's id.
            groups.remove();
        }
        for stream in Stream::ALL {
            self.recorder.account_for_dropped(stream);
        }
        let time = self.recorder.now();
        let exit = match (self.exit, self.started) {
            (Some(exit), _) => exit,
            (None, None) => Exit::None,
            // Killed together with its namespace: nobody was left to say so.
            (None, Some(_)) => Exit::Signal(libc::SIGKILL as u8),
        };
        let seal = Seal {
            time,
            records: self.recorder.tally().records(),
            streams: Stream::ALL.map(|stream| self.stream_seal(stream)),
            order_blake3: self.recorder.tally().order_blake3(),
            ordering: self.ordering,
            exact_until_seq: self.exact_until_seq,
            cause: self.cause.take().unwrap_or(Cause::Ended),
            exit,
            started: self.started,
            ended: self.ended.or(self.started.map(|_| time)),
            usage,
            outputs,
        };
        debug_assert_eq!(
            seal.outputs_that_fit().len(),
            seal.outputs.len(),
            "the pack has more than the seal"
        );
        self.recorder.seal(seal)
    }

    /// Only with init reaped, because then no process of the program is left.
    fn collect_outputs(&mut self) -> Vec<OutputFile> {
        let (Some(outputs), Some(pack), Some(_)) = (&self.plan.outputs, self.pack.take(), self.started)
        else {
            return Vec::new();
        };
        let (None, Some(scratch)) = (&self.init, self.scratch.take()) else {
            let why = "the sandbox was not at its end, or its files can't be reached".into();
            self.recorder.note(Note::OutputRefused { path: Vec::new(), why });
            return Vec::new();
        };
        let recorder = &mut self.recorder;
        let reserve = |bytes| recorder.reserve_for_end(bytes);
        let collected = outputs::collect(self.plan, outputs, scratch.as_fd(), pack.as_fd(), reserve);
        for note in collected.refused.notes() {
            self.recorder.note(note);
        }
        collected.files
    }

    fn stream_seal(&self, stream: Stream) -> StreamSeal {
        let (bytes, dropped, blake3) = self.recorder.tally().stream(stream);
        let end = self.sources[stream.index()].end;
        debug_assert!(end != StreamEnd::Eof || self.sources[stream.index()].fd.is_none());
        StreamSeal { bytes, dropped, blake3, end }
    }

    fn usage(&self) -> Usage {
        let groups = self.groups.as_ref();
        let cpu = groups.and_then(Groups::cpu_ns);
        let counted = groups.and_then(Groups::processes_peak);
        let started = self.started.is_some();
        let sampled = (started && self.processes_sampled > 0).then_some(self.processes_sampled);
        Usage {
            wall_ns: match (self.started, self.ended) {
                (Some(from), Some(to)) => to - from,
                (Some(from), None) => self.recorder.last_time() - from,
                _ => 0,
            },
            cpu_user_ns: started.then_some(cpu.map_or(self.rusage.user_ns, |(user, _)| user)),
            cpu_system_ns: started.then_some(cpu.map_or(self.rusage.system_ns, |(_, system)| system)),
            memory_peak_bytes: groups
                .and_then(Groups::memory_peak_bytes)
                .or(Some(self.rusage.maxrss_bytes))
                .filter(|bytes| *bytes > 0),
            processes_peak: counted.or(sampled),
            processes_sampled: counted.is_none() && sampled.is_some(),
            oom_kills: groups.and_then(Groups::oom_kills),
        }
    }
}

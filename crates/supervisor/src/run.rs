//! The life of one run.
//!
//! ```text
//!                 Failed                      Failed (exec)
//!      +------------------------------+-----------------------+
//!      |                              |                       v
//!   Building --Ready and Go--> Starting --exec--> Running   Ending --both streams at their end--> Over -> seal
//!                                                  |  |       ^
//!                            main process has ended|  |       |
//!                                                  v  +-------+ a limit, a cancel, a full disk
//!                                                Grace -------^ no process left, or the grace is over
//! ```
//! Ending: SIGKILL to init, with which the kernel ends every process of its pid namespace; then both pipes are read until
//! no writer is left. Readers are never closed early. With a PTY, init first ends all others while it holds the session.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use lastword_frame::{Cause, Exit, Note, Ordering, Stream, StreamEnd};
use lastword_sandbox::cgroup::Groups;
use lastword_sandbox::message::Message;
use lastword_sandbox::plan::Plan;
use lastword_sandbox::sys::{self, Errno, Notification, pid_t, pollfd};

use crate::control::Control;
use crate::limits::*;
use crate::notify::Listener;
use crate::recorder::Recorder;
use crate::start::{self, Input};
use crate::starter::{Passed, Starter, Word};
use crate::stdin::StdinPump;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Building,
    Starting,
    Running,
    Grace,
    Ending,
    Over,
}

/// One of the program's streams.
pub(crate) struct Source {
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) end: StreamEnd,
}

/// What a descriptor in the poll list means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Child,
    Listener,
    Stream(Stream),
    Init,
    InitGone,
    Starter,
    Control,
    Stdin,
    Signals,
}

/// CPU time and memory as init or wait4 reported it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rusage {
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    pub(crate) maxrss_bytes: u64,
}

pub(crate) struct Run<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) recorder: Recorder,
    pub(crate) starter: Starter,
    /// Lets others than the starter speak to us, also when it is gone.
    pub(crate) control: Option<Control>,
    pub(crate) phase: Phase,
    pub(crate) sources: [Source; 2],
    pub(crate) groups: Option<Groups>,
    pub(crate) cause: Option<Cause>,
    pub(crate) exit: Option<Exit>,
    pub(crate) ordering: Ordering,
    pub(crate) exact_until_seq: Option<u64>,
    /// Nanoseconds since the anchor, like every time here.
    pub(crate) started: Option<u64>,
    pub(crate) ended: Option<u64>,
    pub(crate) rusage: Rusage,
    pub(crate) processes_sampled: u64,
    pub(crate) init: Option<(pid_t, OwnedFd)>,
    pub(crate) init_socket: Option<OwnedFd>,
    pub(crate) child_socket: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) terminal_input: Option<Input>,
    pub(crate) listener: Option<Listener>,
    /// Taken, but not answered while the disk is full.
    pub(crate) held: Option<Notification>,
    pub(crate) stdin: Option<StdinPump>,
    pub(crate) signals: Option<OwnedFd>,
    /// The program's child has its filter on: exec is next.
    pub(crate) filtered: bool,
    pub(crate) ready: bool,
    pub(crate) go: bool,
    pub(crate) all_gone: bool,
    pub(crate) deadline: Option<u64>,
    pub(crate) next_cpu_check: Option<u64>,
    pub(crate) next_sample: Option<u64>,
    pub(crate) storage_full_since: Option<u64>,
    /// The spool has grown since the starter was last told.
    pub(crate) news_since: Option<u64>,
    /// Until then only announcements make us read: the pipes hold at most what the last small write put there.
    pub(crate) look_again: Option<u64>,
    pub(crate) next_news: u64,
    /// Takes the output files after the end.
    pub(crate) pack: Option<OwnedFd>,
    /// The root of the file system that they are in.
    pub(crate) scratch: Option<OwnedFd>,
    /// Dropped with the run: what they lock must not go away under the program.
    _held: Vec<OwnedFd>,
}

impl<'a> Run<'a> {
    /// Starts building at once; a failure to do so shows as the run's end.
    pub(crate) fn new(plan: &'a Plan, recorder: Recorder, starter: Starter, passed: Passed) -> Self {
        let source = || Source { fd: None, end: StreamEnd::Eof };
        let exact = !plan.filter.exact.is_empty() || plan.program.tty;
        let mut run = Run {
            plan,
            recorder,
            starter,
            control: passed.control.map(Control::new),
            phase: Phase::Building,
            sources: [source(), source()],
            groups: None,
            cause: None,
            exit: None,
            ordering: if exact { Ordering::Exact } else { Ordering::Arrival },
            exact_until_seq: if exact { None } else { Some(0) },
            started: None,
            ended: None,
            rusage: Rusage::default(),
            processes_sampled: 0,
            init: None,
            init_socket: None,
            child_socket: None,
            terminal: None,
            terminal_input: None,
            listener: None,
            held: None,
            stdin: None,
            signals: sys::signal_fd(&[libc::SIGTERM, libc::SIGINT]).ok(),
            filtered: false,
            ready: false,
            go: false,
            all_gone: false,
            deadline: None,
            next_cpu_check: None,
            next_sample: None,
            storage_full_since: None,
            news_since: None,
            look_again: None,
            next_news: 0,
            pack: passed.pack,
            scratch: None,
            _held: passed.held,
        };
        if run.ordering == Ordering::Arrival && !plan.filter.why_not_exact.is_empty() {
            let why = String::from_utf8_lossy(&plan.filter.why_not_exact).into_owned();
            run.recorder.note(Note::Arrival { from_seq: 0, why });
        }
        run.build(passed.stdin);
        run
    }

    fn build(&mut self, stdin: Option<OwnedFd>) {
        match start::start(self.plan, stdin) {
            Ok(sandbox) => {
                self.init = Some((sandbox.init, sandbox.init_pidfd));
                self.init_socket = Some(sandbox.init_socket);
                self.child_socket = Some(sandbox.child_socket);
                for (source, fd) in self.sources.iter_mut().zip(sandbox.streams) {
                    source.fd = fd;
                }
                self.stdin = sandbox.stdin;
                self.terminal_input = sandbox.terminal_input;
                self.groups = Some(sandbox.groups);
                self.deadline = Some(self.recorder.now() + SETUP_NS);
            }
            Err(error) => {
                self.fail_start(&error.step, error.errno, &error.errno.to_string());
                self.phase = Phase::Over;
            }
        }
    }

    /// Runs until everything is over and sealed. An error means that the spool couldn't be finished.
    pub(crate) fn run(mut self) -> Result<(), Errno> {
        let (mut slots, mut fds) = (Vec::new(), Vec::new());
        while self.phase != Phase::Over {
            self.write_out();
            self.poll_list(&mut slots, &mut fds);
            let now = self.recorder.now();
            let timeout = self.next_event().map(|at| at.saturating_sub(now));
            if let Err(errno) = sys::poll(&mut fds, timeout) {
                // Nothing can be known any more: end it rather than spin or hang.
                self.end(Cause::Internal { message: format!("poll: {errno}") });
                self.give_up();
                break;
            }
            for (slot, fd) in slots.iter().zip(&fds) {
                if fd.revents != 0 {
                    self.handle(*slot, fd.revents);
                }
            }
            self.watch_clock();
            self.step();
        }
        self.settle()
    }

    /// What waits in the buffer goes to the spool before we wait.
    fn write_out(&mut self) {
        if !self.recorder.has_unwritten() || self.storage_full_since.is_some() {
            return;
        }
        match self.recorder.flush() {
            Ok(()) => self.news_since = self.news_since.or(Some(self.recorder.last_time())),
            Err(_) => self.storage_full(),
        }
        self.tell_news();
    }

    /// Not for every write: waking the starter each time would cost the program more than its order does.
    fn tell_news(&mut self) {
        let now = self.recorder.last_time();
        if self.news_since.is_some() && now >= self.next_news {
            self.starter.tell_news();
            self.news_since = None;
            self.next_news = now + NEWS_NS;
        }
    }

    /// What to wait for now, into lists that keep their room from turn to turn.
    fn poll_list(&self, slots: &mut Vec<Slot>, fds: &mut Vec<pollfd>) {
        slots.clear();
        fds.clear();
        let mut add = |slot, fd: RawFd| {
            slots.push(slot);
            fds.push(pollfd { fd, events: libc::POLLIN, revents: 0 });
        };
        let raw = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        // The child first: its listener must be here before anything it announces can be understood.
        if let Some(fd) = raw(&self.child_socket) {
            add(Slot::Child, fd);
        }
        // While the disk is full nothing is read: the program waits in its write.
        if let (Some(listener), None) = (&self.listener, self.storage_full_since) {
            add(Slot::Listener, listener.raw_fd());
        }
        if self.storage_full_since.is_none() && self.look_again.is_none() {
            for stream in Stream::ALL {
                if let Some(fd) = raw(&self.sources[stream.index()].fd) {
                    add(Slot::Stream(stream), fd);
                }
            }
        }
        if let Some(fd) = raw(&self.init_socket) {
            add(Slot::Init, fd);
        }
        if let Some((_, pidfd)) = &self.init {
            add(Slot::InitGone, pidfd.as_raw_fd());
        }
        if let Some(fd) = self.starter.raw_fd() {
            add(Slot::Starter, fd);
        }
        if let Some(control) = &self.control {
            add(Slot::Control, control.raw_fd());
        }
        if let Some(fd) = raw(&self.signals) {
            add(Slot::Signals, fd);
        }
        if let (Some(pump), Phase::Running) = (&self.stdin, self.phase)
            && let Some(fd) = pump.pollfd()
        {
            slots.push(Slot::Stdin);
            fds.push(fd);
        }
    }

    fn handle(&mut self, slot: Slot, revents: i16) {
        match slot {
            Slot::Child => self.hear_child(),
            Slot::Listener if revents & libc::POLLIN != 0 => self.take_notification(),
            // Hung up: no process uses the filter any more. Asking it for a call could wait for ever.
            Slot::Listener => self.listener = None,
            Slot::Stream(stream) => self.read_stream(stream, true),
            Slot::Init => self.hear_init(),
            Slot::InitGone => self.reap_init(),
            Slot::Starter => match self.starter.listen() {
                Word::Go => self.go = true,
                Word::Cancel => self.end(Cause::Cancelled),
                Word::Gone if !self.go => self.fail_start(
                    Cause::STARTER_GONE,
                    Errno(0),
                    "whoever started this run went away before the program was started",
                ),
                Word::Gone => {
                    if let Some(pump) = &mut self.stdin {
                        pump.starter_is_gone();
                    }
                }
                Word::Nothing => {}
            },
            Slot::Control => self.hear_control(),
            Slot::Stdin => {
                if self.stdin.as_mut().is_some_and(|pump| !pump.turn()) {
                    self.stdin = None;
                }
            }
            Slot::Signals => {
                let signals = self.signals.as_ref().map(|fd| sys::read_signals(fd.as_fd()));
                if signals.is_some_and(|signals| !signals.is_empty()) {
                    self.end(Cause::Cancelled);
                }
            }
        }
    }

    // ---- the clock -------------------------------------------------------------------------------------------------

    fn next_event(&self) -> Option<u64> {
        let retry = self.storage_full_since.map(|_| self.recorder.last_time() + STORAGE_RETRY_NS);
        let news = self.news_since.map(|_| self.next_news);
        [self.deadline, self.next_cpu_check, self.next_sample, self.look_again, retry, news]
            .into_iter()
            .flatten()
            .min()
    }

    fn watch_clock(&mut self) {
        let now = self.recorder.now();
        self.tell_news();
        if self.look_again.is_some_and(|at| now >= at)
            || self.listener.is_none()
            || self.phase != Phase::Running
        {
            self.look_again = None;
        }
        if self.storage_full_since.is_some() {
            self.retry_storage(now);
            if self.phase == Phase::Ending {
                // What is left in the pipes is not late: it waits for the disk.
                self.deadline = Some(now + if self.init.is_some() { KILL_NS } else { DRAIN_NS });
            }
        }
        if self.next_sample.is_some_and(|at| now >= at) {
            self.sample();
        }
        if self.next_cpu_check.is_some_and(|at| now >= at) {
            self.check_cpu(now);
        }
        if self.deadline.is_none_or(|at| now < at) {
            return;
        }
        self.deadline = None;
        match self.phase {
            Phase::Building | Phase::Starting => {
                self.fail_start("build the sandbox", Errno(libc::ETIMEDOUT), "it took too long");
            }
            Phase::Running => self.end(Cause::WallTime),
            Phase::Grace => self.kill(),
            Phase::Ending => self.ending_is_late(),
            Phase::Over => {}
        }
    }

    fn check_cpu(&mut self, now: u64) {
        self.next_cpu_check = None;
        let used = self.groups.as_ref().and_then(Groups::cpu_ns);
        if let (Some(limit), Some((user, system))) = (self.plan.capture.cpu_ns, used) {
            let used = user + system;
            if used >= limit {
                return self.end(Cause::CpuTime);
            }
            let earliest = (limit - used) / sys::online_cpus();
            self.next_cpu_check = Some(now + earliest.max(CPU_CHECK_NS_MIN));
        }
    }

    /// Where the kernel keeps a peak there is nothing to sample.
    pub(crate) fn sample(&mut self) {
        self.next_sample = None;
        let Some(groups) = &self.groups else { return };
        if groups.processes_peak().is_some() || self.started.is_none() {
            return;
        }
        if let Some(processes) = groups.processes_now() {
            self.processes_sampled = self.processes_sampled.max(processes);
            if self.phase == Phase::Running {
                self.next_sample = Some(self.recorder.now() + SAMPLE_NS);
            }
        }
    }

    pub(crate) fn storage_full(&mut self) {
        // Given up once is given up for good: waiting again would never end.
        if self.storage_full_since.is_none() && !self.recorder.give_up_storage {
            self.storage_full_since = Some(self.recorder.now());
        }
    }

    /// Nothing was lost so far: the bytes are in our buffer, in the pipe, or still with the program.
    fn retry_storage(&mut self, now: u64) {
        let since = self.storage_full_since.take();
        if self.recorder.has_room() {
            self.read_both();
            if self.storage_full_since.is_none() {
                return self.answer();
            }
        }
        self.storage_full_since = since;
        // Where nothing was said there is nothing to wait for.
        let in_vain = self.phase == Phase::Ending && self.started.is_none();
        if in_vain || since.is_some_and(|since| now > since + STORAGE_WAIT_NS) {
            self.storage_full_since = None;
            self.recorder.give_up_storage = true;
            self.end(Cause::StorageFull);
            self.answer();
        }
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    /// Ends the run for this cause. The first cause stands.
    pub(crate) fn end(&mut self, cause: Cause) {
        if self.phase == Phase::Over {
            return;
        }
        // The main process ended by itself: that stays the cause, whatever is done to what it left behind. Output over the
        // limit counts still, because it makes the transcript incomplete.
        let replace = match (&self.cause, &cause) {
            (None, _) => true,
            (Some(Cause::Ended | Cause::DiskLimit), Cause::OutputLimit | Cause::StorageFull) => true,
            (Some(_), _) => false,
        };
        if replace {
            self.cause = Some(cause);
        }
        self.kill();
    }

    pub(crate) fn kill(&mut self) {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return;
        }
        self.sample();
        self.phase = Phase::Ending;
        self.next_cpu_check = None;
        self.next_sample = None;
        self.stdin = None;
        self.deadline = Some(self.recorder.now() + KILL_NS);
        match (&self.terminal, &self.init_socket) {
            (Some(_), Some(socket)) if self.started.is_some() => {
                let _ = Message::KillAll {}.send(socket.as_fd(), None);
                self.deadline = Some(self.recorder.now() + DRAIN_NS);
            }
            _ => self.kill_init(),
        }
    }

    fn kill_init(&mut self) {
        if let Some((_, pidfd)) = &self.init {
            let _ = sys::pidfd_kill(pidfd.as_fd());
        }
    }

    /// Moves on when the conditions of an arrow in the drawing hold.
    fn step(&mut self) {
        if self.phase == Phase::Building && self.ready && self.go {
            self.phase = Phase::Starting;
            if let Some(socket) = &self.init_socket
                && let Err(errno) = (Message::Go {}).send(socket.as_fd(), None)
            {
                self.fail_start("hand over", errno, &errno.to_string());
            }
        }
        if self.phase == Phase::Grace && self.all_gone {
            self.kill();
        }
        if self.phase == Phase::Ending {
            let at_end = self.sources.iter().all(|source| source.fd.is_none());
            if self.terminal.is_some() && self.all_gone && at_end {
                self.kill_init();
            }
            if self.init.is_none() && at_end {
                self.phase = Phase::Over;
            }
        }
    }

    fn ending_is_late(&mut self) {
        if self.init.is_some() && self.terminal.take().is_some() {
            // Init didn't get it done in time: the kernel will.
            self.kill_init();
            self.deadline = Some(self.recorder.now() + KILL_NS);
            return;
        }
        if self.init.is_some() {
            self.cause = Some(Cause::Internal { message: "the sandbox could not be killed".into() });
        }
        self.give_up();
    }

    /// Both streams end here, whatever is still in them.
    fn give_up(&mut self) {
        for source in &mut self.sources {
            if source.fd.take().is_some() {
                source.end = StreamEnd::LeakedWriter;
            }
        }
        self.kill_init();
        self.phase = Phase::Over;
    }
}

//! What init and the program's child tell us, and what their silence means.

use std::os::fd::{AsFd, OwnedFd};

use lastword_frame::{Cause, Exit, Note, Stream, StreamEnd};
use lastword_sandbox::message::{Message, Received};
use lastword_sandbox::sys::{self, Errno};

use crate::limits::DRAIN_NS;
use crate::notify::Listener;
use crate::run::{Phase, Run, Rusage};
use crate::stdin::StdinPump;

impl Run<'_> {
    /// Takes all that the child has said: its last message and the closing at exec may both be waiting.
    pub(crate) fn hear_child(&mut self) {
        while let Some(socket) = &self.child_socket {
            match Message::receive(socket.as_fd(), false) {
                Ok(Received::Message(Message::Filtered { errno }, listener)) => {
                    self.filtered = true;
                    match listener {
                        Some(listener) => self.listener = Some(Listener::new(listener)),
                        None => self.lose_exactness(0, &no_listener(errno)),
                    }
                }
                Ok(Received::Message(Message::Failed { step, errno, message }, _)) => {
                    self.hear_failure(&step, errno, &message);
                }
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) => {
                    self.child_socket = None;
                    // Closed by exec, unless the child ended before it got there: the filter is its last step.
                    if self.phase == Phase::Starting && self.cause.is_none() {
                        if self.filtered {
                            self.exec_happened();
                        } else {
                            self.fail_start("start the program", Errno(0), "it was killed before it began");
                        }
                    }
                }
                Err(errno) => {
                    self.child_socket = None;
                    self.fail_start("listen to the program's child", errno, &errno.to_string());
                }
            }
        }
    }

    fn exec_happened(&mut self) {
        let now = self.recorder.now();
        self.phase = Phase::Running;
        self.started = Some(now);
        self.recorder.note(Note::Started);
        self.deadline = self.plan.capture.wall_ns.map(|wall| now.saturating_add(wall));
        self.next_cpu_check = self.plan.capture.cpu_ns.map(|_| now);
        self.sample();
    }

    pub(crate) fn hear_init(&mut self) {
        let Some(socket) = &self.init_socket else { return };
        match Message::receive(socket.as_fd(), false) {
            Ok(Received::Message(message, fd)) => match message {
                Message::Scratch {} => self.scratch = fd,
                Message::Ready {} => {
                    self.ready = true;
                    self.take_terminal(fd);
                }
                Message::Failed { step, errno, message } => self.hear_failure(&step, errno, &message),
                Message::MainEnded { status, user_ns, system_ns, maxrss_bytes, scratch_full } => {
                    self.rusage = Rusage { user_ns, system_ns, maxrss_bytes };
                    self.main_ended(status as i32, scratch_full);
                }
                Message::AllGone { user_ns, system_ns, maxrss_bytes } => {
                    self.rusage = Rusage { user_ns, system_ns, maxrss_bytes };
                    self.all_gone = true;
                }
                _ => {}
            },
            Ok(Received::Nothing) => {}
            // Init's end shows on its pidfd.
            Ok(Received::Closed) | Err(_) => self.init_socket = None,
        }
    }

    fn take_terminal(&mut self, master: Option<OwnedFd>) {
        let Some(master) = master else { return };
        let prepared =
            sys::set_nonblocking(master.as_fd()).and_then(|()| sys::set_packet_mode(master.as_fd()));
        if let Err(errno) = prepared {
            return self.fail_start("prepare the terminal", errno, &errno.to_string());
        }
        if let (Some(input), Ok(sink)) = (self.terminal_input.take(), master.try_clone()) {
            self.stdin = Some(StdinPump::new(input.source, input.bytes, sink, true));
        }
        self.terminal = master.try_clone().ok();
        self.sources[Stream::Stdout.index()].fd = Some(master);
    }

    pub(crate) fn hear_control(&mut self) {
        let Some(control) = &self.control else { return };
        match control.listen() {
            Ok(heard) => {
                // Whatever was said: a word may have found the FIFO full of others.
                for pump in self.stdin.iter_mut() {
                    pump.look_again();
                }
                if heard.cancel {
                    self.end(Cause::Cancelled);
                }
            }
            // It can't be listened to: the starter and signals still can.
            Err(_) => self.control = None,
        }
    }

    fn hear_failure(&mut self, step: &[u8], errno: u32, message: &[u8]) {
        let (step, message) = (String::from_utf8_lossy(step), String::from_utf8_lossy(message));
        self.fail_start(&step, Errno(errno as i32), &message);
    }

    pub(crate) fn fail_start(&mut self, step: &str, errno: Errno, message: &str) {
        self.end(Cause::StartFailure { step: step.into(), errno: errno.0, message: message.into() });
    }

    fn main_ended(&mut self, status: i32, scratch_full: bool) {
        // The child socket may close and the end come in one turn: the start is told first.
        self.hear_child();
        if self.exit.is_some() || self.started.is_none() {
            return;
        }
        let exit = if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status) as u8)
        } else {
            Exit::Code(libc::WEXITSTATUS(status) as u8)
        };
        let now = self.recorder.now();
        self.exit = Some(exit);
        self.ended = Some(now);
        if self.cause.is_none() {
            self.cause = Some(self.cause_of_end(exit, scratch_full));
        }
        // What the main process wrote stands before this note.
        self.read_both();
        self.recorder.note(Note::MainEnded);
        if self.phase == Phase::Running {
            self.phase = Phase::Grace;
            self.deadline = Some(now + self.plan.capture.grace_ns);
            self.next_cpu_check = None;
        }
    }

    /// The kernel ends a process at its CPU limit (SIGKILL, as soft and hard limit are one) where no control group keeps
    /// the time.
    fn cause_of_end(&self, exit: Exit, scratch_full: bool) -> Cause {
        let used = self.rusage.user_ns + self.rusage.system_ns;
        let killed = matches!(exit, Exit::Signal(signal) if [libc::SIGKILL, libc::SIGXCPU].contains(&i32::from(signal)));
        match exit {
            _ if killed && self.plan.capture.cpu_ns.is_some_and(|limit| used >= limit) => Cause::CpuTime,
            Exit::Code(code) if code != 0 && scratch_full => Cause::DiskLimit,
            _ => Cause::Ended,
        }
    }

    pub(crate) fn reap_init(&mut self) {
        let Some((pid, _)) = self.init.take() else { return };
        // Last words of init: it may have reported and ended in one turn.
        while self.init_socket.is_some() {
            let before = (self.exit, self.all_gone, self.ready, self.cause.is_some());
            self.hear_init();
            if before == (self.exit, self.all_gone, self.ready, self.cause.is_some()) {
                break;
            }
        }
        if let Ok(Some(waited)) = sys::wait_for(pid)
            && self.rusage.user_ns + self.rusage.system_ns == 0
        {
            self.rusage = Rusage {
                user_ns: waited.user_ns,
                system_ns: waited.system_ns,
                maxrss_bytes: waited.maxrss_bytes,
            };
        }
        self.init_socket = None;
        self.child_socket = None;
        if self.terminal.take().is_some() && self.started.is_some() && !self.all_gone {
            // With its session leader a terminal is hung up, and what was written last may be gone.
            self.sources[Stream::Stdout.index()].end = StreamEnd::Cut;
        }
        if self.phase != Phase::Ending {
            // Nobody asked it to go: killed from outside, or it failed before it could say so.
            self.end(Cause::Internal { message: "the sandbox's init ended unasked".into() });
        }
        self.deadline = Some(self.recorder.now() + DRAIN_NS);
    }
}

fn no_listener(errno: u32) -> String {
    match errno as i32 {
        libc::EBUSY => "a seccomp listener exists above this sandbox".into(),
        libc::EINVAL => "this kernel has no seccomp listener that timers can't disturb (Linux 5.19)".into(),
        errno => format!("no seccomp listener: {}", Errno(errno)),
    }
}

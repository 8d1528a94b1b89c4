//! Pid 1 of the sandbox. It builds the sandbox, starts the program, reaps whatever becomes an orphan, and reports.
//!
//! ```text
//!   wait Mapped -> enter -> Ready -> wait Go -> fork program -> loop { reap, obey }
//!                    |                                             |
//!                    +-- Failed, exit                              +-- MainEnded, then AllGone
//! ```
//! The supervisor's end of the socket closing means that the supervisor is gone: init exits, and with pid 1 the kernel
//! ends everything in the namespace. The parent-death signal does the same should init itself be stuck.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::enter;
use crate::message::{Context, Message, Received, StepError};
use crate::plan::Plan;
use crate::program::{self, Handover};
use crate::sys::{self, Errno, Forked, Waited};

/// What init is given. Everything else that the supervisor had open is closed first.
pub struct Init<'a> {
    pub plan: &'a Plan,
    /// Init's end of the socket to the supervisor.
    pub socket: OwnedFd,
    pub handover: Handover,
    /// See [`enter::open_sources`].
    pub sources: Option<Vec<OwnedFd>>,
}

/// Runs as pid 1 and never returns.
pub fn run(init: Init<'_>) -> ! {
    let Init { plan, socket, handover, sources } = init;
    let mut keep = vec![socket.as_raw_fd()];
    keep.extend(handover.descriptors());
    keep.extend(sources.iter().flatten().map(AsRawFd::as_raw_fd));
    // Must not fail: the spool's lock and the supervisor's ends of the sockets are among what is closed.
    let closed = sys::close_all_but(&keep).step(|| "close what is not init's".into());
    match closed.and_then(|()| serve(plan, &socket, handover, sources)) {
        Ok(()) => sys::exit_now(0),
        Err(error) => {
            let _ = error.message().send(socket.as_fd(), None);
            sys::exit_now(1)
        }
    }
}

fn serve(
    plan: &Plan,
    socket: &OwnedFd,
    mut handover: Handover,
    sources: Option<Vec<OwnedFd>>,
) -> Result<(), StepError> {
    if !wait_for(socket, &Message::Mapped {})? {
        return Ok(());
    }
    let master = enter::enter(plan, sources)?;
    if plan.outputs.is_some() {
        let scratch = enter::open_scratch(plan)?;
        Message::Scratch {}
            .send(socket.as_fd(), Some(scratch.as_fd()))
            .step(|| "report to the supervisor".into())?;
    }
    Message::Ready {}
        .send(socket.as_fd(), master.as_ref().map(AsFd::as_fd))
        .step(|| "report to the supervisor".into())?;
    if !wait_for(socket, &Message::Go {})? {
        return Ok(());
    }
    // Blocked before the fork: an end in the first microsecond must not go unseen.
    let signals =
        sys::signal_fd(&[libc::SIGCHLD, libc::SIGTTOU, libc::SIGHUP]).step(|| "watch children".into())?;
    let mut terminal = None;
    if let Some(master) = master {
        let slave = own_terminal(&master)?;
        handover.terminal(&slave).step(|| "hand the terminal over".into())?;
        terminal = Some(slave);
    }
    let main = match sys::clone_into(0).step(|| "fork the program".into())? {
        Forked::Child => program::run(plan, handover),
        Forked::Parent { pid, .. } => pid,
    };
    // Not to be a writer of the program's streams, and to let the end of the hand-over show as a closed socket.
    drop(handover);
    // Init needs no power any more; nothing below it may find any there.
    sys::drop_capabilities().step(|| "drop init's capabilities".into())?;
    watch(plan, socket, &signals, main, terminal)
}

/// Init is the session leader, not the program: when a session leader ends, the kernel hangs its terminal up, and
/// what was written last could be lost.
fn own_terminal(master: &OwnedFd) -> Result<OwnedFd, StepError> {
    sys::setsid().step(|| "start a session".into())?;
    let slave = sys::open_pty_peer(master.as_fd()).step(|| "open the terminal".into())?;
    sys::take_terminal(slave.as_fd()).step(|| "take the terminal".into())?;
    Ok(slave)
}

/// False: the supervisor is gone.
fn wait_for(socket: &OwnedFd, wanted: &Message) -> Result<bool, StepError> {
    loop {
        match Message::receive(socket.as_fd(), true).step(|| "listen to the supervisor".into())? {
            Received::Message(message, _) if message == *wanted => return Ok(true),
            Received::Message(..) | Received::Nothing => {}
            Received::Closed => return Ok(false),
        }
    }
}

/// CPU time and memory of all that init has reaped.
#[derive(Default)]
struct Reaped {
    user_ns: u64,
    system_ns: u64,
    maxrss_bytes: u64,
}

impl Reaped {
    fn add(&mut self, waited: &Waited) {
        self.user_ns += waited.user_ns;
        self.system_ns += waited.system_ns;
        self.maxrss_bytes = self.maxrss_bytes.max(waited.maxrss_bytes);
    }
}

/// `terminal` is held open until no process is left: a program may close its terminal and open it again, and the master must
/// not take that for the end.
fn watch(
    plan: &Plan,
    socket: &OwnedFd,
    signals: &OwnedFd,
    main: i32,
    mut terminal: Option<OwnedFd>,
) -> Result<(), StepError> {
    let mut reaped = Reaped::default();
    let mut told_all_gone = false;
    let mut killing = false;
    loop {
        let mut fds = [socket.as_raw_fd(), signals.as_raw_fd()].map(|fd| sys::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        if !told_all_gone {
            sys::poll(&mut fds[..], None).step(|| "poll".into())?;
        } else {
            // Only the supervisor's word matters now.
            sys::poll(&mut fds[..1], None).step(|| "poll".into())?;
        }
        match Message::receive(socket.as_fd(), false).step(|| "listen to the supervisor".into())? {
            Received::Closed => return Ok(()),
            Received::Message(Message::KillAll {}, _) => killing = true,
            Received::Message(..) | Received::Nothing => {}
        }
        sys::read_signals(signals.as_fd());
        if killing {
            // Every process of the namespace but init; again at each turn, for what was forked meanwhile.
            let _ = sys::kill(-1, libc::SIGKILL);
        }
        if !told_all_gone && !reap(plan, socket, main, &mut reaped)? {
            told_all_gone = true;
            drop(terminal.take());
            let message = Message::AllGone {
                user_ns: reaped.user_ns,
                system_ns: reaped.system_ns,
                maxrss_bytes: reaped.maxrss_bytes,
            };
            message.send(socket.as_fd(), None).step(|| "report to the supervisor".into())?;
        }
    }
}

/// Reaps all that has ended. False: there is no child left.
fn reap(plan: &Plan, socket: &OwnedFd, main: i32, reaped: &mut Reaped) -> Result<bool, StepError> {
    loop {
        match sys::wait_any() {
            Ok(Some(waited)) => {
                reaped.add(&waited);
                if waited.pid == main {
                    let (blocks, inodes) = sys::free_space(&plan.scratch).unwrap_or((1, 1));
                    let message = Message::MainEnded {
                        status: waited.status as u32,
                        user_ns: waited.user_ns,
                        system_ns: waited.system_ns,
                        maxrss_bytes: waited.maxrss_bytes,
                        scratch_full: blocks == 0 || inodes == 0,
                    };
                    message.send(socket.as_fd(), None).step(|| "report to the supervisor".into())?;
                }
            }
            Ok(None) => return Ok(true),
            Err(Errno(libc::ECHILD)) => return Ok(false),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(StepError { step: "wait for children".into(), errno }),
        }
    }
}

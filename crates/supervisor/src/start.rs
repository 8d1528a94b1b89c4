//! Brings a sandbox up to the point where init builds it: pipes, control groups, clone, id maps.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use lastword_sandbox::cgroup::Groups;
use lastword_sandbox::enter;
use lastword_sandbox::init::{self, Init};
use lastword_sandbox::message::{Context, Message, StepError};
use lastword_sandbox::plan::{Identity, Plan, Stdin};
use lastword_sandbox::program::Handover;
use lastword_sandbox::sys::{self, Errno, Forked, pid_t};

use crate::limits::PIPE_BYTES;
use crate::stdin::{Growing, Source, StdinPump};

/// Our ends of everything that leads into the sandbox.
pub(crate) struct Sandbox {
    pub(crate) init: pid_t,
    pub(crate) init_pidfd: OwnedFd,
    pub(crate) init_socket: OwnedFd,
    pub(crate) child_socket: OwnedFd,
    /// Read ends of stdout and stderr; none with a PTY, whose master comes later.
    pub(crate) streams: [Option<OwnedFd>; 2],
    pub(crate) stdin: Option<StdinPump>,
    /// With a PTY: what to feed it, once its master is here.
    pub(crate) terminal_input: Option<Input>,
    pub(crate) groups: Groups,
}

/// Where stdin comes from: bytes, and then a source if there is one.
pub(crate) struct Input {
    pub(crate) source: Option<Source>,
    pub(crate) bytes: Vec<u8>,
}

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// The program's streams: its ends, and ours.
struct Streams {
    theirs: [OwnedFd; 3],
    ours: [Option<OwnedFd>; 2],
    stdin: Option<StdinPump>,
    terminal_input: Option<Input>,
}

/// Clones init and lets it begin. What fails in the sandbox itself is reported by init later.
pub(crate) fn start(plan: &Plan, passed_stdin: Option<OwnedFd>) -> Result<Sandbox, StepError> {
    let streams = make_streams(plan, passed_stdin)?;
    let sources = plan.identity.privileged.then(|| enter::open_sources(&plan.steps)).transpose();
    let sources = match sources {
        // Root in a container may well be without the right to copy trees here, and have it in a namespace of its own.
        Err(error) if error.errno == Errno(libc::EPERM) => None,
        sources => sources?,
    };
    let groups = Groups::create(&plan.cgroups)?;
    let procs = groups.procs()?;
    let (init_socket, init_end) = sys::message_pair().step(|| "make a socket".into())?;
    let (child_socket, child_end) = sys::message_pair().step(|| "make a socket".into())?;
    let handover =
        Handover::new(streams.theirs, procs, child_end).step(|| "prepare the program's streams".into())?;
    let forked = sys::clone_into(NAMESPACES).step(|| "clone into new namespaces".into())?;
    let Forked::Parent { pid, pidfd } = forked else {
        // In the child: everything but what it is given is closed in there.
        init::run(Init { plan, socket: init_end, handover, sources })
    };
    // Their ends are the child's alone from here on: ours would keep the streams from ending.
    drop((handover, init_end, sources));
    let sandbox = Sandbox {
        init: pid,
        init_pidfd: pidfd,
        init_socket,
        child_socket,
        streams: streams.ours,
        stdin: streams.stdin,
        terminal_input: streams.terminal_input,
        groups,
    };
    write_id_maps(pid, &plan.identity)?;
    // Only now: the maps of an undumpable child belong to root, and an ordinary user couldn't have written them.
    sys::set_undumpable().step(|| "set undumpable".into())?;
    Message::Mapped {}.send(sandbox.init_socket.as_fd(), None).step(|| "start init".into())?;
    Ok(sandbox)
}

fn make_streams(plan: &Plan, passed_stdin: Option<OwnedFd>) -> Result<Streams, StepError> {
    let input = match &plan.program.stdin {
        Stdin::Nothing {} => None,
        Stdin::Bytes { bytes } => Some(Input { source: None, bytes: bytes.0.clone() }),
        Stdin::Passed {} => {
            let source = passed_stdin.map(|fd| Source::Descriptor(unblocked(fd)));
            Some(Input { source, bytes: Vec::new() })
        }
        Stdin::Growing { first } => {
            let source = passed_stdin.map(|fd| Source::Growing(Growing::new(fd)));
            Some(Input { source, bytes: first.0.clone() })
        }
    };
    if plan.program.tty {
        // Placeholders: init puts the terminal in their place.
        let theirs = [open_null()?, open_null()?, open_null()?];
        return Ok(Streams { theirs, ours: [None, None], stdin: None, terminal_input: input });
    }
    let (stdin_theirs, stdin) = match input {
        None => (open_null()?, None),
        Some(input) => stdin_pipe(&plan.identity, input)?,
    };
    let (out_ours, out_theirs) = output_pipe(&plan.identity)?;
    let (err_ours, err_theirs) = output_pipe(&plan.identity)?;
    Ok(Streams {
        theirs: [stdin_theirs, out_theirs, err_theirs],
        ours: [Some(out_ours), Some(err_ours)],
        stdin,
        terminal_input: None,
    })
}

/// A pipe that the program can open again for writing (/dev/stdout), but not for reading back what it wrote:
/// the inode is ours, and others may only write. Where program and supervisor are one uid this keeps honest programs only.
fn output_pipe(identity: &Identity) -> Result<(OwnedFd, OwnedFd), StepError> {
    let (ours, theirs) = sys::pipe().step(|| "make a pipe".into())?;
    let mode = if identity.privileged { 0o222 } else { 0o200 };
    sys::fchmod(theirs.as_fd(), mode).step(|| "protect a pipe".into())?;
    sys::set_nonblocking(ours.as_fd()).step(|| "make a pipe".into())?;
    // Refused to a user who has many pipes already: then it stays at the default.
    let _ = sys::set_pipe_size(ours.as_fd(), PIPE_BYTES);
    Ok((ours, theirs))
}

/// The same source, opened anew so that reading it never blocks: somebody else may take what poll has promised. The flag can't
/// be set on the descriptor itself, which is shared with whoever started us. Sockets can't be opened; they have a flag per call.
fn unblocked(source: OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    // A regular file keeps its position, which a new opening would not.
    if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
        return source;
    }
    options.open(&path).map_or(source, OwnedFd::from)
}

fn stdin_pipe(identity: &Identity, input: Input) -> Result<(OwnedFd, Option<StdinPump>), StepError> {
    let (theirs, ours) = sys::pipe().step(|| "make a pipe".into())?;
    sys::fchmod(ours.as_fd(), if identity.privileged { 0o444 } else { 0o400 })
        .step(|| "protect a pipe".into())?;
    sys::set_nonblocking(ours.as_fd()).step(|| "make a pipe".into())?;
    Ok((theirs, Some(StdinPump::new(input.source, input.bytes, ours, false))))
}

fn open_null() -> Result<OwnedFd, StepError> {
    fs::File::open("/dev/null").map(OwnedFd::from).step(|| "open /dev/null".into())
}

/// One uid and one gid exist in the sandbox. An unprivileged writer must give up setgroups first (user_namespaces(7)).
fn write_id_maps(pid: pid_t, identity: &Identity) -> Result<(), StepError> {
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/{pid}/{file}"), text).step(|| format!("write {file}"))
    };
    if !identity.privileged {
        write("setgroups", "deny".into())?;
    }
    write("uid_map", format!("{} {} 1", identity.uid, identity.host_uid))?;
    write("gid_map", format!("{} {} 1", identity.gid, identity.host_gid))
}

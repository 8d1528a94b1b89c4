//! The last steps before the program: in init's child, from the fork to exec.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use crate::message::{Context, Message, StepError};
use crate::plan::{Bytes, Filters, Plan};
use crate::sys::{self, Errno};

/// What passes from the supervisor through init to the program's process.
pub struct Handover {
    /// stdin, stdout, stderr of the program.
    pub stdio: [OwnedFd; 3],
    /// `cgroup.procs` of each control group, opened by the supervisor, whose rights count at the write.
    pub cgroups: Vec<OwnedFd>,
    /// The child's own socket to the supervisor. It closes at exec: closed without a message means started.
    pub socket: OwnedFd,
    has_terminal: bool,
}

impl Handover {
    /// Moves the three streams above 2: the numbers 0, 1 and 2 must be free when they are put there one by one.
    pub fn new(stdio: [OwnedFd; 3], cgroups: Vec<OwnedFd>, socket: OwnedFd) -> sys::Result<Self> {
        let [stdin, stdout, stderr] = stdio;
        let high = |fd: OwnedFd| sys::dup_high(fd.as_fd());
        let stdio = [high(stdin)?, high(stdout)?, high(stderr)?];
        let cgroups = cgroups.into_iter().map(high).collect::<sys::Result<_>>()?;
        Ok(Handover { stdio, cgroups, socket: high(socket)?, has_terminal: false })
    }

    pub fn descriptors(&self) -> Vec<RawFd> {
        let all = self.stdio.iter().chain(&self.cgroups).chain([&self.socket]);
        all.map(AsRawFd::as_raw_fd).collect()
    }

    /// All three streams become this terminal.
    pub(crate) fn terminal(&mut self, slave: &OwnedFd) -> sys::Result<()> {
        for fd in &mut self.stdio {
            *fd = sys::dup_high(slave.as_fd())?;
        }
        self.has_terminal = true;
        Ok(())
    }
}

/// Runs in init's child and never returns: it becomes the program, or reports why not.
pub fn run(plan: &Plan, handover: Handover) -> ! {
    let Err(error) = become_program(plan, &handover);
    let _ = error.message().send(handover.socket.as_fd(), None);
    sys::exit_now(127)
}

enum Never {}

fn become_program(plan: &Plan, handover: &Handover) -> Result<Never, StepError> {
    for procs in &handover.cgroups {
        // First: everything after this is counted, and the cgroup namespace below starts here. "0" is whoever writes.
        sys::write(procs.as_fd(), b"0").step(|| "enter the cgroup".into())?;
    }
    if !handover.cgroups.is_empty() {
        sys::unshare(libc::CLONE_NEWCGROUP).step(|| "unshare the cgroup namespace".into())?;
    }
    join_session(handover)?;
    for (number, fd) in handover.stdio.iter().enumerate() {
        sys::dup_to(fd.as_raw_fd(), number as RawFd).step(|| "set up stdin, stdout, stderr".into())?;
    }
    std::env::set_current_dir(path_of(&plan.program.cwd))
        .step(|| format!("enter {}", plan.program.cwd.escape_ascii()))?;
    for &(resource, value) in &plan.rlimits {
        sys::set_rlimit(resource, value).step(|| format!("set rlimit {resource}"))?;
    }
    sys::umask(0o022);
    // Strings are made ready here: after the filter nothing should happen but the exec.
    let argv = cstrings(&plan.program.argv)?;
    let env = cstrings(&plan.program.env)?;
    let paths = candidates(plan)?;
    sys::drop_capabilities().step(|| "drop capabilities".into())?;
    // Needed for the filter without capabilities, and against setuid files.
    sys::set_no_new_privs().step(|| "set no_new_privs".into())?;
    sys::reset_signals().step(|| "reset signals".into())?;
    // Exec closes them all, the socket too; that is how the supervisor learns that the program runs.
    sys::close_on_exec_from_3().step(|| "mark descriptors".into())?;
    // Last: from here on a write of our own would wait for the supervisor.
    let filtered = install_filter(&plan.filter)?;
    let (listener, errno) = match &filtered {
        Ok(listener) => (Some(listener.as_fd()), 0),
        Err(errno) => (None, errno.0 as u32),
    };
    Message::Filtered { errno }
        .send(handover.socket.as_fd(), listener)
        .step(|| "hand over the listener".into())?;
    Err(execute(&paths, &argv, &env))
}

fn path_of(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// With a terminal, the program leads the foreground process group of init's session; without, a session of its own,
/// so that there is no terminal to be reached at all.
fn join_session(handover: &Handover) -> Result<(), StepError> {
    if !handover.has_terminal {
        return sys::setsid().step(|| "start a session".into());
    }
    sys::setpgid_self().step(|| "start a process group".into())?;
    // SIGTTOU is blocked here (inherited from init), else this would stop us.
    sys::set_foreground(handover.stdio[0].as_fd()).step(|| "take the foreground".into())
}

/// The listener, or why there is none and the plain filter is on.
fn install_filter(filters: &Filters) -> Result<Result<OwnedFd, Errno>, StepError> {
    if !filters.exact.is_empty() {
        match sys::install_listener(&filters.exact) {
            Ok(listener) => return Ok(Ok(listener)),
            Err(errno) if filters.exact_required => {
                return Err(StepError { step: "get a seccomp listener for exact ordering".into(), errno });
            }
            Err(errno) => {
                sys::install_filter(&filters.plain).step(|| "install the seccomp filter".into())?;
                return Ok(Err(errno));
            }
        }
    }
    sys::install_filter(&filters.plain).step(|| "install the seccomp filter".into())?;
    Ok(Err(Errno(0)))
}

fn cstrings(list: &[Bytes]) -> Result<Vec<CString>, StepError> {
    list.iter().map(|bytes| cstring(bytes)).collect()
}

fn cstring(bytes: &[u8]) -> Result<CString, StepError> {
    CString::new(bytes).map_err(|_| StepError {
        step: "exec: an argument or variable holds a NUL byte".into(),
        errno: Errno(libc::EINVAL),
    })
}

/// The paths to try for `argv[0]`, as execvp(3) would.
fn candidates(plan: &Plan) -> Result<Vec<CString>, StepError> {
    let Some(name) = plan.program.argv.first().filter(|name| !name.is_empty()) else {
        return Err(StepError { step: "exec: empty command".into(), errno: Errno(libc::ENOENT) });
    };
    if name.contains(&b'/') {
        return Ok(vec![cstring(name)?]);
    }
    plan.program.path.iter().map(|dir| cstring(&[dir, &b"/"[..], name].concat())).collect()
}

fn execute(paths: &[CString], argv: &[CString], env: &[CString]) -> StepError {
    let mut found = Errno(libc::ENOENT);
    for path in paths {
        match sys::execve(path, argv, env) {
            Errno(libc::ENOENT | libc::ENOTDIR) => {}
            // Something is there but can't be run: worth more than "not found" further on.
            Errno(libc::EACCES) => found = Errno(libc::EACCES),
            errno => {
                found = errno;
                break;
            }
        }
    }
    let name = argv.first().map(|name| name.to_bytes().escape_ascii().to_string()).unwrap_or_default();
    StepError { step: format!("exec {name}"), errno: found }
}

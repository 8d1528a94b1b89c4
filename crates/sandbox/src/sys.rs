//! Every kernel call of the sandbox and the supervisor, and every `unsafe` block of the product.
//!
//! Wrappers take and give owned types and carry no policy. An error is the kernel's errno; callers name the step.
//! Sources: the man pages of section 2, and Documentation/userspace-api/seccomp_filter.rst for the listener.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

pub use libc::{pid_t, pollfd};

/// A kernel error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub fn last() -> Self {
        Errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.0))
    }
}

impl std::error::Error for Errno {}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

pub type Result<T> = std::result::Result<T, Errno>;

fn check(value: impl Into<i64>) -> Result<i64> {
    let value = value.into();
    if value < 0 { Err(Errno::last()) } else { Ok(value) }
}

fn owned(value: impl Into<i64>) -> Result<OwnedFd> {
    let fd = check(value)? as RawFd;
    // SAFETY: the call that returned this descriptor succeeded and gave it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn cstring(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno(libc::EINVAL))
}

// ---- processes ------------------------------------------------------------------------------------------------

/// `clone3(2)` of `struct clone_args`, first version (64 bytes, Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// What a clone or fork returned, and where.
pub enum Forked {
    Parent { pid: pid_t, pidfd: OwnedFd },
    Child,
}

/// Clones this process into new namespaces (`CLONE_NEW*` flags). The child has a copy of everything, as after fork.
pub fn clone_into(namespaces: i32) -> Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: (namespaces | libc::CLONE_PIDFD) as u32 as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid clone_args of the size given, no memory is shared with the child, and this process has one
    // thread (module doc of the crate), so no lock can be held by a thread that the child lacks.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })? as pid_t;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: CLONE_PIDFD stored a fresh descriptor that nobody else owns.
    Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends this process at once: no destructors, no buffers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and doesn't return.
    unsafe { libc::_exit(code) }
}

pub fn unshare(namespaces: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(namespaces) }).map(drop)
}

pub fn setsid() -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() }).map(drop)
}

pub fn setpgid_self() -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setpgid(0, 0) }).map(drop)
}

pub fn chdir_root() -> Result<()> {
    // SAFETY: a C string.
    check(unsafe { libc::chdir(c"/".as_ptr()) }).map(drop)
}

/// The version of glibc that is linked. Used by the product's process, not for its own sake alone: std starts children with
/// posix_spawn only where it can ask for this, and in a static binary it can only if somebody has linked it. Else it forks,
/// which copies the page tables of the whole process for every run.
pub fn libc_version() -> String {
    // SAFETY: returns a C string that lives as long as the process.
    unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy().into_owned()
}

pub fn geteuid() -> u32 {
    // SAFETY: no pointers, can't fail.
    unsafe { libc::geteuid() }
}

pub fn getegid() -> u32 {
    // SAFETY: no pointers, can't fail.
    unsafe { libc::getegid() }
}

pub fn umask(mask: u32) {
    // SAFETY: no pointers, can't fail.
    unsafe { libc::umask(mask) };
}

/// Raw `execve`; returns only when it failed.
pub fn execve(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end in null and point to C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    Errno::last()
}

/// How a child ended, as `wait4(2)` said it.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    pub pid: pid_t,
    /// The raw wait status.
    pub status: i32,
    /// CPU time of the child and of all that it waited for, in nanoseconds.
    pub user_ns: u64,
    pub system_ns: u64,
    /// Largest resident set of any of them, in bytes.
    pub maxrss_bytes: u64,
}

/// Reaps one child without waiting: `None` when none has ended, `Err(ECHILD)` when there is none at all.
pub fn wait_any() -> Result<Option<Waited>> {
    wait4(-1, libc::WNOHANG)
}

/// Waits for this child.
pub fn wait_for(pid: pid_t) -> Result<Option<Waited>> {
    wait4(pid, 0)
}

fn wait4(pid: pid_t, flags: i32) -> Result<Option<Waited>> {
    let mut status = 0;
    // SAFETY: rusage is plain old data.
    let mut usage: libc::rusage = unsafe { zeroed() };
    // SAFETY: both out-pointers are valid for writes.
    let pid = check(unsafe { libc::wait4(pid, &mut status, flags | libc::__WALL, &mut usage) })? as pid_t;
    let ns = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1_000;
    Ok((pid > 0).then(|| Waited {
        pid,
        status,
        user_ns: ns(usage.ru_utime),
        system_ns: ns(usage.ru_stime),
        maxrss_bytes: usage.ru_maxrss as u64 * 1024,
    }))
}

pub fn kill(pid: pid_t, signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

pub fn pidfd_open(pid: pid_t) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub fn pidfd_kill(pidfd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: a null siginfo is allowed by pidfd_send_signal(2).
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

// ---- credentials, capabilities, limits ------------------------------------------------------------------------

/// Drops all supplementary groups, then takes gid and uid for real, effective and saved.
/// `clear_groups` must be false where the user namespace denies setgroups.
pub fn become_user(uid: u32, gid: u32, clear_groups: bool) -> Result<()> {
    if clear_groups {
        // SAFETY: a list of length 0 is never read.
        check(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) })?;
    }
    // SAFETY: no pointers. Raw calls: one thread, nothing for libc to broadcast.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

fn prctl(option: i32, a: u64, b: u64) -> Result<i64> {
    // SAFETY: only options that take integers are passed here.
    check(unsafe { libc::prctl(option, a, b, 0, 0) })
}

/// SIGKILL when the parent ends. Cleared by a change of uid: set it after.
pub fn die_with_parent() -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).map(drop)
}

/// Nobody of the same uid can ptrace this process or open its /proc files.
pub fn set_undumpable() -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Empties the bounding, ambient, inheritable, permitted and effective sets.
pub fn drop_capabilities() -> Result<()> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            // EINVAL: past the last capability of this kernel.
            Ok(_) => {}
            Err(Errno(libc::EINVAL)) => break,
            Err(error) => return Err(error),
        }
    }
    match prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0) {
        Ok(_) | Err(Errno(libc::EINVAL)) => {}
        Err(error) => return Err(error),
    }
    // _LINUX_CAPABILITY_VERSION_3, pid 0 = self; two sets of 32 bits each, all zero.
    let header = [0x2008_0522_u32, 0];
    let sets = [0u32; 6];
    // SAFETY: capset(2) version 3 reads an 8-byte header and two 12-byte sets.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }).map(drop)
}

/// Effective capabilities of this process, as a bit set.
pub fn effective_capabilities() -> u64 {
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0u32; 6];
    // SAFETY: capget(2) version 3 reads an 8-byte header and writes two 12-byte sets.
    match check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) }) {
        Ok(_) => u64::from(sets[0]) | (u64::from(sets[3]) << 32),
        Err(_) => 0,
    }
}

/// Sets soft and hard limit, never above the hard limit that holds now.
pub fn set_rlimit(resource: u32, value: u64) -> Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the out-pointer is valid.
    check(unsafe { libc::getrlimit(resource, &mut now) })?;
    let value = value.min(now.rlim_max);
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the pointer is valid for reads.
    check(unsafe { libc::setrlimit(resource, &limit) }).map(drop)
}

/// A new session keyring, so that the program can't reach the keys of whoever started us.
pub fn join_new_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>())
    })
    .map(drop)
}

pub fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length belong together.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Brings `lo` up in this network namespace.
pub fn loopback_up() -> Result<()> {
    let socket = {
        // SAFETY: no pointers.
        owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?
    };
    // SAFETY: ifreq is plain old data; zero is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).map(drop)
}

// ---- mounts ---------------------------------------------------------------------------------------------------

/// `struct mount_attr` of mount_setattr(2), Linux 5.12.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;

pub fn mount(source: &str, target: &[u8], kind: &str, flags: u64, data: &str) -> Result<()> {
    let (source, target, kind, data) =
        (cstring(source.as_bytes())?, cstring(target)?, cstring(kind.as_bytes())?, cstring(data.as_bytes())?);
    // SAFETY: all four are C strings that outlive the call.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    })
    .map(drop)
}

/// A detached copy of the mount tree at `path`.
pub fn open_tree(path: &[u8], recursive: bool) -> Result<OwnedFd> {
    let path = cstring(path)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Adds attributes to a whole (detached) mount tree, and takes it out of all propagation if it is to be `private`.
pub fn mount_setattr(tree: BorrowedFd<'_>, set: u64, private: bool) -> Result<()> {
    let propagation = if private { libc::MS_PRIVATE } else { 0 };
    let attr = MountAttr { attr_set: set, propagation, ..MountAttr::default() };
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor; attr has the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as u32 | AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Attaches a detached tree at `target`, relative to the working directory.
pub fn move_mount(tree: BorrowedFd<'_>, target: &[u8]) -> Result<()> {
    let target = cstring(target)?;
    // SAFETY: both paths are C strings that outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Makes the working directory (a mount point) the root, and lets go of the old one. See pivot_root(2), the `"."` idiom.
pub fn pivot_here() -> Result<()> {
    // SAFETY: both paths are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: as above.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    chdir_root()
}

/// Whether this process may make things in a directory: mode, owner and read-only mounts count.
pub fn may_write(directory: &[u8]) -> bool {
    let Ok(path) = cstring(directory) else { return false };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK | libc::X_OK, libc::AT_EACCESS) == 0 }
}

/// Free blocks and inodes of the file system at `path`.
pub fn free_space(path: &[u8]) -> Result<(u64, u64)> {
    let path = cstring(path)?;
    // SAFETY: statfs is plain old data.
    let mut out: libc::statfs = unsafe { zeroed() };
    // SAFETY: path and out-pointer are valid.
    check(unsafe { libc::statfs(path.as_ptr(), &mut out) })?;
    Ok((out.f_bavail as u64, out.f_ffree as u64))
}

// ---- files of the program ---------------------------------------------------------------------------------------

/// `struct open_how` of openat2(2), Linux 5.6.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_BENEATH: u64 = 0x08;

/// Opens for reading what is at `path` below `directory`, on the same mount and without following a link in any place, the
/// last included (ELOOP). Never waits for another end, never takes a terminal. `flags`: further `O_*`.
pub fn open_beneath(directory: BorrowedFd<'_>, path: &[u8], flags: i32) -> Result<OwnedFd> {
    let path = cstring(path)?;
    let always = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let how = OpenHow {
        flags: (always | flags) as u64,
        mode: 0,
        resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    // SAFETY: the path is a C string, `how` has the size given, and both outlive the call.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    })
}

/// What fstat(2) says of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    pub device: u64,
    pub bytes: u64,
    /// `S_IF*`
    pub kind: u32,
    /// Permission bits.
    pub permissions: u32,
}

pub fn file_status(fd: BorrowedFd<'_>) -> Result<FileStatus> {
    // SAFETY: stat is plain old data.
    let mut out: libc::stat = unsafe { zeroed() };
    // SAFETY: the out-pointer is valid.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &mut out) })?;
    Ok(FileStatus {
        device: out.st_dev,
        bytes: out.st_size.max(0) as u64,
        kind: out.st_mode & libc::S_IFMT,
        permissions: out.st_mode & !libc::S_IFMT,
    })
}

/// The next entries of a directory, as [`DirectoryEntries`] takes them apart. 0 bytes: there are no more.
pub fn read_directory(fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length belong together.
    let n =
        check(unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), into.as_mut_ptr(), into.len()) })?;
    Ok(n as usize)
}

/// Goes through `struct linux_dirent64` of getdents64(2): inode u64, offset u64, length u16, type u8, name, NUL, padding.
#[derive(Clone, Debug)]
pub struct DirectoryEntries<'a> {
    rest: &'a [u8],
}

impl<'a> DirectoryEntries<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        DirectoryEntries { rest: bytes }
    }
}

/// Name, and `DT_*`.
impl<'a> Iterator for DirectoryEntries<'a> {
    type Item = (&'a [u8], u8);

    fn next(&mut self) -> Option<Self::Item> {
        const NAME_AT: usize = 19;
        let length = usize::from(u16::from_le_bytes([*self.rest.get(16)?, *self.rest.get(17)?]));
        let (entry, rest) = self.rest.split_at_checked(length)?;
        let (kind, name) = (*entry.get(NAME_AT - 1)?, entry.get(NAME_AT..)?);
        self.rest = rest;
        Some((&name[..name.iter().position(|byte| *byte == 0)?], kind))
    }
}

/// Reads at a place, without moving the descriptor's own, which others may share.
pub fn read_at(fd: BorrowedFd<'_>, into: &mut [u8], at: u64) -> Result<usize> {
    let at = i64::try_from(at).map_err(|_| Errno(libc::EFBIG))?;
    // SAFETY: pointer and length belong together.
    let n = check(unsafe { libc::pread(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), at) } as i64)?;
    Ok(n as usize)
}

/// Writes at a place, without moving the descriptor's own.
pub fn write_at(fd: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<usize> {
    let at = i64::try_from(at).map_err(|_| Errno(libc::EFBIG))?;
    // SAFETY: pointer and length belong together.
    let n = check(unsafe { libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), at) } as i64)?;
    Ok(n as usize)
}

pub fn truncate(fd: BorrowedFd<'_>, bytes: u64) -> Result<()> {
    let bytes = i64::try_from(bytes).map_err(|_| Errno(libc::EFBIG))?;
    // SAFETY: no pointers.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), bytes) }).map(drop)
}

/// Contents and length are on disk when this returns.
pub fn sync_data(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fdatasync(fd.as_raw_fd()) }).map(drop)
}

// ---- descriptors ----------------------------------------------------------------------------------------------

/// (read end, write end), both close-on-exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: the array has room for both.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: pipe2 succeeded, both are ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A pair of connected unix sockets that keep message borders, both close-on-exec.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: the array has room for both.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    })?;
    // SAFETY: socketpair succeeded, both are ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })? as i32;
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

pub fn set_pipe_size(fd: BorrowedFd<'_>, bytes: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) }).map(drop)
}

pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// Bytes that can be read now without waiting.
pub fn readable_bytes(fd: BorrowedFd<'_>) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut bytes) })?;
    Ok(bytes.max(0) as usize)
}

pub fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length belong together.
    let n = check(unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) } as i64)?;
    Ok(n as usize)
}

pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
    // SAFETY: pointer and length belong together.
    let n = check(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as i64)?;
    Ok(n as usize)
}

/// Makes `to` a copy of `from` that survives exec.
pub fn dup_to(from: RawFd, to: RawFd) -> Result<()> {
    if from == to {
        // dup2 of a number onto itself keeps close-on-exec.
        // SAFETY: no pointers.
        return check(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: no pointers; `to` is 0, 1 or 2, which no OwnedFd of the calling child holds: see Handover::new.
    check(unsafe { libc::dup2(from, to) }).map(drop)
}

/// A copy of a descriptor at 10 or above, close-on-exec, so that it can't collide with 0, 1, 2.
pub fn dup_high(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) })
}

/// Marks every descriptor from 3 up close-on-exec.
pub fn close_on_exec_from_3() -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes every descriptor but these.
pub fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 0u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            // SAFETY: no pointers. Called in a fresh child that uses only what it keeps and ends in exec or exit_now, so no
            // OwnedFd of the parent's copy is ever used or dropped.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Takes over a descriptor that this process was started with. Call once for each number.
pub fn inherited(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: no pointers; tells whether the number is open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: open, and by the supervisor's protocol nobody else in this process uses the numbers 0 and 1.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reserves room on disk up to `end` without changing the file's length.
pub fn reserve(fd: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe {
        libc::fallocate(fd.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, start as i64, (end - start) as i64)
    })
    .map(drop)
}

/// Waits until a descriptor is ready, at most `timeout_ns` (negative: for ever). Returns how many are.
pub fn poll(fds: &mut [pollfd], timeout_ns: Option<u64>) -> Result<usize> {
    let timeout = timeout_ns.map(|ns| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the slice's pointer and length belong together; the timeout is null or valid; no signal mask.
    match check(unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as u64, timeout, ptr::null()) }) {
        Ok(n) => Ok(n as usize),
        Err(Errno(libc::EINTR)) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Room for one descriptor's control message, aligned as the kernel wants it.
#[repr(C, align(8))]
struct ControlBuffer([u8; 64]);

/// Sends one message, with a descriptor if given. Never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>, wait: bool) -> Result<usize> {
    let mut control = ControlBuffer([0; 64]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain old data.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_* only compute; the buffer is larger than CMSG_SPACE of one int, so the header and its data lie
        // inside it, aligned.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<RawFd>(), fd.as_raw_fd());
        }
    }
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the message points to live buffers of the lengths given.
    let n = check(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) } as i64)?;
    Ok(n as usize)
}

/// Receives one message and at most one descriptor. 0 bytes: the other end is closed.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8], wait: bool) -> Result<(usize, Option<OwnedFd>)> {
    let mut control = ControlBuffer([0; 64]);
    let mut iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: msghdr is plain old data.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: only computes a size.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the message points to live buffers of the lengths given.
    let n = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) } as i64)?;
    let mut received = None;
    // SAFETY: the kernel filled control and its length; CMSG_FIRSTHDR gives null when there is no whole header. There was
    // room for one descriptor only, so a SCM_RIGHTS header holds exactly one, which is now ours.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len >= libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize
        {
            let fd = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<RawFd>());
            received = Some(OwnedFd::from_raw_fd(fd));
        }
    }
    Ok((n as usize, received))
}

// ---- signals --------------------------------------------------------------------------------------------------

/// Blocks these signals and returns a non-blocking descriptor that reports them.
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd> {
    // SAFETY: sigset_t is plain old data; the calls below only fill it.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: valid pointer.
    unsafe { libc::sigemptyset(&mut set) };
    for &signal in signals {
        // SAFETY: valid pointer, signal numbers are constants of the callers.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: valid pointers; the old mask isn't wanted.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()) })?;
    // SAFETY: valid pointer; -1 asks for a new descriptor.
    owned(unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })
}

/// Empties the queue of a signal descriptor; returns the signals seen.
pub fn read_signals(fd: BorrowedFd<'_>) -> Vec<i32> {
    let mut seen = Vec::new();
    loop {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has exactly this size.
        let n = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if n != size as isize {
            return seen;
        }
        // SAFETY: the kernel filled the whole struct.
        seen.push(unsafe { info.assume_init() }.ssi_signo as i32);
    }
}

/// Default handling for every signal, and none blocked: what a program expects at its start.
pub fn reset_signals() -> Result<()> {
    // handler, flags, restorer, mask: all zero is SIG_DFL. The raw call, because libc keeps 32 and 33 to itself, which whoever
    // started us may have left ignored.
    let default = [0u64; 4];
    for signal in 1..65 {
        // SAFETY: the kernel reads a struct of four words, and writes no old one. Unchangeable signals give EINVAL, which
        // changes nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null::<u64>(), 8) };
    }
    // SAFETY: sigset_t is plain old data.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: valid pointers.
    unsafe { libc::sigemptyset(&mut set) };
    // SAFETY: valid pointers; the old mask isn't wanted.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut()) }).map(drop)
}

pub fn ignore_signals(signals: &[i32]) {
    for &signal in signals {
        // SAFETY: SIG_IGN is a valid handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

// ---- terminals ------------------------------------------------------------------------------------------------

/// Opens the slave of this PTY master by its own mount, without a path lookup (TIOCGPTPEER, Linux 4.13).
pub fn open_pty_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) })?;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    owned(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    })
}

/// Makes this terminal the controlling one of the calling session leader, 80 by 24.
pub fn take_terminal(slave: BorrowedFd<'_>) -> Result<()> {
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, &size) })?;
    // SAFETY: TIOCSCTTY takes an int by value.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// First byte of a read from a master in packet mode: output follows.
pub const TIOCPKT_DATA: u8 = 0;
/// Output that was accepted has been thrown away.
pub const TIOCPKT_FLUSHWRITE: u8 = 2;

/// Packet mode (ioctl_tty(2)): the master is told when output is thrown away.
pub fn set_packet_mode(master: BorrowedFd<'_>) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: TIOCPKT reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCPKT, &on) }).map(drop)
}

pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::isatty(fd.as_raw_fd()) == 1 }
}

/// Puts the caller's process group in the foreground. SIGTTOU must be ignored or blocked.
pub fn set_foreground(slave: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::tcsetpgrp(slave.as_raw_fd(), libc::getpgrp()) }).map(drop)
}

// ---- clocks ---------------------------------------------------------------------------------------------------

fn clock(id: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: valid out-pointer. Both clocks used here always exist.
    unsafe { libc::clock_gettime(id, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC) as u64
}

/// CLOCK_REALTIME in nanoseconds since 1970.
pub fn realtime_ns() -> i64 {
    clock(libc::CLOCK_REALTIME)
}

pub fn online_cpus() -> u64 {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as u64
}

// ---- seccomp --------------------------------------------------------------------------------------------------

const SECCOMP_SET_MODE_FILTER: u32 = 1;
const SECCOMP_GET_ACTION_AVAIL: u32 = 2;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: u64 = 1 << 3;
/// Linux 5.19: a notified call can only be interrupted by a fatal signal once the supervisor has received it.
const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: u64 = 1 << 5;
const SECCOMP_RET_USER_NOTIF: u32 = 0x7fc0_0000;
const SECCOMP_USER_NOTIF_FLAG_CONTINUE: u32 = 1;
const SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: u64 = 1;
const SECCOMP_IOCTL_NOTIF_RECV: u64 = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_SEND: u64 = 0xc018_2101;
const SECCOMP_IOCTL_NOTIF_SET_FLAGS: u64 = 0x4008_2104;

/// One classic BPF instruction, as linux/filter.h has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfInstruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

#[repr(C)]
struct BpfProgram {
    len: u16,
    filter: *const BpfInstruction,
}

fn seccomp_filter(flags: u64, filter: &[BpfInstruction]) -> Result<i64> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno(libc::EINVAL))?;
    let program = BpfProgram { len, filter: filter.as_ptr() };
    // SAFETY: the program points to `len` instructions that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
}

/// Puts a filter on this process for good.
pub fn install_filter(filter: &[BpfInstruction]) -> Result<()> {
    seccomp_filter(0, filter).map(drop)
}

/// The same with a listener, on which notified calls wait in a way that no timer signal can disturb.
pub fn install_listener(filter: &[BpfInstruction]) -> Result<OwnedFd> {
    owned(seccomp_filter(SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, filter)?)
}

/// Whether this kernel has what exact ordering needs (not whether a listener can be had right here).
pub fn listener_supported() -> bool {
    let action = SECCOMP_RET_USER_NOTIF;
    // SAFETY: reads one u32.
    let available =
        unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) } == 0;
    let flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: a null program installs nothing: EFAULT when the flags are known, EINVAL when not.
    let probe = unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, ptr::null::<BpfProgram>())
    };
    available && probe < 0 && Errno::last() == Errno(libc::EFAULT)
}

/// A call of the program that waits for an answer. `struct seccomp_notif`, 80 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Notification {
    pub id: u64,
    pub pid: u32,
    pub flags: u32,
    pub nr: i32,
    pub arch: u32,
    pub instruction_pointer: u64,
    pub args: [u64; 6],
}

#[repr(C)]
struct NotificationAnswer {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// The next waiting call. ENOENT: it went away meanwhile.
pub fn notification_receive(listener: BorrowedFd<'_>) -> Result<Notification> {
    let mut notification = Notification::default();
    // SAFETY: the struct has the 80 bytes that the ioctl number encodes, and is zero as the kernel asks.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV as _, &mut notification) })?;
    Ok(notification)
}

/// Lets the call go on as the program made it. ENOENT: the caller went away.
pub fn notification_continue(listener: BorrowedFd<'_>, id: u64) -> Result<()> {
    let answer = NotificationAnswer { id, val: 0, error: 0, flags: SECCOMP_USER_NOTIF_FLAG_CONTINUE };
    // SAFETY: the struct has the 24 bytes that the ioctl number encodes.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND as _, &answer) }).map(drop)
}

/// Wakes the other side on this CPU at once (Linux 6.6); an error only means slower.
pub fn notification_sync_wakeup(listener: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes its flags by value.
    check(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            SECCOMP_IOCTL_NOTIF_SET_FLAGS as _,
            SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP,
        )
    })
    .map(drop)
}

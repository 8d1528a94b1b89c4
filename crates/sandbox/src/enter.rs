//! Builds the sandbox from inside its fresh namespaces. One step a line, each with why it stands where it stands.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::limits::{ROOT_TMPFS_BYTES, ROOT_TMPFS_INODES};
use crate::message::{Context, StepError};
use crate::plan::{Identity, Plan, Step};
use crate::sys::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

/// Where the new root is put together: any directory that exists everywhere and is nobody's bind source by then,
/// because all sources are opened before it is covered.
const BASE: &[u8] = b"/tmp";

/// Becomes the sandbox's user and builds its root. Returns the PTY master, if the plan has a PTY.
///
/// Runs as init (pid 1) with every capability over the new namespaces and none over the host.
///
/// `sources` are the trees of [`open_sources`], if the supervisor could open them.
pub fn enter(plan: &Plan, sources: Option<Vec<OwnedFd>>) -> Result<Option<OwnedFd>, StepError> {
    become_sandbox_user(&plan.identity)?;
    // Before any mount: else our mounts would spread to the host where its root is shared.
    sys::mount("none", b"/", "none", libc::MS_REC | libc::MS_PRIVATE, "").step(|| "make / private".into())?;
    // Before the base is covered: a source may lie below it.
    let sources = match sources {
        Some(sources) => sources,
        None => open_sources(&plan.steps)?,
    };
    build_root(&plan.steps, sources)?;
    // From here on no path of the host can be named.
    sys::pivot_here().step(|| "pivot_root".into())?;
    // After the pivot: the base can't be read-only while things are made in it.
    remount_root_readonly()?;
    sys::set_hostname(b"lastword").step(|| "sethostname".into())?;
    sys::loopback_up().step(|| "bring up lo".into())?;
    if plan.program.tty { open_pty().map(Some) } else { Ok(None) }
}

/// The user change comes first, so that everything made below belongs to the sandbox's user. It clears the death signal
/// and the dumpable flag's meaning, so both are set after it.
fn become_sandbox_user(identity: &Identity) -> Result<(), StepError> {
    sys::become_user(identity.uid, identity.gid, identity.privileged).step(|| "change user".into())?;
    sys::die_with_parent().step(|| "set the parent-death signal".into())?;
    sys::set_undumpable().step(|| "set undumpable".into())?;
    // A kernel without keyrings answers ENOSYS, a container's profile EPERM: then there is no keyring to reach either,
    // because the program's filter refuses the calls.
    let _ = sys::join_new_keyring();
    sys::umask(0);
    Ok(())
}

/// Detached, private copies of all bind sources, in order, with their attributes set: nothing is visible with other ones
/// for a moment, and mounts that the host makes later below a source don't show in the sandbox.
///
/// A privileged supervisor opens them itself, before the clone: a source may lie in a directory that the sandbox's user may not
/// enter. An ordinary user's supervisor may not copy trees; then init does, as the same user.
pub fn open_sources(steps: &[Step]) -> Result<Vec<OwnedFd>, StepError> {
    let mut sources = Vec::new();
    for step in steps {
        if let Step::Bind { source, writable, devices, .. } = step {
            let name = || format!("bind {}", source.escape_ascii());
            let tree = sys::open_tree(source, true).step(name)?;
            let mut attributes = MOUNT_ATTR_NOSUID;
            if !writable {
                attributes |= MOUNT_ATTR_RDONLY;
            }
            if !devices {
                attributes |= MOUNT_ATTR_NODEV;
            }
            sys::mount_setattr(tree.as_fd(), attributes, true).step(name)?;
            sources.push(tree);
        }
    }
    Ok(sources)
}

fn build_root(steps: &[Step], sources: Vec<OwnedFd>) -> Result<(), StepError> {
    let options = format!("size={ROOT_TMPFS_BYTES},nr_inodes={ROOT_TMPFS_INODES},mode=755");
    sys::mount("tmpfs", BASE, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, &options)
        .step(|| "mount the root tmpfs on /tmp".into())?;
    std::env::set_current_dir(path_of(BASE)).step(|| "enter the root tmpfs".into())?;
    let mut sources = sources.into_iter();
    for step in steps {
        take(step, &mut sources)?;
    }
    Ok(())
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

fn take(step: &Step, sources: &mut impl Iterator<Item = OwnedFd>) -> Result<(), StepError> {
    match step {
        Step::Dir { path, mode } => {
            DirBuilder::new().mode(*mode).create(path_of(path)).step(|| named("create directory", path))
        }
        Step::Symlink { path, target } => {
            symlink(path_of(target), path_of(path)).step(|| named("create link", path))
        }
        Step::File { path, mode, bytes } => write_file(path, *mode, bytes),
        Step::Tmpfs { path, bytes, inodes } => sys::mount(
            "tmpfs",
            path,
            "tmpfs",
            libc::MS_NOSUID | libc::MS_NODEV,
            &format!("size={bytes},nr_inodes={inodes},mode=755"),
        )
        .step(|| named("mount tmpfs on", path)),
        Step::Bind { path, .. } => match sources.next() {
            Some(tree) => sys::move_mount(tree.as_fd(), path).step(|| named("attach", path)),
            None => Err(StepError { step: named("attach", path), errno: sys::Errno(libc::ENOENT) }),
        },
        Step::Alias { source, path } => {
            { sys::open_tree(source, false).and_then(|tree| sys::move_mount(tree.as_fd(), path)) }
                .step(|| named("alias", path))
        }
        Step::Proc { path } => {
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            sys::mount("proc", path, "proc", flags, "").step(|| named("mount proc on", path))
        }
        Step::ReadOnly { path } => read_only(path).step(|| named("make read-only", path)),
        Step::Mask { path } => mask(path).step(|| named("mask", path)),
        Step::Devpts { path } => sys::mount(
            "devpts",
            path,
            "devpts",
            libc::MS_NOSUID | libc::MS_NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620",
        )
        .step(|| named("mount devpts on", path)),
    }
}

fn named(what: &str, path: &[u8]) -> String {
    format!("{what} /{}", path.escape_ascii())
}

/// `create_new`: on a fresh tmpfs nothing can be there, and a link must not be followed if it were.
fn write_file(path: &[u8], mode: u32, bytes: &[u8]) -> Result<(), StepError> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path_of(path))?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))
    };
    write().step(|| named("write file", path))
}

fn missing(path: &[u8]) -> bool {
    matches!(fs::symlink_metadata(path_of(path)), Err(error) if error.raw_os_error() == Some(libc::ENOENT))
}

fn read_only(path: &[u8]) -> sys::Result<()> {
    if missing(path) {
        return Ok(());
    }
    let tree = sys::open_tree(path, true)?;
    sys::mount_setattr(tree.as_fd(), MOUNT_ATTR_RDONLY, false)?;
    sys::move_mount(tree.as_fd(), path)
}

fn mask(path: &[u8]) -> sys::Result<()> {
    let metadata = match fs::symlink_metadata(path_of(path)) {
        Ok(metadata) => metadata,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if metadata.is_dir() {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
        return sys::mount("tmpfs", path, "tmpfs", flags, "size=0,nr_inodes=2,mode=555");
    }
    let null = sys::open_tree(b"dev/null", false)?;
    sys::move_mount(null.as_fd(), path)
}

fn remount_root_readonly() -> Result<(), StepError> {
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount("none", b"/", "none", flags, "").step(|| "make / read-only".into())
}

/// The root of the writable file system, for the supervisor to take the outputs from: it outlives the mounts.
pub fn open_scratch(plan: &Plan) -> Result<OwnedFd, StepError> {
    let path = plan.scratch_mount().step(|| "look for the scratch space".into())?;
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path_of(&[b"/", path].concat()))
        .map(OwnedFd::from)
        .step(|| "open the scratch space".into())
}

/// The PTY is of the sandbox's own devpts, so its name means the same to the program.
fn open_pty() -> Result<OwnedFd, StepError> {
    let master = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/pts/ptmx")
        .step(|| "open a PTY".into())?;
    Ok(master.into())
}

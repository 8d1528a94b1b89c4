//! The supervisor's program, embedded in ours, as a file that can be executed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

static PROGRAM: &[u8] = include_bytes!(env!("LASTWORD_SUPERVISOR"));
static FILE: OnceLock<File> = OnceLock::new();

/// Size of the embedded supervisor in bytes.
pub fn bytes() -> usize {
    PROGRAM.len()
}

/// A path that executes the supervisor. It is a sealed file in memory: nothing on disk to go stale, to be changed, or to lie
/// on a file system that forbids execution. All supervisors of one process share it.
pub fn path() -> io::Result<PathBuf> {
    let file = match FILE.get() {
        Some(file) => file,
        None => {
            let made = make()?;
            // Two threads may both have made one; the second is dropped.
            FILE.get_or_init(|| made)
        }
    };
    Ok(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
}

fn make() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC says that it is meant to be executed; kernels before 6.3 don't know the flag and don't ask.
    let fd = memfd_create("lastword-supervisor", flags | MemfdFlags::EXEC)
        .or_else(|_| memfd_create("lastword-supervisor", flags))?;
    let mut file = File::from(fd);
    file.write_all(PROGRAM)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

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
    // Not F_SEAL_WRITE, which fails while the kernel itself holds a page of the file, as it does now and then on a busy machine.
    // It differs in sparing writable mappings that exist, and there are none.
    fcntl_add_seals(&file, SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a supervisor may weigh: it is carried into containers, and thousands of them may live at a time.
    const BYTES_MAX: usize = 3 * 512 * 1024;
    const PT_DYNAMIC: u32 = 2;
    const PT_INTERP: u32 = 3;
    const DT_NEEDED: u64 = 1;

    fn u16_at(at: usize) -> usize {
        usize::from(u16::from_le_bytes([PROGRAM[at], PROGRAM[at + 1]]))
    }

    fn u64_at(at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&PROGRAM[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    /// (type, offset in the file, size in the file) of each program header of this 64-bit ELF file.
    fn segments() -> Vec<(u32, usize, usize)> {
        assert_eq!(PROGRAM[..5], *b"\x7fELF\x02");
        let (table, size, count) = (u64_at(32) as usize, u16_at(54), u16_at(56));
        let header = |n: usize| {
            let at = table + n * size;
            let kind = u16_at(at) as u32 | (u16_at(at + 2) as u32) << 16;
            (kind, u64_at(at + 8) as usize, u64_at(at + 32) as usize)
        };
        (0..count).map(header).collect()
    }

    #[test]
    fn the_supervisor_is_small() {
        assert!(PROGRAM.len() < BYTES_MAX, "{} bytes", PROGRAM.len());
    }

    #[test]
    fn the_supervisor_needs_no_libc_at_run_time() {
        for (kind, offset, size) in segments() {
            assert_ne!(kind, PT_INTERP, "it asks for a dynamic loader");
            if kind == PT_DYNAMIC {
                // Static position-independent programs have this table, too; but it names no library.
                let needed = (0..size / 16).any(|entry| u64_at(offset + entry * 16) == DT_NEEDED);
                assert!(!needed, "it asks for a library");
            }
        }
    }

    #[test]
    fn the_program_file_can_not_be_changed() {
        let path = path().expect("a memory file");
        assert!(
            std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| file.write_all(b"x"))
                .is_err()
        );
    }
}

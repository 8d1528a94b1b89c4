//! After the end: files that were declared as outputs go from the sandbox's file system into the pack.
//!
//! Everything here was made by the program: names, links, sizes, depths. What makes it safe to look at:
//! - No process of the program is left. Init has been reaped, and the kernel lets it end only after every process of its pid
//!   namespace has. So nothing moves, grows or is swapped while it is looked at and copied.
//! - Nothing is opened but directories and what the directory calls a regular file, below the file system's root, with no
//!   link followed in any place ([`sys::open_beneath`]); what was opened is looked at again before it is read.
//! - Everything is bounded: entries, depth, names, files, bytes, time. What is over a bound is refused with a reason, and
//!   the rest is kept. The order is that of the paths, so that two equal runs keep the same files.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lastword_frame::limits::{OUTPUT_FILES_MAX, OUTPUT_LIST_BYTES_MAX};
use lastword_frame::{Note, OutputFile};
use lastword_sandbox::glob::{Globs, State};
use lastword_sandbox::plan::{Outputs, Plan, Step};
use lastword_sandbox::root::WORK;
use lastword_sandbox::sys::{self, DirectoryEntries, Errno, FileStatus};

use crate::limits::*;

/// What became of the outputs.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// In the order in which their bytes stand in the pack.
    pub(crate) files: Vec<OutputFile>,
    pub(crate) refused: Refused,
}

/// What matched and was not kept: the first in order of their paths, and the number of all others.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    named: BTreeMap<Vec<u8>, String>,
    more: u64,
    /// Why not everything was looked at.
    stopped: Option<String>,
}

impl Refused {
    fn add(&mut self, path: Vec<u8>, why: String) {
        if self.named.contains_key(&path) {
            return;
        }
        self.named.insert(path, why);
        if self.named.len() > OUTPUTS_REFUSED_NAMED_MAX {
            self.named.pop_last();
            self.more += 1;
        }
    }

    /// Gives up the names, where there is no room for them.
    fn only_count(&mut self) {
        self.more += self.named.len() as u64;
        self.named.clear();
    }

    pub(crate) fn notes(self) -> impl Iterator<Item = Note> {
        let more = (self.more > 0).then(|| format!("{} more were refused", self.more));
        let rest: Vec<String> = self.stopped.into_iter().chain(more).collect();
        let rest = (!rest.is_empty()).then(|| (Vec::new(), rest.join("; ")));
        self.named.into_iter().chain(rest).map(|(path, why)| Note::OutputRefused { path, why })
    }
}

/// Takes the declared files out of `scratch`, the root of the sandbox's writable file system, into `pack`.
///
/// `reserve` makes sure that so many bytes of transcript will fit on disk: without room for the list of files in the seal, none
/// is kept, because the seal must get there.
pub(crate) fn collect(
    plan: &Plan,
    outputs: &Outputs,
    scratch: BorrowedFd<'_>,
    pack: BorrowedFd<'_>,
    reserve: impl FnOnce(usize) -> bool,
) -> Collected {
    let deadline = sys::monotonic_ns() + OUTPUTS_NS;
    let mut walk = Walk::new(plan, outputs, deadline);
    if let Err(errno) = walk.everywhere(plan, scratch) {
        walk.refused.stopped = Some(format!("the files can't be looked at: {errno}"));
    }
    let Walk { found, mut refused, .. } = walk;
    let list: usize = found.keys().map(|path| OutputFile::list_bytes(path)).sum();
    let room = reserve(list.min(OUTPUT_LIST_BYTES_MAX) + OUTPUTS_NOTES_BYTES);
    let mut copy = Copy {
        device: sys::file_status(scratch).map_or(0, |status| status.device),
        scratch,
        pack,
        bytes_max: outputs.bytes_max,
        total: 0,
        list_left: if room { OUTPUT_LIST_BYTES_MAX } else { OUTPUTS_LIST_FREE_BYTES },
        deadline,
        buffer: vec![0; OUTPUTS_BUFFER_BYTES],
    };
    let mut files = Vec::new();
    for (path, place) in found {
        match copy.file(&path, &place) {
            Ok(file) => files.push(file),
            Err(why) => refused.add(path, why),
        }
    }
    if let Err(errno) = copy.finish() {
        // Without it the seal would promise what a power cut takes.
        for file in files.drain(..) {
            refused.add(file.path, format!("it could not be brought to disk: {errno}"));
        }
    }
    if !room {
        refused.only_count();
    }
    Collected { files, refused }
}

/// Looks for files that match.
struct Walk {
    globs: Globs,
    files_max: usize,
    deadline: u64,
    /// Mounted over by something that is not the program's: what is there in this file system is only the place for it.
    covered: BTreeSet<Vec<u8>>,
    /// By the path that goes into the seal: the path below the file system's root.
    found: BTreeMap<Vec<u8>, Vec<u8>>,
    refused: Refused,
    entries: usize,
}

/// A directory on the way: as the program saw it, and below the root of its file system.
#[derive(Clone)]
struct Place {
    seen: Vec<u8>,
    real: Vec<u8>,
    depth: usize,
}

impl Place {
    fn join(&self, name: &[u8]) -> Place {
        Place {
            seen: [&self.seen, &b"/"[..], name].concat(),
            real: [&self.real, &b"/"[..], name].concat(),
            depth: self.depth + 1,
        }
    }

    /// Relative to [`WORK`] below it, else absolute.
    fn sealed(&self) -> Vec<u8> {
        let below = self.seen.strip_prefix(WORK.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        below.unwrap_or(&self.seen).to_vec()
    }
}

/// Stop here; the reason is told already.
struct Stop;

impl Walk {
    fn new(plan: &Plan, outputs: &Outputs, deadline: u64) -> Walk {
        let covered = plan.steps.iter().filter_map(|step| match step {
            Step::Bind { path, .. } => Some([b"/", &path.0[..]].concat()),
            _ => None,
        });
        Walk {
            globs: Globs::new(outputs.globs.iter().map(|glob| &glob.0[..])),
            files_max: usize::try_from(outputs.files_max).unwrap_or(usize::MAX).min(OUTPUT_FILES_MAX),
            deadline,
            covered: covered.collect(),
            found: BTreeMap::new(),
            refused: Refused::default(),
            entries: 0,
        }
    }

    /// All directories of the file system that the program saw somewhere.
    fn everywhere(&mut self, plan: &Plan, scratch: BorrowedFd<'_>) -> Result<(), Errno> {
        let mount = plan.scratch_mount()?;
        for step in &plan.steps {
            let Step::Alias { source, path } = step else { continue };
            let Some(real) = source.0.strip_prefix(mount).and_then(|rest| rest.strip_prefix(b"/")) else {
                continue;
            };
            let place = Place { seen: [b"/", &path.0[..]].concat(), real: real.to_vec(), depth: 0 };
            if let Some(state) = self.globs.at(&place.seen)
                && self.directory(scratch, real, &place, &state).is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// Goes through the directory `name` of `parent`, and on into those in it.
    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        place: &Place,
        state: &State,
    ) -> Result<(), Stop> {
        let fd = match sys::open_beneath(parent, name, libc::O_RDONLY | libc::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(errno) => {
                self.refuse(place, format!("the directory can't be read: {errno}"));
                return Ok(());
            }
        };
        let mut buffer = vec![0; OUTPUTS_DIRECTORY_BYTES];
        loop {
            let read = match sys::read_directory(fd.as_fd(), &mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(errno) => {
                    self.refuse(place, format!("the directory can't be read: {errno}"));
                    return Ok(());
                }
            };
            for (name, kind) in DirectoryEntries::new(&buffer[..read]) {
                if name != b"." && name != b".." {
                    self.entry(fd.as_fd(), name, kind, place, state)?;
                }
            }
        }
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        kind: u8,
        place: &Place,
        state: &State,
    ) -> Result<(), Stop> {
        self.entries += 1;
        if self.entries > OUTPUTS_ENTRIES_MAX {
            self.refused.stopped = Some(format!(
                "there are more than {OUTPUTS_ENTRIES_MAX} files and directories: not all were looked at"
            ));
            return Err(Stop);
        }
        if sys::monotonic_ns() >= self.deadline {
            self.refused.stopped = Some("it took too long to look at all files".into());
            return Err(Stop);
        }
        let kind = if kind == libc::DT_UNKNOWN { kind_of(directory, name) } else { kind };
        let inside = (kind == libc::DT_DIR).then(|| self.globs.enter(state, name)).flatten();
        let wanted = match kind {
            libc::DT_DIR => inside.is_some(),
            libc::DT_LNK => self.globs.has(state, name) || self.globs.leads_through(state, name),
            _ => self.globs.has(state, name),
        };
        if !wanted {
            return Ok(());
        }
        let place = place.join(name);
        if self.covered.contains(&place.seen) {
            return Ok(());
        }
        if name.iter().any(u8::is_ascii_control) {
            self.refuse(&place, "its name has a control character".into());
        } else if place.seen.len() > OUTPUTS_PATH_BYTES_MAX {
            self.refuse(&place, format!("its path is longer than {OUTPUTS_PATH_BYTES_MAX} bytes"));
        } else if let Some(inside) = inside {
            if place.depth > OUTPUTS_DEPTH_MAX {
                self.refuse(&place, format!("it is deeper than {OUTPUTS_DEPTH_MAX} directories"));
            } else {
                return self.directory(directory, name, &place, &inside);
            }
        } else if kind == libc::DT_REG {
            self.found.insert(place.sealed(), place.real);
            if self.found.len() > self.files_max
                && let Some((path, _)) = self.found.pop_last()
            {
                self.refused.add(path, format!("there are more than {} files", self.files_max));
            }
        } else {
            self.refuse(&place, not_kept(kind).into());
        }
        Ok(())
    }

    fn refuse(&mut self, place: &Place, why: String) {
        self.refused.add(place.sealed(), why);
    }
}

/// For file systems that don't say it in the directory. Opens nothing: O_PATH only names.
fn kind_of(directory: BorrowedFd<'_>, name: &[u8]) -> u8 {
    let status = sys::open_beneath(directory, name, libc::O_PATH).and_then(|fd| sys::file_status(fd.as_fd()));
    match status.map(|status| status.kind) {
        Ok(libc::S_IFREG) => libc::DT_REG,
        Ok(libc::S_IFDIR) => libc::DT_DIR,
        Ok(libc::S_IFLNK) => libc::DT_LNK,
        _ => libc::DT_UNKNOWN,
    }
}

fn not_kept(kind: u8) -> &'static str {
    match kind {
        libc::DT_LNK => "it is a symbolic link, and links are not followed",
        libc::DT_FIFO => "it is a named pipe",
        libc::DT_SOCK => "it is a socket",
        libc::DT_BLK | libc::DT_CHR => "it is a device",
        _ => "it is no regular file",
    }
}

/// Copies files into the pack, one behind the other.
struct Copy<'a> {
    scratch: BorrowedFd<'a>,
    device: u64,
    pack: BorrowedFd<'a>,
    bytes_max: u64,
    /// Bytes of the pack that are files. What a file that was given up left behind is written over.
    total: u64,
    /// What the list in the seal may still take.
    list_left: usize,
    deadline: u64,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    /// The sentence of an error is for the user.
    fn file(&mut self, path: &[u8], real: &[u8]) -> Result<OutputFile, String> {
        let fd = sys::open_beneath(self.scratch, real, libc::O_RDONLY)
            .map_err(|errno| format!("it can't be opened: {errno}"))?;
        let status =
            sys::file_status(fd.as_fd()).map_err(|errno| format!("it can't be looked at: {errno}"))?;
        let FileStatus { device, bytes, kind, .. } = status;
        if kind != libc::S_IFREG || device != self.device {
            return Err("it is no regular file of the sandbox".into());
        }
        let left = self.bytes_max - self.total;
        if bytes > left {
            let max = self.bytes_max;
            return Err(format!("it has {bytes} bytes, and of {max} for all outputs {left} are left"));
        }
        let listed = OutputFile::list_bytes(path);
        if listed > self.list_left {
            return Err("there is no room for it in the list of outputs".into());
        }
        let blake3 = self.bytes(fd, bytes)?;
        self.total += bytes;
        self.list_left -= listed;
        Ok(OutputFile { path: path.to_vec(), bytes, blake3 })
    }

    fn bytes(&mut self, from: OwnedFd, bytes: u64) -> Result<[u8; 32], String> {
        let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
        while done < bytes {
            if sys::monotonic_ns() >= self.deadline {
                return Err("there was no time left for it".into());
            }
            let wanted = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = match sys::read(from.as_fd(), &mut self.buffer[..wanted]) {
                Ok(0) => return Err("it became shorter while it was read".into()),
                Ok(read) => read,
                Err(Errno(libc::EINTR)) => continue,
                Err(errno) => return Err(format!("it can't be read: {errno}")),
            };
            let piece = &self.buffer[..read];
            hasher.update(piece);
            write_all_at(self.pack, piece, self.total + done)
                .map_err(|errno| format!("the disk that keeps outputs doesn't take it: {errno}"))?;
            done += read as u64;
        }
        match sys::read(from.as_fd(), &mut [0]) {
            Ok(0) => Ok(*hasher.finalize().as_bytes()),
            _ => Err("it became longer while it was read".into()),
        }
    }

    /// The pack is the files and nothing more, and on disk.
    fn finish(&self) -> Result<(), Errno> {
        sys::truncate(self.pack, self.total)?;
        if self.total > 0 { sys::sync_data(self.pack) } else { Ok(()) }
    }
}

fn write_all_at(fd: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match sys::write_at(fd, &bytes[done..], at + done as u64) {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(written) => done += written,
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;

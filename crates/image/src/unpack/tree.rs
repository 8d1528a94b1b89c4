//! The root file system of an image while it is made.
//!
//! Nobody else writes in it, but every name comes from a hostile file. A parent is looked up as the sandbox will see it: links
//! lead to where they lead in there, and nothing leads out ([`crate::beneath`]). The last part of a name is never followed: what
//! is there is removed, and the new thing is made with `O_EXCL` or a call that follows no link. Modes and times are set through
//! descriptors only.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, fchmod, fstat, futimens, linkat, mkdirat, openat,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::remove::{Trash, is_directory, names, open_directory};
use crate::beneath;
use crate::limits::{BUFFER_BYTES, DIRECTORY_TIMES_BYTES_MAX};
use crate::name::split;
use crate::tar::Mtime;

/// Everything belongs to whoever unpacks and is bound read-only into sandboxes, for a user who owns nothing in it.
const FILE: Mode = Mode::from_raw_mode(0o644);
const EXECUTABLE: Mode = Mode::from_raw_mode(0o755);
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
/// What a file or directory takes at least; only used to add up.
const DISK_BLOCK_BYTES: u64 = 4096;

pub(crate) struct Tree {
    root: Rc<Parent>,
    trash: Trash,
    /// The directory of the last entry: mostly the next one's as well. Forgotten when a name is taken away, as that alone
    /// can change what a path leads to.
    last: Option<(Vec<u8>, Rc<Parent>)>,
    /// What the layer at hand has made: hashes of directory and name. The key is random, so nobody can make two of them meet.
    made: HashSet<u64>,
    key: RandomState,
    /// Directories in which this layer has left nothing of lower ones. Each is listed once, however often it is asked for.
    cleared: HashSet<u64>,
    /// Directories made because an entry was to go into them.
    implied: u64,
    times: Vec<(Vec<u8>, Mtime)>,
    times_bytes: usize,
    bytes: u64,
    buffer: Box<[u8]>,
}

struct Parent {
    fd: OwnedFd,
    inode: u64,
}

impl Parent {
    fn new(fd: OwnedFd) -> io::Result<Rc<Self>> {
        let inode = fstat(&fd)?.st_ino;
        Ok(Rc::new(Parent { fd, inode }))
    }
}

impl Tree {
    /// Makes `rootfs` in `directory`, which is empty and nobody else's.
    pub(crate) fn create(directory: impl AsFd) -> io::Result<Self> {
        mkdirat(&directory, "rootfs", DIRECTORY)?;
        let root = open_directory(&directory, "rootfs")?;
        fchmod(&root, DIRECTORY)?;
        Ok(Tree {
            root: Parent::new(root)?,
            trash: Trash::open(&directory, "trash")?,
            last: None,
            made: HashSet::new(),
            key: RandomState::new(),
            cleared: HashSet::new(),
            implied: 0,
            times: Vec::new(),
            times_bytes: 0,
            bytes: 0,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    /// About what it takes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Directories that no entry has asked for by itself.
    pub(crate) fn implied(&self) -> u64 {
        self.implied
    }

    /// To be called after each layer.
    pub(crate) fn end_layer(&mut self) -> io::Result<()> {
        self.made.clear();
        self.cleared.clear();
        self.times_bytes = 0;
        for (path, mtime) in std::mem::take(&mut self.times) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match beneath::open(&self.root.fd, &path, flags) {
                Ok(fd) => set_mtime(&fd, mtime)?,
                // The layer itself has replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn directory(&mut self, path: &[u8], mtime: Mtime) -> io::Result<()> {
        let (above, name) = split(path);
        if !name.is_empty() {
            let parent = self.parent(above)?;
            match statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_directory(&stat) => {}
                Ok(_) => {
                    self.remove(&parent, name)?;
                    self.make_directory(&parent, name)?;
                }
                Err(Errno::NOENT) => drop(self.make_directory(&parent, name)?),
                Err(error) => return Err(error.into()),
            }
            self.note(&parent, name);
        }
        if self.times_bytes + path.len() <= DIRECTORY_TIMES_BYTES_MAX {
            self.times_bytes += path.len() + size_of::<(Vec<u8>, Mtime)>();
            self.times.push((path.to_vec(), mtime));
        }
        Ok(())
    }

    pub(crate) fn file(
        &mut self,
        path: &[u8],
        executable: bool,
        mtime: Mtime,
        content: &mut dyn Read,
    ) -> Result<(), Failed> {
        let (above, name) = split(path);
        let parent = self.parent(above)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            self.replacing(&parent, name, |parent| openat(parent, name, flags, Mode::RUSR | Mode::WUSR))?;
        let mut file = File::from(fd);
        let mut size = 0;
        loop {
            let read = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failed::Content(error)),
            };
            file.write_all(self.buffer.get(..read).unwrap_or_default())?;
            size += read as u64;
        }
        fchmod(&file, if executable { EXECUTABLE } else { FILE }).map_err(io::Error::from)?;
        set_mtime(&file, mtime)?;
        self.note(&parent, name);
        self.bytes += on_disk(size);
        Ok(())
    }

    pub(crate) fn symlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let (above, name) = split(path);
        let parent = self.parent(above)?;
        self.replacing(&parent, name, |parent| symlinkat(target, parent, name))?;
        self.note(&parent, name);
        self.bytes += on_disk(target.len() as u64);
        Ok(())
    }

    /// A second name for a file that is there. Its own directory is looked up as any other; the name in it isn't followed.
    pub(crate) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let (from_above, from_name) = split(target);
        let from = beneath::open(&self.root.fd, dot(from_above), OFlags::PATH | OFlags::DIRECTORY)?;
        let source = statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_directory(&source) {
            return Err(Errno::ISDIR.into());
        }
        let (above, name) = split(path);
        let parent = self.parent(above)?;
        match statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removing it first would leave nothing to link to.
            Ok(there) if there.st_ino == source.st_ino && there.st_dev == source.st_dev => {}
            Ok(_) => {
                self.remove(&parent, name)?;
                linkat(&from, from_name, &parent.fd, name, AtFlags::empty())?;
            }
            Err(Errno::NOENT) => linkat(&from, from_name, &parent.fd, name, AtFlags::empty())?,
            Err(error) => return Err(error.into()),
        }
        self.note(&parent, name);
        Ok(())
    }

    /// Takes away a name of a lower layer. What the layer at hand has made under that name itself stays.
    pub(crate) fn whiteout(&mut self, above: &[u8], name: &[u8]) -> io::Result<()> {
        let Some(parent) = self.find(above)? else { return Ok(()) };
        if !self.is_made(parent.inode, name) {
            return self.remove(&parent, name);
        }
        match open_directory(&parent.fd, name) {
            Ok(_) => self.opaque(&[above, b"/", name].concat()),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes away all that lower layers have put into a directory, and into those that the layer at hand has there, too.
    pub(crate) fn opaque(&mut self, path: &[u8]) -> io::Result<()> {
        let mut waiting = vec![path.to_vec()];
        while let Some(path) = waiting.pop() {
            let Some(directory) = self.find(&path)? else { continue };
            if !self.cleared.insert(directory.inode) {
                continue;
            }
            let listed = open_directory(&directory.fd, ".")?;
            for name in names(&listed)? {
                if !self.is_made(directory.inode, &name) {
                    self.remove(&directory, &name)?;
                } else if is_directory(&statat(&directory.fd, &*name, AtFlags::SYMLINK_NOFOLLOW)?) {
                    waiting.push([&*path, b"/", &name].concat());
                }
            }
        }
        Ok(())
    }

    /// A directory that is there. Anything else in its place is an error, nothing is `None`.
    fn find(&self, path: &[u8]) -> io::Result<Option<Rc<Parent>>> {
        match beneath::open(&self.root.fd, dot(path), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => Parent::new(fd).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory that an entry goes into; made if the layer hasn't named it before.
    fn parent(&mut self, path: &[u8]) -> io::Result<Rc<Parent>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((last, parent)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(parent));
        }
        let parent = match self.find(path)? {
            Some(parent) => parent,
            None => self.make_way(path)?,
        };
        self.last = Some((path.to_vec(), Rc::clone(&parent)));
        Ok(parent)
    }

    /// Makes a directory that is not there, and all above it that aren't either.
    fn make_way(&mut self, path: &[u8]) -> io::Result<Rc<Parent>> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let ends: Vec<usize> = std::iter::once(0).chain(slashes).chain([path.len()]).collect();
        let start = |number: usize| ends.get(number).and_then(|end| path.get(..*end)).unwrap_or_default();
        // By halves: a long way behind a chain of links is dear to look up.
        let (mut there, mut missing, mut parent) = (0, ends.len() - 1, Rc::clone(&self.root));
        while missing - there > 1 {
            let middle = there.midpoint(missing);
            match self.find(start(middle))? {
                Some(found) => (there, parent) = (middle, found),
                None => missing = middle,
            }
        }
        // What is new has no links in it.
        for number in missing..ends.len() {
            let (_, name) = split(start(number));
            let made = self.make_directory(&parent, name)?;
            self.note(&parent, name);
            self.implied += 1;
            parent = Parent::new(made)?;
        }
        Ok(parent)
    }

    fn make_directory(&mut self, parent: &Parent, name: &[u8]) -> io::Result<OwnedFd> {
        mkdirat(&parent.fd, name, DIRECTORY)?;
        let fd = open_directory(&parent.fd, name)?;
        // The mask of the process has taken part in making it.
        fchmod(&fd, DIRECTORY)?;
        self.bytes += on_disk(0);
        Ok(fd)
    }

    /// Makes something that must not be there yet, and removes what is.
    fn replacing<T>(
        &mut self,
        parent: &Parent,
        name: &[u8],
        make: impl Fn(&OwnedFd) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        match make(&parent.fd) {
            Err(Errno::EXIST) => {
                self.remove(parent, name)?;
                Ok(make(&parent.fd)?)
            }
            result => Ok(result?),
        }
    }

    fn remove(&mut self, parent: &Parent, name: &[u8]) -> io::Result<()> {
        let stat = match statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.last = None;
        let bytes = &mut self.bytes;
        let mut gone = |stat: &Stat| *bytes = bytes.saturating_sub(freed(stat));
        if is_directory(&stat) {
            self.trash.remove(&parent.fd, name, &mut gone)
        } else {
            unlinkat(&parent.fd, name, AtFlags::empty())?;
            gone(&stat);
            Ok(())
        }
    }

    fn note(&mut self, parent: &Parent, name: &[u8]) {
        self.made.insert(self.key.hash_one((parent.inode, name)));
    }

    fn is_made(&self, parent: u64, name: &[u8]) -> bool {
        self.made.contains(&self.key.hash_one((parent, name)))
    }
}

/// Whose fault it is that a file was not written.
pub(crate) enum Failed {
    Content(io::Error),
    Disk(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Disk(error)
    }
}

/// The root itself has no name to look up.
fn dot(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

fn on_disk(size: u64) -> u64 {
    size.next_multiple_of(DISK_BLOCK_BYTES).max(DISK_BLOCK_BYTES)
}

fn freed(stat: &Stat) -> u64 {
    match stat.st_nlink {
        _ if is_directory(stat) => on_disk(0),
        0 | 1 => on_disk(u64::try_from(stat.st_size).unwrap_or_default()),
        _ => 0,
    }
}

fn set_mtime(fd: impl AsFd, mtime: Mtime) -> io::Result<()> {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    futimens(fd, &Timestamps { last_access: time, last_modification: time })?;
    Ok(())
}

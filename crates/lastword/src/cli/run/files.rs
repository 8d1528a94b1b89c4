//! Files of the caller for the sandbox: `--file`, `--dir` and `--ro`.
//!
//! What is copied is read here, once; what is shared is only looked at. Links of a directory that lead out of it are not
//! followed: somebody else may have put them there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use lastword_api::path::{any_path, file_path};
use lastword_api::request::{FILES_MAX, INPUT_BYTES_MAX};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::cli::message::Advice;
use crate::execution::request::{InputFile, Shared};

const MODE: u32 = 0o644;
const MODE_EXECUTABLE: u32 = 0o755;

/// Files on their way into a request.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) files: Vec<InputFile>,
    bytes: u64,
}

impl Collected {
    /// `--file SRC[:DST]`
    pub(super) fn file(&mut self, given: &OsStr) -> anyhow::Result<()> {
        let (source, target) = split(given);
        let path = Path::new(&source);
        let target = match target {
            Some(target) => target,
            None => path.file_name().map(OsStr::to_owned).ok_or_else(|| no_name("--file", path))?,
        };
        let target = sandbox_path("--file", &target)?;
        let file = File::open(path).with_context(|| cannot_read(path))?;
        if file.metadata().with_context(|| cannot_read(path))?.is_dir() {
            return Err(anyhow!("{} for --file is a directory", path.display()))
                .hint("--dir takes all that is in a directory");
        }
        self.add(path, file, target)
    }

    /// `--dir DIR`: what is in it comes to lie in the working directory.
    pub(super) fn directory(&mut self, dir: &Path) -> anyhow::Result<()> {
        let root = fs::canonicalize(dir).with_context(|| cannot_read(dir))?;
        if !root.is_dir() {
            return Err(anyhow!("{} for --dir is not a directory", dir.display()))
                .hint("--file takes single files");
        }
        let inside = Inside::open(root.clone()).with_context(|| cannot_read(dir))?;
        let mut waiting = vec![PathBuf::new()];
        while let Some(below) = waiting.pop() {
            let here = root.join(&below);
            for entry in fs::read_dir(&here).with_context(|| cannot_read(&here))? {
                let entry = entry.with_context(|| cannot_read(&here))?;
                let path = entry.path();
                let below = below.join(entry.file_name());
                let kind = entry.file_type().with_context(|| cannot_read(&path))?;
                if kind.is_dir() {
                    // A directory counts like a file: an endless tree of empty ones must end, too.
                    self.count(0)?;
                    waiting.push(below);
                    continue;
                }
                let target = sandbox_path("--dir", below.as_os_str())?;
                let below = if kind.is_symlink() { inside.below(&path)? } else { below };
                let file = inside.file(&below).with_context(|| cannot_read(&path))?;
                if !file.metadata().with_context(|| cannot_read(&path))?.is_file() {
                    bail!("{} is neither a file nor a directory", path.display());
                }
                self.add(&path, file, target)?;
            }
        }
        Ok(())
    }

    /// A file that was opened already.
    pub(super) fn add(&mut self, path: &Path, file: File, target: Vec<u8>) -> anyhow::Result<()> {
        let metadata = file.metadata().with_context(|| cannot_read(path))?;
        let executable = metadata.permissions().mode() & 0o111 != 0;
        let left = INPUT_BYTES_MAX.saturating_sub(self.bytes);
        let mut bytes = Vec::new();
        // One byte more than may be: a file can grow, and some say that they are empty.
        file.take(left + 1).read_to_end(&mut bytes).with_context(|| cannot_read(path))?;
        self.count(bytes.len() as u64).with_context(|| cannot_read(path))?;
        self.files.push(InputFile {
            path: target,
            mode: if executable { MODE_EXECUTABLE } else { MODE },
            bytes,
        });
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.bytes += bytes;
        if self.bytes > INPUT_BYTES_MAX {
            return Err(anyhow!("the files take more than {INPUT_BYTES_MAX} bytes"))
                .hint("share large data with --ro: it is not copied");
        }
        if self.files.len() >= FILES_MAX {
            return Err(anyhow!("there are more than {FILES_MAX} files"))
                .hint("share large trees with --ro: they are not copied");
        }
        Ok(())
    }
}

/// `--ro SRC[:DST]`
pub(super) fn shared(given: &OsStr) -> anyhow::Result<Shared> {
    let (source, target) = split(given);
    let path = Path::new(&source);
    let real = fs::canonicalize(path).with_context(|| cannot_read(path))?;
    let target = match target {
        Some(target) => target,
        None => real.file_name().map(OsStr::to_owned).ok_or_else(|| no_name("--ro", path))?,
    };
    let target = any_path(target.as_bytes())
        .map_err(|error| anyhow!("the path {} for --ro {error}", target.display()))?;
    let directory = fs::metadata(&real).with_context(|| cannot_read(path))?;
    let directory = match (directory.is_dir(), directory.is_file()) {
        (true, _) => true,
        (_, true) => false,
        _ => bail!("{} for --ro is neither a file nor a directory", path.display()),
    };
    Ok(Shared { source: real, path: OsString::from_vec(target).into(), directory })
}

/// `SRC[:DST]`. A source that is there as it stands has no target, whatever colons it has.
fn split(given: &OsStr) -> (OsString, Option<OsString>) {
    let bytes = given.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b':') {
        Some(at) if at > 0 && at + 1 < bytes.len() && !Path::new(given).exists() => {
            (OsStr::from_bytes(&bytes[..at]).into(), Some(OsStr::from_bytes(&bytes[at + 1..]).into()))
        }
        _ => (given.to_owned(), None),
    }
}

fn sandbox_path(option: &str, path: &OsStr) -> anyhow::Result<Vec<u8>> {
    file_path(path.as_bytes()).map_err(|error| anyhow!("the path {:?} for {option} {error}", path))
}

/// A directory that nothing is read from outside of, also if somebody else puts links there while we look.
struct Inside {
    root: PathBuf,
    fd: OwnedFd,
}

impl Inside {
    fn open(root: PathBuf) -> io::Result<Inside> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&root, flags, Mode::empty())?;
        Ok(Inside { root, fd })
    }

    /// Where a link leads, if that is in the same directory.
    fn below(&self, link: &Path) -> anyhow::Result<PathBuf> {
        let real = fs::canonicalize(link).with_context(|| cannot_read(link))?;
        match real.strip_prefix(&self.root) {
            Ok(below) => Ok(below.to_owned()),
            Err(_) => Err(anyhow!("the link {} leads out of its directory", link.display()))
                .hint("copy what it leads to, or share it with --ro"),
        }
    }

    /// Without links: a path that was looked at had none. Doesn't wait for the other end of a pipe.
    fn file(&self, below: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.fd, below, flags, Mode::empty(), resolve)?.into())
    }
}

fn no_name(option: &str, path: &Path) -> anyhow::Error {
    anyhow!("{} for {option} has no name of its own: write SRC:DST", path.display())
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(collected: &Collected) -> Vec<String> {
        let mut paths: Vec<String> =
            collected.files.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn a_directory_is_taken_whole() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pkg/deep")).unwrap();
        fs::write(dir.path().join("pkg/deep/x.py"), "x").unwrap();
        fs::write(dir.path().join("main.py"), "x").unwrap();
        std::os::unix::fs::symlink("main.py", dir.path().join("link.py")).unwrap();
        let mut collected = Collected::default();
        collected.directory(dir.path()).unwrap();
        assert_eq!(paths(&collected), ["/work/link.py", "/work/main.py", "/work/pkg/deep/x.py"]);
    }

    /// What somebody changes between our look and our opening.
    #[test]
    fn a_link_that_comes_later_is_not_followed() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("x"), "private").unwrap();
        let inside = Inside::open(dir.path().canonicalize().unwrap()).unwrap();
        std::os::unix::fs::symlink(other.path(), dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink(other.path().join("x"), dir.path().join("x")).unwrap();
        for below in ["x", "sub/x", "../x"] {
            assert!(inside.file(Path::new(below)).is_err(), "{below}");
        }
        fs::write(dir.path().join("y"), "y").unwrap();
        assert!(inside.file(Path::new("y")).is_ok());
    }

    #[test]
    fn a_link_out_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let error = Collected::default().directory(dir.path()).unwrap_err();
        // Its hint stands before it.
        assert!(format!("{error:#}").contains("leads out"), "{error:#}");
    }

    #[test]
    fn a_target_is_behind_the_last_colon() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:b");
        fs::write(&odd, "x").unwrap();
        let mut collected = Collected::default();
        collected.file(odd.as_os_str()).unwrap();
        let mut with_target = odd.into_os_string();
        with_target.push(":data/c");
        collected.file(&with_target).unwrap();
        assert_eq!(paths(&collected), ["/work/a:b", "/work/data/c"]);
        let mut out = with_target;
        out.push("/../../../etc/x");
        let error = collected.file(&out).unwrap_err();
        assert!(error.to_string().contains(". or .."), "{error}");
    }

    #[test]
    fn what_is_shared_has_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut given = dir.path().as_os_str().to_owned();
        given.push(":/data");
        let found = shared(&given).unwrap();
        assert_eq!((found.path.to_str(), found.directory), (Some("/data"), true));
        assert!(shared(dir.path().as_os_str()).unwrap().path.starts_with("/work"));
        assert!(shared(OsStr::new("/no/such/path:/data")).is_err());
    }
}

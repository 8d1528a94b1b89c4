//! What a sandbox's root is made of: this machine's own system directories, or the unpacked root of an image.
//!
//! Looked at before anything is done; [`crate::root`] turns it into steps.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use crate::limits::{COPIED_BYTES_MAX, IMAGE_TOP_ENTRIES_MAX};
use crate::root::OWN;

/// Directories of / that hold programs and libraries on some distributions.
const SYSTEM_DIRECTORIES: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"];

/// What of /etc programs need to find libraries, zones, certificates and alternatives. Nothing with secrets or identities.
const ETC: [&str; 26] = [
    "alternatives",
    "ca-certificates.conf",
    "fonts",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "java-25-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "php",
    "protocols",
    "python3",
    "python3.11",
    "python3.12",
    "python3.13",
    "services",
    "ssl/certs",
    "terminfo",
    "timezone",
];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Entries of an image's / that the sandbox makes itself.
const MADE_BY_US: [&str; 4] = ["dev", "proc", "tmp", OWN];

/// Links at the top of a root that lead to one another.
const LINKS_MAX: u32 = 8;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Directory,
    File,
    Link(PathBuf),
    /// A small file that is copied: cheaper than a mount, and a mount less to take down.
    Text(Vec<u8>),
}

/// An entry of the root, and the path of the host that is seen there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Without a leading slash.
    pub(crate) name: Vec<u8>,
    pub(crate) real: PathBuf,
    pub(crate) found: Found,
}

/// A look at the host or at an image: everything that the steps depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub(crate) system: Vec<Entry>,
    /// Names below /etc; `None` where the image's own /etc is among `system`.
    pub(crate) etc: Option<Vec<Entry>>,
    pub(crate) devices: Vec<String>,
    /// The image has a /var/tmp of its own to put ours over.
    pub(crate) var: Var,
}

/// What becomes of /var.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Var {
    /// The base has none: we make it.
    Ours,
    /// The base has one with a place for our /var/tmp.
    TheirsWithTmp,
    Theirs,
}

impl Base {
    /// The host's own system directories.
    pub fn host() -> Base {
        let entry = |name: &str, real: PathBuf, found| Entry { name: name.into(), real, found };
        let system = SYSTEM_DIRECTORIES
            .iter()
            .filter_map(|name| {
                let real = Path::new("/").join(name);
                let found = look_at(&real)?;
                Some(entry(name, real, found))
            })
            .filter(|entry| matches!(entry.found, Found::Directory | Found::Link(_)))
            .collect();
        let etc = ETC
            .iter()
            .filter_map(|name| {
                // Links are resolved here: what they point to may not be in the sandbox.
                let real = fs::canonicalize(Path::new("/etc").join(name)).ok()?;
                let found = match look_at(&real)? {
                    Found::File => small(&real).unwrap_or(Found::File),
                    found => found,
                };
                Some(entry(&format!("etc/{name}"), real, found))
            })
            .collect();
        Base { system, etc: Some(etc), devices: devices(), var: Var::Ours }
    }

    /// The unpacked root of an image. Its own /dev, /proc and /tmp are hidden; the rest is seen read-only.
    ///
    /// # Errors
    /// It can't be read, or has more entries than [`IMAGE_TOP_ENTRIES_MAX`]: part of an image would be another one.
    pub fn image(rootfs: &Path) -> io::Result<Base> {
        let mut system = Vec::new();
        for (count, entry) in fs::read_dir(rootfs)?.enumerate() {
            if count >= IMAGE_TOP_ENTRIES_MAX {
                let why =
                    format!("there are more than {IMAGE_TOP_ENTRIES_MAX} entries at the top of its root");
                return Err(io::Error::other(why));
            }
            let entry = entry?;
            let name = entry.file_name().as_bytes().to_vec();
            if MADE_BY_US.iter().any(|ours| ours.as_bytes() == name) {
                continue;
            }
            if let Some(found) = look_at(&entry.path()) {
                system.push(Entry { name, real: entry.path(), found });
            }
        }
        system.sort_by(|a, b| a.name.cmp(&b.name));
        let is_dir = |path: &str| {
            fs::symlink_metadata(rootfs.join(path)).is_ok_and(|metadata| metadata.file_type().is_dir())
        };
        let var = match (system.iter().any(|entry| entry.name == b"var"), is_dir("var") && is_dir("var/tmp"))
        {
            (false, _) => Var::Ours,
            (true, true) => Var::TheirsWithTmp,
            (true, false) => Var::Theirs,
        };
        let has_etc = system.iter().any(|entry| entry.name == b"etc");
        Ok(Base { system, etc: (!has_etc).then(Vec::new), devices: devices(), var })
    }

    /// The base without some entries at its top: what stands in their place is ours, and nothing can be mounted over a file or
    /// a link, or made in a directory of the base.
    pub fn without(&self, names: &[&str]) -> Cow<'_, Base> {
        let is_one = |entry: &Entry| names.iter().any(|name| entry.name == name.as_bytes());
        if !self.system.iter().any(is_one) {
            return Cow::Borrowed(self);
        }
        let mut base = self.clone();
        base.system.retain(|entry| !is_one(entry));
        Cow::Owned(base)
    }

    /// What the base has at a path of the sandbox (absolute, without links): for mounting something over it.
    pub fn kind_of(&self, path: &Path) -> Kind {
        let Ok(below) = path.strip_prefix("/") else { return Kind::Forbidden };
        let Some(first) = below.iter().next() else { return Kind::Forbidden };
        let own = ["dev", "etc", "proc", OWN];
        let Some(entry) = self.system.iter().find(|entry| entry.name == first.as_bytes()) else {
            return if own.iter().any(|name| *name == first) { Kind::Forbidden } else { Kind::Free };
        };
        let mut real = entry.real.clone();
        let mut kind = fs::symlink_metadata(&real);
        for name in below.iter().skip(1) {
            if !kind.as_ref().is_ok_and(|metadata| metadata.is_dir()) {
                return Kind::Forbidden;
            }
            real.push(name);
            kind = fs::symlink_metadata(&real);
        }
        match kind {
            Ok(metadata) if metadata.is_dir() => Kind::Directory,
            Ok(metadata) if metadata.is_file() => Kind::File,
            _ => Kind::Forbidden,
        }
    }

    /// Whether the base has an entry of this name directly below /.
    pub fn has_top(&self, name: &str) -> bool {
        self.system.iter().any(|entry| entry.name == name.as_bytes())
    }

    /// The path of the host behind a path of the sandbox, if the base has it. Links at the top are followed, others not.
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        self.behind(path, LINKS_MAX)
    }

    fn behind(&self, path: &Path, links: u32) -> Option<PathBuf> {
        let below = path.strip_prefix("/").ok()?;
        let first = below.iter().next()?;
        let entry = self.system.iter().find(|entry| entry.name == first.as_bytes())?;
        let rest = below.strip_prefix(first).ok()?;
        match &entry.found {
            Found::Link(target) => self.behind(&from_top(target).join(rest), links.checked_sub(1)?),
            _ => Some(entry.real.join(rest)),
        }
    }
}

/// Where a link at the top leads. A `..` in it ends at the top, as it does in the sandbox; joined as it is, it would go on in
/// the directories of this machine.
fn from_top(target: &Path) -> PathBuf {
    let mut at = PathBuf::from("/");
    for component in target.components() {
        match component {
            Component::Normal(name) => at.push(name),
            Component::ParentDir => {
                at.pop();
            }
            _ => {}
        }
    }
    at
}

/// What a path of the sandbox is before anything is put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is there, and all of it may be made.
    Free,
    Directory,
    File,
    /// It belongs to the sandbox itself, or to a read-only part in which nothing can be made.
    Forbidden,
}

fn devices() -> Vec<String> {
    DEVICES.iter().filter(|name| is_device(name)).map(|name| name.to_string()).collect()
}

fn look_at(path: &Path) -> Option<Found> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(if metadata.is_symlink() {
        Found::Link(fs::read_link(path).ok()?)
    } else if metadata.is_dir() {
        Found::Directory
    } else if metadata.is_file() {
        Found::File
    } else {
        return None;
    })
}

fn small(path: &Path) -> Option<Found> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.len() <= COPIED_BYTES_MAX).then(|| fs::read(path).ok().map(Found::Text))?
}

fn is_device(name: &str) -> bool {
    fs::metadata(Path::new("/dev").join(name)).is_ok_and(|metadata| metadata.file_type().is_char_device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_put_where() {
        let base = Base::host();
        let kind = |path: &str| base.kind_of(Path::new(path));
        assert_eq!(kind("/data/x"), Kind::Free);
        assert_eq!(kind("/work/x"), Kind::Free);
        assert_eq!(kind("/usr/bin"), Kind::Directory);
        assert_eq!(kind("/usr/no/such"), Kind::Forbidden);
        assert_eq!(kind("/usr/bin/env/x"), Kind::Forbidden);
        for forbidden in ["/", "/etc", "/etc/passwd", "/proc/1", "/dev/null", "relative"] {
            assert_eq!(kind(forbidden), Kind::Forbidden, "{forbidden}");
        }
    }

    #[test]
    fn an_image_is_seen_without_what_we_make() {
        let dir = std::env::temp_dir().join(format!("lastword-base-{}", std::process::id()));
        for name in ["proc", "app/deep", "var/tmp", OWN] {
            fs::create_dir_all(dir.join(name)).expect("a directory");
        }
        fs::write(dir.join("prog"), b"x").expect("a file");
        std::os::unix::fs::symlink("app", dir.join("link")).expect("a link");
        std::os::unix::fs::symlink("app/../../../../../../../etc", dir.join("climb")).expect("a link");
        let base = Base::image(&dir).expect("a base");
        let names: Vec<&[u8]> = base.system.iter().map(|entry| &entry.name[..]).collect();
        assert_eq!(names, [&b"app"[..], b"climb", b"link", b"prog", b"var"]);
        assert_eq!(base.var, Var::TheirsWithTmp);
        assert_eq!(base.etc, Some(Vec::new()));
        assert_eq!(base.kind_of(Path::new("/app/deep")), Kind::Directory);
        assert_eq!(base.kind_of(Path::new("/link")), Kind::Forbidden);
        assert_eq!(base.real(Path::new("/link/deep")), Some(dir.join("app/deep")));
        assert_eq!(base.real(Path::new("/climb/passwd")), None);
        let names: Vec<Vec<u8>> =
            base.without(&["var", "prog"]).system.iter().map(|e| e.name.clone()).collect();
        assert_eq!(names, [&b"app"[..], b"climb", b"link"]);
        fs::remove_dir_all(&dir).expect("removed");
    }
}

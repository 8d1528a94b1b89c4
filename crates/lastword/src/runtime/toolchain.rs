//! Which toolchain stands behind a runtime, told from outside of it.
//!
//! An [`Identity`] changes whenever another toolchain might be there: it is part of the compile cache's key, and says whether a
//! version that was asked for once still holds. It is looked at anew each time, because packages are updated while servers run;
//! that costs a dozen `stat` calls.
//!
//! What it doesn't see: a file that is changed by hand, without a package, deep below a directory that was there before.

use std::env::consts::ARCH;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use lastword_sandbox::host::Base;

use super::versions::Versions;
use super::{Runtime, all};

/// Where a sandbox looks for a command without a slash.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What changes when any package is installed, updated or removed.
const PACKAGES: [&str; 8] = [
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages",
    "/var/lib/rpm/Packages.db",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/lib/apk/db/installed",
    "/var/lib/pacman/local",
];
/// Where compilers find headers, libraries and one another.
const COMPILED_WITH: [&str; 10] = [
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/bin",
    "/usr/local/include",
    "/usr/local/lib",
    "/usr/local/lib64",
];
/// As the kernel.
const LINKS_MAX: u32 = 40;

/// What a sandbox's root is made of.
#[derive(Clone, Copy, Debug)]
pub enum Root<'a> {
    /// This machine's own system directories.
    Host(&'a Base),
    Image {
        base: &'a Base,
        /// Two images with the same one have the same files.
        digest: &'a str,
    },
}

/// Equal bytes mean the same toolchain. Printable, one line per thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(String);

/// What can be had of a runtime in one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub name: String,
    /// The runtime's, or its compiler's.
    pub version: Option<String>,
    /// All that it runs is there.
    pub found: bool,
}

impl Identity {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts down what stands at a path now, if anything does.
    fn look(&mut self, label: &str, path: &Path) {
        let path_text = path.as_os_str().as_bytes().escape_ascii();
        match fs::metadata(path) {
            Ok(found) => self.line(&format!("{label} {} {path_text}", stamp(&found))),
            Err(_) => self.line(&format!("{label} none {path_text}")),
        }
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }
}

/// What of a file changes when it is replaced or written.
fn stamp(found: &Metadata) -> String {
    let (mtime, ctime) = (found.mtime_nsec(), found.ctime_nsec());
    let (modified, changed) = (found.mtime(), found.ctime());
    format!("{}:{} {} {modified}.{mtime:09} {changed}.{ctime:09}", found.dev(), found.ino(), found.size())
}

/// Which toolchain a runtime has in a root now.
pub fn identity(root: Root<'_>, runtime: &Runtime) -> Identity {
    let mut identity = Identity(format!("toolchain 1 of {}\n", runtime.name.escape_debug()));
    match root {
        Root::Image { digest, .. } => identity.line(&format!("image {}", digest.escape_debug())),
        Root::Host(_) => {
            for word in executables(runtime) {
                match find(root, OsStr::new(word)) {
                    Some(path) => identity.look("executable", &path),
                    None => identity.line(&format!("executable none {}", word.escape_debug())),
                }
            }
            for path in PACKAGES {
                identity.look("packages", Path::new(path));
            }
            if runtime.compile.is_some() {
                let multiarch = ["/usr/lib", "/usr/include"].map(|dir| format!("{dir}/{ARCH}-linux-gnu"));
                for path in COMPILED_WITH.into_iter().chain(multiarch.iter().map(String::as_str)) {
                    identity.look("directory", Path::new(path));
                }
            }
        }
    }
    identity
}

/// What of all runtimes can be had in a root. Versions that were asked for before are free; others cost a probe each, if there is one.
pub fn available(root: Root<'_>, versions: &Versions, probe: Option<&super::Probe<'_>>) -> Vec<Available> {
    let look = |runtime: &Runtime| {
        let found = executables(runtime).all(|word| find(root, OsStr::new(word)).is_some());
        let version = found.then(|| versions.version(runtime, root, probe)).flatten();
        Available { name: runtime.name.clone(), version, found }
    };
    all().iter().map(look).collect()
}

/// First words of what a runtime runs, except of what it compiled itself.
fn executables(runtime: &Runtime) -> impl Iterator<Item = &str> {
    let compile = runtime.compile.iter().flat_map(|compile| compile.command.first());
    let made = format!("{}/", lastword_sandbox::root::BUILD);
    runtime
        .command
        .first()
        .into_iter()
        .filter(move |word| !word.starts_with(&made))
        .chain(compile)
        .map(String::as_str)
}

/// The file of this machine that a sandbox executes for a command.
pub fn find(root: Root<'_>, command: &OsStr) -> Option<PathBuf> {
    let executable = |path: &Path| {
        let real = root.follow(path)?;
        let found = fs::metadata(&real).ok()?;
        (found.is_file() && found.permissions().mode() & 0o111 != 0).then_some(real)
    };
    if command.as_bytes().contains(&b'/') {
        return executable(Path::new(command));
    }
    PATH.split(':').find_map(|dir| {
        let path = Path::new(dir).join(command);
        // Most directories don't have it: they cost one look and not one per component.
        fs::symlink_metadata(root.real(&path)?).ok()?;
        executable(&path)
    })
}

impl Root<'_> {
    /// The path of this machine behind a path of the sandbox; the last link is not followed.
    fn real(self, path: &Path) -> Option<PathBuf> {
        match self {
            Root::Image { base, .. } => base.real(path),
            // Of the host's /etc a sandbox sees parts, alternatives among them, at their own places.
            Root::Host(base) => base.real(path).or_else(|| path.starts_with("/etc").then(|| path.to_owned())),
        }
    }

    /// Whether a sandbox sees something at a path.
    pub fn has(self, path: &Path) -> bool {
        self.follow(path).is_some_and(|real| fs::symlink_metadata(real).is_ok())
    }

    /// The same with every link followed, as it leads inside the sandbox.
    fn follow(self, path: &Path) -> Option<PathBuf> {
        let mut at = PathBuf::from("/");
        let mut left: Vec<OsString> = names(path);
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            let real = self.real(&at)?;
            if fs::symlink_metadata(&real).ok()?.is_symlink() {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                let target = fs::read_link(&real).ok()?;
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(names(&target));
            }
        }
        self.real(&at)
    }
}

/// The components of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// What asks a toolchain for its version: runs a command in a sandbox and gives back its stdout.
pub type Probe<'a> = dyn Fn(&[OsString]) -> io::Result<Vec<u8>> + 'a;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::by_name;
    use super::*;

    /// An image with one executable behind a chain of links.
    fn image(dir: &Path) -> Base {
        for name in ["usr/bin", "usr/lib/jvm/17/bin", "etc/alternatives"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let java = dir.join("usr/lib/jvm/17/bin/java");
        fs::write(&java, "x").unwrap();
        fs::set_permissions(&java, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/alternatives/java", dir.join("usr/bin/java")).unwrap();
        symlink("../../usr/lib/./jvm/17/bin/java", dir.join("etc/alternatives/java")).unwrap();
        symlink("usr/bin", dir.join("bin")).unwrap();
        symlink("loop", dir.join("usr/bin/loop")).unwrap();
        symlink("/etc/passwd", dir.join("usr/bin/outside")).unwrap();
        fs::write(dir.join("usr/bin/plain"), "not executable").unwrap();
        Base::image(dir).unwrap()
    }

    #[test]
    fn links_are_followed_inside_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let base = image(dir.path());
        let root = Root::Image { base: &base, digest: "sha256:0" };
        let java = dir.path().join("usr/lib/jvm/17/bin/java");
        for command in ["java", "/usr/bin/java", "/bin/java", "/etc/../bin/java"] {
            assert_eq!(find(root, OsStr::new(command)), Some(java.clone()), "{command}");
        }
        for command in ["loop", "outside", "plain", "none", "", "/", "/usr/bin"] {
            assert_eq!(find(root, OsStr::new(command)), None, "{command}");
        }
    }

    #[test]
    fn an_image_is_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let base = image(dir.path());
        let java = by_name("java").unwrap();
        let of = |digest| identity(Root::Image { base: &base, digest }, java);
        assert_eq!(of("sha256:0"), of("sha256:0"));
        assert_ne!(of("sha256:0"), of("sha256:1"));
        assert_ne!(
            of("sha256:0"),
            identity(Root::Image { base: &base, digest: "sha256:0" }, by_name("c").unwrap())
        );
    }

    #[test]
    fn the_host_is_known_by_its_executables_and_packages() {
        let base = Base::host();
        let root = Root::Host(&base);
        let bash = identity(root, by_name("bash").unwrap());
        assert_eq!(bash, identity(root, by_name("bash").unwrap()));
        let text = bash.as_str();
        assert!(
            text.lines().any(|line| line.starts_with("executable ") && line.ends_with("/bash")),
            "{text}"
        );
        assert_eq!(
            text.lines().filter(|line| line.starts_with("packages ")).count(),
            PACKAGES.len(),
            "{text}"
        );
        assert!(!text.contains("directory "), "{text}");
        let c = identity(root, by_name("c").unwrap());
        assert!(
            c.as_str().lines().any(|line| line.starts_with("directory ") && line.ends_with("/usr/include"))
        );
        // What the compile step makes is no part of the toolchain.
        assert!(!c.as_str().contains("/build/main"));
    }

    #[test]
    fn another_file_is_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let stamp_now = |text: &str| {
            let new = dir.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
            let mut identity = Identity(String::new());
            identity.look("executable", &path);
            identity
        };
        let (first, second) = (stamp_now("a"), stamp_now("b"));
        assert_ne!(first, second);
        fs::remove_file(&path).unwrap();
        let mut gone = Identity(String::new());
        gone.look("executable", &path);
        assert!(gone.as_str().starts_with("executable none "));
    }

    #[test]
    fn what_is_missing_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let base = image(dir.path());
        let root = Root::Image { base: &base, digest: "sha256:0" };
        let versions = Versions::at(dir.path());
        let never = |_: &[OsString]| -> io::Result<Vec<u8>> { panic!("asked for nothing") };
        let all = available(root, &versions, Some(&never));
        assert_eq!(all.len(), super::all().len());
        // There is a java, but no javac.
        assert!(all.iter().all(|runtime| !runtime.found && runtime.version.is_none()), "{all:?}");
        let compiler = dir.path().join("usr/bin/gcc");
        fs::copy(dir.path().join("usr/lib/jvm/17/bin/java"), compiler).unwrap();
        let says = |argv: &[OsString]| -> io::Result<Vec<u8>> {
            assert_eq!(argv, ["gcc", "--version"]);
            Ok(b"gcc (Debian 12.2.0-14) 12.2.0\n".to_vec())
        };
        let c =
            available(root, &versions, Some(&says)).into_iter().find(|runtime| runtime.name == "c").unwrap();
        assert_eq!(c, Available { name: "c".into(), version: Some("12.2.0".into()), found: true });
    }
}

//! Versions of toolchains: asked once, then remembered in `cache/versions` of the data directory.
//!
//! One small file per runtime and root: the identity of the toolchain that was asked, then the version. A file that is broken, or is
//! about another toolchain, is a miss; so nothing here can be wrong for longer than a toolchain stays the same.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::toolchain::{Identity, Probe, Root, identity};
use super::{Runtime, Values, fill};

/// Of a file of ours.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Of what a version command prints, the part that is looked at.
const PRINTED_BYTES_MAX: usize = 4 << 10;
const VERSION_BYTES_MAX: usize = 64;
/// Of an image's digest, the part that names a file.
const DIGEST_BYTES_MAX: usize = 100;
/// Stands between identity and version.
const VERSION_LINE: &str = "version ";

/// The versions that are known in one data directory.
#[derive(Clone, Debug)]
pub struct Versions {
    dir: PathBuf,
}

impl Versions {
    pub fn at(data_dir: &Path) -> Versions {
        Versions { dir: data_dir.join("cache/versions") }
    }

    /// The version of a runtime, or of its compiler; `None` if it has none to tell, or if it is not known and nobody can ask.
    pub fn version(&self, runtime: &Runtime, root: Root<'_>, probe: Option<&Probe<'_>>) -> Option<String> {
        if runtime.known_version.is_some() {
            return runtime.known_version.clone();
        }
        let command = match &runtime.compile {
            Some(compile) if runtime.version.is_empty() => &compile.version,
            _ => &runtime.version,
        };
        if command.is_empty() {
            return None;
        }
        let identity = identity(root, runtime);
        let path = self.dir.join(file_name(runtime, root));
        if let Some(known) = read(&path, &identity) {
            return known;
        }
        // A probe that couldn't be carried out says nothing about the toolchain: it is not remembered.
        let printed = probe?(&fill(command, &Values::default())).ok()?;
        let version = number(&printed);
        // One that can't be remembered is asked for again.
        let _ = self.write(&path, &identity, version.as_deref());
        version
    }

    /// Whole or not at all.
    fn write(&self, path: &Path, identity: &Identity, version: Option<&str>) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        fs::create_dir_all(&self.dir)?;
        let new = self.dir.join(format!(".{}-{count}", process::id()));
        let text = format!("{}{VERSION_LINE}{}\n", identity.as_str(), version.unwrap_or_default());
        let done = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
        if done.is_err() {
            let _ = fs::remove_file(&new);
        }
        done
    }
}

fn file_name(runtime: &Runtime, root: Root<'_>) -> OsString {
    let digest = match root {
        Root::Host(_) => return OsString::from(&runtime.name),
        Root::Image { digest, .. } => digest,
    };
    let digest = digest.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' });
    let digest: String = digest.take(DIGEST_BYTES_MAX).collect();
    format!("{}@{digest}", runtime.name).into()
}

/// What is remembered of this toolchain: a version, or that it has none.
fn read(path: &Path, identity: &Identity) -> Option<Option<String>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    // The line end comes last: without it the file is torn.
    let version = text.strip_prefix(identity.as_str())?.strip_prefix(VERSION_LINE)?.strip_suffix('\n')?;
    let known = (!version.is_empty()).then(|| version.to_owned());
    known.as_deref().is_none_or(is_version).then_some(known)
}

/// The number in what a version command prints: `3.11.2` of `Python 3.11.2`.
///
/// It is the first word that begins with a digit, `v` and a digit, or `go` and a digit. What stands in parentheses is left out: that is
/// where distributions put numbers of their own.
fn number(printed: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(printed.get(..PRINTED_BYTES_MAX).unwrap_or(printed));
    let mut depth = 0_u32;
    let outside: String = text
        .chars()
        .map(|char| match char {
            '(' => {
                depth += 1;
                ' '
            }
            ')' => {
                depth = depth.saturating_sub(1);
                ' '
            }
            char if depth == 0 => char,
            _ => ' ',
        })
        .collect();
    let version = |word: &str| {
        let word = word.strip_prefix("go").or_else(|| word.strip_prefix('v')).unwrap_or(word);
        let end = word.find(|char: char| !is_version_char(char)).unwrap_or(word.len());
        word.get(..end).filter(|word| is_version(word)).map(str::to_owned)
    };
    outside.split_ascii_whitespace().find_map(version)
}

fn is_version_char(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '+' | '_' | '~')
}

fn is_version(text: &str) -> bool {
    text.len() <= VERSION_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(is_version_char)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use lastword_sandbox::host::Base;

    use super::super::{all, by_name};
    use super::*;

    #[test]
    fn the_number_is_found_in_what_each_toolchain_prints() {
        for (printed, expected) in [
            ("Python 3.11.2\n", "3.11.2"),
            ("Python 3.13.0rc1+\n", "3.13.0rc1+"),
            ("gcc (Debian 12.2.0-14) 12.2.0\nCopyright (C) 2022 Free Software Foundation\n", "12.2.0"),
            ("gcc (GCC) 13.2.1 20231011 (Red Hat 13.2.1-4)\n", "13.2.1"),
            ("go version go1.19.8 linux/amd64\n", "1.19.8"),
            ("openjdk 17.0.9 2023-10-17\nOpenJDK Runtime Environment (build 17.0.9+9)\n", "17.0.9"),
            ("openjdk 21 2023-09-19\n", "21"),
            ("javac 17.0.9\n", "17.0.9"),
            ("v18.19.0\n", "18.19.0"),
            ("5.36.0", "5.36.0"),
            ("ruby 3.1.2p20 (2022-04-12 revision 4491bb740a) [x86_64-linux-gnu]\n", "3.1.2p20"),
            ("GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)\n", "5.2.15"),
            ("rustc 1.63.0\n", "1.63.0"),
            ("rustc 1.95.0-nightly (fe5b13d68 2025-05-18)\n", "1.95.0-nightly"),
        ] {
            assert_eq!(number(printed.as_bytes()).as_deref(), Some(expected), "{printed}");
        }
        let long = [b"v".as_slice(), &[b'1'; 10_000]].concat();
        for printed in [b"".as_slice(), b"no number", b"(1.2", b"\xff\xfe", &long] {
            assert_eq!(number(printed), None);
        }
    }

    /// A probe that counts.
    fn asked<'a>(count: &'a Cell<u32>, says: &'a str) -> impl Fn(&[OsString]) -> io::Result<Vec<u8>> + 'a {
        move |_| {
            count.set(count.get() + 1);
            Ok(says.as_bytes().to_vec())
        }
    }

    #[test]
    fn a_toolchain_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::host();
        let (root, bash) = (Root::Host(&base), by_name("bash").unwrap());
        let versions = Versions::at(dir.path());
        assert_eq!(versions.version(bash, root, None), None);
        let count = Cell::new(0);
        let probe = asked(&count, "GNU bash, version 5.2.15(1)-release");
        for _ in 0..3 {
            assert_eq!(versions.version(bash, root, Some(&probe)).as_deref(), Some("5.2.15"));
        }
        assert_eq!(versions.version(bash, root, None).as_deref(), Some("5.2.15"));
        assert_eq!(count.get(), 1);
        // Another root has its own.
        let image = Root::Image { base: &base, digest: "sha256:0" };
        assert_eq!(versions.version(bash, image, None), None);
        let files: Vec<_> = fs::read_dir(dir.path().join("cache/versions")).unwrap().collect();
        assert_eq!(files.len(), 1, "{files:?}");
    }

    #[test]
    fn a_broken_file_or_another_toolchain_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::host();
        let (root, bash) = (Root::Host(&base), by_name("bash").unwrap());
        let versions = Versions::at(dir.path());
        let count = Cell::new(0);
        let probe = asked(&count, "version 1.2.3");
        let ask = || versions.version(bash, root, Some(&probe));
        assert_eq!(ask().as_deref(), Some("1.2.3"));
        let file = dir.path().join("cache/versions/bash");
        let whole = fs::read(&file).unwrap();
        let mut other = whole.clone();
        other[30] ^= 1;
        let mut word = whole.clone();
        let at = word.len() - 4;
        word[at] = b'\n';
        for (n, broken) in [&whole[..whole.len() - 1], &whole[..whole.len() - 8], b"", b"\xff", &other, &word]
            .into_iter()
            .enumerate()
        {
            fs::write(&file, broken).unwrap();
            assert_eq!(ask().as_deref(), Some("1.2.3"), "{n}");
            assert_eq!(count.get(), n as u32 + 2, "{n}");
            assert_eq!(fs::read(&file).unwrap(), whole, "{n}");
        }
    }

    #[test]
    fn what_says_no_version_is_remembered_and_what_fails_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::host();
        let (root, bash) = (Root::Host(&base), by_name("bash").unwrap());
        let versions = Versions::at(dir.path());
        let count = Cell::new(0);
        let fails = |_: &[OsString]| {
            count.set(count.get() + 1);
            Err(io::Error::other("no sandbox"))
        };
        for _ in 0..2 {
            assert_eq!(versions.version(bash, root, Some(&fails)), None);
        }
        assert_eq!(count.get(), 2);
        for _ in 0..2 {
            assert_eq!(versions.version(bash, root, Some(&asked(&count, "none"))), None);
        }
        assert_eq!(count.get(), 3);
    }

    #[test]
    fn a_runtime_without_a_version_is_never_asked() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::host();
        let never = |_: &[OsString]| -> io::Result<Vec<u8>> { panic!("asked") };
        let versions = Versions::at(dir.path());
        let sh =
            all().iter().find(|runtime| runtime.version.is_empty() && runtime.compile.is_none()).unwrap();
        assert_eq!(versions.version(sh, Root::Host(&base), Some(&never)), None);
        let known = Runtime { known_version: Some("3.12.1".into()), ..by_name("python").unwrap().clone() };
        assert_eq!(versions.version(&known, Root::Host(&base), Some(&never)).as_deref(), Some("3.12.1"));
    }
}

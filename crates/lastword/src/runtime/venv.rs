//! `--venv DIR`: a Python environment of the caller in the sandbox, read-only, at the same place.
//!
//! An environment is a directory whose Python lies elsewhere: `bin/python` is a link, or a chain of them, and `pyvenv.cfg` names the
//! directory that it leads to. All of that must be found in the sandbox as it is found here. What lies below /usr is there anyway; other
//! installations (pyenv, uv) are shared as well. A conda environment has its Python in itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use lastword_sandbox::root::ReadOnly;

use super::{FlushVariant, HelperFile, PATH, Runtime};

/// Of a pyvenv.cfg; they have a few hundred.
const CFG_BYTES_MAX: u64 = 64 << 10;
/// First bytes of a program in machine code (elf(5)).
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// As the kernel.
const LINKS_MAX: usize = 40;
/// Entries of a lib directory that are looked at for a standard library.
const LIB_ENTRIES_MAX: usize = 10_000;
/// What a sandbox has of this machine.
const SYSTEM: [&str; 7] = ["/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr"];
/// Where flush help for environments lies; the module itself knows it, too.
const FLUSH_DIRECTORY: &str = "/.lastword/help/venv";
const FLUSH_MODULE: &str = include_str!("../../runtimes/venv/sitecustomize.py");

/// Why a directory can't be used as an environment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{0} is no Python environment: it has neither a pyvenv.cfg nor a conda-meta; make one with: python3 -m venv {0}"
    )]
    NotAnEnvironment(String),
    #[error("can't read {path}")]
    Read { path: String, source: io::Error },
    #[error("{0} is longer than {CFG_BYTES_MAX} bytes: that is no pyvenv.cfg")]
    TooLong(String),
    #[error(
        "{python} leads to no Python that is here; make the environment again with: python3 -m venv --clear {dir}"
    )]
    NoPython { dir: String, python: String, source: io::Error },
    #[error("{path} is to be the environment's Python, and is no program: it is not shared with what is run")]
    NoProgram { path: String },
    #[error(
        "the environment's Python is installed in {prefix}, and sharing it would show all of that directory to the program; \
         install Python in a directory of its own"
    )]
    TooMuch { prefix: String },
}

/// An environment, and what a sandbox must have for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Venv {
    /// In this order, parents first.
    pub shared: Vec<ReadOnly>,
    /// Set unless the user sets the same.
    pub env: Vec<(OsString, OsString)>,
    /// Python's own, as the environment says it.
    pub version: Option<String>,
    python: PathBuf,
    /// Python imports no usercustomize in it.
    isolated: bool,
}

impl Venv {
    /// Looks at an environment of this machine. The sandbox is one with this machine's /usr.
    pub fn look(dir: &Path) -> Result<Venv, Error> {
        let home = std::env::var_os("HOME").and_then(|home| fs::canonicalize(home).ok());
        look(dir, home.as_deref())
    }

    /// A Python runtime that is the environment's.
    ///
    /// Of a #! line that names a Python, the flags are kept. `env python3` finds the right one in PATH.
    pub fn runtime(&self, runtime: &Runtime) -> Runtime {
        let mut runtime = runtime.clone();
        let is_python = |word: &&mut String| {
            let name = word.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
            runtime.interpreters.iter().any(|known| known == name)
        };
        if let (Some(word), Some(python)) = (runtime.command.iter_mut().find(is_python), self.python.to_str())
        {
            *word = python.to_owned();
        }
        runtime.version = Vec::new();
        runtime.known_version = self.version.clone();
        if self.isolated {
            runtime.flush.line = FlushVariant {
                prepend: BTreeMap::from([("PYTHONPATH".into(), FLUSH_DIRECTORY.into())]),
                files: vec![HelperFile {
                    path: format!("{FLUSH_DIRECTORY}/sitecustomize.py"),
                    text: FLUSH_MODULE.into(),
                }],
                ..FlushVariant::default()
            };
        }
        runtime
    }
}

fn look(dir: &Path, home: Option<&Path>) -> Result<Venv, Error> {
    let read = |source| Error::Read { path: show(dir), source };
    let real = fs::canonicalize(dir).map_err(read)?;
    let mut dir = std::path::absolute(dir).map_err(read)?;
    if dir.components().any(|part| part == Component::ParentDir) {
        dir.clone_from(&real);
    }
    let config = match configuration(&dir.join("pyvenv.cfg"))? {
        Some(config) => config,
        None if dir.join("conda-meta").is_dir() => return conda(dir, real),
        None => return Err(Error::NotAnEnvironment(show(&dir))),
    };
    let python = dir.join("bin/python");
    let gone = |source| Error::NoPython { dir: show(&dir), python: show(&python), source };
    let mut found = chain(&python).map_err(gone)?;
    if let Some(base) = config.get("home") {
        // Python looks for its library from here.
        found.push(Path::new(base).join("python3"));
    }
    let mut shared = vec![directory(&dir, &dir).map_err(gone)?, directory(&real, &real).map_err(gone)?];
    for path in found.iter().filter(|path| !path.starts_with(&dir) && !path.starts_with(&real)) {
        shared.extend(installation(path, home)?);
    }
    let isolated = config.get("include-system-site-packages").is_none_or(|value| value != "true");
    Ok(Venv {
        shared: tidied(shared),
        env: variables("VIRTUAL_ENV", &dir),
        version: config.get("version").or_else(|| config.get("version_info")).and_then(|text| version(text)),
        python,
        isolated,
    })
}

fn conda(dir: PathBuf, real: PathBuf) -> Result<Venv, Error> {
    let python = dir.join("bin/python");
    let gone = |source| Error::NoPython { dir: show(&dir), python: show(&python), source };
    chain(&python).map_err(gone)?;
    let shared = vec![directory(&dir, &dir).map_err(gone)?, directory(&real, &real).map_err(gone)?];
    let env = variables("CONDA_PREFIX", &dir);
    Ok(Venv { shared: tidied(shared), env, version: None, python, isolated: false })
}

fn variables(name: &str, dir: &Path) -> Vec<(OsString, OsString)> {
    let mut path = dir.join("bin").into_os_string();
    path.push(":");
    path.push(PATH);
    vec![(name.into(), dir.into()), ("PATH".into(), path)]
}

/// The keys of a pyvenv.cfg, in small letters; `None` if there is no such file.
fn configuration(path: &Path) -> Result<Option<BTreeMap<String, String>>, Error> {
    let read = |source| Error::Read { path: show(path), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(read(source)),
    };
    let mut bytes = Vec::new();
    file.take(CFG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > CFG_BYTES_MAX {
        return Err(Error::TooLong(show(path)));
    }
    let text = String::from_utf8_lossy(&bytes);
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    Ok(Some(text.lines().filter_map(pair).collect()))
}

/// `3.12.1` of `3.12.1` and of virtualenv's `3.12.1.final.0`.
fn version(text: &str) -> Option<String> {
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split('.').take_while(is_number).take(3).collect();
    (!parts.is_empty()).then(|| parts.join("."))
}

/// Every place that an executable is found at on the way to the file itself, which must be there.
fn chain(python: &Path) -> io::Result<Vec<PathBuf>> {
    let mut places = vec![python.to_owned()];
    let mut at = python.to_owned();
    while fs::symlink_metadata(&at)?.is_symlink() {
        if places.len() > LINKS_MAX {
            return Err(io::Error::other("too many links"));
        }
        let target = fs::read_link(&at)?;
        let parent = at.parent().unwrap_or(Path::new("/"));
        at = match target.components().any(|part| part == Component::ParentDir) {
            // Where `..` leads depends on the links before it.
            true => fs::canonicalize(parent.join(target.parent().unwrap_or(Path::new("."))))?
                .join(target.file_name().unwrap_or_default()),
            false => parent.join(target),
        };
        places.push(at.clone());
    }
    places.push(fs::canonicalize(python)?);
    Ok(places)
}

/// What must be shared so that Python is found at a path, with its library; nothing if the sandbox has it anyway.
fn installation(python: &Path, home: Option<&Path>) -> Result<Option<ReadOnly>, Error> {
    if SYSTEM.iter().any(|dir| python.starts_with(dir)) {
        return Ok(None);
    }
    let gone = |source| Error::Read { path: show(python), source };
    let prefix = python.parent().and_then(Path::parent).filter(|prefix| has_library(prefix));
    let Some(prefix) = prefix else {
        // A link that merely passes by, or the `home` of an environment whose Python has another name.
        let real = match fs::canonicalize(python) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(gone(error)),
        };
        // An environment says by itself what its Python is, and may come from somebody who would like to see other files.
        if !is_program(&real).map_err(gone)? {
            return Err(Error::NoProgram { path: show(python) });
        }
        return Ok(Some(ReadOnly { source: real, path: python.to_owned(), directory: false }));
    };
    let real = fs::canonicalize(prefix).map_err(gone)?;
    // A prefix of ~/.local has what many programs keep of their user, beside Python.
    let private = home.map_or_else(|| PathBuf::from("/"), |home| home.join(".local/share"));
    if private.starts_with(&real) {
        return Err(Error::TooMuch { prefix: show(prefix) });
    }
    directory(&real, prefix).map(Some).map_err(gone)
}

/// An executable in machine code, which no key and no configuration is.
fn is_program(path: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Ok(false);
    }
    let mut magic = Vec::new();
    fs::File::open(path)?.take(ELF_MAGIC.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == ELF_MAGIC)
}

/// A standard library lies below.
fn has_library(prefix: &Path) -> bool {
    ["lib", "lib64"].iter().any(|lib| {
        let entries = fs::read_dir(prefix.join(lib)).into_iter().flatten().take(LIB_ENTRIES_MAX).flatten();
        let is_python = |name: &OsStr| {
            let name = name.as_bytes();
            name.starts_with(b"python3") || name.starts_with(b"pypy3")
        };
        entries
            .filter(|entry| is_python(&entry.file_name()))
            .any(|entry| entry.path().join("os.py").is_file())
    })
}

fn directory(source: &Path, path: &Path) -> io::Result<ReadOnly> {
    Ok(ReadOnly { source: fs::canonicalize(source)?, path: path.to_owned(), directory: true })
}

/// Each once, parents first, without what is seen through another one anyway.
fn tidied(mut shared: Vec<ReadOnly>) -> Vec<ReadOnly> {
    shared.sort_by(|a, b| a.path.cmp(&b.path));
    let mut kept: Vec<ReadOnly> = Vec::new();
    for next in shared {
        let seen = |outer: &ReadOnly| {
            next.path.strip_prefix(&outer.path).is_ok_and(|below| outer.source.join(below) == next.source)
        };
        if !kept.iter().any(seen) {
            kept.push(next);
        }
    }
    kept
}

fn show(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::{Flush, by_name, for_file};
    use super::super::{Selected, Surroundings, Values};
    use super::*;

    /// A home with a Python in `pythons/3.12.1`, a link `pythons/3.12` to it, and an environment of it in `env`.
    fn lab() -> tempfile::TempDir {
        let lab = tempfile::tempdir().unwrap();
        let dir = lab.path();
        for name in ["pythons/3.12.1/bin", "pythons/3.12.1/lib/python3.12", "env/bin"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let python = dir.join("pythons/3.12.1/bin/python3.12");
        fs::write(&python, b"\x7fELF and more").unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("python3.12", dir.join("pythons/3.12.1/bin/python3")).unwrap();
        fs::write(dir.join("pythons/3.12.1/lib/python3.12/os.py"), "x").unwrap();
        symlink("3.12.1", dir.join("pythons/3.12")).unwrap();
        symlink(dir.join("pythons/3.12/bin/python3"), dir.join("env/bin/python")).unwrap();
        config(dir, &format!("home = {}\n", dir.join("pythons/3.12/bin").display()));
        lab
    }

    fn config(dir: &Path, home: &str) {
        let text =
            format!("{home}Include-System-Site-Packages = false\nversion_info = 3.12.1.final.0\nodd line\n");
        fs::write(dir.join("env/pyvenv.cfg"), text).unwrap();
    }

    fn shared(dir: &Path, venv: &Venv) -> Vec<(PathBuf, PathBuf)> {
        let below = |path: &Path| path.strip_prefix(dir).unwrap_or(path).to_owned();
        venv.shared.iter().map(|shared| (below(&shared.path), below(&shared.source))).collect()
    }

    #[test]
    fn an_environment_comes_with_its_python_at_every_place_of_it() {
        let lab = lab();
        let dir = lab.path().canonicalize().unwrap();
        let venv = look(&dir.join("env"), Some(&dir)).unwrap();
        assert_eq!(
            shared(&dir, &venv),
            [("env", "env"), ("pythons/3.12", "pythons/3.12.1"), ("pythons/3.12.1", "pythons/3.12.1")]
                .map(|(path, source)| (path.into(), source.into()))
        );
        assert_eq!(venv.version.as_deref(), Some("3.12.1"));
        let value = |name: &str| venv.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        assert_eq!(value("VIRTUAL_ENV"), Some(dir.join("env").into()));
        assert_eq!(value("PATH"), Some(format!("{}/env/bin:{PATH}", dir.display()).into()));
    }

    #[test]
    fn a_link_to_an_environment_is_there_under_both_names() {
        let lab = lab();
        let dir = lab.path().canonicalize().unwrap();
        symlink("env", dir.join("link")).unwrap();
        let venv = look(&dir.join("link"), Some(&dir)).unwrap();
        let shared = shared(&dir, &venv);
        assert!(
            shared.contains(&("link".into(), "env".into())) && shared.contains(&("env".into(), "env".into()))
        );
        let dotted = look(&dir.join("pythons/../env"), Some(&dir)).unwrap();
        assert_eq!(dotted.shared[0].path, dir.join("env"));
    }

    #[test]
    fn a_python_of_the_system_is_there_anyway() {
        let lab = lab();
        let dir = lab.path().canonicalize().unwrap();
        let python = dir.join("env/bin/python");
        fs::remove_file(&python).unwrap();
        // Any file will do.
        symlink("/usr/bin/env", &python).unwrap();
        config(&dir, "home = /usr/bin\n");
        assert_eq!(shared(&dir, &look(&dir.join("env"), None).unwrap()), [("env".into(), "env".into())]);
    }

    #[test]
    fn a_copied_python_still_needs_the_library_it_was_made_with() {
        let lab = lab();
        let dir = lab.path().canonicalize().unwrap();
        fs::remove_file(dir.join("env/bin/python")).unwrap();
        fs::copy(dir.join("pythons/3.12.1/bin/python3.12"), dir.join("env/bin/python")).unwrap();
        let venv = look(&dir.join("env"), Some(&dir)).unwrap();
        assert!(shared(&dir, &venv).contains(&("pythons/3.12".into(), "pythons/3.12.1".into())), "{venv:?}");
    }

    #[test]
    fn a_home_directory_is_never_shared_whole() {
        let lab = lab();
        let dir = lab.path().canonicalize().unwrap();
        for home in ["pythons/3.12.1", "pythons/3.12.1/someone"] {
            let error = look(&dir.join("env"), Some(&dir.join(home))).unwrap_err().to_string();
            assert!(error.contains("pythons/3.12") && error.contains("all of that directory"), "{error}");
        }
        // A link in somebody's bin leads on; only the link is shared.
        fs::create_dir(dir.join("bin")).unwrap();
        fs::remove_file(dir.join("env/bin/python")).unwrap();
        symlink(dir.join("bin/python3"), dir.join("env/bin/python")).unwrap();
        symlink(dir.join("pythons/3.12.1/bin/python3.12"), dir.join("bin/python3")).unwrap();
        config(&dir, &format!("home = {}\n", dir.join("bin").display()));
        let venv = look(&dir.join("env"), Some(&dir)).unwrap();
        let link = venv.shared.iter().find(|shared| shared.path == dir.join("bin/python3")).unwrap();
        assert!(!link.directory && link.source == dir.join("pythons/3.12.1/bin/python3.12"), "{link:?}");
        assert!(!venv.shared.iter().any(|shared| shared.path == dir), "{venv:?}");
    }

    /// Whoever made the environment may want to see something else of its user.
    #[test]
    fn nothing_but_a_program_is_shared_for_a_python() {
        let lab = lab();
        let dir = lab.path().canonicalize().unwrap();
        fs::write(dir.join("key"), "private").unwrap();
        fs::write(dir.join("script"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.join("bin")).unwrap();
        for private in ["key", "script", "env"] {
            symlink(dir.join(private), dir.join("bin/python3")).unwrap();
            config(&dir, &format!("home = {}\n", dir.join("bin").display()));
            let error = look(&dir.join("env"), Some(&dir)).unwrap_err();
            assert!(matches!(error, Error::NoProgram { .. }), "{private}: {error}");
            fs::remove_file(dir.join("bin/python3")).unwrap();
        }
        config(&dir, "");
        fs::remove_file(dir.join("env/bin/python")).unwrap();
        symlink(dir.join("key"), dir.join("env/bin/python")).unwrap();
        let error = look(&dir.join("env"), Some(&dir)).unwrap_err();
        assert!(matches!(error, Error::NoProgram { .. }), "{error}");
    }

    #[test]
    fn errors_say_what_to_do() {
        let lab = lab();
        let dir = lab.path();
        let error = |name: &str| look(&dir.join(name), None).unwrap_err().to_string();
        assert!(error("pythons").contains("make one with: python3 -m venv"), "{}", error("pythons"));
        assert!(error("none").starts_with("can't read "), "{}", error("none"));
        fs::remove_dir_all(dir.join("pythons")).unwrap();
        assert!(error("env").contains("--clear"), "{}", error("env"));
        fs::remove_file(dir.join("env/bin/python")).unwrap();
        symlink("python", dir.join("env/bin/python")).unwrap();
        assert!(error("env").contains("leads to no Python"), "{}", error("env"));
        fs::write(dir.join("env/pyvenv.cfg"), vec![b'x'; 65 << 10]).unwrap();
        assert!(error("env").contains("longer than"), "{}", error("env"));
    }

    #[test]
    fn a_conda_environment_has_all_in_itself() {
        let lab = tempfile::tempdir().unwrap();
        let dir = lab.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::create_dir_all(dir.join("conda-meta")).unwrap();
        assert!(matches!(look(&dir, None), Err(Error::NoPython { .. })));
        fs::write(dir.join("bin/python"), "x").unwrap();
        let venv = look(&dir, None).unwrap();
        assert_eq!(venv.shared.len(), 1);
        assert_eq!(venv.env[0], ("CONDA_PREFIX".into(), dir.clone().into()));
        assert_eq!(venv.runtime(by_name("python").unwrap()).flush, by_name("python").unwrap().flush);
    }

    #[test]
    fn the_runtime_is_the_environments_python() {
        let lab = lab();
        let venv = look(&lab.path().join("env"), None).unwrap();
        let python = lab.path().join("env/bin/python").to_str().unwrap().to_owned();
        let of = |line: &str| {
            let Selected::Runtime(runtime) = for_file(Path::new("x"), line.as_bytes()).unwrap() else {
                panic!("{line}")
            };
            venv.runtime(&runtime).command
        };
        let plain = venv.runtime(by_name("python").unwrap());
        assert_eq!(plain.command, [&python, "{file}"]);
        assert_eq!(of("#!/usr/bin/python3.9 -O\n"), [&python, "-O", "{file}"]);
        assert_eq!(of("#!/usr/bin/env python3\n"), ["/usr/bin/env", &python, "{file}"]);
        assert_eq!(of("#!/usr/bin/env -S python3 -u\n"), ["/usr/bin/env", "-S python3 -u", "{file}"]);
        assert_eq!(plain.known_version.as_deref(), Some("3.12.1"));
        let Surroundings { env, files } =
            plain.surroundings_with(&Values::default(), &[], Flush::Line, |_| true);
        assert!(env.contains(&("PYTHONPATH".into(), FLUSH_DIRECTORY.into())), "{env:?}");
        assert_eq!(files[0].path, format!("{FLUSH_DIRECTORY}/sitecustomize.py"));
        assert!(FLUSH_MODULE.contains(&format!("\"{FLUSH_DIRECTORY}\"")));
    }
}

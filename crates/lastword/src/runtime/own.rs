//! Runtimes of a user's own: TOML files in a directory, as those that are built in. One with the name of a built-in one takes its place.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lastword_sandbox::root::HELP;

use super::fill::unknown_placeholder;
use super::{FlushVariant, Runtime};

/// Of one file; helper files are in it.
const FILE_BYTES_MAX: u64 = 256 << 10;
const FILES_MAX: usize = 256;
/// It becomes part of file names.
const NAME_BYTES_MAX: usize = 64;

/// Why a directory of runtimes can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't read {path}")]
    Read { path: String, source: io::Error },
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong { path: String },
    #[error("{path} has more than {FILES_MAX} runtimes")]
    TooMany { path: String },
    #[error("{path} is no runtime")]
    Toml { path: String, source: Box<toml::de::Error> },
    #[error("{path}: {wrong}")]
    Wrong { path: String, wrong: Wrong },
}

/// A key whose value can't be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} {why}")]
pub struct Wrong {
    pub key: &'static str,
    /// The rest of the sentence.
    pub why: String,
}

/// Where a user keeps them: `LASTWORD_RUNTIMES`, else `lastword/runtimes` in the configuration directory.
pub fn directory(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(dir) = variable("LASTWORD_RUNTIMES").filter(|dir| !dir.is_empty()) {
        return Some(dir.into());
    }
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("lastword/runtimes"))
}

/// All runtimes of a directory, by name; none if there is no such directory.
pub fn read(dir: &Path) -> Result<Vec<Runtime>, Error> {
    let unreadable = |path: &Path| {
        let path = show(path);
        move |source| Error::Read { path, source }
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(dir)(error)),
    };
    let mut runtimes = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(unreadable(dir))?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if runtimes.len() == FILES_MAX {
            return Err(Error::TooMany { path: show(dir) });
        }
        let mut text = String::new();
        let file = fs::File::open(&path).map_err(unreadable(&path))?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable(&path))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(Error::TooLong { path: show(&path) });
        }
        let runtime: Runtime = toml::from_str(&text)
            .map_err(|source| Error::Toml { path: show(&path), source: Box::new(source) })?;
        check(&runtime).map_err(|wrong| Error::Wrong { path: show(&path), wrong })?;
        if path.file_stem().is_none_or(|stem| stem != runtime.name.as_str()) {
            let wrong =
                Wrong { key: "name", why: format!("is {:?}, and the file's is another", runtime.name) };
            return Err(Error::Wrong { path: show(&path), wrong });
        }
        runtimes.insert(runtime.name.clone(), runtime);
    }
    Ok(runtimes.into_values().collect())
}

/// What a runtime says that can't work, whatever is installed.
pub(super) fn check(runtime: &Runtime) -> Result<(), Wrong> {
    let wrong = |key, why: &str| Err(Wrong { key, why: why.to_owned() });
    let is_name = |name: &str| {
        name.len() <= NAME_BYTES_MAX
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_.".contains(&byte))
    };
    if !is_name(&runtime.name) {
        return wrong("name", "must be of letters, digits and + - _ . and at most 64 long");
    }
    if runtime.code_file.is_empty() || runtime.code_file.contains('/') || runtime.code_file.contains('\0') {
        return wrong("code_file", "must be the name of a file, without a directory");
    }
    if !(1..=100).contains(&runtime.memory_percent) {
        return wrong("memory_percent", "must be between 1 and 100");
    }
    check_words("command", &runtime.command)?;
    check_values("env", &runtime.env)?;
    if let Some(compile) = &runtime.compile {
        check_words("compile.command", &compile.command)?;
        check_values("compile.env", &compile.env)?;
        compile
            .limits()
            .check()
            .map_err(|error| Wrong { key: "compile.limits", why: format!("can't be: {error}") })?;
    }
    check_help("flush.line", &runtime.flush.line)?;
    check_help("flush.unbuffered", &runtime.flush.unbuffered)
}

fn check_words(key: &'static str, words: &[String]) -> Result<(), Wrong> {
    if words.first().is_none_or(String::is_empty) {
        return Err(Wrong { key, why: "is empty".to_owned() });
    }
    words.iter().try_for_each(|word| check_word(key, word))
}

fn check_values(key: &'static str, values: &BTreeMap<String, String>) -> Result<(), Wrong> {
    if values.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(Wrong { key, why: "has a name that no variable can have".to_owned() });
    }
    values.values().try_for_each(|value| check_word(key, value))
}

fn check_word(key: &'static str, word: &str) -> Result<(), Wrong> {
    if word.contains('\0') {
        return Err(Wrong { key, why: "has a NUL byte".to_owned() });
    }
    match unknown_placeholder(word) {
        Some(name) => {
            Err(Wrong { key, why: format!("has {{{}}}, which stands for nothing", name.escape_debug()) })
        }
        None => Ok(()),
    }
}

fn check_help(key: &'static str, help: &FlushVariant) -> Result<(), Wrong> {
    check_values(key, &help.env)?;
    let fits = |path: &str| {
        // One directory below, and a name in it: what the sandbox makes.
        let below = path.strip_prefix(HELP).and_then(|rest| rest.strip_prefix('/'));
        let parts: Vec<&str> = below.unwrap_or_default().split('/').collect();
        parts.len() == 2 && parts.iter().all(|part| !["", ".", ".."].contains(part) && !part.contains('\0'))
    };
    match help.files.iter().find(|file| !fits(&file.path)) {
        Some(file) => {
            Err(Wrong { key, why: format!("has a file {:?}; it must be {HELP}/DIRECTORY/NAME", file.path) })
        }
        None => Ok(()),
    }
}

fn show(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    const LUA: &str =
        "name = \"lua\"\nextensions = [\"lua\"]\ncode_file = \"main.lua\"\ncommand = [\"lua\", \"{file}\"]\n";

    fn lab(files: &[(&str, &str)]) -> tempfile::TempDir {
        let lab = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(lab.path().join(name), text).unwrap();
        }
        lab
    }

    #[test]
    fn every_toml_file_is_a_runtime() {
        let lab = lab(&[("lua.toml", LUA), ("notes.txt", "not one"), ("lua.toml~", "nor this")]);
        let runtimes = read(lab.path()).unwrap();
        assert_eq!(runtimes.len(), 1);
        assert_eq!(runtimes[0].command, ["lua", "{file}"]);
        assert!(read(&lab.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_file_is_named_with_its_key() {
        let line = |more: &str| format!("{LUA}{more}\n");
        let help = "[[flush.line.files]]\ntext = \"\"\npath = ";
        for (text, named) in [
            (LUA.replace("{file}", "{fiel}"), "command has {fiel}, which stands for nothing"),
            (LUA.replace("\"lua\"\next", "\"../lua\"\next"), "name must be"),
            (LUA.replace("\"lua\"\next", "\"luajit\"\next"), "name is \"luajit\""),
            (LUA.replace("main.lua", "a/main.lua"), "code_file must be"),
            (LUA.replace("[\"lua\", \"{file}\"]", "[]"), "command is empty"),
            (line("memory_percent = 0"), "memory_percent must be"),
            (line("env = { \"A=\" = \"b\" }"), "env has a name"),
            (line("[compile]\ncommand = [\"luac\", \"{x}\"]"), "compile.command has {x}"),
            (
                line("[compile]\ncommand = [\"luac\"]\nlimits = { pids = 0 }"),
                "compile.limits can't be: pids is 0",
            ),
            (line(&format!("{help}\"/usr/lib/x\"")), "flush.line has a file \"/usr/lib/x\""),
            (line(&format!("{help}\"/.lastword/help/../x\"")), "flush.line has a file"),
            (line(&format!("{help}\"/.lastword/help/a/b/c\"")), "flush.line has a file"),
        ] {
            let lab = lab(&[("lua.toml", &text)]);
            let error = read(lab.path()).unwrap_err().to_string();
            assert!(error.contains("lua.toml: ") && error.contains(named), "{error}");
        }
        let lab = lab(&[("lua.toml", &line("comand = []"))]);
        let Err(Error::Toml { source, .. }) = read(lab.path()) else { panic!("taken") };
        assert!(source.to_string().contains("comand"), "{source}");
    }

    #[test]
    fn sizes_and_numbers_are_bounded() {
        let lab = lab(&[("lua.toml", &format!("#{}\n", "x".repeat(FILE_BYTES_MAX as usize)))]);
        assert!(matches!(read(lab.path()), Err(Error::TooLong { .. })));
        fs::remove_file(lab.path().join("lua.toml")).unwrap();
        for n in 0..=FILES_MAX {
            let text = LUA.replace("name = \"lua\"", &format!("name = \"lua{n}\""));
            fs::write(lab.path().join(format!("lua{n}.toml")), text).unwrap();
        }
        assert!(matches!(read(lab.path()), Err(Error::TooMany { .. })));
    }

    #[test]
    fn the_directory_is_named_by_the_environment() {
        let of = |pairs: &[(&str, &str)]| {
            directory(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert_eq!(of(&[("LASTWORD_RUNTIMES", "r"), ("HOME", "/h")]), Some("r".into()));
        assert_eq!(of(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]), Some("/c/lastword/runtimes".into()));
        assert_eq!(
            of(&[("XDG_CONFIG_HOME", "c"), ("HOME", "/h")]),
            Some("/h/.config/lastword/runtimes".into())
        );
        assert_eq!(of(&[]), None);
    }
}

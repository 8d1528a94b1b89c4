//! Runtimes as data: how code of a language is run. One TOML file each, in `runtimes/`, embedded in the binary.
//!
//! Every key of such a file:
//!
//! ```toml
//! name = "python"                       # what --runtime takes and the execution object says
//! aliases = ["py"]                      # other names that --runtime takes
//! extensions = ["py"]                   # of files that it runs, without the dot
//! interpreters = ["python3"]            # last part of the path in a #! line
//! code_file = "main.py"                 # what the code of -c is called in the sandbox
//! command = ["python3", "{file}"]       # {file} becomes the path of the code in the sandbox; the program's arguments follow
//! version = ["python3", "--version"]    # prints the version on its first line; leave it out if there is none
//! env = { KEY = "value" }               # set unless the user sets the same
//!
//! [flush.line]                          # makes the program's own buffers go out at each line end (--flush line, the default)
//! requires = "/usr/lib/helper.so"       # help only if the sandbox has this file
//! env = { KEY = "value" }               # as above
//! prepend = { PATHS = "/opt/dir" }      # put before the variable's own value, with a colon
//! files = [{ path = "/opt/dir/x", text = "..." }]   # put into the sandbox, read-only
//!
//! [flush.unbuffered]                    # the same for --flush unbuffered
//! ```

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

/// One runtime. The field's meanings are those of the keys above.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    pub name: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub extensions: Vec<String>,
    #[serde(default)]
    pub interpreters: Vec<String>,
    pub code_file: String,
    /// The first word is looked up in the PATH of the sandbox unless it has a slash.
    pub command: Vec<String>,
    #[serde(default)]
    pub version: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub flush: FlushHelp,
}

/// What makes a program's own buffers go out early.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushHelp {
    #[serde(default)]
    pub line: FlushVariant,
    #[serde(default)]
    pub unbuffered: FlushVariant,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushVariant {
    pub requires: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub prepend: BTreeMap<String, String>,
    #[serde(default)]
    pub files: Vec<HelperFile>,
}

/// A file of ours in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HelperFile {
    /// Absolute.
    pub path: String,
    pub text: String,
}

/// When the program's own buffers should go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// At each line end.
    #[default]
    Line,
    /// At each write of the program.
    Unbuffered,
    /// As the program would by itself.
    Off,
}

/// What a program gets beside what its user gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The user's variables and the runtime's; each name once.
    pub env: Vec<(OsString, OsString)>,
    /// Files of ours in the sandbox.
    pub files: Vec<HelperFile>,
}

/// Why no runtime was found for a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no runtime \"{name}\"; there are {known}")]
    Unknown { name: String, known: String },
    #[error("nothing says how to run {file}: its name has no known extension and it has no #! line")]
    Undecided { file: String },
}

/// How a file is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// One of [`all`]. If the #! line selected it, its command is that of the line, flags and all.
    Runtime(Box<Runtime>),
    /// The kernel knows how: an ELF executable, or a #! line that names an interpreter which no runtime claims.
    AsItIs,
}

const SOURCES: [(&str, &str); 3] = [
    ("bash", include_str!("../runtimes/bash.toml")),
    ("python", include_str!("../runtimes/python.toml")),
    ("sh", include_str!("../runtimes/sh.toml")),
];
const COMMAND_SOURCE: &str = include_str!("../runtimes/command.toml");
/// Bytes of a file in which its #! line must end, as for the kernel.
const SHEBANG_BYTES_MAX: usize = 256;

static ALL: LazyLock<Vec<Runtime>> =
    LazyLock::new(|| SOURCES.iter().map(|(file, source)| parse(file, source)).collect());
static COMMAND: LazyLock<Runtime> = LazyLock::new(|| parse("command", COMMAND_SOURCE));

fn parse(file: &str, source: &str) -> Runtime {
    match toml::from_str(source) {
        Ok(runtime) => runtime,
        // The files are part of this binary, and a test loads each.
        Err(error) => panic!("runtimes/{file}.toml: {error}"),
    }
}

/// All runtimes, by name.
pub fn all() -> &'static [Runtime] {
    &ALL
}

/// What a command that runs as it is gets as flush help. Its name is no runtime's.
pub fn command() -> &'static Runtime {
    &COMMAND
}

/// What a command gets as flush help: that of its interpreter if it is one of ours (`sh -c ...`, `python3 x.py`).
pub fn for_command(argv: &[OsString]) -> &'static Runtime {
    let name = argv.first().and_then(|first| Path::new(first).file_name()?.to_str()).unwrap_or_default();
    // `python3.11` counts as `python3`.
    let name = name.split('.').next().unwrap_or_default();
    let claims = |runtime: &&Runtime| runtime.interpreters.iter().any(|known| known == name);
    all().iter().find(claims).unwrap_or_else(|| command())
}

/// The names that `--runtime` takes, without aliases.
pub fn names() -> String {
    let names: Vec<&str> = all().iter().map(|runtime| runtime.name.as_str()).collect();
    names.join(", ")
}

/// A runtime by name or alias.
pub fn by_name(name: &str) -> Result<&'static Runtime, Error> {
    all()
        .iter()
        .find(|runtime| runtime.name == name || runtime.aliases.iter().any(|alias| alias == name))
        .ok_or_else(|| Error::Unknown { name: name.escape_debug().to_string(), known: names() })
}

/// How to run a file: by its extension, else by its #! line, else as an ELF executable.
pub fn for_file(path: &Path, code: &[u8]) -> Result<Selected, Error> {
    if let Some(extension) = path.extension().and_then(OsStr::to_str) {
        let claims = |runtime: &&Runtime| runtime.extensions.iter().any(|known| known == extension);
        if let Some(runtime) = all().iter().find(claims) {
            return Ok(Selected::Runtime(Box::new(runtime.clone())));
        }
    }
    if code.starts_with(b"\x7fELF") {
        return Ok(Selected::AsItIs);
    }
    let Some(line) = shebang(code) else {
        return Err(Error::Undecided { file: path.to_string_lossy().escape_debug().to_string() });
    };
    let claims = |runtime: &&Runtime| runtime.interpreters.contains(&line.interpreter);
    Ok(match all().iter().find(claims) {
        Some(runtime) => Selected::Runtime(Box::new(Runtime { command: line.command, ..runtime.clone() })),
        None => Selected::AsItIs,
    })
}

/// What a #! line says.
struct Shebang {
    /// Without its directory; the one behind `env` if that is named. `python3.11` counts as `python3`.
    interpreter: String,
    /// As the kernel would run it: everything behind the first word is one argument.
    command: Vec<String>,
}

fn shebang(code: &[u8]) -> Option<Shebang> {
    let line = code.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    // A line that is cut or isn't UTF-8 names an interpreter that is not ours.
    let line = String::from_utf8_lossy(&line[..line.len().min(SHEBANG_BYTES_MAX)]);
    let line = line.trim_matches([' ', '\t']);
    let (path, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let mut interpreter = base_name(path);
    if interpreter == "env" {
        // env's own options (-S) and assignments come before the name.
        let mut words = argument.split_ascii_whitespace();
        interpreter = base_name(words.find(|word| !word.starts_with('-') && !word.contains('='))?);
    }
    let interpreter = interpreter.split('.').next().filter(|name| !name.is_empty())?.to_owned();
    let words = [path, argument.trim(), "{file}"].into_iter().filter(|word| !word.is_empty());
    Some(Shebang { interpreter, command: words.map(str::to_owned).collect() })
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Runtime {
    /// The command line for code at `file` in the sandbox, with the program's arguments.
    pub fn argv(&self, file: &OsStr, args: &[OsString]) -> Vec<OsString> {
        let word = |word: &String| if word == "{file}" { file.to_owned() } else { word.into() };
        self.command.iter().map(word).chain(args.iter().cloned()).collect()
    }

    /// What the program gets, given what its user set. `sandbox_has` says whether the sandbox has a file.
    ///
    /// What the user set always wins; flush help that must stand before it is put before it.
    pub fn surroundings(
        &self,
        user: &[(OsString, OsString)],
        flush: Flush,
        sandbox_has: impl Fn(&Path) -> bool,
    ) -> Surroundings {
        let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
        let ours = |pairs: &BTreeMap<String, String>, env: &mut BTreeMap<OsString, OsString>| {
            env.extend(pairs.iter().map(|(key, value)| (key.into(), value.into())));
        };
        ours(&self.env, &mut env);
        let help = match flush {
            Flush::Line => Some(&self.flush.line),
            Flush::Unbuffered => Some(&self.flush.unbuffered),
            Flush::Off => None,
        };
        let help = help.filter(|help| help.requires.as_ref().is_none_or(|path| sandbox_has(Path::new(path))));
        if let Some(help) = help {
            ours(&help.env, &mut env);
        }
        env.extend(user.iter().cloned());
        for (key, front) in help.iter().flat_map(|help| &help.prepend) {
            let value = env.entry(key.into()).or_default();
            let mut joined = OsString::from(front);
            if !value.is_empty() {
                joined.push(":");
                joined.push(&*value);
            }
            *value = joined;
        }
        let files = help.map(|help| help.files.clone()).unwrap_or_default();
        Surroundings { env: env.into_iter().collect(), files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(path: &str, code: &[u8]) -> Result<String, Error> {
        for_file(Path::new(path), code).map(|selected| match selected {
            Selected::Runtime(runtime) => runtime.name,
            Selected::AsItIs => "as it is".to_owned(),
        })
    }

    #[test]
    fn every_file_loads_and_says_what_it_must() {
        for (file, runtime) in SOURCES.iter().map(|(file, _)| *file).zip(all()) {
            assert_eq!(runtime.name, file);
            assert!(!runtime.extensions.is_empty() && !runtime.interpreters.is_empty(), "{file}");
        }
        for runtime in all().iter().chain([command()]) {
            let name = &runtime.name;
            assert_eq!(runtime.command.iter().filter(|word| *word == "{file}").count(), 1, "{name}");
            assert!(!runtime.code_file.is_empty() && !runtime.code_file.contains('/'), "{name}");
            for variant in [&runtime.flush.line, &runtime.flush.unbuffered] {
                assert!(variant.files.iter().all(|file| file.path.starts_with("/opt/lastword/")), "{name}");
            }
        }
    }

    #[test]
    fn no_name_extension_or_interpreter_is_claimed_twice() {
        type Claims = fn(&Runtime) -> Vec<String>;
        let claims: [Claims; 3] = [
            |runtime| [vec![runtime.name.clone()], runtime.aliases.clone()].concat(),
            |runtime| runtime.extensions.clone(),
            |runtime| runtime.interpreters.clone(),
        ];
        for claim in claims {
            let mut claimed: Vec<String> = all().iter().flat_map(claim).collect();
            let count = claimed.len();
            claimed.sort();
            claimed.dedup();
            assert_eq!(claimed.len(), count);
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let source = "name = \"x\"\ncode_file = \"x\"\ncommand = []\ncomand = []\n";
        assert!(toml::from_str::<Runtime>(source).unwrap_err().to_string().contains("comand"));
    }

    #[test]
    fn a_name_or_an_alias_selects() {
        assert_eq!(by_name("python").unwrap().name, "python");
        assert_eq!(by_name("python3").unwrap().name, "python");
        let error = by_name("cobol\n").unwrap_err();
        assert_eq!(error.to_string(), "there is no runtime \"cobol\\n\"; there are bash, python, sh");
        assert!(by_name("command").is_err());
    }

    #[test]
    fn the_extension_comes_before_the_first_line() {
        assert_eq!(select("a.py", b"#!/bin/bash\n").unwrap(), "python");
        assert_eq!(select("dir.py/a.sh", b"").unwrap(), "sh");
        assert_eq!(select("a.bash", b"").unwrap(), "bash");
    }

    #[test]
    fn the_first_line_selects_where_there_is_no_known_extension() {
        for (line, expected) in [
            ("#!/usr/bin/env python3\n", "python"),
            ("#! /usr/bin/python3.11 -I\n", "python"),
            ("#!/usr/bin/env -S LANG=C python3 -u", "python"),
            ("#!/bin/dash\n", "sh"),
            ("#!/bin/bash", "bash"),
            ("#!/usr/bin/perl -w\n", "as it is"),
        ] {
            assert_eq!(select("tool.xyz", line.as_bytes()).unwrap(), expected, "{line}");
        }
        assert_eq!(select("tool", b"\x7fELF\x02\x01\x01").unwrap(), "as it is");
    }

    #[test]
    fn flags_of_the_first_line_are_kept() {
        let command = |line: &str| match for_file(Path::new("tool"), line.as_bytes()).unwrap() {
            Selected::Runtime(runtime) => runtime.command,
            Selected::AsItIs => panic!("{line}"),
        };
        assert_eq!(command("#!/bin/bash -eu\necho"), ["/bin/bash", "-eu", "{file}"]);
        assert_eq!(command("#! /usr/bin/env  -S python3 -u \n"), ["/usr/bin/env", "-S python3 -u", "{file}"]);
        assert_eq!(command("#!/bin/sh\n"), ["/bin/sh", "{file}"]);
    }

    #[test]
    fn a_file_that_says_nothing_is_an_error_that_names_it() {
        for code in [&b""[..], b"hello", b"#!", b"#!\n", b"#!/usr/bin/env\n", b"#!/usr/bin/env -S\n"] {
            assert!(matches!(select("a.txt", code), Err(Error::Undecided { .. })), "{code:?}");
        }
        let error = select("a\n.txt", b"").unwrap_err();
        assert!(error.to_string().contains("a\\n.txt"), "{error}");
    }

    #[test]
    fn arguments_follow_the_file() {
        let python = by_name("python").unwrap();
        let argv = python.argv(OsStr::new("/work/main.py"), &["a b".into(), "{file}".into()]);
        assert_eq!(argv, ["python3", "/work/main.py", "a b", "{file}"]);
    }

    #[test]
    fn the_user_wins_and_help_stands_before_it() {
        let python = by_name("python").unwrap();
        let user = [("PYTHONPATH".into(), "/mine".into()), ("PYTHONDONTWRITEBYTECODE".into(), "".into())];
        let with = python.surroundings(&user, Flush::Line, |_| true);
        let value = |name: &str| with.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        assert_eq!(value("PYTHONPATH"), Some("/opt/lastword/python:/mine".into()));
        assert_eq!(value("PYTHONDONTWRITEBYTECODE"), Some("".into()));
        assert_eq!(with.files.len(), 1);
        let unbuffered = python.surroundings(&[], Flush::Unbuffered, |_| true);
        assert!(unbuffered.env.contains(&("PYTHONUNBUFFERED".into(), "1".into())));
        assert!(unbuffered.files.is_empty());
    }

    #[test]
    fn help_that_needs_a_file_stays_out_where_it_is_missing() {
        assert_eq!(command().surroundings(&[], Flush::Line, |_| false), Surroundings::default());
        let with = command().surroundings(&[], Flush::Line, |path| path.ends_with("libstdbuf.so"));
        assert!(with.env.contains(&("_STDBUF_O".into(), "L".into())));
        assert_eq!(command().surroundings(&[], Flush::Off, |_| true), Surroundings::default());
    }
}

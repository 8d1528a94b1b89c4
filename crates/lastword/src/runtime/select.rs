//! Which runtime a name, a file or a command means.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{Runtime, all, command, names};

/// Why no runtime was found for a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no runtime \"{name}\"; there are {known}")]
    Unknown { name: String, known: String },
    #[error("nothing says how to run {file}: its name has no known extension and it has no #! line")]
    Undecided { file: String },
}

/// How a file is to be run.
#[derive(Clone, Debug, PartialEq)]
pub enum Selected {
    /// One of [`all`]. If the #! line selected it, its command is that of the line, flags and all.
    Runtime(Box<Runtime>),
    /// The kernel knows how: an ELF executable, or a #! line that names an interpreter which no runtime claims.
    AsItIs,
}

/// Bytes of a file in which its #! line must end, as for the kernel.
const SHEBANG_BYTES_MAX: usize = 256;

/// What a command gets as flush help: that of its interpreter if it is one of ours (`sh -c ...`, `python3 x.py`).
pub fn for_command(argv: &[OsString]) -> &'static Runtime {
    let name = argv.first().and_then(|first| Path::new(first).file_name()?.to_str()).unwrap_or_default();
    // `python3.11` counts as `python3`.
    let name = name.split('.').next().unwrap_or_default();
    let claims = |runtime: &&Runtime| runtime.interpreters.iter().any(|known| known == name);
    all().iter().find(claims).unwrap_or_else(|| command())
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
    fn a_name_or_an_alias_selects() {
        assert_eq!(by_name("python").unwrap().name, "python");
        assert_eq!(by_name("python3").unwrap().name, "python");
        let error = by_name("cobol\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no runtime \"cobol\\n\"; there are bash, c, cpp, go, java, node, perl, python, ruby, rust, sh"
        );
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
            ("#!/usr/bin/perl -w\n", "perl"),
            ("#!/usr/bin/env node\n", "node"),
            ("#!/usr/bin/tclsh\n", "as it is"),
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
}

//! Placeholders in a runtime's words.
//!
//! | Placeholder | |
//! |---|---|
//! | `{file}` | path of the entry in the sandbox |
//! | `{source}` | the same, as seen from /work, for compilers: `main.c` |
//! | `{sources}` | a whole word that becomes several: the entry, then all other files with one of the runtime's extensions, sorted |
//! | `{flags}` | a whole word that becomes any number: the default flags that the user didn't replace, then the user's |
//! | `{directory}` | the directory of the entry, as seen from /work: `.`, `./cmd/x` |
//! | `{stem}` | the entry's name without its extension |
//! | `{class}` | the same, behind the Java package that the entry declares |
//! | `{memory_mib}` | the memory limit in MiB |
//! | `{heap_mib}` | the runtime's share of it, at least 16 |
//! | `{cpus}` | what may run at once: the limit, or the machine's, from 1 to 8 |
//! | `{stack_mib}`, `{stack_kib}` | the stack limit, at most 1 GiB |

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use lastword_api::{Limits, limits};
use lastword_sandbox::root::WORK;

use super::Runtime;

/// The smallest heap that a runtime is told: with less none of them starts.
const HEAP_MIB_MIN: u64 = 16;
/// What a runtime is told of processors, at most: its threads grow with them, and the number of threads is limited, too.
const CPUS_MAX: u64 = 8;
/// The JVM takes no more for a thread.
const STACK_BYTES_MAX: u64 = 1 << 30;
/// Of a source, where its package declaration is looked for.
const PACKAGE_WITHIN_BYTES: usize = 64 << 10;
/// Java's own bound for a name.
const PACKAGE_BYTES_MAX: usize = 65_535;

const MIB: u64 = 1 << 20;

/// What placeholders depend on. Paths are those of the sandbox, absolute.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The entry.
    pub file: &'a Path,
    /// The entry's bytes.
    pub code: &'a [u8],
    /// The other files that were given, in any order.
    pub files: &'a [PathBuf],
    /// The user's compile flags.
    pub flags: &'a [OsString],
    /// Of the step: the compiler has its own.
    pub limits: &'a Limits,
    /// Processors of the machine.
    pub cpus: u64,
}

/// No file, the default limits, one processor.
impl Default for Given<'_> {
    fn default() -> Self {
        static DEFAULTS: Limits = Limits {
            wall_ms: limits::WALL_MS_DEFAULT,
            cpu_ms: None,
            memory_bytes: limits::MEMORY_BYTES_DEFAULT,
            pids: limits::PIDS_DEFAULT,
            cpus: None,
            disk_bytes: limits::DISK_BYTES_DEFAULT,
            output_bytes: limits::OUTPUT_BYTES_DEFAULT,
            stack_bytes: limits::STACK_BYTES_DEFAULT,
            open_files: limits::OPEN_FILES_DEFAULT,
        };
        Given { file: Path::new(""), code: b"", files: &[], flags: &[], limits: &DEFAULTS, cpus: 1 }
    }
}

/// What the placeholders of one step stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    file: OsString,
    source: OsString,
    sources: Vec<OsString>,
    flags: Vec<OsString>,
    directory: OsString,
    stem: OsString,
    class: OsString,
    memory_mib: u64,
    heap_mib: u64,
    cpus: u64,
    stack_kib: u64,
}

impl Runtime {
    /// What this runtime's placeholders stand for.
    pub fn values(&self, given: &Given<'_>) -> Values {
        let stem = given.file.file_stem().unwrap_or_default().to_owned();
        let mut class = package(given.code).map(|name| OsString::from(name + ".")).unwrap_or_default();
        class.push(&stem);
        let is_source = |path: &&PathBuf| {
            let extension = path.extension().and_then(OsStr::to_str);
            extension.is_some_and(|extension| self.extensions.iter().any(|known| known == extension))
        };
        let mut others: Vec<&PathBuf> =
            given.files.iter().filter(|path| *path != given.file).filter(is_source).collect();
        others.sort();
        others.dedup();
        let source = seen_from_work(given.file);
        let sources = [source.clone()].into_iter().chain(others.into_iter().map(|path| seen_from_work(path)));
        let limits = given.limits;
        let cpus = limits.cpus.map_or(given.cpus, |cpus| cpus.ceil() as u64);
        Values {
            file: given.file.into(),
            sources: sources.collect(),
            source,
            flags: self.flags(given.flags),
            directory: directory(given.file),
            stem,
            class,
            memory_mib: limits.memory_bytes / MIB,
            heap_mib: (limits.memory_bytes / 100 * self.memory_percent / MIB).max(HEAP_MIB_MIN),
            cpus: cpus.clamp(1, CPUS_MAX),
            stack_kib: limits.stack_bytes.min(STACK_BYTES_MAX) / 1024,
        }
    }

    fn flags(&self, user: &[OsString]) -> Vec<OsString> {
        let replaced = |key: &str| user.iter().any(|flag| flag.as_bytes().starts_with(key.as_bytes()));
        let defaults = self.compile.iter().flat_map(|compile| &compile.default_flags);
        let kept = defaults.filter(|(key, _)| !replaced(key)).map(|(_, flag)| flag.into());
        kept.chain(user.iter().cloned()).collect()
    }
}

/// Words with every placeholder replaced. One that is unknown stays as it is.
pub fn fill(words: &[String], values: &Values) -> Vec<OsString> {
    let mut filled = Vec::with_capacity(words.len() + values.sources.len() + values.flags.len());
    for word in words {
        match word.as_str() {
            "{sources}" => filled.extend(values.sources.iter().cloned()),
            "{flags}" => filled.extend(values.flags.iter().cloned()),
            word => filled.push(values.fill_word(word)),
        }
    }
    filled
}

/// The first placeholder of a word that stands for nothing, or that must be a word of its own.
pub(super) fn unknown_placeholder(word: &str) -> Option<&str> {
    if word == "{sources}" || word == "{flags}" {
        return None;
    }
    let values = Values::default();
    let names = word.split('{').skip(1).filter_map(|after| after.split_once('}').map(|(name, _)| name));
    names.into_iter().find(|name| values.value(name).is_none())
}

impl Values {
    /// One word, in which `{sources}` and `{flags}` have no meaning.
    pub(super) fn fill_word(&self, word: &str) -> OsString {
        let mut filled = OsString::new();
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push(before);
            let value = after.split_once('}').and_then(|(name, behind)| Some((self.value(name)?, behind)));
            match value {
                Some((value, behind)) => {
                    filled.push(value);
                    rest = behind;
                }
                None => {
                    filled.push("{");
                    rest = after;
                }
            }
        }
        filled.push(rest);
        filled
    }

    fn value(&self, name: &str) -> Option<OsString> {
        let number = |number: u64| OsString::from(number.to_string());
        Some(match name {
            "file" => self.file.clone(),
            "source" => self.source.clone(),
            "directory" => self.directory.clone(),
            "stem" => self.stem.clone(),
            "class" => self.class.clone(),
            "memory_mib" => number(self.memory_mib),
            "heap_mib" => number(self.heap_mib),
            "cpus" => number(self.cpus),
            // At least 1: a stack of 0 means the default to the JVM.
            "stack_mib" => number((self.stack_kib / 1024).max(1)),
            "stack_kib" => number(self.stack_kib),
            _ => return None,
        })
    }
}

/// As a compiler in /work should name it in its messages. Never something that it would take for an option or a list of files.
fn seen_from_work(path: &Path) -> OsString {
    let Ok(below) = path.strip_prefix(WORK) else { return path.into() };
    match below.as_os_str().as_bytes() {
        [b'-' | b'@', ..] => Path::new(".").join(below).into(),
        _ => below.into(),
    }
}

fn directory(file: &Path) -> OsString {
    let Some(directory) = file.parent() else { return ".".into() };
    match directory.strip_prefix(WORK) {
        Ok(below) if below.as_os_str().is_empty() => ".".into(),
        // The prefix tells a directory from the name of a package.
        Ok(below) => Path::new(".").join(below).into(),
        Err(_) => directory.into(),
    }
}

/// The package that a Java source declares: the first thing in it that is no comment and no space.
fn package(code: &[u8]) -> Option<String> {
    let mut rest = &code[..code.len().min(PACKAGE_WITHIN_BYTES)];
    loop {
        rest = rest.trim_ascii_start();
        rest = if let Some(comment) = rest.strip_prefix(b"//") {
            after(comment, b"\n")?
        } else if let Some(comment) = rest.strip_prefix(b"/*") {
            after(comment, b"*/")?
        } else {
            break;
        };
    }
    let declared = rest.strip_prefix(b"package")?;
    if !declared.first()?.is_ascii_whitespace() {
        return None;
    }
    let name = declared.split(|byte| *byte == b';').next().filter(|name| name.len() < declared.len())?;
    let name: Vec<u8> = name.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let name = OsString::from_vec(name).into_string().ok()?;
    let is_name = |part: &str| {
        !part.is_empty() && part.chars().all(|char| char.is_alphanumeric() || char == '_' || char == '$')
    };
    (name.len() <= PACKAGE_BYTES_MAX && name.split('.').all(is_name)).then_some(name)
}

fn after<'a>(bytes: &'a [u8], end: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(end.len()).position(|window| window == end)?;
    bytes.get(at + end.len()..)
}

#[cfg(test)]
mod tests {
    use super::super::{all, by_name, command};
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn every_placeholder_of_every_runtime_is_known() {
        let values =
            by_name("c").unwrap().values(&Given { file: Path::new("/work/a.c"), ..Given::default() });
        for runtime in all().iter().chain([command()]) {
            let compile = runtime.compile.iter();
            let mut words = runtime.command.clone();
            words.extend(runtime.version.clone());
            words.extend(runtime.env.values().cloned());
            for compile in compile {
                words.extend(compile.command.iter().chain(compile.env.values()).cloned());
                // Flags are put in as they are.
                assert!(!compile.default_flags.values().any(|flag| flag.contains('{')), "{}", runtime.name);
            }
            for variant in [&runtime.flush.line, &runtime.flush.unbuffered] {
                words.extend(variant.env.values().cloned());
                assert!(!variant.prepend.values().any(|value| value.contains('{')), "{}", runtime.name);
            }
            for word in fill(&words, &values) {
                assert!(!word.as_bytes().contains(&b'{'), "{}: {}", runtime.name, word.display());
            }
        }
    }

    #[test]
    fn each_placeholder_has_its_value() {
        let limits =
            Limits { memory_bytes: 200 << 20, cpus: Some(2.5), stack_bytes: 8 << 20, ..Limits::default() };
        let files = ["/work/b/z.c", "/work/a.c", "/work/a.h", "/work/main.c", "/tmp/x.c", "/work/a.c"]
            .map(PathBuf::from);
        let flags = ["-g".into(), "-DX={file}".into()];
        let given = Given {
            file: Path::new("/work/b/main.c"),
            files: &files,
            flags: &flags,
            limits: &limits,
            cpus: 64,
            ..Given::default()
        };
        let values = by_name("c").unwrap().values(&given);
        let one = |word: &str| {
            fill(&words(&[word]), &values).iter().map(|w| w.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(one("{file}"), ["/work/b/main.c"]);
        assert_eq!(one("{source}"), ["b/main.c"]);
        assert_eq!(one("{sources}"), ["b/main.c", "/tmp/x.c", "a.c", "b/z.c", "main.c"]);
        assert_eq!(one("{flags}"), ["-g", "-DX={file}"]);
        assert_eq!(one("{directory}"), ["./b"]);
        assert_eq!(one("-m{memory_mib}x{heap_mib}"), ["-m200x150"]);
        assert_eq!(one("{stem}{cpus}{stack_mib}/{stack_kib}"), ["main38/8192"]);
        assert_eq!(one("{unknown} {{stem}} {stem"), ["{unknown} {main} {stem"]);
    }

    #[test]
    fn numbers_stay_where_every_runtime_starts() {
        let java = by_name("java").unwrap();
        let of = |limits: Limits, cpus| java.values(&Given { limits: &limits, cpus, ..Given::default() });
        let least = of(Limits { memory_bytes: 4 << 20, stack_bytes: 256 << 10, ..Limits::default() }, 0);
        assert_eq!((least.heap_mib, least.cpus), (16, 1));
        assert_eq!(least.fill_word("{stack_mib}"), "1");
        let most = Limits { memory_bytes: u64::MAX, stack_bytes: u64::MAX, ..Limits::default() };
        let most = of(most, 512);
        assert_eq!((most.cpus, most.stack_kib), (8, 1 << 20));
        let limits = Limits { cpus: Some(0.1), ..Limits::default() };
        assert_eq!(of(limits, 64).cpus, 1);
    }

    #[test]
    fn the_defaults_are_those_of_the_limits() {
        assert_eq!(*Given::default().limits, Limits::default());
    }

    #[test]
    fn a_default_flag_gives_way_to_the_users() {
        let rust = by_name("rust").unwrap();
        let flags = |flags: &[&str]| {
            let flags: Vec<OsString> = flags.iter().map(OsString::from).collect();
            rust.values(&Given { flags: &flags, ..Given::default() }).flags
        };
        assert_eq!(flags(&["-g"]), ["--edition=2021", "-g"]);
        assert_eq!(flags(&["--edition=2018"]), ["--edition=2018"]);
        assert_eq!(flags(&["--edition", "2018"]), ["--edition", "2018"]);
    }

    #[test]
    fn a_source_is_never_taken_for_an_option() {
        for name in ["-o.c", "@list.c"] {
            let path = Path::new("/work").join(name);
            assert_eq!(seen_from_work(&path), OsString::from(format!("./{name}")));
        }
        assert_eq!(seen_from_work(Path::new("/work/a/-o.c")), "a/-o.c");
        assert_eq!(directory(Path::new("/work/-x/a.go")), "./-x");
        assert_eq!(directory(Path::new("/tmp/a.go")), "/tmp");
    }

    #[test]
    fn a_class_has_the_package_that_its_source_declares() {
        let java = by_name("java").unwrap();
        let class = |code: &str| {
            let file = Path::new("/work/src/Main.java");
            java.values(&Given { file, code: code.as_bytes(), ..Given::default() }).class
        };
        for (code, expected) in [
            ("public class Main {}", "Main"),
            ("package a;", "a.Main"),
            ("\n// package x;\n/* package y; */ package\ta . b_c ;\nclass Main {}", "a.b_c.Main"),
            ("packages x;", "Main"),
            ("package", "Main"),
            ("package a", "Main"),
            ("package a..b;", "Main"),
            ("package -jar;", "Main"),
            ("/* package a;", "Main"),
            ("// package a;", "Main"),
            ("class Main {} package a;", "Main"),
        ] {
            assert_eq!(class(code), expected, "{code:?}");
        }
    }
}

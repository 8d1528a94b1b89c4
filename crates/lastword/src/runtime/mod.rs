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
//! command = ["python3", "{file}"]       # with placeholders, see below; the program's arguments follow
//! version = ["python3", "--version"]    # prints the version; leave it out if there is none, or if the compiler's counts
//! memory_percent = 75                   # of the memory limit, what {heap_mib} is [default: 75]
//! env = { KEY = "value" }               # set unless the user sets the same; values may have placeholders
//!
//! [compile]                             # only where there is something to compile; in /work, and what it puts into /build is
//!                                       # seen read-only at /build by `command`
//! command = ["cc", "-o", "/build/main", "{flags}", "{sources}"]
//! default_flags = { "-std" = "-std=c17" } # {flags} begins with the value, unless one of the user's begins with the key
//! version = ["cc", "--version"]         # prints the compiler's version
//! env = { KEY = "value" }               # as above; the step sees nothing of the user's environment
//! limits = { memory_bytes = 4294967296 } # what differs from COMPILE_LIMITS; names as in `limits` of a request
//!
//! [flush.line]                          # makes the program's own buffers go out at each line end (--flush line, the default)
//! requires = "/usr/lib/helper.so"       # help only if the sandbox has this file
//! env = { KEY = "value" }               # as above
//! prepend = { PATHS = "/.lastword/help/x" } # put before the variable's own value, with a colon
//! files = [{ path = "/.lastword/help/x/y", text = "..." }]   # put into the sandbox, read-only
//!
//! [flush.unbuffered]                    # the same for --flush unbuffered
//! ```
//!
//! Placeholders stand for a part of a word, or for all of it; [`fill`] has the list.

mod fill;
pub mod own;
mod select;
mod toolchain;
pub mod venv;
mod versions;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use lastword_api::Limits;
pub use lastword_api::request::Flush;
use lastword_api::request::NewLimits;
use serde::Deserialize;

pub use fill::{Given, Values, fill};
pub use select::{Error, Selected, by_name, for_command, for_file};
pub use toolchain::{Available, Identity, PATH, Probe, Root, available, find, identity};
pub use versions::Versions;

/// One runtime. The field's meanings are those of the keys above.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
    /// No key: the version, where it is known without asking.
    #[serde(skip)]
    pub known_version: Option<String>,
    #[serde(default = "memory_percent_default")]
    pub memory_percent: u64,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub compile: Option<Compile>,
    #[serde(default)]
    pub flush: FlushHelp,
}

/// The step before the program runs, in a sandbox of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compile {
    /// As [`Runtime::command`].
    pub command: Vec<String>,
    #[serde(default)]
    pub default_flags: BTreeMap<String, String>,
    #[serde(default)]
    pub version: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub limits: NewLimits,
}

/// What a compiler may take unless its runtime says otherwise: more memory and disk than a program, less output.
pub const COMPILE_LIMITS: Limits = Limits {
    wall_ms: 60_000,
    cpu_ms: None,
    memory_bytes: 2 << 30,
    pids: 256,
    cpus: None,
    disk_bytes: 1 << 30,
    output_bytes: 1 << 20,
    stack_bytes: lastword_api::limits::STACK_BYTES_DEFAULT,
    open_files: lastword_api::limits::OPEN_FILES_DEFAULT,
};

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

/// What a program gets beside what its user gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The user's variables and the runtime's; each name once.
    pub env: Vec<(OsString, OsString)>,
    /// Files of ours in the sandbox.
    pub files: Vec<HelperFile>,
}

/// What a compiler gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileCommand {
    pub argv: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
}

const SOURCES: [(&str, &str); 11] = [
    ("bash", include_str!("../../runtimes/bash.toml")),
    ("c", include_str!("../../runtimes/c.toml")),
    ("cpp", include_str!("../../runtimes/cpp.toml")),
    ("go", include_str!("../../runtimes/go.toml")),
    ("java", include_str!("../../runtimes/java.toml")),
    ("node", include_str!("../../runtimes/node.toml")),
    ("perl", include_str!("../../runtimes/perl.toml")),
    ("python", include_str!("../../runtimes/python.toml")),
    ("ruby", include_str!("../../runtimes/ruby.toml")),
    ("rust", include_str!("../../runtimes/rust.toml")),
    ("sh", include_str!("../../runtimes/sh.toml")),
];
const COMMAND_SOURCE: &str = include_str!("../../runtimes/command.toml");

static ALL: OnceLock<Vec<Runtime>> = OnceLock::new();
static COMMAND: LazyLock<Runtime> = LazyLock::new(|| parse("command", COMMAND_SOURCE));

fn memory_percent_default() -> u64 {
    75
}

fn parse(file: &str, source: &str) -> Runtime {
    match toml::from_str(source) {
        Ok(runtime) => runtime,
        // The files are part of this binary, and a test loads each.
        Err(error) => panic!("runtimes/{file}.toml: {error}"),
    }
}

fn built_in() -> Vec<Runtime> {
    SOURCES.iter().map(|(file, source)| parse(file, source)).collect()
}

/// Adds the runtimes of a directory for the rest of this process. It must come before anything asks for a runtime.
pub fn add_own(dir: &Path) -> Result<(), own::Error> {
    let all = with_own(own::read(dir)?);
    // A second call would find runtimes in use: what is there stays.
    let _ = ALL.set(all);
    Ok(())
}

/// The user's own come first: whatever they claim is theirs.
fn with_own(mut own: Vec<Runtime>) -> Vec<Runtime> {
    let replaced = |runtime: &Runtime| own.iter().any(|ours| ours.name == runtime.name);
    let rest: Vec<Runtime> = built_in().into_iter().filter(|runtime| !replaced(runtime)).collect();
    own.extend(rest);
    own
}

/// All runtimes: the user's own by name, then those that are built in by name.
pub fn all() -> &'static [Runtime] {
    ALL.get_or_init(built_in)
}

/// What a command that runs as it is gets as flush help. Its name is no runtime's.
pub fn command() -> &'static Runtime {
    &COMMAND
}

/// The names that `--runtime` takes, without aliases.
pub fn names() -> String {
    let mut names: Vec<&str> = all().iter().map(|runtime| runtime.name.as_str()).collect();
    names.sort_unstable();
    names.join(", ")
}

impl Compile {
    /// The limits of the step.
    pub fn limits(&self) -> Limits {
        self.limits.over(&COMPILE_LIMITS)
    }
}

impl Runtime {
    /// The command line, with the program's arguments.
    pub fn command_line(&self, values: &Values, args: &[OsString]) -> Vec<OsString> {
        let mut argv = fill(&self.command, values);
        argv.extend_from_slice(args);
        argv
    }

    /// What the compile step runs; `None` if there is nothing to compile. `values` are those of the step's own limits.
    pub fn compile_command(&self, values: &Values) -> Option<CompileCommand> {
        let compile = self.compile.as_ref()?;
        let env = compile.env.iter().map(|(name, value)| (name.into(), values.fill_word(value)));
        Some(CompileCommand { argv: fill(&compile.command, values), env: env.collect() })
    }

    /// What the program gets, given what its user set. `sandbox_has` says whether the sandbox has a file.
    ///
    /// What the user set always wins; flush help that must stand before it is put before it.
    pub fn surroundings_with(
        &self,
        values: &Values,
        user: &[(OsString, OsString)],
        flush: Flush,
        sandbox_has: impl Fn(&Path) -> bool,
    ) -> Surroundings {
        let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
        let ours = |pairs: &BTreeMap<String, String>, env: &mut BTreeMap<OsString, OsString>| {
            env.extend(pairs.iter().map(|(key, value)| (key.into(), values.fill_word(value))));
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

    #[test]
    fn every_file_loads_and_says_what_it_must() {
        for (file, runtime) in SOURCES.iter().map(|(file, _)| *file).zip(all()) {
            assert_eq!(runtime.name, file);
            assert!(!runtime.extensions.is_empty(), "{file}");
            assert!(runtime.compile.is_some() || !runtime.interpreters.is_empty(), "{file}");
            // A version is asked of one of the two, once; dash has none to tell.
            let compiler = runtime.compile.as_ref().is_some_and(|compile| !compile.version.is_empty());
            assert!(compiler || !runtime.version.is_empty() || file == "sh", "{file}");
        }
        for runtime in all().iter().chain([command()]) {
            let name = &runtime.name;
            assert_eq!(own::check(runtime), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_users_own_runtime_comes_first() {
        let shell = Runtime { extensions: vec!["py".into()], ..by_name("bash").unwrap().clone() };
        let all = with_own(vec![shell]);
        assert_eq!(all.len(), SOURCES.len());
        assert_eq!(all.iter().filter(|runtime| runtime.name == "bash").count(), 1);
        assert_eq!(all[0].extensions, ["py"]);
    }

    #[test]
    fn the_code_file_is_one_that_its_runtime_runs() {
        for runtime in all() {
            let Selected::Runtime(selected) = for_file(Path::new(&runtime.code_file), b"").unwrap() else {
                panic!("{}", runtime.name);
            };
            assert_eq!(selected.name, runtime.name);
        }
    }

    #[test]
    fn a_program_is_named_once_by_its_command() {
        for runtime in all().iter().chain([command()]) {
            let count = |words: &[String], needles: &[&str]| {
                words.iter().filter(|word| needles.contains(&word.as_str())).count()
            };
            let name = &runtime.name;
            match &runtime.compile {
                None => assert_eq!(count(&runtime.command, &["{file}"]), 1, "{name}"),
                Some(compile) => {
                    let sources = ["{source}", "{sources}", "{directory}"];
                    assert_eq!(count(&compile.command, &sources), 1, "{name}");
                    assert_eq!(count(&compile.command, &["{flags}"]), 1, "{name}");
                    assert_eq!(count(&runtime.command, &["/build/main", "{class}"]), 1, "{name}");
                }
            }
        }
    }

    #[test]
    fn the_limits_of_a_compile_step_are_within_bounds() {
        COMPILE_LIMITS.check().unwrap();
        for compile in all().iter().filter_map(|runtime| runtime.compile.as_ref()) {
            compile.limits().check().unwrap();
        }
        let source = "command = []\nlimits = { pids = 7 }\n";
        let compile: Compile = toml::from_str(source).unwrap();
        assert_eq!(compile.limits(), Limits { pids: 7, ..COMPILE_LIMITS });
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
        let source = "name = \"x\"\ncode_file = \"x\"\ncommand = []\n";
        for (more, key) in
            [("comand = []", "comand"), ("[compile]\ncommand = []\nlimits = { memry = 1 }", "memry")]
        {
            let error = toml::from_str::<Runtime>(&format!("{source}{more}\n")).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn arguments_follow_the_file() {
        let python = by_name("python").unwrap();
        let values = python.values(&Given { file: Path::new("/work/main.py"), ..Given::default() });
        let argv = python.command_line(&values, &["a b".into(), "{file}".into()]);
        assert_eq!(argv, ["python3", "/work/main.py", "a b", "{file}"]);
    }

    #[test]
    fn a_compiler_gets_its_own_limits_and_variables() {
        let go = by_name("go").unwrap();
        let compile = go.compile.as_ref().unwrap();
        let limits = Limits { cpus: Some(1.5), ..compile.limits() };
        let given = Given { file: Path::new("/work/main.go"), limits: &limits, ..Given::default() };
        let command = go.compile_command(&go.values(&given)).unwrap();
        assert_eq!(command.argv, ["go", "build", "-p", "2", "-o", "/build/main", "."]);
        assert!(command.env.contains(&("GOMAXPROCS".into(), "2".into())));
        assert!(by_name("python").unwrap().compile_command(&Values::default()).is_none());
    }

    #[test]
    fn the_user_wins_and_help_stands_before_it() {
        let python = by_name("python").unwrap();
        let user = [("PYTHONPATH".into(), "/mine".into()), ("PYTHONDONTWRITEBYTECODE".into(), "".into())];
        let with = python.surroundings_with(&Values::default(), &user, Flush::Line, |_| true);
        let value = |name: &str| with.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        assert_eq!(value("PYTHONPATH"), Some("/.lastword/help/python:/mine".into()));
        assert_eq!(value("PYTHONDONTWRITEBYTECODE"), Some("".into()));
        assert_eq!(with.files.len(), 1);
        let unbuffered = python.surroundings_with(&Values::default(), &[], Flush::Unbuffered, |_| true);
        assert!(unbuffered.env.contains(&("PYTHONUNBUFFERED".into(), "1".into())));
        assert!(unbuffered.files.is_empty());
    }

    #[test]
    fn placeholders_of_the_user_are_left_alone() {
        let go = by_name("go").unwrap();
        let limits = Limits { memory_bytes: 100 << 20, ..Limits::default() };
        let values = go.values(&Given { limits: &limits, ..Given::default() });
        let user = [("GOMAXPROCS".into(), "{cpus}".into())];
        let env = go.surroundings_with(&values, &user, Flush::Line, |_| true).env;
        assert_eq!(env, [("GOMAXPROCS".into(), "{cpus}".into()), ("GOMEMLIMIT".into(), "90MiB".into())]);
    }

    #[test]
    fn help_that_needs_a_file_stays_out_where_it_is_missing() {
        assert_eq!(
            command().surroundings_with(&Values::default(), &[], Flush::Line, |_| false),
            Surroundings::default()
        );
        let with = command()
            .surroundings_with(&Values::default(), &[], Flush::Line, |path| path.ends_with("libstdbuf.so"));
        assert!(with.env.contains(&("_STDBUF_O".into(), "L".into())));
        assert_eq!(
            command().surroundings_with(&Values::default(), &[], Flush::Off, |_| true),
            Surroundings::default()
        );
    }
}

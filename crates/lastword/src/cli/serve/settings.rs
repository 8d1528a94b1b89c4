//! What a server is told: each value from its flag, else the environment, else the file, else the default.
//!
//! The definition for the command line is the only one. A value of the file is read as if it stood behind its flag.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, FromArgMatches};
use lastword_api::parse_size;
use lastword_api::quantity::format_size;
use toml::de::{DeTable, DeValue};

use super::super::Globals;
use super::super::message::{AdviceError, escaped};
use crate::log;

/// A longer file is no configuration.
const FILE_BYTES_MAX: u64 = 64 << 10;
const CONCURRENCY_MAX: usize = 4096;
/// Where nobody said how many: for each processor, and at least.
const PER_CPU: usize = 2;
const CONCURRENCY_MIN: usize = 4;
const QUEUE_MAX: u64 = 1_000_000;
const BODY_BYTES_MIN: u64 = 1 << 10;
const BODY_BYTES_MAX: u64 = 1 << 30;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Settings {
    /// Where to listen; port 0 takes a free one. Any but a loopback address needs keys
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070", env = "LASTWORD_LISTEN", value_parser = address)]
    pub(super) listen: SocketAddr,
    /// Executions that run at a time, 1 to 4096; auto is twice the processors, at least 4
    #[arg(long, value_name = "N", default_value = "auto", env = "LASTWORD_CONCURRENCY", value_parser = concurrency)]
    pub(super) concurrency: Concurrency,
    /// Executions that may wait, 1 to 1000000; more are refused with 429
    #[arg(long, value_name = "N", default_value = "10000", env = "LASTWORD_QUEUE", value_parser = queue)]
    pub(super) queue: usize,
    /// Serve although limits can't be enforced on this machine
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        env = "LASTWORD_ALLOW_UNENFORCED",
        value_parser = clap::builder::BoolishValueParser::new(),
        action = clap::ArgAction::Set
    )]
    pub(super) allow_unenforced: bool,
    /// Longest body of a request, 1KiB to 1GiB; longer ones are refused with 413
    #[arg(long, value_name = "SIZE", default_value = "32MiB", env = "LASTWORD_BODY_LIMIT", value_parser = body_limit)]
    pub(super) body_limit: u64,
    /// How the log on stderr is written
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "LASTWORD_LOG_FORMAT", value_enum)]
    pub(super) log_format: log::Format,
    /// The least that is logged
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "LASTWORD_LOG_LEVEL", value_enum)]
    pub(super) log_level: log::Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concurrency {
    Auto,
    Count(NonZeroUsize),
}

impl Concurrency {
    pub(super) fn get(self) -> NonZeroUsize {
        let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        match self {
            Concurrency::Count(count) => count,
            Concurrency::Auto => {
                let count = (cpus * PER_CPU).clamp(CONCURRENCY_MIN, CONCURRENCY_MAX);
                NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
            }
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write it like 127.0.0.1:7070 or [::1]:7070".to_owned())
}

fn concurrency(text: &str) -> Result<Concurrency, String> {
    if text == "auto" {
        return Ok(Concurrency::Auto);
    }
    let count: Option<NonZeroUsize> =
        text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= CONCURRENCY_MAX);
    count
        .map(Concurrency::Count)
        .ok_or_else(|| format!("it must be auto, or between 1 and {CONCURRENCY_MAX}"))
}

fn queue(text: &str) -> Result<usize, String> {
    let count: Option<u64> = text.parse().ok().filter(|count| (1..=QUEUE_MAX).contains(count));
    let count = count.and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| format!("it must be between 1 and {QUEUE_MAX}"))
}

fn body_limit(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if (BODY_BYTES_MIN..=BODY_BYTES_MAX).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("it must be between {} and {}", format_size(BODY_BYTES_MIN), format_size(BODY_BYTES_MAX)))
}

/// All values, and where each comes from.
#[derive(Debug)]
pub(super) struct Effective {
    pub(super) settings: Settings,
    pub(super) data_dir: PathBuf,
    values: Vec<Value>,
}

#[derive(Debug)]
struct Value {
    key: String,
    text: String,
    origin: String,
}

impl Effective {
    /// Key, value and origin of each.
    pub(super) fn rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.values.iter().map(|value| {
            let text = match value.key.as_str() {
                "data-dir" => self.data_dir.display().to_string(),
                "concurrency" if value.text == "auto" => {
                    format!("auto ({})", self.settings.concurrency.get())
                }
                _ => value.text.clone(),
            };
            vec![value.key.clone(), escaped(&text), value.origin.clone()]
        })
    }
}

/// What can be told, as a command line.
pub(super) fn command() -> clap::Command {
    Settings::augment_args(Globals::augment_args(clap::Command::new("serve")))
}

/// `matches` are those of the command line and the environment.
pub(super) fn resolve(file: Option<&Path>, matches: &ArgMatches) -> anyhow::Result<Effective> {
    let found = file.map(read).transpose()?.unwrap_or_default();
    let mut argv: Vec<OsString> = vec!["serve".into()];
    let mut origins = Vec::new();
    for argument in command().get_arguments() {
        let Some(key) = argument.get_long() else { continue };
        let given = matches.get_raw(argument.get_id().as_str()).and_then(|mut values| values.next());
        let origin = match (matches.value_source(argument.get_id().as_str()), found.get(key)) {
            (Some(ValueSource::CommandLine), _) => {
                argv.push(flag(key, given.unwrap_or_default()));
                format!("--{key}")
            }
            (Some(ValueSource::EnvVariable), _) => {
                argv.push(flag(key, given.unwrap_or_default()));
                argument.get_env().unwrap_or_default().display().to_string()
            }
            (_, Some(value)) => {
                argv.push(flag(key, OsStr::new(&value.text)));
                let name = file.map(|file| file.display().to_string()).unwrap_or_default();
                escaped(&format!("{name}, line {}", value.line))
            }
            _ => "default".to_owned(),
        };
        origins.push((key.to_owned(), argument.get_id().as_str().to_owned(), origin));
    }
    let merged = command().try_get_matches_from(argv).context("cannot put the configuration together")?;
    let settings = Settings::from_arg_matches(&merged)?;
    let data_dir = Globals::from_arg_matches(&merged)?.data_dir()?;
    let value = |(key, id, origin): (String, String, String)| {
        let text = merged.get_raw(&id).and_then(|mut values| values.next()).unwrap_or_default();
        Value { key, text: text.display().to_string(), origin }
    };
    Ok(Effective { settings, data_dir, values: origins.into_iter().map(value).collect() })
}

fn flag(key: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{key}="));
    flag.push(value);
    flag
}

#[derive(Debug, PartialEq, Eq)]
struct InFile {
    text: String,
    line: usize,
}

fn read(path: &Path) -> anyhow::Result<BTreeMap<String, InFile>> {
    let mut text = String::new();
    let file =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    file.with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(anyhow!("{} is longer than {FILE_BYTES_MAX} bytes", path.display()));
    }
    parse(&text).map_err(|wrong| {
        let error = anyhow!("{}, line {}: {}", path.display(), wrong.line, wrong.what);
        error.with_hint("lastword serve --help shows what there is")
    })
}

#[derive(Debug)]
struct Wrong {
    line: usize,
    what: String,
}

fn parse(text: &str) -> Result<BTreeMap<String, InFile>, Wrong> {
    let line_of = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| Wrong {
        line: line_of(error.span().map_or(0, |span| span.start)),
        what: error.message().to_owned(),
    })?;
    let command = command();
    let known: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let mut found = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let line = line_of(key.span().start);
        let key = key.get_ref().to_string();
        if !known.contains(&key.as_str()) {
            let key = key.escape_debug();
            return Err(Wrong { line, what: format!("unknown key {key}: use one of {}", known.join(", ")) });
        }
        let wrong = |what: String| Wrong { line, what: format!("{key}: {what}") };
        let text = plain(value.get_ref())
            .ok_or_else(|| wrong("it must be a text, a whole number, true or false".into()))?;
        let one = ["serve".into(), flag(&key, OsStr::new(&text))];
        command.clone().try_get_matches_from(one).map_err(|error| wrong(reason(&error)))?;
        found.insert(key, InFile { text, line });
    }
    Ok(found)
}

/// A value as one would write it behind a flag.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string())
        }
        DeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Why a value is none, without clap's words about a command line.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            format!("use one of {}", values.join(", "))
        }
        _ => error.kind().to_string(),
    }
}

#[cfg(test)]
impl Settings {
    /// As a command line would have it.
    pub(super) fn test(arguments: &[&str]) -> Settings {
        let arguments = ["serve"].iter().chain(arguments);
        Settings::from_arg_matches(&command().get_matches_from(arguments)).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let wrong = parse(text).unwrap_err();
        format!("{}: {}", wrong.line, wrong.what)
    }

    #[test]
    fn a_file() {
        let text = "# comment\nlisten = \"[::1]:80\"\n\nqueue = 0x10\nallow-unenforced = true\nbody-limit = '1MiB'\n";
        let found = parse(text).unwrap();
        let of = |key: &str| (found[key].text.as_str(), found[key].line);
        assert_eq!(of("listen"), ("[::1]:80", 2));
        assert_eq!(of("queue"), ("16", 4));
        assert_eq!(of("allow-unenforced"), ("true", 5));
        assert_eq!(of("body-limit"), ("1MiB", 6));
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_has_its_line_and_key() {
        assert!(wrong("queue = 1\nlisen = 'x'\n").starts_with("2: unknown key lisen: use one of "), "");
        assert_eq!(wrong("\nqueue = 0\n"), "2: queue: it must be between 1 and 1000000");
        assert_eq!(wrong("queue = -1"), "1: queue: it must be between 1 and 1000000");
        assert_eq!(wrong("queue = 1.5"), "1: queue: it must be a text, a whole number, true or false");
        assert_eq!(wrong("log-format = 'xml'"), "1: log-format: use one of text, json");
        assert_eq!(wrong("listen = '7070'"), "1: listen: write it like 127.0.0.1:7070 or [::1]:7070");
        assert!(wrong("a = 1\n[serve]\nb = 2").starts_with("1: unknown key a"), "");
        assert!(wrong("[serve]\nqueue = 2").starts_with("1: unknown key serve"), "");
        assert!(wrong("queue = 1\nqueue = 2").starts_with("2: "), "{}", wrong("queue = 1\nqueue = 2"));
        assert!(wrong("queue = 1\n= 2").starts_with("2: "), "");
        assert!(wrong("config = 'x'").starts_with("1: unknown key config"), "");
        assert!(wrong("check = true").starts_with("1: unknown key check"), "");
    }

    #[test]
    fn defaults_and_bounds() {
        let settings = Settings::test(&[]);
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7070");
        assert_eq!((settings.queue, settings.body_limit), (10_000, 32 << 20));
        assert!(!settings.allow_unenforced && settings.concurrency.get().get() >= CONCURRENCY_MIN);
        assert!(Settings::test(&["--allow-unenforced"]).allow_unenforced);
        assert!(!Settings::test(&["--allow-unenforced=no"]).allow_unenforced);
        assert!(concurrency("0").is_err() && concurrency("4097").is_err());
        assert_eq!(concurrency("4096"), Ok(Concurrency::Count(NonZeroUsize::new(4096).unwrap())));
        assert!(body_limit("1023").is_err() && body_limit("2GiB").is_err() && body_limit("1KiB") == Ok(1024));
    }
}

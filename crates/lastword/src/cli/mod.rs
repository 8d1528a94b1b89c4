//! The command line: one file for each command.

mod batch;
pub mod bench;
mod cancel;
mod completions;
pub mod doctor;
mod executions;
mod exit;
mod files;
mod get;
mod keys;
mod list;
mod logs;
pub mod message;
pub mod output;
mod print;
mod rm;
mod run;
mod save;
pub mod serve;
mod server;
#[cfg(test)]
pub(crate) mod stored_tests;
mod summary;
pub(crate) mod values;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use lastword_api::Execution;
use lastword_store::{Entry, Store};
use signal_hook::consts::SIGXFSZ;

use self::executions::Opened;
use self::message::{Advice, code_of, say, say_error};
use crate::client::Client;
use crate::execution::{self, Engine};
use crate::runtime;

/// Runs code that nobody trusts, and never loses what it said.
#[derive(Parser)]
#[command(name = "lastword", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    server: server::Args,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  lastword run script.py                        run a file in a sandbox
  lastword run --runtime python -c 'print(1)'   run code
  lastword run --timeout 5s -- ls /             run a command
  lastword batch rows.jsonl                     run many, one request a line
  lastword list                                 what ran
  lastword logs ID                              what it said, byte for byte
  lastword serve                                the same for many users, over HTTP
  lastword run --server http://127.0.0.1:7070 script.py";

/// What every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Globals {
    /// Where executions and their transcripts are kept [default: $XDG_DATA_HOME/lastword or ~/.local/share/lastword]
    #[arg(long, global = true, value_name = "DIR", env = "LASTWORD_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The server that is asked, if one is: see [`server::Args`].
    #[arg(skip)]
    server: Option<Arc<Client>>,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Batch(batch::Args),
    Cancel(cancel::Args),
    Logs(logs::Args),
    Get(get::Args),
    List(list::Args),
    Files(files::Args),
    Verify(verify::Args),
    Rm(rm::Args),
    Serve(Box<serve::Args>),
    Keys(keys::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Completions(completions::Args),
}

/// Exit code of a command other than `run` that failed. Wrong usage is clap's 2.
const FAILURE: u8 = 1;

pub fn main() -> ExitCode {
    // A file size limit on us shows as an error of the write, which says what could not be written.
    lastword_sandbox::sys::ignore_signals(&[SIGXFSZ]);
    let matches = Cli::command().get_matches();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let failure = if matches!(cli.command, Command::Run(_)) { exit::FAILED } else { FAILURE };
    let prepared = cli.server.client(&matches, cli.command.is_for_servers());
    let prepared = prepared.and_then(|client| add_own_runtimes(&cli.command).map(|()| client));
    match prepared {
        Ok(client) => cli.globals.server = client.map(Arc::new),
        Err(error) => {
            say_error(&error);
            return ExitCode::from(code_of(&error).unwrap_or(failure));
        }
    }
    let result = dispatch(cli, &matches);
    ExitCode::from(result.unwrap_or_else(|error| {
        say_error(&error);
        code_of(&error).unwrap_or(failure)
    }))
}

fn dispatch(cli: Cli, matches: &ArgMatches) -> anyhow::Result<u8> {
    let globals = &cli.globals;
    match cli.command {
        Command::Run(args) => run::run(*args, globals),
        Command::Batch(args) => batch::run(&args, globals),
        Command::Cancel(args) => cancel::run(&args, globals),
        Command::Logs(args) => logs::run(&args, globals),
        Command::Get(args) => get::run(&args, globals),
        Command::List(args) => list::run(&args, globals),
        Command::Files(args) => files::run(&args, globals),
        Command::Verify(args) => verify::run(&args, globals),
        Command::Rm(args) => rm::run(&args, globals),
        // It has to know where each value comes from.
        Command::Serve(args) => serve::run(&args, matches.subcommand().map_or(matches, |(_, of)| of)),
        Command::Keys(args) => keys::run(&args, globals),
        Command::Doctor(args) => doctor::run(&args, globals),
        Command::Bench(args) => bench::run(&args, globals),
        Command::Completions(args) => completions::run(&args),
    }
}

impl Command {
    /// A server can do it in our place.
    fn is_for_servers(&self) -> bool {
        match self {
            Command::Run(_)
            | Command::Batch(_)
            | Command::Cancel(_)
            | Command::Logs(_)
            | Command::Get(_)
            | Command::List(_)
            | Command::Files(_)
            | Command::Verify(_)
            | Command::Rm(_) => true,
            Command::Serve(_)
            | Command::Keys(_)
            | Command::Doctor(_)
            | Command::Bench(_)
            | Command::Completions(_) => false,
        }
    }
}

/// The user's own runtimes, for the commands that run something.
fn add_own_runtimes(command: &Command) -> anyhow::Result<()> {
    if !matches!(command, Command::Run(_) | Command::Batch(_) | Command::Serve(_)) {
        return Ok(());
    }
    let Some(dir) = runtime::own::directory(|name| std::env::var_os(name)) else { return Ok(()) };
    runtime::add_own(&dir).hint(format!("correct it, or move it out of {}", dir.display()))
}

impl Globals {
    /// The data directory that was asked for, or the user's own.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        data_dir(self.data_dir.clone(), |name| std::env::var_os(name).map(PathBuf::from))
            .hint("name it with --data-dir or LASTWORD_DATA_DIR")
    }

    /// Opens the store, unless a server is asked in its place.
    fn open(&self) -> anyhow::Result<Opened> {
        match &self.server {
            Some(client) => Ok(Opened::Server(Arc::clone(client))),
            None => self.open_store().map(|store| Opened::Store(Box::new(store))),
        }
    }

    /// Opens the store for running.
    pub fn open_engine(&self) -> anyhow::Result<Engine> {
        let store = self.open_store()?;
        Ok(Engine::new(store, &self.data_dir()?))
    }

    /// Opens the store, and finishes the executions whose runner died.
    pub fn open_store(&self) -> anyhow::Result<Store> {
        let dir = self.data_dir()?;
        let store =
            Store::open(&dir).with_context(|| format!("cannot open the store in {}", dir.display()))?;
        // What others left behind must not keep anybody from reading or running.
        if let Err(error) = execution::recover(&store) {
            say_error(&anyhow::Error::new(error).context("cannot finish executions that were left behind"));
        }
        Ok(store)
    }
}

fn data_dir(asked: Option<PathBuf>, env: impl Fn(&str) -> Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = asked {
        if dir.as_os_str().is_empty() {
            return Err(anyhow!("the name of the data directory is empty"));
        }
        return Ok(dir);
    }
    // The base directory specification: a path that is not absolute counts as none.
    if let Some(dir) = env("XDG_DATA_HOME").filter(|dir| dir.is_absolute()) {
        return Ok(dir.join("lastword"));
    }
    match env("HOME").filter(|dir| dir.is_absolute()) {
        Some(home) => Ok(home.join(".local/share/lastword")),
        None => Err(anyhow!("there is no data directory: neither XDG_DATA_HOME nor HOME is set")),
    }
}

/// An execution by its id or the beginning of it.
fn find(store: &Store, id: &str) -> anyhow::Result<Entry> {
    let found = store.resolve(id).hint("lastword list shows the executions")?;
    store
        .get(found)?
        .ok_or_else(|| anyhow!("execution {found} was removed"))
        .hint("lastword list shows the executions")
}

/// The execution object that the store keeps, without its streams.
fn object(entry: &Entry) -> anyhow::Result<Execution> {
    execution::object_of(entry).hint("a newer lastword may have written it")
}

/// Says that a transcript is not whole, if it isn't.
fn say_incomplete(execution: &Execution) {
    if execution.transcript.complete == Some(false) {
        let why = execution.transcript.why_incomplete.as_deref().unwrap_or("nobody can say why");
        say(&format!("the transcript is not complete: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("lastword"), "{} has none", command.get_name());
        }
    }

    #[test]
    fn the_data_directory() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            }
        };
        let of = |asked: Option<&str>, pairs| data_dir(asked.map(PathBuf::from), env(pairs));
        assert_eq!(of(Some("d"), &[("HOME", "/h")]).unwrap(), PathBuf::from("d"));
        assert_eq!(
            of(None, &[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]).unwrap(),
            PathBuf::from("/x/lastword")
        );
        let home = PathBuf::from("/h/.local/share/lastword");
        assert_eq!(of(None, &[("HOME", "/h"), ("XDG_DATA_HOME", "x")]).unwrap(), home);
        assert!(of(None, &[]).is_err());
        assert!(of(Some(""), &[("HOME", "/h")]).is_err());
    }
}

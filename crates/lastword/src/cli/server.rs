//! `--server`: the same commands, done by a server.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::ArgMatches;
use clap::parser::ValueSource;

use super::exit;
use super::message::{Advice, AdviceError};
use crate::client::{self, Client};

/// Where the API key is, if no file is named. Never an argument: other users of the machine see those.
const KEY_VARIABLE: &str = "LASTWORD_API_KEY";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Have this server do it, like http://127.0.0.1:7070; its API key is in LASTWORD_API_KEY
    #[arg(long, global = true, value_name = "URL", env = "LASTWORD_SERVER")]
    server: Option<String>,
    /// A file that holds the API key for --server
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
}

impl Args {
    /// The server that is to do it, if one is. What stands on the command line goes before the environment.
    pub(super) fn client(&self, matches: &ArgMatches, for_servers: bool) -> anyhow::Result<Option<Client>> {
        let typed = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let Some(server) = self.server.as_deref().filter(|server| typed("server") || !server.is_empty())
        else {
            return Ok(None);
        };
        match (typed("server"), typed("data_dir")) {
            (true, _) if !for_servers => {
                return Err(anyhow!("this command works on this machine, and takes no --server"))
                    .hint("run it where the server runs")
                    .code(exit::USAGE);
            }
            (true, true) => {
                return Err(anyhow!("--server and --data-dir can't be used together"))
                    .hint("the server has its own data directory; leave out one of them")
                    .code(exit::USAGE);
            }
            (false, true) => return Ok(None),
            _ if !for_servers => return Ok(None),
            _ => {}
        }
        let key = match &self.api_key_file {
            Some(file) => Some(told(client::key_in(file))?),
            None => std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()),
        };
        told(Client::new(server, key.as_deref())).code(exit::USAGE).map(Some)
    }
}

/// An error of a server with what to do next.
pub(crate) fn told<T>(done: Result<T, client::Error>) -> anyhow::Result<T> {
    done.map_err(error)
}

pub(crate) fn error(error: client::Error) -> anyhow::Error {
    let hint = error.hint();
    let error = anyhow::Error::new(error);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

//! `lastword bench serve`: a server under a load of programs whose output is known, with a look at every answer.
//!
//! [`runs`] measures scripts that clients wait for, beside the same ones run bare; [`queued`] fills the queue while logs are
//! followed. Both ask through [`client`], and note there what is wrong. [`figures`] is what is printed.

mod answers;
mod client;
mod events;
mod figures;
mod follow;
mod limits;
mod programs;
mod queued;
mod runs;
mod server;

use std::path::Path;

use anyhow::{Context, ensure};

use self::client::{Client, Wrongs};
use self::figures::Figures;
use self::queued::Size;
use self::server::Server;
use super::super::output::{print, print_json};
use super::super::{FAILURE, Globals};
use super::PYTHON;

/// A server under load: scripts that clients wait for, then a full queue with followers
///
/// Without --url it starts one of its own, which takes requests also where limits can't be enforced, and which goes with all
/// that it ran. What another server ran stays there, under the label lastword-bench.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Load this server, on this machine, with LASTWORD_API_KEY if it wants one; it should have nothing else to do
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How many scripts are waited for; 0 leaves this part out
    #[arg(short = 'n', long = "runs", default_value_t = 400, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    runs: u64,
    /// How many clients submit at a time
    #[arg(short = 'j', long = "clients", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    clients: u64,
    /// How many follow logs at a time
    #[arg(short = 'f', long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=2000))]
    followers: u64,
    /// How many executions wait at a time; 0 leaves this part out
    #[arg(short = 'q', long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    queued: u64,
    /// Executions at a time, for a server of our own
    #[arg(long, value_name = "N", conflicts_with = "url", value_parser = clap::value_parser!(u64).range(1..=4096))]
    concurrency: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    ensure!(Path::new(PYTHON).exists(), "this benchmark runs Python programs, and there is no {PYTHON}");
    // Those that are waited for wait, too.
    let room = args.queued == 0 || args.queued >= args.clients;
    ensure!(room, "a queue of {} has no room for {} clients", args.queued, args.clients);
    let dir = globals.data_dir()?.join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let result = measure(args, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    let figures = result?;
    if args.json {
        print_json(&figures)?;
    } else {
        print(&figures.text())?;
    }
    Ok(if figures.wrong == 0 { 0 } else { FAILURE })
}

fn measure(args: &Args, dir: &Path) -> anyhow::Result<Figures> {
    let server = match &args.url {
        Some(url) => Server::at(url),
        None => Server::start(&dir.join("data"), args.queued, args.concurrency)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start the threads of the clients")?;
    let (client, wrongs) = (Client::new(&server.url)?, Wrongs::default());
    let mut figures = Figures::new(runtime.block_on(client.get("/v1/capacity"))?, args.clients);
    figures.memory.push(("start", server.memory()));
    if args.runs > 0 {
        figures.add_runs(runs::measure(&runtime, &client, &wrongs, (args.runs, args.clients), dir)?);
        figures.memory.push(("after the runs", server.memory()));
    }
    if args.queued > 0 {
        let size = Size { queued: args.queued, followers: args.followers, clients: args.clients };
        figures.add_queued(runtime.block_on(queued::measure(&client, &wrongs, &server, size))?, size);
    }
    figures.answers = client.answers();
    (figures.wrong, figures.bad) = wrongs.all();
    Ok(figures)
}

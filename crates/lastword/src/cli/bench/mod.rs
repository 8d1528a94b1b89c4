//! `lastword bench`

mod fast_fail;
mod rate;
mod serve;

use super::Globals;

/// The interpreter that the sandbox finds, so that both sides run the same.
const PYTHON: &str = "/usr/bin/python3";
/// Both sides take turns in so many rounds, so that a machine whose speed drifts doesn't favour one.
const ROUNDS: usize = 10;

/// Measure this machine against bare processes, and check every byte on the way
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits with 1 if a byte is missing, out of place, a transcript is not complete, or an answer is wrong.

Examples:
  lastword bench fast-fail                  1,000 programs that fail at once, 4 at a time
  lastword bench fast-fail -n 10000 -j 8
  lastword bench serve                      a server of its own: 400 runs, then 2,000 queued and 200 followers
  lastword bench serve --url http://127.0.0.1:7070 -n 1000 -j 16")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    FastFail(fast_fail::Args),
    Serve(serve::Args),
}

pub fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    match &args.what {
        What::FastFail(args) => fast_fail::run(args, globals),
        What::Serve(args) => serve::run(args, globals),
    }
}

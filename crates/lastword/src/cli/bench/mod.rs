//! `lastword bench`

mod fast_fail;

use super::Globals;

/// Measure this machine against bare processes, and check every byte on the way
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits with 1 if a byte is missing, out of place, or a transcript is not complete.

Examples:
  lastword bench fast-fail                  1,000 programs that fail at once, 4 at a time
  lastword bench fast-fail -n 10000 -j 8")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    FastFail(fast_fail::Args),
}

pub fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    match &args.what {
        What::FastFail(args) => fast_fail::run(args, globals),
    }
}

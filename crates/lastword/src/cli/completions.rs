//! `lastword completions`

use clap::CommandFactory;
use clap_complete::Shell;

use super::output::print;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword completions bash > /etc/bash_completion.d/lastword
  lastword completions zsh > ~/.zfunc/_lastword")]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "lastword", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

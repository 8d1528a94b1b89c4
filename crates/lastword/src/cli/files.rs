//! `lastword files`

use std::ffi::OsString;
use std::fmt::Write;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use anyhow::anyhow;
use lastword_api::{Execution, OutputFile, RefusedOutput};
use serde::Serialize;

use super::Globals;
use super::executions::{Executions, KeptFile};
use super::message::{Advice, escaped};
use super::output::{Output, print, print_json};
use crate::stored;

/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1024;
/// Digits of a digest in the table.
const DIGEST_SHOWN: usize = 16;

/// List the output files that were kept of an execution, or print one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A file is compared with its digest in the seal while it is printed. If it is not what was sealed, the exit code is 1 and
nothing vouches for what was printed.

Examples:
  lastword run --out 'out/*.csv:results' script.py
  lastword files 0190a1
  lastword files 0190a1 out/table.csv > table.csv
  lastword files 0190a1 --json | jq '.outputs[].path'")]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    id: String,
    /// Print this file: relative to /work, or absolute
    #[arg(conflicts_with = "json")]
    path: Option<OsString>,
    /// Print {"outputs": [...], "outputs_refused": [...]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Lists {
    outputs: Vec<OutputFile>,
    outputs_refused: Vec<RefusedOutput>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let opened = globals.open()?;
    let executions = opened.executions();
    let execution = executions.get(executions.id(&args.id)?)?;
    if let Some(path) = &args.path {
        print_file(executions, &execution, path.as_bytes())?;
    } else if args.json {
        print_json(&Lists { outputs: execution.outputs, outputs_refused: execution.outputs_refused })?;
    } else {
        print(&table(&executions.outputs(&execution)?, &execution))?;
    }
    Ok(0)
}

fn table(files: &[KeptFile], execution: &Execution) -> String {
    let mut text = String::new();
    let size = |bytes: u64| bytes.to_string();
    let wide = files.iter().map(|file| size(file.bytes).len()).max().unwrap_or(0).max(5);
    if !files.is_empty() {
        let _ = writeln!(text, "{:>wide$}  {:<DIGEST_SHOWN$}  PATH", "BYTES", "BLAKE3");
    }
    for file in files {
        let digest: String = file.blake3.chars().take(DIGEST_SHOWN).collect();
        let _ = writeln!(text, "{:>wide$}  {digest}  {}", size(file.bytes), shown(&file.path));
    }
    for refused in &execution.outputs_refused {
        let path = if refused.path.is_empty() { "others" } else { &refused.path };
        let _ = writeln!(text, "not kept: {}: {}", escaped(path), escaped(&refused.reason));
    }
    text
}

/// A name that is text stands as it is, but for what could steer a terminal.
fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => escaped(text),
        Err(_) => path.escape_ascii().to_string(),
    }
}

fn print_file(executions: Executions<'_>, execution: &Execution, path: &[u8]) -> anyhow::Result<()> {
    let files = executions.outputs(execution)?;
    let file = stored::meant(files.iter().map(|file| &file.path[..]), path).and_then(|at| files.get(at));
    let file = file
        .ok_or_else(|| anyhow!("no output file `{}` was kept", path.escape_ascii()))
        .hint("lastword files ID lists those that were")?;
    executions.output(execution.id, file, |reader| copy(reader, path))
}

fn copy(reader: &mut dyn Read, path: &[u8]) -> anyhow::Result<()> {
    let mut stdout = Output::stdout();
    let mut buffer = vec![0; COPY_BYTES];
    while !stdout.is_shut() {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => stdout.write(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(anyhow::Error::new(error)
                    .context(format!("nothing vouches for what was printed of `{}`", path.escape_ascii())));
            }
        }
    }
    match stdout.failure() {
        None => Ok(()),
        Some(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
    }
}

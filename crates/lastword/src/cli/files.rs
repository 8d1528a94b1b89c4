//! `lastword files`

use std::ffi::OsString;
use std::fmt::Write;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, anyhow};
use lastword_api::{Execution, OutputFile, RefusedOutput};
use lastword_store::{Outputs, Store};
use serde::Serialize;

use super::message::{Advice, escaped};
use super::output::{Output, print, print_json};
use super::save::absolute;
use super::{Globals, find, object};

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
    let store = globals.open_store()?;
    let entry = find(&store, &args.id)?;
    if let Some(path) = &args.path {
        print_file(&store.outputs(entry.id)?, path.as_bytes())?;
        return Ok(0);
    }
    let execution = object(&entry)?;
    if args.json {
        print_json(&Lists { outputs: execution.outputs, outputs_refused: execution.outputs_refused })?;
    } else {
        print(&table(&store, &execution)?)?;
    }
    Ok(0)
}

fn table(store: &Store, execution: &Execution) -> anyhow::Result<String> {
    let outputs = store.outputs(execution.id)?;
    let mut text = String::new();
    let size = |bytes: u64| bytes.to_string();
    let wide = outputs.files().iter().map(|file| size(file.bytes).len()).max().unwrap_or(0).max(5);
    if !outputs.files().is_empty() {
        let _ = writeln!(text, "{:>wide$}  {:<DIGEST_SHOWN$}  PATH", "BYTES", "BLAKE3");
    }
    for file in outputs.files() {
        let digest: String = file.blake3.iter().map(|byte| format!("{byte:02x}")).collect();
        let (digest, path) = (&digest[..DIGEST_SHOWN], shown(&file.path));
        let _ = writeln!(text, "{:>wide$}  {digest}  {path}", size(file.bytes));
    }
    for refused in &execution.outputs_refused {
        let path = if refused.path.is_empty() { "others" } else { &refused.path };
        let _ = writeln!(text, "not kept: {}: {}", escaped(path), escaped(&refused.reason));
    }
    Ok(text)
}

/// A name that is text stands as it is, but for what could steer a terminal.
fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => escaped(text),
        Err(_) => path.escape_ascii().to_string(),
    }
}

fn print_file(outputs: &Outputs, path: &[u8]) -> anyhow::Result<()> {
    let wanted = absolute(path.strip_prefix(b"./").unwrap_or(path));
    let index = outputs
        .files()
        .iter()
        .position(|file| absolute(&file.path) == wanted)
        .ok_or_else(|| anyhow!("no output file `{}` was kept", path.escape_ascii()))
        .hint("lastword files ID lists those that were")?;
    let mut reader = outputs.open(index).context("the output file is gone")?;
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

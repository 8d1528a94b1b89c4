//! `lastword run --server`: the same as in this process, done by a server.
//!
//! The request goes with a key, so that it runs once however often it is sent. Records come as they are written, and go on behind
//! the last one when a connection breaks or the server starts anew. Stdin is sent with offsets by a thread of its own.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use lastword_api::batch::is_idempotency_key;
use lastword_api::{ErrorCode, Execution, NewExecution};
use rustix::event::{PollFd, PollFlags, poll};
use uuid::Uuid;

use super::args::Args;
use super::request;
use crate::cli::exit;
use crate::cli::message::{Advice, say_error};
use crate::cli::server::{error, told};
use crate::client::limits::{STDIN_CHUNK_BYTES, STDIN_INLINE_BYTES};
use crate::client::{self, Client, Patience, Wish};
use crate::execution::{Cancel, Sink};

/// What is asked of the server.
pub(super) struct Asked {
    new: NewExecution,
    key: String,
    /// What is sent to the program while it runs.
    stdin: Option<OwnedFd>,
    /// The request came as JSON: what is wrong with it is wrong usage.
    is_json: bool,
}

impl Asked {
    pub(super) fn new(args: &Args, after_dashes: bool) -> anyhow::Result<Asked> {
        let key = args.later.key.clone().unwrap_or_else(|| format!("run-{}", Uuid::now_v7()));
        if !is_idempotency_key(&key) {
            return Err(anyhow!("--key has to be 1 to 255 visible ASCII characters")).code(exit::USAGE);
        }
        let (mut new, stdin) = request::for_server(args, after_dashes)?;
        let mut later = None;
        if let Some(fd) = stdin {
            match small(&fd)? {
                Some(bytes) => new.stdin = Some(client::stdin(&bytes)),
                None => (new.stdin_open, later) = (true, Some(fd)),
            }
        }
        Ok(Asked { new, key, stdin: later, is_json: args.request.is_some() })
    }
}

/// All of a small file. Anything else may take its time, or never end.
fn small(fd: &OwnedFd) -> anyhow::Result<Option<Vec<u8>>> {
    let mut file = File::from(fd.try_clone().context("cannot copy a descriptor")?);
    let metadata = file.metadata().context("cannot look at stdin")?;
    if !metadata.is_file() || metadata.len() > STDIN_INLINE_BYTES {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.by_ref().take(STDIN_INLINE_BYTES).read_to_end(&mut bytes).context("cannot read stdin")?;
    let mut more = [0];
    match file.read(&mut more).context("cannot read stdin")? {
        0 => Ok(Some(bytes)),
        _ => Err(anyhow!("the file for --stdin grew while it was read")),
    }
}

/// Runs it to its end.
pub(super) fn run(
    client: &Arc<Client>,
    asked: Asked,
    sink: &mut dyn Sink,
    cancel: &Arc<Cancel>,
) -> anyhow::Result<Execution> {
    let patience = Patience { stop: Some(cancel), for_room: false };
    let taken = match client.submit(&asked.new, &asked.key, false, patience) {
        Err(refused) if asked.is_json && refused.code() == Some(ErrorCode::InvalidField) => {
            return Err(error(refused)).context("the request can't be taken").code(exit::USAGE);
        }
        taken => told(taken)?,
    };
    drop(asked.new);
    let id = taken.id;
    sink.accepted(id);
    let failed = Arc::new(Mutex::new(None));
    pass_on_cancel(client, id, cancel)?;
    if let Some(stdin) = asked.stdin {
        feed(client, id, stdin, &failed)?;
    }
    let mut visit = |record: crate::replay::Record<'_>| {
        record.to_sink(sink);
        ControlFlow::Continue(())
    };
    let wish = Wish { follow: true, ..Wish::default() };
    let ended = told(client.records(id, wish, Patience::default(), &mut visit))
        .hint(format!("it goes on at the server: lastword logs -f {id}"))?;
    if let Some(failure) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error(failure).context("cannot pass stdin on to the program"));
    }
    ended.ok_or_else(|| anyhow!("execution {id} has no end"))
}

/// Waits for an interrupt, and has the server end the run: its end then comes like any other.
fn pass_on_cancel(client: &Arc<Client>, id: Uuid, cancel: &Arc<Cancel>) -> anyhow::Result<()> {
    let (client, cancel) = (Arc::clone(client), Arc::clone(cancel));
    let watch = move || {
        while !cancel.is_asked() {
            let Some(wake) = cancel.wake() else { return };
            let mut fds = [PollFd::from_borrowed_fd(wake, PollFlags::IN)];
            // A signal that cuts it short does no harm.
            let _ = poll(&mut fds, None);
        }
        if let Err(refused) = client.cancel(id) {
            say_error(&error(refused).context(format!("cannot cancel execution {id}")));
        }
    };
    let thread = std::thread::Builder::new().name("cancel".into());
    thread.spawn(watch).context("cannot start the thread that passes a cancel on")?;
    Ok(())
}

/// Sends what there is to read as it comes. The thread may wait for more at the end of everything: nobody waits for it.
fn feed(
    client: &Arc<Client>,
    id: Uuid,
    stdin: OwnedFd,
    failed: &Arc<Mutex<Option<client::Error>>>,
) -> anyhow::Result<()> {
    let (client, failed) = (Arc::clone(client), Arc::clone(failed));
    let send = move || match send(&client, id, File::from(stdin)) {
        // It has ended, or somebody removed it since.
        Err(error) if matches!(error.code(), Some(ErrorCode::StdinClosed | ErrorCode::ExecutionNotFound)) => {
        }
        Err(error) => {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            // It would wait for the rest of its input.
            let _ = client.cancel(id);
        }
        Ok(()) => {}
    };
    let thread = std::thread::Builder::new().name("stdin".into());
    thread.spawn(send).context("cannot start the thread that passes stdin on")?;
    Ok(())
}

fn send(client: &Client, id: Uuid, mut stdin: File) -> Result<(), client::Error> {
    let mut buffer = vec![0; STDIN_CHUNK_BYTES];
    let mut offset = 0u64;
    loop {
        let count = match stdin.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // As with a program that reads it itself: it is the end for it, and no fault of the server.
            Err(_) => 0,
        };
        client.add_stdin(id, offset, &buffer[..count], count == 0)?;
        if count == 0 {
            return Ok(());
        }
        offset += count as u64;
    }
}

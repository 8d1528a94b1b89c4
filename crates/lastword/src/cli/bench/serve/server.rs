//! A server to load: one that is there, or one of our own that goes when we are done.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::limits::SERVER_PATIENCE;

const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Server {
    pub(super) url: String,
    own: Option<Own>,
}

struct Own {
    child: Child,
    dir: PathBuf,
}

/// Memory of the server's process, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Memory {
    /// In RAM now.
    pub(super) now_bytes: u64,
    /// The most that there ever was.
    pub(super) peak_bytes: u64,
}

impl Server {
    pub(super) fn at(url: &str) -> Server {
        Server { url: url.to_owned(), own: None }
    }

    /// Starts one in a directory of its own, which is removed with it. `queue`: 0 is the usual room.
    pub(super) fn start(dir: &Path, queue: u64, concurrency: Option<u64>) -> anyhow::Result<Server> {
        let program = std::env::current_exe().context("find our own program")?;
        let mut command = Command::new(program);
        // What is set for the user's server is not for this one.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"LASTWORD_") {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--allow-unenforced", "--log-level", "error"]);
        command.arg("--data-dir").arg(dir);
        if queue > 0 {
            command.args(["--queue", &queue.to_string()]);
        }
        if let Some(concurrency) = concurrency {
            command.args(["--concurrency", &concurrency.to_string()]);
        }
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start a server")?;
        let stderr = child.stderr.take();
        let mut server = Server { url: String::new(), own: Some(Own { child, dir: dir.to_owned() }) };
        server.url = address(stderr.context("a server without stderr")?)?;
        Ok(server)
    }

    /// `None` of one that is not ours.
    pub(super) fn memory(&self) -> Option<Memory> {
        let own = self.own.as_ref()?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", own.child.id())).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
        };
        Some(Memory { now_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
    }
}

/// What it says first, and from then on what it says is ours to say.
fn address(stderr: std::process::ChildStderr) -> anyhow::Result<String> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let listen = move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let url = line.split_once("listening on ").and_then(|(_, rest)| rest.split_whitespace().next());
            match url {
                // Nobody waits any more if it took too long.
                Some(url) => drop(sender.try_send(url.to_owned())),
                None => super::super::super::say(&format!("server: {line}")),
            }
        }
    };
    std::thread::Builder::new().name("server".into()).spawn(listen).context("start a thread")?;
    receiver.recv_timeout(SERVER_PATIENCE).map_err(|_| anyhow!("the server did not say where it listens"))
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(Own { child, dir }) = &mut self.own else { return };
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
        let since = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if since.elapsed() > SERVER_PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
            }
            std::thread::sleep(LOOK);
        }
        let _ = std::fs::remove_dir_all(dir);
    }
}

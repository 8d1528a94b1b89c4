//! A data directory of its own, the binary, and a look at what is left when the test is over.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::object::{Object, Record, joined};
use crate::{fixture, leftovers};

/// Nothing in the suite takes that long by itself: past it something hangs.
pub(crate) const HANG: Duration = Duration::from_secs(120);
/// Between two looks at something that another process will do.
const LOOK: Duration = Duration::from_millis(5);

/// Collects arguments of any kind of string.
macro_rules! args {
    ($($argument:expr),* $(,)?) => {{
        let arguments: Vec<std::ffi::OsString> = vec![$(std::ffi::OsString::from($argument)),*];
        arguments
    }};
}
pub(crate) use args;

/// What is run.
pub(crate) enum Program<'a> {
    Python(&'a str),
    /// A shell script, as a file.
    Sh(&'a str),
    /// A static C program of `fixtures/` and its arguments.
    C(&'a str, &'a [&'a str]),
    /// The same, linked dynamically.
    Dynamic(&'a str, &'a [&'a str]),
    /// A command of the sandbox.
    Command(&'a [&'a str]),
    /// A file of this name and content, and arguments.
    File(&'a str, &'a [u8], &'a [&'a str]),
}

pub(crate) struct Lab {
    root: TempDir,
    pub(crate) data: PathBuf,
}

/// How the binary ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Ended {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{:?}: {self:?}", self.status.signal()))
    }

    pub(crate) fn message(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Panics with the message unless it exited with `code`.
    pub(crate) fn expect(self, code: i32) -> Self {
        let stdout = &self.stdout[..self.stdout.len().min(2000)];
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.message(), stdout.escape_ascii());
        self
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix(leftovers::PREFIX).tempdir().unwrap();
        let data = root.path().join("data");
        Self { root, data }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// A file beside the data directory.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The binary, with nothing in its environment that would change what it does.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastword"));
        for (key, _) in
            std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"LASTWORD_"))
        {
            command.env_remove(key);
        }
        command.env("LASTWORD_DATA_DIR", &self.data).stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end, without stdin.
    pub(crate) fn lastword<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        finish(self.command().args(arguments), None)
    }

    /// `options` of `run`, then what makes the program.
    pub(crate) fn arguments(&self, options: &[&str], program: &Program) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec!["run".into()];
        all.extend(options.iter().map(OsString::from));
        let rest: &[&str] = match program {
            Program::Python(code) => {
                all.push(self.file("program.py", code).into());
                &[]
            }
            Program::Sh(code) => {
                all.push(self.file("program.sh", code).into());
                &[]
            }
            Program::C(name, arguments) => {
                all.push(fixture::program(name).into());
                arguments
            }
            Program::Dynamic(name, arguments) => {
                all.push(fixture::dynamic(name).into());
                arguments
            }
            Program::Command(words) => {
                all.push("--".into());
                words
            }
            Program::File(name, content, arguments) => {
                all.push(self.file(name, content).into());
                arguments
            }
        };
        all.extend(rest.iter().map(OsString::from));
        all
    }

    /// `lastword run`, as a person runs it.
    pub(crate) fn plain(&self, options: &[&str], program: &Program) -> Ended {
        self.lastword(self.arguments(options, program))
    }

    /// `lastword run --json`, and a check that everything which speaks of the run says the same.
    pub(crate) fn run(&self, options: &[&str], program: &Program) -> Object {
        self.run_with(options, program, None)
    }

    pub(crate) fn run_with(&self, options: &[&str], program: &Program, stdin: Option<&[u8]>) -> Object {
        let options = [&["--json"], options].concat();
        let arguments = self.arguments(&options, program);
        let ended = finish(self.command().args(arguments), stdin).expect(0);
        let object = Object::parse(&ended.stdout);
        self.agree(&object);
        object
    }

    pub(crate) fn get(&self, id: &str) -> Object {
        Object::parse(&self.lastword(["get", id, "--json"]).expect(0).stdout)
    }

    /// Every execution of the data directory, newest first; none if it can't be opened (a test made it so).
    pub(crate) fn ids(&self) -> Vec<String> {
        if !self.data.is_dir() {
            return Vec::new();
        }
        let listed = self.lastword(["list", "--limit", "1000", "--json"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        // One object a line, or all in one.
        let values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>().flatten();
        let mut ids = Vec::new();
        for value in values {
            let items = value.get("items").unwrap_or(&value);
            let items = items.as_array().cloned().unwrap_or_else(|| vec![items.clone()]);
            ids.extend(items.iter().filter_map(|item| item["id"].as_str()).map(str::to_owned));
        }
        ids
    }

    pub(crate) fn records(&self, id: &str) -> Vec<Record> {
        let text = self.lastword(["logs", id, "--format", "jsonl"]).expect(0).stdout;
        String::from_utf8(text).unwrap().lines().map(Record::parse).collect()
    }

    /// All bytes of one stream, from the log.
    pub(crate) fn stream(&self, id: &str, stream: &str) -> Vec<u8> {
        self.lastword(["logs", id, "--stream", stream]).expect(0).stdout
    }

    /// The object against the log, both against digests made here, and `verify`'s word on it.
    pub(crate) fn agree(&self, object: &Object) -> Vec<Record> {
        let id = object.id();
        let records = self.records(id);
        assert_eq!(records.len() as u64, object.number("/transcript/records"), "{object:?}");
        for (index, record) in records.iter().enumerate() {
            assert_eq!(record.seq, index as u64, "a gap in seq of {id}");
        }
        assert!(records.windows(2).all(|two| two[0].timestamp <= two[1].timestamp), "time goes back in {id}");
        for stream in ["stdout", "stderr"] {
            let bytes = joined(&records, stream);
            assert_eq!(bytes.len() as u64, object.bytes(stream), "{stream} of {object:?}");
            let digest = blake3::hash(&bytes).to_hex();
            assert_eq!(
                digest.as_str(),
                object.text(&format!("/transcript/{stream}/blake3")),
                "{stream} of {id}"
            );
            let inline = object.inline(stream);
            let truncated = object.at("/inline_truncated") == true;
            assert!(if truncated { bytes.starts_with(&inline) } else { bytes == inline }, "{stream} of {id}");
            let dropped: u64 = records.iter().filter(|r| r.stream == stream).map(|r| r.dropped).sum();
            assert_eq!(dropped, object.dropped(stream), "dropped {stream} of {id}");
        }
        let why = object.at("/transcript/why_incomplete");
        assert_eq!(why.is_null(), object.complete(), "complete and why_incomplete of {id}");
        if object.complete() {
            assert_eq!(object.dropped("stdout") + object.dropped("stderr"), 0);
        }
        assert_eq!(object.at("/ok") == true, object.status() == "succeeded" && object.complete());
        self.lastword(["verify", id]).expect(0);
        records
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A second panic would abort the test program and hide the first.
        if !std::thread::panicking() {
            leftovers::check(self);
        }
    }
}

/// Runs to the end with both streams read, and panics if there is none.
pub(crate) fn finish(command: &mut Command, stdin: Option<&[u8]>) -> Ended {
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ended(child, stdin)
}

/// The rest of a child whose streams are pipes.
pub(crate) fn ended(mut child: Child, stdin: Option<&[u8]>) -> Ended {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let input = child.stdin.take();
    std::thread::scope(|scope| {
        if let (Some(mut pipe), Some(bytes)) = (input, stdin) {
            // The program may end without reading all of it.
            scope.spawn(move || drop(pipe.write_all(bytes)));
        }
        let read = |pipe: Option<std::process::ChildStdout>| {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut bytes).unwrap();
            }
            bytes
        };
        let stdout = scope.spawn(move || read(stdout));
        let stderr = scope.spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = stderr {
                pipe.read_to_end(&mut bytes).unwrap();
            }
            bytes
        });
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > HANG {
                drop(child.kill());
                panic!("still running after {HANG:?}");
            }
            std::thread::sleep(LOOK);
        };
        Ended { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    })
}

/// Looks until `condition` gives something, and panics with `what` if it never does.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < HANG, "waited in vain: {what}");
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test that needs root can run; says so where it can't.
pub(crate) fn needs_root(what: &str) -> bool {
    if !is_root() {
        eprintln!("passed over, not root: {what}");
    }
    is_root()
}

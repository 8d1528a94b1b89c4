//! The execution object: one request to run code, and all that came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::encoding::{Encoding, cut_at, output_text};
use crate::limits::{LimitName, Limits};
use crate::status::{Reason, Status};
use crate::time::Timestamp;

/// Bytes of each stream that the object itself carries unless asked otherwise; the log has the rest.
pub const INLINE_BYTES_DEFAULT: usize = 1 << 20;

/// One request to run code. Secrets and values of the environment are not in it, on purpose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Execution {
    /// UUIDv7.
    pub id: Uuid,
    pub status: Status,
    /// Null until it has ended.
    pub reason: Option<Reason>,
    /// Succeeded, and its transcript is complete.
    pub ok: bool,
    /// Null if it didn't end by itself.
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it, like `SIGKILL`.
    pub signal: Option<String>,
    /// The kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// The beginning of what it wrote. Left out of lists and of what the store keeps: the transcript has it.
    #[serde(flatten)]
    pub inline: Option<Inline>,
    pub transcript: Transcript,
    /// Null where the runtime compiles nothing.
    pub compile: Option<Compile>,
    /// Declared output files, inside the seal.
    pub outputs: Vec<OutputFile>,
    /// What matched `outputs` and could not be kept, and why.
    #[serde(default)]
    pub outputs_refused: Vec<RefusedOutput>,
    /// Null until it has ended, and where nothing ran.
    pub usage: Option<Usage>,
    pub limits: Limits,
    /// For each limit that was asked for: whether the machine enforces it.
    pub enforced: BTreeMap<LimitName, bool>,
    pub backend: Backend,
    /// Null for a command that runs as it is.
    pub runtime: Option<String>,
    pub image: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub environment: Environment,
    /// Null unless lastword failed.
    pub problem: Option<Problem>,
    pub retry: Retry,
    pub created_at: Timestamp,
    /// When the program's exec succeeded.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// From accepted to handed to a supervisor, milliseconds.
    pub queue_ms: Option<f64>,
}

impl Execution {
    /// An execution that was just accepted.
    pub fn queued(id: Uuid, created_at: Timestamp, backend: Backend, limits: Limits) -> Self {
        Self {
            id,
            status: Status::Queued,
            reason: None,
            ok: false,
            exit_code: None,
            signal: None,
            oom_killed: false,
            inline: None,
            transcript: Transcript::default(),
            compile: None,
            outputs: Vec::new(),
            outputs_refused: Vec::new(),
            usage: None,
            limits,
            enforced: BTreeMap::new(),
            backend,
            runtime: None,
            image: None,
            labels: BTreeMap::new(),
            environment: Environment::default(),
            problem: None,
            retry: Retry { safe: false, program_started: false },
            created_at,
            started_at: None,
            ended_at: None,
            queue_ms: None,
        }
    }

    /// The object as the store keeps it: JSON without the streams' text.
    pub fn to_stored_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let without = Self { inline: None, ..self.clone() };
        serde_json::to_vec(&without)
    }

    /// True if the end is known and every byte that the program wrote is there.
    pub fn is_complete(&self) -> bool {
        self.transcript.complete == Some(true)
    }
}

/// The beginning of both streams, and of both together in their order.
/// All texts are null until the program was started; once the run has ended none is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Inline {
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    pub output: Option<String>,
    pub stdout_encoding: Encoding,
    pub stderr_encoding: Encoding,
    pub output_encoding: Encoding,
    /// One of the three is cut: the log has the rest.
    pub inline_truncated: bool,
}

impl Inline {
    /// Encodes what was collected. Each of the three may hold more than `max` bytes, and is then cut, if
    /// it can be between two characters.
    pub fn new(stdout: &[u8], stderr: &[u8], output: &[u8], max: usize) -> Self {
        let mut truncated = false;
        let mut text = |bytes: &[u8]| {
            let keep = cut_at(bytes, max);
            truncated |= keep < bytes.len();
            output_text(&bytes[..keep])
        };
        let (stdout, stdout_encoding) = text(stdout);
        let (stderr, stderr_encoding) = text(stderr);
        let (output, output_encoding) = text(output);
        Self {
            stdout: Some(stdout),
            stderr: Some(stderr),
            output: Some(output),
            stdout_encoding,
            stderr_encoding,
            output_encoding,
            inline_truncated: truncated,
        }
    }
}

/// What is known of the transcript as a whole. `complete` is null until the run has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transcript {
    /// True only if nothing is missing, and the seal says the same as the records.
    pub complete: Option<bool>,
    /// Set exactly when `complete` is false.
    pub why_incomplete: Option<String>,
    pub ordering: Option<Ordering>,
    /// With ordering `arrival`: records below this seq are still in exact order.
    pub ordering_until_seq: Option<u64>,
    pub records: u64,
    /// The program had a terminal: all of its output is in stdout.
    pub tty: bool,
    /// The program could not take back what it wrote before it was read. False where it runs under the supervisor's own uid:
    /// then `complete` means accepted and not read back by the program.
    #[serde(default)]
    pub read_back_prevented: bool,
    pub stdout: StreamSummary,
    pub stderr: StreamSummary,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamSummary {
    /// Bytes in the transcript.
    pub bytes: u64,
    /// Bytes that were read and dropped.
    pub dropped: u64,
    /// BLAKE3 over the stream's bytes, in hex. Null until the run has ended.
    pub blake3: Option<String>,
}

/// The compile step of a runtime that has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Compile {
    /// The execution that compiled: its log has all that the compiler said, sealed.
    pub id: Option<Uuid>,
    pub status: Status,
    pub reason: Option<Reason>,
    pub exit_code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// `base64` for a text that is not UTF-8; left out otherwise.
    #[serde(default, skip_serializing_if = "is_utf8")]
    pub stdout_encoding: Encoding,
    #[serde(default, skip_serializing_if = "is_utf8")]
    pub stderr_encoding: Encoding,
    /// One of the two is cut: the log of the execution `id` has the rest.
    #[serde(default)]
    pub truncated: bool,
    /// Its result was kept from an earlier run of the same code.
    pub cached: bool,
    pub usage: Option<Usage>,
}

/// A declared output file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputFile {
    pub path: String,
    /// `base64` for a path that is not UTF-8; left out otherwise.
    #[serde(default, skip_serializing_if = "is_utf8")]
    pub path_encoding: Encoding,
    pub bytes: u64,
    /// In hex.
    pub blake3: String,
}

/// A file of the sandbox that was to be kept and is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedOutput {
    /// As much of it as could be told.
    pub path: String,
    #[serde(default, skip_serializing_if = "is_utf8")]
    pub path_encoding: Encoding,
    /// A sentence for people.
    pub reason: String,
}

impl RefusedOutput {
    pub fn new(path: &[u8], reason: String) -> Self {
        let (path, path_encoding) = output_text(path);
        Self { path, path_encoding, reason }
    }
}

fn is_utf8(encoding: &Encoding) -> bool {
    *encoding == Encoding::Utf8
}

impl OutputFile {
    pub fn new(path: &[u8], bytes: u64, blake3: String) -> Self {
        let (path, path_encoding) = output_text(path);
        Self { path, path_encoding, bytes, blake3 }
    }
}

/// What the run used. Null where the machine doesn't say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// From exec to the end of the main process.
    pub wall_ms: f64,
    pub cpu_user_ms: Option<f64>,
    pub cpu_system_ms: Option<f64>,
    pub memory_peak_bytes: Option<u64>,
    pub processes_peak: Option<u64>,
    /// `processes_peak` was sampled: the true peak may be higher.
    #[serde(default)]
    pub processes_sampled: bool,
}

/// What the program ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    pub runtime_version: Option<String>,
    pub image_digest: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Our own version.
    pub lastword: String,
}

/// How lastword failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    pub code: ProblemCode,
    /// A sentence for people.
    pub message: String,
    /// What the backend said itself, word for word.
    pub backend_message: Option<String>,
}

/// The closed list of problems. New ones may be added; none is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// There is no such command or interpreter in the sandbox.
    CommandNotFound,
    /// The command is there, but may not or can't be executed.
    CommandNotExecutable,
    /// The program could not be started for another reason.
    StartFailed,
    /// The machine can't isolate a program as asked.
    SandboxUnavailable,
    /// A field of the request can't be taken as it is.
    BadRequest,
    /// The image could not be had, or is not one that can be trusted.
    ImageUnavailable,
    /// The compile step could not be run, through no fault of the code.
    CompileUnavailable,
    /// A limit can't be enforced here, and `strict` was asked for.
    LimitUnenforced,
    /// Exact ordering can't be had here, and `strict` was asked for.
    OrderingUnavailable,
    /// The disk that keeps transcripts is full.
    StorageFull,
    /// Nobody saw the end of the run.
    Lost,
    /// Anything else that is our fault.
    Internal,
}

/// Whether it can be run again without running it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Retry {
    pub safe: bool,
    /// True if the program was started, or may have been.
    pub program_started: bool,
}

/// What isolates and runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    Native,
    Docker,
    Kubernetes,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Backend::Native => "native",
            Backend::Docker => "docker",
            Backend::Kubernetes => "kubernetes",
        }
    }
}

/// What the order of the records says about the order of the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// If write X returned before write Y was entered, X has the lower seq.
    Exact,
    /// The order in which bytes were read.
    Arrival,
}

impl Ordering {
    pub fn name(self) -> &'static str {
        lastword_frame::Ordering::from(self).name()
    }
}

impl From<lastword_frame::Ordering> for Ordering {
    fn from(ordering: lastword_frame::Ordering) -> Self {
        match ordering {
            lastword_frame::Ordering::Exact => Ordering::Exact,
            lastword_frame::Ordering::Arrival => Ordering::Arrival,
        }
    }
}

impl From<Ordering> for lastword_frame::Ordering {
    fn from(ordering: Ordering) -> Self {
        match ordering {
            Ordering::Exact => lastword_frame::Ordering::Exact,
            Ordering::Arrival => lastword_frame::Ordering::Arrival,
        }
    }
}

/// One of the program's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn name(self) -> &'static str {
        lastword_frame::Stream::from(self).name()
    }
}

impl From<lastword_frame::Stream> for Stream {
    fn from(stream: lastword_frame::Stream) -> Self {
        match stream {
            lastword_frame::Stream::Stdout => Stream::Stdout,
            lastword_frame::Stream::Stderr => Stream::Stderr,
        }
    }
}

impl From<Stream> for lastword_frame::Stream {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => lastword_frame::Stream::Stdout,
            Stream::Stderr => lastword_frame::Stream::Stderr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The run of the README: it prints, then divides by zero.
    fn fast_fail() -> Execution {
        let id = Uuid::parse_str("01900000-0000-7000-8000-000000000000").unwrap();
        let mut execution = Execution::queued(
            id,
            Timestamp::from_ns(0),
            Backend::Native,
            Limits { cpus: Some(1.5), ..Limits::default() },
        );
        execution.status = Status::Failed;
        execution.reason = Some(Reason::Exit);
        execution.exit_code = Some(1);
        execution.inline = Some(Inline::new(b"Before error\n", b"\xff\n", b"Before error\n\xff\n", 100));
        execution.transcript = Transcript {
            complete: Some(true),
            ordering: Some(Ordering::Exact),
            records: 2,
            stdout: StreamSummary { bytes: 13, dropped: 0, blake3: Some("ab".into()) },
            stderr: StreamSummary { bytes: 2, dropped: 0, blake3: Some("cd".into()) },
            ..Transcript::default()
        };
        execution.usage = Some(Usage { wall_ms: 21.4, cpu_user_ms: Some(11.0), ..Usage::default() });
        execution.enforced = BTreeMap::from([(LimitName::Pids, true), (LimitName::Memory, false)]);
        execution.runtime = Some("python".into());
        execution.outputs = vec![OutputFile::new(b"a.txt", 3, "ef".into())];
        execution.environment.lastword = "0.1.0".into();
        execution.retry.program_started = true;
        execution.started_at = Some(Timestamp::from_ns(1_000));
        execution.ended_at = Some(Timestamp::from_ns(2_000));
        execution.queue_ms = Some(0.4);
        execution
    }

    const GOLDEN: &str = r#"{
  "id": "01900000-0000-7000-8000-000000000000",
  "status": "failed",
  "reason": "exit",
  "ok": false,
  "exit_code": 1,
  "signal": null,
  "oom_killed": false,
  "stdout": "Before error\n",
  "stderr": "/wo=",
  "output": "QmVmb3JlIGVycm9yCv8K",
  "stdout_encoding": "utf-8",
  "stderr_encoding": "base64",
  "output_encoding": "base64",
  "inline_truncated": false,
  "transcript": {
    "complete": true,
    "why_incomplete": null,
    "ordering": "exact",
    "ordering_until_seq": null,
    "records": 2,
    "tty": false,
    "read_back_prevented": false,
    "stdout": {
      "bytes": 13,
      "dropped": 0,
      "blake3": "ab"
    },
    "stderr": {
      "bytes": 2,
      "dropped": 0,
      "blake3": "cd"
    }
  },
  "compile": null,
  "outputs": [
    {
      "path": "a.txt",
      "bytes": 3,
      "blake3": "ef"
    }
  ],
  "outputs_refused": [],
  "usage": {
    "wall_ms": 21.4,
    "cpu_user_ms": 11.0,
    "cpu_system_ms": null,
    "memory_peak_bytes": null,
    "processes_peak": null,
    "processes_sampled": false
  },
  "limits": {
    "wall_ms": 30000,
    "cpu_ms": null,
    "memory_bytes": 1073741824,
    "pids": 256,
    "cpus": 1.5,
    "disk_bytes": 268435456,
    "output_bytes": 67108864,
    "stack_bytes": 67108864,
    "open_files": 1024
  },
  "enforced": {
    "memory": false,
    "pids": true
  },
  "backend": "native",
  "runtime": "python",
  "image": null,
  "labels": {},
  "environment": {
    "runtime_version": null,
    "image_digest": null,
    "kernel": null,
    "lastword": "0.1.0"
  },
  "problem": null,
  "retry": {
    "safe": false,
    "program_started": true
  },
  "created_at": "1970-01-01T00:00:00.000000000Z",
  "started_at": "1970-01-01T00:00:00.000001000Z",
  "ended_at": "1970-01-01T00:00:00.000002000Z",
  "queue_ms": 0.4
}"#;

    #[test]
    fn the_object_is_what_the_interface_says() {
        let execution = fast_fail();
        assert_eq!(serde_json::to_string_pretty(&execution).unwrap(), GOLDEN);
        assert_eq!(serde_json::from_str::<Execution>(GOLDEN).unwrap(), execution);
    }

    #[test]
    fn what_the_store_keeps_has_no_streams_and_comes_back() {
        let execution = fast_fail();
        let stored = execution.to_stored_json().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&stored).unwrap();
        assert!(value.get("stdout").is_none() && value.get("inline_truncated").is_none());
        let back: Execution = serde_json::from_slice(&stored).unwrap();
        assert_eq!(back, Execution { inline: None, ..execution });
    }

    #[test]
    fn fields_of_newer_versions_are_passed_over() {
        let newer = GOLDEN.replacen('{', "{\"invented_later\": {\"a\": 1},", 1);
        assert_eq!(serde_json::from_str::<Execution>(&newer).unwrap(), fast_fail());
    }

    #[test]
    fn a_silent_run_has_empty_texts_and_a_long_one_says_so() {
        let silent = Inline::new(b"", b"", b"", 10);
        assert_eq!(silent.stdout.as_deref(), Some(""));
        assert!(!silent.inline_truncated);
        let long = Inline::new("ééé".as_bytes(), b"", b"", 3);
        assert_eq!(long.stdout.as_deref(), Some("é"));
        assert!(long.inline_truncated);
    }
}

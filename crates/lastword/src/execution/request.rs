//! What is asked for: one request to run code, checked and ready for the engine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use lastword_api::Limits;

pub use crate::runtime::Flush;
use crate::runtime::Runtime;

/// One request. It has no `Debug`: secrets must not reach a log.
pub struct Request {
    pub program: Program,
    /// `None` for a command, and for a file that the kernel knows how to run.
    pub runtime: Option<Runtime>,
    /// The program's own, after the file or the code. Empty for a command: its `argv` has all.
    pub args: Vec<OsString>,
    pub stdin: Stdin,
    /// Only these and the sandbox's own: nothing of the caller's environment. Each name once.
    pub env: Vec<(OsString, OsString)>,
    /// Variables whose values are never returned, listed, logged or exported.
    pub secrets: Vec<(OsString, OsString)>,
    /// In the sandbox, absolute. `None`: where the code is.
    pub cwd: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
    pub limits: Limits,
    pub on_output_limit: OnOutputLimit,
    /// The program gets a terminal; the transcript then has one stream.
    pub tty: bool,
    /// `None`: exact if it can be had.
    pub ordering: Option<OrderingWish>,
    pub flush: Flush,
    /// Refuse to run where a limit or the ordering asked for can't be had.
    pub strict: bool,
}

/// What to run.
pub enum Program {
    /// A file of the caller. `path` is where it was, for messages; `name` is what it is called in the sandbox.
    File { path: PathBuf, name: OsString, code: Vec<u8> },
    /// Code from the command line; it is called [`Runtime::code_file`].
    Code { code: Vec<u8> },
    /// A command of the sandbox, as it is. Never empty.
    Command { argv: Vec<OsString> },
}

/// What the program reads.
pub enum Stdin {
    /// The end, at once.
    Nothing,
    Bytes(Vec<u8>),
    Fd(OwnedFd),
}

/// What happens when the program writes more than its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutputLimit {
    #[default]
    Kill,
    /// It runs on; what is over the limit is counted and dropped.
    Drop,
}

/// An ordering that was asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderingWish {
    /// With `strict`, refuse where it can't be had.
    Exact,
    /// Don't pay for exact.
    Arrival,
}

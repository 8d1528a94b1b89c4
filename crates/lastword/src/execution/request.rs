//! What is asked for: one request to run code, checked and ready for the engine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use lastword_api::Limits;
pub use lastword_api::request::OnOutputLimit;

pub use crate::backend::native::registry::Pull;
pub use crate::runtime::Flush;
use crate::runtime::Runtime;

/// One request. It has no `Debug`: secrets must not reach a log.
pub struct Request {
    pub program: Program,
    /// `None` for a command, and for a file that the kernel knows how to run.
    pub runtime: Option<Runtime>,
    /// The program's own, after the file or the code. Empty for a command: its `argv` has all. For [`Program::Image`] they stand
    /// in for the image's own.
    pub args: Vec<OsString>,
    /// Put into the sandbox before the start; the program may change them.
    pub files: Vec<InputFile>,
    /// Seen in the sandbox, read-only. Never a client's wish: these are paths of the host.
    pub read_only: Vec<Shared>,
    pub stdin: Stdin,
    /// Only these and the sandbox's own: nothing of the caller's environment. Each name once.
    pub env: Vec<(OsString, OsString)>,
    /// Variables whose values are never returned, listed, logged or exported.
    pub secrets: Vec<(OsString, OsString)>,
    /// In the sandbox, absolute. `None`: where the code is, or where the image says.
    pub cwd: Option<PathBuf>,
    /// The root comes from it; `None`: from this machine.
    pub image: Option<String>,
    /// When the image's registry is asked, if it comes from one.
    pub pull: Pull,
    /// Patterns of files to keep after the end, absolute.
    pub outputs: Vec<Vec<u8>>,
    /// For the compiler, where the runtime has one.
    pub compile_flags: Vec<OsString>,
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

impl Request {
    /// A request with nothing but defaults.
    pub fn new(program: Program) -> Request {
        Request {
            program,
            runtime: None,
            args: Vec::new(),
            files: Vec::new(),
            read_only: Vec::new(),
            stdin: Stdin::Nothing,
            env: Vec::new(),
            secrets: Vec::new(),
            cwd: None,
            image: None,
            pull: Pull::Missing,
            outputs: Vec::new(),
            compile_flags: Vec::new(),
            labels: BTreeMap::new(),
            limits: Limits::default(),
            on_output_limit: OnOutputLimit::Kill,
            tty: false,
            ordering: None,
            flush: Flush::Line,
            strict: false,
        }
    }

    /// The runtime's code in its own file, as `-c` gives it.
    pub fn code(runtime: &Runtime, code: Vec<u8>) -> Request {
        let path = [lastword_api::path::WORK, "/", &runtime.code_file].concat().into_bytes();
        let file = InputFile { path: path.clone(), mode: 0o644, bytes: code };
        Request { runtime: Some(runtime.clone()), files: vec![file], ..Request::new(Program::Entry { path }) }
    }

    /// The entry among the files.
    pub fn entry(&self) -> Option<&InputFile> {
        let Program::Entry { path } = &self.program else { return None };
        self.files.iter().find(|file| file.path == *path)
    }

    /// It needs more than a look at this machine before it can start: an image, or a compile step.
    pub fn needs_preparation(&self) -> bool {
        self.image.is_some() || self.runtime.as_ref().is_some_and(|runtime| runtime.compile.is_some())
    }
}

/// What to run.
pub enum Program {
    /// One of the request's files, by its absolute path in the sandbox.
    Entry { path: Vec<u8> },
    /// A command of the sandbox, as it is. Never empty.
    Command { argv: Vec<OsString> },
    /// What the image says.
    Image,
}

/// A file for the sandbox.
#[derive(Clone)]
pub struct InputFile {
    /// Absolute, as [`lastword_api::path::file_path`] makes it.
    pub path: Vec<u8>,
    pub mode: u32,
    pub bytes: Vec<u8>,
}

/// Something of the host that the program can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// On the host: absolute, without links.
    pub source: PathBuf,
    /// In the sandbox, absolute.
    pub path: PathBuf,
    pub directory: bool,
}

/// What the program reads.
pub enum Stdin {
    /// The end, at once.
    Nothing,
    Bytes(Vec<u8>),
    Fd(OwnedFd),
    /// These, then what [`lastword_store::Store::add_stdin`] adds, whichever process calls it, until it closes.
    Open {
        first: Vec<u8>,
    },
}

/// An ordering that was asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderingWish {
    /// With `strict`, refuse where it can't be had.
    Exact,
    /// Don't pay for exact.
    Arrival,
}

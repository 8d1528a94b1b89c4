//! What lastword tells the outside, whichever way it is asked: the execution object, limits, log records,
//! and how durations, sizes and times are written.
//!
//! Field names and encodings are a promise to users: they may be added to, never renamed.
#![forbid(unsafe_code)]

pub mod about;
pub mod batch;
mod bounded;
pub mod encoding;
pub mod event;
pub mod execution;
pub mod label;
pub mod limits;
pub mod log;
pub mod page;
pub mod path;
pub mod problem;
pub mod quantity;
pub mod request;
pub mod signal;
pub mod status;
pub mod time;
pub mod verification;

pub use about::{
    BackendInfo, Backends, Capacity, Health, Readiness, ReadinessPart, RuntimeInfo, Runtimes, StdinState,
};
pub use batch::{Batch, BatchAnswer, BatchItem, BatchReply, NewBatch};
pub use bounded::Object;
pub use encoding::{Encoding, output_text};
pub use event::{Event, EventKind};
pub use execution::{
    Backend, Compile, Environment, Execution, Inline, Ordering, OutputFile, Problem, ProblemCode,
    RefusedOutput, Retry, Stream, StreamSummary, Transcript, Usage,
};
pub use label::{LabelError, check_labels};
pub use limits::{LimitError, LimitName, Limits};
pub use log::{LogRecord, LogText};
pub use page::ExecutionPage;
pub use problem::{ErrorCode, ProblemDetails};
pub use quantity::{QuantityError, parse_duration, parse_size};
pub use request::{FieldError, InputFile, NewExecution};
pub use signal::{signal_name, signal_number};
pub use status::{Reason, Status};
pub use time::Timestamp;
pub use verification::Verification;

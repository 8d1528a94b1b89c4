//! What lastword tells the outside, whichever way it is asked: the execution object, limits, log records,
//! and how durations, sizes and times are written.
//!
//! Field names and encodings are a promise to users: they may be added to, never renamed.
#![forbid(unsafe_code)]

mod bounded;
pub mod encoding;
pub mod execution;
pub mod label;
pub mod limits;
pub mod log;
pub mod path;
pub mod quantity;
pub mod request;
pub mod signal;
pub mod status;
pub mod time;

pub use encoding::{Encoding, output_text};
pub use execution::{
    Backend, Compile, Environment, Execution, Inline, Ordering, OutputFile, Problem, ProblemCode,
    RefusedOutput, Retry, Stream, StreamSummary, Transcript, Usage,
};
pub use label::{LabelError, check_labels};
pub use limits::{LimitError, LimitName, Limits};
pub use log::{LogRecord, LogText};
pub use quantity::{QuantityError, parse_duration, parse_size};
pub use request::{FieldError, InputFile, NewExecution};
pub use signal::{signal_name, signal_number};
pub use status::{Reason, Status};
pub use time::Timestamp;

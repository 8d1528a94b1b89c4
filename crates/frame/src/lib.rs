//! What a transcript is made of: frames, and the seal that ends them.
//!
//! Two encodings carry the same frames (`docs/spec/transcript.md`): [`binary`] for the spool and the store,
//! [`lines`] for log transports. [`verify`] checks a whole transcript against its seal.
#![forbid(unsafe_code)]

pub mod binary;
pub mod limits;
pub mod lines;
mod payload;
pub mod record;
pub mod seal;
pub mod tally;
pub mod verify;

pub use record::{Begin, Frame, Note, Ordering, Stream};
pub use seal::{Cause, Exit, OutputFile, Seal, StreamEnd, StreamSeal, Usage};

//! The line encoding: the same frames as JSON objects, one a line, for transports that carry lines of text.
//!
//! Field order and spelling are part of the format (`docs/spec/transcript.md`), so reading it back needs no JSON
//! parser; Fluent Bit, Loki, `jq` and people may use one.

mod clock;
mod decode;
mod encode;
mod parse;
mod scan;
mod text;

pub use decode::{Decoder, Event};
pub use encode::Encoder;

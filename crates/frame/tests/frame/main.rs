//! The format as `docs/spec/transcript.md` states it.

mod binary;
mod lines;
mod sample;
mod vectors;
mod verify;

//! Every maximum of the format. A decoder allocates nothing larger than these, whatever a length field says.

/// Bytes of program output in one record.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one binary frame's payload: the largest is the seal with its list of output files.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one line of the line encoding, with its newline. containerd and Docker split lines at 16 KiB.
pub const LINE_BYTES_MAX: usize = 16 * 1024 - 1;
/// Bytes at the end of every line that the encoder leaves free for a `mac` field, so that adding one moves no split.
pub const LINE_MAC_ROOM: usize = 80;
/// Bytes of a piece of output that go into one line as base64.
pub const BASE64_BYTES_MAX: usize = 12_000;
/// Valid UTF-8 in front of other bytes gets a line of its own from this length on. Shorter runs go into base64 with
/// the rest, or a program could have a line written for every two bytes.
pub const TEXT_PIECE_BYTES_MIN: usize = 1024;
/// Characters that a text inside a frame may take in a line before it is written as base64 instead.
pub const LINE_TEXT_BYTES_MAX: usize = TEXT_BYTES_MAX.div_ceil(3) * 4;
/// Bytes of a text inside a frame (an error message, a path).
pub const TEXT_BYTES_MAX: usize = 4096;
/// Declared output files that one seal may list.
pub const OUTPUT_FILES_MAX: usize = 10_000;
/// Encoded bytes of the list of output files in one seal; the rest of the payload is room for the other fields.
pub const OUTPUT_LIST_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 64 * 1024;
/// Notes of refused outputs that a reader keeps apart; of more it keeps the number.
pub const OUTPUTS_REFUSED_MAX: usize = 100;
/// Bytes of the paths and reasons of those.
pub const OUTPUTS_REFUSED_BYTES_MAX: usize = 256 * 1024;

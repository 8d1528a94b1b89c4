//! Every maximum of the format. A decoder allocates nothing larger than these, whatever a length field says.

/// Bytes of program output in one record.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one binary frame's payload: the largest is the seal with its list of output files.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one line of the line encoding, with its newline. containerd and Docker split lines at 16 KiB.
pub const LINE_BYTES_MAX: usize = 16 * 1024 - 1;
/// Bytes of a text inside a frame (an error message, a path).
pub const TEXT_BYTES_MAX: usize = 4096;
/// Declared output files that one seal may list.
pub const OUTPUT_FILES_MAX: usize = 10_000;

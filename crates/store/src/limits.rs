//! Every maximum of the store. A reader allocates nothing larger than these, whatever a length field says.

use std::time::Duration;

/// Raw transcript bytes in one chunk entry.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Raw payload of an accept, update or end entry: meta and the execution object. The largest object lists
/// [`lastword_frame::limits::OUTPUT_FILES_MAX`] output files.
pub const OBJECT_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The request of one execution that waits; as large as the API lets one be as JSON. Kept in pieces of
/// [`CHUNK_BYTES_MAX`].
pub const REQUEST_BYTES_MAX: usize = 384 * 1024 * 1024;
/// The secret part of a request. The kernel takes far less in a program's environment.
pub const SECRET_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Secrets that one call is writing at a time: each is an open file until its execution is accepted.
pub const SECRETS_AT_ONCE_MAX: usize = 64;
/// How long an idempotency key holds.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Events kept. Older ones are deleted, and cursors before them refused.
pub const EVENTS_KEPT_MAX: u64 = 10_000_000;
/// How often a waiting reader looks for events that other processes made.
pub const EVENTS_LOOK: Duration = Duration::from_millis(100);
/// Connections to the index that a process reads with, besides the one that it writes with.
pub const INDEX_READERS_MAX: usize = 8;
/// How long [`crate::Store::waiting`] looks again while another process is about to make rows.
pub const TAILS_WAIT_MAX: Duration = Duration::from_secs(5);
/// A segment takes no further entry once it is this long. One transcript or request may take it past this.
pub const SEGMENT_BYTES_TARGET: u64 = 64 * 1024 * 1024;
/// Longer transcripts are copied piece by piece into a segment of their own, so that they are never in memory
/// whole and nobody's small end waits behind them.
pub const SMALL_TRANSCRIPT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes written in one group commit, before those who came later have to wait for the next one.
pub const GROUP_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Smaller payloads are not worth a try at compression.
pub const COMPRESS_BYTES_MIN: usize = 256;
/// Bytes read at once when a segment is scanned.
pub const SCAN_WINDOW_BYTES: usize = 256 * 1024;
/// How long we wait for another process's index transaction.
pub const INDEX_BUSY_MAX: Duration = Duration::from_secs(30);
/// Look again so often when an execution moves from its spool to a segment while we look it up.
pub const HAND_OVER_TRIES_MAX: usize = 8;
/// Candidates named when an id prefix is ambiguous.
pub const AMBIGUOUS_SHOWN_MAX: usize = 5;
/// Bytes read at once of a pack, or of a transcript whose seal is looked for.
pub const PACK_READ_BYTES: usize = 256 * 1024;
/// All that is added to an execution's stdin.
pub const STDIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a word to a supervisor waits for room.
pub const CONTROL_PATIENCE: Duration = Duration::from_secs(1);
/// A spool with more was started: before the start there is a begin block, at most one note, and a seal.
pub const UNSTARTED_BYTES_MAX: u64 = 64 * 1024;
/// Bytes written to see whether the disk takes any: about what a small run needs.
pub const PROBE_BYTES: usize = 256 * 1024;

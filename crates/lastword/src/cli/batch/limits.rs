//! Every maximum of a batch. Together they bound its memory, however many rows there are.

use std::time::Duration;

use lastword_api::request::REQUEST_BYTES_MAX;

/// Bytes of a caller's key.
pub(super) const KEY_BYTES_MAX: usize = 1024;
/// Bytes of one line: a request and its key, whose characters may all be escapes.
pub(super) const ROW_BYTES_MAX: usize = REQUEST_BYTES_MAX as usize + 6 * KEY_BYTES_MAX + 64;
/// Bytes of rows that were read and wait for a worker. One longer row may wait alone.
pub(super) const READ_AHEAD_BYTES_MAX: usize = 32 << 20;
/// Bytes read at a time.
pub(super) const READ_BYTES: usize = 64 * 1024;
/// Bytes of results that wait for the turn of their row; past it no row is read until the turn comes.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes of a problem's sentence.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024;
/// Rows at a time.
pub(super) const JOBS_MAX: u16 = 1024;
/// More runs of a row that were asked for.
pub(super) const RETRIES_MAX: u8 = 100;
/// Pause before a row is run again: doubled each time, and no longer than the second.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);
pub(super) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Entries of the store in memory at a time when a batch is looked up.
pub(super) const PAGE: usize = 200;
/// How long a dead process may seem to hold a lock: while a child of it is between fork and exec.
pub(super) const LOCK_WAIT_MAX: Duration = Duration::from_secs(2);
pub(super) const LOCK_LOOK: Duration = Duration::from_millis(10);
/// How long another process may take to bring the index up.
pub(super) const INDEX_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often the results in a file are synced.
pub(super) const SYNC_EVERY: Duration = Duration::from_secs(2);
/// Bytes of a journal: a few lines.
pub(super) const JOURNAL_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of one line of results: three streams with every byte escaped, and an object with all that it may list.
pub(super) const RESULT_BYTES_MAX: usize = 128 << 20;
/// Rows that the summary names.
pub(super) const NAMED_ROWS_MAX: usize = 10;

//! Every bound of what a server may make us read, repeat or wait for.

use std::time::Duration;

/// For a connection, with looking up the name and TLS.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// From a question to the header of its answer.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// The same where the server first reads a whole transcript.
pub(super) const VERIFY: Duration = Duration::from_secs(3600);
/// For more of a body. A stream of events says that it is alive every 15 seconds.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// How long one request waits for an end: less than what proxies cut off.
pub(super) const WAIT: Duration = Duration::from_secs(50);

/// How long a server that has not answered yet is tried.
pub(super) const STRANGER_PATIENCE: Duration = Duration::from_secs(2);
/// How long one that has answered before is: it may be starting anew.
pub(super) const KNOWN_PATIENCE: Duration = Duration::from_secs(60);
/// How long one that says "not now" is asked again.
pub(super) const BUSY_PATIENCE: Duration = Duration::from_secs(60);
/// Before the second try; doubled before each further one, up to the other. Each is made up to a half longer or shorter, so
/// that not all clients of a server that comes back ask at once.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A `Retry-After` counts as at most this.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Bytes of a whole answer: an object with three streams of 1 MiB whose every byte may be an escape, or a page.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes of a problem document.
pub(super) const PROBLEM_BYTES_MAX: usize = 64 << 10;
/// Bytes of one event in a stream: a record, or an object with all that it may list.
pub(super) const EVENT_BYTES_MAX: usize = 64 << 20;
/// Bytes of stdin that go in one request.
pub(crate) const STDIN_CHUNK_BYTES: usize = 256 << 10;
/// A file of at most so many bytes goes with the request itself.
pub(crate) const STDIN_INLINE_BYTES: u64 = 1 << 20;

/// Executions of one page.
pub(super) const PAGE: usize = 1000;
/// Pages that are looked through for the beginning of an id.
pub(super) const RESOLVE_PAGES: usize = 10;
/// How far the time in an id may be from the time at which the execution was made, by the clock that may be set meanwhile.
pub(super) const ID_SLACK: Duration = Duration::from_secs(60);
/// Bytes of a file with an API key.
pub(super) const KEY_FILE_BYTES_MAX: u64 = 4096;

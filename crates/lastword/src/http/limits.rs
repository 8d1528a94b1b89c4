//! Every bound of the server's outside.

use std::time::Duration;

/// Bytes of a request's body, unless told otherwise.
pub const BODY_BYTES: usize = 32 << 20;
/// The same for a batch.
pub const BATCH_BODY_BYTES: usize = 128 << 20;
/// Bytes of all bodies in memory together.
pub const BODIES_BYTES: usize = 256 << 20;
/// Pause within a body after which the request is given up.
pub(super) const BODY_IDLE: Duration = Duration::from_secs(30);
/// A whole body takes no longer: its bytes hold room that others wait for.
pub(super) const BODY_TIME: Duration = Duration::from_secs(300);
/// Of a body that is too large, so much is read and thrown away, as long as this: a client that is still writing would not
/// see the answer otherwise.
pub(super) const OVERLONG_BYTES: usize = 64 << 20;
pub(super) const OVERLONG_TIME: Duration = Duration::from_secs(5);

/// Connections at a time; more wait in the kernel.
pub const CONNECTIONS: usize = 4096;
/// Answers at a time that may go on for long: logs and events.
pub const STREAMS: usize = 2048;
/// Output files that are sent at a time: each needs a thread.
pub(super) const DOWNLOADS: usize = 64;
/// From the first wait for a request to the end of its header: also how long an idle connection is kept.
pub(super) const HEADER_READ: Duration = Duration::from_secs(30);
/// Bytes of a connection's buffers, and so of a header.
pub(super) const CONNECTION_BUFFER_BYTES: usize = 64 << 10;
pub(super) const HEADERS: usize = 100;
/// What was sent and is not acknowledged, or not taken, for so long ends the connection.
pub(super) const SEND_STALLED: Duration = Duration::from_secs(120);
/// Silence after which the kernel asks whether the other side is still there.
pub(super) const PEER_SILENT: Duration = Duration::from_secs(60);
/// Pause after an accept that failed, mostly for want of descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests have to end once the server goes down.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Parameters of a query, and its bytes.
pub(super) const QUERY_PARAMETERS: usize = 256;
pub(super) const QUERY_BYTES: usize = 16 << 10;
/// Bytes of an API key as a client may send it.
pub(super) const TOKEN_BYTES: usize = 512;
/// The longest that a request waits for an end.
pub(super) const WAIT: Duration = Duration::from_secs(600);

/// Executions of a page.
pub(super) const PAGE: u64 = 1000;
pub(super) const PAGE_DEFAULT: u64 = 100;
/// A page ends once it has so many bytes.
pub(super) const PAGE_BYTES: usize = 16 << 20;
/// Labels in one query.
pub(super) const LABELS: usize = 64;

/// Lines or records whose places a tail remembers.
pub(super) const TAIL: u64 = 100_000;
/// A stream gives out what it has once it has so many bytes.
pub(super) const STREAM_BUFFER_BYTES: usize = 64 << 10;
/// A stream that follows looks so often, whatever it is told.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after which a stream of events says that it is alive.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Bytes read at once of an output file.
pub(super) const FILE_CHUNK_BYTES: usize = 256 << 10;
/// Events read from the store at once.
pub(super) const EVENTS_READ: usize = 500;
/// Events that one request can ask for.
pub(super) const EVENTS: u64 = 1_000_000;

/// Executions of which is remembered that their stdin was left open.
pub(super) const OPEN_STDINS: usize = 10_000;

/// What a client should wait when something of the server is short for a moment.
pub(super) const RETRY_SOON: Duration = Duration::from_secs(1);
/// The same where somebody has to do something first.
pub(super) const RETRY_LATER: Duration = Duration::from_secs(10);
/// A check of all parts that takes longer has found out that something is wrong.
pub(super) const HEALTH_PATIENCE: Duration = Duration::from_secs(5);

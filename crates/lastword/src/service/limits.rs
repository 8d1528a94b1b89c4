//! Every bound and pause of the service.

use std::time::Duration;

/// How long an idempotency key is good for.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Executions that nobody owns are looked for so often.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(2);
/// What crashes have left in the data directory is swept so often.
pub const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// After a failure of the store nothing is started for so long.
pub const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Events that are read at once.
pub const EVENTS_AT_ONCE: usize = 100;
/// Such portions that a subscriber may be behind before it has to read the store. One who reads nothing keeps them all in memory,
/// and an event has its execution's labels, 72 KiB at most.
pub const PORTIONS_KEPT: usize = 64;
/// The feed looks so often at the least whether it should end.
pub const FEED_PATIENCE: Duration = Duration::from_millis(500);
/// `Retry-After` of a full queue is between these.
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How long a server that was killed may seem to be there, and how often that is looked at.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(2);
pub const LOCK_PAUSE: Duration = Duration::from_millis(20);

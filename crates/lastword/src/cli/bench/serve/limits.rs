//! Every bound and pause of the load.

use std::time::Duration;

/// An answer that takes longer is none.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// A run may wait as long for its turn and its end.
pub(super) const RUN_WAIT_S: u64 = 100;
/// A stream on which nothing comes for so long, or a queue of which nothing ends, hangs.
pub(super) const SILENCE: Duration = Duration::from_secs(120);
/// How long a server has to say where it listens, and to end.
pub(super) const SERVER_PATIENCE: Duration = Duration::from_secs(30);
/// Sentences about what was wrong that are kept.
pub(super) const WRONG_SHOWN: usize = 20;
/// How long live lines are listened to where nothing else goes on, and again with a full queue.
pub(super) const LISTEN: Duration = Duration::from_secs(3);
/// Between two lines of a program that prints until it is told to end.
pub(super) const LINE_EVERY_S: f64 = 0.05;
/// What a program that prints until it is told to end may take.
pub(super) const PRINTER_WALL_MS: u64 = 3_600_000;
/// Requests that are sent to a queue that is full.
pub(super) const OVERFLOW: u64 = 20;
/// Blocks of the longest output, and lines of each.
pub(super) const FLOOD_BLOCKS: u64 = 2048;
pub(super) const FLOOD_LINES: u64 = 64;
/// Of so many followers one is slow.
pub(super) const SLOW_IN: u64 = 20;
/// A slow follower rests so long after each piece.
pub(super) const SLOW_PAUSE: Duration = Duration::from_millis(500);
/// A follower that comes back does so after so many records.
pub(super) const RESUME_AFTER: u64 = 7;

//! Bounds of the supervisor: what it holds, and how long it waits for what.

/// Room for records between two writes to the spool.
pub(crate) const BUFFER_BYTES: usize = 512 * 1024;
/// Of that room, what records never take: all notes of a run and its seal fit in here even while the disk is full.
pub(crate) const NOTES_BYTES: usize = 32 * 1024;
/// Always read with at least this much room: a read below PIPE_BUF throws away the rest of a packet-mode write.
pub(crate) const READ_BYTES_MIN: usize = 4096;
/// Reads of one pipe in one turn. More than a pipe has buffers, so what was there at the start of the turn is always reached.
pub(crate) const READS_MAX: usize = 4096;
/// One read of a PTY; the kernel gives at most 4 KiB.
pub(crate) const TERMINAL_READ_BYTES: usize = 4097;
/// While the program announces its writes, its pipes are looked at with the next announcement, but at the latest after this.
pub(crate) const ANNOUNCED_WAIT_NS: u64 = MS;
/// Writes up to this size never fill a pipe between two announcements.
pub(crate) const SMALL_WRITE_BYTES: u64 = 4096;
/// The program's pipes; a larger one means fewer turns under a flood. The kernel's default is kept where this is refused.
pub(crate) const PIPE_BYTES: i32 = 256 * 1024;
/// Kept free on disk for the end of the transcript, whatever the program writes.
pub(crate) const SEAL_RESERVE_BYTES: u64 = 32 * 1024;
/// The spool is reserved on disk in pieces of this size; the first piece is smaller, because most runs say little.
pub(crate) const RESERVE_STEP_BYTES: u64 = 4 * 1024 * 1024;
pub(crate) const RESERVE_FIRST_BYTES: u64 = 64 * 1024;
/// Bytes of the control FIFO that one turn reads: whoever floods it holds up nothing else.
pub(crate) const CONTROL_READ_BYTES: usize = 512;
/// The program's stdin on its way through us.
pub(crate) const STDIN_BUFFER_BYTES: usize = 64 * 1024;

/// Entries of directories that are looked at for outputs. With the default disk limit there can't be as many.
pub(crate) const OUTPUTS_ENTRIES_MAX: usize = 200_000;
/// Directories below /work, /tmp or /var/tmp that an output may lie in.
pub(crate) const OUTPUTS_DEPTH_MAX: usize = 32;
/// Bytes of an output's absolute path.
pub(crate) const OUTPUTS_PATH_BYTES_MAX: usize = 1024;
/// Outputs that were refused and are named in the transcript; of more there is the number.
pub(crate) const OUTPUTS_REFUSED_NAMED_MAX: usize = 64;
/// What those names and reasons take in the transcript at most.
pub(crate) const OUTPUTS_NOTES_BYTES: usize =
    (OUTPUTS_REFUSED_NAMED_MAX + 1) * (OUTPUTS_PATH_BYTES_MAX + 256 + 512);
/// Of the disk that is always held for the end of the transcript, what a list of outputs may take.
pub(crate) const OUTPUTS_LIST_FREE_BYTES: usize = 8 * 1024;
pub(crate) const OUTPUTS_BUFFER_BYTES: usize = 256 * 1024;
pub(crate) const OUTPUTS_DIRECTORY_BYTES: usize = 16 * 1024;

const MS: u64 = 1_000_000;
/// From the clone to exec. Mounting takes under a millisecond; a machine that needs this long is broken.
pub(crate) const SETUP_NS: u64 = 30_000 * MS;
/// From SIGKILL to the end of the last process.
pub(crate) const KILL_NS: u64 = 30_000 * MS;
/// From the end of the last process to the end of both streams.
pub(crate) const DRAIN_NS: u64 = 2_000 * MS;
/// How long a full disk may hold the program up before the run is ended.
pub(crate) const STORAGE_WAIT_NS: u64 = 10_000 * MS;
pub(crate) const STORAGE_RETRY_NS: u64 = 50 * MS;
/// How often the number of processes is looked at where the kernel keeps no peak.
pub(crate) const SAMPLE_NS: u64 = 20 * MS;
/// CPU time is looked at when it could be used up at the earliest, but not more often than this.
pub(crate) const CPU_CHECK_NS_MIN: u64 = 5 * MS;
/// How often the starter is told that the spool has grown. The first news goes at once.
pub(crate) const NEWS_NS: u64 = 2 * MS;
/// To find outputs and to copy them. What isn't there by then is refused.
pub(crate) const OUTPUTS_NS: u64 = 30_000 * MS;
/// Locks that a starter may hand over.
pub(crate) const HELD_MAX: u32 = 16;

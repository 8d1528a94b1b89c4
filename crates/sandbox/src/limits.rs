//! Bounds of the sandbox that a plan may not exceed.

use std::time::Duration;

/// Bytes of an encoded plan: the source file and the program's stdin may be inside.
pub const PLAN_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Entries of any list in a plan (arguments, environment, steps).
pub const PLAN_ENTRIES_MAX: usize = 1_000_000;
/// Bytes of one message between supervisor, init and program child.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// The tmpfs that holds the empty root; the program can't write to it.
pub const ROOT_TMPFS_BYTES: u64 = 16 * 1024 * 1024;
pub const ROOT_TMPFS_INODES: u64 = 4096;
/// A file of the host's /etc up to this size is copied into the root rather than mounted.
pub const COPIED_BYTES_MAX: u64 = 16 * 1024;
/// One inode for so many bytes of scratch space, at least [`SCRATCH_INODES_MIN`].
pub const SCRATCH_BYTES_PER_INODE: u64 = 4096;
pub const SCRATCH_INODES_MIN: u64 = 1024;
/// Entries at the top of an image's root: each costs a mount. One with more is refused.
pub const IMAGE_TOP_ENTRIES_MAX: usize = 1024;
/// How long a cgroup may stay busy after its last process was reaped.
pub const CGROUP_REMOVE_WAIT: Duration = Duration::from_secs(2);
/// An empty group this old belongs to no run: they are empty for seconds at the most.
pub const CGROUP_ABANDONED: Duration = Duration::from_secs(15 * 60);
/// Groups that one search looks at; a machine with more keeps what is left until it has fewer.
pub const CGROUPS_SEARCHED_MAX: usize = 200_000;

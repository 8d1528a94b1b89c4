//! Every maximum. A reader allocates nothing larger than these, whatever a length field says.

/// What one image may cost. The rest of this module is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers, uncompressed, with the headers of their tar files.
    pub bytes: u64,
    /// Entries of all layers.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 16 << 30, entries: 500_000 }
    }
}

/// A manifest, an index, a config, or a list of images.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// What docker allows.
pub const LAYERS_MAX: usize = 127;
/// Manifests in one index, images in one archive.
pub const INDEX_ENTRIES_MAX: usize = 1024;
/// An index within an index within an index.
pub const INDEX_DEPTH_MAX: usize = 3;
/// Members of an archive: each layer takes up to four, and there may be several images.
pub const MEMBERS_MAX: u64 = 20_000;
/// Symbolic links within an archive that are followed from one name: older `docker save` makes one hop.
pub const MEMBER_LINKS_MAX: usize = 4;

/// `PATH_MAX` without the zero byte.
pub const PATH_BYTES_MAX: usize = 4095;
/// `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;
/// The text of a symbolic link; `PATH_MAX` again.
pub const LINK_BYTES_MAX: usize = 4095;
/// One extended header. Most of it are attributes that nobody here looks at.
pub const PAX_BYTES_MAX: u64 = 1 << 20;
/// Bytes that may follow the end of a tar file; GNU tar fills up to a multiple of its blocking factor.
pub const TRAILING_BYTES_MAX: u64 = 1 << 20;
/// No file is from after the year 2514; some file systems store no more.
pub const MTIME_SECONDS_MAX: i64 = (1 << 34) - 1;

/// A layer may be so many times larger than what it was compressed to ...
pub const RATIO_MAX: u64 = 200;
/// ... once it is larger than this.
pub const RATIO_FREE_BYTES: u64 = 256 << 20;
/// zstd's window, as a power of two: 128 MiB, what `zstd -d` takes without being asked.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Bytes read or written at once.
pub const BUFFER_BYTES: usize = 128 * 1024;

/// Paths of directories whose times are set when their layer is done. Beyond, a directory keeps the time it was made.
pub const DIRECTORY_TIMES_BYTES_MAX: usize = 16 << 20;
/// `etc/passwd` and `etc/group` of an image.
pub const USERS_FILE_BYTES_MAX: u64 = 1 << 20;
/// The kernel gives up when a rename elsewhere on the machine disturbs a lookup; so often we ask again.
pub const LOOKUP_TRIES_MAX: usize = 128;

/// `image.json` of an entry of the cache: the config is part of it.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;
/// The list of files whose digest is known. The oldest are forgotten.
pub const KNOWN_MAX: usize = 1024;
/// The list as a file.
pub const KNOWN_BYTES_MAX: u64 = 16 << 20;
/// A file that changed so recently is not noted in the list: it could change again with no other time stamp.
pub const KNOWN_AGE_NS_MIN: i128 = 2_000_000_000;
/// Rounds of lock, look and build before we give up: each lost one means that another process threw the entry away.
pub const CACHE_TRIES_MAX: usize = 64;

/// Bytes of a name that an error shows.
pub(crate) const SHOWN_BYTES_MAX: usize = 200;

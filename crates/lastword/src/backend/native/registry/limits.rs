//! Every maximum of what a registry, a credential helper or a file may make us read, repeat or wait for.

use std::time::Duration;

/// What somebody may call an image; longer ones are no reference.
pub(super) const REFERENCE_BYTES_MAX: usize = 1024;
/// Registry and repository together, as docker has it.
pub(super) const NAME_BYTES_MAX: usize = 255;
/// As in the distribution specification.
pub(super) const TAG_BYTES_MAX: usize = 128;

/// What a token server may answer. Tokens have a few KiB.
pub(super) const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// One `WWW-Authenticate` header.
pub(super) const CHALLENGE_BYTES_MAX: usize = 8 << 10;
/// Hops from one question to its answer.
pub(super) const REDIRECTS_MAX: usize = 5;
/// How often one thing is asked for, the first time included.
pub(super) const TRIES_MAX: u32 = 4;
/// A blob that broke off is tried anew as often as at first, if so much came since. So a registry that gives it in crumbs
/// cannot keep us for ever.
pub(super) const RESUME_BYTES_MIN: u64 = 1 << 20;
/// A "come again later" that is waited for; a longer one is passed on to the user.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// What has to come within [`Times::stall`] of waiting, if there is so much.
pub(super) const STALL_BYTES_MIN: u64 = 64 << 10;

/// Docker's `config.json`.
pub(super) const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// What a credential helper may answer.
pub(super) const HELPER_BYTES_MAX: u64 = 64 << 10;

/// References in the file of what they led to. The oldest are forgotten.
pub(super) const REFS_MAX: usize = 1024;
/// That file.
pub(super) const REFS_BYTES_MAX: u64 = 2 << 20;

/// How long what is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a connection, with looking up the name and TLS.
    pub connect: Duration,
    /// From a question to the header of its answer, with the connection.
    pub answer: Duration,
    /// For more of a body. In as much waiting at least 64 KiB must come; our own work in between does not count.
    pub stall: Duration,
    /// Before the second try; doubled before each further one.
    pub backoff: Duration,
    /// For a credential helper, which may ask the user something.
    pub helper: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            backoff: Duration::from_millis(300),
            helper: Duration::from_secs(60),
        }
    }
}

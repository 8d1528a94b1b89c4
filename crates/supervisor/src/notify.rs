//! Exact order: every call that can write to a pipe is announced here before it happens.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use lastword_sandbox::sys::{self, Errno, Notification};

/// The listener, and a bound on how many bytes the announced calls can have written.
///
/// The bound is a coarse net under the filter: bytes beyond it came by a way that the filter doesn't know, and then the order
/// must not be called exact. Calls whose length isn't known beforehand, and writes to files, widen its meshes.
pub(crate) struct Listener {
    fd: OwnedFd,
    announced: u64,
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Listener {
        // Older kernels don't have it; then it's only slower.
        let _ = sys::notification_sync_wakeup(fd.as_fd());
        Listener { fd, announced: 0 }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The next announced call; `None` when it went away before we could take it.
    pub(crate) fn receive(&mut self) -> Result<Option<Notification>, Errno> {
        match sys::notification_receive(self.fd.as_fd()) {
            Ok(notification) => {
                let most = Listener::most_bytes(&notification);
                self.announced = self.announced.saturating_add(most);
                Ok(Some(notification))
            }
            Err(Errno(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets the call happen. Its caller may be gone already, by a signal: that is normal.
    pub(crate) fn proceed(&self, notification: &Notification) {
        let _ = sys::notification_continue(self.fd.as_fd(), notification.id);
    }

    /// How many bytes this call can write at the most.
    pub(crate) fn most_bytes(notification: &Notification) -> u64 {
        match i64::from(notification.nr) {
            libc::SYS_write => notification.args[2],
            // Vectors lie in memory, and what is moved from files and pipes isn't known beforehand.
            _ => u64::MAX,
        }
    }

    pub(crate) fn covers(&self, bytes_read: u64) -> bool {
        bytes_read <= self.announced
    }
}

//! Tells followers at once when a transcript grows.
//!
//! The kernel tells us (inotify(7)), so it makes no difference who started the run, or whether we were there at the time. Only
//! spools that somebody follows are watched: the others cost nothing.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::sync::watch;
use uuid::Uuid;

use super::limits::FEED_PATIENCE;
use super::lock;
use crate::execution::Engine;

/// Bytes for events that are read at once. One without a name takes 16.
const EVENTS_BYTES: usize = 4096;

/// Executions that are kept in mind without looking whether anybody still follows them.
const FOLLOWED_MIN: usize = 64;

#[derive(Debug)]
pub struct Growth {
    engine: Arc<Engine>,
    inotify: OwnedFd,
    followed: Mutex<Followed>,
}

#[derive(Debug, Default)]
struct Followed {
    by_id: HashMap<Uuid, Watched>,
    by_watch: HashMap<i32, Uuid>,
    /// With so many it is time to look for those that nobody follows any more.
    full: usize,
}

#[derive(Debug)]
struct Watched {
    /// None: there was no spool yet.
    watch: Option<i32>,
    count: watch::Sender<u64>,
}

impl Growth {
    pub(super) fn new(engine: Arc<Engine>) -> io::Result<Growth> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Growth { engine, inotify, followed: Mutex::default() })
    }

    /// Changes whenever there may be more in the transcript of an execution, and at its end. Spurious changes are possible;
    /// a follower should look after a second in any case.
    pub fn watch(&self, id: Uuid) -> watch::Receiver<u64> {
        let mut followed = lock(&self.followed);
        if followed.by_id.len() >= followed.full {
            self.forget_idle(&mut followed);
        }
        let watched =
            followed.by_id.entry(id).or_insert_with(|| Watched { watch: None, count: watch::Sender::new(0) });
        let receiver = watched.count.subscribe();
        self.begin(&mut followed, id);
        receiver
    }

    /// The kernel is asked, if it isn't yet and there is something to watch.
    fn begin(&self, followed: &mut Followed, id: Uuid) {
        let Some(watched) = followed.by_id.get_mut(&id).filter(|watched| watched.watch.is_none()) else {
            return;
        };
        let spool = self.engine.store.spool_path(id);
        let Ok(path) = CString::new(spool.as_os_str().as_bytes()) else { return };
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF;
        if let Ok(watch) = inotify::add_watch(&self.inotify, path.as_c_str(), flags) {
            watched.watch = Some(watch);
            followed.by_watch.insert(watch, id);
        }
    }

    /// The status of an execution has changed: it may have a spool now, or the last of its transcript.
    pub(super) fn changed(&self, id: Uuid, ended: bool) {
        let mut followed = lock(&self.followed);
        self.begin(&mut followed, id);
        if let Some(watched) = followed.by_id.get(&id) {
            watched.count.send_modify(|count| *count += 1);
        }
        let idle = |watched: &Watched| watched.count.receiver_count() == 0;
        if ended || followed.by_id.get(&id).is_some_and(idle) {
            self.forget(&mut followed, id);
        }
    }

    /// Of one that has ended, or that writes nothing, no event tells us that its followers have gone.
    fn forget_idle(&self, followed: &mut Followed) {
        let idle = |watched: &Watched| watched.count.receiver_count() == 0;
        let ids = followed.by_id.iter().filter(|(_, watched)| idle(watched)).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            self.forget(followed, id);
        }
        followed.full = (2 * followed.by_id.len()).max(FOLLOWED_MIN);
    }

    fn forget(&self, followed: &mut Followed, id: Uuid) {
        if let Some(Watched { watch: Some(watch), .. }) = followed.by_id.remove(&id) {
            followed.by_watch.remove(&watch);
            // It is gone with its file, otherwise.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// Waits a moment for the kernel's events and passes them on.
    pub(super) fn turn(&self) -> io::Result<()> {
        let patience = Timespec::try_from(FEED_PATIENCE).unwrap_or_default();
        match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let (watch, lost) = match reader.next() {
                Ok(event) => (event.wd(), event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut followed = lock(&self.followed);
            if lost {
                followed.by_id.values().for_each(|watched| watched.count.send_modify(|count| *count += 1));
            } else if let Some(id) = followed.by_watch.get(&watch).copied()
                && let Some(watched) = followed.by_id.get(&id)
            {
                watched.count.send_modify(|count| *count += 1);
                if watched.count.receiver_count() == 0 {
                    self.forget(&mut followed, id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_nobody_follows_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = lastword_store::Store::open(dir.path()).unwrap();
        let growth = Growth::new(Arc::new(Engine::new(store, dir.path()))).unwrap();
        let followed: Vec<_> = (0..10).map(|id| growth.watch(Uuid::from_u128(id))).collect();
        for id in 0..10_000 {
            drop(growth.watch(Uuid::from_u128(id)));
        }
        let kept = lock(&growth.followed);
        assert!(kept.by_id.len() <= FOLLOWED_MIN + 1, "{}", kept.by_id.len());
        assert!((0..10).all(|id| kept.by_id.contains_key(&Uuid::from_u128(id))));
        drop(followed);
    }
}

//! The store's events as they come, for all who wait for some of them.
//!
//! One thread reads the store. Waiters are told by it; they never read the store in a loop, however many there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use lastword_store::{Cursor, Error, Event, EventChange};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use super::limits::{EVENTS_AT_ONCE, FEED_PATIENCE, PORTIONS_KEPT};
use super::lock;
use crate::execution::Engine;

#[derive(Debug)]
pub struct Feed {
    engine: Arc<Engine>,
    newest: watch::Sender<Cursor>,
    events: broadcast::Sender<Arc<[Event]>>,
    /// Dropped when their execution has ended, which wakes who waits.
    waiters: Mutex<HashMap<Uuid, watch::Sender<()>>>,
}

/// In the line of those who wait for an end. The last one to leave takes the line along, also one who gives up: nobody tells of an
/// end that was there before.
struct Place<'a> {
    feed: &'a Feed,
    id: Uuid,
    line: watch::Receiver<()>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = lock(&self.feed.waiters);
        // We are in it still. Should it be another line by now, somebody looks once more for nothing.
        if waiters.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiters.remove(&self.id);
        }
    }
}

impl Feed {
    pub(super) fn new(engine: Arc<Engine>) -> Result<Feed, Error> {
        let newest = watch::Sender::new(engine.store.newest_event()?);
        Ok(Feed { engine, newest, events: broadcast::Sender::new(PORTIONS_KEPT), waiters: Mutex::default() })
    }

    /// Behind the newest event that was published.
    pub fn newest(&self) -> watch::Receiver<Cursor> {
        self.newest.subscribe()
    }

    /// Events from now on, in order. Who is too slow gets `Lagged`, and reads on from the store.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[Event]>> {
        self.events.subscribe()
    }

    pub fn subscribers(&self) -> usize {
        self.events.receiver_count()
    }

    /// Returns once an execution has ended or was removed; at once if it has, or never was.
    pub async fn ended(&self, id: Uuid) {
        loop {
            // First in line, then the look: an end in between is not missed.
            let mut place = self.line_up(id);
            let engine = Arc::clone(&self.engine);
            let entry = tokio::task::spawn_blocking(move || engine.store.get(id)).await;
            match entry {
                Ok(Ok(Some(entry))) if !entry.ended => {}
                _ => return,
            }
            // An error is the sender's end.
            let _ = place.line.changed().await;
        }
    }

    fn line_up(&self, id: Uuid) -> Place<'_> {
        let line = lock(&self.waiters).entry(id).or_insert_with(|| watch::Sender::new(())).subscribe();
        Place { feed: self, id, line }
    }

    /// Publishes what has come since, after at most a moment's wait for it. `on` sees each event first.
    pub(super) fn turn(&self, on: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        let seen = *self.newest.borrow();
        if self.engine.store.wait_for_event(seen, FEED_PATIENCE)? == seen {
            return Ok(());
        }
        let events = match self.engine.store.events(Some(seen), EVENTS_AT_ONCE) {
            Ok(events) => events,
            Err(Error::CursorGone { .. }) => {
                // Numbered anew. Everyone looks for himself.
                self.newest.send_replace(self.engine.store.newest_event()?);
                lock(&self.waiters).clear();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(last) = events.last().map(|event| event.cursor) else { return Ok(()) };
        let mut waiters = lock(&self.waiters);
        for event in &events {
            on(event);
            if matches!(event.change, EventChange::Removed | EventChange::Status { ended: true, .. }) {
                waiters.remove(&event.id);
            }
        }
        drop(waiters);
        // Nobody may be listening.
        let _ = self.events.send(events.into());
        self.newest.send_replace(last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_waiting_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = lastword_store::Store::open(dir.path()).unwrap();
        let feed = Feed::new(Arc::new(Engine::new(store, dir.path()))).unwrap();
        let id = Uuid::from_u128(1);
        let (one, two) = (feed.line_up(id), feed.line_up(id));
        drop(one);
        assert!(two.line.has_changed().is_ok(), "the line is there for the other one");
        drop(two);
        assert!(lock(&feed.waiters).is_empty());
    }
}

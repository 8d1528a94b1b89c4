//! Looks for executions that nobody owns, and takes them up: after a crash, after a failure, after anything. What is on disk
//! decides; who told us of what, or didn't, makes no difference.

use std::time::Instant;

use lastword_store::Error;
use uuid::Uuid;

use super::lifecycle::{Action, Row, Sight};
use super::limits::{FEED_PATIENCE, RECONCILE_EVERY, SWEEP_EVERY};
use super::work::Job;
use super::{Inner, lock};

impl Inner {
    pub(super) fn keep_reconciling(&self) {
        let (mut reconciled, mut swept) = (Instant::now(), Instant::now());
        let mut soon = false;
        while !self.is_draining() {
            std::thread::sleep(FEED_PATIENCE);
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                if let Err(error) = self.sweep() {
                    self.failed("sweep what crashes have left", &error);
                }
            }
            if soon || reconciled.elapsed() >= RECONCILE_EVERY {
                reconciled = Instant::now();
                match self.reconcile() {
                    Ok(again) => {
                        soon = again;
                        self.probe();
                    }
                    Err(error) => self.failed("look for executions that nobody owns", &error),
                }
            }
        }
    }

    /// Removes what crashes have left: spools of executions that were never handed over, or have ended; and the like.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        // Orphans come with their locks, which go right here: each is found by itself.
        self.engine.store.orphans().map(drop)
    }

    /// Takes up every execution that has not ended and that nobody owns. True: it is worth to look again soon, because a start that
    /// came to nothing is still being taken down. One that can't be taken up is not in the way of the others.
    pub(super) fn reconcile(&self) -> Result<bool, Error> {
        let mut again = false;
        let mut failed = None;
        let waiting = self.engine.store.waiting()?.into_iter();
        let waiting = waiting.map(|(id, meta)| (id, meta.priority, Row::Waiting));
        let live = self.engine.store.live()?.into_iter().map(|id| (id, 0, Row::Running));
        for (id, priority, row) in waiting.chain(live) {
            if lock(&self.owners).owns(id) {
                continue;
            }
            match self.found(id, priority, row) {
                Ok(sight) => again |= (row, sight) == (Row::Waiting, Sight::Alive),
                Err(error) => failed = Some(error),
            }
        }
        self.turns.notify_all();
        failed.map_or(Ok(again), Err)
    }

    /// The same for one.
    pub(super) fn reconcile_one(&self, id: Uuid) -> Result<(), Error> {
        let waiting = self.engine.store.waiting()?.into_iter().find(|(waiting, _)| *waiting == id);
        match waiting {
            Some((id, meta)) => self.found(id, meta.priority, Row::Waiting).map(drop),
            None if self.engine.store.get(id)?.is_some_and(|entry| !entry.ended) => {
                self.found(id, 0, Row::Running).map(drop)
            }
            None => Ok(()),
        }
    }

    fn found(&self, id: Uuid, priority: i32, row: Row) -> Result<Sight, Error> {
        let sight = match self.engine.store.sight(id)? {
            lastword_store::Sight::NoSpool => Sight::Nothing,
            lastword_store::Sight::Held => Sight::Alive,
            lastword_store::Sight::Free => Sight::Finished,
        };
        // `lastword run` and `batch` look after their own, and take none of our places.
        let has_no_request = || matches!(self.engine.store.request(id), Ok(None));
        if sight == Sight::Alive && row == Row::Running && has_no_request() {
            return Ok(sight);
        }
        let actions = lock(&self.owners).found(id, priority, row, sight);
        match actions {
            [] => {}
            [Action::Discard] => self.sweep()?,
            actions => self.adopt(id, actions),
        }
        Ok(sight)
    }

    /// On a thread of its own: it may take as long as the program does.
    fn adopt(&self, id: Uuid, actions: &'static [Action]) {
        let Some(service) = self.me.upgrade() else { return };
        let spawned = std::thread::Builder::new().name("adopted".into()).spawn(move || {
            let mut job = Job::new(&service, id);
            service.carry_out(id, actions, &mut job);
        });
        if let Err(error) = spawned {
            self.failed("start a thread", &error);
            lock(&self.owners).on(id, super::Input::Failed);
        }
    }

    /// After a failure of the store: whether it works again.
    fn probe(&self) {
        if lock(&self.trouble).store.is_none() {
            return;
        }
        match self.engine.store.probe() {
            Ok(()) => self.works(),
            Err(error) => self.failed("write to the store", &error),
        }
    }
}

//! Doing what the lifecycle asks for: on a worker's thread for those that have their turn, on the canceller's for those that
//! never had one.

use std::sync::Arc;
use std::time::Instant;

use lastword_api::Execution;
use lastword_frame::Cause;
use lastword_frame::verify::Report;
use lastword_store::Spool;
use uuid::Uuid;

use super::lifecycle::{Action, Input};
use super::limits::FEED_PATIENCE;
use super::{Error, Inner, lock};
use crate::backend::native::Supervisor;
use crate::execution::{self, Cancel, Claimed, NotBuilt};

/// One execution in work.
pub(super) struct Job<'a> {
    service: &'a Inner,
    id: Uuid,
    cancel: Arc<Cancel>,
    claimed: Option<Claimed>,
    /// Of an execution that was provably never started, for another start.
    spool: Option<Spool>,
    supervisor: Option<Supervisor>,
    report: Option<Report>,
    /// Why it was never started.
    cause: Option<Cause>,
    failure: Option<Error>,
}

impl<'a> Job<'a> {
    pub(super) fn new(service: &'a Inner, id: Uuid) -> Job<'a> {
        Job::with(service, id, Arc::default())
    }

    fn with(service: &'a Inner, id: Uuid, cancel: Arc<Cancel>) -> Job<'a> {
        Job {
            service,
            id,
            cancel,
            claimed: None,
            spool: None,
            supervisor: None,
            report: None,
            cause: None,
            failure: None,
        }
    }

    /// What could not be done.
    pub(super) fn failure(self) -> Option<Error> {
        self.failure
    }

    pub(super) fn perform(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Build => Some(self.build()),
            Action::Mark => self.mark(),
            Action::Go => {
                if let (Some(claimed), Some(supervisor)) = (&mut self.claimed, &mut self.supervisor) {
                    self.service.engine.go_claimed(claimed, supervisor);
                    self.service.metrics.started(claimed.execution());
                }
                None
            }
            Action::Watch => Some(self.watch()),
            Action::Stop => {
                self.stop();
                None
            }
            Action::Abandon => {
                if let Some(supervisor) = self.supervisor.take() {
                    supervisor.abandon();
                }
                None
            }
            Action::KeepUnstarted => Some(self.keep_unstarted()),
            Action::KeepEnd => Some(self.keep_end()),
            // The store sweeps what it finds of one that waits; see [`Inner::sweep`].
            Action::Discard => {
                if let Err(error) = self.service.sweep() {
                    self.service.failed("sweep", &error);
                }
                None
            }
        }
    }

    fn failed(&mut self, action: &str, error: Error) -> Input {
        self.service.failed(action, &error);
        self.failure = Some(error);
        // The spool's lock goes with it: whoever reconciles may take it up.
        self.claimed = None;
        Input::Failed
    }

    fn claim(&mut self) -> Result<bool, Error> {
        if self.claimed.is_none() {
            self.claimed = self.service.engine.claim(self.id, self.spool.take())?;
        }
        Ok(self.claimed.is_some())
    }

    fn build(&mut self) -> Input {
        match self.claim() {
            Ok(true) => {}
            // Somebody has ended it, or removed it.
            Ok(false) => return Input::Failed,
            Err(error) => return self.failed("take an execution from the queue", error),
        }
        let Some(claimed) = &mut self.claimed else { return Input::Failed };
        match self.service.engine.build_claimed(claimed, &self.cancel) {
            Ok(supervisor) => {
                self.supervisor = Some(supervisor);
                Input::Built
            }
            Err(NotBuilt::End(cause)) => {
                self.cause = Some(cause);
                Input::NotBuilt
            }
            Err(NotBuilt::Later(error)) => self.failed("make a sandbox ready", error.into()),
        }
    }

    fn mark(&mut self) -> Option<Input> {
        let claimed = self.claimed.as_mut()?;
        match self.service.engine.mark_claimed(claimed) {
            Ok(()) => Some(Input::Marked),
            Err(error) => {
                // The supervisor, which shares the lock, is abandoned before the lock goes.
                if let Some(supervisor) = self.supervisor.take() {
                    supervisor.abandon();
                }
                Some(self.failed("keep that an execution runs", error.into()))
            }
        }
    }

    fn watch(&mut self) -> Input {
        let (Some(claimed), Some(supervisor)) = (&self.claimed, &mut self.supervisor) else {
            return self.watch_adopted();
        };
        let watched = self.service.engine.watch_claimed(claimed, supervisor, &self.cancel);
        self.supervisor = None;
        match watched {
            Ok(report) => {
                self.report = Some(report);
                Input::Over
            }
            Err(error) => self.failed("follow an execution", error.into()),
        }
    }

    /// One that somebody else has started: its supervisor holds the lock on its spool for as long as it lives.
    fn watch_adopted(&mut self) -> Input {
        match self.service.engine.store.wait_for_spool(self.id) {
            Ok(Some(spool)) => match self.service.engine.is_unstarted(&spool) {
                Ok(false) => Input::Over,
                Ok(true) => {
                    self.spool = Some(spool);
                    Input::Unstarted
                }
                Err(error) => self.failed("read the spool of an execution", error.into()),
            },
            Ok(None) => Input::Over,
            Err(error) => self.failed("follow an execution", error.into()),
        }
    }

    fn stop(&mut self) {
        if let Some(cancel) = lock(&self.service.cancels).get(&self.id) {
            cancel.cancel();
            return;
        }
        // False: it is over, which will show.
        if let Err(error) = self.service.engine.store.ask_to_end(self.id) {
            self.failure = Some(error.into());
        }
    }

    fn keep_unstarted(&mut self) -> Input {
        match self.claim() {
            Ok(true) => {}
            Ok(false) => return Input::Kept,
            Err(error) => return self.failed("take an execution from the queue", error),
        }
        let Some(claimed) = self.claimed.take() else { return Input::Failed };
        let cause = self.cause.take().unwrap_or(Cause::Cancelled);
        let ended = self.service.engine.end_unstarted(claimed, cause);
        self.kept(ended)
    }

    fn keep_end(&mut self) -> Input {
        let (Some(claimed), Some(report)) = (self.claimed.take(), self.report.take()) else {
            let adopted = execution::adopt(&self.service.engine.store, self.id);
            return match adopted {
                Ok(()) => {
                    self.service.adopted_ended(self.id);
                    Input::Kept
                }
                Err(error) => self.failed("end an execution", error.into()),
            };
        };
        let ended = self.service.engine.end_claimed(claimed, &report);
        self.kept(ended)
    }

    fn kept(&mut self, ended: Result<Execution, execution::Error>) -> Input {
        match ended {
            Ok(execution) => {
                self.service.ended(&execution);
                Input::Kept
            }
            Err(error) => self.failed("keep the end of an execution", error.into()),
        }
    }
}

impl Inner {
    /// A worker's life: one execution after the other.
    pub(super) fn work(&self) {
        while let Some((id, actions, cancel)) = self.next_turn() {
            let mut job = Job::with(self, id, cancel);
            self.carry_out(id, actions, &mut job);
            lock(&self.cancels).remove(&id);
        }
    }

    /// Waits for a turn, which can be stopped from the moment it is taken. `None`: there are no more.
    fn next_turn(&self) -> Option<(Uuid, &'static [Action], Arc<Cancel>)> {
        let mut owners = lock(&self.owners);
        loop {
            if self.is_draining() {
                return None;
            }
            let pause =
                lock(&self.trouble).until.and_then(|until| until.checked_duration_since(Instant::now()));
            if pause.is_none()
                && let Some((id, actions)) = owners.turn()
            {
                let cancel = Arc::<Cancel>::default();
                lock(&self.cancels).insert(id, Arc::clone(&cancel));
                return Some((id, actions, cancel));
            }
            let patience = pause.unwrap_or(FEED_PATIENCE);
            let waited = self.turns.wait_timeout(owners, patience);
            owners = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Somebody else may have ended it.
    fn adopted_ended(&self, id: Uuid) {
        if let Ok(Some(entry)) = self.engine.store.get(id)
            && let Ok(execution) = execution::object_of(&entry)
        {
            self.ended(&execution);
        }
    }

    fn ended(&self, execution: &Execution) {
        self.works();
        self.metrics.ended(execution);
        if let Some(usage) = &execution.usage {
            let mut pace = lock(&self.pace);
            pace.seconds_each += (usage.wall_ms / 1000.0 - pace.seconds_each) / 16.0;
        }
    }
}

/// An error with all that caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // A transparent error says what its source says.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

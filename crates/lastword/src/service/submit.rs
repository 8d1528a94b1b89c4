//! Requests on their way in: checked, then durable, then in the queue.

use std::collections::HashSet;
use std::time::Duration;

use lastword_api::{Execution, LimitName};
use lastword_store::{Meta, RequestKey};
use uuid::Uuid;

use super::limits::{KEY_LIFE, RETRY_AFTER_MAX, RETRY_AFTER_MIN};
use super::{Inner, Submission, SubmitError, Submitted, lock};
use crate::backend::native::Refused;
use crate::execution::waiting::{Entrant, NoEntry};

type Answer = Result<Submitted, SubmitError>;
type Key = (Option<String>, String);

/// Idempotency keys that nobody else works on, until this is dropped: also by a panic.
struct Keys<'a> {
    service: &'a Inner,
    keys: HashSet<Key>,
}

impl Drop for Keys<'_> {
    fn drop(&mut self) {
        let mut at_work = lock(&self.service.keys_at_work);
        at_work.retain(|key| !self.keys.contains(key));
        drop(at_work);
        self.service.key_free.notify_all();
    }
}

impl Inner {
    pub(super) fn submit(&self, submissions: Vec<Submission>) -> Vec<Answer> {
        let _keys = self.take_keys(&submissions);
        self.submit_keyed(submissions)
    }

    /// Waits until nobody else is at work on any of these keys, and takes all of them at once.
    fn take_keys(&self, submissions: &[Submission]) -> Keys<'_> {
        let key = |submission: &Submission| Some((submission.tenant.clone(), submission.key.clone()?));
        let keys: HashSet<Key> = submissions.iter().filter_map(key).collect();
        let mut at_work = lock(&self.keys_at_work);
        while keys.iter().any(|key| at_work.contains(key)) {
            at_work = self.key_free.wait(at_work).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        at_work.extend(keys.iter().cloned());
        Keys { service: self, keys }
    }

    fn submit_keyed(&self, submissions: Vec<Submission>) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(submissions.len());
        let mut entrants: Vec<(usize, Entrant)> = Vec::new();
        // The same key twice in one call: the second one is answered when the first one is in.
        let mut repeated: Vec<(usize, Entrant)> = Vec::new();
        let mut seen: HashSet<Key> = HashSet::new();
        for (place, submission) in submissions.into_iter().enumerate() {
            let tenant = submission.tenant.clone();
            let answer = match self.entrant(submission) {
                Err(error) => Some(Err(error)),
                Ok(entrant) => {
                    let key = entrant.key().map(|key| (tenant, key.name.clone()));
                    if key.is_some_and(|key| !seen.insert(key)) {
                        repeated.push((place, entrant));
                        None
                    } else {
                        let replayed = self.replay(&entrant).transpose();
                        if replayed.is_none() {
                            entrants.push((place, entrant));
                        }
                        replayed
                    }
                }
            };
            answers.push(answer);
        }
        self.accept(entrants, &mut answers);
        for (place, entrant) in repeated {
            let replayed = self.replay(&entrant);
            // Without one the first was not taken.
            answers[place] = Some(replayed.and_then(|replayed| replayed.ok_or_else(|| self.queue_full())));
        }
        answers.into_iter().flatten().collect()
    }

    fn entrant(&self, submission: Submission) -> Result<Entrant, SubmitError> {
        if self.is_draining() {
            return Err(SubmitError::Draining { retry_after: RETRY_AFTER_MIN });
        }
        let Submission { new, tenant, key, batch } = submission;
        let key = key.map(|name| RequestKey { name, digest: String::new() });
        let priority = new.priority.unwrap_or_default();
        let origin = Meta { tenant, batch, key, priority, ..Meta::default() };
        let entrant = Entrant::new(new, origin)?;
        if !self.config.allow_unenforced {
            refuse_unenforced(&entrant.execution)?;
        }
        Ok(entrant)
    }

    /// The execution that an earlier request with the same key has made.
    fn replay(&self, entrant: &Entrant) -> Result<Option<Submitted>, SubmitError> {
        let Some(key) = entrant.key() else { return Ok(None) };
        let store = &self.engine.store;
        let since = entrant.meta.created_ns - i64::try_from(KEY_LIFE.as_nanos()).unwrap_or(i64::MAX);
        let Some(used) = store.by_key(entrant.meta.tenant.as_deref(), &key.name, since)? else {
            return Ok(None);
        };
        if used.digest != key.digest {
            return Err(SubmitError::KeyConflict { id: used.id });
        }
        let Some(entry) = store.get(used.id)?.filter(|_| !used.removed) else {
            return Err(SubmitError::KeyRemoved { id: used.id });
        };
        let execution = crate::execution::object_of(&entry).map_err(NoEntry::Object)?;
        Ok(Some(Submitted { execution, replayed: true }))
    }

    /// As many as there is room for, in their order.
    fn accept(&self, entrants: Vec<(usize, Entrant)>, answers: &mut [Option<Answer>]) {
        let mut owners = lock(&self.owners);
        let reserved = owners.reserve(entrants.len(), self.config.queue);
        let waiting = owners.waiting();
        drop(owners);
        let retry_after = self.retry_after();
        let (taken, refused) = entrants.split_at(reserved);
        for (place, _) in refused {
            answers[*place] = Some(Err(SubmitError::QueueFull { waiting, retry_after }));
        }
        if taken.is_empty() {
            return;
        }
        let requests: Vec<_> = taken.iter().map(|(_, entrant)| entrant.waiting()).collect();
        let accepted = self.engine.store.accept_waiting(&requests);
        let mut owners = lock(&self.owners);
        owners.release(reserved);
        let mut failure = None;
        for ((place, entrant), accepted) in taken.iter().zip(accepted) {
            let id = entrant.execution.id;
            answers[*place] = Some(match accepted {
                Ok(()) => {
                    owners.accepted(id, entrant.meta.priority);
                    Ok(Submitted { execution: entrant.execution.clone(), replayed: false })
                }
                Err(error) => {
                    failure = Some(error.to_string());
                    Err(error.into())
                }
            });
        }
        drop(owners);
        match failure {
            Some(error) => self.failed("accept an execution", &std::io::Error::other(error)),
            None => {
                self.works();
                self.metrics.accepted(taken.len() as u64);
            }
        }
        self.turns.notify_all();
    }

    fn queue_full(&self) -> SubmitError {
        // In a statement of its own: the lock is taken again for the other one.
        let waiting = lock(&self.owners).waiting();
        SubmitError::QueueFull { waiting, retry_after: self.retry_after() }
    }

    /// When there may be room again: by how fast executions have ended of late.
    fn retry_after(&self) -> Duration {
        let waiting = lock(&self.owners).waiting();
        let seconds_each = lock(&self.pace).seconds_each;
        // A tenth of the queue is room enough for many.
        let seconds = seconds_each * waiting as f64 / 10.0 / self.config.concurrency.get() as f64;
        Duration::from_secs_f64(seconds.clamp(RETRY_AFTER_MIN.as_secs_f64(), RETRY_AFTER_MAX.as_secs_f64()))
    }
}

fn refuse_unenforced(execution: &Execution) -> Result<(), Refused> {
    let unenforced = |(name, enforced): (&LimitName, &bool)| (!enforced).then_some(*name);
    match execution.enforced.iter().find_map(unenforced) {
        None => Ok(()),
        Some(name) => {
            let why = "the server takes no requests with limits that it can't enforce".into();
            Err(Refused::Limit { name, why })
        }
    }
}

impl From<NoEntry> for SubmitError {
    fn from(error: NoEntry) -> SubmitError {
        match error {
            NoEntry::Field(error) => SubmitError::Field(error),
            NoEntry::Refused(error) => SubmitError::Refused(error),
            NoEntry::Encode(error) => SubmitError::Encode(error),
            NoEntry::Object(error) => SubmitError::Object(error),
        }
    }
}

/// Which execution an answer is about.
impl Submitted {
    pub fn id(&self) -> Uuid {
        self.execution.id
    }
}

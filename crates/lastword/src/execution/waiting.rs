//! An execution that waits in a queue before it runs: what goes in, and each step of what comes out, one at a time. When which
//! step is taken is not decided here.

use std::collections::BTreeMap;

use lastword_api::{Execution, FieldError, NewExecution, Status};
use lastword_frame::Cause;
use lastword_frame::verify::Report;
use lastword_store::{Meta, RequestKey, Spool, Waiting};
use uuid::Uuid;

use super::follow::{Follower, Silent};
use super::prepare::Unprepared;
use super::recover::parse;
use super::{Cancel, Engine, Error, Request, begin, meta, object};
use crate::backend::native::{Machine, Refused, Supervisor};

/// Separates a request from its secrets where both are hashed.
const SECRETS_FOLLOW: &[u8] = b"\0secrets\0";

/// A request that was looked at and may enter the queue.
#[derive(Debug)]
pub struct Entrant {
    pub execution: Execution,
    pub meta: Meta,
    object: Vec<u8>,
    request: Vec<u8>,
    secret: Option<Vec<u8>>,
}

/// Why a request may not enter.
#[derive(Debug, thiserror::Error)]
pub enum NoEntry {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the request can't be written as JSON")]
    Encode(#[source] serde_json::Error),
    #[error(transparent)]
    Object(#[from] Error),
}

impl Entrant {
    /// Checks a request. `origin` says whose it is and how it came; of its key the digest is filled in here.
    pub fn new(mut new: NewExecution, mut origin: Meta) -> Result<Entrant, NoEntry> {
        let (request, secret) = split(&mut new)?;
        if let Some(key) = &mut origin.key {
            key.digest = digest(&request, secret.as_deref());
        }
        let mut request_now = Request::from_new(new)?;
        let mut execution = begin(Machine::get(), &mut request_now)?;
        execution.retry.safe = true;
        let meta = meta(&execution, &origin);
        let object = object(&execution)?;
        Ok(Entrant { execution, meta, object, request, secret })
    }

    /// As the store takes it.
    pub fn waiting(&self) -> Waiting<'_> {
        Waiting {
            id: self.execution.id,
            meta: &self.meta,
            object: &self.object,
            request: &self.request,
            secret: self.secret.as_deref(),
        }
    }

    pub fn key(&self) -> Option<&RequestKey> {
        self.meta.key.as_ref()
    }
}

/// The request as it is kept, and its secrets, which are kept apart. `new` stays as it was.
fn split(new: &mut NewExecution) -> Result<(Vec<u8>, Option<Vec<u8>>), NoEntry> {
    // The names stay: whoever asks for the request sees them.
    let names = new.secrets.keys().map(|name| (name.clone(), String::new())).collect();
    let secrets = std::mem::replace(&mut new.secrets, names);
    let request = serde_json::to_vec(new);
    let secret = (!secrets.is_empty()).then(|| serde_json::to_vec(&secrets)).transpose();
    new.secrets = secrets;
    Ok((request.map_err(NoEntry::Encode)?, secret.map_err(NoEntry::Encode)?))
}

fn digest(request: &[u8], secret: Option<&[u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(request).update(SECRETS_FOLLOW).update(secret.unwrap_or_default());
    hasher.finalize().to_hex().to_string()
}

/// What [`split`] has made of a request, put together again.
fn read(request: &[u8], secret: Option<&[u8]>) -> Result<NewExecution, FieldError> {
    // Neither says what it found: it may be a secret.
    let wrong = |what: &str| FieldError::new(what, "can't be read back");
    let mut new: NewExecution = serde_json::from_slice(request).map_err(|_| wrong("text"))?;
    if let Some(secret) = secret {
        let secrets: BTreeMap<String, String> =
            serde_json::from_slice(secret).map_err(|_| wrong("secrets"))?;
        new.secrets = secrets;
    } else if !new.secrets.is_empty() {
        return Err(FieldError::new("secrets", "are gone: they are kept for one start only"));
    }
    Ok(new)
}

/// Why there is no sandbox that waits for its go.
#[derive(Debug)]
pub enum NotBuilt {
    /// The execution ends with that.
    End(Cause),
    /// It may work later.
    Later(Error),
}

impl NotBuilt {
    /// A store that can't do it now, for want of room, may do it later. Everything else ends the execution.
    pub(super) fn from_error(error: Error) -> NotBuilt {
        match error {
            Error::Store(_) => NotBuilt::Later(error),
            error => Unprepared::new("start the supervisor", error.to_string()).into(),
        }
    }

    pub(super) fn into_end(self) -> Unprepared {
        match self {
            NotBuilt::End(cause) => Unprepared { cause },
            NotBuilt::Later(error) => Unprepared::new("start the supervisor", error.to_string()),
        }
    }
}

impl From<Unprepared> for NotBuilt {
    fn from(why: Unprepared) -> NotBuilt {
        NotBuilt::End(why.cause)
    }
}

/// An execution that has left the queue, in the hands of one who works on it: its spool's lock is held.
pub struct Claimed {
    execution: Execution,
    origin: Meta,
    request: Result<Request, FieldError>,
    spool: Spool,
}

impl Claimed {
    pub fn execution(&self) -> &Execution {
        &self.execution
    }
}

impl Engine {
    /// Takes an execution that was not started: a waiting one, or one whose `spool` says so ([`Engine::is_unstarted`]). `None` if it
    /// has ended, or was removed.
    pub fn claim(&self, id: Uuid, spool: Option<Spool>) -> Result<Option<Claimed>, Error> {
        let Some(entry) = self.store.get(id)?.filter(|entry| !entry.ended) else { return Ok(None) };
        let execution = parse(id, &entry.object)?;
        // It was found waiting, and has had its start since: it is not ours to start again.
        if spool.is_none() && execution.status != Status::Queued {
            return Ok(None);
        }
        let request = match self.store.request(id) {
            // Later it is as damaged as now: this is the execution's end.
            Err(lastword_store::Error::Corrupt { .. }) => Err(FieldError::new("text", "is damaged on disk")),
            request => {
                let secret = self.store.secret(id)?;
                read(&request?.unwrap_or_default(), secret.as_deref()).and_then(Request::from_new)
            }
        };
        let spool = match spool {
            None => self.store.create_spool(id)?,
            Some(spool) => self.store.renew_spool(spool)?,
        };
        Ok(Some(Claimed { execution, origin: entry.meta, request, spool }))
    }

    /// Whether what a supervisor wrote proves that it was never given the word to start its program. Nobody writes there any more.
    pub fn is_unstarted(&self, spool: &Spool) -> Result<bool, Error> {
        let mut follower = Follower::new(spool.id);
        follower.read(&spool.file, &mut Silent)?;
        let report = follower.finish();
        let cause = report.seal.as_ref().map(|seal| &seal.cause);
        let no_word = matches!(cause, Some(Cause::StartFailure { step, .. }) if step == Cause::STARTER_GONE);
        Ok(no_word && report.started.is_none())
    }

    /// Makes its sandbox ready.
    pub fn build_claimed(&self, claimed: &mut Claimed, cancel: &Cancel) -> Result<Supervisor, NotBuilt> {
        let Claimed { execution, origin, request, spool } = claimed;
        // It was taken by a lastword that knew more, or other runtimes.
        let request =
            request.as_mut().map_err(|wrong| Unprepared::new("read the request", format!("its {wrong}")))?;
        self.build(execution, request, origin, spool, &mut Silent, cancel)
    }

    pub fn mark_claimed(&self, claimed: &mut Claimed) -> Result<(), Error> {
        self.mark_running(&mut claimed.execution, &claimed.origin)
    }

    pub fn go_claimed(&self, claimed: &mut Claimed, supervisor: &mut Supervisor) {
        self.go(&mut claimed.execution, supervisor);
    }

    pub fn watch_claimed(
        &self,
        claimed: &Claimed,
        supervisor: &mut Supervisor,
        cancel: &Cancel,
    ) -> Result<Report, Error> {
        self.watch(&claimed.execution, supervisor, &claimed.spool, &mut Silent, cancel)
    }

    pub fn end_claimed(&self, claimed: Claimed, report: &Report) -> Result<Execution, Error> {
        self.end(claimed.execution, &claimed.origin, claimed.spool, report)
    }

    /// The end of one that was never started.
    pub fn end_unstarted(&self, claimed: Claimed, cause: Cause) -> Result<Execution, Error> {
        self.never_started(claimed.execution, &claimed.origin, claimed.spool, Unprepared { cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(json: &str) -> NewExecution {
        serde_json::from_str(json).unwrap()
    }

    fn keyed() -> Meta {
        let key = RequestKey { name: "k".into(), digest: String::new() };
        Meta { tenant: Some("t".into()), key: Some(key), ..Meta::default() }
    }

    #[test]
    fn secrets_are_kept_apart_and_count_in_the_digest() {
        let taken = |json| Entrant::new(new(json), keyed()).unwrap();
        let entrant = taken(r#"{"command": ["x"], "secrets": {"K": "hidden"}, "env": {"A": "b"}}"#);
        let request = String::from_utf8(entrant.request.clone()).unwrap();
        assert!(!request.contains("hidden") && request.contains("\"A\":\"b\""), "{request}");
        assert_eq!(entrant.secret.as_deref(), Some(&br#"{"K":"hidden"}"#[..]));
        assert!(!String::from_utf8_lossy(&entrant.object).contains("hidden"));
        assert_eq!(entrant.meta.tenant.as_deref(), Some("t"));
        let digest = |entrant: &Entrant| entrant.key().map(|key| key.digest.clone());
        let same = taken(r#"{"env": {"A": "b"}, "secrets": {"K": "hidden"}, "command": ["x"]}"#);
        assert_eq!(digest(&entrant), digest(&same));
        for other in [
            r#"{"command": ["x"], "secrets": {"K": "other"}, "env": {"A": "b"}}"#,
            r#"{"command": ["y"], "secrets": {"K": "hidden"}, "env": {"A": "b"}}"#,
            r#"{"command": ["x"], "env": {"A": "b"}}"#,
        ] {
            assert_ne!(digest(&entrant), digest(&taken(other)), "{other}");
        }
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let json =
            r#"{"command": ["x"], "secrets": {"K": "hidden"}, "limits": {"wall_ms": 5000}, "priority": 7}"#;
        let mut there = new(json);
        let (request, secret) = split(&mut there).unwrap();
        assert!(read(&request, secret.as_deref()).unwrap() == there && there == new(json));
        let gone = read(&request, None).err().unwrap();
        assert!(gone.to_string().starts_with("secrets are gone"), "{gone}");
        let error = read(&request, Some(b"{\"K\": 1}")).err().unwrap();
        assert_eq!(error.to_string(), "secrets can't be read back");
    }

    #[test]
    fn one_that_has_had_its_start_is_not_claimed_as_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let store = lastword_store::Store::open(dir.path()).unwrap();
        let engine = Engine::new(store, dir.path());
        let entrant = Entrant::new(new(r#"{"command": ["x"]}"#), Meta::default()).unwrap();
        let id = entrant.execution.id;
        engine.store.accept_waiting(&[entrant.waiting()]).pop().unwrap().unwrap();
        let mut running = entrant.execution.clone();
        engine.mark_running(&mut running, &Meta::default()).unwrap();
        assert!(engine.claim(id, None).unwrap().is_none());
        assert!(!engine.store.spool_path(id).exists());
    }

    #[test]
    fn what_can_not_run_does_not_enter() {
        let error = Entrant::new(new(r#"{"runtime": "cobol", "code": "x"}"#), Meta::default());
        assert!(matches!(error, Err(NoEntry::Field(_))));
    }
}

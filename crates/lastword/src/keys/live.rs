//! The keys of a running server: as the file says, read again when it changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lastword_api::Timestamp;

use super::file::{self, Key, Stamp};
use super::{Caller, Error, token};

/// Between two looks at the file. A revoked key must not work for longer than a second.
const LOOK: Duration = Duration::from_millis(500);

/// Threads share one.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// The last that could be read; `None` while there has been no file.
    keys: Option<Arc<HashMap<String, Key>>>,
    /// Of the file that was looked at last, good or not.
    seen: Option<Stamp>,
    looked: Instant,
    problem: Option<String>,
}

impl Keys {
    /// Fails if there is a file that can't be read: a server must not start with half of its keys.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let path = file::path(data_dir);
        let found = file::read(&path)?;
        let seen = found.as_ref().map(|(_, stamp)| *stamp);
        let keys = found.map(|(keys, _)| by_id(keys));
        Ok(Keys { path, state: RwLock::new(State { keys, seen, looked: Instant::now(), problem: None }) })
    }

    /// Whether callers must show a key. Once there was a file the answer stays yes, also when all keys are revoked or the file is
    /// gone: a server never opens by itself.
    pub fn are_required(&self) -> bool {
        self.current().keys.is_some()
    }

    /// No key is there, not even an expired one.
    pub fn is_empty(&self) -> bool {
        self.current().keys.is_none_or(|keys| keys.is_empty())
    }

    /// Why the file can't be read, while the keys that it had before are in force.
    pub fn problem(&self) -> Option<String> {
        self.current().problem
    }

    /// Whose token it is; `None` if it is nobody's, revoked or expired.
    pub fn authenticate(&self, token: &str) -> Option<Caller> {
        let id = token::id_of(token)?;
        let keys = self.current().keys?;
        let key = keys.get(id)?;
        // Equality of these is in constant time.
        if key.digest != token::digest(token) || key.is_expired(Timestamp::now()) {
            return None;
        }
        Some(Caller { tenant: Some(key.tenant.clone()), scopes: key.scopes, key: Some(key.id.clone()) })
    }

    fn current(&self) -> State {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() < LOOK {
            return state.clone();
        }
        drop(state);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have looked meanwhile.
        if state.looked.elapsed() >= LOOK {
            state.look(&self.path);
        }
        state.clone()
    }

    #[cfg(test)]
    fn look_now(&self) {
        self.state.write().unwrap().look(&self.path);
    }
}

impl State {
    fn look(&mut self, path: &Path) {
        self.looked = Instant::now();
        let stamp = match file::stamp(path) {
            Ok(stamp) => stamp,
            Err(error) => return self.keep(&error),
        };
        let unchanged = stamp == self.seen && self.problem.is_none();
        if unchanged || (stamp.is_none() && self.keys.is_none()) {
            return;
        }
        match file::read(path) {
            Ok(Some((keys, stamp))) => {
                if self.problem.take().is_some() || self.seen != Some(stamp) {
                    tracing::info!(keys = keys.len(), "read the keys again");
                }
                self.keys = Some(by_id(keys));
                self.seen = Some(stamp);
            }
            Ok(None) => {
                self.keep(&Error::io("read", path, std::io::Error::from(std::io::ErrorKind::NotFound)))
            }
            Err(error) => self.keep(&error),
        }
    }

    /// Goes on with what was read before. Said once for each reason.
    fn keep(&mut self, error: &Error) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let problem = format!("{error}{cause}; the keys that were read before stay in force");
        if self.problem.as_ref() != Some(&problem) {
            tracing::error!("{problem}");
            self.problem = Some(problem);
        }
    }
}

fn by_id(keys: Vec<Key>) -> Arc<HashMap<String, Key>> {
    Arc::new(keys.into_iter().map(|key| (key.id.clone(), key)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{NewKey, Scope, Token, add, list, revoke};
    use super::*;

    fn new() -> NewKey {
        let scopes = [Scope::Read].into_iter().collect();
        NewKey { name: Some("n".into()), tenant: "acme".into(), scopes, expires_at: None }
    }

    fn made(dir: &Path) -> Token {
        add(dir, new()).unwrap().0
    }

    #[test]
    fn only_the_whole_token_opens() {
        let dir = tempfile::tempdir().unwrap();
        let (token, key) = add(dir.path(), new()).unwrap();
        let other = made(dir.path()).to_string();
        let keys = Keys::open(dir.path()).unwrap();
        let token = token.to_string();
        let caller = keys.authenticate(&token).unwrap();
        assert_eq!((caller.tenant.as_deref(), caller.key), (Some("acme"), Some(key.id.clone())));
        assert!(caller.scopes.allow(Scope::Read) && !caller.scopes.allow(Scope::Run));
        // One key's id with another one's secret, a changed byte, one byte less or more.
        let crossed = format!("lw_{}_{}", key.id, other.splitn(3, '_').nth(2).unwrap());
        let last = if token.ends_with('A') { 'B' } else { 'A' };
        let changed = format!("{}{last}", &token[..token.len() - 1]);
        for wrong in [&crossed, &changed, &token[..token.len() - 1], &format!("{token}A"), &key.id, ""] {
            assert_eq!(keys.authenticate(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_file_has_no_token_and_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let token = made(dir.path()).to_string();
        let path = dir.path().join("keys.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(token.splitn(3, '_').nth(2).unwrap()), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_revoked_key_stops_working_and_nothing_opens() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        assert!(!keys.are_required() && keys.is_empty());
        let (token, key) = add(dir.path(), new()).unwrap();
        let token = token.to_string();
        keys.look_now();
        assert!(keys.authenticate(&token).is_some() && keys.are_required());
        revoke(dir.path(), &key.id).unwrap();
        keys.look_now();
        assert!(keys.authenticate(&token).is_none());
        assert!(keys.are_required() && keys.is_empty(), "the last key is gone, and everybody is let in");
        std::fs::remove_file(dir.path().join("keys.json")).unwrap();
        keys.look_now();
        assert!(keys.are_required() && keys.problem().unwrap().contains("keys.json"));
    }

    #[test]
    fn the_file_is_looked_at_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let (token, key) = add(dir.path(), new()).unwrap();
        let token = token.to_string();
        let keys = Keys::open(dir.path()).unwrap();
        revoke(dir.path(), &key.id).unwrap();
        let start = Instant::now();
        while keys.authenticate(&token).is_some() {
            assert!(start.elapsed() < Duration::from_secs(1), "it works on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_damaged_file_keeps_the_last_good_keys() {
        let dir = tempfile::tempdir().unwrap();
        let token = made(dir.path()).to_string();
        let path = dir.path().join("keys.json");
        let good = std::fs::read(&path).unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let newer = String::from_utf8(good.clone()).unwrap().replace("\"version\": 1", "\"version\": 2");
        let no_digest = String::from_utf8(good.clone()).unwrap().replace("\"digest\": \"", "\"digest\": \"x");
        for bad in [&b""[..], b"{", &good[..good.len() / 2], b"[]", newer.as_bytes(), no_digest.as_bytes()] {
            std::fs::write(&path, bad).unwrap();
            keys.look_now();
            assert!(
                keys.authenticate(&token).is_some() && keys.problem().is_some(),
                "{}",
                bad.escape_ascii()
            );
            assert!(Keys::open(dir.path()).is_err(), "a server started with {}", bad.escape_ascii());
            assert!(add(dir.path(), new()).is_err(), "it was overwritten");
        }
        std::fs::write(&path, &good).unwrap();
        keys.look_now();
        assert!(keys.authenticate(&token).is_some() && keys.problem().is_none());
    }

    #[test]
    fn an_expired_key_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let at = |ns: i64| Some(Timestamp::from_ns(Timestamp::now().ns() + ns));
        let (past, _) = add(dir.path(), NewKey { expires_at: at(-1), ..new() }).unwrap();
        let (future, _) = add(dir.path(), NewKey { expires_at: at(3_600_000_000_000), ..new() }).unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        assert!(keys.authenticate(&past.to_string()).is_none());
        assert!(keys.authenticate(&future.to_string()).is_some());
    }

    #[test]
    fn many_at_a_time_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let make = || {
            for _ in 0..5 {
                made(dir.path());
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(make);
            }
        });
        assert_eq!(list(dir.path()).unwrap().len(), 20);
    }

    #[test]
    fn what_a_killed_writer_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".keys.json.new"), "half").unwrap();
        let token = made(dir.path());
        let keys = Keys::open(dir.path()).unwrap();
        assert!(keys.authenticate(&token.to_string()).is_some());
        assert!(!dir.path().join(".keys.json.new").exists());
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("keys.json")).unwrap();
        file.set_len(super::super::FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(Keys::open(dir.path()), Err(Error::TooLong { .. })));
    }

    #[test]
    fn what_a_key_must_not_be() {
        let dir = tempfile::tempdir().unwrap();
        assert!(add(dir.path(), NewKey { tenant: "A".into(), ..new() }).is_err());
        assert!(add(dir.path(), NewKey { scopes: Default::default(), ..new() }).is_err());
        assert!(add(dir.path(), NewKey { name: Some("x".repeat(101)), ..new() }).is_err());
        assert!(revoke(dir.path(), "abcdefghij").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

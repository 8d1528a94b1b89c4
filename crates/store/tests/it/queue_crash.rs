//! A fault at every operation on the disk while executions are accepted to wait, are taken, ended and removed.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use lastword_store::{Error, Meta, RequestKey, Store, Waiting, limits};
use uuid::Uuid;

use crate::faulty::{Cut, Fault, FaultyDisk};
use crate::support::*;

const EXECUTIONS: usize = 5;
/// Handed over; of the others one is given up before that, and the rest is left to wait.
const TAKEN: usize = 0;
const GIVEN_UP: usize = 1;

/// Of every other one.
fn secret_of(n: usize) -> Option<Vec<u8>> {
    n.is_multiple_of(2).then(|| format!("secret {n}").into_bytes())
}

fn request_of(n: usize) -> Vec<u8> {
    noise(n as u64, if n == 1 { limits::CHUNK_BYTES_MAX + 500 } else { 700 * n })
}

fn meta_of(n: usize) -> Meta {
    let key = Some(RequestKey { name: format!("key {n}"), digest: format!("digest {n}") });
    Meta { key, created_ns: i64::MAX / 2, ..queued() }
}

/// What the store has said.
#[derive(Default)]
struct Promises {
    accepted: Vec<Uuid>,
    update_tried: bool,
    updated: bool,
    ended: bool,
    remove_tried: bool,
    removed: bool,
    errors: Vec<Error>,
}

fn accept(store: &Store, ids: &[Uuid], which: std::ops::Range<usize>, promises: &mut Promises) {
    let parts: Vec<_> = which.map(|n| (ids[n], meta_of(n), request_of(n), secret_of(n))).collect();
    let items: Vec<Waiting<'_>> = parts
        .iter()
        .map(|(id, meta, request, secret)| Waiting {
            id: *id,
            meta,
            object: b"{}",
            request,
            secret: secret.as_deref(),
        })
        .collect();
    for (item, result) in items.iter().zip(store.accept_waiting(&items)) {
        match result {
            Ok(()) => promises.accepted.push(item.id),
            Err(error) => promises.errors.push(error),
        }
    }
}

fn take(store: &Store, id: Uuid, promises: &mut Promises) -> Result<(), Error> {
    let mut spool = store.create_spool(id)?;
    drop(store.create_pack(id)?);
    promises.update_tried = true;
    store.update(id, &Meta { status: "running".into(), ..meta_of(TAKEN) }, &object(id, "running"))?;
    promises.updated = true;
    spool.file.write_all(&transcript(id, b"x")).unwrap();
    store.finish(spool, &Meta { key: meta_of(TAKEN).key, ..meta("succeeded", Some(true)) }, b"{}")?;
    promises.ended = true;
    promises.remove_tried = true;
    store.remove(id)?;
    promises.removed = true;
    Ok(())
}

fn work(dir: &Path, ids: &[Uuid], disk: &FaultyDisk, copy_index_after: Option<usize>) -> Promises {
    let mut promises = Promises::default();
    let store = match Store::open_on(dir, Arc::new(disk.clone())) {
        Ok(store) => store,
        Err(error) => {
            promises.errors.push(error);
            return promises;
        }
    };
    let copy = |step| {
        if copy_index_after == Some(step) {
            let index = rusqlite::Connection::open(dir.join("index.sqlite")).unwrap();
            index.execute("VACUUM INTO ?", [dir.join("copy").to_str().unwrap()]).unwrap();
        }
    };
    copy(0);
    accept(&store, ids, 0..3, &mut promises);
    copy(1);
    accept(&store, ids, 3..4, &mut promises);
    if promises.accepted.contains(&ids[TAKEN])
        && let Err(error) = take(&store, ids[TAKEN], &mut promises)
    {
        promises.errors.push(error);
    }
    copy(2);
    if promises.accepted.contains(&ids[GIVEN_UP]) {
        // Killed before its program was handed over.
        let begun = store.create_spool(ids[GIVEN_UP]).and_then(|spool| {
            let pack = store.create_pack(ids[GIVEN_UP])?;
            Ok((spool, pack))
        });
        promises.errors.extend(begun.err());
    }
    accept(&store, ids, 4..EXECUTIONS, &mut promises);
    promises
}

/// `strict`: nothing is lost or old but what the fault itself has lost.
fn check(dir: &Path, ids: &[Uuid], promises: &Promises, strict: bool, index_kept: bool) {
    let store = Store::open(dir).unwrap();
    adopt(&store);
    assert_eq!(adopt(&store), 0);
    let waiting = waiting_ids(&store);
    for (n, id) in ids.iter().enumerate() {
        let handed_over = n == TAKEN && promises.updated;
        let may_be = n == TAKEN && promises.update_tried;
        let entry = store.get(*id).unwrap();
        if promises.accepted.contains(id) && !promises.remove_tried {
            assert!(entry.is_some(), "{n} was accepted");
        }
        if promises.accepted.contains(id) && n != TAKEN {
            assert!(waiting.contains(id), "{n} waits no more");
        }
        assert!(!handed_over || !waiting.contains(id), "{n} waits again");
        assert!(!waiting.contains(id) || entry.as_ref().is_some_and(|entry| !entry.ended));
        assert!(entry.is_none_or(|entry| entry.ended || waiting.contains(id)), "{n} is stuck");
        if waiting.contains(id) {
            match store.request(*id) {
                Ok(request) => assert!(request.unwrap() == request_of(n), "{n} has another request"),
                // Only what nobody was told of, and only where the index was lost with all that it knew.
                Err(error) => assert!(!index_kept && !promises.accepted.contains(id), "{n}: {error}"),
            }
            assert_eq!(store.secret(*id).unwrap(), secret_of(n), "the secret of {n}");
            assert_eq!(store.get(*id).unwrap().unwrap().meta.status, "queued");
        }
        let key = store.by_key(None, &format!("key {n}"), 0).unwrap();
        assert_eq!(
            key.as_ref().map(|key| key.id),
            store.get(*id).unwrap().map(|_| *id).or(key.as_ref().map(|key| key.id))
        );
        if promises.accepted.contains(id) {
            let key = key.unwrap();
            assert_eq!(key.digest, format!("digest {n}"));
            assert!(!(n == TAKEN && promises.removed) || key.removed);
        }
        let secret = dir.join(format!("spool/{id}.secret"));
        assert_eq!(
            secret.exists(),
            waiting.contains(id) && secret_of(n).is_some(),
            "leftover secret of {n}, tried {may_be}"
        );
    }
    assert!(!promises.removed || store.get(ids[TAKEN]).unwrap().is_none());
    check_packs(dir, &store);
    let report = store.verify_segments().unwrap();
    assert!(!strict || report.problems.is_empty(), "{report:?}");
    for item in std::fs::read_dir(dir.join("spool")).unwrap() {
        let path = item.unwrap().path();
        let id = path.file_stem().and_then(|id| id.to_str()?.parse().ok());
        let may_stay = match path.extension().and_then(|end| end.to_str()) {
            Some("secret") => true,
            // A power cut may take the spool and leave its FIFO, which goes with the next one.
            Some("control") => !strict && id.is_some_and(|id| waiting.contains(&id)),
            _ => false,
        };
        assert!(may_stay, "leftover {}", path.display());
    }
    let before = everything(&store);
    drop(store);
    remove_index(dir);
    let store = Store::open(dir).unwrap();
    // Without the index nobody knows that a damaged request was never acknowledged; it isn't dropped in silence.
    let doubtful = |id: &Uuid| !promises.accepted.contains(id) && store.request(*id).is_err();
    let mut after = everything(&store);
    after.retain(|(id, ..)| !doubtful(id) || before.iter().any(|(known, ..)| known == id));
    assert_eq!(after, before, "after the index was made anew");
    let mut after = waiting_ids(&store);
    after.retain(|id| !doubtful(id) || waiting.contains(id));
    assert_eq!(after, waiting);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IndexAfter {
    Kept,
    Deleted,
    Old(usize),
}

fn with_fault(fault: Fault, at: u64, cut: Option<Cut>, index: IndexAfter) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<Uuid> = (0..EXECUTIONS).map(|_| Uuid::now_v7()).collect();
    let disk = FaultyDisk::new(Some((at, fault)));
    let old = if let IndexAfter::Old(step) = index { Some(step) } else { None };
    let promises = work(dir.path(), &ids, &disk, old);
    let reached = disk.operations() > at;
    if let Some(cut) = cut {
        disk.power_cut(dir.path(), cut);
    }
    let copy = dir.path().join("copy");
    match index {
        IndexAfter::Deleted => remove_index(dir.path()),
        IndexAfter::Old(_) if copy.exists() => {
            remove_index(dir.path());
            std::fs::rename(copy, dir.path().join("index.sqlite")).unwrap();
        }
        _ => {}
    }
    let what = format!("{fault:?} at {at}, {cut:?}, index {index:?}, errors {:?}", promises.errors);
    let strict = cut.is_none() && index == IndexAfter::Kept;
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check(dir.path(), &ids, &promises, strict, index != IndexAfter::Deleted)
    }));
    assert!(checked.is_ok(), "{what}");
    reached
}

/// Until the fault lies behind the last operation.
fn every_operation(mut with: impl FnMut(u64) -> bool) {
    let operations = (0..).take_while(|at| with(*at)).count();
    assert!(operations > 30, "only {operations} operations");
}

#[test]
fn killed_at_every_operation() {
    every_operation(|at| {
        with_fault(Fault::Stop, at, None, IndexAfter::Kept);
        with_fault(Fault::StopHalfway, at, None, IndexAfter::Kept)
    });
}

#[test]
fn killed_at_every_operation_and_the_index_is_gone() {
    every_operation(|at| with_fault(Fault::StopHalfway, at, None, IndexAfter::Deleted));
}

#[test]
fn power_cut_at_every_operation() {
    every_operation(|at| {
        with_fault(Fault::StopHalfway, at, Some(Cut::Some(at * 7 + 1)), IndexAfter::Kept);
        with_fault(Fault::Stop, at, Some(Cut::Nothing), IndexAfter::Kept)
    });
}

#[test]
fn power_cut_at_every_operation_and_the_index_is_older_or_gone() {
    every_operation(|at| {
        with_fault(Fault::StopHalfway, at, Some(Cut::Some(at * 7 + 2)), IndexAfter::Deleted);
        with_fault(Fault::StopHalfway, at, Some(Cut::Some(at * 7 + 3)), IndexAfter::Old(at as usize % 3));
        with_fault(Fault::Stop, at, Some(Cut::Nothing), IndexAfter::Old(at as usize / 20))
    });
}

#[test]
fn disk_full_or_broken_at_every_operation() {
    every_operation(|at| {
        with_fault(Fault::Full, at, None, IndexAfter::Kept);
        with_fault(Fault::Full, at, Some(Cut::Nothing), IndexAfter::Kept);
        with_fault(Fault::Fail, at, None, IndexAfter::Kept);
        with_fault(Fault::Fail, at, Some(Cut::Some(at)), IndexAfter::Kept)
    });
}

//! A fault at every operation on the disk, with and without a power cut, and with every state of the index that
//! SQLite's `synchronous=NORMAL` may leave.

use std::path::Path;
use std::sync::Arc;

use lastword_store::{Error, Store, limits};
use uuid::Uuid;

use crate::faulty::{Cut, Fault, FaultyDisk};
use crate::support::*;

/// What the store had promised, and what was asked and not answered.
#[derive(Default)]
struct Promises {
    accepted: Vec<Uuid>,
    ended: Vec<Uuid>,
    removed: Vec<Uuid>,
    remove_tried: Vec<Uuid>,
    errors: Vec<Error>,
}

const EXECUTIONS: usize = 5;
/// This one goes into a segment of its own, where that is tried: it takes most of the time.
const LARGE: usize = 2;

/// Every other one leaves files.
fn outputs_of(n: usize) -> Vec<(&'static str, Vec<u8>)> {
    if n % 2 == 1 || n == 0 { some_outputs(n as u64) } else { Vec::new() }
}

fn begin_one(
    store: &Store,
    disk: &FaultyDisk,
    n: usize,
    id: Uuid,
    large: bool,
) -> Result<lastword_store::Spool, Error> {
    match &outputs_of(n)[..] {
        [] => begin(store, id, &transcript(id, &stdout_of(n, large))),
        outputs => begin_with_outputs(store, disk, id, &stdout_of(n, large), outputs),
    }
}

fn stdout_of(n: usize, large: bool) -> Vec<u8> {
    match n {
        LARGE if large => vec![b'y'; limits::SMALL_TRANSCRIPT_BYTES_MAX as usize / 2 + 1000],
        n => noise(n as u64, 2000),
    }
}

/// Accepts, starts, ends and removes. Goes on after an error unless the disk is dead.
fn work(
    dir: &Path,
    ids: &[Uuid],
    disk: &FaultyDisk,
    large: bool,
    copy_index_after: Option<usize>,
) -> Promises {
    let mut promises = Promises::default();
    let store = match Store::open_on(dir, Arc::new(disk.clone())) {
        Ok(store) => store,
        Err(error) => {
            promises.errors.push(error);
            return promises;
        }
    };
    let mut step = 0;
    let mut copy = || {
        step += 1;
        if copy_index_after == Some(step) {
            let index = rusqlite::Connection::open(dir.join("index.sqlite")).unwrap();
            index.execute("VACUUM INTO ?", [dir.join("copy").to_str().unwrap()]).unwrap();
        }
    };
    copy();
    for (n, id) in ids.iter().enumerate() {
        let mut attempt = || -> Result<(), Error> {
            let spool = begin_one(&store, disk, n, *id, large)?;
            promises.accepted.push(*id);
            copy();
            store.update(*id, &meta("running", None), b"started")?;
            copy();
            if n + 1 < EXECUTIONS {
                end(&store, spool)?;
                promises.ended.push(*id);
                copy();
            }
            if n == 1 {
                promises.remove_tried.push(ids[0]);
                store.remove(ids[0])?;
                promises.removed.push(ids[0]);
                copy();
            }
            Ok(())
        };
        if let Err(error) = attempt() {
            promises.errors.push(error);
        }
    }
    promises
}

/// `strict`: damage may not be reported, because nothing was cut behind the index's back. `known`: the index was not
/// taken away, so it knows what in a tail was never acknowledged.
fn check(dir: &Path, ids: &[Uuid], promises: &Promises, large: bool, strict: bool, known: bool) {
    let store = Store::open(dir).unwrap();
    for id in &promises.removed {
        assert!(store.get(*id).unwrap().is_none(), "{id} was removed");
    }
    for (n, id) in ids.iter().enumerate() {
        let entry = store.get(*id).unwrap();
        let gone = entry.is_none();
        assert!(
            !gone || !promises.accepted.contains(id) || promises.remove_tried.contains(id),
            "{n} was accepted"
        );
        if let Some(entry) = entry
            && promises.ended.contains(id)
        {
            assert!(entry.ended, "{n} had ended");
            assert_eq!(entry.meta.status, "succeeded");
        }
    }
    adopt(&store);
    assert_eq!(adopt(&store), 0);
    let check_bytes = || {
        for (n, id) in ids.iter().enumerate() {
            let Some(entry) = store.get(*id).unwrap() else { continue };
            assert!(entry.ended, "{n} is stuck");
            let verdict = store.verify(*id).unwrap();
            assert!(entry.damaged || verdict.problems.is_empty(), "{n}: {:?}", verdict.problems);
            assert!(!entry.damaged || (!known && !promises.ended.contains(id)), "{n} was whole");
            if entry.meta.complete == Some(true) {
                let outputs = read_outputs(&store, *id).unwrap();
                let expected = outputs_of(n);
                // None at all, where they could not be synced.
                if !outputs.is_empty() {
                    assert_eq!(outputs.len(), expected.len());
                    for ((path, bytes), (wanted, whole)) in outputs.iter().zip(&expected) {
                        assert!(path == wanted && bytes == whole, "{n} has another {path}");
                    }
                }
                let kept = if outputs.is_empty() { &[][..] } else { &expected };
                assert!(
                    read(&store, *id).unwrap() == transcript_with(*id, &stdout_of(n, large), kept),
                    "{n} is complete with other bytes"
                );
            }
        }
    };
    check_bytes();
    check_packs(dir, &store);
    let late = Uuid::now_v7();
    run(&store, late, &transcript(late, b"after the crash")).unwrap();
    check_bytes();
    let report = store.verify_segments().unwrap();
    assert!(!strict || report.problems.is_empty(), "{report:?}");
    let before = everything(&store);
    drop(store);
    assert!(std::fs::read_dir(dir.join("spool")).unwrap().next().is_none(), "leftover spool");
    remove_index(dir);
    assert_eq!(everything(&Store::open(dir).unwrap()), before, "after the index was made anew");
}

/// What is done to the index behind a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IndexAfter {
    Kept,
    Deleted,
    /// As it was after so many steps.
    Old(usize),
}

fn with_fault(fault: Fault, at: u64, cut: Option<Cut>, index: IndexAfter) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<Uuid> = (0..EXECUTIONS).map(|_| Uuid::now_v7()).collect();
    let disk = FaultyDisk::new(Some((at, fault)));
    let old = match index {
        IndexAfter::Old(step) => Some(step),
        _ => None,
    };
    let large = index == IndexAfter::Kept
        && matches!((fault, cut), (Fault::Stop, None | Some(Cut::Nothing)) | (Fault::Full, None));
    let promises = work(dir.path(), &ids, &disk, large, old);
    let reached = disk.operations() > at;
    if let Some(cut) = cut {
        disk.power_cut(dir.path(), cut);
    }
    match index {
        IndexAfter::Kept => {}
        IndexAfter::Deleted => remove_index(dir.path()),
        IndexAfter::Old(_) => {
            let copy = dir.path().join("copy");
            if copy.exists() {
                remove_index(dir.path());
                std::fs::rename(copy, dir.path().join("index.sqlite")).unwrap();
            }
        }
    }
    let what = format!("{fault:?} at {at}, {cut:?}, index {index:?}, errors {:?}", promises.errors);
    let known = index == IndexAfter::Kept;
    let strict = cut.is_none() && index == IndexAfter::Kept;
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check(dir.path(), &ids, &promises, large, strict, known)
    }));
    assert!(checked.is_ok(), "{what}");
    assert!(matches!(fault, Fault::Stop | Fault::StopHalfway) == disk.stopped() || !reached, "{what}");
    reached
}

/// Until the fault lies behind the last operation.
fn every_operation(mut with: impl FnMut(u64) -> bool) {
    let operations = (0..).take_while(|at| with(*at)).count();
    assert!(operations > 30, "only {operations} operations");
}

#[test]
fn killed_at_every_operation() {
    every_operation(|at| with_fault(Fault::Stop, at, None, IndexAfter::Kept));
}

#[test]
fn killed_halfway_through_every_write() {
    every_operation(|at| with_fault(Fault::StopHalfway, at, None, IndexAfter::Kept));
}

#[test]
fn killed_at_every_operation_and_the_index_is_gone() {
    every_operation(|at| with_fault(Fault::StopHalfway, at, None, IndexAfter::Deleted));
}

#[test]
fn power_cut_at_every_operation_that_loses_all_that_was_not_synced() {
    every_operation(|at| with_fault(Fault::Stop, at, Some(Cut::Nothing), IndexAfter::Kept));
}

#[test]
fn power_cut_at_every_operation_that_leaves_some_blocks() {
    every_operation(|at| {
        (0..2)
            .all(|seed| with_fault(Fault::StopHalfway, at, Some(Cut::Some(at * 10 + seed)), IndexAfter::Kept))
    });
}

#[test]
fn power_cut_at_every_operation_and_the_index_is_older_or_gone() {
    every_operation(|at| {
        let cut = |seed| Some(Cut::Some(at * 10 + seed));
        with_fault(Fault::StopHalfway, at, cut(0), IndexAfter::Deleted);
        with_fault(Fault::StopHalfway, at, cut(1), IndexAfter::Old(at as usize % 16));
        with_fault(Fault::Stop, at, Some(Cut::Nothing), IndexAfter::Old(at as usize / 4))
    });
}

#[test]
fn disk_full_at_every_operation() {
    every_operation(|at| with_fault(Fault::Full, at, None, IndexAfter::Kept));
}

#[test]
fn disk_full_at_every_operation_then_power_cut() {
    every_operation(|at| with_fault(Fault::Full, at, Some(Cut::Nothing), IndexAfter::Kept));
}

#[test]
fn io_error_at_every_operation() {
    every_operation(|at| with_fault(Fault::Fail, at, None, IndexAfter::Kept));
}

#[test]
fn io_error_at_every_operation_then_power_cut() {
    every_operation(|at| with_fault(Fault::Fail, at, Some(Cut::Some(at)), IndexAfter::Kept));
}

#[test]
fn a_full_disk_says_so_and_leaves_no_junk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    run(&store, Uuid::now_v7(), b"x").unwrap();
    let length = std::fs::metadata(&segments(dir.path())[0]).unwrap().len();
    drop(store);
    // The first operation of this store is the append of the accept.
    let store = Store::open_on(dir.path(), Arc::new(FaultyDisk::new(Some((0, Fault::Full))))).unwrap();
    let id = Uuid::now_v7();
    match store.accept(id, &meta("queued", None), b"{}") {
        Err(error @ Error::StorageFull { .. }) => assert!(error.to_string().contains("is full"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::metadata(&segments(dir.path())[0]).unwrap().len(), length);
    assert!(store.get(id).unwrap().is_none());
    store.accept(id, &meta("queued", None), b"{}").unwrap();
}

//! Bytes on disk that are not what was written.

use std::path::Path;

use lastword_store::Store;
use uuid::Uuid;

use crate::support::*;

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn one_flipped_byte_anywhere_is_named_and_hurts_one_execution() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    for (n, id) in ids.iter().enumerate() {
        run(&store, *id, &transcript(*id, &noise(n as u64, 400))).unwrap();
    }
    drop(store);
    let before = everything(&Store::open(dir.path()).unwrap());
    let segment = segments(dir.path()).remove(0);
    let length = std::fs::metadata(&segment).unwrap().len() as usize;
    // Every byte of a header, and every seventh of the rest.
    for at in (0..length).filter(|at| *at < 220 || at % 7 == 0) {
        flip(&segment, at);
        {
            let store = Store::open(dir.path()).unwrap();
            let report = store.verify_segments().unwrap();
            assert!(!report.problems.is_empty(), "byte {at} is not named");
            assert!(report.problems.iter().all(|p| p.contains(segment.to_str().unwrap())), "{report:?}");
            let hurt = ids.iter().filter(|id| !store.verify(**id).unwrap().complete).count();
            // The header of the segment is part of everybody's record.
            assert!(hurt <= 1 || at < 64, "byte {at} hurts {hurt}");
            assert!(hurt == 3 || at >= 64, "byte {at}");
            for (id, _, _, bytes) in &before {
                let now = read(&store, *id);
                assert!(now.is_err() || now.unwrap() == *bytes.as_ref().unwrap(), "byte {at}: other bytes");
            }
        }
        flip(&segment, at);
    }
    assert_eq!(everything(&Store::open(dir.path()).unwrap()), before);
}

#[test]
fn damage_is_never_cut_and_others_come_back_without_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
    for (n, id) in ids.iter().enumerate() {
        run(&store, *id, &transcript(*id, &noise(n as u64, 400))).unwrap();
    }
    drop(store);
    let segment = segments(dir.path()).remove(0);
    let whole = std::fs::read(&segment).unwrap();
    for at in (64..whole.len()).step_by(31) {
        flip(&segment, at);
        remove_index(dir.path());
        let store = Store::open(dir.path()).unwrap();
        adopt(&store);
        assert_eq!(std::fs::metadata(&segment).unwrap().len(), whole.len() as u64, "byte {at}");
        assert!(!store.verify_segments().unwrap().problems.is_empty(), "byte {at}");
        let complete = |id: &&Uuid| store.get(**id).unwrap().is_some_and(|e| e.meta.complete == Some(true));
        for id in ids.iter().filter(complete) {
            assert!(store.verify(*id).unwrap().complete, "byte {at}");
        }
        assert!(ids.iter().filter(complete).count() >= 3, "byte {at}");
        let late = Uuid::now_v7();
        run(&store, late, &transcript(late, b"goes elsewhere")).unwrap();
        drop(store);
        std::fs::write(&segment, &whole).unwrap();
        for other in segments(dir.path()).into_iter().filter(|path| *path != segment) {
            std::fs::remove_file(other).unwrap();
        }
    }
}

#[test]
fn a_program_cannot_print_an_entry() {
    // A removed execution's accept is printed by another, byte for byte, and damage makes a reader look for entries.
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    run(&store, Uuid::now_v7(), b"x").unwrap();
    let stolen = std::fs::read(&segments(dir.path())[0]).unwrap();
    let hostile = Uuid::now_v7();
    // Behind noise, so that it is stored as it is.
    let bytes = [noise(1, 200_000), stolen].concat();
    run(&store, hostile, &bytes).unwrap();
    let count = store.ids().unwrap().len();
    drop(store);
    let segment = segments(dir.path()).remove(0);
    let length = std::fs::metadata(&segment).unwrap().len() as usize;
    flip(&segment, length - 150_000);
    remove_index(dir.path());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.ids().unwrap().len(), count);
    assert!(store.get(hostile).unwrap().unwrap().damaged);
    assert!(read(&store, hostile).is_err());
}

#[test]
fn a_lost_segment_is_named_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = Uuid::now_v7();
    run(&store, id, &transcript(id, b"x")).unwrap();
    drop(store);
    let segment = segments(dir.path()).remove(0);
    let whole = std::fs::read(&segment).unwrap();
    for cut in [Some(whole.len() - 10), Some(70), Some(3), Some(0), None] {
        match cut {
            Some(length) => std::fs::write(&segment, &whole[..length]).unwrap(),
            None => std::fs::remove_file(&segment).unwrap(),
        }
        let store = Store::open(dir.path()).unwrap();
        let verdict = store.verify(id).unwrap();
        assert!(!verdict.complete && !verdict.problems.is_empty(), "{cut:?}");
        assert!(!store.verify_segments().unwrap().problems.is_empty(), "{cut:?}");
        let late = Uuid::now_v7();
        run(&store, late, &transcript(late, b"y")).unwrap();
        assert!(store.verify(late).unwrap().complete);
    }
}

#[test]
fn removed_bytes_are_gone_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let secret = b"do not keep this line, whatever happens";
    let [gone, kept] = [(); 2].map(|()| Uuid::now_v7());
    for id in [gone, kept] {
        let line = if id == gone { &secret[..] } else { b"this one may stay" };
        run(&store, id, &transcript(id, &[&noise(3, 900), line].concat())).unwrap();
    }
    store.remove(gone).unwrap();
    let bytes = std::fs::read(&segments(dir.path())[0]).unwrap();
    assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    check_claims(&store);
    let before = everything(&store);
    drop(store);
    remove_index(dir.path());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(everything(&store), before);
    check_claims(&store);
    run(&store, Uuid::now_v7(), b"x").unwrap();
    assert_eq!(segments(dir.path()).len(), 1, "holes do not close a segment");
}

#[test]
fn a_torn_tail_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    run(&store, ids[0], &transcript(ids[0], b"x")).unwrap();
    let segment = segments(dir.path()).remove(0);
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    let one = length(&segment);
    run(&store, ids[1], &transcript(ids[1], &noise(1, 3000))).unwrap();
    drop(store);
    let two = length(&segment);
    let whole = std::fs::read(&segment).unwrap();
    for tail in [b"x".to_vec(), vec![0; 5000], noise(1, 5000), whole[one as usize..].to_vec()] {
        std::fs::write(&segment, [&whole[..], &tail].concat()).unwrap();
        drop(Store::open(dir.path()).unwrap());
        assert_eq!(length(&segment), two);
    }
    let store = Store::open(dir.path()).unwrap();
    run(&store, ids[2], &transcript(ids[2], b"y")).unwrap();
    assert!(length(&segment) > two, "it is written to again");
    check_claims(&store);
}

#[test]
fn a_tombstone_holds_for_data_in_any_segment() {
    let dir = tempfile::tempdir().unwrap();
    // Two writers at a time have a segment each; the tombstone comes to stand before the data in one case, behind in the other.
    let stores = [(); 2].map(|()| Store::open(dir.path()).unwrap());
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
    for (n, id) in ids.iter().enumerate() {
        run(&stores[n % 2], *id, &transcript(*id, b"x")).unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 2);
    stores[1].remove(ids[0]).unwrap();
    stores[0].remove(ids[1]).unwrap();
    let before = everything(&stores[0]);
    assert_eq!(before.len(), 2);
    drop(stores);
    remove_index(dir.path());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(everything(&store), before);
    check_claims(&store);
}

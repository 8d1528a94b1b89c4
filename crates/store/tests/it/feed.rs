//! Events: each change once, in order, and cursors that don't lie.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use lastword_store::{Cursor, Error, Event, EventChange, Store, limits};
use uuid::Uuid;

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn index(dir: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.join("index.sqlite")).unwrap()
}

/// Status, or "removed", and whether it has ended.
fn brief(event: &Event) -> (Uuid, String, bool) {
    match &event.change {
        EventChange::Status { status, ended } => (event.id, status.clone(), *ended),
        EventChange::Removed => (event.id, "removed".into(), true),
    }
}

fn all(store: &Store) -> Vec<Event> {
    store.events(None, usize::MAX).unwrap()
}

#[test]
fn each_change_is_one_event() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let start = store.newest_event().unwrap();
    assert_eq!((start.seq, all(&store)), (0, Vec::new()));
    assert!((1..1 << 53).contains(&start.feed));
    let [one, two] = [(); 2].map(|()| Uuid::now_v7());
    enqueue(&store, one, b"code", None).unwrap();
    let spool = begin(&store, two, b"").unwrap();
    let (mut running, ended) = (meta("running", None), meta("succeeded", Some(true)));
    running.tenant = Some("t".into());
    store.update(one, &running, b"{}").unwrap();
    // Nothing that changes its status.
    store.update(one, &running, b"{\"progress\":1}").unwrap();
    store.update(two, &meta("running", None), b"{}").unwrap();
    store.finish(store.create_spool(one).unwrap(), &ended, b"{}").unwrap();
    // The same word, but an end.
    store.finish(spool, &meta("running", Some(false)), b"{}").unwrap();
    store.update(two, &ended, b"{}").unwrap();
    store.remove(two).unwrap();
    let events = all(&store);
    let expected = [
        (one, "queued".to_owned(), false),
        (two, "running".to_owned(), false),
        (one, "running".to_owned(), false),
        (one, "succeeded".to_owned(), true),
        (two, "running".to_owned(), true),
        (two, "removed".to_owned(), true),
    ];
    assert_eq!(events.iter().map(brief).collect::<Vec<_>>(), expected);
    let seqs: Vec<u64> = events.iter().map(|event| event.cursor.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    assert!(events.iter().all(|event| event.cursor.feed == start.feed));
    assert_eq!(events[0].meta, Some(ended), "as it is now");
    assert_eq!(events[1].meta, None, "removed since");
    assert_eq!(events[2].tenant.as_deref(), Some("t"));
    assert!(events.windows(2).all(|pair| pair[0].time_ns <= pair[1].time_ns + 1_000_000));
    // In pages.
    let mut paged = Vec::new();
    let mut place = None;
    loop {
        let page = store.events(place, 4).unwrap();
        paged.extend(page.clone());
        let Some(last) = page.last() else { break };
        assert!(page.len() == 4 || last.cursor == store.newest_event().unwrap());
        place = Some(last.cursor);
    }
    assert_eq!(paged, events);
    assert_eq!(store.events(Some(start), 2).unwrap(), events[..2]);
    let gone = |cursor| matches!(store.events(Some(cursor), 1), Err(Error::CursorGone { .. }));
    assert!(gone(Cursor { seq: 7, ..start }) && gone(Cursor { feed: start.feed ^ 1, seq: 1 }));
}

#[test]
fn threads_and_other_stores_make_each_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [(); 2].map(|()| Store::open(dir.path()).unwrap());
    let start = stores[0].newest_event().unwrap();
    const EACH: usize = 12;
    let follower = Store::open(dir.path()).unwrap();
    let seen = std::thread::scope(|scope| {
        for thread in 0..6 {
            let store = &stores[thread % 2];
            scope.spawn(move || {
                for n in 0..EACH {
                    let id = Uuid::now_v7();
                    enqueue(store, id, b"code", None).unwrap();
                    let spool = store.create_spool(id).unwrap();
                    store.update(id, &meta("running", None), b"{}").unwrap();
                    end(store, spool).unwrap();
                    if n % 3 == 0 {
                        store.remove(id).unwrap();
                    }
                }
            });
        }
        let expected = 6 * (3 * EACH + EACH / 3);
        let mut seen: Vec<Event> = Vec::new();
        let mut place = start;
        let since = Instant::now();
        while seen.len() < expected && since.elapsed() < PATIENCE {
            follower.wait_for_event(place, PATIENCE).unwrap();
            seen.extend(follower.events(Some(place), 5).unwrap());
            place = seen.last().unwrap().cursor;
        }
        assert_eq!(seen.len(), expected);
        seen
    });
    let kept = all(&stores[0]);
    assert_eq!(kept.iter().map(brief).collect::<Vec<_>>(), seen.iter().map(brief).collect::<Vec<_>>());
    let mut of: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
    seen.iter().for_each(|event| of.entry(event.id).or_default().push(brief(event).1));
    assert_eq!(of.len(), 6 * EACH);
    for changes in of.values() {
        assert!(*changes == ["queued", "running", "succeeded"] || changes[3..] == ["removed"], "{changes:?}");
    }
}

#[test]
fn who_waits_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [(); 2].map(|()| Store::open(dir.path()).unwrap());
    let waiter = &stores[0];
    let seen = waiter.newest_event().unwrap();
    let since = Instant::now();
    assert_eq!(waiter.wait_for_event(seen, Duration::from_millis(30)).unwrap(), seen);
    assert!(since.elapsed() >= Duration::from_millis(30));
    let elsewhere = Cursor { feed: seen.feed ^ 1, seq: seen.seq };
    assert_eq!(waiter.wait_for_event(elsewhere, PATIENCE).unwrap(), seen);
    let mut latencies = [(); 2].map(|()| Vec::new());
    for round in 0..30 {
        for (from, store) in stores.iter().enumerate() {
            let seen = waiter.newest_event().unwrap();
            let woken = std::thread::scope(|scope| {
                let thread = scope.spawn(move || {
                    let newest = waiter.wait_for_event(seen, PATIENCE).unwrap();
                    (newest, Instant::now())
                });
                // Not always in the same place of the waiter's own rhythm.
                std::thread::sleep(Duration::from_millis(5 + round));
                enqueue(store, Uuid::now_v7(), b"", None).unwrap();
                let done = Instant::now();
                let (newest, woken) = thread.join().unwrap();
                assert_eq!(newest, Cursor { seq: seen.seq + 1, ..seen });
                woken.saturating_duration_since(done)
            });
            assert!(woken < PATIENCE / 3, "only its patience has ended");
            latencies[from].push(woken);
        }
    }
    latencies.iter_mut().for_each(|latencies| latencies.sort());
    let [own, others] = latencies.map(|latencies| latencies[latencies.len() / 2]);
    println!("median: own {own:?}, another store's {others:?}");
    assert!(own < limits::EVENTS_LOOK / 5, "{own:?}");
}

#[test]
fn old_events_go_in_passing_and_their_cursors_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for _ in 0..20 {
        enqueue(&store, Uuid::now_v7(), b"", None).unwrap();
    }
    let places: Vec<Cursor> = all(&store).iter().map(|event| event.cursor).collect();
    let sql = "INSERT INTO events (seq, id, time_ns, status, ended, removed) VALUES (?, zeroblob(16), 0, 'x', 0, 0)";
    index(dir.path()).execute(sql, [limits::EVENTS_KEPT_MAX as i64 + 10]).unwrap();
    let mut oldest = Vec::new();
    for _ in 0..8 {
        enqueue(&store, Uuid::now_v7(), b"", None).unwrap();
        oldest.push(store.events(None, 1).unwrap()[0].cursor.seq);
    }
    assert_eq!(oldest, [3, 5, 7, 9, 11, 13, 15, 17], "twice as many as come in");
    assert_eq!(store.events(Some(places[15]), 1).unwrap()[0].cursor.seq, 17, "nothing of it is gone");
    assert!(matches!(store.events(Some(places[14]), 1), Err(Error::CursorGone { seq: 15 })));
    for _ in 0..8 {
        enqueue(&store, Uuid::now_v7(), b"", None).unwrap();
    }
    let newest = store.newest_event().unwrap().seq;
    assert_eq!(newest, limits::EVENTS_KEPT_MAX + 26);
    assert_eq!(
        store.events(None, 1).unwrap()[0].cursor.seq,
        limits::EVENTS_KEPT_MAX + 10,
        "none is kept longer"
    );
}

#[test]
fn a_feed_is_new_exactly_when_its_numbers_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.sqlite");
    let open = || Store::open(dir.path()).unwrap();
    let store = open();
    let feed = store.newest_event().unwrap().feed;
    enqueue(&store, Uuid::now_v7(), b"code", None).unwrap();
    drop(store);
    index(dir.path()).execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    let store = open();
    ids.iter().for_each(|id| enqueue(&store, *id, b"code", None).unwrap());
    let seen = store.newest_event().unwrap();
    assert_eq!(seen, Cursor { feed, seq: 4 }, "the same after another open");
    drop(store);
    let other_boot = || index(dir.path()).execute("UPDATE feed SET boot = 'another'", []).unwrap();
    // Another boot, and the index is up to date: nothing was forgotten.
    other_boot();
    assert_eq!(open().newest_event().unwrap(), seen);
    let boot: String = index(dir.path()).query_row("SELECT boot FROM feed", [], |row| row.get(0)).unwrap();
    assert_ne!(boot, "another");
    let go_back = || {
        remove_index(dir.path());
        std::fs::copy(&copy, dir.path().join("index.sqlite")).unwrap();
    };
    // The same boot, and entries without rows: somebody was killed before it made them. Nobody has seen their events.
    go_back();
    assert_eq!(open().newest_event().unwrap(), seen);
    // Both: a power cut has taken the index back.
    go_back();
    other_boot();
    let store = open();
    let anew = store.newest_event().unwrap();
    assert!(anew.feed != feed && anew.seq == 4);
    assert!(matches!(store.events(Some(seen), 1), Err(Error::CursorGone { seq: 4 })));
    drop(store);
    assert_eq!(open().newest_event().unwrap(), anew, "once");
    // An index that was lost.
    remove_index(dir.path());
    let store = open();
    assert!(store.newest_event().unwrap().feed != anew.feed);
    let found: Vec<Uuid> = all(&store).iter().map(|event| event.id).collect();
    assert_eq!(found[1..], ids);
    assert_eq!(waiting_ids(&store).len(), 4);
    drop(store);
    let feed = Store::rebuild_index(dir.path()).unwrap().newest_event().unwrap().feed;
    assert_eq!(open().newest_event().unwrap().feed, feed);
}

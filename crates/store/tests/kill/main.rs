//! `kill -9` of several processes that share a store, at random points.
//!
//! A child is this test binary again, told by its environment to be one. It writes every id to its own file as
//! soon as the store has acknowledged it; those are what must be there afterwards.
//!
//! A test binary of its own: between fork and exec a child holds every lock of the process that starts it, and
//! the other tests would find locks held that they have just released.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../it/support.rs"]
#[expect(dead_code, reason = "shared with the other binary")]
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lastword_store::disk::RealDisk;
use lastword_store::{EventChange, Filter, Store};
use uuid::Uuid;

use crate::support::*;

/// Held by each test, for the same reason.
static ALONE: Mutex<()> = Mutex::new(());

const CHILD: &str = "LASTWORD_STORE_TEST_CHILD";
/// Executions a child makes before it ends by itself.
const COUNT: &str = "LASTWORD_STORE_TEST_COUNT";

/// Not a test: the body of a child.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let count: usize = std::env::var(COUNT).unwrap().parse().unwrap();
    let dir = PathBuf::from(dir);
    let mut acknowledged = std::fs::File::create(dir.join(format!("acks-{}", Uuid::now_v7()))).unwrap();
    let store = Store::open(&dir.join("data")).unwrap();
    adopt(&store);
    // Two threads, so that there are groups of more than one to be killed in.
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let mut acknowledged = acknowledged.try_clone().unwrap();
            let store = &store;
            scope.spawn(move || {
                for n in 0..count {
                    let id = Uuid::now_v7();
                    let size = if n % 16 == 15 && thread == 0 { 2_200_000 } else { 150 + n * 37 % 5000 };
                    let stdout = noise(n as u64, size);
                    let spool = match n % 4 {
                        3 => begin_with_outputs(store, &RealDisk, id, &stdout, &some_outputs(n as u64))
                            .unwrap(),
                        _ => begin(store, id, &transcript(id, &stdout)).unwrap(),
                    };
                    if n % 5 == 4 {
                        // Another one, through the queue; every other one is left there.
                        let id = Uuid::now_v7();
                        enqueue(store, id, &stdout, (n % 2 == 0).then_some(b"hush")).unwrap();
                        acknowledged.write_all(format!("a{id}\n").as_bytes()).unwrap();
                        if n % 2 == 0 {
                            let mut spool = store.create_spool(id).unwrap();
                            store.update(id, &meta("running", None), b"started").unwrap();
                            spool.file.write_all(&transcript(id, &stdout)).unwrap();
                            end(store, spool).unwrap();
                            acknowledged.write_all(format!("e{id}\n").as_bytes()).unwrap();
                        }
                    }
                    // One write each: a file with O_APPEND semantics through one open file description.
                    acknowledged.write_all(format!("a{id}\n").as_bytes()).unwrap();
                    store.update(id, &meta("running", None), b"started").unwrap();
                    end(store, spool).unwrap();
                    acknowledged.write_all(format!("e{id}\n").as_bytes()).unwrap();
                    if n % 8 == 7 {
                        store.remove(id).unwrap();
                        acknowledged.write_all(format!("r{id}\n").as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    acknowledged.flush().unwrap();
}

fn spawn(dir: &Path, count: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, dir)
        .env(COUNT, count.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ids by what was acknowledged: accepted, ended, removed.
fn acknowledged(dir: &Path) -> [Vec<Uuid>; 3] {
    let mut out = [const { Vec::new() }; 3];
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("acks-") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| line.len() == 37) {
            let place = "aer".find(&line[..1]).unwrap();
            out[place].push(line[1..].parse().unwrap());
        }
    }
    out
}

fn check(dir: &Path) {
    let store = Store::open(&dir.join("data")).unwrap();
    adopt(&store);
    assert_eq!(adopt(&store), 0);
    let [accepted, ended, removed] = acknowledged(dir);
    for (id, _) in store.waiting().unwrap() {
        assert!(!ended.contains(&id), "{id} waits again");
        assert!(store.request(id).unwrap().is_some());
        store.finish_without_spool(id, &meta("cancelled", Some(false)), b"{}").unwrap();
    }
    check_events(&store);
    for id in &accepted {
        let Some(entry) = store.get(*id).unwrap() else {
            // Removed, and killed before that was acknowledged.
            assert!(ended.contains(id), "{id} was accepted and is gone");
            continue;
        };
        assert!(!removed.contains(id), "{id} is back");
        assert!(entry.ended, "{id} is stuck");
        assert!(!ended.contains(id) || entry.meta.status == "succeeded", "{id}");
    }
    check_claims(&store);
    check_packs(&dir.join("data"), &store);
    assert!(std::fs::read_dir(dir.join("data/spool")).unwrap().next().is_none(), "leftover spool");
}

/// One feed through all kills, each change in it once, and nothing missing.
fn check_events(store: &Store) {
    let mut last: BTreeMap<Uuid, EventChange> = BTreeMap::new();
    for (n, event) in store.events(None, usize::MAX).unwrap().into_iter().enumerate() {
        assert_eq!(event.cursor.seq, n as u64 + 1);
        let before = last.insert(event.id, event.change.clone());
        assert_ne!(before.as_ref(), Some(&event.change), "{} twice", event.id);
        let was_last = |change| matches!(change, EventChange::Removed);
        assert!(!before.is_some_and(was_last), "{} after its removal", event.id);
    }
    last.retain(|_, change| *change != EventChange::Removed);
    let present = store.list(&Filter::default()).unwrap();
    assert_eq!(present.len(), last.len());
    for entry in present {
        let expected = EventChange::Status { status: entry.meta.status, ended: entry.ended };
        assert_eq!(last[&entry.id], expected);
    }
}

#[test]
fn killed_processes_lose_nothing_that_they_were_told() {
    let _alone = ALONE.lock();
    let soak = std::env::var_os("LASTWORD_SOAK").is_some();
    let rounds = if soak { 200 } else { 30 };
    let dir = tempfile::tempdir().unwrap();
    let seed = Uuid::now_v7().as_u128() as u64;
    println!("seed {seed}");
    for (round, pause) in noise(seed, rounds).into_iter().enumerate() {
        let mut children: Vec<Child> = (0..3).map(|_| spawn(dir.path(), 100_000)).collect();
        // The point of the kill is random; what is waited for is only that the first has got somewhere.
        let before = acknowledged(dir.path())[0].len();
        let since = Instant::now();
        while acknowledged(dir.path())[0].len() == before {
            assert!(since.elapsed() < Duration::from_secs(60), "no child gets anywhere");
            std::thread::sleep(Duration::from_millis(1));
        }
        for (n, child) in children.iter_mut().enumerate() {
            std::thread::sleep(Duration::from_micros(u64::from(pause) * 211 * (n as u64 + 1) / 3));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if round % 10 == 9 {
            check(dir.path());
        }
    }
    check(dir.path());
    let [accepted, ended, _] = acknowledged(dir.path());
    println!("{rounds} rounds, {} accepted, {} ended", accepted.len(), ended.len());
    assert!(ended.len() > rounds, "the children were killed too early to test anything");
    // And the same from the segments alone.
    let store = Store::open(&dir.path().join("data")).unwrap();
    let before = everything(&store);
    drop(store);
    remove_index(&dir.path().join("data"));
    assert!(everything(&Store::open(&dir.path().join("data")).unwrap()) == before);
}

#[test]
fn processes_share_a_store() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<Child> = (0..8).map(|_| spawn(dir.path(), 16)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let [accepted, ended, removed] = acknowledged(dir.path());
    // Of each thread's 16, three come with another one, of which two are run.
    assert_eq!((accepted.len(), ended.len(), removed.len()), (8 * 38, 8 * 36, 8 * 4));
    let store = Store::open(&dir.path().join("data")).unwrap();
    assert_eq!(store.ids().unwrap().len(), 8 * 34);
    assert_eq!(store.waiting().unwrap().len(), 8 * 2);
    assert!(store.orphans().unwrap().is_empty());
    check_events(&store);
    check(dir.path());
}

//! Accepts and ends executions with a transcript of 300 bytes, as fast as it goes; then opens the store.
//!
//!     cargo run --release -p lastword-store --example commits [DIR]
//!
//! DIR must be on the disk that is to be measured; `/tmp` may be memory.
#![expect(clippy::unwrap_used, reason = "an example")]

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lastword_store::{Filter, Meta, Store, Waiting};
use uuid::Uuid;

const EXECUTIONS: usize = 10_000;
const TRANSCRIPT_BYTES: usize = 300;
const OBJECT_BYTES: usize = 1500;
const REQUEST_BYTES: usize = 2000;
const LARGE_BYTES: usize = 256 * 1024 * 1024;

fn main() {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("lastword-throughput-{}", std::process::id()));
    let store = Store::open(&dir).unwrap();
    for threads in [1, 8] {
        let since = Instant::now();
        let mut times: Vec<Duration> = std::thread::scope(|scope| {
            let work = || (0..EXECUTIONS / threads / 2).map(|_| one(&store)).collect::<Vec<_>>();
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let all = since.elapsed();
        times.sort();
        let percentile = |p: usize| times[(times.len() - 1) * p / 100];
        let rate = times.len() as f64 / all.as_secs_f64();
        println!("{threads} threads: {rate:.0}/s, p50 {:?}, p99 {:?}", percentile(50), percentile(99));
    }
    for at_once in [1, 100] {
        let since = Instant::now();
        (0..EXECUTIONS / 10 / at_once).for_each(|_| enqueue(&store, at_once));
        let rate = EXECUTIONS as f64 / 10.0 / since.elapsed().as_secs_f64();
        println!("accepted to wait, {at_once} at a time: {rate:.0}/s");
    }
    // The lists below are to be as they were.
    for (id, _) in store.waiting().unwrap() {
        store.finish_without_spool(id, &meta("cancelled"), b"{}").unwrap();
    }
    let since = Instant::now();
    large(&store);
    println!("{} MiB: {:?}", LARGE_BYTES >> 20, since.elapsed());
    drop(store);
    let opened = |what: &str| {
        let since = Instant::now();
        let store = Store::open(&dir).unwrap();
        println!("open, {what}: {:?}", since.elapsed());
        store
    };
    drop(opened("first after the writer"));
    drop(opened("again"));
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let store = opened("index made anew");
    let since = Instant::now();
    let listed = store.list(&Filter { limit: 100, ..Filter::default() }).unwrap().len();
    println!("list {listed}: {:?}", since.elapsed());
    let since = Instant::now();
    assert!(store.orphans().unwrap().is_empty());
    println!("orphans: {:?}", since.elapsed());
    std::fs::remove_dir_all(&dir).unwrap();
}

fn meta(status: &str) -> Meta {
    Meta { status: status.into(), created_ns: 1, backend: "native".into(), ..Meta::default() }
}

/// Text about as compressible as JSON.
fn text(length: usize) -> Vec<u8> {
    let word = Uuid::now_v7().to_string();
    word.bytes().chain(*b"\": \"a value\", ").cycle().take(length).collect()
}

fn one(store: &Store) -> Duration {
    let since = Instant::now();
    let id = Uuid::now_v7();
    let mut spool = store.create_spool(id).unwrap();
    store.accept(id, &meta("running"), &text(OBJECT_BYTES)).unwrap();
    spool.file.write_all(&text(TRANSCRIPT_BYTES)).unwrap();
    store.finish(spool, &meta("succeeded"), &text(OBJECT_BYTES)).unwrap();
    since.elapsed()
}

fn enqueue(store: &Store, at_once: usize) {
    let (meta, object, request) = (meta("queued"), text(OBJECT_BYTES), text(REQUEST_BYTES));
    let items: Vec<Waiting<'_>> = (0..at_once)
        .map(|_| Waiting {
            id: Uuid::now_v7(),
            meta: &meta,
            object: &object,
            request: &request,
            secret: None,
        })
        .collect();
    assert!(store.accept_waiting(&items).iter().all(Result::is_ok));
}

fn large(store: &Store) {
    let id = Uuid::now_v7();
    let mut spool = store.create_spool(id).unwrap();
    store.accept(id, &meta("running"), b"{}").unwrap();
    let piece = text(1 << 20);
    for _ in 0..LARGE_BYTES >> 20 {
        spool.file.write_all(&piece).unwrap();
    }
    store.finish(spool, &meta("succeeded"), b"{}").unwrap();
}

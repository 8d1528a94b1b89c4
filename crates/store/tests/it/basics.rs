//! One store, one process, nothing goes wrong.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use lastword_store::disk::RealDisk;
use lastword_store::{Error, Filter, Orphan, Store, limits};
use uuid::Uuid;

use crate::support::*;

#[test]
fn an_execution_from_accept_to_removal() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = Uuid::now_v7();
    let bytes = transcript(id, b"last words\n");
    let spool = begin(&store, id, &bytes).unwrap();
    assert!(!store.get(id).unwrap().unwrap().ended);
    assert_eq!(read(&store, id).unwrap(), bytes, "from the spool");
    store.update(id, &meta("running", None), b"started").unwrap();
    assert_eq!(store.get(id).unwrap().unwrap().object, b"started");
    assert!(matches!(store.remove(id), Err(Error::NotEnded { .. })));
    let path = spool.path.clone();
    end(&store, spool).unwrap();
    assert!(!path.exists());
    let entry = store.get(id).unwrap().unwrap();
    assert!(entry.ended);
    assert_eq!(entry.meta, meta("succeeded", Some(true)));
    assert_eq!(entry.object, object(id, "succeeded"));
    assert_eq!(read(&store, id).unwrap(), bytes, "from the segment");
    let verdict = store.verify(id).unwrap();
    assert!(verdict.complete, "{verdict:?}");
    assert_eq!((verdict.records, verdict.stdout_bytes, verdict.stderr_bytes), (2, 11, 11));
    // After the end nothing moves it.
    store.update(id, &meta("running", None), b"late").unwrap();
    assert_eq!(store.get(id).unwrap().unwrap(), entry);
    assert!(matches!(store.accept(id, &entry.meta, b""), Err(Error::Exists { .. })));
    store.remove(id).unwrap();
    assert!(store.get(id).unwrap().is_none());
    assert!(matches!(store.transcript(id), Err(Error::NotFound { .. })));
    assert!(matches!(store.accept(id, &entry.meta, b""), Err(Error::Exists { .. })));
    check_claims(&store);
}

#[test]
fn the_first_end_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = Uuid::now_v7();
    run(&store, id, &transcript(id, b"first")).unwrap();
    let first = everything(&store);
    // A leftover spool, as after a kill between row and unlink, or a power cut that brought it back.
    let spool = store.create_spool(id).unwrap();
    store.finish(spool, &meta("lost", Some(false)), b"second").unwrap();
    store.finish_without_spool(id, &meta("lost", Some(false)), b"third").unwrap();
    assert_eq!(everything(&store), first);
    drop(store.create_spool(id).unwrap());
    assert!(store.orphans().unwrap().is_empty());
    assert!(!dir.path().join(format!("spool/{id}.spool")).exists(), "the leftover is removed");
}

#[test]
fn transcripts_of_every_size_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let chunk = limits::CHUNK_BYTES_MAX;
    let small = limits::SMALL_TRANSCRIPT_BYTES_MAX as usize;
    let sizes = [0, 1, chunk - 1, chunk, chunk + 1, small, small + 1, 3 * small + 17];
    let store = Store::open(dir.path()).unwrap();
    let mut kept = Vec::new();
    for (seed, size) in sizes.into_iter().enumerate() {
        for bytes in [noise(seed as u64, size), vec![b'y'; size]] {
            let id = Uuid::now_v7();
            run(&store, id, &bytes).unwrap();
            kept.push((id, bytes));
        }
    }
    drop(store);
    for reopened in [false, true] {
        if reopened {
            remove_index(dir.path());
        }
        let store = Store::open(dir.path()).unwrap();
        for (id, bytes) in &kept {
            assert!(read(&store, *id).unwrap() == *bytes, "{} bytes, reopened: {reopened}", bytes.len());
        }
    }
}

#[test]
fn an_index_is_made_anew_when_it_is_missing_or_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ids: Vec<Uuid> = (0..20).map(|_| Uuid::now_v7()).collect();
    for id in &ids {
        run(&store, *id, &transcript(*id, id.as_bytes())).unwrap();
    }
    store.remove(ids[3]).unwrap();
    let running = begin(&store, Uuid::now_v7(), b"").unwrap();
    store.update(running.id, &meta("running", None), b"started").unwrap();
    let before = everything(&store);
    drop(store);

    let index = dir.path().join("index.sqlite");
    let garble: [&dyn Fn(); 5] = [
        &|| remove_index(dir.path()),
        &|| std::fs::remove_file(&index).unwrap(),
        &|| std::fs::write(&index, noise(1, 10_000)).unwrap(),
        &|| std::fs::write(&index, b"").unwrap(),
        &|| {
            let whole = std::fs::read(&index).unwrap();
            std::fs::write(&index, &whole[..whole.len() / 2]).unwrap();
        },
    ];
    for (case, garble) in garble.iter().enumerate() {
        garble();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(everything(&store), before, "case {case}");
        check_claims(&store);
    }
    let store = Store::rebuild_index(dir.path()).unwrap();
    assert_eq!(everything(&store), before);
    assert!(matches!(Store::rebuild_index(dir.path()), Err(Error::InUse { .. })));
}

#[test]
fn lists_filter_and_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ids: Vec<Uuid> = (0..10).map(|_| Uuid::now_v7()).collect();
    for (n, id) in ids.iter().enumerate() {
        let mut meta = meta(if n % 2 == 0 { "queued" } else { "running" }, None);
        meta.created_ns = n as i64;
        meta.labels.insert("n".into(), n.to_string());
        store.accept(*id, &meta, b"{}").unwrap();
    }
    let list = |filter: Filter| -> Vec<usize> {
        let entries = store.list(&filter).unwrap();
        entries.iter().map(|entry| ids.iter().position(|id| *id == entry.id).unwrap()).collect()
    };
    assert_eq!(list(Filter::default()), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(list(Filter { limit: 2, before: Some(ids[5]), ..Filter::default() }), [4, 3]);
    assert_eq!(list(Filter { since_ns: Some(3), until_ns: Some(5), ..Filter::default() }), [4, 3]);
    let status = vec!["queued".into(), "none".into()];
    assert_eq!(list(Filter { status, ..Filter::default() }), [8, 6, 4, 2, 0]);
    let labels = vec![("n".into(), "7".into()), ("team".into(), "a \"quoted\" one".into())];
    assert_eq!(list(Filter { labels, ..Filter::default() }), [7]);
    assert_eq!(list(Filter { labels: vec![("n".into(), "x".into())], ..Filter::default() }), [0; 0]);
}

#[test]
fn ids_are_found_by_their_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let one: Uuid = "01900000-0000-7000-8000-000000000001".parse().unwrap();
    let two: Uuid = "01900000-0000-7000-8000-0000000000f2".parse().unwrap();
    for id in [one, two] {
        store.accept(id, &meta("queued", None), b"{}").unwrap();
    }
    assert_eq!(store.resolve(&one.to_string()).unwrap(), one);
    assert_eq!(store.resolve(&two.simple().to_string().to_uppercase()).unwrap(), two);
    assert_eq!(store.resolve("01900000-0000-7000-8000-0000000000f").unwrap(), two);
    match store.resolve("0190") {
        Err(Error::Ambiguous { candidates, .. }) => assert_eq!(candidates, [one, two]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.resolve("ff"), Err(Error::NoMatch { .. })));
    for bad in ["", "-", "0x1", "01900000-0000-7000-8000-0000000000010"] {
        assert!(matches!(store.resolve(bad), Err(Error::BadPrefix { .. })), "{bad}");
    }
}

#[test]
fn orphans_are_those_that_nobody_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let [live, dead, bare, never, kept] = [(); 5].map(|()| Uuid::now_v7());
    let held = begin(&store, live, b"running on").unwrap();
    drop(begin(&store, dead, b"cut off").unwrap());
    store.accept(bare, &meta("queued", None), b"{}").unwrap();
    drop(store.create_spool(never).unwrap());
    let mut lost_record = store.create_spool(kept).unwrap();
    std::io::Write::write_all(&mut lost_record.file, b"bytes").unwrap();
    drop(lost_record);
    std::fs::write(dir.path().join("spool/.x.new"), b"").unwrap();
    let unreadable = dir.path().join(format!("spool/{}.spool", Uuid::now_v7()));
    std::os::unix::fs::symlink("elsewhere", &unreadable).unwrap();
    std::fs::write(dir.path().join("segments/.x.new"), b"").unwrap();

    // The descriptor that a supervisor inherits holds the lock when ours is closed.
    let inherited = held.file.try_clone().unwrap();
    drop(held);
    let orphans = store.orphans().unwrap();
    let mut found = Vec::new();
    for orphan in &orphans {
        match orphan {
            Orphan::Spool(spool) => found.push((spool.id, true)),
            Orphan::Missing { id, .. } => found.push((*id, false)),
        }
    }
    assert_eq!(found, [(dead, true), (bare, false)]);
    let other = Store::open(dir.path()).unwrap();
    assert_eq!(other.orphans().unwrap().len(), 1, "the locked one is ours while we hold it");
    drop(orphans);
    let names = |sub: &str| std::fs::read_dir(dir.path().join(sub)).unwrap().count();
    // Four spools, and the FIFOs of the three that we have made.
    assert_eq!((names("spool"), names("segments")), (7, 1));
    assert_eq!(adopt(&store), 2);
    assert_eq!(read(&store, dead).unwrap(), b"cut off");
    assert_eq!(read(&store, bare).unwrap(), b"");
    drop(inherited);
    assert_eq!(adopt(&other), 1);
    assert_eq!(read(&other, live).unwrap(), b"running on");
    let problems = other.verify_segments().unwrap().problems;
    let named = |path: &str| problems.iter().any(|problem| problem.contains(path));
    assert!(
        problems.len() == 2 && named(&kept.to_string()) && named(unreadable.to_str().unwrap()),
        "{problems:?}"
    );
}

#[test]
fn reading_makes_no_segment_and_all_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("a/b");
    let store = Store::open(&inner).unwrap();
    store.list(&Filter::default()).unwrap();
    store.orphans().unwrap();
    assert!(segments(&inner).is_empty());
    run(&store, Uuid::now_v7(), b"x").unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "format", "lock"] {
        assert_eq!(mode(&inner.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&segments(&inner)[0]), 0o600);
}

#[test]
fn a_bad_data_directory_gets_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        match Store::open(&path) {
            Err(error @ Error::NotADirectory { .. }) => {
                assert!(error.to_string().contains("is not a directory; choose another"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    let newer = dir.path().join("newer");
    drop(Store::open(&newer).unwrap());
    std::fs::write(newer.join("format"), "lastword store 3\n").unwrap();
    let error = Store::open(&newer).unwrap_err().to_string();
    assert!(error.contains("has format 3") && error.contains("use a newer lastword"), "{error}");
    std::fs::write(newer.join("format"), "something else").unwrap();
    assert!(matches!(Store::open(&newer), Err(Error::Corrupt { .. })));
}

#[test]
fn threads_share_syncs_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ids: Vec<Uuid> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let store = &store;
            move || -> Vec<Uuid> {
                let mut ids = Vec::new();
                for n in 0..40 {
                    let id = Uuid::now_v7();
                    // One thread brings a large one now and then.
                    let size = if thread == 0 && n % 20 == 0 { 5_000_000 } else { 300 };
                    run(store, id, &transcript(id, &noise(n, size))).unwrap();
                    ids.push(id);
                }
                ids
            }
        };
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(work(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(store.ids().unwrap().len(), ids.len());
    check_claims(&store);
    assert!(ids.iter().all(|id| store.verify(*id).unwrap().complete));
}

#[test]
fn packs_come_and_go_with_their_executions() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let names = || -> Vec<String> {
        let items = std::fs::read_dir(dir.path().join("outputs")).unwrap();
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
    };
    // Never accepted: gone with its spool.
    let unknown = Uuid::now_v7();
    let spool = store.create_spool(unknown).unwrap();
    drop(store.create_pack(unknown).unwrap());
    assert!(matches!(store.create_pack(unknown), Err(Error::Exists { .. })));
    drop(spool);
    assert_eq!(adopt(&store), 0);
    assert_eq!(names(), [""; 0]);
    // Its record is lost: what is in it stays, and is named.
    let lost = store.create_pack(Uuid::now_v7()).unwrap();
    std::fs::write(&lost.path, b"x").unwrap();
    assert_eq!(adopt(&store), 0);
    assert_eq!(names().len(), 1);
    assert!(store.verify_segments().unwrap().problems[0].contains("whose record is lost"));
    std::fs::remove_file(&lost.path).unwrap();
    // Kept: read back, and gone with its execution. Not before its end.
    let id = Uuid::now_v7();
    let outputs = some_outputs(1);
    let spool = begin_with_outputs(&store, &RealDisk, id, b"x", &outputs).unwrap();
    assert!(matches!(store.outputs(id), Err(Error::NotEnded { .. })));
    end(&store, spool).unwrap();
    let expected: Vec<(String, Vec<u8>)> =
        outputs.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
    assert_eq!(read_outputs(&store, id).unwrap(), expected);
    let verdict = store.verify(id).unwrap();
    assert_eq!((verdict.outputs, verdict.complete), (3, true));
    // Its removal was begun and came to nothing.
    let pack = dir.path().join("outputs").join(format!("{id}.pack"));
    std::fs::rename(&pack, pack.with_extension("removed")).unwrap();
    assert_eq!(adopt(&store), 0);
    assert_eq!(read_outputs(&store, id).unwrap(), expected);
    store.remove(id).unwrap();
    assert_eq!(names(), [""; 0]);
    // A seal that names none, and none at all.
    for sealed in [true, false] {
        let id = Uuid::now_v7();
        let spool = store.create_spool(id).unwrap();
        let mut pack = store.create_pack(id).unwrap();
        store.accept(id, &meta("running", None), b"{}").unwrap();
        pack.file.write_all(b"half a file").unwrap();
        if sealed {
            (&spool.file).write_all(&transcript(id, b"x")).unwrap();
        }
        end(&store, spool).unwrap();
        assert_eq!(names(), [""; 0]);
        assert_eq!(store.outputs(id).unwrap().files(), []);
    }
}

#[test]
fn output_files_are_there_until_their_execution_is_durably_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = Uuid::now_v7();
    let outputs = some_outputs(1);
    let spool = begin_with_outputs(&store, &RealDisk, id, b"text", &outputs).unwrap();
    end(&store, spool).unwrap();
    // As a removal leaves it on its way.
    let at = |suffix: &str| dir.path().join("outputs").join(format!("{id}{suffix}"));
    std::fs::rename(at(".pack"), at(".removed")).unwrap();
    assert_eq!(read_outputs(&store, id).unwrap().len(), outputs.len());
    assert_eq!(store.verify(id).unwrap().problems, Vec::<String>::new());
}

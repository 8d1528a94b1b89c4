//! Executions that wait: requests, secrets, keys, and what becomes of them.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lastword_store::disk::{Access, Disk, DiskFile, RealDisk};
use lastword_store::{Error, Filter, KeyUse, Meta, Orphan, RequestKey, Store, Waiting, limits};
use uuid::Uuid;

use crate::faulty::{Fault, FaultyDisk};
use crate::support::*;

fn secret_path(dir: &Path, id: Uuid) -> std::path::PathBuf {
    dir.join("spool").join(format!("{id}.secret"))
}

fn names(dir: &Path, sub: &str) -> Vec<String> {
    let items = std::fs::read_dir(dir.join(sub)).unwrap();
    let mut names: Vec<String> = items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn now_ns() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

#[test]
fn requests_of_every_size_wait_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let chunk = limits::CHUNK_BYTES_MAX;
    let store = Store::open(dir.path()).unwrap();
    let mut kept: Vec<(Uuid, Vec<u8>)> = Vec::new();
    for (seed, size) in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk + 7].into_iter().enumerate() {
        for request in [noise(seed as u64, size), vec![b'y'; size]] {
            let id = Uuid::now_v7();
            enqueue(&store, id, &request, None).unwrap();
            kept.push((id, request));
        }
    }
    let ids: Vec<Uuid> = kept.iter().map(|(id, _)| *id).collect();
    let check = |store: &Store| {
        assert_eq!(waiting_ids(store), ids, "oldest first");
        assert!(store.orphans().unwrap().is_empty());
        for (id, request) in &kept {
            assert!(store.request(*id).unwrap().unwrap() == *request, "{} bytes", request.len());
            assert_eq!(store.get(*id).unwrap().unwrap().meta, queued());
            assert_eq!(store.verify(*id).unwrap().problems, Vec::<String>::new());
        }
        assert_eq!(store.verify_segments().unwrap().problems, Vec::<String>::new());
    };
    check(&store);
    drop(store);
    check(&Store::open(dir.path()).unwrap());
    remove_index(dir.path());
    let store = Store::open(dir.path()).unwrap();
    check(&store);
    // One that came in the other way has none.
    let id = Uuid::now_v7();
    store.accept(id, &queued(), b"{}").unwrap();
    assert_eq!(store.request(id).unwrap(), None);
    assert!(!waiting_ids(&store).contains(&id));
    assert!(matches!(&store.orphans().unwrap()[..], [Orphan::Missing { id: found, .. }] if *found == id));
}

#[test]
fn a_call_is_one_group_and_each_has_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(None);
    let store = Store::open_on(dir.path(), Arc::new(disk.clone())).unwrap();
    let there = Uuid::now_v7();
    run(&store, there, b"x").unwrap();
    let ids: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
    let meta = queued();
    let item = |id, object| Waiting { id, meta: &meta, object, request: b"code", secret: None };
    let large = vec![b' '; limits::OBJECT_PAYLOAD_BYTES_MAX];
    let items = [
        item(ids[0], b"{}"),
        item(there, b"{}"),
        item(ids[1], b"{}"),
        item(ids[2], &large),
        item(ids[0], b"{}"),
        item(ids[3], b"{}"),
    ];
    let before = disk.operations();
    let results = store.accept_waiting(&items);
    assert_eq!(disk.operations() - before, 3, "one append, one sync, one transaction");
    assert!(
        matches!(
            &results[..],
            [
                Ok(()),
                Err(Error::Exists { .. }),
                Ok(()),
                Err(Error::TooLarge { what: "object", .. }),
                Err(Error::Exists { .. }),
                Ok(())
            ]
        ),
        "{results:?}"
    );
    assert_eq!(waiting_ids(&store), [ids[0], ids[1], ids[3]]);
    let secret = vec![0; limits::SECRET_BYTES_MAX + 1];
    let refused = enqueue(&store, ids[4], b"", Some(&secret));
    assert!(matches!(refused, Err(Error::TooLarge { what: "secret", .. })));
    assert!(matches!(enqueue(&store, ids[0], b"", Some(b"s")), Err(Error::Exists { .. })));
    assert!(!secret_path(dir.path(), ids[0]).exists() && !secret_path(dir.path(), ids[4]).exists());
    assert!(store.accept_waiting(&[]).is_empty());
}

#[test]
fn waiting_ends_with_the_first_update_or_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let [taken, cancelled, left] = [(); 3].map(|()| Uuid::now_v7());
    for id in [taken, cancelled, left] {
        enqueue(&store, id, b"a request that is removed without a trace", Some(b"hush")).unwrap();
        assert_eq!(store.secret(id).unwrap().unwrap(), b"hush");
        let metadata = std::fs::metadata(secret_path(dir.path(), id)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
    let mut spool = store.create_spool(taken).unwrap();
    assert_eq!(waiting_ids(&store), [taken, cancelled, left]);
    store.update(taken, &meta("running", None), &object(taken, "running")).unwrap();
    assert_eq!(waiting_ids(&store), [cancelled, left]);
    assert_eq!(store.secret(taken).unwrap(), None);
    store.finish_without_spool(cancelled, &meta("cancelled", Some(false)), b"{}").unwrap();
    assert_eq!(waiting_ids(&store), [left]);
    assert_eq!(names(dir.path(), "spool").len(), 3, "one spool with its FIFO, one secret");
    assert_eq!(store.secret(left).unwrap().unwrap(), b"hush");
    spool.file.write_all(&transcript(taken, b"x")).unwrap();
    end(&store, spool).unwrap();
    store.remove(taken).unwrap();
    store.remove(cancelled).unwrap();
    assert_eq!(store.request(taken).unwrap(), None);
    assert_eq!(store.request(left).unwrap().unwrap(), b"a request that is removed without a trace");
    let segment = std::fs::read(&segments(dir.path())[0]).unwrap();
    assert_eq!(segment.windows(23).filter(|bytes| bytes == b"removed without a trace").count(), 1);
    let traces = |path: &Path| std::fs::read(path).unwrap().windows(4).any(|bytes| bytes == b"hush");
    assert!(!segments(dir.path()).iter().any(|path| traces(path)), "secrets stay out of the segments");
    assert_eq!(store.verify_segments().unwrap().problems, Vec::<String>::new());
    remove_index(dir.path());
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(waiting_ids(&store), [left]);
    assert_eq!(store.secret(left).unwrap().unwrap(), b"hush");
    assert_eq!(store.verify_segments().unwrap().problems, Vec::<String>::new());
}

#[test]
fn what_was_never_handed_over_waits_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let [given_up, held, bare] = [(); 3].map(|()| Uuid::now_v7());
    for id in [given_up, held, bare] {
        enqueue(&store, id, b"code", None).unwrap();
    }
    let mut spool = store.create_spool(given_up).unwrap();
    spool.file.write_all(&transcript(given_up, b"not even its output counts")).unwrap();
    store.create_pack(given_up).unwrap().file.write_all(b"half").unwrap();
    drop(spool);
    let kept = store.create_spool(held).unwrap();
    let kept_pack = store.create_pack(held).unwrap();
    // A power cut took the spool and left the pack.
    drop(store.create_pack(bare).unwrap());
    assert!(store.orphans().unwrap().is_empty());
    assert_eq!(waiting_ids(&store), [given_up, held, bare]);
    assert_eq!(names(dir.path(), "spool"), [format!("{held}.control"), format!("{held}.spool")]);
    assert_eq!(names(dir.path(), "outputs"), [format!("{held}.open")]);
    drop(kept_pack);
    // Once it was handed over, what it wrote is kept.
    store.update(held, &meta("running", None), &object(held, "running")).unwrap();
    drop(kept);
    let orphans = store.orphans().unwrap();
    assert!(matches!(&orphans[..], [Orphan::Spool(spool)] if spool.id == held));
    drop(orphans);
    adopt(&store);
    drop(store.create_spool(given_up).unwrap());
    assert_eq!(waiting_ids(&store), [given_up, bare]);
}

/// What comes before its turn is there when it comes, however often it is given up until then.
#[test]
fn a_stdin_waits_with_its_execution() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = Uuid::now_v7();
    let early = store.add_stdin(id, 0, b"early ", false);
    assert!(matches!(early, Err(Error::NotFound { .. })), "{early:?}");
    enqueue(&store, id, b"code", None).unwrap();
    assert!(!store.ask_to_end(id).unwrap(), "nobody listens yet");
    assert_eq!(store.add_stdin(id, 0, b"early ", false).unwrap(), 6);
    assert!(store.orphans().unwrap().is_empty());
    let spool = store.create_spool(id).unwrap();
    assert!(store.ask_to_end(id).unwrap());
    drop(spool);
    assert!(store.orphans().unwrap().is_empty());
    assert_eq!(names(dir.path(), "spool"), [format!("{id}.stdin")]);
    assert_eq!(store.add_stdin(id, 6, b"bird", true).unwrap(), 10);
    let spool = store.create_spool(id).unwrap();
    let read = std::io::read_to_string(store.open_stdin(id).unwrap()).unwrap();
    assert_eq!(read, "early bird");
    store.update(id, &meta("running", None), &object(id, "running")).unwrap();
    end(&store, spool).unwrap();
    assert_eq!(names(dir.path(), "spool"), Vec::<String>::new());
    let late = store.add_stdin(id, 10, b"!", false);
    assert!(matches!(late, Err(Error::Ended { .. })), "{late:?}");
    // One that never had a turn.
    let id = Uuid::now_v7();
    enqueue(&store, id, b"code", None).unwrap();
    store.add_stdin(id, 0, b"in vain", false).unwrap();
    store.finish_without_spool(id, &meta("cancelled", Some(false)), b"{}").unwrap();
    assert_eq!(names(dir.path(), "spool"), Vec::<String>::new());
}

#[test]
fn leftover_secrets_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let [waits, runs, unknown, accepting] = [(); 4].map(|()| Uuid::now_v7());
    enqueue(&store, waits, b"", Some(b"mine")).unwrap();
    enqueue(&store, runs, b"", None).unwrap();
    let spool = store.create_spool(runs).unwrap();
    store.update(runs, &meta("running", None), b"{}").unwrap();
    for id in [runs, unknown, accepting] {
        std::fs::write(secret_path(dir.path(), id), b"left").unwrap();
    }
    let lock = RealDisk.open(&secret_path(dir.path(), accepting), Access::Read).unwrap();
    assert!(lock.try_lock().unwrap());
    let elsewhere = dir.path().join("elsewhere");
    std::fs::write(&elsewhere, b"not ours").unwrap();
    let link = Uuid::now_v7();
    std::os::unix::fs::symlink(&elsewhere, secret_path(dir.path(), link)).unwrap();
    assert!(store.orphans().unwrap().is_empty());
    let there = |id| secret_path(dir.path(), id).symlink_metadata().is_ok();
    assert_eq!([waits, runs, unknown, accepting].map(there), [true, false, false, true]);
    assert_eq!(store.secret(runs).unwrap(), None);
    // Not written through, nor read through.
    assert!(matches!(enqueue(&store, link, b"", Some(b"s")), Err(Error::Exists { .. })));
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"not ours");
    drop(lock);
    assert!(store.orphans().unwrap().is_empty());
    assert!(!there(accepting) && there(waits));
    drop(spool);
}

#[test]
fn a_torn_request_was_never_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let [first, second] = [(); 2].map(|()| Uuid::now_v7());
    enqueue(&store, first, &noise(1, 900), None).unwrap();
    drop(store);
    let segment = segments(dir.path()).remove(0);
    let before = std::fs::read(&segment).unwrap();
    let copy = dir.path().join("copy.sqlite");
    let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    index.execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
    drop(index);
    let store = Store::open(dir.path()).unwrap();
    enqueue(&store, second, &noise(2, limits::CHUNK_BYTES_MAX + 900), None).unwrap();
    drop(store);
    let after = std::fs::read(&segment).unwrap();
    let step = (after.len() - before.len()) / 12;
    let ends = (before.len()..after.len()).step_by(step).chain(after.len() - 600..after.len());
    for length in ends.step_by(7).chain([after.len() - 1, after.len()]) {
        std::fs::write(&segment, &after[..length]).unwrap();
        remove_index(dir.path());
        std::fs::copy(&copy, dir.path().join("index.sqlite")).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let whole = length == after.len();
        let expected = if whole { vec![first, second] } else { vec![first] };
        assert_eq!(waiting_ids(&store), expected, "{length} of {}", after.len());
        assert_eq!(std::fs::metadata(&segment).unwrap().len(), expected_length(whole, &before, &after));
        assert_eq!(store.verify_segments().unwrap().problems, Vec::<String>::new());
    }
}

fn expected_length(whole: bool, before: &[u8], after: &[u8]) -> u64 {
    if whole { after.len() as u64 } else { before.len() as u64 }
}

#[test]
fn a_damaged_request_is_named_and_not_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let [hurt, fine] = [(); 2].map(|()| Uuid::now_v7());
    enqueue(&store, hurt, &noise(1, 900), None).unwrap();
    let end = std::fs::metadata(&segments(dir.path())[0]).unwrap().len();
    enqueue(&store, fine, &noise(2, 900), None).unwrap();
    drop(store);
    let segment = segments(dir.path()).remove(0);
    // An index that says that it begins later: a part is not the request.
    let table = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    let moved = "UPDATE executions SET request_start = request_end WHERE id = ?";
    assert_eq!(table.execute(moved, [hurt.as_bytes()]).unwrap(), 1);
    let store = Store::open(dir.path()).unwrap();
    assert!(matches!(store.request(hurt), Err(Error::Corrupt { .. })));
    drop((store, table));
    remove_index(dir.path());
    drop(Store::open(dir.path()).unwrap());
    let whole = std::fs::read(&segment).unwrap();
    let index = std::fs::read(dir.path().join("index.sqlite")).unwrap();
    for at in (64..end as usize).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&segment, &bytes).unwrap();
        for with_index in [true, false] {
            remove_index(dir.path());
            if with_index {
                std::fs::write(dir.path().join("index.sqlite"), &index).unwrap();
            }
            let store = Store::open(dir.path()).unwrap();
            assert!(!store.verify_segments().unwrap().problems.is_empty(), "byte {at}");
            assert_eq!(store.request(fine).unwrap().unwrap(), noise(2, 900));
            // Without index, an accept that can't be read is gone; with it, its request may still be whole.
            match store.request(hurt) {
                Ok(Some(request)) => assert!(request == noise(1, 900), "byte {at}"),
                Ok(None) => assert!(!with_index && at as u64 > end - 600, "byte {at}"),
                Err(Error::Corrupt { .. }) => {
                    assert!(!store.verify(hurt).unwrap().problems.is_empty(), "byte {at}");
                    assert!(waiting_ids(&store).contains(&hurt), "it is not forgotten");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn an_update_counts_whatever_the_clock_and_the_order_of_segments() {
    let dir = tempfile::tempdir().unwrap();
    // Two writers at a time have a segment each.
    let stores = [(); 2].map(|()| Store::open(dir.path()).unwrap());
    run(&stores[0], Uuid::now_v7(), b"x").unwrap();
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
    let request = |id: Uuid| format!("request of {id}").into_bytes();
    for (n, id) in ids.iter().enumerate() {
        enqueue(&stores[n % 2], *id, &request(*id), None).unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 2);
    // The clock was ahead when they were accepted.
    let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    index.execute("UPDATE executions SET updated_ns = updated_ns + 3600000000000 WHERE waiting", []).unwrap();
    drop(index);
    let spools: Vec<_> = ids[..3].iter().map(|id| stores[0].create_spool(*id).unwrap()).collect();
    for (n, id) in ids[..3].iter().enumerate() {
        let store = &stores[(n + 1) % 2];
        store.update(*id, &meta("running", None), &object(*id, "running")).unwrap();
        assert_eq!(store.get(*id).unwrap().unwrap().meta.status, "running");
    }
    assert_eq!(waiting_ids(&stores[0]), ids[3..]);
    end(&stores[0], spools.into_iter().next().unwrap()).unwrap();
    drop(stores);
    remove_index(dir.path());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(waiting_ids(&store), ids[3..]);
    for id in &ids {
        assert_eq!(store.request(*id).unwrap().unwrap(), request(*id), "wherever it stood");
    }
}

#[test]
fn what_may_have_been_handed_over_is_not_given_out_as_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let [taken, waits] = [(); 2].map(|()| Uuid::now_v7());
    for id in [taken, waits] {
        enqueue(&store, id, b"code", None).unwrap();
    }
    let copy = dir.path().join("copy.sqlite");
    let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    index.execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
    drop(index);
    let spool = store.create_spool(taken).unwrap();
    store.update(taken, &meta("running", None), &object(taken, "running")).unwrap();
    drop(store);
    drop(spool);
    // As if killed before the row, with another process at recovery of that segment.
    remove_index(dir.path());
    std::fs::rename(&copy, dir.path().join("index.sqlite")).unwrap();
    let recovering = RealDisk.open(&segments(dir.path())[0], Access::Read).unwrap();
    assert!(recovering.try_lock().unwrap());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.get(taken).unwrap().unwrap().meta.status, "queued", "an older state is seen");
    assert!(store.orphans().unwrap().is_empty(), "and its spool is left alone");
    assert!(dir.path().join(format!("spool/{taken}.spool")).exists());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waiting_ids(&store));
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(recovering);
        assert_eq!(waiting.join().unwrap(), [waits]);
    });
    assert_eq!(store.get(taken).unwrap().unwrap().meta.status, "running");
}

#[test]
fn keys_hold_for_a_day_and_outlive_their_executions() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let now = now_ns();
    let day = limits::KEY_LIFE.as_nanos() as i64;
    let accept = |store: &Store, tenant: Option<&str>, name: &str, created_ns: i64| {
        let id = Uuid::now_v7();
        let key = Some(RequestKey { name: name.into(), digest: format!("digest of {id}") });
        let meta = Meta { key, created_ns, tenant: tenant.map(str::to_owned), ..queued() };
        let item = Waiting { id, meta: &meta, object: b"{}", request: b"", secret: None };
        store.accept_waiting(&[item]).pop().unwrap().unwrap();
        id
    };
    let found = |store: &Store, tenant: Option<&str>, name: &str| {
        let found: Option<KeyUse> = store.by_key(tenant, name, now - day).unwrap();
        found.map(|found| {
            assert_eq!(found.digest, format!("digest of {}", found.id));
            (found.id, found.removed)
        })
    };
    let ours = accept(&store, None, "k", now);
    let theirs = accept(&store, Some("t"), "k", now);
    let again = accept(&store, None, "k", now + 1);
    let removed = accept(&store, None, "removed", now);
    store.finish_without_spool(removed, &meta("cancelled", Some(false)), b"{}").unwrap();
    store.remove(removed).unwrap();
    let minute = 60_000_000_000;
    let old = accept(&store, None, "reused", now - day + minute);
    assert_eq!(found(&store, None, "reused"), Some((old, false)));
    assert_eq!(store.by_key(None, "reused", now - day + minute + 1).unwrap(), None, "too old");
    let new = accept(&store, None, "reused", now + minute + 1);
    let check = |store: &Store| {
        assert_eq!(found(store, None, "k"), Some((ours, false)), "not {again}");
        assert_eq!(found(store, Some("t"), "k"), Some((theirs, false)));
        assert_eq!(found(store, Some("u"), "k"), None);
        assert_eq!(found(store, None, "removed"), Some((removed, true)));
        assert_eq!(found(store, None, "reused"), Some((new, false)));
        assert_eq!(store.by_key(None, "k", now + 2).unwrap(), None);
    };
    check(&store);
    // Those past their time go in passing, and are not many.
    for n in 0..10 {
        accept(&store, None, &format!("old {n}"), now - 2 * day);
    }
    let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    let count: i64 = index.query_row("SELECT count(*) FROM keys", [], |row| row.get(0)).unwrap();
    assert!(count <= 5, "{count}");
    drop(index);
    drop(store);
    remove_index(dir.path());
    check(&Store::open(dir.path()).unwrap());
}

#[test]
fn a_request_sent_again_finds_the_first_though_its_row_could_not_be_made() {
    let dir = tempfile::tempdir().unwrap();
    // Four for the secret, then the append, the sync, and this: the index transaction.
    run(&Store::open(dir.path()).unwrap(), Uuid::now_v7(), b"x").unwrap();
    let disk = FaultyDisk::new(Some((6, Fault::Full)));
    let store = Store::open_on(dir.path(), Arc::new(disk)).unwrap();
    let id = Uuid::now_v7();
    let key = Some(RequestKey { name: "k".into(), digest: "d".into() });
    let meta = Meta { key, created_ns: now_ns(), ..queued() };
    let item = Waiting { id, meta: &meta, object: b"{}", request: b"code", secret: Some(b"hush") };
    let refused = store.accept_waiting(&[item]).pop().unwrap();
    assert!(matches!(refused, Err(Error::StorageFull { .. })), "{refused:?}");
    assert_eq!(store.by_key(None, "k", 0).unwrap().unwrap().id, id);
    assert_eq!(waiting_ids(&store), [id]);
    assert_eq!(store.secret(id).unwrap().unwrap(), b"hush");
}

#[test]
fn lists_know_tenants_and_batches() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let batches = [(); 2].map(|()| Uuid::now_v7());
    let ids: Vec<Uuid> = (0..12).map(|_| Uuid::now_v7()).collect();
    for (n, id) in ids.iter().enumerate() {
        let mut meta = queued();
        meta.tenant = (n % 3 > 0).then(|| format!("t{}", n % 3));
        meta.batch = (n >= 6).then(|| batches[n % 2]);
        meta.labels.insert(format!("n{n}"), String::new());
        let item = Waiting { id: *id, meta: &meta, object: b"{}", request: b"", secret: None };
        store.accept_waiting(&[item]).pop().unwrap().unwrap();
        if n % 4 == 1 {
            meta.status = "running".into();
            store.update(*id, &meta, b"{}").unwrap();
        }
        if n % 4 == 2 {
            meta.status = "failed".into();
            store.finish_without_spool(*id, &meta, b"{}").unwrap();
        }
    }
    let check = |store: &Store| {
        let list = |filter: Filter| -> Vec<usize> {
            let entries = store.list(&filter).unwrap();
            entries.iter().map(|entry| ids.iter().position(|id| *id == entry.id).unwrap()).collect()
        };
        let all = Filter::default;
        let states = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let tenant = Some("t1".to_owned());
        assert_eq!(list(Filter { tenant: tenant.clone(), ..all() }), [10, 7, 4, 1]);
        assert_eq!(list(Filter { tenant: tenant.clone(), limit: 2, before: Some(ids[10]), ..all() }), [7, 4]);
        assert_eq!(list(Filter { batch: Some(batches[0]), ..all() }), [10, 8, 6]);
        assert_eq!(list(Filter { batch: Some(batches[0]), tenant: tenant.clone(), ..all() }), [10]);
        let filter = Filter { batch: Some(batches[0]), status: states(&["failed", "queued"]), ..all() };
        assert_eq!(list(Filter { limit: 2, ..filter.clone() }), [10, 8]);
        assert_eq!(list(Filter { status: states(&["failed"]), ..filter }), [10, 6]);
        let two = Filter { status: states(&["failed", "running"]), ..all() };
        assert_eq!(list(two.clone()), [10, 9, 6, 5, 2, 1]);
        assert_eq!(list(Filter { limit: 3, before: Some(ids[10]), ..two.clone() }), [9, 6, 5]);
        assert_eq!(list(Filter { limit: 1, before: Some(ids[10]), ..two.clone() }), [9]);
        assert_eq!(list(Filter { tenant, ..two }), [10, 1]);
        assert_eq!(list(Filter { without_label: Some("n3".into()), limit: 9, ..all() }).len(), 9);
        assert!(!list(Filter { without_label: Some("n3".into()), ..all() }).contains(&3));
        let counts = |n: usize| store.batch_counts(batches[n]).unwrap();
        assert_eq!(counts(0), [("failed".to_owned(), 2), ("queued".to_owned(), 1)]);
        assert_eq!(counts(1), [("queued".to_owned(), 2), ("running".to_owned(), 1)]);
        assert_eq!(store.batch_counts(Uuid::now_v7()).unwrap(), []);
    };
    check(&store);
    drop(store);
    remove_index(dir.path());
    check(&Store::open(dir.path()).unwrap());
}

#[test]
fn more_readers_than_connections_see_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let acknowledged = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 * limits::INDEX_READERS_MAX {
            scope.spawn(|| {
                for _ in 0..10 {
                    let id = Uuid::now_v7();
                    enqueue(&store, id, b"code", None).unwrap();
                    acknowledged.lock().unwrap().push(id);
                    let known = acknowledged.lock().unwrap().clone();
                    let listed = store.ids().unwrap();
                    assert!(known.iter().all(|id| listed.contains(id)));
                    assert!(store.get(id).unwrap().is_some());
                    store.update(id, &meta("running", None), b"started").unwrap();
                    assert_eq!(store.get(id).unwrap().unwrap().object, b"started");
                }
            });
        }
    });
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter(|item| {
        let target = std::fs::read_link(item.as_ref().unwrap().path()).unwrap_or_default();
        target == dir.path().join("index.sqlite")
    });
    assert!(open.count() <= limits::INDEX_READERS_MAX + 1);
}

/// Counts the secrets of a directory that are open whenever a file is made.
#[derive(Debug)]
struct CountingDisk {
    spools: std::path::PathBuf,
    most: Arc<AtomicUsize>,
}

impl Disk for CountingDisk {
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.create(path)?;
        let opened = std::fs::read_dir("/proc/self/fd")?.flatten();
        let leads = opened.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let secret = |path: &std::path::PathBuf| {
            path.starts_with(&self.spools) && path.extension().is_some_and(|kind| kind == "secret")
        };
        self.most.fetch_max(leads.filter(secret).count(), Ordering::SeqCst);
        Ok(file)
    }

    fn open(&self, path: &Path, access: Access) -> std::io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, access)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        RealDisk.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

#[test]
fn many_secrets_take_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let most = Arc::new(AtomicUsize::new(0));
    let disk = CountingDisk { spools: dir.path().join("spool"), most: Arc::clone(&most) };
    let store = Store::open_on(dir.path(), Arc::new(disk)).unwrap();
    let meta = queued();
    let item =
        |_| Waiting { id: Uuid::now_v7(), meta: &meta, object: b"{}", request: b"", secret: Some(b"hush") };
    let all: Vec<_> = (0..3 * limits::SECRETS_AT_ONCE_MAX).map(item).collect();
    assert!(store.accept_waiting(&all).iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), limits::SECRETS_AT_ONCE_MAX);
    assert!(all.iter().all(|item| store.secret(item.id).unwrap().is_some()));
}

//! Random operations against a map.

use std::collections::BTreeMap;

use lastword_store::{Filter, Spool, Store};
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::*;

#[derive(Clone, Debug)]
enum Op {
    Accept,
    Update(usize),
    Finish(usize),
    Remove(usize),
    /// Its process dies: the next one that looks ends it.
    Abandon(usize),
    /// ... and takes the spool along.
    Lose(usize),
    Reopen,
    ReopenWithoutIndex,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Accept),
        3 => any::<usize>().prop_map(Op::Update),
        6 => any::<usize>().prop_map(Op::Finish),
        2 => any::<usize>().prop_map(Op::Remove),
        1 => any::<usize>().prop_map(Op::Abandon),
        1 => any::<usize>().prop_map(Op::Lose),
        1 => Just(Op::Reopen),
        1 => Just(Op::ReopenWithoutIndex),
    ]
}

#[derive(Debug, PartialEq)]
struct Known {
    status: &'static str,
    bytes: Vec<u8>,
}

fn pick<T>(map: &BTreeMap<Uuid, T>, n: usize) -> Option<Uuid> {
    (!map.is_empty()).then(|| *map.keys().nth(n % map.len()).unwrap())
}

fn compare(store: &Store, model: &BTreeMap<Uuid, Known>) {
    let entries = store.list(&Filter::default()).unwrap();
    let found: Vec<(Uuid, &str)> = entries.iter().map(|e| (e.id, e.meta.status.as_str())).collect();
    let expected: Vec<(Uuid, &str)> = model.iter().rev().map(|(id, known)| (*id, known.status)).collect();
    assert_eq!(found, expected);
    for (id, known) in model {
        assert!(read(store, *id).unwrap() == known.bytes, "{id}");
        assert_eq!(store.get(*id).unwrap().unwrap().object, object(*id, known.status));
    }
}

fn play(ops: Vec<Op>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let mut model: BTreeMap<Uuid, Known> = BTreeMap::new();
    let mut live: BTreeMap<Uuid, Spool> = BTreeMap::new();
    for (n, op) in ops.into_iter().enumerate() {
        match op {
            Op::Accept => {
                let id = Uuid::now_v7();
                let bytes = transcript(id, &noise(n as u64, n * 101 % 7000));
                live.insert(id, begin(&store, id, &bytes).unwrap());
                model.insert(id, Known { status: "running", bytes });
            }
            Op::Update(n) => {
                if let Some(id) = pick(&model, n) {
                    store.update(id, &meta("running", None), &object(id, "running")).unwrap();
                }
            }
            Op::Finish(n) => {
                if let Some(id) = pick(&live, n) {
                    end(&store, live.remove(&id).unwrap()).unwrap();
                    model.get_mut(&id).unwrap().status = "succeeded";
                }
            }
            Op::Remove(n) => {
                if let Some(id) = pick(&model, n) {
                    let removed = store.remove(id);
                    assert_eq!(removed.is_ok(), !live.contains_key(&id));
                    if removed.is_ok() {
                        model.remove(&id);
                    }
                }
            }
            Op::Abandon(n) | Op::Lose(n) => {
                if let Some(id) = pick(&live, n) {
                    let spool = live.remove(&id).unwrap();
                    let known = model.get_mut(&id).unwrap();
                    known.status = "succeeded";
                    if matches!(op, Op::Lose(_)) {
                        std::fs::remove_file(&spool.path).unwrap();
                        *known = Known { status: "lost", bytes: Vec::new() };
                    }
                    drop(spool);
                    assert_eq!(adopt(&store), 1);
                }
            }
            Op::Reopen | Op::ReopenWithoutIndex => {
                drop(store);
                if matches!(op, Op::ReopenWithoutIndex) {
                    remove_index(dir.path());
                }
                store = Store::open(dir.path()).unwrap();
                compare(&store, &model);
            }
        }
    }
    compare(&store, &model);
    check_claims(&store);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(ops in proptest::collection::vec(op(), 1..60)) {
        play(ops);
    }
}

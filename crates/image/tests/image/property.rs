//! Any tree comes back as it was packed, whatever the layers it was spread over and however they were stored.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::lab::{Lab, Snapshot, snapshot};
use crate::pack::{Packed, Tar, gzip, zstd};

#[derive(Clone, Debug)]
enum Node {
    Dir,
    File(bool, Vec<u8>),
    Link(Vec<u8>),
    /// Gone again.
    Whiteout,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Few names, so that entries meet; all bytes but zero and slash in some.
    prop_oneof![
        6 => "[abc]".prop_map(String::into_bytes),
        1 => vec(any::<u8>().prop_filter("a name", |byte| !matches!(byte, 0 | b'/')), 3..120),
    ]
    .prop_filter("no special name", |name| !name.starts_with(b".") && !name.is_empty())
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        3 => Just(Node::Dir),
        6 => (any::<bool>(), vec(any::<u8>(), 0..2000)).prop_map(|(x, bytes)| Node::File(x, bytes)),
        1 => vec(1..=255_u8, 1..200).prop_map(Node::Link),
        2 => Just(Node::Whiteout),
    ]
}

type Layer = BTreeMap<Vec<Vec<u8>>, Node>;

/// What the tree is to be; entries that go through something else than a directory are left out of the layer.
fn apply(tree: &mut BTreeMap<Vec<Vec<u8>>, Node>, layer: &Layer) -> Layer {
    let mut taken = Layer::new();
    for (path, node) in layer {
        let fits = (1..path.len()).all(|length| {
            let above = &path[..length];
            matches!(taken.get(above), None | Some(Node::Dir))
                && matches!(tree.get(above), None | Some(Node::Dir))
        });
        if !fits {
            continue;
        }
        let below = |other: &Vec<Vec<u8>>| other.starts_with(path) && other.len() > path.len();
        match node {
            Node::Dir => {}
            _ => tree.retain(|other, _| !below(other)),
        }
        match node {
            Node::Whiteout => drop(tree.remove(path)),
            _ => {
                for length in 1..path.len() {
                    tree.entry(path[..length].to_vec()).or_insert(Node::Dir);
                }
                tree.insert(path.clone(), node.clone());
            }
        }
        taken.insert(path.clone(), node.clone());
    }
    taken
}

fn pack(layer: &Layer) -> Vec<u8> {
    let mut tar = Tar::new();
    for (path, node) in layer {
        let name = path.join(&b'/');
        tar = match node {
            Node::Dir => tar.dir([&name[..], b"/"].concat()),
            Node::File(executable, bytes) => {
                tar.file_with_mode(name, if *executable { 0o711 } else { 0o600 }, bytes)
            }
            Node::Link(target) => tar.symlink(name, target),
            Node::Whiteout => {
                let (last, above) = path.split_last().unwrap();
                let whiteout = [b".wh.", &last[..]].concat();
                tar.file(above.iter().cloned().chain([whiteout]).collect::<Vec<_>>().join(&b'/'), "")
            }
        };
    }
    tar.end()
}

fn as_snapshot(tree: &BTreeMap<Vec<Vec<u8>>, Node>) -> Snapshot {
    let entry = |(path, node): (&Vec<Vec<u8>>, &Node)| {
        let what = match node {
            Node::Dir => (0o040_755, Vec::new()),
            Node::File(true, bytes) => (0o100_755, bytes.clone()),
            Node::File(false, bytes) => (0o100_644, bytes.clone()),
            Node::Link(target) => (0o120_777, target.clone()),
            Node::Whiteout => unreachable!("never in a tree"),
        };
        (path.join(&b'/'), what)
    };
    tree.iter().map(entry).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_come_back(layers in vec(proptest::collection::btree_map(vec(name(), 1..5), node(), 0..12), 1..4), how in any::<u8>()) {
        let mut tree = BTreeMap::new();
        let mut tars = Vec::new();
        for layer in &layers {
            let taken = apply(&mut tree, layer);
            tars.push(pack(&taken));
        }
        let stored = tars.into_iter().enumerate().map(|(at, tar)| match (usize::from(how) + at) % 3 {
            0 => (tar.clone(), tar),
            1 => (gzip(&tar), tar),
            _ => (zstd(&tar), tar),
        });
        let lab = Lab::new();
        let image = lab.unpack(&mut Packed::of(&stored.collect::<Vec<_>>())).map_err(|error| crate::lab::chain(&error)).unwrap();
        prop_assert_eq!(snapshot(&image.rootfs), as_snapshot(&tree));
    }
}

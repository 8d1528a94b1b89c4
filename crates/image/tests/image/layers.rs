//! What honest layers come to.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::lab::{Lab, assert_has, files};
use crate::pack::{Packed, Tar, record};

fn names(tree: &crate::lab::Snapshot) -> Vec<String> {
    tree.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[test]
fn a_later_layer_wins() {
    let lab = Lab::new();
    let lower = Tar::new().file("a", "1").file("b/c", "1").symlink("s", "a").end();
    let upper = Tar::new().file("a", "2").file("s", "2").end();
    let tree = lab.tree(&[lower, upper]);
    let pairs = files(&tree);
    let pairs: Vec<_> = pairs.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    assert_eq!(pairs, [("a", "2"), ("b/c", "1"), ("s", "2")]);
}

#[test]
fn a_file_is_replaced_by_a_directory_and_the_other_way_round() {
    let lab = Lab::new();
    let lower = Tar::new().file("a", "1").file("d/x/y", "1").symlink("l", "d").end();
    let upper = Tar::new().dir("a/").file("a/b", "2").file("d", "2").dir("l").file("l/z", "2").end();
    assert_eq!(names(&lab.tree(&[lower, upper])), ["a", "a/b", "d", "l", "l/z"]);
}

#[test]
fn of_duplicates_the_last_one_counts() {
    let lab = Lab::new();
    let layer =
        Tar::new().file("a", "1").file("a", "2").dir("d").dir("d").file("d", "3").symlink("d", "a").end();
    let pairs = files(&lab.tree(&[layer]));
    assert_eq!(pairs, [("a".to_owned(), "2".to_owned()), ("d".to_owned(), "a".to_owned())]);
}

#[test]
fn entries_go_through_links_of_lower_layers() {
    let lab = Lab::new();
    let lower = Tar::new().dir("usr/lib").symlink("lib", "usr/lib").symlink("abs", "/usr/lib").end();
    let upper = Tar::new().file("lib/a", "1").file("abs/b", "2").hard_link("abs/c", "lib/a").end();
    assert_eq!(
        names(&lab.tree(&[lower, upper])),
        ["abs", "lib", "usr", "usr/lib", "usr/lib/a", "usr/lib/b", "usr/lib/c"]
    );
}

#[test]
fn a_directory_that_is_replaced_is_looked_up_again() {
    let lab = Lab::new();
    let layer = Tar::new().dir("e").file("d/a", "1").symlink("d", "e").file("d/b", "2").file("d/.wh.no", "");
    assert_eq!(names(&lab.tree(&[layer.end()])), ["d", "e", "e/b"]);
}

#[test]
fn a_file_is_no_directory() {
    let lab = Lab::new();
    assert_has(&lab.refusal(&[Tar::new().file("a", "").file("a/b", "").end()]), &["entry `a/b`"]);
    assert_has(&lab.refusal(&[Tar::new().symlink("a", "a").file("a/b", "").end()]), &["entry `a/b`"]);
}

#[test]
fn whiteouts_hide_lower_layers() {
    let lab = Lab::new();
    let lower = Tar::new().file("a", "1").file("d/x", "1").file("d/y", "1").file("keep", "1").end();
    let upper = Tar::new()
        .file(".wh.a", "")
        .file("d/.wh.x", "")
        .file(".wh.nothing", "")
        .file("no/.wh.where", "")
        .end();
    let tree = lab.tree(&[lower.clone(), upper]);
    assert_eq!(names(&tree), ["d", "d/y", "keep"]);
    let tree = lab.tree(&[lower, Tar::new().file(".wh.d", "").end(), Tar::new().file("d/z", "3").end()]);
    assert_eq!(names(&tree), ["a", "d", "d/z", "keep"]);
}

#[test]
fn whiteouts_spare_their_own_layer_in_any_order() {
    let lower = Tar::new().file("a", "1").file("d/x", "1").file("d/e/x", "1").end();
    for upper in [
        Tar::new().file(".wh.a", "").file("a", "2").file(".wh.d", "").dir("d").dir("d/e").file("d/e/y", "2"),
        Tar::new().file("a", "2").file(".wh.a", "").dir("d").dir("d/e").file("d/e/y", "2").file(".wh.d", ""),
        Tar::new().file(".wh..wh..opq", "").file("a", "2").dir("d").dir("d/e").file("d/e/y", "2"),
        Tar::new().file("a", "2").dir("d").dir("d/e").file("d/e/y", "2").file(".wh..wh..opq", ""),
        Tar::new()
            .file(".wh.a", "")
            .file("a", "2")
            .dir("d")
            .dir("d/e")
            .file("d/e/y", "2")
            .file("d/.wh..wh..opq", ""),
    ] {
        let lab = Lab::new();
        let tree = lab.tree(&[lower.clone(), upper.end()]);
        assert_eq!(names(&tree), ["a", "d", "d/e", "d/e/y"]);
        assert_eq!(tree[&b"a"[..]].1, b"2");
    }
}

#[test]
fn an_opaque_directory_keeps_links_that_its_layer_made_to_lower_files() {
    let lab = Lab::new();
    let lower = Tar::new().file("d/x", "1").end();
    let upper = Tar::new()
        .dir("d")
        .hard_link("other", "d/x")
        .hard_link("d/new", "d/x")
        .file("d/.wh..wh..opq", "")
        .end();
    assert_eq!(names(&lab.tree(&[lower, upper])), ["d", "d/new", "other"]);
}

#[test]
fn what_aufs_kept_for_itself_is_left_out() {
    let lab = Lab::new();
    let layer = Tar::new()
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "")
        .file(".wh..wh.aufs", "")
        .file("a", "")
        .end();
    let image = lab.unpack(&mut Packed::plain(&[layer])).unwrap();
    assert_eq!(image.left_out, 3);
    assert_eq!(names(&crate::lab::snapshot(&image.rootfs)), ["a"]);
}

#[test]
fn hard_links_share_and_are_parted_by_replacing_one() {
    let lab = Lab::new();
    let lower = Tar::new().file("a", "1").hard_link("b", "a").hard_link("a", "b").end();
    let image = lab.unpack(&mut Packed::plain(std::slice::from_ref(&lower))).unwrap();
    let inode = |name| image.rootfs.join(name).metadata().unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    assert_eq!(image.bytes, 4096);
    let pairs = files(&lab.tree(&[lower, Tar::new().file("a", "2").end()]));
    assert_eq!(pairs, [("a".to_owned(), "2".to_owned()), ("b".to_owned(), "1".to_owned())]);
}

#[test]
fn times_are_kept() {
    let lab = Lab::new();
    let time = record("mtime", b"1700000000.25");
    let layer = Tar::new()
        .extended(b'x', &time)
        .dir("d")
        .extended(b'x', &time)
        .file("d/f", "x")
        .file("d/g", "x")
        .end();
    let image = lab.unpack(&mut Packed::plain(&[layer])).unwrap();
    let mtime = |name| {
        let meta = fs::metadata(image.rootfs.join(name)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(mtime("d"), (1_700_000_000, 250_000_000));
    assert_eq!(mtime("d/f"), (1_700_000_000, 250_000_000));
    assert_eq!(mtime("d/g"), (0o14000000000, 0));
}

#[test]
fn times_of_a_directory_are_not_set_through_the_link_that_replaced_it() {
    let lab = Lab::new();
    let time = |at: &[u8]| record("mtime", at);
    let layer = Tar::new()
        .extended(b'x', &time(b"1000"))
        .dir("e")
        .extended(b'x', &time(b"2000"))
        .dir("d")
        .symlink("d", "e");
    let image = lab.unpack(&mut Packed::plain(&[layer.end()])).unwrap();
    assert_eq!(image.rootfs.join("e").metadata().unwrap().mtime(), 1000);
}

#[test]
fn a_hard_link_to_itself_changes_nothing() {
    let lab = Lab::new();
    let pairs = files(&lab.tree(&[Tar::new().file("a", "1").hard_link("a", "./a").end()]));
    assert_eq!(pairs, [("a".to_owned(), "1".to_owned())]);
}

#[test]
fn the_mask_of_the_process_plays_no_part() {
    // Modes are asserted for what is made on the way, too.
    let lab = Lab::new();
    let tree = lab.tree(&[Tar::new().file("a/b/c", "").end()]);
    let modes: Vec<_> = tree.values().map(|(mode, _)| mode & 0o7777).collect();
    assert_eq!(modes, [0o755, 0o755, 0o644]);
}

#[test]
fn an_image_without_layers_is_an_empty_tree() {
    let lab = Lab::new();
    assert!(lab.tree(&[]).is_empty());
    assert!(lab.tree(&[Vec::new()]).is_empty());
    assert!(lab.tree(&[Tar::new().dir("./").end()]).is_empty());
}

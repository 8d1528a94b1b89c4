//! Layers that want out, or want too much.

use std::os::unix::fs::MetadataExt;

use lastword_image::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, TRAILING_BYTES_MAX};
use lastword_image::{Digest, Limits};

use crate::lab::{Lab, assert_has, chain, files, snapshot};
use crate::pack::{Header, Packed, Tar, gzip, record, zstd};

const TB: u64 = 1 << 40;

#[test]
fn names_that_lead_up_are_refused() {
    for name in ["../x", "a/../../x", "a/../x", "a/..", "..", "/../x", "./../x", "/a/b/../c"] {
        let lab = Lab::new();
        for layer in [
            Tar::new().file(name, "evil"),
            Tar::new().dir(name),
            Tar::new().symlink(name, "/etc"),
            Tar::new().extended(b'x', &record("path", name.as_bytes())).file("a", "evil"),
            Tar::new().extended(b'L', &[name.as_bytes(), b"\0"].concat()).file("a", "evil"),
        ] {
            assert_has(&lab.refusal(&[layer.end()]), &["sha256:", &format!("entry `{name}`"), "`..`"]);
        }
    }
}

#[test]
fn absolute_names_begin_at_the_root_of_the_image() {
    let lab = Lab::new();
    let name = lab.around("new");
    let tree = lab.tree(&[Tar::new().file(&name, "inside").end()]);
    assert_eq!(files(&tree), [(name[1..].to_owned(), "inside".to_owned())]);
}

#[test]
fn links_lead_nowhere_while_unpacking() {
    let lab = Lab::new();
    let (dir, file) = (lab.around("dir"), lab.around("file"));
    // Up from cache/tmp/HEX/rootfs.
    let up = "../../../../around/dir";
    for layers in [
        vec![Tar::new().symlink("l", &dir).file("l/file", "evil").end()],
        vec![Tar::new().symlink("l", up).file("l/file", "evil").end()],
        vec![Tar::new().symlink("l", &dir).end(), Tar::new().file("l/file", "evil").end()],
        vec![Tar::new().symlink("l", up).dir("l/d").end()],
        vec![
            Tar::new()
                .symlink("a", "..")
                .symlink("b", "a/..")
                .symlink("c", "b/../../../around")
                .file("c/file", "evil")
                .end(),
        ],
        vec![Tar::new().symlink("l", "/proc/self/root").file(format!("l{file}"), "evil").end()],
        vec![Tar::new().symlink("l", "/proc/self/cwd/../../..").file("l/x", "evil").end()],
    ] {
        // The way does not exist below the root, and a link that leads nowhere is no directory.
        assert_has(&lab.refusal(&layers), &["entry `"]);
    }
    // The file itself is replaced, not written through.
    let tree = lab.tree(&[Tar::new().symlink("l", &file).file("l", "inside").end()]);
    assert_eq!(files(&tree), [("l".to_owned(), "inside".to_owned())]);
    // With the way there, it is the way inside.
    let tree = lab.tree(&[Tar::new().dir(&dir).symlink("l", &dir).symlink("m", up).file("l/a", "1").end()]);
    assert!(tree.contains_key(format!("{}/a", &dir[1..]).as_bytes()), "{tree:?}");
}

#[test]
fn whiteouts_remove_nothing_outside() {
    let lab = Lab::new();
    let dir = lab.around("dir");
    for layer in [
        Tar::new().symlink("l", &dir).file("l/.wh.file", ""),
        Tar::new().symlink("l", &dir).file("l/.wh..wh..opq", ""),
        Tar::new().symlink("l", "../../../../around").file("l/.wh.file", "").file("l/.wh.dir", ""),
    ] {
        lab.tree(&[layer.end()]);
    }
    for name in [".wh.", ".wh..", ".wh...", "a/.wh...", "a/.wh.."] {
        let layer = Tar::new().dir("a").file(name, "").end();
        assert_has(&lab.refusal(&[layer]), &[&format!("entry `{name}`"), "whiteout of no name"]);
    }
    assert_has(&lab.refusal(&[Tar::new().file(".wh.a/b", "").end()]), &["`.wh.a/b`", "inside of a whiteout"]);
}

#[test]
fn a_whiteout_of_a_link_removes_the_link() {
    let lab = Lab::new();
    let lower = Tar::new().symlink("l", lab.around("dir")).symlink("m", lab.around("file")).end();
    let tree = lab.tree(&[lower, Tar::new().file(".wh.l", "").file(".wh.m", "").end()]);
    assert!(tree.is_empty(), "{tree:?}");
}

#[test]
fn hard_links_reach_what_is_inside_only() {
    let lab = Lab::new();
    let file = lab.around("file");
    for target in [&file, "nothing", "/etc/passwd", "l/file", "d/nothing"] {
        let layer = Tar::new().dir("d").symlink("l", lab.around("dir")).hard_link("h", target).end();
        assert_has(&lab.refusal(&[layer]), &["entry `h`", "hard link"]);
    }
    for target in ["../file", "d/../file", ""] {
        let layer = Tar::new().dir("d").hard_link("h", target).end();
        assert_has(&lab.refusal(&[layer]), &["entry `h`", "no clean name"]);
    }
    assert_has(&lab.refusal(&[Tar::new().dir("d").hard_link("h", "d").end()]), &["entry `h`", "directory"]);
    assert_has(&lab.refusal(&[Tar::new().hard_link("h", "/").end()]), &["entry `h`", "root"]);
}

#[test]
fn a_hard_link_to_a_link_is_the_link() {
    let lab = Lab::new();
    let file = lab.around("file");
    // Written through neither name.
    let layer = Tar::new().symlink("l", &file).hard_link("h", "l").file("h", "inside").end();
    assert_eq!(files(&lab.tree(&[layer])), [("h".to_owned(), "inside".to_owned()), ("l".to_owned(), file)]);
}

#[test]
fn bits_that_raise_privilege_are_dropped() {
    let lab = Lab::new();
    let layer = Tar::new()
        .header(Header { name: b"d", flag: b'5', mode: 0o7000, size: 0, link: b"" })
        .file_with_mode("suid", 0o4755, "")
        .file_with_mode("sgid", 0o2711, "")
        .file_with_mode("closed", 0, "")
        .file_with_mode("open", 0o1666, "")
        .extended(b'x', &record("SCHILY.xattr.security.capability", b"\x01\0\0\x02"))
        .file_with_mode("capable", 0o100, "");
    let tree = lab.tree(&[layer.end()]);
    let mode = |name: &str| tree[name.as_bytes()].0 & 0o7777;
    assert_eq!(
        ["d", "suid", "sgid", "closed", "open", "capable"].map(mode),
        [0o755, 0o755, 0o755, 0o644, 0o644, 0o755]
    );
}

#[test]
fn devices_and_pipes_are_never_made() {
    let lab = Lab::new();
    for flag in [b'3', b'4'] {
        for name in ["null", "etc/dev/sda", "dev"] {
            let message = lab.refusal(&[Tar::new().special(name, flag).end()]);
            assert_has(&message, &[&format!("entry `{name}`"), "device"]);
        }
    }
    let layer =
        Tar::new().dir("dev/").special("dev/null", b'3').special("./dev/sda", b'4').special("run/fifo", b'6');
    let image = lab.unpack(&mut Packed::plain(&[layer.end()])).unwrap();
    assert_eq!(snapshot(&image.rootfs).into_keys().collect::<Vec<_>>(), [b"dev"]);
    assert_eq!(image.left_out, 3);
}

#[test]
fn a_terabyte_is_refused_before_anything_is_written() {
    let lab = Lab::new();
    let gnu = Tar::new()
        .header(Header { name: b"big", flag: b'S', mode: 0o644, size: 512, link: b"" })
        .content(b"x");
    assert_has(&lab.refusal(&[gnu.end()]), &["sparse"]);
    let pax =
        [record("GNU.sparse.major", b"1"), record("GNU.sparse.realsize", TB.to_string().as_bytes())].concat();
    assert_has(&lab.refusal(&[Tar::new().extended(b'x', &pax).file("big", "x").end()]), &["sparse"]);
    let declared = Tar::new()
        .header(Header { name: b"big", flag: b'0', mode: 0o644, size: TB, link: b"" })
        .content(b"x");
    assert_has(&lab.refusal(&[declared.end()]), &["entry `big`", &TB.to_string()]);
    let pax = Tar::new().extended(b'x', &record("size", TB.to_string().as_bytes())).file("big", "x");
    assert_has(&lab.refusal(&[pax.end()]), &["entry `big`", &TB.to_string()]);
    for size in [u64::MAX, u64::MAX - 511, i64::MAX as u64] {
        let huge = Tar::new()
            .header(Header { name: b"big", flag: b'0', mode: 0o644, size, link: b"" })
            .content(b"x");
        assert_has(&lab.refusal(&[huge.end()]), &["entry `big`"]);
    }
}

#[test]
fn two_sizes_for_one_entry_are_refused() {
    let lab = Lab::new();
    // For a reader that believes the header, what is inside is an entry of its own.
    let inner = Tar::new().file("inner", "").open_ended();
    for size in [0, 1, 511, inner.len() - 1, inner.len() + 1] {
        let layer =
            Tar::new().extended(b'x', &record("size", size.to_string().as_bytes())).file("outer", &inner);
        assert_has(&lab.refusal(&[layer.end()]), &["entry `outer`", "two sizes"]);
    }
    let same =
        Tar::new().extended(b'x', &record("size", inner.len().to_string().as_bytes())).file("outer", &inner);
    assert_eq!(lab.tree(&[same.end()]).len(), 1);
    for flag in [b'1', b'2', b'5', b'6'] {
        let layer =
            Tar::new().file("f", "").header(Header { name: b"n", flag, mode: 0o644, size: 512, link: b"f" });
        assert_has(&lab.refusal(&[layer.raw(&inner).end()]), &["entry `n`", "has content"]);
    }
}

#[test]
fn extended_headers_that_cheat_are_refused() {
    let lab = Lab::new();
    let path = record("path", b"a");
    for (layer, why) in [
        (Tar::new().extended(b'x', &path).extended(b'x', &path).file("b", ""), "second PAX"),
        (Tar::new().extended(b'x', &[path.clone(), path.clone()].concat()).file("b", ""), "twice"),
        (Tar::new().extended(b'x', &path).extended(b'L', b"c\0").file("b", ""), "long name"),
        (Tar::new().extended(b'L', b"c\0").extended(b'L', b"d\0").file("b", ""), "second long name"),
        (Tar::new().extended(b'L', b"c\0/../d\0").file("b", ""), "zero byte"),
        (Tar::new().extended(b'g', &path).file("b", ""), "all entries"),
        (Tar::new().extended(b'x', b"999 path=a\n").file("b", ""), "after its header"),
        (Tar::new().extended(b'x', &path), "cut off"),
        (Tar::new().header(Header { name: b"x", flag: b'x', mode: 0, size: TB, link: b"" }), "too long"),
        (Tar::new().header(Header { name: b"x", flag: b'L', mode: 0, size: 1 << 21, link: b"" }), "too long"),
    ] {
        assert_has(&lab.refusal(&[layer.end()]), &["sha256:", why]);
    }
}

#[test]
fn entries_are_counted_over_all_layers_and_with_what_they_imply() {
    let lab = Lab::new();
    let limits = Limits { entries: 10, ..Limits::default() };
    let layer =
        |from: usize, to: usize| (from..to).fold(Tar::new(), |tar, n| tar.file(format!("f{n}"), "")).end();
    lab.unpack_within(&mut Packed::plain(&[layer(0, 5), layer(5, 10)]), limits).unwrap();
    let deep = Tar::new().file("a/".repeat(10) + "f", "").end();
    let global = (0..11).fold(Tar::new(), |tar, _| tar.extended(b'g', &record("comment", b"x"))).end();
    for layers in [vec![layer(0, 11)], vec![layer(0, 5), layer(5, 11)], vec![deep], vec![global]] {
        let lab = Lab::new();
        let error = lab.unpack_within(&mut Packed::plain(&layers), limits).expect_err("too many");
        assert_has(&chain(&error), &["sha256:", "entries"]);
    }
}

#[test]
fn bombs_are_defused() {
    let lab = Lab::new();
    // 300 MiB of zeros in a file: gzip makes 1.3 MiB of it, zstd 28 KiB.
    let size = 300 << 20;
    let bomb = Tar::new().file("zeros", vec![0; size]).end();
    for stored in [gzip(&bomb), zstd(&bomb)] {
        let mut packed = Packed::of(&[(stored, bomb.clone())]);
        assert_has(&chain(&lab.unpack(&mut packed).expect_err("a bomb")), &["sha256:", "times its size"]);
        let limits = Limits { bytes: 64 << 20, ..Limits::default() };
        let error = lab.unpack_within(&mut packed, limits).expect_err("a bomb");
        assert_has(&chain(&error), &["entry `zeros`", &size.to_string()]);
    }
    // Behind the end of the tar file, where no entry says how much there is.
    let mut tail = Tar::new().end();
    tail.resize(tail.len() + TRAILING_BYTES_MAX as usize + 1024, 0);
    assert_has(&lab.refusal(&[tail]), &["follow its end"]);
}

#[test]
fn the_limit_on_bytes_is_over_all_layers() {
    let lab = Lab::new();
    let limits = Limits { bytes: 100_000, ..Limits::default() };
    let layer = |name| Tar::new().file(name, vec![b'x'; 48_000]).end();
    lab.unpack_within(&mut Packed::plain(&[layer("a"), layer("b")]), limits).unwrap();
    let mut packed = Packed::of(&[layer("a"), layer("b"), layer("c")].map(|tar| (gzip(&tar), tar)));
    let error = Lab::new().unpack_within(&mut packed, limits).expect_err("too much");
    assert_has(&chain(&error), &["entry `c`", "48000"]);
}

#[test]
fn odd_names_are_names() {
    let lab = Lab::new();
    let long = vec![b'n'; NAME_BYTES_MAX];
    let names: [&[u8]; 5] = [b"new\nline", b"\xff\xfe", b"\x1b[2J", b" ", &long];
    let layer = names.iter().fold(Tar::new(), |tar, name| tar.file(name, name));
    let tree = lab.tree(&[layer.end()]);
    for name in names {
        assert_eq!(tree[name].1, name);
    }
    let longer = [&long[..], b"n"].concat();
    assert_has(&lab.refusal(&[Tar::new().file(&longer, "").end()]), &["too long"]);
    let deep = b"d/".repeat(PATH_BYTES_MAX / 2 + 1);
    assert_has(&lab.refusal(&[Tar::new().dir(&deep).end()]), &["too long"]);
    assert_has(&lab.refusal(&[Tar::new().file("", "").end()]), &["empty"]);
    assert_has(&lab.refusal(&[Tar::new().file("/", "").end()]), &["root"]);
    assert_has(&lab.refusal(&[Tar::new().symlink("l", "").end()]), &["entry `l`", "empty"]);
    assert_has(
        &lab.refusal(&[Tar::new().symlink("l", vec![b'a'; PATH_BYTES_MAX + 1]).end()]),
        &["entry `l`", "too long"],
    );
    // The message is printable, see `chain`.
    assert_has(&lab.refusal(&[Tar::new().file("\x1b[2J\n/..", "").end()]), &["\\x1b[2J\\n/.."]);
}

#[test]
fn the_deepest_tree_is_unpacked_and_removed() {
    let lab = Lab::new();
    // Each link shortens the way, so that the tree gets deeper than any path is long.
    let part = "d/".repeat(1000);
    let mut tar = Tar::new();
    for n in 0..5 {
        let place = if n == 0 { part.clone() } else { format!("l{}/{part}", n - 1) };
        tar = tar.dir(&place);
        let target = if n == 0 { format!("/{part}") } else { format!("/l{}/{part}", n - 1) };
        tar = tar.symlink(format!("l{n}"), target.trim_end_matches('/'));
    }
    let lower = tar.end();
    let image =
        lab.unpack(&mut Packed::plain(std::slice::from_ref(&lower))).map_err(|error| chain(&error)).unwrap();
    assert_eq!(image.bytes, 5 * 1000 * 4096 + 5 * 4096);
    // Gone again by a whiteout, and when something else fails.
    let upper = Tar::new().file(".wh.d", "").end();
    let image =
        lab.unpack(&mut Packed::plain(&[lower.clone(), upper])).map_err(|error| chain(&error)).unwrap();
    assert_eq!(snapshot(&image.rootfs).len(), 5);
    assert_eq!(image.bytes, 5 * 4096);
    assert_has(&Lab::new().refusal(&[lower, Tar::new().file("..", "").end()]), &["entry `..`"]);
}

#[test]
fn every_cut_is_refused() {
    let layer = Tar::new()
        .extended(b'x', &record("path", b"long"))
        .file("a", "content")
        .dir("d")
        .symlink("l", "a")
        .end();
    let (lab, digest) = (Lab::new(), Digest::of(&layer));
    for pack in [|bytes: &[u8]| bytes.to_vec(), gzip, zstd] {
        let stored = pack(&layer);
        // With honest digests of what is left, only the tar file itself can tell; with the old ones, everything does.
        for length in (0..stored.len()).step_by(if stored.len() > 2000 { 97 } else { 3 }) {
            let mut packed = Packed::of(&[(stored[..length].to_vec(), layer.clone())]);
            let message = chain(&lab.unpack(&mut packed).expect_err("cut"));
            assert_has(&message, &[&digest.to_string()]);
        }
    }
    // The tar file alone, with a digest that is right: all but the cuts between entries show.
    for length in (1..layer.len() - 1024).step_by(7).filter(|length| length % 512 != 0) {
        assert_has(&lab.refusal(&[layer[..length].to_vec()]), &["cut off"]);
    }
    assert_has(&lab.refusal(&[layer[..512].to_vec()]), &["cut off"]);
    assert_has(&lab.refusal(&[layer[..1024].to_vec()]), &["cut off"]);
}

#[test]
fn damaged_headers_are_refused() {
    let lab = Lab::new();
    let good = Tar::new().file("a", "content").end();
    for at in [0, 100, 124, 148, 156, 257, 500] {
        let mut bad = good.clone();
        bad[at] ^= 0x80;
        assert_has(&lab.refusal(&[bad]), &["sha256:", "header at byte 0"]);
    }
    for flag in [b'8', b'D', b'M', b'V', b'X', 0xff] {
        assert_has(&lab.refusal(&[Tar::new().special("a", flag).end()]), &["type"]);
    }
    let lone = Tar::new().raw(&[0; 512]).file("a", "").end();
    assert_has(&lab.refusal(&[lone]), &["zeros"]);
}

#[test]
fn nothing_is_owned_by_anybody_else() {
    let lab = Lab::new();
    let image =
        lab.unpack(&mut Packed::plain(&[Tar::new().file("d/f", "").symlink("l", "f").end()])).unwrap();
    let own = lab.path().metadata().unwrap();
    for name in ["d", "d/f", "l"] {
        let meta = image.rootfs.join(name).symlink_metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (own.uid(), own.gid()));
    }
}

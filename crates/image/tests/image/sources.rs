//! Files and directories that hold images.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use lastword_image::Digest;
use serde_json::json;

use crate::lab::{Lab, assert_has, chain, files};
use crate::pack::{Packed, Tar, docker_save, gzip, zstd};

fn layers() -> [Vec<u8>; 3] {
    let a = Tar::new().file("a", "1").end();
    [a.clone(), Tar::new().file("b", "2").file(".wh.a", "").end(), a]
}

fn expected() -> [(String, String); 2] {
    [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]
}

fn write(lab: &Lab, name: &str, bytes: &[u8]) -> PathBuf {
    let path = lab.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn one_image_in_every_form() {
    let packed = Packed::of(&layers().map(|tar| (gzip(&tar), tar)));
    let saved = docker_save(&layers(), &packed.config, &["a:1", "a:2"]);
    let id = Digest::of(packed.config.to_string().as_bytes());
    let archive = packed.oci_archive();
    for (bytes, digest) in [
        (archive.clone(), packed.digest()),
        (gzip(&archive), packed.digest()),
        (zstd(&archive), packed.digest()),
        (saved.clone(), id),
        (gzip(&saved), id),
    ] {
        let lab = Lab::new();
        let image =
            lab.unpack_path(&write(&lab, "image.tar", &bytes), None).map_err(|error| chain(&error)).unwrap();
        assert_eq!(image.digest, digest);
        assert_eq!(files(&crate::lab::snapshot(&image.rootfs)), expected());
        assert!(lab.left("tmp").is_empty());
    }
    let lab = Lab::new();
    let layout = lab.path().join("layout");
    packed.write_layout(&layout);
    let image = lab.unpack_path(&layout, None).map_err(|error| chain(&error)).unwrap();
    assert_eq!(image.digest, packed.digest());
    assert_eq!(files(&crate::lab::snapshot(&image.rootfs)), expected());
}

#[test]
fn newer_docker_saves_are_read_as_layouts() {
    let packed = Packed::plain(&layers());
    let tar = packed.layout().into_iter().fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes));
    let list = json!([{"Config": "blobs/sha256/none", "RepoTags": null, "Layers": []}]);
    let lab = Lab::new();
    let path = write(&lab, "image.tar", &tar.file("manifest.json", list.to_string()).end());
    assert_eq!(lab.unpack_path(&path, None).unwrap().digest, packed.digest());
}

#[test]
fn one_of_several_is_named() {
    let lab = Lab::new();
    let (one, two) = (Packed::plain(&layers()[..1]), Packed::plain(&layers()[..2]));
    let entry = |packed: &Packed, key: &str, name: &str| {
        let mut descriptor = packed.descriptor();
        descriptor["annotations"] = json!({key: name});
        descriptor
    };
    let name = "org.opencontainers.image.ref.name";
    let layout = lab.path().join("layout");
    one.write_layout(&layout);
    two.write_layout(&layout);
    let index = |entries: &[serde_json::Value]| {
        fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": entries}).to_string())
            .unwrap();
    };
    index(&[entry(&one, name, "one"), entry(&two, "io.containerd.image.name", "two")]);
    assert_has(&chain(&lab.unpack_path(&layout, None).expect_err("two")), &["several", "one, two"]);
    assert_has(&chain(&lab.unpack_path(&layout, Some("three")).expect_err("none")), &["three", "one, two"]);
    assert_eq!(lab.unpack_path(&layout, Some("one")).unwrap().digest, one.digest());
    assert_eq!(lab.unpack_path(&layout, Some("two")).unwrap().digest, two.digest());
    // Two names of one image are no choice.
    index(&[entry(&one, name, "one"), entry(&one, name, "uno")]);
    assert_eq!(lab.unpack_path(&layout, None).unwrap().digest, one.digest());
}

#[test]
fn one_of_several_saved_is_named() {
    let lab = Lab::new();
    let packed = Packed::plain(&layers()[..1]);
    let config = packed.config.to_string();
    let image = |tag: &str| json!({"Config": "c.json", "RepoTags": [tag], "Layers": ["l"]});
    let list = json!([image("a:1"), image("b:1")]).to_string();
    let tar = Tar::new().file("c.json", &config).file("l", &layers()[0]).file("manifest.json", list);
    let path = write(&lab, "image.tar", &tar.end());
    assert_has(&chain(&lab.unpack_path(&path, None).expect_err("two")), &["several", "a:1, b:1"]);
    assert_has(&chain(&lab.unpack_path(&path, Some("c")).expect_err("none")), &["`c`", "a:1, b:1"]);
    assert_eq!(lab.unpack_path(&path, Some("b:1")).unwrap().digest, Digest::of(config.as_bytes()));
}

#[test]
fn saved_layers_and_configs_are_checked() {
    let config = Packed::plain(&layers()).config;
    let mut changed = layers();
    changed[1] = Tar::new().file("evil", "").end();
    let lab = Lab::new();
    let path = write(&lab, "image.tar", &docker_save(&changed, &config, &[]));
    let message = chain(&lab.unpack_path(&path, None).expect_err("another layer"));
    assert_has(&message, &[&Digest::of(&layers()[1]).to_string(), "digest"]);
    let name = Digest::of(b"").hex() + ".json";
    let list = json!([{"Config": name, "Layers": []}]).to_string();
    let path = write(&lab, "other.tar", &Tar::new().file(&name, "{}").file("manifest.json", list).end());
    assert_has(&chain(&lab.unpack_path(&path, None).expect_err("another config")), &["config", "digest"]);
}

#[test]
fn archives_are_hostile_too() {
    let list = |layer: &str| json!([{"Config": "c.json", "Layers": [layer]}]).to_string();
    let config = Packed::plain(&layers()[..1]).config.to_string();
    let base = || Tar::new().file("c.json", &config);
    for (tar, why) in [
        (base().file("manifest.json", list("../l")), "`..`"),
        (base().file("manifest.json", list("nothing")), "not in the archive"),
        (base().symlink("l", "/etc/passwd").file("manifest.json", list("l")), "not in the archive"),
        (base().symlink("l", "../../etc/passwd").file("manifest.json", list("l")), "not in the archive"),
        (base().symlink("l", "l").file("manifest.json", list("l")), "too many links"),
        (base().file("c.json", "").file("manifest.json", list("l")), "twice"),
        (base().hard_link("l", "c.json").file("manifest.json", list("l")), "only"),
        (base().file("../l", "").file("manifest.json", list("l")), "`..`"),
        (base().file("manifest.json", "[]"), "no image"),
        (base().file("l", ""), "neither"),
    ] {
        let lab = Lab::new();
        let path = write(&lab, "image.tar", &tar.end());
        assert_has(&chain(&lab.unpack_path(&path, None).expect_err(why)), &[why]);
    }
    let whole = docker_save(&layers(), &Packed::plain(&layers()).config, &[]);
    for length in [0, 100, 512, 1000, whole.len() / 2, whole.len() - 2500] {
        let lab = Lab::new();
        let path = write(&lab, "image.tar", &whole[..length]);
        lab.unpack_path(&path, None).map(|_| ()).expect_err("cut");
        let path = write(&lab, "image.tar.gz", &gzip(&whole)[..gzip(&whole).len() * length / whole.len()]);
        lab.unpack_path(&path, None).map(|_| ()).expect_err("cut");
    }
}

#[test]
fn a_layout_does_not_lead_out_of_its_directory() {
    for name in ["oci-layout", "index.json", "blob"] {
        let lab = Lab::new();
        let (layout, packed) = (lab.path().join("layout"), Packed::plain(&layers()[..1]));
        packed.write_layout(&layout);
        let blob = format!("blobs/sha256/{}", Digest::of(&layers()[0]).hex());
        let path = layout.join(if name == "blob" { &blob } else { name });
        let outside = lab.path().join("outside");
        fs::rename(&path, &outside).unwrap();
        symlink(&outside, &path).unwrap();
        lab.unpack_path(&layout, None).map(|_| ()).expect_err("a link out");
        // A link that stays inside is as good as a file.
        fs::rename(&outside, layout.join("inside")).unwrap();
        fs::remove_file(&path).unwrap();
        symlink(if name == "blob" { "../../inside" } else { "inside" }, &path).unwrap();
        lab.unpack_path(&layout, None).map_err(|error| chain(&error)).unwrap();
    }
}

#[test]
fn what_is_no_image_is_named() {
    let lab = Lab::new();
    let dir = lab.path().join("dir");
    fs::create_dir(&dir).unwrap();
    assert_has(&chain(&lab.unpack_path(&dir, None).expect_err("a directory")), &["dir", "oci-layout"]);
    assert_has(&chain(&lab.unpack_path(&dir.join("no"), None).expect_err("nothing")), &["dir/no"]);
    assert_has(
        &chain(&lab.unpack_path("/dev/null".as_ref(), None).expect_err("a device")),
        &["/dev/null", "neither"],
    );
    let text = write(&lab, "text", &b"hello, world\n".repeat(100));
    assert_has(&chain(&lab.unpack_path(&text, None).expect_err("a text")), &["text", "header at byte 0"]);
}

//! Manifests, indexes and configs that are not what they should be.

use lastword_image::limits::{DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX, LAYERS_MAX};
use lastword_image::{Digest, Source};
use serde_json::{Value, json};

use crate::lab::{Lab, assert_has, chain};
use crate::pack::{Packed, Tar, architecture, gzip};

fn packed() -> Packed {
    let tar = Tar::new().file("a", "1").end();
    Packed::of(&[(gzip(&tar), tar)])
}

fn refusal(mut packed: Packed) -> String {
    chain(&Lab::new().unpack(&mut packed).expect_err("it was unpacked"))
}

/// With a change to the config, and everything pinned to it.
fn with_config(change: impl Fn(&mut Value)) -> Packed {
    let mut packed = packed();
    change(&mut packed.config);
    packed.pin();
    packed
}

fn with_manifest(change: impl Fn(&mut Value)) -> Packed {
    let mut packed = packed();
    change(&mut packed.manifest);
    packed.top = packed.manifest.to_string().into_bytes();
    packed
}

#[test]
fn an_honest_image_says_how_to_run_it() {
    let lab = Lab::new();
    let mut packed = packed();
    let image = lab.unpack(&mut packed).unwrap();
    assert_eq!(image.digest, packed.digest());
    assert_eq!(image.config.cmd, ["/bin/true"]);
    assert!(image.config.entrypoint.is_empty());
    assert_eq!(image.config.env, [("A".to_owned(), "b=c".to_owned())]);
    assert_eq!(image.config.working_dir, "/work");
    assert_eq!(image.config.user, "1000:7");
    assert_eq!((image.config.os.as_str(), image.config.architecture.as_str()), ("linux", architecture()));
    let image = lab.unpack(&mut with_config(|config| config["config"] = Value::Null)).unwrap();
    assert_eq!(image.config.working_dir, "/");
}

#[test]
fn every_digest_is_checked() {
    let lab = Lab::new();
    let mut packed = packed();
    let other = Digest::of(b"other");
    // The manifest, by the digest that somebody asked for.
    packed.blobs.insert(other, packed.manifest.to_string().into_bytes());
    let before = lab.inventory();
    let result = lab.cache().unpack(Source::Blobs { blobs: &mut packed, digest: Some(other) });
    lab.check(before, &result);
    assert_has(&chain(&result.expect_err("another manifest")), &["manifest", &other.to_string(), "digest"]);
    // Config, layer as stored: one byte differs, the length does not.
    for at in ["config", "layers"] {
        let mut packed = packed.clone();
        let descriptor =
            if at == "config" { &packed.manifest["config"] } else { &packed.manifest["layers"][0] };
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        *packed.blobs.get_mut(&digest).unwrap().last_mut().unwrap() ^= 1;
        assert_has(&refusal(packed), &[&digest.to_string(), "does not have the digest"]);
    }
    // Layer as unpacked.
    let wrong = other.to_string();
    let message = refusal(with_config(|config| config["rootfs"]["diff_ids"] = json!([wrong])));
    assert_has(&message, &[&wrong, "does not have the digest"]);
}

#[test]
fn every_size_is_checked() {
    for (at, size) in [("config", 10), ("config", 10_000), ("layers", 10), ("layers", 10_000)] {
        let message = refusal(with_manifest(|manifest| match at {
            "config" => manifest["config"]["size"] = json!(size),
            _ => manifest["layers"][0]["size"] = json!(size),
        }));
        assert_has(&message, &["sha256:", &size.to_string()]);
    }
    let message = refusal(with_manifest(|manifest| manifest["layers"][0]["size"] = json!(1_u64 << 40)));
    assert_has(&message, &["sha256:", "more than"]);
    let message =
        refusal(with_manifest(|manifest| manifest["config"]["size"] = json!(DOCUMENT_BYTES_MAX + 1)));
    assert_has(&message, &["config", "more than"]);
}

#[test]
fn layers_belong_to_their_digests_in_order() {
    let layer = |name: &str| Tar::new().file(name, name).end();
    let mut packed = Packed::plain(&[layer("a"), layer("b")]);
    packed.manifest["layers"].as_array_mut().unwrap().reverse();
    packed.pin();
    assert_has(&refusal(packed.clone()), &[&Digest::of(&layer("a")).to_string(), "digest"]);
    packed.manifest["layers"].as_array_mut().unwrap().pop();
    packed.pin();
    assert_has(&refusal(packed), &["config", "as many layers"]);
}

#[test]
fn documents_are_one_thing_only() {
    for (key, value) in [
        ("manifests", json!([])),
        ("rootfs", json!({"type": "layers", "diff_ids": []})),
        ("config", Value::Null),
        ("layers", Value::Null),
        ("schemaVersion", json!(1)),
    ] {
        let message = refusal(with_manifest(|manifest| manifest[key] = value.clone()));
        assert_has(&message, &["the manifest is refused"]);
    }
    for key in ["layers", "manifests"] {
        let message = refusal(with_config(|config| config[key] = json!([])));
        assert_has(&message, &["config sha256:", "could be taken"]);
    }
    let mut twice = packed();
    let text = twice.manifest.to_string();
    twice.top = text.replacen('{', r#"{"layers":[],"#, 1).into_bytes();
    assert_has(&refusal(twice), &["the manifest", "duplicate"]);
}

#[test]
fn documents_have_limits() {
    let mut huge = packed();
    huge.top = vec![b' '; DOCUMENT_BYTES_MAX as usize + 1];
    assert_has(&refusal(huge), &["the manifest", "more than"]);
    let mut nested = packed();
    nested.top = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
    assert_has(&refusal(nested), &["the manifest is refused"]);
    let message = refusal(with_manifest(|manifest| {
        manifest["layers"] = json!(vec![manifest["layers"][0].clone(); LAYERS_MAX + 1]);
    }));
    assert_has(&message, &["too many layers"]);
    for top in ["", "{", "null", "[]", "{}", "\u{1b}[2J", r#"{"schemaVersion":"\u001b[2J"}"#] {
        let mut bad = packed();
        bad.top = if top.is_empty() { b" ".to_vec() } else { top.into() };
        assert_has(&refusal(bad), &["the manifest"]);
    }
}

#[test]
fn most_layers_that_are_allowed() {
    let layers: Vec<_> = (0..LAYERS_MAX).map(|n| Tar::new().file(format!("f{n}"), "").end()).collect();
    assert_eq!(Lab::new().tree(&layers).len(), LAYERS_MAX);
}

#[test]
fn other_machines_and_other_things_are_named() {
    for (os, machine) in [("windows", architecture()), ("linux", "s390x"), ("", "")] {
        let message = refusal(with_config(|config| {
            config["os"] = json!(os);
            config["architecture"] = json!(machine);
        }));
        assert_has(&message, &[&format!("{os}/{machine}"), &format!("linux/{}", architecture())]);
    }
    let chart = "application/vnd.cncf.helm.config.v1+json";
    assert_has(
        &refusal(with_manifest(|manifest| manifest["config"]["mediaType"] = json!(chart))),
        &["container image"],
    );
    let locked = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    assert_has(
        &refusal(with_manifest(|manifest| manifest["layers"][0]["mediaType"] = json!(locked))),
        &[locked],
    );
}

#[test]
fn configs_that_no_system_call_could_take_are_refused() {
    for (key, value) in [
        ("Env", json!(["no equals sign"])),
        ("Env", json!(["=no name"])),
        ("Env", json!(["A=\0"])),
        ("Cmd", json!(["\0"])),
        ("Entrypoint", json!("text")),
        ("WorkingDir", json!("/\0")),
        ("User", json!("\0")),
    ] {
        assert_has(
            &refusal(with_config(|config| config["config"][key] = value.clone())),
            &["config sha256:"],
        );
    }
}

fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes()
}

fn for_platform(packed: &Packed, os: &str, machine: &str, variant: &str) -> Value {
    let mut entry = packed.descriptor();
    entry["platform"] = json!({"os": os, "architecture": machine, "variant": variant});
    entry
}

#[test]
fn of_an_index_this_machine_is_chosen() {
    let (lab, mut here) = (Lab::new(), packed());
    let other = with_config(|config| config["architecture"] = json!("s390x"));
    here.top = index(&[
        for_platform(&other, "linux", "s390x", ""),
        for_platform(&other, "windows", architecture(), ""),
        for_platform(&other, "linux", architecture(), "v9"),
        for_platform(&other, "unknown", "unknown", ""),
        for_platform(&here, "linux", architecture(), ""),
        for_platform(&other, "linux", architecture(), ""),
    ]);
    let asked = Digest::of(&here.top);
    let image = lab.unpack(&mut here).unwrap();
    assert_eq!(image.digest, here.digest());
    // The choice is remembered.
    assert_eq!(lab.cache().get(&asked).unwrap().unwrap().digest, image.digest);
    here.top = index(&[
        for_platform(&other, "linux", "s390x", ""),
        for_platform(&other, "linux", architecture(), "v9"),
    ]);
    let error = chain(&Lab::new().unpack(&mut here).expect_err("no platform"));
    assert_has(&error, &["linux/s390x", &format!("linux/{}", architecture())]);
}

#[test]
fn indexes_nest_so_far() {
    let mut packed = packed();
    let mut descriptor = packed.descriptor();
    for depth in 1..=INDEX_DEPTH_MAX + 2 {
        packed.top = index(&[descriptor]);
        packed.blobs.insert(Digest::of(&packed.top), packed.top.clone());
        descriptor = json!({"mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": Digest::of(&packed.top).to_string(), "size": packed.top.len()});
        let result = Lab::new().unpack(&mut packed);
        assert_eq!(result.is_ok(), depth <= INDEX_DEPTH_MAX, "{depth}: {result:?}");
    }
}

//! Any tar file as a layer: nothing outside of the image's tree changes, and in it are files, directories and links only.
#![no_main]

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lastword_image::{Blobs, Cache, Digest, Limits, Source};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const BLOCK: usize = 512;
const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 200 };

/// Removed by run.sh, which gives us a directory of its own.
static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("image-layer-{}", std::process::id()));
    fs::create_dir_all(dir.join("around")).expect("a directory");
    fs::write(dir.join("around/file"), "canary").expect("a file");
    dir
});

struct Image(Vec<u8>, HashMap<Digest, Vec<u8>>);

impl Image {
    fn of(layers: &[&[u8]]) -> Self {
        let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let config = json!({"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": ids}});
        let config = config.to_string().into_bytes();
        let descriptor = |bytes: &[u8]| {
            let kind = "application/vnd.oci.image.layer.v1.tar";
            json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
        };
        let mut of_config = descriptor(&config);
        of_config["mediaType"] = "".into();
        let layers_of: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
        let manifest = json!({"schemaVersion": 2, "config": of_config, "layers": layers_of}).to_string();
        let mut blobs: HashMap<_, _> =
            layers.iter().map(|layer| (Digest::of(layer), layer.to_vec())).collect();
        blobs.insert(Digest::of(&config), config);
        Image(manifest.into_bytes(), blobs)
    }
}

impl Blobs for Image {
    fn manifest(&mut self, _: Option<&Digest>) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(&self.0[..]))
    }

    fn blob(&mut self, digest: &Digest, _: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(&self.1.get(digest).ok_or(io::ErrorKind::NotFound)?[..]))
    }
}

/// The same file with every checksum put right, as far as sizes lead: no fuzzer finds those by itself.
fn repair(data: &[u8]) -> Vec<u8> {
    let (mut bytes, mut at) = (data.to_vec(), 0);
    while let Some(block) = bytes.get_mut(at..at + BLOCK) {
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = str::from_utf8(&block[124..135]).unwrap_or_default();
        let size =
            usize::from_str_radix(digits.trim_matches(|c| c == ' ' || c == '\0'), 8).unwrap_or_default();
        at += BLOCK + size.min(data.len()).next_multiple_of(BLOCK);
    }
    bytes
}

fn check_tree(dir: &Path) {
    // Deeper than a path can say: links have shortened the way.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        assert!(meta.is_dir() || meta.is_file() || meta.is_symlink(), "a special file: {entry:?}");
        assert!(
            meta.is_symlink() || matches!(meta.permissions().mode() & 0o7777, 0o644 | 0o755),
            "a mode: {entry:?}"
        );
        if meta.is_dir() {
            check_tree(&entry.path());
        }
    }
}

fn check(layers: &[&[u8]]) {
    let cache = Cache::open(&SCRATCH.join("cache"), 0).expect("a cache").with_limits(LIMITS);
    if let Ok(image) = cache.unpack(Source::Blobs { blobs: &mut Image::of(layers), digest: None }) {
        check_tree(&image.rootfs);
    }
    assert_eq!(fs::read(SCRATCH.join("around/file")).expect("the canary"), b"canary");
    let names = |dir: &Path| fs::read_dir(dir).expect("a directory").count();
    assert_eq!((names(&SCRATCH), names(&SCRATCH.join("around"))), (2, 1), "something new outside");
    assert_eq!(names(&SCRATCH.join("cache/tmp")), 0, "something left behind");
}

fuzz_target!(|data: &[u8]| {
    check(&[data]);
    let half = data.len() / 2 / BLOCK * BLOCK;
    let (lower, upper) = data.split_at(half);
    check(&[&repair(lower), &repair(upper)]);
});

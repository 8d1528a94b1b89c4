//! Any JSON as index, manifest, config, list of saved images or user files: an image or an error, no panic, and an image only under
//! the digest of what was given.
#![no_main]

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::LazyLock;

use lastword_image::{Blobs, Cache, Digest, Limits, Source};
use libfuzzer_sys::fuzz_target;

/// Removed by run.sh, which gives us a directory of its own.
static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("image-documents-{}", std::process::id()));
    fs::create_dir_all(dir.join("layout")).expect("a directory");
    dir
});

/// Documents one after the other, parted by a zero byte; every digest in one that should be another's is put right.
struct Documents(Vec<Vec<u8>>);

impl Documents {
    fn linked(data: &[u8]) -> Self {
        let mut parts: Vec<Vec<u8>> = data.split(|byte| *byte == 0).take(5).map(<[u8]>::to_vec).collect();
        for at in (1..parts.len()).rev() {
            let (digest, size) = (Digest::of(&parts[at]).to_string(), parts[at].len().to_string());
            let above =
                String::from_utf8_lossy(&parts[at - 1]).replace("@digest", &digest).replace("@size", &size);
            parts[at - 1] = above.into_bytes();
        }
        Documents(parts)
    }
}

impl Blobs for Documents {
    fn manifest(&mut self, digest: Option<&Digest>) -> io::Result<Box<dyn Read + '_>> {
        match digest {
            Some(digest) => self.blob(digest, 0),
            None => Ok(Box::new(self.0.first().map(Vec::as_slice).unwrap_or_default())),
        }
    }

    fn blob(&mut self, digest: &Digest, _: u64) -> io::Result<Box<dyn Read + '_>> {
        let found = self.0.iter().find(|part| Digest::of(part) == *digest);
        Ok(Box::new(&found.ok_or(io::ErrorKind::NotFound)?[..]))
    }
}

fuzz_target!(|data: &[u8]| {
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    let cache = Cache::open(&SCRATCH.join("cache"), 0).expect("a cache").with_limits(limits);
    let mut documents = Documents::linked(data);
    if let Ok(image) = cache.unpack(Source::Blobs { blobs: &mut documents, digest: None }) {
        assert!(documents.0.iter().any(|part| Digest::of(part) == image.digest));
        let user = String::from_utf8_lossy(data);
        let _ = (image.user(), image.resolve_user(&user));
    }
    // The same as a layout on disk, whose index lists images side by side.
    let layout = SCRATCH.join("layout");
    fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    fs::write(layout.join("index.json"), documents.0.first().map(Vec::as_slice).unwrap_or_default())
        .expect("a file");
    let name = (data.len() % 2 == 0).then_some("a");
    let _ = cache.unpack(Source::Path { path: &layout, name });
    // And as the list of a `docker save` file.
    let _ = cache.unpack(Source::Path { path: &saved(&documents.0), name });
});

fn saved(parts: &[Vec<u8>]) -> PathBuf {
    let path = SCRATCH.join("image.tar");
    let mut tar = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let mut block = [0; 512];
        let name = if at == 0 { "manifest.json".to_owned() } else { at.to_string() };
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", part.len()).as_bytes());
        block[156] = b'0';
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(block);
        tar.extend(part);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    fs::write(&path, tar).expect("a file");
    path
}

//! Writers of tar files and images that write whatever they are told.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;

use lastword_image::{Blobs, Digest};
use serde_json::{Value, json};

/// A tar file in the making.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

pub(crate) struct Header<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) link: &'a [u8],
}

impl Tar {
    pub(crate) fn new() -> Self {
        Tar::default()
    }

    /// A header as it is told, with long names in a PAX header before it.
    pub(crate) fn header(mut self, header: Header<'_>) -> Self {
        let Header { name, flag, mode, size, link } = header;
        let mut records = Vec::new();
        if name.len() > 100 {
            records.extend(record("path", name));
        }
        if link.len() > 100 {
            records.extend(record("linkpath", link));
        }
        if !records.is_empty() {
            self = self.extended(b'x', &records);
        }
        let mut block = [0; 512];
        put(&mut block, 0, &name[..name.len().min(100)]);
        put(&mut block, 100, format!("{mode:07o}").as_bytes());
        put(&mut block, 108, b"0000000");
        put(&mut block, 116, b"0000000");
        if size < 1 << 33 {
            put(&mut block, 124, format!("{size:011o}").as_bytes());
        } else {
            block[124] = 0x80;
            put(&mut block, 128, &size.to_be_bytes());
        }
        put(&mut block, 136, b"14000000000");
        block[156] = flag;
        put(&mut block, 157, &link[..link.len().min(100)]);
        put(&mut block, 257, b"ustar\x0000");
        seal(&mut block);
        self.0.extend(block);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// What follows a header, filled up.
    pub(crate) fn content(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn extended(self, flag: u8, records: &[u8]) -> Self {
        let header = Header { name: b"extended", flag, mode: 0o644, size: records.len() as u64, link: b"" };
        self.header(header).content(records)
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Self {
        self.file_with_mode(name, 0o644, bytes)
    }

    pub(crate) fn file_with_mode(self, name: impl AsRef<[u8]>, mode: u32, bytes: impl AsRef<[u8]>) -> Self {
        let (name, bytes) = (name.as_ref(), bytes.as_ref());
        self.header(Header { name, flag: b'0', mode, size: bytes.len() as u64, link: b"" }).content(bytes)
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.header(Header { name: name.as_ref(), flag: b'5', mode: 0o700, size: 0, link: b"" })
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(Header { name: name.as_ref(), flag: b'2', mode: 0o777, size: 0, link: target.as_ref() })
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(Header { name: name.as_ref(), flag: b'1', mode: 0o777, size: 0, link: target.as_ref() })
    }

    pub(crate) fn special(self, name: impl AsRef<[u8]>, flag: u8) -> Self {
        self.header(Header { name: name.as_ref(), flag, mode: 0o666, size: 0, link: b"" })
    }

    /// Without the two blocks of zeros at the end.
    pub(crate) fn open_ended(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn put(block: &mut [u8; 512], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

/// An image as a set of blobs, and its manifest. Everything can be changed before it is used.
#[derive(Clone)]
pub(crate) struct Packed {
    pub(crate) blobs: HashMap<Digest, Vec<u8>>,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
    /// Given when asked for no digest; the manifest if empty.
    pub(crate) top: Vec<u8>,
    /// How often something was asked for.
    pub(crate) asked: usize,
}

impl Packed {
    /// Of layers as they are stored, each with the tar file in it.
    pub(crate) fn of(layers: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(_, tar)| Digest::of(tar).to_string()).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Env": ["A=b=c"], "WorkingDir": "work", "User": "1000:7"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let mut blobs = HashMap::new();
        let mut descriptors = Vec::new();
        for (stored, _) in layers {
            descriptors.push(
                json!({"mediaType": GZIP, "digest": Digest::of(stored).to_string(), "size": stored.len()}),
            );
            blobs.insert(Digest::of(stored), stored.clone());
        }
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": null, "layers": descriptors});
        let mut packed = Packed { blobs, manifest, config, top: Vec::new(), asked: 0 };
        packed.pin();
        packed
    }

    pub(crate) fn plain(tars: &[Vec<u8>]) -> Self {
        Packed::of(&tars.iter().map(|tar| (tar.clone(), tar.clone())).collect::<Vec<_>>())
    }

    /// Puts the config's digest into the manifest, and both among the blobs.
    pub(crate) fn pin(&mut self) {
        let config = self.config.to_string().into_bytes();
        self.manifest["config"] =
            json!({"mediaType": CONFIG, "digest": Digest::of(&config).to_string(), "size": config.len()});
        self.blobs.insert(Digest::of(&config), config);
        let manifest = self.manifest.to_string().into_bytes();
        self.blobs.insert(Digest::of(&manifest), manifest);
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.manifest.to_string().as_bytes())
    }

    pub(crate) fn descriptor(&self) -> Value {
        let size = self.manifest.to_string().len();
        json!({"mediaType": MANIFEST, "digest": self.digest().to_string(), "size": size})
    }

    /// The files of an OCI layout.
    pub(crate) fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let index = json!({"schemaVersion": 2, "manifests": [self.descriptor()]});
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        let mut blobs: Vec<_> = self.blobs.iter().collect();
        blobs.sort();
        files.extend(
            blobs
                .into_iter()
                .map(|(digest, bytes)| (format!("blobs/sha256/{}", digest.hex()), bytes.clone())),
        );
        files
    }

    pub(crate) fn write_layout(&self, dir: &Path) {
        for (name, bytes) in self.layout() {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    pub(crate) fn oci_archive(&self) -> Vec<u8> {
        let tar = Tar::new().dir("blobs/").dir("blobs/sha256/");
        self.layout().into_iter().fold(tar, |tar, (name, bytes)| tar.file(name, bytes)).end()
    }
}

/// What `docker save` of 20.10 writes; the second of two equal layers is a link.
pub(crate) fn docker_save(layers: &[Vec<u8>], config: &Value, tags: &[&str]) -> Vec<u8> {
    let config = config.to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let (mut tar, mut names, mut first) = (Tar::new().file(&name, &config), Vec::new(), HashMap::new());
    for (at, layer) in layers.iter().enumerate() {
        let id = format!("{at:064x}");
        tar = tar.dir(format!("{id}/")).file(format!("{id}/VERSION"), "1.0").file(format!("{id}/json"), "{}");
        let name = format!("{id}/layer.tar");
        tar = match first.get(layer) {
            Some(other) => tar.symlink(&name, format!("../{other}")),
            None => tar.file(&name, layer),
        };
        first.entry(layer.clone()).or_insert(name.clone());
        names.push(name);
    }
    let manifest = json!([{"Config": name, "RepoTags": tags, "Layers": names}]);
    tar.file("manifest.json", manifest.to_string()).file("repositories", "{}").end()
}

impl Blobs for Packed {
    fn manifest(&mut self, digest: Option<&Digest>) -> io::Result<Box<dyn Read + '_>> {
        self.asked += 1;
        match digest {
            Some(digest) => self.blob(digest, 0),
            None if self.top.is_empty() => Ok(Box::new(Cursor::new(self.manifest.to_string().into_bytes()))),
            None => Ok(Box::new(&self.top[..])),
        }
    }

    fn blob(&mut self, digest: &Digest, _size: u64) -> io::Result<Box<dyn Read + '_>> {
        self.asked += 1;
        Ok(Box::new(&self.blobs.get(digest).ok_or(io::ErrorKind::NotFound)?[..]))
    }
}

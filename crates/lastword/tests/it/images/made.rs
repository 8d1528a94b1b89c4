//! The images of these tests. Those that a Docker daemon has to make are made once, and kept in target/ for the next run.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lastword_image::Digest;
use serde_json::{Value, json};

use crate::fixture;

/// Beside what is essential.
const PACKAGES: &str = "python3-minimal";
/// What `docker import --change` is told of the Debian image.
const CHANGES: &[&str] = &[
    r#"ENTRYPOINT ["/bin/sh", "-c"]"#,
    r#"CMD ["echo entry; id -u; id -g; pwd; echo $A; echo $HOME; cat /proc/self/uid_map"]"#,
    "ENV A=b",
    "WORKDIR /srv",
    "USER 1234:1234",
];
/// Where Debian has the list of its mirrors; the first that is there.
const MIRRORS: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
/// Where a daemon of the machine listens, for who runs a test by hand.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A `docker save` file of a minimal Debian with Python.
pub(super) fn debian() -> PathBuf {
    kept("debian.tar", &(PACKAGES, CHANGES), |path| {
        let root = path.with_extension("root");
        let mirrors = MIRRORS.iter().find(|path| fs::metadata(path).is_ok_and(|found| found.len() > 0));
        let output = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--format=tar", &format!("--include={PACKAGES}"), ""])
            .arg(&root)
            .args(mirrors)
            .stdin(Stdio::null())
            .output()
            .expect("mmdebstrap is needed: run `cargo xtask test`, which installs it");
        assert!(output.status.success(), "mmdebstrap: {}", String::from_utf8_lossy(&output.stderr));
        imported(&root, CHANGES, path);
        fs::remove_file(root).unwrap();
    })
}

/// A `docker save` file of an image with nothing in it but the program that tests ordering.
pub(super) fn single() -> PathBuf {
    let program = fs::read(fixture::program("order")).unwrap();
    let changes = [r#"ENTRYPOINT ["/order"]"#, r#"CMD ["direct", "2000"]"#];
    kept("single.tar", &(&program, changes), |path| {
        let root = path.with_extension("root");
        fs::write(&root, Tar::new().program("order", &program).end()).unwrap();
        imported(&root, &changes, path);
        fs::remove_file(root).unwrap();
    })
}

/// Tests are processes or threads: whoever comes first makes it, and the others wait.
fn kept(name: &str, key: &impl Hash, make: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("images/{:016x}", hasher.finish()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    let lock = File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    if !path.exists() {
        let new = path.with_extension("new");
        make(&new);
        fs::rename(new, &path).unwrap();
    }
    path
}

/// `docker import`, then `docker save`.
fn imported(root: &Path, changes: &[&str], to: &Path) {
    let name = format!("lastword-it-{}", std::process::id());
    let changes: String = changes.iter().map(|change| format!("&changes={}", percent(change))).collect();
    let mut said = Vec::new();
    docker("POST", &format!("/images/create?fromSrc=-&repo={name}{changes}"), Some(root), &mut said);
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains("errorDetail"), "{said}");
    docker("GET", &format!("/images/{name}/get"), None, &mut File::create(to).unwrap());
    docker("DELETE", &format!("/images/{name}"), None, &mut io::sink());
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// One request to the daemon; panics with its words if it refuses. HTTP/1.0, so that the answer ends with the connection.
fn docker(method: &str, path: &str, body: Option<&Path>, to: &mut impl io::Write) {
    let socket = std::env::var_os("LASTWORD_TEST_DOCKER").unwrap_or_else(|| DEFAULT_SOCKET.into());
    let mut stream = UnixStream::connect(&socket).unwrap_or_else(|error| {
        panic!("no Docker daemon: {error}; `cargo xtask test` starts one, as does `cargo xtask docker`")
    });
    let length = body.map_or(0, |path| fs::metadata(path).unwrap().len());
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: {length}\r\n\r\n").unwrap();
    if let Some(path) = body {
        io::copy(&mut File::open(path).unwrap(), &mut stream).unwrap();
    }
    let mut head = Vec::new();
    let mut reader = io::BufReader::new(stream);
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.0 200 ") {
        io::copy(&mut reader, to).unwrap();
        return;
    }
    let mut said = String::new();
    reader.take(ANSWER_BYTES_MAX).read_to_string(&mut said).unwrap();
    panic!("{method} {path}: {}{said}", String::from_utf8_lossy(&head));
}

/// A tar file in the making, of whatever it is told.
#[derive(Clone, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// `flag` says what it is, as in ustar. The size may be a lie.
    pub(super) fn entry(mut self, name: &[u8], flag: u8, link: &[u8], size: u64) -> Self {
        if name.len() > 100 {
            self = self.entry(b"long", b'L', b"", name.len() as u64 + 1).content(&[name, b"\0"].concat());
        }
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name[..name.len().min(100)]);
        put(100, b"0004755\x000000000\x000000000\0");
        if size < 1 << 33 {
            put(124, format!("{size:011o}").as_bytes());
        } else {
            put(124, b"\x80");
            put(128, &size.to_be_bytes());
        }
        put(136, b"14000000000");
        put(156, &[flag]);
        put(157, link);
        // As GNU tar has it, for the long names.
        put(257, b"ustar  \0");
        put(148, b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self
    }

    fn content(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Executable, and with the setuid bit.
    pub(super) fn program(self, name: &str, bytes: &[u8]) -> Self {
        self.file(name, bytes)
    }

    pub(super) fn file(self, name: impl AsRef<[u8]>, bytes: &[u8]) -> Self {
        self.entry(name.as_ref(), b'0', b"", bytes.len() as u64).content(bytes)
    }

    pub(super) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(name.as_ref(), b'5', b"", 0)
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.entry(name.as_bytes(), b'2', target.as_bytes(), 0)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// A `docker save` file of one layer, made without a daemon; `config` is what `docker inspect` calls so.
pub(super) fn saved(layer: &[u8], config: &Value) -> Vec<u8> {
    saved_as(layer, &Digest::of(layer).to_string(), config)
}

pub(super) fn saved_as(layer: &[u8], diff_id: &str, config: &Value) -> Vec<u8> {
    let config = config_document(diff_id, config).to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest = json!([{"Config": name, "RepoTags": null, "Layers": ["0/layer.tar"]}]).to_string();
    let tar = Tar::new().file(&name, config.as_bytes()).dir("0/").file("0/layer.tar", layer);
    tar.file("manifest.json", manifest.as_bytes()).end()
}

fn config_document(diff_id: &str, config: &Value) -> Value {
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    json!({"architecture": architecture, "os": "linux", "config": config,
           "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
}

/// An OCI layout of an image of one layer.
pub(super) fn layout(directory: &Path, layer: &[u8], config: &Value) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest.to_string(),
               "size": bytes.len()})
    };
    let config = config_document(&Digest::of(layer).to_string(), config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes()),
        "layers": [blob("layer.v1.tar", layer)],
    });
    let index =
        json!({"schemaVersion": 2, "manifests": [blob("manifest.v1+json", manifest.to_string().as_bytes())]});
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

//! A registry on loopback that does as it is told: an image made of nothing, version 2 of the API, a token server, and faults.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use lastword_image::Digest;
use serde_json::{Value, json};

/// A question, as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What goes back over the wire, and how it ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Instead of the body's own.
    pub(super) length: Option<u64>,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// The next question may come over the same connection.
    #[default]
    Keep,
    Close,
    /// Nothing more comes, and the connection stays until the other side has had enough.
    Hang,
    /// One byte after another, each after so many milliseconds, without an end.
    Drip(u64),
    /// More and more, until the other side has had enough.
    Endless,
    /// Not even the header comes.
    Mute,
}

pub(super) fn ok(body: impl Into<Vec<u8>>) -> Answer {
    Answer { status: 200, body: body.into(), ..Answer::default() }
}

pub(super) fn status(status: u16) -> Answer {
    Answer { status, ..Answer::default() }
}

impl Answer {
    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

type Behaviour = dyn FnMut(&Asked) -> Option<Answer> + Send;

pub(super) struct Server {
    pub(super) host: String,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    asked: Mutex<Vec<Asked>>,
    image: Mutex<Packed>,
    behaviour: Mutex<Box<Behaviour>>,
    connections: Mutex<Vec<TcpStream>>,
    stopping: AtomicBool,
}

impl Server {
    /// Serves `x/y`, and first asks whether somebody wants to answer otherwise.
    pub(super) fn start(
        image: Packed,
        behaviour: impl FnMut(&Asked) -> Option<Answer> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
            image: Mutex::new(image),
            behaviour: Mutex::new(Box::new(behaviour)),
            connections: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        let acceptor = thread::spawn(move || {
            let mut workers = Vec::new();
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if of_thread.stopping.load(Ordering::SeqCst) {
                    break;
                }
                of_thread.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = of_thread.clone();
                workers.push(thread::spawn(move || shared.serve(&stream)));
            }
            for worker in workers {
                worker.join().unwrap();
            }
        });
        Server { host, shared, acceptor: Some(acceptor) }
    }

    pub(super) fn of(image: Packed) -> Self {
        Server::start(image, |_| None)
    }

    /// `x/y:latest` of this registry.
    pub(super) fn name(&self) -> String {
        format!("{}/x/y", self.host)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.path).collect()
    }

    pub(super) fn serve_instead(&self, image: Packed) {
        *self.shared.image.lock().unwrap() = image;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(&self.host);
        for connection in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        let ended = self.acceptor.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(asked) = read(&mut reader) {
            self.asked.lock().unwrap().push(asked.clone());
            let answer = (self.behaviour.lock().unwrap())(&asked);
            let answer = answer.unwrap_or_else(|| self.image.lock().unwrap().answer(&asked));
            if write(stream, &answer).is_err() || answer.end != End::Keep {
                break;
            }
        }
        // Whoever still waits for more must not wait for the end of the test.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = String::new();
    reader.by_ref().take(length).read_to_string(&mut body).ok()?;
    Some(Asked { method, path, headers, body })
}

fn write(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    let wait_for_end = |mut stream: &TcpStream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
    if answer.end == End::Mute {
        return wait_for_end(stream);
    }
    let mut head = format!("HTTP/1.1 {} Word\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !matches!(answer.end, End::Endless | End::Drip(_)) {
        head += &format!("Content-Length: {}\r\n", answer.length.unwrap_or(answer.body.len() as u64));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&answer.body)?;
    match answer.end {
        End::Hang => wait_for_end(stream),
        End::Endless => loop {
            stream.write_all(&[b' '; 1 << 16])?;
        },
        End::Drip(milliseconds) => loop {
            stream.write_all(b" ")?;
            // The other side's patience is measured here, so time has to pass.
            thread::sleep(std::time::Duration::from_millis(milliseconds));
        },
        _ => Ok(()),
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image `FROM scratch`: one file in one layer.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) index: Vec<u8>,
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) layer: Vec<u8>,
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

impl Packed {
    /// With a file `hello` that says this.
    pub(super) fn saying(text: &[u8]) -> Self {
        Packed::of(architecture(), tar(text))
    }

    pub(super) fn of(architecture: &str, layer: Vec<u8>) -> Self {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor(MANIFEST, &manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        let other = json!({"mediaType": MANIFEST, "digest": Digest::of(b"other").to_string(), "size": 5,
            "platform": {"os": "windows", "architecture": "amd64"}});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, entry]});
        Packed { index: index.to_string().into_bytes(), manifest, config, layer }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(super) fn layer_path(&self) -> String {
        format!("/v2/x/y/blobs/{}", Digest::of(&self.layer))
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        (self.config.len() + self.layer.len()) as u64
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let of = |bytes: &[u8]| Digest::of(bytes).to_string();
        let rest = asked.path.strip_prefix("/v2/x/y/").unwrap_or_default();
        let (kind, what) = rest.split_once('/').unwrap_or_default();
        let found = match kind {
            "manifests" if what == "latest" || what == of(&self.index) => Some((&self.index, INDEX)),
            "manifests" if what == of(&self.manifest) => Some((&self.manifest, MANIFEST)),
            "blobs" if what == of(&self.config) => Some((&self.config, "application/octet-stream")),
            "blobs" if what == of(&self.layer) => Some((&self.layer, "application/octet-stream")),
            _ => None,
        };
        match found {
            Some((bytes, kind)) => ok(bytes.clone()).with("Content-Type", kind),
            None => Answer { status: 404, body: b"{\"errors\": []}".to_vec(), ..Answer::default() },
        }
    }
}

fn tar(text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"hello");
    put(100, b"0000755");
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", text.len()).as_bytes());
    put(136, b"14000000000");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = [&block[..], text].concat();
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

//! Executions to put into a store, and what has to hold of any store.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use lastword_frame::{
    Begin, Cause, Exit, Frame, Note, Ordering, OutputFile, Seal, Stream, StreamEnd, StreamSeal, Usage,
    binary, tally::Tally,
};
use lastword_store::disk::{Access, Disk};
use lastword_store::{Error, Meta, Spool, Store, Waiting};
use uuid::Uuid;

pub(crate) fn meta(status: &str, complete: Option<bool>) -> Meta {
    Meta {
        status: status.into(),
        reason: None,
        complete,
        created_ns: 1_700_000_000_000_000_000,
        ended_ns: complete.map(|_| 1_700_000_000_500_000_000),
        backend: "native".into(),
        runtime: Some("python".into()),
        labels: BTreeMap::from([("team".into(), "a \"quoted\" one".into())]),
        ..Meta::default()
    }
}

/// Of an execution that waits.
pub(crate) fn queued() -> Meta {
    meta("queued", None)
}

/// Accepts one that waits.
pub(crate) fn enqueue(store: &Store, id: Uuid, request: &[u8], secret: Option<&[u8]>) -> Result<(), Error> {
    let item = Waiting { id, meta: &queued(), object: &object(id, "queued"), request, secret };
    store.accept_waiting(&[item]).pop().unwrap()
}

pub(crate) fn waiting_ids(store: &Store) -> Vec<Uuid> {
    store.waiting().unwrap().into_iter().map(|(id, _)| id).collect()
}

pub(crate) fn object(id: Uuid, status: &str) -> Vec<u8> {
    format!("{{\"id\":\"{id}\",\"status\":\"{status}\"}}").into_bytes()
}

/// A transcript that verifies as complete: `bytes` on stdout and on stderr, in records of at most 1,000 bytes.
pub(crate) fn transcript(id: Uuid, bytes: &[u8]) -> Vec<u8> {
    transcript_with(id, bytes, &[])
}

/// The same with output files in its seal.
pub(crate) fn transcript_with(id: Uuid, bytes: &[u8], outputs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut tally = Tally::new();
    let begin = Begin {
        version: Begin::VERSION,
        id: *id.as_bytes(),
        boot_id: [7; 16],
        wall_ns: 1,
        ordering: Ordering::Exact,
        tty: false,
    };
    binary::encode(&Frame::Begin(begin), &mut out);
    binary::encode(&Frame::Note { time: 1, note: Note::Started }, &mut out);
    let mut seq = 0;
    for piece in bytes.chunks(1000) {
        for stream in Stream::ALL {
            binary::encode(&Frame::Output { seq, time: 2 + seq, stream, bytes: piece }, &mut out);
            tally.output(seq, 2 + seq, stream, piece);
            seq += 1;
        }
    }
    let streams = Stream::ALL.map(|stream| {
        let (bytes, dropped, blake3) = tally.stream(stream);
        StreamSeal { bytes, dropped, blake3, end: StreamEnd::Eof }
    });
    let time = 2 + seq;
    for stream in Stream::ALL {
        binary::encode(&Frame::Note { time, note: Note::StreamEnd { stream } }, &mut out);
    }
    binary::encode(&Frame::Note { time, note: Note::MainEnded }, &mut out);
    let seal = Seal {
        time,
        records: tally.records(),
        streams,
        order_blake3: tally.order_blake3(),
        ordering: Ordering::Exact,
        exact_until_seq: None,
        cause: Cause::Ended,
        exit: Exit::Code(0),
        started: Some(1),
        ended: Some(time),
        usage: Usage::default(),
        outputs: outputs
            .iter()
            .map(|(path, bytes)| OutputFile {
                path: path.as_bytes().to_vec(),
                bytes: bytes.len() as u64,
                blake3: *blake3::hash(bytes).as_bytes(),
            })
            .collect(),
    };
    binary::encode(&Frame::Seal(seal), &mut out);
    out
}

/// Bytes that don't compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Spool, accept, and the whole transcript in the spool: everything but the end.
pub(crate) fn begin(store: &Store, id: Uuid, bytes: &[u8]) -> Result<Spool, Error> {
    let mut spool = store.create_spool(id)?;
    store.accept(id, &meta("running", None), &object(id, "running"))?;
    spool.file.write_all(bytes).unwrap();
    Ok(spool)
}

/// Three files, one of them empty.
pub(crate) fn some_outputs(seed: u64) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("/tmp/x", noise(seed, 700)),
        ("out/a.bin", noise(seed + 1, 3000 + seed as usize % 500)),
        ("out/empty", Vec::new()),
    ]
}

/// [`begin`] of a run that leaves output files: they are in its pack, and synced, before the seal is written.
pub(crate) fn begin_with_outputs(
    store: &Store,
    disk: &dyn Disk,
    id: Uuid,
    bytes: &[u8],
    outputs: &[(&str, Vec<u8>)],
) -> Result<Spool, Error> {
    let mut spool = store.create_spool(id)?;
    let mut pack = match store.create_pack(id) {
        Ok(pack) => pack,
        Err(error) => {
            // What a starter does that can't go on.
            std::fs::remove_file(&spool.path).unwrap();
            return Err(error);
        }
    };
    store.accept(id, &meta("running", None), &object(id, "running"))?;
    outputs.iter().for_each(|(_, bytes)| pack.file.write_all(bytes).unwrap());
    let synced = disk.open(&pack.path, Access::Write).and_then(|file| file.sync());
    // A supervisor that can't sync its pack seals no files.
    let outputs = if synced.is_ok() { outputs } else { &[] };
    spool.file.write_all(&transcript_with(id, bytes, outputs)).unwrap();
    Ok(spool)
}

/// Of an ended execution, read back and checked.
pub(crate) fn read_outputs(store: &Store, id: Uuid) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let outputs = store.outputs(id).map_err(std::io::Error::other)?;
    let read = |(index, file): (usize, &OutputFile)| {
        let mut bytes = Vec::new();
        outputs.open(index).unwrap().read_to_end(&mut bytes)?;
        Ok((String::from_utf8(file.path.clone()).unwrap(), bytes))
    };
    outputs.files().iter().enumerate().map(read).collect()
}

/// Every pack belongs to an ended execution that has something in it, and to no other.
pub(crate) fn check_packs(dir: &Path, store: &Store) {
    for item in std::fs::read_dir(dir.join("outputs")).unwrap() {
        let name = item.unwrap().file_name().into_string().unwrap();
        let id: Uuid =
            name.strip_suffix(".pack").unwrap_or_else(|| panic!("leftover {name}")).parse().unwrap();
        assert!(store.get(id).unwrap().is_some_and(|entry| entry.ended), "leftover {name}");
        assert!(store.outputs(id).unwrap().files().iter().any(|file| file.bytes > 0), "leftover {name}");
    }
}

pub(crate) fn end(store: &Store, spool: Spool) -> Result<(), Error> {
    let id = spool.id;
    store.finish(spool, &meta("succeeded", Some(true)), &object(id, "succeeded"))
}

pub(crate) fn run(store: &Store, id: Uuid, bytes: &[u8]) -> Result<(), Error> {
    end(store, begin(store, id, bytes)?)
}

pub(crate) fn read(store: &Store, id: Uuid) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    store.transcript(id).map_err(std::io::Error::other)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Ends every orphan: from its bytes if they verify, else as lost. What the next lastword command does.
pub(crate) fn adopt(store: &Store) -> usize {
    let orphans = store.orphans().unwrap();
    let count = orphans.len();
    for orphan in orphans {
        match orphan {
            lastword_store::Orphan::Spool(mut spool) => {
                let id = spool.id;
                let mut bytes = Vec::new();
                spool.file.read_to_end(&mut bytes).unwrap();
                let mut verifier = lastword_frame::verify::Verifier::new();
                verifier.push(&bytes);
                let complete = verifier.finish().complete();
                let status = if complete { "succeeded" } else { "lost" };
                store.finish(spool, &meta(status, Some(complete)), &object(id, status)).unwrap();
            }
            lastword_store::Orphan::Missing { id, .. } => {
                store.finish_without_spool(id, &meta("lost", Some(false)), &object(id, "lost")).unwrap();
            }
        }
    }
    count
}

/// Nothing is claimed that isn't so, of any execution.
pub(crate) fn check_claims(store: &Store) {
    for id in store.ids().unwrap() {
        let entry = store.get(id).unwrap().unwrap();
        if entry.ended {
            let verdict = store.verify(id).unwrap();
            assert_eq!(verdict.problems, Vec::<String>::new(), "{id}");
            assert_eq!(entry.meta.complete, Some(verdict.complete), "{id}");
        } else {
            assert_eq!(entry.meta.status, "running");
        }
    }
    assert_eq!(store.verify_segments().unwrap().problems, Vec::<String>::new());
}

pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir.join("segments"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    paths.sort();
    paths
}

pub(crate) fn remove_index(dir: &Path) {
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

/// All that the outside can see of an execution: id, meta, object, transcript if it can be read.
pub(crate) type Seen = (Uuid, Meta, Vec<u8>, Option<Vec<u8>>);

pub(crate) fn everything(store: &Store) -> Vec<Seen> {
    let ids = store.ids().unwrap();
    ids.into_iter()
        .map(|id| {
            let entry = store.get(id).unwrap().unwrap();
            (id, entry.meta, entry.object, read(store, id).ok())
        })
        .collect()
}

//! What the commands make of a real store: an execution that runs, ends, is read and is removed.

use std::io::Write;
use std::ops::ControlFlow;

use lastword_api::{Backend, Execution, Limits, Status, Stream, Timestamp};
use lastword_frame::binary::encode;
use lastword_frame::{
    Cause, Exit, Frame, Ordering, OutputFile, Seal, StreamEnd, StreamSeal, Usage, tally::Tally,
};
use lastword_store::{Meta, Spool, Store};
use uuid::Uuid;

use super::{executions, find};
use crate::replay::{Content, Record, tests::transcript};
use crate::stored::{self, object};

const RECORDS: [(lastword_frame::Stream, &[u8]); 2] =
    [(lastword_frame::Stream::Stdout, b"Before error\n"), (lastword_frame::Stream::Stderr, b"\xff\n")];

fn meta(execution: &Execution) -> Meta {
    Meta {
        status: execution.status.name().to_owned(),
        complete: execution.transcript.complete,
        created_ns: execution.created_at.ns(),
        backend: execution.backend.name().to_owned(),
        ..Meta::default()
    }
}

/// A running execution whose spool has both records and no seal.
fn running(store: &Store) -> (Execution, Spool) {
    let mut execution =
        Execution::queued(Uuid::now_v7(), Timestamp::now(), Backend::Native, Limits::default());
    execution.status = Status::Running;
    let mut spool = store.create_spool(execution.id).unwrap();
    store.accept(execution.id, &meta(&execution), &execution.to_stored_json().unwrap()).unwrap();
    spool.file.write_all(&transcript(execution.id, &RECORDS)).unwrap();
    (execution, spool)
}

fn seal(outputs: Vec<OutputFile>) -> Vec<u8> {
    let mut tally = Tally::new();
    for (seq, (stream, bytes)) in (0u64..).zip(RECORDS) {
        tally.output(seq, seq, stream, bytes);
    }
    let streams = lastword_frame::Stream::ALL.map(|stream| {
        let (bytes, dropped, blake3) = tally.stream(stream);
        StreamSeal { bytes, dropped, blake3, end: StreamEnd::Eof }
    });
    let seal = Seal {
        time: 5,
        records: tally.records(),
        streams,
        order_blake3: tally.order_blake3(),
        ordering: Ordering::Exact,
        exact_until_seq: None,
        cause: Cause::Ended,
        exit: Exit::Code(1),
        started: Some(0),
        ended: Some(4),
        usage: Usage::default(),
        outputs,
    };
    let mut bytes = Vec::new();
    encode(&Frame::Seal(seal), &mut bytes);
    bytes
}

fn end(store: &Store, mut execution: Execution, mut spool: Spool) -> Execution {
    spool.file.write_all(&seal(Vec::new())).unwrap();
    execution.status = Status::Failed;
    execution.exit_code = Some(1);
    execution.transcript.complete = Some(true);
    execution.transcript.records = 2;
    execution.transcript.stdout.bytes = 13;
    execution.transcript.stderr.bytes = 2;
    store.finish(spool, &meta(&execution), &execution.to_stored_json().unwrap()).unwrap();
    execution
}

/// Puts an ended execution that left these files into the store.
pub(crate) fn with_outputs(store: &Store, execution: &mut Execution, files: &[(&[u8], &[u8])]) {
    let mut spool = store.create_spool(execution.id).unwrap();
    let mut pack = store.create_pack(execution.id).unwrap();
    store.accept(execution.id, &meta(execution), &execution.to_stored_json().unwrap()).unwrap();
    let of = |(path, bytes): &(&[u8], &[u8])| OutputFile {
        path: path.to_vec(),
        bytes: bytes.len() as u64,
        blake3: *blake3::hash(bytes).as_bytes(),
    };
    files.iter().for_each(|(_, bytes)| pack.file.write_all(bytes).unwrap());
    spool.file.write_all(&transcript(execution.id, &RECORDS)).unwrap();
    spool.file.write_all(&seal(files.iter().map(of).collect())).unwrap();
    execution.status = Status::Failed;
    store.finish(spool, &meta(execution), &execution.to_stored_json().unwrap()).unwrap();
}

#[test]
fn an_ended_execution_is_found_shown_verified_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (execution, spool) = running(&store);
    let execution = end(&store, execution, spool);

    let entry = find(&store, &execution.id.to_string()[..13]).unwrap();
    assert_eq!(object(&entry).unwrap(), execution);

    let inline = stored::inline(&store, execution.id, 1 << 20).unwrap().0;
    assert_eq!(inline.stdout.as_deref(), Some("Before error\n"));
    assert_eq!(inline.stderr.as_deref(), Some("/wo="));
    assert_eq!(inline.output.as_deref(), Some("QmVmb3JlIGVycm9yCv8K"));

    let item = stored::check(&store, &entry).unwrap();
    assert!(item.ok && item.complete, "{item:?}");

    store.remove(execution.id).unwrap();
    assert!(find(&store, &execution.id.to_string()).is_err());
}

#[test]
fn an_object_that_claims_more_than_the_transcript_is_not_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (mut execution, spool) = running(&store);
    execution.status = Status::Error;
    execution.transcript.complete = Some(true);
    store.finish(spool, &meta(&execution), &execution.to_stored_json().unwrap()).unwrap();
    let item = stored::check(&store, &find(&store, &execution.id.to_string()).unwrap()).unwrap();
    assert!(!item.ok && !item.complete, "{item:?}");
}

#[test]
fn following_sees_what_comes_later_and_ends_with_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (execution, spool) = running(&store);
    let id = execution.id;
    let mut reader = store.transcript(id).unwrap();
    let mut open = Some((execution, spool));
    let mut seen = Vec::new();
    let mut visit = |record: Record<'_>| {
        let Content::Bytes(bytes) = record.content else { panic!("{record:?}") };
        seen.push((record.stream, bytes.to_vec()));
        // The run ends while it is followed, after its last record was seen.
        if seen.len() == 2
            && let Some((execution, spool)) = open.take()
        {
            end(&store, execution, spool);
        }
        ControlFlow::Continue(())
    };
    executions::follow(&store, id, &mut reader, &mut visit).unwrap();
    assert_eq!(seen, [(Stream::Stdout, b"Before error\n".to_vec()), (Stream::Stderr, b"\xff\n".to_vec())]);
}

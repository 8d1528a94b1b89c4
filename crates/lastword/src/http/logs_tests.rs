//! Transcripts of a real store, as a client gets them.

use std::io::Write;

use lastword_api::{Backend, Execution, Limits, LogRecord, Timestamp};
use lastword_frame::Stream as S;
use lastword_store::{Meta, Spool};

use super::*;
use crate::replay::tests::transcript;

struct Run {
    _dir: tempfile::TempDir,
    store: Store,
    execution: Execution,
    spool: Option<Spool>,
}

fn meta(execution: &Execution) -> Meta {
    Meta {
        status: execution.status.name().to_owned(),
        created_ns: execution.created_at.ns(),
        backend: "native".into(),
        ..Meta::default()
    }
}

impl Run {
    /// One whose program has written these records, and goes on.
    fn of(records: &[(S, &[u8])]) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut execution =
            Execution::queued(Uuid::now_v7(), Timestamp::now(), Backend::Native, Limits::default());
        execution.status = Status::Running;
        let mut spool = store.create_spool(execution.id).unwrap();
        store.accept(execution.id, &meta(&execution), &execution.to_stored_json().unwrap()).unwrap();
        spool.file.write_all(&transcript(execution.id, records)).unwrap();
        Run { _dir: dir, store, execution, spool: Some(spool) }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.spool.as_mut().unwrap().file.write_all(bytes).unwrap();
    }

    fn end(&mut self) {
        self.execution.status = Status::Failed;
        let object = self.execution.to_stored_json().unwrap();
        self.store.finish(self.spool.take().unwrap(), &meta(&self.execution), &object).unwrap();
    }

    fn pump(&self, format: Format, query: &str) -> Pump {
        let uri: Uri = format!("http://x/?{query}").parse().unwrap();
        Pump::new(self.execution.id, format, Wish::of(Query::of(&uri).unwrap()).unwrap())
    }

    fn fill(&self, pump: &mut Pump) -> (String, Filled) {
        let mut out = Vec::new();
        let filled = pump.fill(&self.store, &mut out);
        (String::from_utf8_lossy(&out).into_owned(), filled)
    }

    fn seqs(&self, query: &str) -> Vec<u64> {
        let (text, filled) = self.fill(&mut self.pump(Format::Ndjson, query));
        assert!(matches!(filled, Filled::End), "{filled:?}");
        text.lines().map(|line| serde_json::from_str::<LogRecord>(line).unwrap().seq).collect()
    }
}

const FOUR: [(S, &[u8]); 4] =
    [(S::Stdout, b"a\n"), (S::Stderr, b"b\n"), (S::Stdout, b"c\n"), (S::Stderr, b"\xff\n")];

#[test]
fn text_is_the_bytes_in_order() {
    let run = Run::of(&FOUR);
    let mut out = Vec::new();
    let filled = run.pump(Format::Text, "").fill(&run.store, &mut out);
    assert!(matches!(filled, Filled::End));
    assert_eq!(out, b"a\nb\nc\n\xff\n");
    assert_eq!(run.fill(&mut run.pump(Format::Text, "stream=stdout")).0, "a\nc\n");
    assert_eq!(run.fill(&mut run.pump(Format::Text, "tail=2&stream=stdout")).0, "a\nc\n");
    assert_eq!(run.fill(&mut run.pump(Format::Text, "tail=0")).0, "");
}

#[test]
fn records_are_chosen_by_seq_and_count() {
    let run = Run::of(&FOUR);
    assert_eq!(run.seqs(""), [0, 1, 2, 3]);
    assert_eq!(run.seqs("from_seq=1&before_seq=3"), [1, 2]);
    assert_eq!(run.seqs("limit=2"), [0, 1]);
    assert_eq!(run.seqs("tail=3&stream=stderr"), [1, 3]);
    assert_eq!(run.seqs("stream=stderr&limit=1&from_seq=2"), [3]);
    assert_eq!(run.seqs("until=1970-01-01T00:00:00.000001002Z"), [0, 1]);
}

#[test]
fn an_event_has_its_seq_as_id_and_the_last_is_the_object() {
    let mut run = Run::of(&FOUR[..1]);
    run.end();
    let (text, filled) = run.fill(&mut run.pump(Format::Sse, "follow=true"));
    assert!(matches!(filled, Filled::End));
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert!(events[0].starts_with("id: 0\nevent: record\ndata: {\"seq\":0,"), "{text}");
    assert!(events[1].starts_with("event: end\ndata: {\"id\":"), "{text}");
    assert!(events[1].contains("\"status\":\"failed\""), "{text}");
    assert_eq!(events.len(), 2);
}

#[test]
fn following_ends_with_the_run_and_misses_nothing() {
    let mut run = Run::of(&FOUR[..1]);
    let mut pump = run.pump(Format::Text, "follow=true");
    let (text, filled) = run.fill(&mut pump);
    assert!(text == "a\n" && matches!(filled, Filled::Waiting));
    assert!(matches!(run.fill(&mut pump).1, Filled::Waiting));
    let more = transcript(run.execution.id, &FOUR[..2]);
    let one = transcript(run.execution.id, &FOUR[..1]).len();
    // Half a record is none.
    run.write(&more[one..one + 3]);
    assert_eq!(run.fill(&mut pump).0, "");
    run.write(&more[one + 3..]);
    run.end();
    let (text, filled) = run.fill(&mut pump);
    assert!(text == "b\n" && matches!(filled, Filled::End), "{text} {filled:?}");
}

#[test]
fn what_waits_is_waited_for() {
    let mut run = Run::of(&FOUR[..1]);
    run.execution.status = Status::Queued;
    let object = run.execution.to_stored_json().unwrap();
    run.store.update(run.execution.id, &meta(&run.execution), &object).unwrap();
    let mut pump = run.pump(Format::Text, "follow=true&tail=1");
    let (text, filled) = run.fill(&mut pump);
    assert!(text.is_empty() && matches!(filled, Filled::Waiting) && pump.transcript.is_none());
    assert!(matches!(run.fill(&mut run.pump(Format::Text, "")).1, Filled::End));
    run.execution.status = Status::Running;
    run.store.update(run.execution.id, &meta(&run.execution), &object).unwrap();
    assert_eq!(run.fill(&mut pump).0, "a\n");
}

#[test]
fn a_full_buffer_is_given_out_before_there_is_more() {
    let long = vec![b'x'; 40_000];
    let run = Run::of(&[(S::Stdout, &long), (S::Stdout, &long), (S::Stdout, b"end")]);
    let mut pump = run.pump(Format::Text, "");
    let (text, filled) = run.fill(&mut pump);
    assert!(text.len() == 80_000 && matches!(filled, Filled::More), "{} {filled:?}", text.len());
    let (text, filled) = run.fill(&mut pump);
    assert!(text == "end" && matches!(filled, Filled::End), "{text} {filled:?}");
}

#[test]
fn damage_is_told_behind_what_is_good() {
    let mut run = Run::of(&[]);
    let mut bytes = transcript(run.execution.id, &FOUR[..2]);
    let good = transcript(run.execution.id, &[]).len();
    *bytes.last_mut().unwrap() ^= 1;
    run.write(&bytes[good..]);
    let (text, filled) = run.fill(&mut run.pump(Format::Text, "follow=true"));
    let Filled::Failed(problem) = filled else { panic!("{filled:?}") };
    assert_eq!((text.as_str(), problem.code()), ("a\n", ErrorCode::TranscriptDamaged));
}

#[test]
fn one_that_was_removed_ends_its_streams() {
    let mut run = Run::of(&FOUR);
    let mut pump = run.pump(Format::Text, "follow=true");
    assert!(matches!(run.fill(&mut pump).1, Filled::Waiting));
    run.end();
    run.store.remove(run.execution.id).unwrap();
    let Filled::Failed(problem) = run.fill(&mut pump).1 else { panic!("it goes on") };
    assert_eq!(problem.code(), ErrorCode::ExecutionNotFound);
}

#[test]
fn coming_back_gets_what_follows() {
    let uri: Uri = "http://x/?tail=1&from_seq=7".parse().unwrap();
    let mut wish = Wish::of(Query::of(&uri).unwrap()).unwrap();
    let mut headers = HeaderMap::new();
    assert_eq!(last_event_id(&headers).unwrap(), None);
    headers.insert("last-event-id", "8".parse().unwrap());
    wish.resume_behind(last_event_id(&headers).unwrap().unwrap());
    assert_eq!((wish.filter.from_seq, wish.tail), (Some(9), None));
    wish.resume_behind(3);
    assert_eq!(wish.filter.from_seq, Some(9));
    headers.insert("last-event-id", "+8".parse().unwrap());
    assert_eq!(last_event_id(&headers).unwrap_err().code(), ErrorCode::MalformedRequest);
}

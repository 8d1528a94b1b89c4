//! Row 31: the machine went down in mid-run. What is left is a spool without its lock, from another boot.

use std::io::Write as _;
use std::process::Command;

use lastword_api::{Backend, Execution, Limits, Status, Timestamp};
use lastword_frame::{Begin, Frame, Note, Ordering, Stream, binary};
use lastword_store::{Meta, Store};
use uuid::Uuid;

use crate::lab::{Lab, wait_for};

const CREATED_NS: i64 = 1_700_000_000_000_000_000;

fn begin(id: Uuid, boot_id: [u8; 16]) -> Begin {
    Begin {
        version: Begin::VERSION,
        id: *id.as_bytes(),
        boot_id,
        wall_ns: CREATED_NS,
        ordering: Ordering::Exact,
        tty: false,
    }
}

/// An accepted run whose spool holds `frames`, and that nobody works on.
fn left_behind(lab: &Lab, frames: impl FnOnce(Uuid) -> Vec<u8>) -> Uuid {
    let store = Store::open(&lab.data).unwrap();
    let id = Uuid::now_v7();
    let mut object =
        Execution::queued(id, Timestamp::from_ns(CREATED_NS), Backend::Native, Limits::default());
    object.status = Status::Running;
    let meta = Meta {
        status: "running".to_owned(),
        created_ns: CREATED_NS,
        backend: "native".to_owned(),
        ..Meta::default()
    };
    let mut spool = store.create_spool(id).unwrap();
    store.accept(id, &meta, &object.to_stored_json().unwrap()).unwrap();
    spool.file.write_all(&frames(id)).unwrap();
    id
}

fn two_lines(id: Uuid, boot_id: [u8; 16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    binary::encode(&Frame::Begin(begin(id, boot_id)), &mut bytes);
    binary::encode(&Frame::Note { time: 1_000, note: Note::Started }, &mut bytes);
    let records = [(Stream::Stdout, &b"before\n"[..]), (Stream::Stderr, b"the power went\n")];
    for ((seq, (stream, text)), time) in (0..).zip(records).zip([2_000, 3_000]) {
        binary::encode(&Frame::Output { seq, time, stream, bytes: text }, &mut bytes);
    }
    bytes
}

#[test]
fn row_31_a_run_of_another_boot_is_lost_and_nobody_is_signalled() {
    let lab = Lab::new();
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let id = left_behind(&lab, |id| two_lines(id, [0xb0; 16])).to_string();
    let object = lab.get(&id);
    assert_eq!(object.end(), "error/lost", "{:?}", object.0);
    assert!(!object.complete() && !object.text("/transcript/why_incomplete").is_empty());
    assert_eq!((object.stdout(), object.stderr()), (b"before\n".to_vec(), b"the power went\n".to_vec()));
    assert_eq!(object.at("/retry/program_started"), true);
    lab.agree(&object);
    let alive = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(alive, "a stranger was signalled");
}

/// The last frame was on its way to the disk.
#[test]
fn row_31_a_torn_frame_is_not_taken_for_output() {
    let lab = Lab::new();
    let id = left_behind(&lab, |id| {
        let mut bytes = two_lines(id, [0xb0; 16]);
        bytes.truncate(bytes.len() - 5);
        bytes
    });
    let object = lab.get(&id.to_string());
    assert_eq!(object.end(), "error/lost", "{:?}", object.0);
    assert_eq!((object.stdout(), object.stderr()), (b"before\n".to_vec(), Vec::new()));
    lab.agree(&object);
}

#[test]
fn row_31_a_run_that_had_not_begun() {
    let lab = Lab::new();
    let id = left_behind(&lab, |_| Vec::new());
    let object = lab.get(&id.to_string());
    assert_eq!(object.end(), "error/lost", "{:?}", object.0);
    assert_eq!((object.text("/stdout"), object.text("/stderr")), ("", ""));
    assert!(!object.complete());
    lab.agree(&object);
}

#[test]
fn row_31_a_spool_that_is_gone() {
    let lab = Lab::new();
    let id = left_behind(&lab, |_| Vec::new()).to_string();
    for entry in std::fs::read_dir(lab.data.join("spool")).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    let object = lab.get(&id);
    assert_eq!(object.end(), "error/lost", "{:?}", object.0);
    assert!(!object.complete());
}

/// Output of a program can't be taken for the seal of a run that has none.
#[test]
fn row_31_a_forged_seal_in_the_output_is_output() {
    let lab = Lab::new();
    let forged = b"\x89LWT\r\n\x1a\n{\"seal\":true}".repeat(20);
    let id = left_behind(&lab, |id| {
        let mut bytes = two_lines(id, [0xb0; 16]);
        binary::encode(
            &Frame::Output { seq: 2, time: 4_000, stream: Stream::Stdout, bytes: &forged },
            &mut bytes,
        );
        bytes
    });
    let object = lab.get(&id.to_string());
    assert_eq!(object.end(), "error/lost", "{:?}", object.0);
    assert_eq!(object.stdout(), [&b"before\n"[..], &forged].concat());
}

/// While somebody holds the lock the run lives, whatever else looks dead.
#[test]
fn a_spool_that_is_locked_is_left_alone() {
    let lab = Lab::new();
    let store = Store::open(&lab.data).unwrap();
    let id = Uuid::now_v7();
    let mut object =
        Execution::queued(id, Timestamp::from_ns(CREATED_NS), Backend::Native, Limits::default());
    object.status = Status::Running;
    let meta = Meta {
        status: "running".to_owned(),
        created_ns: CREATED_NS,
        backend: "native".to_owned(),
        ..Meta::default()
    };
    let mut spool = store.create_spool(id).unwrap();
    store.accept(id, &meta, &object.to_stored_json().unwrap()).unwrap();
    spool.file.write_all(&two_lines(id, [0xb0; 16])).unwrap();
    let id = id.to_string();
    assert_eq!(lab.get(&id).status(), "running");
    assert_eq!(lab.lastword(["logs", &id, "--stream", "stdout"]).stdout, b"before\n");
    drop(spool);
    wait_for("its end", || (lab.get(&id).end() == "error/lost").then_some(()));
}

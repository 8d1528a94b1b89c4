//! The end of an execution whose program was never started: an empty transcript, sealed by us.

use std::io::Write;
use std::time::Instant;

use lastword_api::Execution;
use lastword_frame::tally::Tally;
use lastword_frame::{
    Begin, Exit, Frame, Note, Ordering, Seal, Stream, StreamEnd, StreamSeal, Usage, binary,
};
use lastword_store::{Meta, Spool};

use super::follow::{Follower, Silent};
use super::prepare::Unprepared;
use super::{Engine, Error, meta, object, outcome};
use crate::backend::native::Machine;

impl Engine {
    /// Nothing ran, so nothing was said, and that is provable like everything else.
    pub(super) fn never_started(
        &self,
        execution: Execution,
        origin: &Meta,
        spool: Spool,
        why: Unprepared,
    ) -> Result<Execution, Error> {
        // A supervisor that got no go may have sealed it, with another reason; it has ended, and nobody else writes here.
        let emptied = spool.file.set_len(0);
        emptied.map_err(|source| Error::Spool { id: execution.id, source })?;
        let written = (&spool.file).write_all(&sealed(&execution, why, Machine::get()));
        written.map_err(|source| Error::Spool { id: execution.id, source })?;
        self.end_as_sealed(execution, origin, spool)
    }

    /// The end of an execution whose spool nobody writes any more.
    pub(super) fn end_as_sealed(
        &self,
        mut execution: Execution,
        origin: &Meta,
        spool: Spool,
    ) -> Result<Execution, Error> {
        let machine = Machine::get();
        let mut follower = Follower::new(execution.id);
        follower.read(&spool.file, &mut Silent)?;
        outcome::conclude(&mut execution, &follower.finish(), machine);
        self.store.finish(spool, &meta(&execution, origin), &object(&execution)?)?;
        Ok(execution)
    }
}

fn sealed(execution: &Execution, why: Unprepared, machine: &Machine) -> Vec<u8> {
    let anchor = Instant::now();
    let mut out = Vec::new();
    let begin = Begin {
        version: Begin::VERSION,
        id: execution.id.into_bytes(),
        boot_id: machine.boot_id,
        wall_ns: lastword_api::Timestamp::now().ns(),
        ordering: Ordering::Exact,
        tty: false,
    };
    binary::encode(&Frame::Begin(begin), &mut out);
    let time = u64::try_from(anchor.elapsed().as_nanos()).unwrap_or(0);
    for stream in Stream::ALL {
        binary::encode(&Frame::Note { time, note: Note::StreamEnd { stream } }, &mut out);
    }
    let tally = Tally::new();
    let stream_seal = |stream| {
        let (bytes, dropped, blake3) = tally.stream(stream);
        StreamSeal { bytes, dropped, blake3, end: StreamEnd::Eof }
    };
    let seal = Seal {
        time,
        records: 0,
        streams: Stream::ALL.map(stream_seal),
        order_blake3: tally.order_blake3(),
        ordering: Ordering::Exact,
        exact_until_seq: None,
        cause: why.cause,
        exit: Exit::None,
        started: None,
        ended: None,
        usage: Usage::default(),
        outputs: Vec::new(),
    };
    binary::encode(&Frame::Seal(seal), &mut out);
    out
}

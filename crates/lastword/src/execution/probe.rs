//! Short questions to what is in a sandbox, like the version of an interpreter. They are no executions: nothing of them is kept.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use lastword_api::{Limits, Stream};
use rustix::fs::{MemfdFlags, memfd_create};
use uuid::Uuid;

use super::follow::Follower;
use super::prepare::Prepared;
use super::request::{Flush, OrderingWish, Program};
use super::{Cancel, Request, Sink};
use crate::backend::native::start::{News, Passed};
use crate::backend::native::{self, Machine, Supervisor};

/// What a question may take. A JVM answers within a second.
const WALL: Duration = Duration::from_secs(10);
const OUTPUT_BYTES: u64 = 64 << 10;
/// Beyond the program's own time.
const MARGIN: Duration = Duration::from_secs(10);

/// Runs a command in a sandbox with this machine's own root; see [`ask`].
pub fn ask_machine(argv: &[OsString]) -> io::Result<Vec<u8>> {
    ask(&Prepared::nothing(Machine::get()), argv)
}

/// Runs a command and returns what it wrote to both streams, if it ended well.
pub(super) fn ask(prepared: &Prepared<'_>, argv: &[OsString]) -> io::Result<Vec<u8>> {
    let machine = Machine::get();
    let mut request = Request::new(Program::Command { argv: argv.to_vec() });
    request.limits = Limits {
        wall_ms: WALL.as_millis() as u64,
        output_bytes: OUTPUT_BYTES,
        ..crate::runtime::COMPILE_LIMITS
    };
    request.flush = Flush::Off;
    request.ordering = Some(OrderingWish::Arrival);
    request.cwd = Some("/tmp".into());
    let id = Uuid::now_v7();
    let mut plan =
        native::plan::plan(machine, prepared, id.into_bytes(), &request).map_err(io::Error::other)?;
    // The locks are held by us until it has ended.
    plan.held = 0;
    plan.control = false;
    let spool = File::from(memfd_create("lastword-probe", MemfdFlags::CLOEXEC)?);
    let mut supervisor = Supervisor::start(&plan, Passed::default(), &spool).map_err(io::Error::other)?;
    supervisor.go().map_err(io::Error::other)?;
    let deadline = Instant::now() + WALL + MARGIN;
    loop {
        match supervisor.wait_for_news(&Cancel::default(), deadline).map_err(io::Error::other)? {
            News::Some => {}
            News::End => break,
            News::Late => supervisor.kill(),
        }
    }
    supervisor.reap().map_err(io::Error::other)?;
    let mut said = Said::default();
    let mut follower = Follower::new(id);
    follower.read(&spool, &mut said).map_err(io::Error::other)?;
    match follower.finish().seal.map(|seal| seal.exit) {
        Some(lastword_frame::Exit::Code(0)) => Ok(said.0),
        exit => Err(io::Error::other(format!("{} ended with {exit:?}", argv[0].display()))),
    }
}

#[derive(Default)]
struct Said(Vec<u8>);

impl Sink for Said {
    fn record(&mut self, _: Stream, _: i64, _: u64, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn dropped(&mut self, _: Stream, _: i64, _: u64, _: u64) {}
}

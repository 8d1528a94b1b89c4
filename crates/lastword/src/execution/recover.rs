//! Finishes executions whose starter is gone.

use std::time::Duration;

use lastword_api::{Execution, Problem, ProblemCode, Retry, Status};
use lastword_frame::verify::{Report, Verifier};
use lastword_sandbox::cgroup::groups;
use lastword_store::{Orphan, Spool, Store};
use uuid::Uuid;

use super::follow::{Follower, Silent};
use super::{Error, meta, object, outcome};
use crate::backend::native::Machine;

/// Looks at an execution without a spool whose end is about to be seen, and the pause between two.
const ADOPT_TRIES_MAX: u32 = 100;
const ADOPT_PAUSE: Duration = Duration::from_millis(20);

/// Finishes every execution that nobody works on any more. Returns how many.
///
/// A sealed spool is a run that ended: it gets its own end. One without a seal lost its supervisor (killed, or the machine
/// went down): it ends as lost, with every byte that was written down. No process is ever looked for by its number: what may
/// still run is found in the control group that carries the execution's id.
pub fn recover(store: &Store) -> Result<u64, Error> {
    let orphans = store.orphans()?;
    if orphans.is_empty() {
        return Ok(0);
    }
    let machine = Machine::get();
    let id = |orphan: &Orphan| match orphan {
        Orphan::Spool(spool) => spool.id.into_bytes(),
        Orphan::Missing { id, .. } => id.into_bytes(),
    };
    let ids: Vec<[u8; 16]> = orphans.iter().map(id).collect();
    groups::sweep(&machine.cgroups.points, &ids);
    let mut finished = 0;
    for orphan in orphans {
        match orphan {
            Orphan::Spool(spool) => {
                if !end(store, spool, machine)? {
                    continue;
                }
            }
            Orphan::Missing { id, entry } => {
                let mut execution = parse(id, &entry.object)?;
                conclude(&mut execution, &Verifier::new().finish(), machine);
                store.finish_without_spool(id, &meta(&execution, &entry.meta), &object(&execution)?)?;
            }
        }
        finished += 1;
    }
    Ok(finished)
}

/// Waits for the end of an execution that another process has started, and makes it durable if nobody else does. Returns at
/// once if it has ended or was removed.
pub fn adopt(store: &Store, id: Uuid) -> Result<(), Error> {
    for _ in 0..ADOPT_TRIES_MAX {
        if store.get(id)?.is_none_or(|entry| entry.ended) {
            return Ok(());
        }
        if let Some(spool) = store.wait_for_spool(id)? {
            let machine = Machine::get();
            groups::sweep(&machine.cgroups.points, &[id.into_bytes()]);
            end(store, spool, machine)?;
        } else if store.get(id)?.is_some_and(|entry| !entry.ended) {
            // Without a spool it is lost, unless its end is about to get its row.
            recover(store)?;
            std::thread::sleep(ADOPT_PAUSE);
        }
    }
    Err(lastword_store::Error::SpoolGone { id }.into())
}

/// Ends an execution from its spool. False if there is no such execution.
fn end(store: &Store, spool: Spool, machine: &Machine) -> Result<bool, Error> {
    let Some(entry) = store.get(spool.id)? else { return Ok(false) };
    let mut execution = parse(spool.id, &entry.object)?;
    let mut follower = Follower::new(spool.id);
    follower.read(&spool.file, &mut Silent)?;
    conclude(&mut execution, &follower.finish(), machine);
    store.finish(spool, &meta(&execution, &entry.meta), &object(&execution)?)?;
    Ok(true)
}

fn conclude(execution: &mut Execution, report: &Report, machine: &Machine) {
    // The step from queued to running is durable before the program is handed over; a disk that lied about it may still have
    // lost it with the machine.
    let queued = execution.status == Status::Queued && execution.created_at.ns() > machine.booted_ns;
    outcome::conclude(execution, report, machine);
    if queued && report.seal.is_none() {
        execution.retry = Retry { safe: true, program_started: false };
        execution.problem = Some(Problem {
            code: ProblemCode::Lost,
            message: "lastword was ended before the program was started".into(),
            backend_message: None,
        });
    }
}

pub(super) fn parse(id: Uuid, object: &[u8]) -> Result<Execution, Error> {
    serde_json::from_slice(object).map_err(|source| Error::Object { id, source })
}

//! Reasons not to start a server, each with what to do.

use anyhow::anyhow;
use lastword_api::LimitName;
use lastword_sandbox::cgroup::Controller;

use super::settings::Settings;
use crate::backend::native::{Machine, plan};
use crate::cli::message::AdviceError;
use crate::execution::request::{Program, Request};
use crate::keys::Keys;

pub(super) fn reasons(settings: &Settings, keys: &Keys) -> Vec<anyhow::Error> {
    open_to_all(settings, keys).into_iter().chain(lax(settings, Machine::get())).collect()
}

fn open_to_all(settings: &Settings, keys: &Keys) -> Option<anyhow::Error> {
    let ip = settings.listen.ip().to_canonical();
    if ip.is_loopback() || !keys.is_empty() {
        return None;
    }
    let error = anyhow!(
        "{} can be reached from other machines, and there are no keys: everybody could run programs here",
        settings.listen
    );
    Some(error.with_hint("make a key: lastword keys create; or listen on 127.0.0.1"))
}

/// Says once what executions can't rely on, where it was allowed.
pub(super) fn warn() {
    for (name, why) in unenforced(Machine::get()) {
        tracing::warn!("the limit on {name} is not enforced here: {why}");
    }
}

fn lax(settings: &Settings, machine: &Machine) -> Option<anyhow::Error> {
    if settings.allow_unenforced {
        return None;
    }
    let unenforced = unenforced(machine);
    if unenforced.is_empty() {
        return None;
    }
    let limits: Vec<String> = unenforced.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    let error = anyhow!("limits that every execution has can't be enforced here: {}", limits.join(", "));
    Some(error.with_hint(
        "lastword doctor says what is missing; --allow-unenforced serves without these limits, and each execution says so",
    ))
}

/// Limits of an execution that asks for none, that this machine can't enforce, and why.
fn unenforced(machine: &Machine) -> Vec<(LimitName, String)> {
    let request = Request::new(Program::Command { argv: Vec::new() });
    // It refuses nothing: the request isn't strict.
    let Ok((_, enforced)) = plan::check(machine, &request) else { return Vec::new() };
    let lax = enforced.into_iter().filter(|(_, holds)| !holds);
    lax.map(|(name, _)| (name, why(machine, name))).collect()
}

fn why(machine: &Machine, name: LimitName) -> String {
    let controller = match name {
        LimitName::Memory => Controller::Memory,
        LimitName::Cpus => Controller::Cpu,
        LimitName::Cpu => Controller::Cpuacct,
        _ => Controller::Pids,
    };
    machine.cgroups.problems.get(&controller).cloned().unwrap_or_else(|| "nobody can say why".into())
}

#[cfg(test)]
mod tests {
    use lastword_sandbox::cgroup::Layout;

    use super::*;
    use crate::cli::message::causes;

    /// This machine as a kernel without control groups would have it.
    fn bare() -> Machine {
        let cgroups = Layout::from_proc("", "");
        Machine { cgroups, ..Machine::get().clone() }
    }

    #[test]
    fn what_is_not_enforced_is_named() {
        let error = causes(&lax(&Settings::test(&[]), &bare()).unwrap());
        assert!(
            error.contains("memory") && error.contains("no cgroup with the memory controller"),
            "{error}"
        );
        assert!(lax(&Settings::test(&["--allow-unenforced"]), &bare()).is_none());
    }

    #[test]
    fn who_can_reach_us() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let reason = |address: &str| open_to_all(&Settings::test(&["--listen", address]), &keys);
        for loopback in ["127.0.0.1:0", "127.8.9.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert!(reason(loopback).is_none(), "{loopback}");
        }
        for open in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0", "[::ffff:10.0.0.1]:0"] {
            assert!(reason(open).is_some(), "{open}");
        }
    }
}

//! `lastword doctor`

mod machine;
mod selftest;

use serde::Serialize;

use super::output::{print, print_json};
use super::{FAILURE, Globals};

/// Say what this machine can enforce, what it lacks, and what to do about it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits with 1 if programs can't be run here as they should. A limit that can't be enforced is a warning.

Examples:
  lastword doctor
  lastword doctor --json | jq '.checks[] | select(.state != \"ok\")'")]
pub struct Args {
    /// Print {\"ok\", \"checks\": [...], \"self_test\": [...]}
    #[arg(long)]
    json: bool,
    /// Only look; run nothing
    #[arg(long)]
    no_self_test: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failure,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do, where it isn't ok.
    help: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
    self_test: Vec<selftest::Row>,
}

pub fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let mut checks = machine::checks();
    let data_dir = globals.data_dir()?;
    checks.push(machine::runtimes(&data_dir));
    checks.push(machine::data_dir(&data_dir));
    let self_test = if args.no_self_test { Vec::new() } else { selftest::run()? };
    let ok = checks.iter().all(|check| check.state != State::Failure) && self_test.iter().all(|row| row.ok);
    let report = Report { ok, checks, self_test };
    if args.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    Ok(if ok { 0 } else { FAILURE })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let mark = match check.state {
            State::Ok => "ok",
            State::Warning => "warn",
            State::Failure => "FAIL",
        };
        text += &format!("{mark:5} {:18} {}\n", check.name, check.found);
        if let Some(help) = &check.help {
            text += &format!("{:24} -> {help}\n", "");
        }
    }
    if report.self_test.is_empty() {
        return text;
    }
    text += &format!(
        "\n{:5} {:28} {:11} {:14} {:9} {:>8}\n",
        "", "self-test", "status", "reason", "complete", "ms"
    );
    for row in &report.self_test {
        let mark = if row.ok { "ok" } else { "FAIL" };
        text += &format!(
            "{mark:5} {:28} {:11} {:14} {:9} {:>8.1}\n",
            row.name,
            row.status,
            row.reason,
            if row.complete { "yes" } else { "no" },
            row.ms
        );
        if let Some(wrong) = &row.wrong {
            text += &format!("{:24} -> {wrong}\n", "");
        }
    }
    text
}

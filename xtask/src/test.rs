//! All tests of the workspace, by whichever runner is there.

use anyhow::Result;

use crate::command::{self, Step};
use crate::count::Count;
use crate::docker::{self, Daemon};
use crate::setup;

pub(crate) fn run() -> Result<Count> {
    setup::ensure()?;
    let daemon = Daemon::for_tests()?;
    let mut count = Count::default();
    if nextest() {
        count.add(watch(
            with(&daemon, command::cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])),
            Count::nextest,
        )?);
        count
            .add(watch(command::cargo(&["test", "--workspace", "--doc", "--no-fail-fast"]), Count::libtest)?);
    } else {
        // Runs the doc tests as well.
        let all = command::cargo(&["test", "--workspace", "--no-fail-fast"]);
        count.add(watch(with(&daemon, all), Count::libtest)?);
    }
    count.skipped = 0;
    drop(daemon);
    count.add(python()?);
    count.add(openapi()?);
    count.add(leftovers()?);
    Ok(count)
}

/// The Python package, with the binary that the tests above have built.
fn python() -> Result<Count> {
    command::cargo(&["build", "--package", "lastword"]).run()?;
    let binary = command::target()?.join("debug/lastword");
    let script = command::root().join("python/test.sh");
    watch(Step::new(script, &[&binary.to_string_lossy()]), Count::libtest)
}

/// The HTTP API against the document of it, with the same binary.
fn openapi() -> Result<Count> {
    let target = command::target()?;
    let (binary, venv) = (target.join("debug/lastword"), target.join("schemathesis"));
    let script = command::root().join("openapi/test.sh");
    watch(Step::new(script, &[&binary.to_string_lossy(), &venv.to_string_lossy()]), Count::libtest)
}

/// Tells a test runner of the daemon.
pub(crate) fn with(daemon: &Option<Daemon>, step: Step) -> Step {
    match daemon {
        Some(daemon) => step.env(docker::VARIABLE, daemon.socket()),
        None => step,
    }
}

/// The test that looks for what the others left behind; ignored in a run of all, because it must come last.
fn leftovers() -> Result<Count> {
    let after = "leftovers::after_the_whole_suite_nothing_is_left";
    let arguments = ["test", "--package", "lastword", "--test", "it", "--", "--ignored", "--exact", after];
    let mut count = watch(command::cargo(&arguments), Count::libtest)?;
    if count.passed + count.failed == 0 {
        count.failed = 1;
        println!("{after}: not found");
    }
    Ok(count)
}

/// Runs a test runner, whose lines `read` understands.
pub(crate) fn watch(step: Step, read: fn(&mut Count, &str)) -> Result<Count> {
    let mut count = Count::default();
    let succeeded = step.watch(|line| read(&mut count, line))?;
    Ok(count.close(succeeded))
}

pub(crate) fn nextest() -> bool {
    command::cargo(&["nextest", "--version"]).capture().is_ok()
}

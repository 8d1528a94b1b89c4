//! The large counts. Their figures replace docs/soak.md, so that it always speaks of one run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::{self, Step, root};
use crate::count::Count;
use crate::docker::Daemon;
use crate::{setup, test};

const PROGRAMS: &str = "10000";
const AT_ONCE: &str = "8";

pub(crate) fn run() -> Result<bool> {
    setup::ensure()?;
    let report = root().join("target/soak-figures");
    std::fs::create_dir_all(root().join("target"))?;
    // Tests append to it; what an earlier run left would be counted as this one's.
    match std::fs::remove_file(&report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    type Read = fn(&mut Count, &str);
    let (suite, read) = if test::nextest() {
        let run = ["nextest", "run", "--profile", "soak", "--release", "-p", "lastword", "--test", "it"];
        (command::cargo(&run), Count::nextest as Read)
    } else {
        (command::cargo(&["test", "--release", "-p", "lastword", "--test", "it"]), Count::libtest as Read)
    };
    let daemon = Daemon::for_tests()?;
    let suite = test::with(&daemon, suite);
    let count = test::watch(suite.env("LASTWORD_SOAK", "1").env("LASTWORD_SOAK_REPORT", &report), read)?;
    drop(daemon);

    let (bench, bench_ok) = bench()?;
    let mut text = String::from("# The last soak\n\nWritten by `cargo xtask soak`; not edited by hand.\n\n");
    let _ = write!(text, "{}", machine()?);
    let _ =
        writeln!(text, "\nTests with the large counts: {} passed, {} failed.\n", count.passed, count.failed);
    text.push_str("| What | Figure |\n|---|---|\n");
    for line in std::fs::read_to_string(&report).unwrap_or_default().lines() {
        let (what, figure) = line.split_once('\t').unwrap_or((line, ""));
        let _ = writeln!(text, "| {what} | {figure} |");
    }
    let _ = write!(text, "\n`lastword bench fast-fail -n {PROGRAMS} -j {AT_ONCE}`:\n\n```text\n{bench}```\n");
    let page = root().join("docs/soak.md");
    std::fs::write(&page, text).with_context(|| format!("can't write {}", page.display()))?;
    println!("{} written", page.display());
    println!("{} passed, {} failed", count.passed + u64::from(bench_ok), count.failed + u64::from(!bench_ok));
    Ok(count.failed == 0 && bench_ok)
}

/// What the bench printed, and whether it found everything.
fn bench() -> Result<(String, bool)> {
    command::cargo(&["build", "--release", "--package", "lastword"]).run()?;
    let data = root().join("target/soak-data");
    clear(&data)?;
    let arguments = [
        "run",
        "--quiet",
        "--release",
        "-p",
        "lastword",
        "--",
        "bench",
        "fast-fail",
        "-n",
        PROGRAMS,
        "-j",
        AT_ONCE,
    ];
    let mut printed = String::new();
    let step = command::cargo(&arguments).env("LASTWORD_DATA_DIR", &data).env("NO_COLOR", "1");
    let ok = step.watch(|line| {
        printed.push_str(line);
        printed.push('\n');
    })?;
    clear(&data)?;
    Ok((printed, ok))
}

fn clear(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn machine() -> Result<String> {
    let date = Step::new("date", &["-u", "+%Y-%m-%d"]).capture()?;
    let kernel = Step::new("uname", &["-r"]).capture()?;
    let cores = std::thread::available_parallelism()?;
    let commit = Step::new("git", &["describe", "--always", "--dirty"]).capture().unwrap_or_default();
    let (date, kernel, commit) = (date.trim(), kernel.trim(), commit.trim());
    Ok(format!("{date}, commit {commit}, Linux {kernel}, {cores} processors.\n"))
}

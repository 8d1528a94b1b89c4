//! What the project does to itself. `cargo xtask` alone lists the commands.
#![forbid(unsafe_code)]

mod command;
mod count;
mod deps;
mod dist;
mod docker;
mod elf;
mod licence;
mod policy;
mod setup;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::count::Count;

const HELP: &str = "\
cargo xtask test   install what the tests need, build, run all of them; ends with `N passed, N failed`
cargo xtask ci     fmt, clippy, deps, a short fuzz run, then test
cargo xtask deps   licences, sources, banned crates, and what the supervisor links
cargo xtask soak   the large counts; writes docs/soak.md
cargo xtask dist   one static binary in dist/, and the Python wheel with it inside
cargo xtask docker a Docker daemon as the tests have it, until Ctrl-C
cargo xtask vm     the static binary in a virtual machine with cgroup v2 and systemd";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything asked for held.
fn run(arguments: &[String]) -> Result<bool> {
    let [name] = arguments else {
        println!("{HELP}");
        return Ok(arguments.is_empty());
    };
    match name.as_str() {
        "test" => finish(test::run()?),
        "ci" => finish(ci()?),
        "deps" => {
            deps::check()?;
            println!("deps: all within the policy");
            Ok(true)
        }
        "soak" => soak::run(),
        "dist" => dist::run().map(|()| true),
        "docker" => docker::run().map(|()| true),
        "vm" => finish(vm::run()?),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(true)
        }
        other => bail!("no command `{other}`; there are:\n{HELP}"),
    }
}

/// The closing line stands alone, so that a machine can read it.
fn finish(count: Count) -> Result<bool> {
    if count.skipped > 0 {
        println!("{} skipped", count.skipped);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(count.failed == 0)
}

/// Every step runs, also after a failed one: one run should tell all that is wrong.
fn ci() -> Result<Count> {
    let mut count = Count::default();
    // First: the fuzzers are built before the tests, and need a compiler that may be missing.
    count.step("setup", setup::ensure());
    count.step("fmt", command::cargo(&["fmt", "--all", "--check"]).run());
    count.step(
        "clippy",
        command::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run(),
    );
    count.step("deps", deps::check());
    count.step("fuzz", fuzz());
    // The README's first command names no package: with several programs in the workspace cargo must know which is meant.
    count.step("cargo run", command::cargo(&["run", "--quiet", "--", "--version"]).run());
    count.add(test::run()?);
    Ok(count)
}

/// Seconds each fuzz target gets in CI: enough to replay its corpus and notice what breaks at once.
const FUZZ_SECONDS: &str = "10";

fn fuzz() -> Result<()> {
    command::Step::new(command::root().join("fuzz/run.sh"), &[FUZZ_SECONDS]).run()
}

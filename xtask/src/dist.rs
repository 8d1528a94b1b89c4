//! One static binary, supervisor and all; and the Python wheel that holds it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{self, root};
use crate::elf;

const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn run() -> Result<()> {
    let target = command::target()?;
    command::cargo(&["build", "--release", "--locked", "--package", "lastword", "--target", TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .run()?;

    let built = target.join(TARGET).join("release/lastword");
    let bytes = std::fs::read(&built).with_context(|| format!("can't read {}", built.display()))?;
    if elf::has_interpreter(&bytes)? {
        bail!("{} asks for a dynamic loader: not static", built.display());
    }
    let dist = root().join("dist");
    std::fs::create_dir_all(&dist).with_context(|| format!("can't make {}", dist.display()))?;
    let to = dist.join("lastword");
    std::fs::copy(&built, &to).with_context(|| format!("can't write {}", to.display()))?;
    // The size of what strip would leave is what people download; debug lines stay in target/.
    let stripped = command::Step::new("strip", &[&to.display().to_string()]).run();
    if let Err(error) = stripped {
        eprintln!("not stripped: {error:#}");
    }
    let size = std::fs::metadata(&to)?.len();
    let version = command::Step::new(&to, &["--version"]).capture()?;
    println!(
        "{}: {}, static, {size} bytes ({:.1} MiB)",
        to.display(),
        version.trim(),
        size as f64 / 1_048_576.0
    );
    wheel(&to, &dist)
}

/// The script needs no network and no package: the wheel is a zip file with a list in it.
fn wheel(binary: &Path, dist: &Path) -> Result<()> {
    let script = root().join("python/build_wheel.py").display().to_string();
    let (binary, to) = (binary.display().to_string(), dist.display().to_string());
    let wheel = command::Step::new("python3", &[&script, &binary, &to])
        .capture()
        .context("can't write the wheel (it needs Python 3.11 or later)")?;
    println!("{}", wheel.trim());
    Ok(())
}

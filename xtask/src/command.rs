//! Running other programs: shown before they run, an error when they fail.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root. xtask is built in it, always.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]).capture()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str();
    Ok(target.context("cargo metadata names no target directory")?.into())
}

/// One program to run, in the workspace's root and without stdin.
pub(crate) struct Step {
    command: Command,
    shown: String,
}

pub(crate) fn cargo(arguments: &[&str]) -> Step {
    // `cargo xtask` sets CARGO to the toolchain's own; outside of it the one in PATH will do.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut step = Step::new(cargo, arguments);
    step.shown = format!("cargo {}", arguments.join(" "));
    step
}

impl Step {
    pub(crate) fn new(program: impl AsRef<OsStr>, arguments: &[&str]) -> Self {
        let shown = format!("{} {}", Path::new(&program).display(), arguments.join(" "));
        let mut command = Command::new(program);
        command.args(arguments).current_dir(root()).stdin(Stdio::null());
        Self { command, shown }
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn run(mut self) -> Result<()> {
        eprintln!("$ {}", self.shown);
        let status = self.command.status().with_context(|| format!("can't run `{}`", self.shown))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown);
        }
        Ok(())
    }

    /// Its stdout; stderr passes through.
    pub(crate) fn capture(mut self) -> Result<String> {
        let output = self
            .command
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("can't run `{}`", self.shown))?;
        if !output.status.success() {
            bail!("`{}` failed: {}", self.shown, output.status);
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{}` didn't print UTF-8", self.shown))
    }

    /// Runs to the end, shows both streams as they come, and gives every line of them to `look`.
    /// Whether it succeeded is the answer, not an error.
    pub(crate) fn watch(mut self, mut look: impl FnMut(&str)) -> Result<bool> {
        eprintln!("$ {}", self.shown);
        let (reader, writer) = std::io::pipe().context("can't make a pipe")?;
        self.command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = self.command.spawn().with_context(|| format!("can't run `{}`", self.shown))?;
        // The command still holds the pipe's write ends; without this the loop below would never see the end.
        drop(self.command);
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            print!("{text}");
            look(text.trim_end());
        }
        Ok(child.wait()?.success())
    }
}

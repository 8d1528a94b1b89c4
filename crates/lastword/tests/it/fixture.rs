//! C programs of `fixtures/`, compiled when they are first asked for.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const STATIC: &[&str] = &["-O1", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"];
const DYNAMIC: &[&str] = &["-O1", "-Wall", "-Wextra", "-Werror"];
const BITS_32: &[&str] =
    &["-m32", "-O1", "-fno-pie", "-no-pie", "-fno-stack-protector", "-nostdlib", "-static"];

/// A static program.
pub(crate) fn program(name: &str) -> PathBuf {
    build(name, STATIC)
}

/// One that asks for the loader and the libc of the sandbox.
pub(crate) fn dynamic(name: &str) -> PathBuf {
    build(name, DYNAMIC)
}

/// 32-bit, without a libc.
pub(crate) fn bits_32(name: &str) -> PathBuf {
    build(name, BITS_32)
}

/// Tests are processes of their own: each builds under its own name and moves the result into place.
fn build(name: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(format!("{name}.c"));
    let mut hasher = DefaultHasher::new();
    (std::fs::read(&source).unwrap(), flags).hash(&mut hasher);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fixtures/{:016x}", hasher.finish()));
    let built = directory.join(name);
    if built.exists() {
        return built;
    }
    std::fs::create_dir_all(&directory).unwrap();
    // Threads of one process may ask at once, too.
    let thread = format!("{:?}", std::thread::current().id());
    let own = directory.join(format!("{name}.{}.{}", std::process::id(), thread.replace(['(', ')'], "")));
    let output = Command::new("gcc")
        .args(flags)
        .arg("-o")
        .args([&own, &source])
        .stdin(Stdio::null())
        .output()
        .expect("gcc is needed: run `cargo xtask test`, which installs it");
    assert!(output.status.success(), "{name}.c: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&own, &built).unwrap();
    built
}

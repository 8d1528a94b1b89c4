//! Builds the supervisor, a program of its own, and leaves it where `backend/native/image.rs` embeds it.
//!
//! It is linked statically, because it also runs where there is nothing else, and in a profile of its own, because it has
//! to be small. All profiles of the product share one build of it.

use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // As it is now: the one that this script was compiled in may have moved, or be another work tree with the same target directory.
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let Some(workspace) = package.ancestors().nth(2) else {
        panic!("the crate lies in crates/ of the workspace")
    };
    for part in ["supervisor", "sandbox", "frame"] {
        println!("cargo::rerun-if-changed={}", workspace.join("crates").join(part).join("src").display());
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join("crates").join(part).join("Cargo.toml").display()
        );
    }
    println!("cargo::rerun-if-changed={}", workspace.join("Cargo.toml").display());

    let directory = target_directory().join("supervisor-build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args(["build", "--quiet", "--locked", "--package", "lastword-supervisor", "--profile", "supervisor"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&directory)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    // What cargo and clippy set for this build is not meant for that one.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let ours = ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"];
        if ours.contains(&name.as_str())
            || name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_FEATURE_")
        {
            command.env_remove(name);
        }
    }
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("building the supervisor: {status}"),
        Err(error) => panic!("building the supervisor: {error}"),
    }
    let built = directory.join(TARGET).join("supervisor/lastword-supervisor");
    println!("cargo::rustc-env=LASTWORD_SUPERVISOR={}", built.display());
}

/// `OUT_DIR` is `<target>/[<triple>/]<profile>/build/<package>/out`.
fn target_directory() -> PathBuf {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let profile = out.ancestors().nth(3).unwrap_or(&out);
    let parent = profile.parent().unwrap_or(profile);
    let is_triple = parent.file_name().is_some_and(|name| name == TARGET);
    if is_triple { parent.parent().unwrap_or(parent).to_path_buf() } else { parent.to_path_buf() }
}

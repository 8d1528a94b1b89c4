//! What the tests need on the machine, and how to get it.

use std::path::Path;

use anyhow::{Result, bail};

use crate::command::Step;

/// A file that must exist, the Debian package that brings it, and who needs it.
struct Need {
    path: &'static str,
    package: &'static str,
    reason: &'static str,
}

const NEEDS: &[Need] = &[
    Need { path: "/usr/bin/gcc", package: "gcc", reason: "the tests' C programs" },
    Need { path: "/usr/bin/cc", package: "gcc", reason: "links every Rust program" },
    Need { path: "/usr/bin/g++", package: "g++", reason: "libFuzzer is C++" },
    Need { path: "/usr/include/stdio.h", package: "libc6-dev", reason: "the tests' C programs" },
    Need {
        path: "/usr/lib/x86_64-linux-gnu/libc.a",
        package: "libc6-dev",
        reason: "static C programs, the supervisor",
    },
    Need { path: "/usr/bin/python3", package: "python3", reason: "runs the Python programs in the sandbox" },
    Need {
        path: "/usr/share/doc/python3-venv",
        package: "python3-venv",
        reason: "the Python package's tests install it into fresh environments",
    },
    Need { path: "/usr/bin/curl", package: "curl", reason: "runs the API guide's commands" },
    Need { path: "/usr/bin/jq", package: "jq", reason: "runs the API guide's commands" },
    Need { path: "/usr/bin/bash", package: "bash", reason: "runs the shell programs in the sandbox" },
    Need { path: "/usr/bin/stdbuf", package: "coreutils", reason: "flush help for C programs" },
    Need { path: "/usr/bin/setpriv", package: "util-linux", reason: "runs tests as an ordinary user" },
    Need { path: "/usr/bin/node", package: "nodejs", reason: "runs JavaScript in the sandbox" },
    Need { path: "/usr/bin/rustc", package: "rustc", reason: "compiles Rust in the sandbox" },
    Need { path: "/usr/bin/go", package: "golang-go", reason: "compiles Go in the sandbox" },
    Need {
        path: "/usr/bin/javac",
        package: "openjdk-17-jdk-headless",
        reason: "compiles and runs Java in the sandbox",
    },
    Need { path: "/usr/bin/perl", package: "perl", reason: "runs Perl in the sandbox" },
    Need { path: "/usr/bin/ruby", package: "ruby", reason: "runs Ruby in the sandbox" },
    Need {
        path: "/usr/bin/ipcmk",
        package: "util-linux",
        reason: "makes shared memory that a program must not see",
    },
    Need { path: "/usr/bin/mmdebstrap", package: "mmdebstrap", reason: "makes the tests' container image" },
    Need { path: "/usr/sbin/dockerd", package: "docker.io", reason: "saves that image; the docker backend" },
];

pub(crate) fn is_root() -> Result<bool> {
    Ok(Step::new("id", &["-u"]).capture()?.trim() == "0")
}

/// Installs what is missing. Without root it names the command instead.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !Path::new(need.path).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        eprintln!("missing: {} ({}: {})", need.path, need.package, need.reason);
    }
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let install = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "install what is listed above with this system's own package tool; on Debian it is `{install}`"
        );
    }
    if !is_root()? {
        bail!("not root, so nothing was installed; run `sudo {install}` once and start again");
    }
    Step::new("apt-get", &["update", "-q"]).run()?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&packages);
    Step::new("apt-get", &arguments).env("DEBIAN_FRONTEND", "noninteractive").run()?;
    match NEEDS.iter().find(|need| !Path::new(need.path).exists()) {
        Some(need) => bail!("{} was installed, but {} is still missing", need.package, need.path),
        None => Ok(()),
    }
}

//! The root that a program sees on the native backend, as ordered steps.
//!
//! The host's /usr read-only, so that it needs no image; everything else is empty, generated, or a short list of files of
//! /etc that hold no secret. What a program can write is one tmpfs, so that one number bounds it all.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::limits::{COPIED_BYTES_MAX, SCRATCH_BYTES_PER_INODE, SCRATCH_INODES_MIN};
use crate::plan::{Bytes, Step};

/// The program's working directory unless it asked for another.
pub const WORK: &str = "/work";
/// Helper files of runtimes, read-only.
pub const HELP: &str = "/opt/lastword";
/// Where the one writable tmpfs is mounted; /work, /tmp, /var/tmp and /dev/shm are places in it.
const SCRATCH: &str = "scratch";

/// Directories of / that hold programs and libraries on some distributions.
const SYSTEM_DIRECTORIES: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"];

/// What of /etc programs need to find libraries, zones, certificates and alternatives. Nothing with secrets or identities.
const ETC: [&str; 22] = [
    "alternatives",
    "ca-certificates.conf",
    "fonts",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "php",
    "protocols",
    "python3",
    "python3.11",
    "services",
    "ssl/certs",
    "terminfo",
    "timezone",
];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Parts of /proc that show or steer the machine rather than the sandbox.
const PROC_MASKED: [&str; 14] = [
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "pressure",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// What stands at a path of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Directory,
    File,
    Link(PathBuf),
    /// A small file that is copied: cheaper than a mount, and a mount less to take down.
    Text(Vec<u8>),
}

/// A look at the host: everything that the steps depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    system: Vec<(String, Found)>,
    /// Path below /etc, and the host path it really is.
    etc: Vec<(String, PathBuf, Found)>,
    devices: Vec<String>,
}

/// A file for the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Absolute path in the sandbox; its directory must be one that exists there.
    pub path: Bytes,
    pub mode: u32,
    pub bytes: Bytes,
}

/// What one execution wants of its root.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub scratch_bytes: u64,
    pub tty: bool,
    /// Writable files under /work or /tmp, made by us before the start.
    pub files: Vec<NewFile>,
    /// Files below [`HELP`], which the program can't change: (directory, file name, bytes).
    pub help: Vec<(String, String, Bytes)>,
}

impl Host {
    pub fn look() -> Host {
        let system = SYSTEM_DIRECTORIES
            .iter()
            .filter_map(|name| Some((name.to_string(), look_at(&Path::new("/").join(name))?)))
            .collect();
        let etc = ETC
            .iter()
            .filter_map(|name| {
                // Links are resolved here: what they point to may not be in the sandbox.
                let real = fs::canonicalize(Path::new("/etc").join(name)).ok()?;
                let found = match look_at(&real)? {
                    Found::File => small(&real).unwrap_or(Found::File),
                    found => found,
                };
                Some((name.to_string(), real, found))
            })
            .collect();
        let devices = DEVICES.iter().filter(|name| is_device(name)).map(|name| name.to_string()).collect();
        Host { system, etc, devices }
    }
}

fn look_at(path: &Path) -> Option<Found> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(if metadata.is_symlink() {
        Found::Link(fs::read_link(path).ok()?)
    } else if metadata.is_dir() {
        Found::Directory
    } else {
        Found::File
    })
}

fn small(path: &Path) -> Option<Found> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.len() <= COPIED_BYTES_MAX).then(|| fs::read(path).ok().map(Found::Text))?
}

fn is_device(name: &str) -> bool {
    fs::metadata(Path::new("/dev").join(name)).is_ok_and(|metadata| metadata.file_type().is_char_device())
}

/// The steps, in order. Parents come before what stands in them; links and files before the root becomes read-only.
pub fn steps(host: &Host, wish: &Wish) -> Vec<Step> {
    let mut steps = Vec::new();
    system(host, &mut steps);
    etc(host, &mut steps);
    scratch(wish, &mut steps);
    devices(host, wish, &mut steps);
    help(wish, &mut steps);
    proc(&mut steps);
    for file in &wish.files {
        let path = file.path.strip_prefix(b"/").unwrap_or(&file.path);
        steps.push(Step::File { path: path.into(), mode: file.mode, bytes: file.bytes.clone() });
    }
    steps
}

fn dir(path: &str, mode: u32) -> Step {
    Step::Dir { path: path.into(), mode }
}

fn file(path: &str, text: &str) -> Step {
    Step::File { path: path.into(), mode: 0o444, bytes: text.into() }
}

fn bind(source: &Path, path: &str) -> Step {
    Step::Bind {
        source: source.as_os_str().as_bytes().into(),
        path: path.into(),
        writable: false,
        devices: false,
    }
}

fn system(host: &Host, steps: &mut Vec<Step>) {
    for (name, found) in &host.system {
        match found {
            Found::Link(target) => {
                steps.push(Step::Symlink { path: name.into(), target: target.as_os_str().as_bytes().into() })
            }
            Found::Directory => {
                steps.push(dir(name, 0o755));
                steps.push(bind(&Path::new("/").join(name), name));
            }
            Found::File | Found::Text(_) => {}
        }
    }
}

fn etc(host: &Host, steps: &mut Vec<Step>) {
    steps.push(dir("etc", 0o755));
    if host.etc.iter().any(|(name, ..)| name.starts_with("ssl/")) {
        steps.push(dir("etc/ssl", 0o755));
    }
    for (name, real, found) in &host.etc {
        let path = format!("etc/{name}");
        steps.push(match found {
            Found::Directory => dir(&path, 0o755),
            Found::Text(text) => {
                let file = Step::File { path: path.into(), mode: 0o444, bytes: text.into() };
                steps.push(file);
                continue;
            }
            _ => file(&path, ""),
        });
        steps.push(bind(real, &path));
    }
    steps.push(file(
        "etc/passwd",
        "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/work:/bin/sh\n",
    ));
    steps.push(file("etc/group", "root:x:0:\nnogroup:x:65534:\n"));
    steps.push(file("etc/hosts", "127.0.0.1 localhost lastword\n::1 localhost\n"));
    steps.push(file("etc/hostname", "lastword\n"));
}

fn scratch(wish: &Wish, steps: &mut Vec<Step>) {
    let inodes = (wish.scratch_bytes / SCRATCH_BYTES_PER_INODE).max(SCRATCH_INODES_MIN);
    steps.push(dir(SCRATCH, 0o755));
    steps.push(Step::Tmpfs { path: SCRATCH.into(), bytes: wish.scratch_bytes, inodes });
    steps.push(dir("var", 0o755));
    for (place, path, mode) in
        [("work", "work", 0o755), ("tmp", "tmp", 0o1777), ("vartmp", "var/tmp", 0o1777)]
    {
        alias(place, path, mode, steps);
    }
}

/// A directory of the scratch tmpfs that is seen at `path`.
fn alias(place: &str, path: &str, mode: u32, steps: &mut Vec<Step>) {
    let source = format!("{SCRATCH}/{place}");
    steps.push(dir(&source, mode));
    steps.push(dir(path, 0o755));
    steps.push(Step::Alias { source: source.into(), path: path.into() });
}

fn devices(host: &Host, wish: &Wish, steps: &mut Vec<Step>) {
    steps.push(dir("dev", 0o755));
    for name in &host.devices {
        let path = format!("dev/{name}");
        steps.push(file(&path, ""));
        steps.push(Step::Bind {
            source: format!("/dev/{name}").into(),
            path: path.into(),
            writable: true,
            devices: true,
        });
    }
    for (path, target) in [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
    ] {
        steps.push(Step::Symlink { path: path.into(), target: target.into() });
    }
    alias("shm", "dev/shm", 0o1777, steps);
    if wish.tty {
        steps.push(dir("dev/pts", 0o755));
        steps.push(Step::Devpts { path: "dev/pts".into() });
        steps.push(Step::Symlink { path: "dev/ptmx".into(), target: "pts/ptmx".into() });
    }
}

fn help(wish: &Wish, steps: &mut Vec<Step>) {
    if wish.help.is_empty() {
        return;
    }
    steps.push(dir("opt", 0o755));
    steps.push(dir("opt/lastword", 0o755));
    let mut made: Vec<&str> = Vec::new();
    for (directory, name, bytes) in &wish.help {
        if !made.contains(&directory.as_str()) {
            steps.push(dir(&format!("opt/lastword/{directory}"), 0o755));
            made.push(directory);
        }
        let path = format!("opt/lastword/{directory}/{name}");
        steps.push(Step::File { path: path.into(), mode: 0o444, bytes: bytes.clone() });
    }
}

fn proc(steps: &mut Vec<Step>) {
    steps.push(dir("proc", 0o555));
    steps.push(Step::Proc { path: "proc".into() });
    for name in PROC_MASKED {
        steps.push(Step::Mask { path: format!("proc/{name}").into() });
    }
    for name in PROC_READ_ONLY {
        steps.push(Step::ReadOnly { path: format!("proc/{name}").into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            system: vec![("bin".into(), Found::Link("usr/bin".into())), ("usr".into(), Found::Directory)],
            etc: vec![("ssl/certs".into(), "/etc/ssl/certs".into(), Found::Directory)],
            devices: vec!["null".into()],
        }
    }

    fn path_of(step: &Step) -> &Bytes {
        match step {
            Step::Dir { path, .. }
            | Step::Symlink { path, .. }
            | Step::File { path, .. }
            | Step::Tmpfs { path, .. }
            | Step::Bind { path, .. }
            | Step::Alias { path, .. }
            | Step::Proc { path }
            | Step::ReadOnly { path }
            | Step::Mask { path }
            | Step::Devpts { path } => path,
        }
    }

    #[test]
    fn every_parent_is_made_before_what_stands_in_it() {
        let wish = Wish { scratch_bytes: 1 << 20, tty: true, ..Wish::default() };
        let mut made: Vec<Vec<u8>> = vec![Vec::new()];
        for step in steps(&host(), &wish) {
            let path = path_of(&step).0.clone();
            if !path.starts_with(b"proc/") {
                let parent = path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &path[..at]);
                assert!(made.iter().any(|done| done == parent), "{step:?} comes too early");
            }
            made.push(path);
        }
    }

    #[test]
    fn only_devices_are_bound_writable() {
        for step in steps(&host(), &Wish { scratch_bytes: 1 << 20, ..Wish::default() }) {
            if let Step::Bind { source, writable, devices, .. } = &step {
                assert_eq!(*writable, source.starts_with(b"/dev/"), "{step:?}");
                assert_eq!(writable, devices);
            }
        }
    }

    #[test]
    fn nothing_of_the_host_but_the_lists_is_bound() {
        for step in steps(&Host::look(), &Wish { scratch_bytes: 1 << 20, ..Wish::default() }) {
            if let Step::Bind { source, .. } = &step {
                for private in ["/root", "/home", "/etc/shadow", "/etc/ssh", "/var", "/run", "/sys", "/proc"]
                {
                    assert!(!source.starts_with(private.as_bytes()), "{step:?}");
                }
            }
        }
    }

    #[test]
    fn a_plan_survives_its_way_over_the_socket() {
        use crate::plan::*;
        let plan = Plan {
            id: [7; 16],
            boot_id: [8; 16],
            program: Program {
                argv: vec!["python3".into(), "a\nb".into()],
                env: vec!["A=1".into()],
                path: vec!["/usr/bin".into()],
                cwd: WORK.into(),
                stdin: Stdin::Bytes { bytes: vec![0, 255].into() },
                tty: false,
            },
            identity: Identity { uid: 65534, gid: 65534, host_uid: 0, host_gid: 0, privileged: true },
            steps: steps(&host(), &Wish { scratch_bytes: 1 << 20, tty: true, ..Wish::default() }),
            scratch: "/scratch".into(),
            rlimits: vec![(7, 1024)],
            cgroups: vec![],
            filter: Filters {
                exact: crate::seccomp::compile(true),
                plain: crate::seccomp::compile(false),
                exact_required: false,
                why_not_exact: "".into(),
            },
            capture: Capture {
                wall_ns: Some(1),
                cpu_ns: None,
                output_bytes: Some(64),
                kill_at_output_limit: true,
                grace_ns: 5,
            },
        };
        let bytes = plan.encode();
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&bytes[..8]);
        assert_eq!(Plan::encoded_len(prefix), Some(bytes.len() - 8));
        assert_eq!(Plan::decode(&bytes[8..]), Ok(plan.clone()));
        for cut in [0, 1, 100, bytes.len() - 9] {
            assert!(Plan::decode(&bytes[8..8 + cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes[8..].to_vec();
        longer.push(0);
        assert!(Plan::decode(&longer).is_err());
    }
}

//! The root that a program sees on the native backend, as ordered steps.
//!
//! The host's /usr read-only, so that it needs no image; everything else is empty, generated, or a short list of files of
//! /etc that hold no secret. What a program can write is one tmpfs, so that one number bounds it all.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::{Base, Entry, Found, Var};
use crate::limits::{SCRATCH_BYTES_PER_INODE, SCRATCH_INODES_MIN};
use crate::plan::{Bytes, Step};

/// The program's working directory unless it asked for another.
pub const WORK: &str = "/work";
/// What a compile step made, read-only; in the compile step itself, where it puts it.
pub const BUILD: &str = "/build";
/// A directory of ours at the top of the root, without the slash.
pub const OWN: &str = ".lastword";
/// Helper files of runtimes, read-only.
pub const HELP: &str = "/.lastword/help";
/// Where the one writable tmpfs is mounted; /work, /tmp, /var/tmp and /dev/shm are places in it.
const SCRATCH: &str = ".lastword/scratch";

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

/// A file for the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Absolute path in the sandbox, below one of [`WRITABLE`]; directories on the way are made.
    pub path: Bytes,
    pub mode: u32,
    pub bytes: Bytes,
}

/// Something of the host that is seen in the sandbox, read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOnly {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the sandbox, absolute; [`Base::kind_of`] says whether it can be had.
    pub path: PathBuf,
    pub directory: bool,
}

/// Where a program can write, and where files can be put for it.
pub const WRITABLE: [&str; 3] = [WORK, "/tmp", "/var/tmp"];

/// What one execution wants of its root.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub scratch_bytes: u64,
    pub tty: bool,
    /// The working directory is that of the base: no /work is made.
    pub without_work: bool,
    /// A writable [`BUILD`], for a compile step.
    pub build: bool,
    /// Writable files, made by us before the start.
    pub files: Vec<NewFile>,
    /// In order. None may lie below another one: nothing can be made in a read-only tree.
    pub read_only: Vec<ReadOnly>,
    /// Files below [`HELP`], which the program can't change: (directory, file name, bytes).
    pub help: Vec<(String, String, Bytes)>,
}

impl Wish {
    /// Entries at the top that are ours, whatever the base has there.
    pub fn ours(&self) -> Vec<&'static str> {
        let build = self.build || self.read_only.iter().any(|shared| shared.path == Path::new(BUILD));
        [(!self.without_work).then_some(WORK), build.then_some(BUILD)]
            .into_iter()
            .flatten()
            .map(|path| path.trim_start_matches('/'))
            .collect()
    }
}

/// The steps, in order. Parents come before what stands in them; links and files before the root becomes read-only.
pub fn steps(base: &Base, wish: &Wish) -> Vec<Step> {
    let base = &*base.without(&wish.ours());
    let mut steps = Vec::new();
    system(base, &mut steps);
    if let Some(entries) = &base.etc {
        etc(entries, &mut steps);
    }
    steps.push(dir(OWN, 0o755));
    scratch(base, wish, &mut steps);
    devices(base, wish, &mut steps);
    help(wish, &mut steps);
    proc(&mut steps);
    let mut places = Places::of(&steps);
    for shared in &wish.read_only {
        places.share(base, shared, &mut steps);
    }
    for file in &wish.files {
        let path = file.path.strip_prefix(b"/").unwrap_or(&file.path);
        places.parents(path, &mut steps);
        steps.push(Step::File { path: path.into(), mode: file.mode, bytes: file.bytes.clone() });
    }
    steps
}

/// The directories that stand so far: a directory is made once.
struct Places {
    made: BTreeSet<Vec<u8>>,
}

impl Places {
    fn of(steps: &[Step]) -> Places {
        let made = steps.iter().filter_map(|step| match step {
            Step::Dir { path, .. } => Some(path.0.clone()),
            _ => None,
        });
        Places { made: made.collect() }
    }

    fn parents(&mut self, path: &[u8], steps: &mut Vec<Step>) {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.directory(&path[..at], steps);
        }
    }

    fn directory(&mut self, path: &[u8], steps: &mut Vec<Step>) {
        if self.made.insert(path.to_vec()) {
            steps.push(Step::Dir { path: path.into(), mode: 0o755 });
        }
    }

    fn share(&mut self, base: &Base, shared: &ReadOnly, steps: &mut Vec<Step>) {
        let path = shared.path.as_os_str().as_bytes();
        let path = path.strip_prefix(b"/").unwrap_or(path);
        // What the base has already can be mounted over, but nothing can be made in it.
        if base.kind_of(&shared.path) == crate::host::Kind::Free {
            self.parents(path, steps);
            if shared.directory {
                self.directory(path, steps);
            } else {
                steps.push(Step::File { path: path.into(), mode: 0o444, bytes: (&b""[..]).into() });
            }
        }
        steps.push(Step::Bind {
            source: shared.source.as_os_str().as_bytes().into(),
            path: path.into(),
            writable: false,
            devices: false,
        });
    }
}

fn dir(path: &str, mode: u32) -> Step {
    Step::Dir { path: path.into(), mode }
}

fn file(path: &str, text: &str) -> Step {
    Step::File { path: path.into(), mode: 0o444, bytes: text.into() }
}

fn bind(source: &Path, path: &[u8]) -> Step {
    Step::Bind {
        source: source.as_os_str().as_bytes().into(),
        path: path.into(),
        writable: false,
        devices: false,
    }
}

fn system(base: &Base, steps: &mut Vec<Step>) {
    for Entry { name, real, found } in &base.system {
        let path = Bytes(name.clone());
        match found {
            Found::Link(target) => {
                steps.push(Step::Symlink { path, target: target.as_os_str().as_bytes().into() });
                continue;
            }
            Found::Directory => steps.push(Step::Dir { path, mode: 0o755 }),
            Found::File | Found::Text(_) => {
                steps.push(Step::File { path, mode: 0o444, bytes: (&b""[..]).into() });
            }
        }
        steps.push(bind(real, name));
    }
}

fn etc(entries: &[Entry], steps: &mut Vec<Step>) {
    steps.push(dir("etc", 0o755));
    if entries.iter().any(|entry| entry.name.starts_with(b"etc/ssl/")) {
        steps.push(dir("etc/ssl", 0o755));
    }
    for Entry { name, real, found } in entries {
        let path = Bytes(name.clone());
        steps.push(match found {
            Found::Directory => Step::Dir { path, mode: 0o755 },
            Found::Text(text) => {
                steps.push(Step::File { path, mode: 0o444, bytes: text.into() });
                continue;
            }
            _ => Step::File { path, mode: 0o444, bytes: (&b""[..]).into() },
        });
        steps.push(bind(real, name));
    }
    steps.push(file(
        "etc/passwd",
        "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/work:/bin/sh\n",
    ));
    steps.push(file("etc/group", "root:x:0:\nnogroup:x:65534:\n"));
    steps.push(file("etc/hosts", "127.0.0.1 localhost lastword\n::1 localhost\n"));
    steps.push(file("etc/hostname", "lastword\n"));
}

fn scratch(base: &Base, wish: &Wish, steps: &mut Vec<Step>) {
    let inodes = (wish.scratch_bytes / SCRATCH_BYTES_PER_INODE).max(SCRATCH_INODES_MIN);
    steps.push(dir(SCRATCH, 0o755));
    steps.push(Step::Tmpfs { path: SCRATCH.into(), bytes: wish.scratch_bytes, inodes });
    if wish.build {
        let at = BUILD.trim_start_matches('/');
        place("build", 0o755, steps);
        // A base with a /build of its own: ours is put over it.
        if !base.has_top(at) {
            steps.push(dir(at, 0o755));
        }
        seen_at("build", at, steps);
    }
    if !wish.without_work {
        alias("work", "work", 0o755, steps);
    }
    alias("tmp", "tmp", 0o1777, steps);
    match base.var {
        Var::Ours => {
            steps.push(dir("var", 0o755));
            alias("vartmp", "var/tmp", 0o1777, steps);
        }
        Var::TheirsWithTmp => {
            place("vartmp", 0o1777, steps);
            seen_at("vartmp", "var/tmp", steps);
        }
        Var::Theirs => {}
    }
}

/// A directory of the scratch tmpfs.
fn place(name: &str, mode: u32, steps: &mut Vec<Step>) {
    steps.push(dir(&format!("{SCRATCH}/{name}"), mode));
}

fn seen_at(name: &str, path: &str, steps: &mut Vec<Step>) {
    steps.push(Step::Alias { source: format!("{SCRATCH}/{name}").into(), path: path.into() });
}

/// A directory of the scratch tmpfs that is seen at `path`.
fn alias(name: &str, path: &str, mode: u32, steps: &mut Vec<Step>) {
    place(name, mode, steps);
    steps.push(dir(path, 0o755));
    seen_at(name, path, steps);
}

fn devices(base: &Base, wish: &Wish, steps: &mut Vec<Step>) {
    steps.push(dir("dev", 0o755));
    for name in &base.devices {
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
    let at = HELP.trim_start_matches('/');
    steps.push(dir(at, 0o755));
    let mut made: Vec<&str> = Vec::new();
    for (directory, name, bytes) in &wish.help {
        if !made.contains(&directory.as_str()) {
            steps.push(dir(&format!("{at}/{directory}"), 0o755));
            made.push(directory);
        }
        let path = format!("{at}/{directory}/{name}");
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

    fn host() -> Base {
        let entry = |name: &str, found| Entry { name: name.into(), real: Path::new("/").join(name), found };
        Base {
            system: vec![
                entry("bin", Found::Link("usr/bin".into())),
                entry("prog", Found::File),
                entry("usr", Found::Directory),
            ],
            etc: Some(vec![entry("etc/ssl/certs", Found::Directory)]),
            devices: vec!["null".into()],
            var: Var::Ours,
        }
    }

    /// Everything at once.
    fn wish() -> Wish {
        let shared =
            |source: &str, path: &str| ReadOnly { source: source.into(), path: path.into(), directory: true };
        Wish {
            scratch_bytes: 1 << 20,
            tty: true,
            build: true,
            files: vec![
                NewFile { path: "/work/a/b/c".into(), mode: 0o644, bytes: (&b"x"[..]).into() },
                NewFile { path: "/work/a/d".into(), mode: 0o644, bytes: (&b"x"[..]).into() },
            ],
            read_only: vec![shared("/srv/data", "/data/x"), shared("/srv/data", "/data/y")],
            help: vec![("python".into(), "x.py".into(), (&b""[..]).into())],
            ..Wish::default()
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
        let mut made: Vec<Vec<u8>> = vec![Vec::new()];
        for step in steps(&host(), &wish()) {
            let path = path_of(&step).0.clone();
            if !path.starts_with(b"proc/") {
                let parent = path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &path[..at]);
                assert!(made.iter().any(|done| done == parent), "{step:?} comes too early");
            }
            made.push(path);
        }
    }

    #[test]
    fn no_directory_is_made_twice() {
        let mut made = BTreeSet::new();
        for step in steps(&host(), &wish()) {
            if let Step::Dir { path, .. } = step {
                assert!(made.insert(path.0.clone()), "{}", path.0.escape_ascii());
            }
        }
    }

    #[test]
    fn only_devices_are_bound_writable() {
        for step in steps(&host(), &wish()) {
            if let Step::Bind { source, writable, devices, .. } = &step {
                assert_eq!(*writable, source.starts_with(b"/dev/"), "{step:?}");
                assert_eq!(writable, devices);
            }
        }
    }

    #[test]
    fn nothing_of_the_host_but_the_lists_is_bound() {
        for step in steps(&Base::host(), &Wish { scratch_bytes: 1 << 20, ..Wish::default() }) {
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
            steps: steps(&host(), &wish()),
            scratch: "/tmp".into(),
            outputs: Some(Outputs { globs: vec!["*.txt".into()], bytes_max: 5, files_max: 6 }),
            control: true,
            held: 1,
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

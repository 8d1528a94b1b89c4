//! G8: after the end no process, cgroup, mount or file remains.

use std::path::{Path, PathBuf};

use crate::lab::{Lab, Program, wait_for};

/// How the directories of this suite begin.
pub(crate) const PREFIX: &str = "lastword-it-";

/// Whatever is left of the runs of one data directory; empty when all is well. Short waits are for supervisors that
/// outlive who started them by design.
pub(crate) fn check(lab: &Lab) {
    let ids = lab.ids();
    let start = std::time::Instant::now();
    wait_for("nothing is left", || {
        let left = left(lab.path(), &ids);
        // After a while say what it is instead of waiting on.
        assert!(left.is_empty() || start.elapsed().as_secs() < 10, "left over: {left:#?}");
        left.is_empty().then_some(())
    });
}

fn left(root: &Path, ids: &[String]) -> Vec<String> {
    let mut found = processes(|text| text.contains(&*root.to_string_lossy()) || names(text, ids));
    found.extend(cgroups().iter().map(|path| path.display().to_string()).filter(|path| names(path, ids)));
    found.extend(
        mounts().into_iter().filter(|line| line.contains(&*root.to_string_lossy()) || names(line, ids)),
    );
    for directory in [
        root.join("data/spool"),
        root.join("data/tmp"),
        std::env::temp_dir(),
        "/run".into(),
        "/dev/shm".into(),
    ] {
        let paths = children(&directory).into_iter().map(|path| path.display().to_string());
        found.extend(paths.filter(|path| names(path, ids)));
    }
    found
}

fn names(text: &str, ids: &[String]) -> bool {
    ids.iter().any(|id| text.contains(id.as_str()) || text.contains(&id.replace('-', "")))
}

/// Processes whose command line, cgroup or a descriptor is claimed, except this one and its parents.
fn processes(claimed: impl Fn(&str) -> bool) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for process in children(Path::new("/proc")) {
        let pid = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let mut texts: Vec<String> = ["cmdline", "cgroup"]
            .iter()
            .filter_map(|name| std::fs::read(process.join(name)).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
            .collect();
        let links = children(&process.join("fd"))
            .into_iter()
            .chain([process.join("exe")])
            .filter_map(|link| std::fs::read_link(link).ok());
        texts.extend(links.map(|target| target.display().to_string()));
        if let Some(text) = texts.iter().find(|text| claimed(text)) {
            found.push(format!("process {pid}: {text}"));
        }
    }
    found
}

/// Every cgroup directory of every hierarchy.
fn cgroups() -> Vec<PathBuf> {
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut all = Vec::new();
    while let Some(directory) = open.pop() {
        for path in children(&directory) {
            // Links (cpu -> cpu,cpuacct) would be walked twice.
            if std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_dir()) {
                open.push(path.clone());
                all.push(path);
            }
        }
    }
    all
}

fn mounts() -> Vec<String> {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().map(str::to_owned).collect()
}

fn children(directory: &Path) -> Vec<PathBuf> {
    // Whatever vanishes while we look isn't left over.
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn g8_an_ended_run_leaves_nothing() {
    let lab = Lab::new();
    lab.run(&[], &Program::Sh("sleep 1000 & echo started"));
    check(&lab);
}

#[test]
fn the_look_for_leftovers_sees_what_is_there() {
    let lab = Lab::new();
    let path = lab.path().join("seen");
    let mut child = std::process::Command::new("tail").arg("-f").arg(lab.file("seen", "")).spawn().unwrap();
    let found = left(lab.path(), &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found.iter().any(|line| line.contains(&*path.to_string_lossy())), "{found:?}");
}

/// Run by `cargo xtask test` when all others are through.
#[test]
#[ignore = "looks at the whole machine: only after the suite, with nothing else of lastword running"]
fn after_the_whole_suite_nothing_is_left() {
    let looks_like_ours = |text: &str| text.contains(PREFIX) || text.contains("lastword-supervisor");
    let mut found = processes(|text| looks_like_ours(text) && !text.contains("cargo"));
    let groups = cgroups().into_iter().map(|path| path.display().to_string());
    found.extend(groups.filter(|path| path.contains("lastword")).filter(|path| !path.ends_with("/lastword")));
    found.extend(mounts().into_iter().filter(|line| looks_like_ours(line)));
    let files = children(&std::env::temp_dir()).into_iter().map(|path| path.display().to_string());
    found.extend(files.filter(|path| path.contains(PREFIX)));
    assert!(found.is_empty(), "left over: {found:#?}");
}

//! Container images on the native backend, from the file to the seal.

mod hostile;
mod made;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lastword_image::{Cache, Source};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use self::made::Tar;
use crate::fixture;
use crate::lab::{Lab, args, ended, finish, needs_root, wait_for};
use crate::object::{Object, Record};

/// `run --json --image`, and what is behind it: nothing for the image's own command.
fn run(lab: &Lab, image: &Path, rest: &[&str]) -> Object {
    let object = run_unchecked(lab, image, rest);
    lab.agree(&object);
    object
}

fn run_unchecked(lab: &Lab, image: &Path, rest: &[&str]) -> Object {
    let arguments = [args!["run", "--json", "--image", image], rest.iter().map(OsString::from).collect()];
    Object::parse(&lab.lastword(arguments.concat()).expect(0).stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Both streams as they were written.
fn in_order(records: &[Record]) -> String {
    text(&records.iter().flat_map(|record| record.bytes.iter().copied()).collect::<Vec<u8>>())
}

#[track_caller]
fn assert_end(object: &Object, end: &str, stdout: &str) {
    let found = (object.end(), text(&object.stdout()));
    assert_eq!(found, (end.to_owned(), stdout.to_owned()), "{:#}", object.0);
    assert!(object.complete(), "{}", object.at("/transcript"));
}

/// The directories of the entries in a lab's cache.
fn entries(data: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(data.join("cache/images/entries")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// What the image says, and what the request says instead.
#[test]
fn an_image_says_what_runs_and_how() {
    if !needs_root("maps the image's user") {
        return;
    }
    let (lab, image) = (Lab::new(), made::debian());
    let object = run(&lab, &image, &[]);
    let map = "      1234      65534          1\n";
    assert_end(&object, "succeeded/exit", &format!("entry\n1234\n1234\n/srv\nb\n/tmp\n{map}"));
    assert!(object.text("/environment/image_digest").starts_with("sha256:"), "{:#}", object.0);
    assert_eq!(object.text("/image"), image.to_str().unwrap());

    let object = run(&lab, &image, &["--", "id", "-u"]);
    assert_end(&object, "succeeded/exit", "1234\n");
    let object = run(&lab, &image, &["--cwd", "/usr", "--env", "A=c", "--", "sh", "-c", "pwd; echo $A"]);
    assert_end(&object, "succeeded/exit", "/usr\nc\n");

    let object = run(&lab, &image, &["--runtime", "python", "-c", "import os\nprint('Before error')\n1/0"]);
    assert_end(&object, "failed/exit", "Before error\n");
    assert_eq!((object.exit_code(), object.ordering()), (Some(1), "exact"), "{:#}", object.0);
    let both = in_order(&lab.records(object.id()));
    assert!(both.starts_with("Before error\nTraceback ") && both.ends_with("division by zero\n"), "{both}");
    // The image's Python, and not the machine's.
    let version = text(&run(&lab, &image, &["--", "python3", "--version"]).stdout());
    let version = version.trim().rsplit(' ').next().unwrap();
    assert_eq!(object.text("/environment/runtime_version"), version);

    let code = "b = bytearray(1 << 30)\nprint('has it')";
    let object = run(&lab, &image, &["--memory", "64MiB", "--runtime", "python", "-c", code]);
    assert_end(&object, "failed/out_of_memory", "");
    let object = run(&lab, &image, &["--", "no-such-command"]);
    assert_eq!((object.status(), object.exit_code()), ("failed", None), "{:#}", object.0);
}

#[test]
fn files_go_into_an_image_and_come_out() {
    if !needs_root("maps the image's user") {
        return;
    }
    let (lab, image) = (Lab::new(), made::debian());
    let input = lab.file("in.txt", "from outside\n");
    let out = lab.path().join("out");
    let script = "pwd; cat /work/in.txt; echo inside > /work/made.txt; id -u; echo $HOME";
    let object = run(
        &lab,
        &image,
        &[
            "--file",
            input.to_str().unwrap(),
            "--out",
            &format!("*.txt:{}", out.display()),
            "--cwd",
            "/work",
            "--",
            "sh",
            "-c",
            script,
        ],
    );
    assert_end(&object, "succeeded/exit", "/work\nfrom outside\n1234\n/work\n");
    assert_eq!(fs::read_to_string(out.join("made.txt")).unwrap(), "inside\n");
    assert_eq!(fs::read_to_string(out.join("in.txt")).unwrap(), "from outside\n");
    sees_its_root(&lab, &image);
}

/// Read-only but for ours, with nothing that raises rights, and with the sandbox's devices and processes.
fn sees_its_root(lab: &Lab, image: &Path) {
    let script = "for path in / /usr /etc /srv /var /opt /root /home; do
            touch $path/x 2>/dev/null && echo written: $path
        done
        for path in /tmp /var/tmp /dev/shm; do echo x > $path/x || echo not written: $path; done
        find /usr /etc /srv /var -xdev -perm /6000
        [ -f /usr/bin/passwd ] || echo no passwd
        [ -c /dev/null ] && [ ! -e /dev/console ] || echo other devices
        head -n 1 /etc/os-release | grep -q Debian || echo no Debian
        grep -q ^root: /etc/passwd || echo not its own users
        ls -d /proc/[0-9]* | wc -l";
    let object = run(lab, image, &["--", "sh", "-c", script]);
    // Init, the shell and the three of the last line, of which `ls` may have ended or not begun.
    let stdout = text(&object.stdout());
    let processes: u32 = stdout.trim().parse().unwrap_or_else(|_| panic!("{stdout}\n{:#}", object.0));
    assert!((3..=5).contains(&processes), "{processes} processes");
    assert_eq!((object.end().as_str(), object.stderr()), ("succeeded/exit", Vec::new()), "{:#}", object.0);
}

#[test]
fn an_image_of_one_program_is_captured_in_order() {
    if !needs_root("asks a Docker daemon") {
        return;
    }
    let (lab, image) = (Lab::new(), made::single());
    let object = run(&lab, &image, &[]);
    let expected: String =
        (0..2000).map(|n| format!("{} {n}\n", if n % 2 == 0 { "o" } else { "e" })).collect();
    assert_eq!(in_order(&lab.records(object.id())), expected);
    assert_eq!((object.end().as_str(), object.ordering()), ("succeeded/exit", "exact"), "{:#}", object.0);
    let object = run(&lab, &image, &["--", "/order", "direct", "2"]);
    assert_end(&object, "succeeded/exit", "o 0\n");
}

/// An image of the program that looks about, and what more its layer has.
fn inside(layer: impl FnOnce(Tar) -> Tar) -> Vec<u8> {
    let program = fs::read(fixture::program("inside")).unwrap();
    layer(Tar::new()).program("prog", &program).end()
}

fn config(cmd: &[&str]) -> Value {
    json!({"Cmd": cmd, "Env": ["A=b"], "WorkingDir": "/", "User": "7:8"})
}

#[test]
fn every_form_of_an_image_runs() {
    let lab = Lab::new();
    let canary = lab.file("canary", "");
    let layer = inside(|tar| tar.dir("srv/"));
    let config = config(&["/prog", "look", canary.to_str().unwrap()]);
    let docker = lab.file("docker.tar", made::saved(&layer, &config));
    let layout = lab.path().join("layout");
    made::layout(&layout, &layer, &config);
    let archive = lab.path().join("oci.tar");
    let tar = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&layout).arg(".").status();
    assert!(tar.unwrap().success());
    for image in [&docker, &layout, &archive] {
        assert_end(&run(&lab, image, &[]), "succeeded/exit", "held\n");
    }
    // The layout and its archive have the same manifest.
    assert_eq!(entries(&lab.data).len(), 2);
    let named = format!("oci:{}", layout.display());
    assert_end(&run(&lab, Path::new(&named), &[]), "succeeded/exit", "held\n");
    let named = format!("docker-archive:{}", docker.display());
    assert_end(&run(&lab, Path::new(&named), &[]), "succeeded/exit", "held\n");
    assert_eq!(entries(&lab.data).len(), 2);
    // Links, as a path without a slash would be one of a registry.
    let none = lab.path().join("none.tar");
    let object = run(&lab, &none, &[]);
    assert_eq!(object.end(), "error/image_unavailable", "{:#}", object.0);
}

#[test]
fn an_image_is_unpacked_once() {
    if !needs_root("maps the image's user") {
        return;
    }
    let (lab, image) = (Lab::new(), made::debian());
    // The inode of a directory of the image: unpacked twice it would be another one.
    let arguments = args!["run", "--json", "--image", image, "--", "stat", "-c", "%d %i", "/usr", "/etc"];
    let start = || {
        let mut command = lab.command();
        command.args(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    // Both before the first can have unpacked.
    let both = [start(), start()];
    let seen: Vec<Vec<u8>> =
        both.into_iter().map(|child| Object::parse(&ended(child, None).expect(0).stdout).stdout()).collect();
    assert_eq!(text(&seen[0]), text(&seen[1]));
    let entry = entries(&lab.data).remove(0);
    let stamp = || {
        let of =
            |path: &Path| fs::metadata(path).map(|found| (found.ino(), found.ctime(), found.ctime_nsec()));
        [of(&entry).unwrap(), of(&entry.join("rootfs/usr")).unwrap(), of(&entry.join("image.json")).unwrap()]
    };
    let before = stamp();
    let third = Object::parse(&lab.lastword(&arguments).expect(0).stdout);
    assert_eq!(text(&third.stdout()), text(&seen[0]));
    assert_eq!((stamp(), entries(&lab.data).len()), (before, 1));
    assert_eq!(fs::read_dir(lab.data.join("cache/images/tmp")).unwrap().count(), 0);
}

/// The supervisor holds the entry, not who started it.
#[test]
fn a_running_program_keeps_its_image() {
    let lab = Lab::new();
    let gate = lab.path().join("gate");
    fs::create_dir(&gate).unwrap();
    let config = config(&["/prog", "gate", "/gate/open"]);
    let image = lab.file("image.tar", made::saved(&inside(|tar| tar), &config));
    let mut command = lab.command();
    command.args(["run", "--ro"]).arg(format!("{}:/gate", gate.display())).arg("--image").arg(&image);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();

    let (entry, evict) = (entries(&lab.data).remove(0), evictor(&lab));
    evict("first");
    assert!(entry.join("rootfs/prog").exists(), "a tree in use was thrown away");
    fs::write(gate.join("open"), "").unwrap();
    let id = lab.ids().remove(0);
    let object = wait_for("the run has ended", || {
        let object = lab.get(&id);
        (object.status() != "running").then_some(object)
    });
    assert_end(&object, "succeeded/exit", "started\nstill there\n");
    // A supervisor is there for a moment after the end.
    wait_for("the entry is let go", || {
        evict("second");
        (!entry.exists()).then_some(())
    });
}

/// Unpacks a small image in another process's stead, with a cache that may hold nothing.
fn evictor(lab: &Lab) -> impl Fn(&str) {
    let (cache, dir) = (lab.data.join("cache/images"), lab.path().to_owned());
    move |name| {
        let path = dir.join(name);
        fs::write(&path, made::saved(&Tar::new().file("name", name.as_bytes()).end(), &json!({}))).unwrap();
        let cache = Cache::open(&cache, 1).unwrap();
        drop(cache.unpack(Source::Path { path: &path, name: None }).unwrap());
    }
}

const UID: u32 = 1001;

#[test]
fn an_ordinary_user_runs_an_image() {
    if !needs_root("becomes another user") {
        return;
    }
    let lab = Lab::new();
    let own = |path: &Path| {
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        chown(path, Some(UID), Some(UID)).unwrap();
    };
    let binary = lab.path().join("lastword");
    fs::copy(env!("CARGO_BIN_EXE_lastword"), &binary).unwrap();
    // Where the image is kept this user may not look.
    let image = lab.path().join("debian.tar");
    fs::copy(made::debian(), &image).unwrap();
    fs::create_dir(&lab.data).unwrap();
    [lab.path(), &lab.data, &binary, &image].into_iter().for_each(own);
    let run = |rest: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={UID}"), &format!("--regid={UID}"), "--clear-groups", "--"]);
        command.arg(&binary).args(["run", "--json", "--image"]).arg(&image).args(rest);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
        command.env("LASTWORD_DATA_DIR", &lab.data).current_dir("/").stdin(Stdio::null());
        Object::parse(&finish(&mut command, None).expect(0).stdout)
    };
    let object = run(&[]);
    let map = format!("      1234 {UID:>10}          1\n");
    assert_end(&object, "succeeded/exit", &format!("entry\n1234\n1234\n/srv\nb\n/tmp\n{map}"));
    let object = run(&["--runtime", "python", "-c", "print('Before error')\n1/0"]);
    assert_end(&object, "failed/exit", "Before error\n");
    assert_eq!(object.ordering(), "exact", "{:#}", object.0);
    lab.agree(&object);
    let object = run(&["--", "touch", "/usr/x"]);
    assert_eq!(object.exit_code(), Some(1), "{:#}", object.0);
}

//! Images that mean harm: archives that can't be right, and trees that would lead the sandbox's own mounts astray.

use std::fs;
use std::path::{Path, PathBuf};

use super::made::{self, Tar};
use super::{assert_end, config, inside, run, run_unchecked, text};
use crate::lab::{Lab, args};
use crate::object::Object;

/// What is beside a lab's data directory and must not change.
struct Canary {
    path: PathBuf,
}

impl Canary {
    fn new(lab: &Lab) -> Self {
        Self { path: lab.file("canary", "alive") }
    }

    fn check(&self, lab: &Lab, known: &[&str]) {
        assert_eq!(fs::read(&self.path).unwrap(), b"alive");
        let mut names: Vec<String> = fs::read_dir(lab.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !known.contains(&&**name) && name != "canary" && name != "data")
            .collect();
        names.sort();
        assert!(names.is_empty(), "made outside: {names:?}");
    }
}

/// Never started, and said so in every way.
fn refused(lab: &Lab, image: &[u8], words: &[&str]) {
    let canary = Canary::new(lab);
    let path = lab.file("image.tar", image);
    let object = run(lab, &path, &[]);
    assert_eq!(object.end(), "error/image_unavailable", "{:#}", object.0);
    assert_eq!(object.at("/retry/program_started"), false, "{:#}", object.0);
    assert_eq!(object.number("/transcript/records"), 0, "{:#}", object.0);
    assert!(object.complete(), "{}", object.at("/transcript"));
    let said = object.at("/problem/message").to_string();
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    let plain = lab.lastword(args!["run", "--image", path]).expect(125);
    assert!(plain.stdout.is_empty() && plain.message().contains(words[0]), "{}", plain.message());
    assert!(super::entries(&lab.data).is_empty(), "something was kept");
    assert_eq!(fs::read_dir(lab.data.join("cache/images/tmp")).unwrap().count(), 0);
    canary.check(lab, &["image.tar"]);
}

fn layer_refused(tar: Tar, words: &[&str]) {
    refused(&Lab::new(), &made::saved(&tar.end(), &config(&["/x"])), words);
}

#[test]
fn a_layer_that_leads_out_is_refused() {
    layer_refused(Tar::new().file("../canary", b"dead"), &["../canary"]);
    layer_refused(Tar::new().file("a/../../../../../canary", b"dead"), &["a/../../../../../canary"]);
    let outside = Tar::new().link("out", "/no/such/../../../../place").file("out/canary", b"dead");
    layer_refused(outside, &["out/canary"]);
    layer_refused(Tar::new().entry(b"hard", b'1', b"../../canary", 0), &["hard"]);
}

#[test]
fn a_layer_with_what_no_image_needs_is_refused() {
    layer_refused(Tar::new().entry(b"disk", b'4', b"", 0), &["disk"]);
    layer_refused(Tar::new().entry(b"sparse", b'S', b"", 512), &["sparse"]);
    layer_refused(Tar::new().entry(b"huge", b'0', b"", 1 << 40), &["huge"]);
}

#[test]
fn a_layer_with_another_digest_is_refused() {
    let layer = Tar::new().file("x", b"x").end();
    let zeros = format!("sha256:{}", "0".repeat(64));
    refused(&Lab::new(), &made::saved_as(&layer, &zeros, &config(&["/x"])), &[&zeros]);
    refused(&Lab::new(), &layer, &["image.tar"]);
}

/// Runs the image's program, which looks at its root: with the image's own /work, and with ours.
fn holds(what: &str, layer: impl Fn(Tar) -> Tar) {
    let lab = Lab::new();
    let canary = Canary::new(&lab);
    let host = canary.path.to_str().unwrap();
    let input = lab.file("input", "x");
    let mut config = config(&["/prog", "look", host]);
    // Names and groups would be looked up in an /etc that may lead nowhere.
    config["User"] = "".into();
    let image = lab.file("image.tar", made::saved(&inside(&layer), &config));
    let check = |rest: &[&str]| {
        let object = run(&lab, &image, rest);
        assert_eq!(text(&object.stdout()), "held\n", "{what} {rest:?}: {:#}", object.0);
        assert_end(&object, "succeeded/exit", "held\n");
    };
    check(&[]);
    let gate = lab.path().join("shared");
    fs::create_dir(&gate).unwrap();
    check(&["--ro", &format!("{}:/work/shared", gate.display()), "--", "/prog", "look", host]);
    check(&["--file", input.to_str().unwrap(), "--", "/prog", "work", host, "input"]);
    let at = "/var/tmp/deep/input";
    let file = format!("{}:{at}", input.display());
    // Where the image has no place for it the run fails, and says so.
    let object = run_unchecked(&lab, &image, &["--file", &file, "--", "/prog", "look", host]);
    assert!(["succeeded", "error"].contains(&object.status()), "{what}: {:#}", object.0);
    if object.status() == "succeeded" {
        assert_eq!(text(&object.stdout()), "held\n", "{what}: {:#}", object.0);
    }
    canary.check(&lab, &["image.tar", "input", "shared"]);
    for outside in ["/var/tmp/deep", "/tmp/deep", "/dev/shm/deep", "/dev/deep"] {
        assert!(!Path::new(outside).exists(), "{what}: made on the host: {outside}");
    }
}

#[test]
fn a_work_of_the_image_leads_no_mount_astray() {
    holds("a directory", |tar| tar.file("work/of-the-image", b"x"));
    holds("a file", |tar| tar.file("work", b"x"));
    for target in ["/usr", "usr", "tmp", "/tmp", "/proc/self/cwd", "/", "work", ".lastword/scratch"] {
        holds(target, |tar| tar.dir("usr/").link("work", target));
    }
}

#[test]
fn a_tmp_of_the_image_leads_no_mount_astray() {
    holds("a file", |tar| tar.file("tmp", b"x"));
    holds("a link", |tar| tar.link("tmp", "/etc"));
    holds("/var/tmp a file", |tar| tar.file("var/tmp", b"x"));
    holds("/var a file", |tar| tar.file("var", b"x"));
    for target in ["/tmp", "../../../../../tmp", "/dev/shm", "/proc/self/cwd", "tmp"] {
        holds(&format!("/var/tmp to {target}"), |tar| tar.link("var/tmp", target));
        holds(&format!("/var to {target}"), |tar| tar.link("var", target));
    }
    holds("/var to /dev", |tar| tar.link("var", "/dev"));
    holds("/var to /var", |tar| tar.link("var", "/var"));
}

#[test]
fn a_dev_or_proc_of_the_image_is_not_there() {
    holds("files", |tar| tar.file("dev/null", b"x").file("dev/shm", b"x").file("proc/self/mountinfo", b"x"));
    holds("/dev a link", |tar| tar.link("dev", "/proc"));
    holds("/dev a file", |tar| tar.file("dev", b"x"));
    holds("/proc a link", |tar| tar.dir("etc/").link("proc", "/etc"));
    holds("/proc a file", |tar| tar.file("proc", b"x"));
    holds("links in /dev", |tar| {
        tar.link("dev/null", "/etc/passwd").link("dev/pts", "/proc").link("dev/shm", "/")
    });
}

#[test]
fn a_directory_of_ours_in_the_image_is_not_there() {
    holds("a directory", |tar| tar.file(".lastword/of-the-image", b"x").link(".lastword/scratch", "/etc"));
    holds("a link", |tar| tar.link(".lastword", "/proc"));
    holds("a file", |tar| tar.file(".lastword", b"x"));
}

#[test]
fn an_etc_or_usr_of_the_image_leads_nowhere() {
    for target in ["proc", "/proc", "/etc", "../../../../etc", "dev", ".lastword/scratch", "etc", "tmp"] {
        holds(&format!("/etc to {target}"), |tar| tar.link("etc", target));
        holds(&format!("/usr to {target}"), |tar| tar.link("usr", target).link("bin", "usr/bin"));
    }
    holds("a loop", |tar| tar.link("usr", "lib").link("lib", "usr").link("bin", "bin"));
    holds("files", |tar| tar.file("bin", b"x").file("etc", b"x").file("usr", b"x").file("lib64", b"x"));
    holds("a climb", |tar| tar.dir("x/").link("usr", "x/../../../../../../../../../../usr"));
}

#[test]
fn names_at_the_top_may_be_anything() {
    holds("names", |tar| {
        let long = vec![b'n'; 255];
        [&b"new\nline"[..], b"\xff\xfe", b"back\\slash", b" ", b"...", b"\x1b[2J", b"-rf", b"*", &long]
            .iter()
            .fold(tar, |tar, name| tar.file(name, b"x").dir([b"d", &name[1..], b"/"].concat()))
    });
}

#[test]
fn a_root_with_very_many_entries_is_run_or_refused() {
    holds("900", |tar| (0..900).fold(tar, |tar, n| tar.file(format!("file-{n}"), b"x")));
    let lab = Lab::new();
    let layer = inside(|tar| (0..2000).fold(tar, |tar, n| tar.dir(format!("dir-{n}/"))));
    let image = lab.file("image.tar", made::saved(&layer, &config(&["/prog", "look", "/none"])));
    let object = run(&lab, &image, &[]);
    assert_eq!(object.end(), "error/image_unavailable", "{:#}", object.0);
    assert!(object.at("/problem/message").to_string().contains("more than 1024"), "{:#}", object.0);
}

/// What an image may name as its directory or its program, and with whose rights.
#[test]
fn a_config_leads_nowhere() {
    let lab = Lab::new();
    let canary = Canary::new(&lab);
    let layer = inside(|tar| tar.link("link", "/proc/1/root"));
    let run = |config: &serde_json::Value| -> Object {
        let image = lab.file("image.tar", made::saved(&layer, config));
        run(&lab, &image, &[])
    };
    let mut config = config(&["/prog", "look", canary.path.to_str().unwrap()]);
    // A descriptor of a directory of the host would be a way out.
    let descriptors = (0..24).map(|fd| format!("/proc/self/fd/{fd}"));
    let others = ["/proc/1/cwd", "/proc/1/root", "/link", "/../..", "/none", "/prog", "/dev/fd/5"];
    for directory in descriptors.chain(others.map(str::to_owned)) {
        config["WorkingDir"] = directory.clone().into();
        let object = run(&config);
        let found = (object.end(), text(&object.stdout()));
        let held = found == ("succeeded/exit".to_owned(), "held\n".to_owned());
        assert!(held || object.end() == "failed/start_failure", "{directory}: {:#}", object.0);
        assert!(held || found.1.is_empty(), "{directory}: {:#}", object.0);
        assert!(object.complete(), "{directory}: {:#}", object.0);
    }
    config["WorkingDir"] = "/".into();
    for program in ["/proc/self/exe", "/proc/1/exe", "/dev/fd/5", "/dev/stdin", "/tmp"] {
        config["Cmd"] = serde_json::json!([program, "look"]);
        let object = run(&config);
        assert!(object.complete() && object.status() != "succeeded", "{program}: {:#}", object.0);
    }
    canary.check(&lab, &["image.tar"]);
}

#[test]
fn whoever_the_image_wants_to_be_has_no_rights() {
    let lab = Lab::new();
    let canary = Canary::new(&lab);
    let passwd = &b"root:x:0:0::/:/bin/sh\nuser:x:5:6::/:/bin/sh\n"[..];
    let layer = inside(|tar| tar.file("etc/passwd", passwd));
    let mut config = config(&["/prog", "look", canary.path.to_str().unwrap()]);
    for user in ["0:0", "root", "", "user", "user:0", "4294967294", "4294967294:4294967294", "65534"] {
        config["User"] = user.into();
        let image = lab.file("image.tar", made::saved(&layer, &config));
        assert_end(&run(&lab, &image, &[]), "succeeded/exit", "held\n");
    }
    for user in ["4294967295", "4294967296", "nobody", "1:nogroup", "-1", "0:4294967295"] {
        config["User"] = user.into();
        let image = lab.file("image.tar", made::saved(&layer, &config));
        let object = run(&lab, &image, &[]);
        assert_eq!(object.end(), "error/image_unavailable", "{user}: {:#}", object.0);
    }
    let hostile = fs::read(crate::fixture::program("hostile")).unwrap();
    let layer = Tar::new().program("hostile", &hostile).end();
    for attack in ["rights", "mounts", "namespaces", "process-one-files", "descriptors", "interfaces"] {
        let image = lab.file("image.tar", made::saved(&layer, &super::config(&["/hostile", attack])));
        assert_end(&run(&lab, &image, &[]), "succeeded/exit", "held\n");
    }
}

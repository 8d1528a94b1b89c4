//! Compile steps, images and files in hostile hands. A runtime of the tests' own "compiles" by running its source, so that a
//! source can do in its compile step whatever it likes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Ended, Lab, ended, finish, wait_for};
use crate::object::Object;
use crate::{fixture, soak};

/// The source is a script that makes /build/main, and that is run.
const RUNTIME: &str = r#"
name = "any"
extensions = ["any"]
code_file = "main.any"
command = ["/build/main"]

[compile]
command = ["sh", "{source}"]
version = []
"#;
/// A program that shows its own file and directory.
const MAIN: &str = "#!/bin/sh\necho run\n";

fn lab() -> Lab {
    let lab = Lab::new();
    std::fs::create_dir(lab.path().join("runtimes")).unwrap();
    lab.file("runtimes/any.toml", RUNTIME);
    lab
}

fn command(lab: &Lab, options: &[&str], source: &str) -> Command {
    let mut command = lab.command();
    command.env("LASTWORD_RUNTIMES", lab.path().join("runtimes"));
    command.arg("run").args(options).args(["--runtime", "any", "-c", source]);
    command
}

fn run(lab: &Lab, options: &[&str], source: &str) -> Object {
    let mut command = command(lab, &[&["--json"], options].concat(), source);
    Object::parse(&finish(&mut command, None).expect(0).stdout)
}

/// A source whose program is this script.
fn making(main: &str) -> String {
    format!("cat > /build/main <<'END'\n{main}END\nchmod +x /build/main\n")
}

fn entries(lab: &Lab) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(lab.data.join("cache/compile")).unwrap();
    let mut paths: Vec<PathBuf> = dir.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The one entry of the cache.
fn entry(lab: &Lab) -> PathBuf {
    let of: Vec<PathBuf> = entries(lab).into_iter().filter(|path| path.is_dir()).collect();
    assert_eq!(of.len(), 1, "{of:?}");
    of[0].clone()
}

// ---- what a compile step sees, and what of it is kept

#[test]
fn a_compile_step_sees_neither_variables_nor_secrets_nor_stdin() {
    let lab = lab();
    let source = "{ env; cat; cat /proc/*/environ | tr '\\0' '\\n'; } > /build/seen 2>&1\n".to_owned()
        + &making("#!/bin/sh\ncat /build/seen\n");
    let mut command =
        command(&lab, &["--json", "--env", "OPEN=8417", "--secret", "HIDDEN", "--stdin", "-"], &source);
    command.env("HIDDEN", "2953");
    let object = Object::parse(&finish(&mut command, Some(b"6061")).expect(0).stdout);
    assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
    let seen = String::from_utf8_lossy(&object.stdout()).into_owned();
    assert!(seen.contains("HOME=/work"), "{seen}");
    for value in ["8417", "2953", "6061"] {
        assert!(!seen.contains(value), "{value} in {seen}");
    }
    // What was built is kept, and the secret in nothing of all.
    let mut waiting = vec![lab.data.clone()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(4).any(|bytes| bytes == b"2953"), "{}", path.display());
        }
    }
}

/// Who runs the same source later gets what the compile step made, not what a program made of it.
#[test]
fn a_program_can_not_change_what_was_built() {
    let lab = lab();
    let source = making(
        "#!/bin/sh\ncd /build\nfor try in 'echo x > main' 'echo x > new' 'chmod 777 main' 'touch main' 'mv main old' \
         'rm -f main' 'ln main other' 'ln main /tmp/main' 'mkdir sub' 'chmod 777 .' 'echo x > /proc/self/root/build/main' \
         'mount -o remount,rw /build'; do\n  sh -c \"$try\" 2>/dev/null && echo \"done: $try\"\ndone\nls -ln /build\n",
    );
    let first = run(&lab, &[], &source);
    assert_eq!(first.end(), "succeeded/exit", "{:?}", first.0);
    let shown = String::from_utf8_lossy(&first.stdout()).into_owned();
    assert!(shown.contains("main") && !shown.contains("done:"), "{shown}");
    let second = run(&lab, &[], &source);
    assert_eq!(second.at("/compile/cached"), true);
    assert_eq!(second.stdout(), first.stdout());
}

/// Links, pipes and bits of what was made: no build has them.
#[test]
fn a_build_is_of_plain_files() {
    let lab = lab();
    let source = making(MAIN) + "mkdir -p /build/a/b; echo x > /build/a/b/c; chmod 6777 /build/a/b/c\n";
    let object = run(&lab, &[], &source);
    assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
    let file = std::fs::metadata(entry(&lab).join("build/a/b/c")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o7777, 0o755);
    let linked = run(&lab, &[], &(making(MAIN) + "ln -s /etc/shadow /build/x\n"));
    assert_eq!(linked.end(), "error/start_failure", "{:?}", linked.0);
    assert!(linked.text("/problem/message").contains("symbolic link"), "{:?}", linked.0);
}

// ---- the cache

/// A kill while an entry was made or removed, a power cut, a hand: each state is as good as no entry.
#[test]
fn a_cache_entry_that_is_not_whole_is_made_anew() {
    let lab = lab();
    let source = making(MAIN);
    let compiled = |why: &str| {
        let object = run(&lab, &[], &source);
        assert_eq!(object.end(), "succeeded/exit", "{why}: {:?}", object.0);
        assert_eq!(object.at("/compile/cached"), why == "nothing", "{why}");
    };
    compiled("the first");
    compiled("nothing");
    let entry = entry(&lab);
    std::fs::remove_file(entry.join("entry.json")).unwrap();
    compiled("no record");
    std::fs::write(entry.join("entry.json"), "").unwrap();
    compiled("a torn record");
    std::fs::remove_dir_all(entry.join("build")).unwrap();
    compiled("no build");
    // What a killed process left goes with the next one that is made.
    let others = ["7", "8"].map(|name| entry.with_file_name(name.repeat(64)));
    std::fs::create_dir_all(others[0].with_extension("new").join("build")).unwrap();
    std::fs::write(others[1].with_extension("lock"), "").unwrap();
    std::fs::remove_file(entry.join("entry.json")).unwrap();
    compiled("drafts of others");
    assert_eq!(entries(&lab), [entry.clone(), entry.with_extension("lock")]);
    compiled("nothing");
}

#[test]
fn what_a_strict_umask_made_can_be_run() {
    let lab = lab();
    let source = making(MAIN) + "mkdir /build/sub; echo x > /build/sub/x\n";
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$0\" \"$@\""]);
    let inner = self::command(&lab, &[], &source);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let ended: Ended = finish(command.stdin(Stdio::null()), None).expect(0);
    assert_eq!(ended.stdout, b"run\n");
}

/// What is refused takes room, too: counted as nothing it would never go.
#[test]
fn a_refused_source_is_counted() {
    let lab = lab();
    let object = run(&lab, &[], "head -c 60000 /dev/zero | tr '\\0' x; exit 1");
    assert_eq!(object.end(), "failed/compile_failed", "{:?}", object.0);
    let text = std::fs::read(entry(&lab).join("entry.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert!(record["bytes"].as_u64().unwrap() >= text.len() as u64, "{}", record["bytes"]);
    // What ran out of something is not kept, nor is its lock.
    let lab = self::lab();
    let object = run(&lab, &[], "kill -9 $$");
    assert_eq!(object.end(), "failed/compile_failed", "{:?}", object.0);
    assert_eq!(entries(&lab), Vec::<PathBuf>::new());
}

// ---- kills

fn start(lab: &Lab, source: &str) -> Child {
    let mut command = command(lab, &["--json"], source);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn kill(child: Child) {
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    ended(child, None);
}

/// All executions, compile steps too, when each has ended.
fn all_ended(lab: &Lab) -> Vec<serde_json::Value> {
    wait_for("every execution has an end", || {
        let list = |options: &[&str]| -> Vec<serde_json::Value> {
            let text = lab.lastword([&["list", "--json"], options].concat()).expect(0).stdout;
            let page: serde_json::Value = serde_json::from_slice(&text).unwrap();
            page["items"].as_array().unwrap().clone()
        };
        let mut all = list(&["--limit", "1000"]);
        all.extend(list(&["--limit", "1000", "--label", "lastword.step=compile"]));
        all.iter()
            .all(|item| !["queued", "running"].contains(&item["status"].as_str().unwrap()))
            .then_some(all)
    })
}

#[test]
fn a_run_that_is_killed_while_it_compiles_was_never_started() {
    let lab = lab();
    let source = making(MAIN) + "echo compiling; sleep 1\n";
    let child = start(&lab, &source);
    wait_for("the compile step runs", || {
        let text = lab.lastword(["list", "--json", "--label", "lastword.step=compile"]).expect(0).stdout;
        String::from_utf8_lossy(&text).contains("\"running\"").then_some(())
    });
    kill(child);
    let all = all_ended(&lab);
    let (steps, runs): (Vec<_>, Vec<_>) =
        all.iter().partition(|item| item["labels"]["lastword.step"] == "compile");
    assert_eq!((steps.len(), runs.len()), (1, 1), "{all:?}");
    let run = runs[0];
    assert_eq!((&run["status"], &run["reason"]), (&"error".into(), &"lost".into()), "{run}");
    assert_eq!(run["retry"], serde_json::json!({"safe": true, "program_started": false}), "{run}");
    // The step goes on alone, and keeps nobody from compiling the same.
    assert_eq!(steps[0]["status"], "succeeded", "{}", steps[0]);
    let again = self::run(&lab, &[], &source);
    assert_eq!((again.end(), again.stdout()), ("succeeded/exit".to_owned(), b"run\n".to_vec()));
}

/// Whatever is said to be safe to run again has not run, and each has one end.
#[test]
fn killed_at_random_points_of_a_prepared_run() {
    let lab = lab();
    let mut point = 7_u64;
    let runs = soak::count(12, 200);
    for number in 0..runs {
        // A third finds its program in the cache.
        let source = making(MAIN) + &format!("# {}\n", if number % 3 == 0 { number } else { 0 });
        let child = start(&lab, &source);
        point = point.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_millis(point >> 33 & 0xff));
        kill(child);
    }
    let all = all_ended(&lab);
    for item in &all {
        let retry = &item["retry"];
        let silent = item["transcript"]["stdout"]["bytes"] == 0;
        assert!(retry["safe"] == false || (retry["program_started"] == false && silent), "{item}");
        assert!(silent || retry["program_started"] == true, "{item}");
    }
    assert_eq!(run(&lab, &[], &making(MAIN)).stdout(), b"run\n");
}

#[test]
fn a_cancel_while_it_compiles_is_an_end_of_both() {
    let lab = lab();
    let child = start(&lab, &(making(MAIN) + "sleep 60\n"));
    wait_for("the compile step runs", || {
        let text = lab.lastword(["list", "--json", "--label", "lastword.step=compile"]).expect(0).stdout;
        String::from_utf8_lossy(&text).contains("\"running\"").then_some(())
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let object = Object::parse(&ended(child, None).stdout);
    assert_eq!(object.end(), "cancelled/cancelled", "{:?}", object.0);
    assert_eq!((object.at("/retry/safe"), object.complete()), (&true.into(), true), "{:?}", object.0);
    assert!(all_ended(&lab).iter().all(|item| item["status"] == "cancelled"));
}

// ---- images

const BLOCK: usize = 512;

/// A tar member, as ustar has it.
fn member(name: &str, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut header = vec![0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", bytes.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar");
    put(263, "00");
    header[156] = kind;
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(bytes);
    header.resize(header.len().next_multiple_of(BLOCK), 0);
    header
}

/// An OCI layout of one layer.
fn image(lab: &Lab, members: &[Vec<u8>]) -> PathBuf {
    let dir = lab.path().join("image");
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let path = dir.join("blob");
        std::fs::write(&path, bytes).unwrap();
        let sum = Command::new("sha256sum").arg(&path).output().unwrap().stdout;
        let hex = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
        std::fs::rename(&path, dir.join("blobs/sha256").join(&hex)).unwrap();
        serde_json::json!({"digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let of = |kind: &str, mut blob: serde_json::Value| {
        blob["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
        blob
    };
    let layer = blob(&[members.concat(), vec![0; 2 * BLOCK]].concat());
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": of("config.v1+json", blob(config.to_string().as_bytes())),
        "layers": [of("layer.v1.tar", layer)],
    });
    let manifest = of("manifest.v1+json", blob(manifest.to_string().as_bytes()));
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    dir
}

fn is_locked(path: &Path) -> bool {
    let file = std::fs::File::open(path).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// The compile step is of the image as well, and ends before the program begins.
#[test]
fn an_image_and_a_build_stay_locked_until_the_program_has_ended() {
    let lab = lab();
    let program = std::fs::read(fixture::program("maker")).unwrap();
    // With a /build of its own, which ours is put over.
    let image = image(&lab, &[member("bin/sh", b'0', &program), member("build/", b'5', b"")]);
    let image = format!("oci:{}", image.display());
    let child = {
        let mut command = command(&lab, &["--json", "--image", &image], "");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    wait_for("the program runs", || {
        let text = lab.lastword(["list", "--json"]).expect(0).stdout;
        let page: serde_json::Value = serde_json::from_slice(&text).unwrap();
        (page["items"][0]["status"] == "running").then_some(())
    });
    let files = |dir: &str| std::fs::read_dir(lab.data.join(dir)).unwrap().map(|entry| entry.unwrap().path());
    let image_lock: Vec<PathBuf> = files("cache/images/locks").collect();
    let build_lock: Vec<PathBuf> = files("cache/compile").filter(|path| path.is_file()).collect();
    assert_eq!((image_lock.len(), build_lock.len()), (1, 1));
    let held = [is_locked(&image_lock[0]), is_locked(&build_lock[0])];
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let object = Object::parse(&ended(child, None).stdout);
    assert_eq!(object.end(), "cancelled/cancelled", "{:?}", object.0);
    assert_eq!(held, [true, true], "the image, the build");
    assert!(!is_locked(&image_lock[0]) && !is_locked(&build_lock[0]));
}

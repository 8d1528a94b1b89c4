//! Files that come out: what was declared, byte for byte, and nothing else, whatever the program does to be asked for more.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::durability::{kill_group, no_supervisor, pid, start, supervisors, wait_for_output};
use crate::lab::{Lab, Program, ended};
use crate::object::Object;

/// What is kept of a run: its object, and each file as `lastword files` gives it.
struct Kept {
    object: Object,
    files: Vec<(String, Vec<u8>)>,
}

impl Kept {
    fn file(&self, path: &str) -> &[u8] {
        let found = self.files.iter().find(|(of, _)| of == path);
        &found.unwrap_or_else(|| panic!("no {path}: {:?}", self.object.0)).1
    }

    fn paths(&self) -> Vec<&str> {
        self.files.iter().map(|(path, _)| path.as_str()).collect()
    }

    fn refused(&self, path: &str) -> &str {
        let all = self.object.at("/outputs_refused").as_array().unwrap();
        let found = all.iter().find(|of| of["path"] == path);
        found.map_or_else(|| panic!("{path}: {:?}", self.object.0), |of| of["reason"].as_str().unwrap())
    }

    fn refusals(&self) -> usize {
        self.object.at("/outputs_refused").as_array().unwrap().len()
    }
}

/// Runs Python code that leaves files, and reads them back: object, list, bytes and digests say the same.
fn run(lab: &Lab, globs: &[&str], code: &str) -> Kept {
    let request = serde_json::json!({"runtime": "python", "code": code, "outputs": globs});
    run_request(lab, request)
}

fn run_request(lab: &Lab, request: Value) -> Kept {
    let file = lab.file("request.json", request.to_string());
    let ended = lab.lastword(["run", "--json", "--request", file.to_str().unwrap()]).expect(0);
    let object = Object::parse(&ended.stdout);
    lab.agree(&object);
    read(lab, object)
}

fn read(lab: &Lab, object: Object) -> Kept {
    let listed = lab.lastword(["files", object.id(), "--json"]).expect(0).stdout;
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    assert_eq!(&listed["outputs"], object.at("/outputs"));
    assert_eq!(&listed["outputs_refused"], object.at("/outputs_refused"));
    let mut files = Vec::new();
    for output in object.at("/outputs").as_array().unwrap() {
        let path = output["path"].as_str().unwrap();
        let name = match output.get("path_encoding") {
            None => OsString::from(path),
            Some(_) => OsString::from_vec(BASE64.decode(path).unwrap()),
        };
        let bytes = lab.lastword([OsStr::new("files"), OsStr::new(object.id()), &name]).expect(0).stdout;
        assert_eq!(bytes.len() as u64, output["bytes"], "{path}");
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), output["blake3"], "{path}");
        files.push((path.to_owned(), bytes));
    }
    Kept { object, files }
}

#[test]
fn what_was_declared_comes_out() {
    let lab = Lab::new();
    let code = "import os\nos.makedirs('out/d')\nopen('out/a', 'w').write('one')\nopen('out/d/b', 'wb').write(bytes(range(256)))\n\
                open('note.txt', 'w').write('two')\nopen('other', 'w').write('not asked for')\nopen('/tmp/t', 'w').write('three')\n\
                open('out/empty', 'w')\n";
    let kept = run(&lab, &["out", "*.txt", "/tmp/*"], code);
    assert_eq!(kept.object.end(), "succeeded/exit");
    assert_eq!(kept.paths(), ["/tmp/t", "note.txt", "out/a", "out/d/b", "out/empty"]);
    assert_eq!(
        (kept.file("out/a"), kept.file("note.txt"), kept.file("/tmp/t")),
        (&b"one"[..], &b"two"[..], &b"three"[..])
    );
    assert_eq!(kept.file("out/d/b"), (0..=255).collect::<Vec<u8>>());
    assert_eq!((kept.file("out/empty"), kept.refusals()), (&b""[..], 0));
    // The same file by its other names, and one that there is not.
    for path in ["/work/out/a", "./out/a"] {
        assert_eq!(lab.lastword(["files", kept.object.id(), path]).expect(0).stdout, b"one");
    }
    let missing = lab.lastword(["files", kept.object.id(), "other"]).expect(1);
    assert!(missing.message().contains("no output file `other` was kept"), "{}", missing.message());
    // Gone with its execution.
    lab.lastword(["rm", kept.object.id()]).expect(0);
    assert_eq!(std::fs::read_dir(lab.data.join("outputs")).unwrap().count(), 0);
}

#[test]
fn nothing_declared_nothing_kept() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::Python("open('a', 'w').write('x')"));
    assert_eq!(object.at("/outputs").as_array().unwrap().len(), 0);
    assert_eq!(std::fs::read_dir(lab.data.join("outputs")).unwrap().count(), 0);
}

/// A judge that opens the declared file by its name reads the host's for the program.
#[test]
fn a_link_in_place_of_the_file_or_of_a_directory_is_not_followed() {
    let lab = Lab::new();
    let secret = lab.file("secret", "TOP-SECRET");
    let secret = secret.to_str().unwrap();
    let directory = lab.path().to_str().unwrap();
    let code = format!(
        "import os\nos.makedirs('d')\nos.symlink('/etc/shadow', 'result')\nos.symlink('{secret}', 'secret')\n\
         os.symlink('{directory}', 'out')\nos.symlink('/proc/self/root/etc', 'd/etc')\nos.symlink('/proc/1/root', 'root')\n\
         os.symlink('../../..', 'd/up')\nos.symlink('/proc/self/fd/1', 'd/fd')\nopen('d/right', 'w').write('x')\n\
         try: os.link('/etc/passwd', 'd/passwd')\nexcept OSError: pass\n\
         try: os.link('/usr/bin/env', 'd/env')\nexcept OSError: pass\n\
         os.link('d/right', 'd/twice')\n"
    );
    let globs = [
        "result",
        "secret",
        "out/secret",
        "d",
        "d/etc/passwd",
        "d/up/etc/shadow",
        "root/etc/shadow",
        "d/etc/**",
    ];
    let kept = run(&lab, &globs, &code);
    assert_eq!(kept.paths(), ["d/right", "d/twice"]);
    for link in ["result", "secret", "out", "d/etc", "d/up", "d/fd", "root"] {
        assert_eq!(kept.refused(link), "it is a symbolic link, and links are not followed");
    }
    assert_eq!(kept.refusals(), 7);
}

/// All processes of the program are dead before the first file is looked at, the one that it left behind as well.
#[test]
fn swapping_files_while_they_are_copied() {
    let lab = Lab::new();
    let code = "\
import os, sys
os.makedirs('out')
big = b'A' * (8 << 20)
open('out/file', 'wb').write(big)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        n = 0
        while True:
            n += 1
            try:
                os.symlink('/etc/passwd', 'link'); os.rename('link', 'out/file')
                os.mkfifo('fifo'); os.rename('fifo', 'out/file')
                os.rename('out', 'away'); os.symlink('/etc', 'out'); os.remove('out'); os.rename('away', 'out')
                with open('new', 'wb') as new: new.write(bytes([65 + n % 26]) * (1 << 16))
                os.rename('new', 'out/file')
                with open('out/file', 'ab') as old: old.write(b'B' * (1 << 16))
            except OSError: pass
    os._exit(0)
os.wait()
";
    for _ in 0..6 {
        let request = serde_json::json!({
            "runtime": "python", "code": code, "outputs": ["out", "out/file", "out/passwd"], "ordering": "arrival",
        });
        let kept = run_request(&lab, request);
        assert_eq!(kept.object.end(), "succeeded/exit");
        // What a living process would do to us.
        assert!(!kept.object.at("/outputs_refused").to_string().contains("became"), "{:?}", kept.object.0);
        assert!(!kept.object.at("/outputs_refused").to_string().contains("opened"), "{:?}", kept.object.0);
        for (path, bytes) in &kept.files {
            assert_eq!(path, "out/file");
            assert!(bytes.iter().all(u8::is_ascii_uppercase), "bytes of the host");
        }
        assert!(kept.files.len() + kept.refusals() <= 2, "{:?}", kept.object.0);
    }
}

/// Between the copies of the first and the last file, many megabytes are copied. A process that still lived would have gone on
/// counting meanwhile.
#[test]
fn the_file_system_stands_still_while_it_is_copied() {
    let lab = Lab::new();
    let code = "\
import os, time
os.makedirs('out')
open('out/m', 'wb').write(bytes(32 << 20))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        n = 0
        while True:
            n += 1
            for name in 'az':
                with open('new', 'w') as new: new.write(str(n))
                os.rename('new', 'out/' + name)
            if n == 20: open('ready', 'w')
    os._exit(0)
os.wait()
while not os.path.exists('ready'): time.sleep(0.001)
";
    // In exact order it would wait for us in its next write, and prove nothing.
    let request =
        serde_json::json!({"runtime": "python", "code": code, "outputs": ["out"], "ordering": "arrival"});
    let kept = run_request(&lab, request);
    assert_eq!(kept.paths(), ["out/a", "out/m", "out/z"]);
    let number = |path| -> u64 { String::from_utf8_lossy(kept.file(path)).parse().unwrap() };
    let (first, last) = (number("out/a"), number("out/z"));
    assert!(first == last || first == last + 1, "{first} and {last}: something lived");
}

#[test]
fn what_is_no_file_is_refused_and_holds_nobody_up() {
    let lab = Lab::new();
    let code = "\
import os, socket
os.makedirs('out')
os.mkfifo('out/fifo')
s = socket.socket(socket.AF_UNIX); s.bind('out/socket')
for kind in (0o20000, 0o60000):
    try: os.mknod('out/device%o' % kind, kind | 0o666, os.makedev(1, 5))
    except OSError as error: print(error.errno)
open('out/new\\nline', 'w').write('x')
open('out/\\x1b[2J', 'w').write('x')
open(b'out/\\xff', 'w').write('bytes')
f = open('out/sparse', 'w'); f.truncate(1 << 40)
open('out/zz', 'w').write('kept')
at = os.getcwd()
for n in range(1000):
    try: os.mkdir('deep'); os.chdir('deep')
    except OSError: break
";
    let since = Instant::now();
    let kept = run(&lab, &["out", "deep"], code);
    assert_eq!(
        (kept.object.end().as_str(), kept.object.stdout().as_slice()),
        ("succeeded/exit", &b"1\n1\n"[..])
    );
    assert_eq!(kept.refused("out/fifo"), "it is a named pipe");
    assert_eq!(kept.refused("out/socket"), "it is a socket");
    assert_eq!(kept.refused("out/new\nline"), "its name has a control character");
    assert_eq!(kept.refused("out/\u{1b}[2J"), "its name has a control character");
    assert!(kept.refused("out/sparse").starts_with("it has 1099511627776 bytes"));
    assert!(kept.object.at("/outputs_refused").to_string().contains("deeper than 32"));
    assert_eq!((kept.file("out/zz"), kept.refusals()), (&b"kept"[..], 6));
    assert_eq!(kept.object.at("/outputs/1/path_encoding"), "base64");
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    // Nothing of the names reaches a terminal as it is.
    let table = lab.lastword(["files", kept.object.id()]).expect(0).stdout;
    assert!(!table.contains(&0x1b) && String::from_utf8_lossy(&table).contains("out/new\\nline"));
}

/// As many files as there can be: the file system's own bound on inodes ends it.
#[test]
fn heavy_millions_of_files() {
    let lab = Lab::new();
    let code = "\
import os
os.makedirs('out')
n = 0
try:
    while n < 10_000_000:
        os.close(os.open('out/%08d' % n, os.O_CREAT | os.O_WRONLY)); n += 1
except OSError: pass
print(n)
";
    let since = Instant::now();
    let file = lab.file(
        "request.json",
        serde_json::json!({"runtime": "python", "code": code, "outputs": ["out"]}).to_string(),
    );
    let ended = lab.lastword(["run", "--json", "--request", file.to_str().unwrap()]).expect(0);
    let object = Object::parse(&ended.stdout);
    let made: u64 = String::from_utf8(object.stdout()).unwrap().trim().parse().unwrap();
    let outputs = object.at("/outputs").as_array().unwrap();
    assert!(made > 50_000, "{made}");
    assert_eq!((outputs.len(), &outputs[0]["path"]), (10_000, &Value::from("out/00000000")));
    let refused = object.at("/outputs_refused").as_array().unwrap();
    assert_eq!(refused.len(), 65);
    assert!(refused[0]["reason"] == "there are more than 10000 files", "{refused:?}");
    assert_eq!(refused[64]["reason"], format!("{} more were refused", made - 10_000 - 64));
    assert!(object.complete());
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
}

#[test]
fn heavy_a_hundred_megabytes() {
    let lab = Lab::new();
    let code = "\
import os
from array import array
os.makedirs('out')
for n in range(100):
    open('out/%02d' % n, 'wb').write(array('I', range(n << 18, (n + 1) << 18)).tobytes())
";
    let kept = run(&lab, &["out"], code);
    assert_eq!(kept.files.len(), 100);
    for (n, (path, bytes)) in kept.files.iter().enumerate() {
        assert_eq!(*path, format!("out/{n:02}"));
        let expected: Vec<u8> =
            ((n << 18) as u32..((n + 1) << 18) as u32).flat_map(u32::to_le_bytes).collect();
        assert!(*bytes == expected, "{path} has other bytes");
    }
}

#[test]
fn heavy_they_are_kept_however_the_run_ends() {
    let lab = Lab::new();
    let write = "import os, sys\nos.makedirs('out')\nopen('out/a', 'w').write('there')\n";
    for (end, limits, rest) in [
        ("failed/exit", "{}", "sys.exit(3)"),
        ("failed/signal", "{}", "os.kill(os.getpid(), 11)"),
        ("timed_out/wall_time", r#"{"wall_ms": 1500}"#, "import time; time.sleep(60)"),
        ("timed_out/cpu_time", r#"{"cpu_ms": 500}"#, "\nwhile True: pass"),
        (
            "failed/out_of_memory",
            r#"{"memory_bytes": 67108864}"#,
            "x = bytearray(1 << 30)\nfor n in range(0, 1 << 30, 4096): x[n] = 1",
        ),
        ("failed/output_limit", r#"{"output_bytes": 65536}"#, "\nwhile True: print('y' * 1000)"),
        ("failed/disk_limit", r#"{"disk_bytes": 1048576}"#, "open('fill', 'wb').write(bytes(4 << 20))"),
    ] {
        let limits: Value = serde_json::from_str(limits).unwrap();
        let code = format!("{write}{rest}\n");
        let request =
            serde_json::json!({"runtime": "python", "code": code, "outputs": ["out/*"], "limits": limits});
        let kept = run_request(&lab, request);
        assert_eq!(kept.object.end(), end, "{:?}", kept.object.0);
        assert_eq!(kept.file("out/a"), b"there", "{end}");
    }
}

#[test]
fn what_was_changed_on_disk_is_found() {
    let lab = Lab::new();
    let kept = run(&lab, &["a", "b"], "open('a', 'w').write('right')\nopen('b', 'w').write('right')\n");
    let pack = lab.data.join("outputs").join(format!("{}.pack", kept.object.id()));
    let id = kept.object.id();
    std::fs::write(&pack, b"rightWRONG").unwrap();
    assert_eq!(lab.lastword(["files", id, "a"]).expect(0).stdout, b"right");
    let wrong = lab.lastword(["files", id, "b"]).expect(1);
    assert!(wrong.message().contains("nothing vouches for what was printed"), "{}", wrong.message());
    let verified = lab.lastword(["verify", id]).expect(1).stdout;
    assert!(String::from_utf8_lossy(&verified).contains("output file `b`: its bytes are not those"));
    std::fs::remove_file(&pack).unwrap();
    let verified = lab.lastword(["verify", id]).expect(1).stdout;
    assert!(String::from_utf8_lossy(&verified).contains("is gone, and with it the output files"));
    // Not for the look at what is left.
    lab.lastword(["rm", id]).expect(0);
}

const WRITES_AND_WAITS: &str = "import os, time\nos.makedirs('out')\nopen('out/a', 'w').write('there')\nprint('before', flush=True)\ntime.sleep(1)\n";

#[test]
fn they_are_kept_when_lastword_is_killed() {
    let lab = Lab::new();
    let to = format!("out/*:{}", lab.path().join("to").display());
    let mut child = start(&lab, &["--out", &to], &Program::Python(WRITES_AND_WAITS));
    wait_for_output(&mut child, "before\n");
    kill_group(&mut child);
    no_supervisor(&lab);
    let object = lab.get(&lab.ids()[0]);
    assert_eq!(object.end(), "succeeded/exit");
    lab.agree(&object);
    assert_eq!(read(&lab, object).file("out/a"), b"there");
}

#[test]
fn none_is_kept_without_a_seal() {
    let lab = Lab::new();
    let to = format!("out/*:{}", lab.path().join("to").display());
    let mut child = start(&lab, &["--out", &to], &Program::Python(WRITES_AND_WAITS));
    wait_for_output(&mut child, "before\n");
    for number in supervisors(&lab) {
        kill_process(pid(number), Signal::KILL).unwrap();
    }
    assert_eq!(ended(child, None).code(), 125);
    let object = lab.get(&lab.ids()[0]);
    assert_eq!(object.end(), "error/lost");
    assert!(read(&lab, object).files.is_empty());
    assert_eq!(std::fs::read_dir(lab.data.join("outputs")).unwrap().count(), 0);
}

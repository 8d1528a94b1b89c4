use std::fs;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lastword_sandbox::plan::{Bytes, Capture, Filters, Identity, Program, Stdin};

use super::*;

/// A directory that stands for the sandbox's writable file system.
struct Bench {
    scratch: tempfile::TempDir,
    pack: fs::File,
    plan: Plan,
    /// What the disk says when it is asked for room for the seal.
    room: bool,
}

fn bench(globs: &[&str]) -> Bench {
    let alias = |source: &str, path: &str| Step::Alias { source: source.into(), path: path.into() };
    let empty = || Bytes(Vec::new());
    let plan = Plan {
        id: [0; 16],
        boot_id: [0; 16],
        program: Program {
            argv: Vec::new(),
            env: Vec::new(),
            path: Vec::new(),
            cwd: empty(),
            stdin: Stdin::Nothing {},
            tty: false,
        },
        identity: Identity { uid: 0, gid: 0, host_uid: 0, host_gid: 0, privileged: false },
        steps: vec![
            Step::Tmpfs { path: "s".into(), bytes: 0, inodes: 0 },
            alias("s/work", "work"),
            alias("s/vartmp", "var/tmp"),
            Step::Bind { source: "/x".into(), path: "work/shared".into(), writable: false, devices: false },
        ],
        scratch: empty(),
        rlimits: Vec::new(),
        cgroups: Vec::new(),
        filter: Filters {
            exact: Vec::new(),
            plain: Vec::new(),
            exact_required: false,
            why_not_exact: empty(),
        },
        capture: Capture {
            wall_ns: None,
            cpu_ns: None,
            output_bytes: None,
            kill_at_output_limit: false,
            grace_ns: 0,
        },
        outputs: Some(Outputs {
            globs: globs.iter().map(|glob| Bytes::from(*glob)).collect(),
            bytes_max: 1 << 20,
            files_max: 100,
        }),
        control: false,
        held: 0,
    };
    let scratch = tempfile::tempdir().expect("a directory");
    fs::create_dir(scratch.path().join("work")).expect("work");
    fs::create_dir(scratch.path().join("vartmp")).expect("vartmp");
    Bench { scratch, pack: tempfile::tempfile().expect("a pack"), plan, room: true }
}

impl Bench {
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(path)
    }

    fn file(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, bytes).expect("a file");
    }

    fn limits(&mut self, bytes_max: u64, files_max: u32) {
        let outputs = self.plan.outputs.as_mut().expect("outputs");
        (outputs.bytes_max, outputs.files_max) = (bytes_max, files_max);
    }

    /// What was kept, checked against the pack, and what was refused.
    fn collect(&mut self) -> (Vec<String>, Vec<(String, String)>) {
        let scratch = fs::File::open(self.scratch.path()).expect("the directory");
        let outputs = self.plan.outputs.as_ref().expect("outputs");
        let room = self.room;
        let collected = collect(&self.plan, outputs, scratch.as_fd(), self.pack.as_fd(), |_| room);
        let mut pack = Vec::new();
        self.pack.rewind().expect("seek");
        self.pack.read_to_end(&mut pack).expect("read");
        let mut at = 0;
        for file in &collected.files {
            let end = at + file.bytes as usize;
            assert_eq!(*blake3::hash(&pack[at..end]).as_bytes(), file.blake3, "{}", file.path.escape_ascii());
            at = end;
        }
        assert_eq!(at, pack.len(), "the pack has more than the seal");
        let text = |path: Vec<u8>| path.escape_ascii().to_string();
        let refused = collected.refused.notes().map(|note| match note {
            Note::OutputRefused { path, why } => (text(path), why),
            other => panic!("{other:?}"),
        });
        (collected.files.into_iter().map(|file| text(file.path)).collect(), refused.collect())
    }
}

fn refusal<'a>(refused: &'a [(String, String)], path: &str) -> &'a str {
    refused.iter().find(|(of, _)| of == path).map_or("kept, or not seen", |(_, why)| why)
}

#[test]
fn what_matches_is_kept_in_order() {
    let mut bench = bench(&["/work/out", "/work/*.txt", "/var/tmp/**"]);
    for path in ["work/b.txt", "work/a.txt", "work/other", "work/out/d/e/f", "work/out/.hidden", "vartmp/x/y"]
    {
        bench.file(path, path.as_bytes());
    }
    bench.file("outside", b"the program can't see it");
    let (kept, refused) = bench.collect();
    assert_eq!(kept, ["/var/tmp/x/y", "a.txt", "b.txt", "out/.hidden", "out/d/e/f"]);
    assert_eq!(refused, []);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let mut bench = bench(&["/work/**", "/work/link/passwd", "/work/linked"]);
    bench.file("work/file", b"1");
    fs::hard_link(bench.path("work/file"), bench.path("work/hard")).expect("a link");
    symlink("/etc/passwd", bench.path("work/passwd")).expect("a link");
    symlink("/etc", bench.path("work/link")).expect("a link");
    symlink("file", bench.path("work/linked")).expect("a link");
    symlink("../../..", bench.path("work/up")).expect("a link");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bench.path("work/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .expect("a fifo");
    let socket = std::os::unix::net::UnixListener::bind(bench.path("work/socket")).expect("a socket");
    let (kept, refused) = bench.collect();
    drop(socket);
    assert_eq!(kept, ["file", "hard"]);
    for link in ["passwd", "link", "linked", "up"] {
        assert!(refusal(&refused, link).contains("symbolic link"), "{link}: {refused:?}");
    }
    assert_eq!(refusal(&refused, "fifo"), "it is a named pipe");
    assert_eq!(refusal(&refused, "socket"), "it is a socket");
    assert_eq!(refused.len(), 6);
}

#[test]
fn odd_names_and_depths() {
    let mut bench = bench(&["/work/**"]);
    for name in [&b"new\nline"[..], b"\x1b[2J", b"\x7f", b"\xff", "é ü".as_bytes(), b"a b"] {
        fs::write(bench.path("work").join(std::ffi::OsStr::from_bytes(name)), b"x").expect("a file");
    }
    bench.file("work/dir\n/x", b"1");
    let deep = format!("work/{}", "d/".repeat(OUTPUTS_DEPTH_MAX));
    bench.file(&format!("{deep}file"), b"1");
    bench.file(&format!("{deep}e/file"), b"1");
    let long = format!("work/{}", format!("{}/", "n".repeat(250)).repeat(5));
    fs::create_dir_all(bench.path(&long)).expect("directories");
    let (kept, refused) = bench.collect();
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(kept.contains(&"\\xff".to_owned()) && kept.contains(&"a b".to_owned()), "{kept:?}");
    assert!(kept.iter().any(|path| path.ends_with("d/file")), "{kept:?}");
    let control = refused.iter().filter(|(_, why)| why.contains("control character")).count();
    assert_eq!((control, refused.len()), (4, 6), "{refused:?}");
    assert!(refused.iter().any(|(path, why)| path.ends_with("d/e") && why.contains("deeper")));
    assert!(refused.iter().any(|(_, why)| why.contains("longer than 1024")));
}

#[test]
fn a_thousand_directories_deep() {
    let mut bench = bench(&["/work/**"]);
    let mut at = fs::File::open(bench.path("work")).map(OwnedFd::from).expect("work");
    for _ in 0..1000 {
        rustix::fs::mkdirat(&at, "deep", rustix::fs::Mode::from_raw_mode(0o755)).expect("a directory");
        at = sys::open_beneath(at.as_fd(), b"deep", libc::O_RDONLY | libc::O_DIRECTORY).expect("entered");
    }
    let (kept, refused) = bench.collect();
    assert_eq!((kept.len(), refused.len()), (0, 1), "{refused:?}");
}

#[test]
fn what_is_over_a_cap_is_refused_and_the_rest_kept() {
    let mut bench = bench(&["/work/*"]);
    bench.limits(10, 4);
    for (name, length) in [("a", 4), ("b", 7), ("c", 6), ("d", 1), ("e", 0), ("f", 0)] {
        bench.file(&format!("work/{name}"), &vec![b'x'; length]);
    }
    let sparse = fs::File::create(bench.path("work/aa")).expect("a file");
    sparse.set_len(1 << 40).expect("sparse");
    let first = bench.collect();
    assert_eq!(first.0, ["a", "c"]);
    assert!(refusal(&first.1, "aa").contains("1099511627776 bytes"), "{first:?}");
    assert!(refusal(&first.1, "b").contains("6 are left"), "{first:?}");
    for over in ["d", "e", "f"] {
        assert_eq!(refusal(&first.1, over), "there are more than 4 files");
    }
    assert_eq!(bench.collect(), first);
}

#[test]
fn refusals_are_named_up_to_a_bound_and_counted() {
    let mut bench = bench(&["/work/*"]);
    for n in 0..200 {
        symlink("x", bench.path(format!("work/{n:03}"))).expect("a link");
    }
    let (_, refused) = bench.collect();
    assert_eq!(refused.len(), OUTPUTS_REFUSED_NAMED_MAX + 1);
    assert_eq!((&*refused[0].0, &*refused[63].0), ("000", "063"));
    assert_eq!(refused[64], (String::new(), "136 more were refused".to_owned()));
    bench.room = false;
    assert_eq!(bench.collect().1, [(String::new(), "200 more were refused".to_owned())]);
}

#[test]
fn without_room_for_the_seal_little_is_kept() {
    let mut bench = bench(&["/work/*"]);
    bench.limits(1 << 20, 10_000);
    for n in 0..300 {
        bench.file(&format!("work/{n:0200}"), b"x");
    }
    assert_eq!(bench.collect().0.len(), 300);
    bench.room = false;
    let (kept, refused) = bench.collect();
    assert!((10..40).contains(&kept.len()), "{}", kept.len());
    assert_eq!(refused, [(String::new(), format!("{} more were refused", 300 - kept.len()))]);
}

/// A test is a process of its own, so that the limit is this one's alone.
#[test]
fn a_disk_that_takes_no_more_refuses_one_file() {
    let mut bench = bench(&["/work/*"]);
    for (name, length) in [("a", 600), ("b", 5000), ("c", 300), ("d", 101)] {
        bench.file(&format!("work/{name}"), &vec![b'x'; length]);
    }
    sys::ignore_signals(&[libc::SIGXFSZ]);
    sys::set_rlimit(libc::RLIMIT_FSIZE, 1000).expect("a limit");
    let (kept, refused) = bench.collect();
    assert_eq!(kept, ["a", "c"]);
    for name in ["b", "d"] {
        assert!(refusal(&refused, name).contains("doesn't take it"), "{refused:?}");
    }
}

#[test]
fn a_pack_that_can_not_be_synced_keeps_nothing() {
    let mut bench = bench(&["/work/*"]);
    bench.file("work/a", b"x");
    let scratch = fs::File::open(bench.scratch.path()).expect("the directory");
    bench.pack = fs::File::options().write(true).open("/dev/null").expect("null");
    let outputs = bench.plan.outputs.as_ref().expect("outputs");
    let collected = collect(&bench.plan, outputs, scratch.as_fd(), bench.pack.as_fd(), |_| true);
    assert!(collected.files.is_empty());
    let notes: Vec<Note> = collected.refused.notes().collect();
    assert!(
        matches!(&notes[..], [Note::OutputRefused { path, why }] if path == b"a" && why.contains("brought to disk")),
        "{notes:?}"
    );
}

#[test]
fn what_was_shared_with_the_program_is_not_its_output() {
    let mut bench = bench(&["/work/**"]);
    bench.file("work/shared", b"");
    bench.file("work/x", b"");
    assert_eq!(bench.collect(), (vec!["x".to_owned()], Vec::new()));
}

#[test]
fn entries_and_time_are_bounded() {
    let bench = bench(&["/work/**"]);
    bench.file("work/a", b"x");
    let outputs = bench.plan.outputs.clone().expect("outputs");
    let scratch = fs::File::open(bench.scratch.path()).expect("the directory");
    let mut late = Walk::new(&bench.plan, &outputs, 0);
    late.everywhere(&bench.plan, scratch.as_fd()).expect("a scratch");
    assert!(late.found.is_empty() && late.refused.stopped.is_some_and(|why| why.contains("too long")));
    let mut many = Walk::new(&bench.plan, &outputs, u64::MAX);
    many.entries = OUTPUTS_ENTRIES_MAX;
    many.everywhere(&bench.plan, scratch.as_fd()).expect("a scratch");
    assert!(many.found.is_empty() && many.refused.stopped.is_some_and(|why| why.contains("200000")));
    bench.file("work/b", &[0; 10]);
    let late = Copy {
        scratch: scratch.as_fd(),
        device: sys::file_status(scratch.as_fd()).expect("a status").device,
        pack: bench.pack.as_fd(),
        bytes_max: 100,
        total: 0,
        list_left: 1000,
        deadline: 0,
        buffer: vec![0; 4],
    }
    .file(b"b", b"work/b");
    assert_eq!(late, Err("there was no time left for it".to_owned()));
}

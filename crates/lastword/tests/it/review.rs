//! What nothing else would notice if it broke: each test here was seen red with the line that it guards taken out.

use std::collections::BTreeSet;
use std::io::{PipeReader, Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lastword::execution::{self, request::Program::Command};
use lastword_sandbox::seccomp::policy::{Action, RULES};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, Program, ended, needs_root};
use crate::object::Object;
use crate::soak;

fn python(options: &[&str], code: &str) -> Object {
    Lab::new().run(options, &Program::Python(code))
}

// ---- terminals

/// While nobody has the terminal open, its master says what it also says at the end.
#[test]
fn a_terminal_that_is_closed_and_opened_again_loses_nothing() {
    for name in ["/dev/tty", "os.ttyname(1)"] {
        let name = if name.starts_with('/') { format!("'{name}'") } else { name.to_owned() };
        let code = format!(
            "import os, time\nname = {name}\nos.write(1, b'first\\n')\nfor fd in 0, 1, 2: os.close(fd)\ntime.sleep(0.2)\nfd = os.open(name, os.O_RDWR | os.O_NOCTTY)\nos.write(fd, b'second\\n')\nos._exit(0)\n"
        );
        let object = python(&["--tty", "--timeout", "60s"], &code);
        assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
        assert_eq!(String::from_utf8_lossy(&object.stdout()), "first\r\nsecond\r\n", "{name}");
        assert!(object.complete(), "{name}: {}", object.at("/transcript"));
    }
}

/// What the terminal had accepted is thrown away on the program's own wish: it is missing all the same.
#[test]
fn output_that_a_terminal_throws_away_is_never_called_complete() {
    let code = "import os, termios\nfor i in range(200):\n    os.write(1, b'line %d\\n' % i)\n    termios.tcflush(1, termios.TCOFLUSH)\n";
    let object = python(&["--tty", "--timeout", "60s"], code);
    assert_eq!(object.end(), "succeeded/exit");
    assert!(!object.complete() && object.at("/ok") == false, "{:?}", object.0);
    // Input may be thrown away: it is no output.
    let code =
        "import termios\nfor i in range(200):\n    print(i)\n    termios.tcflush(0, termios.TCIFLUSH)\n";
    let object = python(&["--tty", "--timeout", "60s"], code);
    assert!(object.complete(), "{}", object.at("/transcript"));
}

// ---- stdin

/// Several runs on one pipe take each other's input away between "there is some" and the read.
#[test]
fn stdin_that_others_take_away_holds_no_limit_up() {
    const RUNS: usize = 4;
    const LATEST: Duration = Duration::from_secs(20);
    let labs: Vec<Lab> = (0..RUNS).map(|_| Lab::new()).collect();
    let (source, mut feed) = std::io::pipe().unwrap();
    let options = ["--stdin", "-", "--timeout", "2s"];
    let start = |lab: &Lab, source: PipeReader| {
        let mut command = lab.command();
        command.args(lab.arguments(&options, &Program::Sh("echo ready; cat >/dev/null")));
        command.stdin(source).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut runs: Vec<Child> = labs.iter().map(|lab| start(lab, source.try_clone().unwrap())).collect();
    for run in &mut runs {
        let mut ready = [0; 6];
        run.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    }
    let began = Instant::now();
    for _ in 0..100 {
        feed.write_all(b"x").unwrap();
        while rustix::io::ioctl_fionread(&source).unwrap() > 0 && began.elapsed() < LATEST {
            std::thread::yield_now();
        }
    }
    // The pipe stays open: whoever waits in a read waits on.
    while began.elapsed() < LATEST && runs.iter_mut().any(|run| run.try_wait().unwrap().is_none()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop((feed, source));
    for run in runs {
        ended(run, None).expect(124);
    }
    assert!(began.elapsed() < LATEST, "a limit was held up");
}

// ---- the end of the main process

/// A grandchild that writes just after the end of the main process is still heard.
#[test]
fn what_is_written_in_the_grace_is_kept() {
    let code = "import os, time\nme = os.getpid()\nif os.fork() == 0:\n    while os.getppid() == me: pass\n    time.sleep(0.02)\n    os.write(1, b'late\\n')\n    os._exit(0)\nos.write(1, b'main\\n')\nos._exit(0)\n";
    let lab = Lab::new();
    let mut late = 0;
    for _ in 0..soak::count(10, 50) {
        let object = lab.run(&["--timeout", "60s"], &Program::Python(code));
        assert_eq!(object.end(), "succeeded/exit");
        assert!(object.complete(), "{}", object.at("/transcript"));
        late += u32::from(object.stdout() == b"main\nlate\n");
    }
    // On a machine that is very busy one or the other may come after the grace.
    assert!(late > 0, "nothing was heard after the main process");
}

/// How a child ends is not how the program ends.
#[test]
fn children_that_end_first_are_not_the_main_process() {
    let lab = Lab::new();
    let code = "(exit 9) & wait; sh -c '(exit 8) &'; sleep 0.1; echo end; exit 5";
    let object = lab.run(&[], &Program::Sh(code));
    assert_eq!((object.exit_code(), object.stdout()), (Some(5), b"end\n".to_vec()), "{:?}", object.0);
}

// ---- the sandbox

#[test]
fn every_namespace_is_its_own() {
    let code = "import os\nfor name in sorted(os.listdir('/proc/self/ns')): print(name, os.readlink('/proc/self/ns/' + name))\n";
    let object = python(&[], code);
    let text = String::from_utf8(object.stdout()).unwrap();
    let inside: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|pair| pair.1).collect();
    for name in ["ipc", "mnt", "net", "pid", "user", "uts"] {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(text.contains(&format!("{name} {name}:[")), "{text}");
        assert!(!inside.contains(&*ours.to_string_lossy()), "{name} is the host's");
    }
}

/// Where there is a control group, a program sees it as the root of all.
#[test]
fn the_control_group_shows_nothing_of_the_host() {
    if !needs_root("control groups") {
        return;
    }
    let object = Lab::new().run(&[], &Program::Command(&["cat", "/proc/self/cgroup"]));
    let text = String::from_utf8(object.stdout()).unwrap();
    assert!(!text.contains("lastword"), "{text}");
}

#[test]
fn only_the_working_places_can_be_written_to() {
    let code = "import errno, os\nfor place in '', 'etc', 'dev', '.lastword', '.lastword/help', 'proc', 'usr', 'usr/bin', 'var', '.lastword/scratch', 'work', 'tmp', 'var/tmp', 'dev/shm':\n    try:\n        os.close(os.open('/' + place + '/new', os.O_WRONLY | os.O_CREAT, 0o600))\n        print(place, 'written')\n    except OSError as error:\n        if error.errno not in (errno.EROFS, errno.ENOENT, errno.EACCES): print(place, error)\n";
    let object = python(&[], code);
    let text = String::from_utf8(object.stdout()).unwrap();
    let (mut written, expected) = (text.lines().collect::<Vec<_>>(), ["work", "tmp", "var/tmp", "dev/shm"]);
    // The tmpfs under those four; only its first level can be reached twice.
    written.retain(|line| *line != ".lastword/scratch written");
    assert_eq!(written, expected.map(|place| format!("{place} written")), "{text}");
}

/// Other sets of call numbers, and ways to write that need no call: each line has to go the usual way.
#[test]
fn the_ways_round_the_filter_are_closed() {
    let lab = Lab::new();
    for mode in ["int80", "x32", "aio", "uring"] {
        let object = lab.run(&["--timeout", "60s"], &Program::C("odd", &[mode, "20"]));
        assert_eq!(object.exit_code(), Some(0), "{mode}: {:?}", object.0);
        assert_eq!(object.stdout().len() + object.stderr().len(), 10 * 4 + 10 * 5, "{mode}");
    }
}

/// The kernel keeps most of it from a program without rights; what it has is covered all the same.
#[test]
fn the_machines_part_of_proc_is_covered() {
    const COVERED: &[&str] = &[
        "acpi",
        "asound",
        "bus",
        "fs",
        "interrupts",
        "irq",
        "kallsyms",
        "kcore",
        "key-users",
        "keys",
        "kmsg",
        "latency_stats",
        "pressure",
        "sched_debug",
        "scsi",
        "sys",
        "sysrq-trigger",
        "timer_list",
        "timer_stats",
    ];
    let object = Lab::new().run(&[], &Program::Command(&["cat", "/proc/self/mountinfo"]));
    let text = String::from_utf8(object.stdout()).unwrap();
    let point = |path: &str| text.lines().find(|line| line.split(' ').nth(4) == Some(path));
    for name in COVERED.iter().filter(|name| std::path::Path::new("/proc").join(name).exists()) {
        let path = format!("/proc/{name}");
        let line = point(&path).unwrap_or_else(|| panic!("{path} is bare:\n{text}"));
        let options: Vec<&str> = line.split(' ').nth(5).unwrap_or_default().split(',').collect();
        // What is masked by the null device may be written to: it takes everything.
        let null = line.split(' ').nth(3) == Some("/null");
        assert!(options.contains(&"ro") || null, "{line}");
    }
}

#[test]
fn init_has_no_power_left() {
    let object = Lab::new().run(&[], &Program::Command(&["grep", "-E", "^Cap", "/proc/1/status"]));
    let text = String::from_utf8(object.stdout()).unwrap();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.lines().all(|line| line.ends_with("\t0000000000000000")), "{text}");
}

#[test]
fn a_program_leads_its_session_and_has_a_usual_umask() {
    let code = "import os\nprint(os.getsid(0) == os.getpid(), oct(os.umask(0)), os.getgroups() in ([], [os.getgid()]))\n";
    assert_eq!(python(&[], code).stdout(), b"True 0o22 True\n");
}

/// The interface is up, and nothing answers beyond it.
#[test]
fn the_own_loopback_works() {
    let code = "import socket\nserver = socket.create_server(('127.0.0.1', 0))\nclient = socket.create_connection(server.getsockname(), 30)\nserver.accept()[0].sendall(b'x')\nprint(client.recv(1))\n";
    assert_eq!(python(&["--timeout", "60s"], code).stdout(), b"b'x'\n");
}

/// Most of these the kernel refuses to a program without capabilities by itself, so that no attack would notice
/// when a rule is gone. A call is taken off the filter here, too, or not at all.
#[test]
fn the_calls_that_the_filter_knows() {
    const ANNOUNCED: &[&str] = &["pwritev2", "sendfile", "splice", "tee", "vmsplice", "write", "writev"];
    const REFUSED: &[&str] = &[
        "acct",
        "add_key",
        "adjtimex",
        "bpf",
        "chroot",
        "clock_adjtime",
        "clock_settime",
        "clone",
        "clone3",
        "delete_module",
        "fanotify_init",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "init_module",
        "io_setup",
        "io_submit",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "ioctl",
        "ioperm",
        "iopl",
        "ioprio_set",
        "kcmp",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "migrate_pages",
        "mount",
        "mount_setattr",
        "move_mount",
        "move_pages",
        "name_to_handle_at",
        "open_by_handle_at",
        "open_tree",
        "open_tree_attr",
        "perf_event_open",
        "personality",
        "pidfd_getfd",
        "pivot_root",
        "prlimit64",
        "process_madvise",
        "process_mrelease",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "quotactl",
        "quotactl_fd",
        "reboot",
        "request_key",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "setdomainname",
        "sethostname",
        "setns",
        "setpriority",
        "settimeofday",
        "socket",
        "socketpair",
        "swapoff",
        "swapon",
        "syslog",
        "umount2",
        "unshare",
        "userfaultfd",
        "vhangup",
    ];
    let named = |announced: bool| -> BTreeSet<&str> {
        let rules = RULES.iter().filter(|rule| (rule.action == Action::Notify) == announced);
        rules.map(|rule| rule.name).collect()
    };
    assert_eq!(named(true), ANNOUNCED.iter().copied().collect());
    assert_eq!(named(false), REFUSED.iter().copied().collect());
}

/// Calls of which only some arguments are refused, each rule by itself.
#[test]
fn arguments_that_the_filter_refuses() {
    let code = "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\ndef call(*words):\n    ctypes.set_errno(0)\n    return libc.syscall(*(ctypes.c_long(word) for word in words)) == -1 and errno.errorcode[ctypes.get_errno()]\nfor words in TRIED: print(call(*words))\n";
    // Of process 1, or of a bad descriptor: what the kernel itself would say to it is another error.
    let tried: &[(&str, &[i64], &str)] = &[
        ("ioctl TIOCSTI", &[16, -1, 0x5412, 0], "EPERM"),
        ("ioctl TIOCLINUX", &[16, -1, 0x541c, 0], "EPERM"),
        ("ioctl TIOCSETD", &[16, -1, 0x5423, 0], "EPERM"),
        ("ioctl FIONREAD", &[16, -1, 0x541b, 0], "EBADF"),
        ("setpriority of a user", &[141, 2, 0, 19], "EPERM"),
        ("setpriority of another", &[141, 0, 77_777, 19], "EPERM"),
        ("ioprio_set of a user", &[251, 3, 0, 0], "EPERM"),
        ("ioprio_set of another", &[251, 1, 77_777, 0], "EPERM"),
        ("migrate_pages", &[256, 77_777, 0, 0, 0], "EPERM"),
        ("move_pages", &[279, 77_777, 0, 0, 0, 0, 0], "EPERM"),
        ("prlimit64", &[302, 77_777, 0, 0, 0], "EPERM"),
        ("sched_setscheduler", &[144, 77_777, 0, 0], "EPERM"),
        ("sched_setparam", &[142, 77_777, 0], "EPERM"),
        ("sched_setattr", &[314, 77_777, 0, 0], "EPERM"),
        ("sched_setaffinity of init", &[203, 1, 0, 0], "EPERM"),
        ("personality", &[135, 0x0400_0000], "EPERM"),
        ("AF_VSOCK", &[41, 40, 1, 0], "EAFNOSUPPORT"),
        ("AF_PACKET", &[41, 17, 3, 0], "EAFNOSUPPORT"),
        ("AF_NETLINK, audit", &[41, 16, 3, 9], "EAFNOSUPPORT"),
        ("socketpair", &[53, 2, 1, 0, 0], "EAFNOSUPPORT"),
        ("clone with a user namespace", &[56, 0x1000_0000, 0, 0, 0, 0], "EPERM"),
        ("clone3", &[435, 0, 0], "ENOSYS"),
        ("io_uring_setup", &[425, 0, 0], "ENOSYS"),
        ("io_uring_enter", &[426, -1, 0, 0, 0, 0, 0], "ENOSYS"),
        ("io_uring_register", &[427, -1, 0, 0, 0], "ENOSYS"),
        ("io_setup", &[206, 0, 0], "ENOSYS"),
        ("io_submit", &[209, 0, 0, 0], "ENOSYS"),
    ];
    let list: Vec<String> = tried.iter().map(|(_, words, _)| format!("({},)", join(words))).collect();
    let object = python(&["--timeout", "60s"], &code.replace("TRIED", &format!("[{}]", list.join(", "))));
    let text = String::from_utf8(object.stdout()).unwrap();
    assert_eq!(text.lines().count(), tried.len(), "{:?}", object.0);
    for ((name, _, expected), said) in tried.iter().zip(text.lines()) {
        assert_eq!(said, *expected, "{name}");
    }
}

fn join(words: &[i64]) -> String {
    words.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

// ---- the start and the end that is asked for

/// A program says that it runs, then sleeps; `end` is what ends it. Its exit code is that of the command.
fn cancelled(signal: Signal, target: impl Fn(&Lab, &Child) -> u32, code: i32) {
    let lab = Lab::new();
    let arguments = lab.arguments(&["--timeout", "100s"], &Program::Sh("echo before; sleep 1000"));
    let mut command = lab.command();
    let mut run = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut before = [0; 7];
    run.stdout.as_mut().unwrap().read_exact(&mut before).unwrap();
    let target = target(&lab, &run);
    kill_process(Pid::from_raw(target.try_into().unwrap()).unwrap(), signal).unwrap();
    let began = Instant::now();
    ended(run, None).expect(code);
    assert!(began.elapsed() < Duration::from_secs(30), "it was not heard");
    let object = lab.get(&lab.ids()[0]);
    assert_eq!((object.end().as_str(), object.stdout()), ("cancelled/cancelled", b"before\n".to_vec()));
    assert!(object.complete(), "{}", object.at("/transcript"));
    lab.agree(&object);
}

#[test]
fn ctrl_c_ends_the_run_and_keeps_what_was_said() {
    cancelled(Signal::INT, |_, run| run.id(), 130);
}

#[test]
fn sigterm_ends_the_run_and_keeps_what_was_said() {
    cancelled(Signal::TERM, |_, run| run.id(), 143);
}

/// As a machine does that shuts down.
#[test]
fn sigterm_to_the_supervisor_is_a_cancel() {
    cancelled(Signal::TERM, |lab, _| crate::durability::supervisors(lab)[0], 130);
}

/// What whoever tries again has to know.
#[test]
fn only_a_program_that_never_ran_is_safe_to_retry() {
    let lab = Lab::new();
    for (command, started) in [("true", true), ("no-such-program", false)] {
        let object = lab.run(&[], &Program::Command(&[command]));
        assert_eq!(object.at("/retry/program_started"), started, "{command}");
        assert_eq!(object.at("/retry/safe"), !started, "{command}");
    }
}

/// Whether any process has this word among its arguments.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()))
}

/// Looks for the program while the run is accepted, but not handed over yet.
struct NotYet {
    marker: String,
    seen: bool,
}

impl execution::Sink for NotYet {
    fn accepted(&mut self, _: uuid::Uuid) {
        // Long enough to build a sandbox many times over. That nothing happens can't be waited for otherwise.
        let began = Instant::now();
        while !self.seen && began.elapsed() < Duration::from_millis(500) {
            self.seen = runs(&self.marker);
            std::thread::yield_now();
        }
    }
    fn record(&mut self, _: lastword_api::Stream, _: i64, _: u64, _: &[u8]) {}
    fn dropped(&mut self, _: lastword_api::Stream, _: i64, _: u64, _: u64) {}
}

/// The program starts only after the accept is durable.
#[test]
fn no_program_runs_before_its_run_is_accepted() {
    let lab = Lab::new();
    let mut sink = NotYet { marker: format!("0.9{:09}", std::process::id()), seen: false };
    let program = Command { argv: vec!["sleep".into(), (&sink.marker).into()] };
    let request = execution::Request::new(program);
    let store = lastword_store::Store::open(&lab.data).unwrap();
    let engine = execution::Engine::new(store, &lab.data);
    let execution = engine.run(request, &mut sink, &execution::Cancel::default()).unwrap();
    assert!(execution.ok, "{execution:?}");
    assert!(!sink.seen, "it ran before it was handed over");
}

//! G5 and G9: programs that attack. Each must get nothing, and its transcript must say exactly what it wrote.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};

use crate::durability::supervisors;
use crate::lab::{Lab, Program, needs_root};
use crate::object::Object;

/// Runs one attack of `fixtures/hostile.c`. What got through is in the message.
fn held(lab: &Lab, options: &[&str], attack: &[&str]) -> Object {
    let object = lab.run(options, &Program::C("hostile", attack));
    let said = String::from_utf8_lossy(&object.stdout()).into_owned();
    assert!(object.status() == "succeeded" && said == "held\n", "{said}\n{:?}", object.0);
    assert_eq!(object.stderr(), b"held\n");
    assert!(object.complete(), "{}", object.at("/transcript"));
    object
}

fn attack(attack: &[&str]) {
    held(&Lab::new(), &["--timeout", "60s"], attack);
}

#[test]
fn g5_files_of_process_one() {
    attack(&["process-one-files"]);
}

#[test]
fn g5_memory_and_descriptors_of_process_one() {
    attack(&["process-one-memory"]);
}

#[test]
fn g5_signals_to_everyone() {
    attack(&["signals"]);
}

#[test]
fn g5_limits_and_priorities_of_others() {
    attack(&["starve"]);
}

#[test]
fn g5_reading_its_own_output_back() {
    if !needs_root("only another uid's pipe can't be opened again") {
        return;
    }
    let object = Lab::new().run(&["--timeout", "60s"], &Program::C("hostile", &["read-back"]));
    assert_eq!(String::from_utf8_lossy(&object.stdout()), "first\nheld\n");
    assert!(object.complete() && object.exit_code() == Some(0), "{:?}", object.0);
}

#[test]
fn row_38_lines_that_look_like_records() {
    let lab = Lab::new();
    let object = lab.run(&[], &Program::C("hostile", &["forge"]));
    assert_eq!(object.end(), "succeeded/exit");
    let stdout = object.stdout();
    assert!(
        stdout.starts_with(b"{\"seq\":0,") && stdout.ends_with(b"\n\x00\xff\xfeheld\n"),
        "{}",
        stdout.escape_ascii()
    );
    assert_eq!(object.stderr(), b"held\n");
    let forged = |record: &crate::object::Record| record.stream == "stderr" && record.bytes != b"held\n";
    assert!(!lab.records(object.id()).iter().any(forged));
}

#[test]
fn row_42_descriptors_that_were_left_open() {
    attack(&["descriptors"]);
}

/// What the caller has open by accident reaches neither the program nor the supervisor, which outlives the caller.
#[test]
fn row_42_descriptors_of_the_caller() {
    let lab = Lab::new();
    let canary = lab.file("canary", "of the caller");
    let shell = |arguments: Vec<std::ffi::OsString>| {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 7<>\"$0\" 9<>\"$0\"; exec \"$@\""]).arg(&canary);
        command.arg(env!("CARGO_BIN_EXE_lastword")).arg("--data-dir").arg(&lab.data).args(arguments);
        command.stdin(Stdio::null());
        command
    };
    let mut command = shell(lab.arguments(&["--json"], &Program::C("hostile", &["descriptors"])));
    let object = Object::parse(&crate::lab::finish(&mut command, None).expect(0).stdout);
    assert_eq!(String::from_utf8_lossy(&object.stdout()), "held\n");
    assert_eq!(std::fs::read(&canary).unwrap(), b"of the caller");

    let mut command = shell(lab.arguments(&[], &Program::Sh("echo ready; sleep 0.5")));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let holders: Vec<_> = supervisors(&lab).into_iter().filter(|pid| holds(*pid, &canary)).collect();
    child.wait().unwrap();
    assert!(holders.is_empty(), "the supervisor holds a file of its caller");
}

fn holds(pid: u32, path: &std::path::Path) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|link| std::fs::read_link(link.path()).ok()).any(|target| target == path)
}

#[test]
fn g9_other_processes_and_host_files() {
    attack(&["look"]);
}

#[test]
fn g9_the_data_directory_and_the_home() {
    let lab = Lab::new();
    lab.run(&[], &Program::Sh("true"));
    let data = lab.data.display().to_string();
    held(&lab, &[], &["host-path", &data]);
    if let Some(home) = std::env::var_os("HOME").filter(|home| home != "/") {
        held(&lab, &[], &["host-path", &home.to_string_lossy()]);
    }
}

#[test]
fn g9_writing_to_the_host() {
    attack(&["write-host"]);
}

#[test]
fn g9_mounts_and_devices() {
    attack(&["mounts"]);
}

#[test]
fn g9_namespaces() {
    attack(&["namespaces"]);
}

#[test]
fn g9_kernel_interfaces() {
    attack(&["interfaces"]);
}

#[test]
fn g9_network_out_and_the_hosts_own() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port().to_string();
    let name = format!("lastword-it-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    attack(&["network", &port, &name]);
}

#[test]
fn g9_shared_memory_of_the_host() {
    let made = Command::new("ipcmk").args(["--shmem", "4096", "--mode", "0666"]).output().unwrap();
    let id = String::from_utf8_lossy(&made.stdout).trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let row = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&*id)).unwrap();
    let key = row.split_whitespace().next().unwrap().to_owned();
    let lab = Lab::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        held(&lab, &["--timeout", "60s"], &["shared-memory", &key]);
    }));
    Command::new("ipcrm").args(["--shmem-id", &id]).status().unwrap();
    result.unwrap();
}

#[test]
fn g9_terminal_input() {
    attack(&["terminal"]);
}

#[test]
fn g9_setuid_programs_give_nothing() {
    attack(&["rights"]);
}

#[test]
fn g8_a_daemon_that_was_left_behind_is_gone() {
    // The look for leftovers at the end of the lab is the test.
    attack(&["daemon"]);
}

#[test]
fn heavy_g7_filling_every_writable_place() {
    let lab = Lab::new();
    held(&lab, &["--disk", "64MiB", "--memory", "256MiB", "--timeout", "60s"], &["fill-tmp"]);
}

#[test]
fn heavy_g5_filling_memory_through_tmpfs_leaves_a_seal() {
    if !needs_root("memory limit") {
        return;
    }
    let lab = Lab::new();
    let code = "echo before; while :; do (head -c 1M /dev/zero >/tmp/f$$.$i) & i=$((i+1)); [ $i -gt 2000 ] && break; done; wait";
    // More room on disk than memory: the limit that bites is memory's, and tmpfs pages outlive who wrote them.
    let options = ["--disk", "1GiB", "--memory", "48MiB", "--pids", "64", "--timeout", "30s"];
    let object = lab.run(&options, &Program::Sh(code));
    assert!(object.stdout().starts_with(b"before\n"), "{:?}", object.0);
    assert!(object.complete(), "{}", object.at("/transcript"));
    assert_ne!(object.status(), "error", "{:?}", object.0);
}

#[test]
fn g5_exit_is_that_of_the_main_process() {
    let lab = Lab::new();
    // A child that outlives it, and one that ends after it with another code, change nothing.
    let object = lab.run(&[], &Program::Sh("(exit 0) & (sleep 0.2; exit 0) & exec sh -c 'exit 23'"));
    assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(23)));
}

#[test]
fn program_bytes_never_reach_our_own_log_raw() {
    let lab = Lab::new();
    let code = "import sys\nsys.stdout.write('\\x1b[31mred\\x07\\n' * 100)\nsys.exit('\\x1b]0;title\\x07')";
    let file = lab.file("program.py", code);
    // With --json the program's bytes are in the object alone; messages go to stderr.
    let ended = lab.lastword(args(&["run", "--json", "--verbose"], &file)).expect(0);
    let raw = |bytes: &[u8]| bytes.contains(&0x1b) || bytes.contains(&0x07);
    assert!(!raw(&ended.stderr) && !raw(&ended.stdout), "{}", ended.message());
    assert!(!ended.message().contains("red") && !ended.message().contains("title"), "{}", ended.message());
}

#[test]
fn a_name_with_control_bytes_is_escaped_in_messages() {
    let lab = Lab::new();
    for arguments in [
        &["run", "--", "/no/\x1b[31mthing"][..],
        &["run", "--runtime", "\x1b[31mx", "-c", "1"],
        &["run", "--label", "\x1b[31mx", "--", "true"],
        &["run", "/no/\x1b[31mfile.py"],
        &["logs", "\x1b[31mid"],
    ] {
        let ended = lab.lastword(arguments);
        assert!(!ended.status.success(), "{arguments:?}");
        assert!(!ended.stderr.contains(&0x1b), "{arguments:?}: {}", ended.stderr.escape_ascii());
    }
}

fn args(options: &[&str], file: &std::path::Path) -> Vec<std::ffi::OsString> {
    let options = options.iter().map(std::ffi::OsString::from);
    options.chain([file.into()]).collect()
}

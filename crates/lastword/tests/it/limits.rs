//! Limits: each ends the run with its own reason, with all that was said before.

use std::time::Instant;

use crate::lab::{Lab, Program, needs_root};

#[test]
fn heavy_row_12_memory_bomb() {
    if !needs_root("memory limit") {
        return;
    }
    let lab = Lab::new();
    let code = "print('before')\nx = []\nwhile True: x.append(bytearray(1 << 20))\n";
    let object = lab.run(&["--memory", "64MiB", "--timeout", "60s"], &Program::Python(code));
    assert_eq!(object.end(), "failed/out_of_memory", "{:?}", object.0);
    assert_eq!((object.at("/oom_killed"), object.stdout()), (&true.into(), b"before\n".to_vec()));
    assert!(object.complete(), "{}", object.at("/transcript"));
    assert!(object.number("/usage/memory_peak_bytes") <= 64 << 20, "{:?}", object.0);
    assert_eq!(lab.plain(&["--memory", "64MiB"], &Program::Python(code)).code(), 128 + 9);
}

/// What lies in the tmpfs is memory: together they stay below the limit, or tmpfs pages would outlive whoever is killed for them.
#[test]
fn heavy_memory_includes_the_tmpfs() {
    if !needs_root("memory limit") {
        return;
    }
    let options = ["--memory", "64MiB", "--disk", "256MiB", "--timeout", "60s"];
    let lab = Lab::new();
    let fill = "echo before; head -c 200M /dev/zero >/tmp/file; stat -c %s /tmp/file";
    let object = lab.run(&options, &Program::Sh(fill));
    assert!(object.stdout().starts_with(b"before\n") && object.complete(), "{:?}", object.0);
    let kept = String::from_utf8(object.stdout()).unwrap();
    let killed = object.at("/oom_killed") == true;
    assert!(killed || kept.lines().last().unwrap().parse::<u64>().unwrap() < 64 << 20, "{kept}");
    // A full tmpfs leaves less for the program, and the limit holds for both.
    let both =
        "head -c 30M /dev/zero >/tmp/file; python3 -c 'x = bytearray(60 << 20); print(\"fits\")'; echo $?";
    let object = lab.run(&options, &Program::Sh(both));
    assert_eq!((object.at("/oom_killed"), object.complete()), (&true.into(), true), "{:?}", object.0);
}

/// A child that is killed for memory isn't the main process: the main process goes on and says so.
#[test]
fn heavy_memory_bomb_in_a_child() {
    if !needs_root("memory limit") {
        return;
    }
    let code = "python3 -c 'x = bytearray(1 << 29)'; echo child ended with $?; exit 4";
    let object = Lab::new().run(&["--memory", "64MiB", "--timeout", "60s"], &Program::Sh(code));
    assert_eq!(object.at("/oom_killed"), true, "{:?}", object.0);
    assert!(object.stdout().ends_with(b"child ended with 137\n"), "{:?}", object.0);
    assert_eq!(object.exit_code(), Some(4));
    assert!(object.complete());
}

#[test]
fn heavy_fork_bomb() {
    if !needs_root("pids limit") {
        return;
    }
    let object = Lab::new().run(&["--pids", "32", "--timeout", "60s"], &Program::C("forks", &[]));
    assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
    assert_eq!(object.stdout(), b"made some, then refused\n");
    assert!(object.number("/usage/processes_peak") <= 32, "{:?}", object.0);
}

#[test]
fn heavy_fork_bomb_of_a_shell() {
    if !needs_root("pids limit") {
        return;
    }
    let code = "echo before\nbomb() { bomb | bomb & }\nbomb\nsleep 1000";
    let object = Lab::new().run(&["--pids", "64", "--timeout", "3s"], &Program::Sh(code));
    assert_eq!(object.end(), "timed_out/wall_time", "{:?}", object.0);
    assert!(object.stdout().starts_with(b"before\n") && object.complete(), "{:?}", object.0);
}

#[test]
fn heavy_cpu_spin() {
    let lab = Lab::new();
    let options = ["--cpu-time", "500ms", "--timeout", "60s"];
    let object = lab.run(&options, &Program::Sh("echo before; while :; do :; done"));
    assert_eq!(object.end(), "timed_out/cpu_time", "{:?}", object.0);
    assert_eq!(object.stdout(), b"before\n");
    assert!(object.complete());
    let used = object.at("/usage/cpu_user_ms").as_f64().unwrap()
        + object.at("/usage/cpu_system_ms").as_f64().unwrap();
    assert!((400.0..5000.0).contains(&used), "{used} ms");
    assert_eq!(lab.plain(&options, &Program::Sh("while :; do :; done")).code(), 124);
}

/// CPU time is that of all processes together, and ignoring SIGXCPU doesn't help.
#[test]
fn heavy_cpu_spin_in_children() {
    let code = "trap '' XCPU\nfor i in 1 2 3; do (trap '' XCPU; while :; do :; done) & done\nwait";
    let object = Lab::new().run(&["--cpu-time", "1s", "--timeout", "60s"], &Program::Sh(code));
    assert_eq!(object.end(), "timed_out/cpu_time", "{:?}", object.0);
}

#[test]
fn sleep_past_the_limit() {
    let lab = Lab::new();
    let start = Instant::now();
    let object = lab.run(&["--timeout", "300ms"], &Program::Sh("echo before; sleep 1000; echo after"));
    assert_eq!(object.end(), "timed_out/wall_time", "{:?}", object.0);
    assert_eq!(object.stdout(), b"before\n");
    assert!(object.complete());
    assert!(start.elapsed().as_secs() < 30);
    let wall = object.at("/usage/wall_ms").as_f64().unwrap();
    assert!((300.0..10_000.0).contains(&wall), "{wall} ms");
    let plain = lab.plain(&["--timeout", "300ms"], &Program::Sh("echo before; exec sleep 1000"));
    assert_eq!((plain.code(), &*plain.stdout), (124, &b"before\n"[..]));
}

#[test]
fn a_program_that_ignores_signals_ends_at_its_limit() {
    let code = "trap '' TERM INT HUP QUIT XCPU\nwhile :; do sleep 0.05; done";
    assert_eq!(Lab::new().run(&["--timeout", "300ms"], &Program::Sh(code)).end(), "timed_out/wall_time");
}

#[test]
fn heavy_disk_filler() {
    let lab = Lab::new();
    let code = "head -c 64M /dev/zero >/tmp/file; echo ended with $?; stat -c %s /tmp/file";
    let object = lab.run(&["--disk", "16MiB"], &Program::Sh(code));
    let stdout = String::from_utf8(object.stdout()).unwrap();
    let size: u64 = stdout.lines().last().unwrap().parse().unwrap();
    assert!(stdout.starts_with("ended with 1\n") && size <= 16 << 20, "{stdout}");
    assert!(object.complete());
}

#[test]
fn yes_into_the_output_limit_is_killed() {
    let lab = Lab::new();
    let object = lab.run(&["--output-limit", "1MiB", "--timeout", "60s"], &Program::Command(&["yes"]));
    assert_eq!(object.end(), "failed/output_limit", "{:?}", object.0);
    assert!(!object.complete());
    assert!(object.dropped("stdout") > 0, "{}", object.at("/transcript"));
    let kept = lab.stream(object.id(), "stdout");
    assert!(kept.len() <= 1 << 20 && kept.len() > (1 << 20) - 65536, "{}", kept.len());
    assert!(kept.chunks(2).all(|chunk| b"y\n".starts_with(chunk)));
    let plain = lab.plain(&["--output-limit", "1MiB"], &Program::Command(&["yes"]));
    assert_eq!(plain.code(), 125);
    assert!(plain.message().contains("limit"), "{}", plain.message());
}

#[test]
fn yes_into_the_output_limit_is_dropped() {
    let lab = Lab::new();
    let code =
        "import os\nfor i in range(3072): os.write(1, b'%01023d\\n' % i)\nos.write(2, b'end')\nos._exit(5)\n";
    let options = ["--output-limit", "1MiB", "--on-output-limit", "drop", "--timeout", "60s"];
    let object = lab.run(&options, &Program::Python(code));
    assert_eq!((object.status(), object.exit_code()), ("failed", Some(5)), "{:?}", object.0);
    assert!(!object.complete());
    assert!(object.bytes("stdout") <= 1 << 20);
    assert_eq!(object.bytes("stdout") + object.dropped("stdout"), 3 << 20);
    assert_eq!(object.bytes("stderr") + object.dropped("stderr"), 3);
    let kept = lab.stream(object.id(), "stdout");
    let whole = (0..1024).fold(String::new(), |text, i| text + &format!("{i:01023}\n"));
    assert!(whole.as_bytes().starts_with(&kept));
}

#[test]
fn output_of_exactly_the_limit_is_complete() {
    let lab = Lab::new();
    let object = lab.run(&["--output-limit", "4KiB"], &Program::Sh("head -c 4096 /dev/zero"));
    assert!(object.complete() && object.end() == "succeeded/exit", "{:?}", object.0);
    let object = lab.run(&["--output-limit", "4KiB"], &Program::Sh("head -c 4097 /dev/zero"));
    assert!(!object.complete() && object.reason() == "output_limit", "{:?}", object.0);
}

#[test]
fn open_files_and_stack() {
    let lab = Lab::new();
    let code = "import resource as r\nprint(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_STACK), r.getrlimit(r.RLIMIT_CORE))\n";
    let object = lab.run(&["--open-files", "77", "--stack", "4MiB"], &Program::Python(code));
    assert_eq!(String::from_utf8(object.stdout()).unwrap(), "(77, 77) (4194304, 4194304) (1, 1)\n");
    let object = lab.run(&[], &Program::Python(code));
    assert_eq!(String::from_utf8(object.stdout()).unwrap(), "(1024, 1024) (67108864, 67108864) (1, 1)\n");
}

#[test]
fn cpus_are_a_share_of_the_time() {
    if !needs_root("cpu limit") {
        return;
    }
    let options = ["--cpus", "0.25", "--timeout", "2s"];
    let object = Lab::new().run(&options, &Program::Sh("while :; do :; done"));
    assert_eq!(object.end(), "timed_out/wall_time");
    if object.at("/enforced")["cpus"] == true {
        let used = object.at("/usage/cpu_user_ms").as_f64().unwrap()
            + object.at("/usage/cpu_system_ms").as_f64().unwrap();
        assert!(used < 1000.0, "{used} ms of CPU in 2 s at a quarter");
    }
}

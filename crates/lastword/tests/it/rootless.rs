//! The same binary in the hands of an ordinary user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};

use crate::lab::{Lab, finish, needs_root};
use crate::object::Object;

const UID: u32 = 1001;

/// A lab whose data directory belongs to that user, and the way to run the binary as them.
pub(crate) struct Rootless {
    pub(crate) lab: Lab,
}

impl Rootless {
    /// `None` where the suite itself isn't root: then every test is one of an ordinary user.
    pub(crate) fn new() -> Option<Self> {
        if !needs_root("becomes another user") {
            return None;
        }
        let lab = Lab::new();
        let own = |path| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            chown(path, Some(UID), Some(UID)).unwrap();
        };
        std::fs::copy(env!("CARGO_BIN_EXE_lastword"), lab.path().join("lastword")).unwrap();
        std::fs::create_dir(&lab.data).unwrap();
        own(lab.path().to_owned());
        own(lab.data.clone());
        own(lab.path().join("lastword"));
        Some(Self { lab })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={UID}"), &format!("--regid={UID}"), "--clear-groups", "--"]);
        command.arg(self.lab.path().join("lastword"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
        command.env("LASTWORD_DATA_DIR", &self.lab.data).current_dir("/").stdin(Stdio::null());
        command
    }

    fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.lab.file(name, text);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        path
    }

    fn run(&self, options: &[&str], code: &str) -> Object {
        let file = self.file("program.py", code);
        let ended = finish(self.command().args(["run", "--json"]).args(options).arg(file), None).expect(0);
        Object::parse(&ended.stdout)
    }
}

const FAST_FAIL: &str = "import sys\nprint('Before error')\nraise RuntimeError('deliberate')\n";

#[test]
fn an_ordinary_user_gets_the_whole_transcript() {
    let Some(user) = Rootless::new() else { return };
    let file = user.file("fast_fail.py", FAST_FAIL);
    let ended = finish(user.command().arg("run").arg(file), None).expect(1);
    assert_eq!(ended.stdout, b"Before error\n");
    let message = ended.message();
    assert!(
        message.starts_with("Traceback ") && message.ends_with("RuntimeError: deliberate\n"),
        "{message}"
    );
    let object = user.run(&[], FAST_FAIL);
    assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(1)), "{:?}", object.0);
    assert!(object.complete(), "{}", object.at("/transcript"));
    user.lab.agree(&object);
}

#[test]
fn what_is_not_enforced_is_said() {
    let Some(user) = Rootless::new() else { return };
    let object = user.run(&["--memory", "64MiB", "--pids", "16"], "print(1)");
    let enforced = object.at("/enforced");
    for limit in ["memory", "pids", "wall", "output"] {
        assert!(enforced[limit].is_boolean(), "{limit} in {enforced}");
    }
    assert_eq!((&enforced["wall"], &enforced["output"]), (&true.into(), &true.into()));
    // Nothing delegates a control group to this user.
    assert_eq!(enforced["memory"], false, "{enforced}");
}

#[test]
fn strict_refuses_and_says_what_would_help() {
    let Some(user) = Rootless::new() else { return };
    let file = user.file("program.py", "print('ran')\n");
    let ended = finish(user.command().args(["run", "--strict", "--memory", "64MiB"]).arg(file), None);
    assert_eq!(ended.code(), 125, "{}", ended.message());
    assert!(ended.stdout.is_empty(), "it ran: {}", ended.stdout.escape_ascii());
    assert!(ended.message().contains("memory"), "{}", ended.message());
}

#[test]
fn the_sandbox_of_an_ordinary_user_holds() {
    let Some(user) = Rootless::new() else { return };
    for attack in [
        "process-one-files",
        "process-one-memory",
        "signals",
        "starve",
        "descriptors",
        "look",
        "write-host",
        "mounts",
        "namespaces",
        "interfaces",
        "rights",
        "daemon",
    ] {
        let program = user.lab.path().join("hostile");
        std::fs::copy(crate::fixture::program("hostile"), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let ended =
            finish(user.command().args(["run", "--json", "--timeout", "60s"]).arg(program).arg(attack), None)
                .expect(0);
        let object = Object::parse(&ended.stdout);
        assert_eq!(String::from_utf8_lossy(&object.stdout()), "held\n", "{attack}: {:?}", object.0);
        assert_eq!(object.end(), "succeeded/exit", "{attack}: {:?}", object.0);
        assert!(object.complete(), "{attack}");
    }
}

#[test]
fn limits_that_need_no_control_group_hold() {
    let Some(user) = Rootless::new() else { return };
    let object = user.run(&["--timeout", "300ms"], "import time\nprint('before')\ntime.sleep(1000)\n");
    assert_eq!((object.end().as_str(), object.stdout()), ("timed_out/wall_time", b"before\n".to_vec()));
    let object =
        user.run(&["--cpu-time", "300ms", "--timeout", "60s"], "print('before')\nwhile True: pass\n");
    assert_eq!((object.end().as_str(), object.stdout()), ("timed_out/cpu_time", b"before\n".to_vec()));
}

#[test]
fn outputs_of_an_ordinary_user() {
    let Some(user) = Rootless::new() else { return };
    let code = "import os\nos.makedirs('out/shut')\nopen('out/a', 'w').write('x')\nopen('out/b', 'w').write('y')\n\
                open('out/shut/c', 'w').write('z')\nos.symlink('/etc/passwd', 'out/link')\nos.chmod('out/b', 0)\nos.chmod('out/shut', 0)\n";
    let object = user.run(&["--out", &format!("out:{}", user.lab.data.join("to").display())], code);
    let outputs = object.at("/outputs").as_array().unwrap();
    assert_eq!((outputs.len(), &outputs[0]["path"]), (1, &"out/a".into()), "{outputs:?}");
    let refused = object.at("/outputs_refused").to_string();
    for why in [
        "it can't be opened: Permission denied",
        "the directory can't be read: Permission denied",
        "a symbolic link",
    ] {
        assert!(refused.contains(why), "{refused}");
    }
    let printed = finish(user.command().args(["files", object.id(), "out/a"]), None).expect(0);
    assert_eq!(printed.stdout, b"x");
}

//! `--server`: the same commands in this process and at a server print the same and exit with the same.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::{Ended, Lab, Program, args, ended, finish, wait_for};
use crate::server::Server;

/// A server, and a data directory of its own for what runs in this process.
struct Two {
    server: Server,
    _far: Lab,
    near: Lab,
}

impl Two {
    fn new() -> Two {
        let far = Lab::new();
        let server = Server::start(&far, &[]);
        Two { server, _far: far, near: Lab::new() }
    }

    fn at_server(&self) -> Command {
        at(&self.near, &self.server.url)
    }

    /// In this process, then at the server.
    fn both(&self, arguments: &[OsString], stdin: Option<&[u8]>) -> [Ended; 2] {
        let near = finish(self.near.command().args(arguments), stdin);
        [near, finish(self.at_server().args(arguments), stdin)]
    }

    /// Both print the same bytes and exit with the same code.
    fn same(&self, options: &[&str], program: &Program<'_>, stdin: Option<&[u8]>) -> Ended {
        let arguments = self.near.arguments(options, program);
        let [near, far] = self.both(&arguments, stdin);
        assert_eq!(near.code(), far.code(), "{}\n{}", near.message(), far.message());
        assert!(near.stdout == far.stdout, "{options:?}: {} {}", near.stdout.len(), far.stdout.len());
        assert_eq!(without_ids(&near.message()), without_ids(&far.message()));
        far
    }

    /// A run each, by its id.
    fn run(&self, options: &[&str], program: &Program<'_>) -> [Value; 2] {
        let options = [&["--json"], options].concat();
        let [near, far] = self.both(&self.near.arguments(&options, program), None);
        [near.expect(0), far.expect(0)].map(|ended| serde_json::from_slice(&ended.stdout).unwrap())
    }

    /// The same command for an execution each: what both print, without ids and times.
    fn same_for(&self, ids: [&str; 2], words: &[&str]) -> Ended {
        let of = |mut command: Command, id: &str| {
            finish(command.args(words.iter().map(|word| if *word == "ID" { id } else { *word })), None)
        };
        let near = of(self.near.command(), ids[0]);
        let far = of(self.at_server(), ids[1]);
        assert_eq!(near.code(), far.code(), "{words:?}\n{}\n{}", near.message(), far.message());
        let text = |ended: &Ended| without_ids(&String::from_utf8_lossy(&ended.stdout));
        assert_eq!(text(&near), text(&far), "{words:?}");
        assert_eq!(without_ids(&near.message()), without_ids(&far.message()), "{words:?}");
        far
    }
}

fn at(lab: &Lab, url: &str) -> Command {
    let mut command = lab.command();
    command.env("LASTWORD_SERVER", url);
    command
}

/// Ids and times replaced: they differ from run to run. Digits of figures too, where they are not exit codes.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "\",;()".contains(c)) {
        let bare = word.trim_end_matches(|c: char| c.is_whitespace() || "\",;():.".contains(c));
        let is_id = bare.len() == 36 && uuid::Uuid::try_parse(bare).is_ok();
        let is_time = bare.len() >= 20 && bare.ends_with('Z') && bare.contains('T') && bare.starts_with("20");
        match is_id || is_time {
            true => out.push_str(&word.replace(bare, "*")),
            false => out.push_str(word),
        }
    }
    out
}

/// An object without what differs from run to run.
fn settled(object: &Value) -> Value {
    let mut object = object.clone();
    for name in ["id", "usage", "created_at", "started_at", "ended_at", "queue_ms"] {
        assert!(!object[name].is_null(), "{name} is null: {object}");
        object[name] = Value::Null;
    }
    // How often a pipe is read depends on who is faster.
    object["transcript"]["records"] = Value::Null;
    object
}

const OUTPUT: &str = r"
import os
os.write(1, b'one\n'); os.write(2, b'\xff two\n'); os.write(1, b'three '); os.write(2, b'four\n'); os.write(1, b'\x00five')
";

#[test]
fn a_run_is_the_same_at_a_server() {
    let two = Two::new();
    for (code, exit) in [
        ("print('fine')", 0),
        ("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", 3),
        ("1 / 0", 1),
        ("import os, signal; print('last', flush=True); os.kill(os.getpid(), signal.SIGSEGV)", 139),
        (OUTPUT, 0),
        ("import os; os.write(1, bytes(range(256)) * 40_000)", 0),
        ("for n in range(1_000): print(str(n) * 4_000)", 0),
    ] {
        assert_eq!(two.same(&[], &Program::Python(code), None).code(), exit, "{code}");
    }
    let slow = Program::Sh("echo before; exec sleep 60");
    assert_eq!(two.same(&["--timeout", "500ms"], &slow, None).code(), 124);
    assert_eq!(two.same(&[], &Program::Command(&["no-such-command"]), None).code(), 127);
    assert_eq!(two.same(&[], &Program::Command(&["sh", "-c", "echo $0 $1", "a b", "é"]), None).code(), 0);
    let loud = Program::Sh("head -c 3000000 /dev/zero");
    assert_eq!(two.same(&["--output-limit", "1MiB", "--on-output-limit", "drop"], &loud, None).code(), 125);
    two.same(&[], &Program::C("odd", &[]), None);
}

#[test]
fn both_streams_keep_their_order_and_their_times() {
    let two = Two::new();
    let arguments = two.near.arguments(&["--timestamps"], &Program::Python(OUTPUT));
    let [near, far] = two.both(&arguments, None);
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        // The time has 30 bytes, always.
        bytes.split(|byte| *byte == b'\n').map(|line| line.get(30..).unwrap_or_default().to_vec()).collect()
    };
    assert_eq!(lines(&near.stdout), lines(&far.stdout));
    assert_eq!(lines(&near.stderr), lines(&far.stderr));
    // Both to one pipe: the order of the writes is the order in it.
    let script = two.near.file("both.py", OUTPUT);
    let shell = |mut command: Command| {
        let program = command.get_program().to_owned();
        let mut whole = Command::new("sh");
        whole.args(["-c", "exec \"$0\" run \"$1\" 2>&1"]).arg(program).arg(&script);
        for (name, value) in command.envs(std::iter::empty::<(&str, &str)>()).get_envs() {
            if let Some(value) = value {
                whole.env(name, value);
            }
        }
        finish(&mut whole, None).expect(0).stdout
    };
    let near = shell(two.near.command());
    assert_eq!(near, b"one\n\xff two\nthree four\n\x00five");
    assert_eq!(shell(two.at_server()), near);
}

#[test]
fn stdin_files_and_variables_reach_the_program() {
    let two = Two::new();
    let cat = Program::Command(&["cat"]);
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let echoed = two.same(&["--stdin", "-"], &cat, Some(&bytes)).expect(0);
    assert!(echoed.stdout == bytes);
    assert_eq!(two.same(&["--stdin", "-"], &cat, Some(b"")).expect(0).stdout, b"");
    // It ends before it has read all.
    two.same(&["--stdin", "-"], &Program::Command(&["head", "-c", "3"]), Some(&bytes)).expect(0);
    for length in [0, 5, bytes.len()] {
        let file = two.near.file("in", &bytes[..length]);
        let echoed = two.same(&["--stdin", file.to_str().unwrap()], &cat, None).expect(0);
        assert!(echoed.stdout == bytes[..length], "{length}");
    }
    let data = two.near.file("data.bin", [0xff, 0, 1]);
    let given = format!("{}:sub/x", data.display());
    let program = Program::Sh("od -c sub/x; echo $A; pwd; ls -l sub/x | cut -c1-10");
    let options = ["--file", &given, "--env", "A=b c", "--cwd", "/work"];
    assert!(!two.same(&options, &program, None).expect(0).stdout.is_empty());
    let request = two.near.file(
        "request.json",
        r#"{"runtime": "sh", "code": "echo $S; cat", "secrets": {"S": "s"}, "stdin": "x"}"#,
    );
    let [near, far] = two.both(&args!["run", "--request", request], None);
    assert_eq!((near.code(), &near.stdout[..]), (0, &b"s\nx"[..]));
    assert_eq!(near.stdout, far.stdout);
}

#[test]
fn the_object_is_the_same() {
    let two = Two::new();
    let code = "import sys; print('x' * 1_500_000); print('\\x00é', file=sys.stderr); sys.exit(2)";
    let [near, far] = two.run(&["--label", "a=b", "--memory", "300MiB"], &Program::Python(code));
    assert_eq!(settled(&near), settled(&far));
    let ids = [near["id"].as_str().unwrap(), far["id"].as_str().unwrap()];
    let objects: Vec<Value> = [two.near.command(), two.at_server()]
        .into_iter()
        .zip(ids)
        .map(|(mut command, id)| {
            serde_json::from_slice(&finish(command.args(["get", id, "--json"]), None).expect(0).stdout)
                .unwrap()
        })
        .collect();
    assert_eq!(settled(&objects[0]), settled(&near));
    assert_eq!(objects[1], far, "what run says, and what get says");
    assert_eq!(settled(&objects[0]), settled(&objects[1]));
}

#[test]
fn logs_are_the_same() {
    let two = Two::new();
    // Each write to the other stream than the one before: records are then the writes.
    let code = r"
import os
for n in range(50):
    os.write(1, b'%d first\n%d sec' % (n, n)); os.write(2, b'%d err\n%d l' % (n, n))
    os.write(1, b'ond\xff\n'); os.write(2, b'ast\n')
";
    let [near, far] = two.run(&[], &Program::Python(code));
    let ids = [near["id"].as_str().unwrap(), far["id"].as_str().unwrap()];
    for options in [
        &[][..],
        &["--stream", "stdout"],
        &["--stream", "stderr", "--tail", "3"],
        &["--tail", "0"],
        &["--tail", "1"],
        &["--tail", "7"],
        &["--tail", "100000"],
        &["-f"],
        &["-f", "--tail", "5"],
        &["--since", "1h"],
        &["--until", "2020-01-01T00:00:00Z"],
        &["--since", "2100-01-01T00:00:00Z"],
        &["--format", "jsonl"],
        &["--format", "jsonl", "--tail", "3"],
        &["--format", "jsonl", "--stream", "stderr", "-f"],
    ] {
        two.same_for(ids, &[&["logs", "ID"], options].concat());
    }
    assert_eq!(two.same_for(ids, &["logs", "ID", "--tail", "1"]).stderr, b"49 last\n");
    // Times, and the beginning of an id.
    let short = &ids[1][..18];
    let text = finish(two.at_server().args(["logs", short, "--timestamps", "--tail", "2"]), None).expect(0);
    assert!(String::from_utf8_lossy(&text.stderr).contains("Z stderr 49 "), "{}", text.message());
    let middle = far["started_at"].as_str().unwrap();
    let since = finish(two.at_server().args(["logs", ids[1], "--since", middle]), None).expect(0);
    assert!(!since.stdout.is_empty());
}

#[test]
fn lists_files_verdicts_and_removals_are_the_same() {
    let two = Two::new();
    let code = "import os, sys; os.mkdir('o'); open('o/a.txt', 'w').write('A' * 700_000); open('o/ü b', 'w').write('B'); sys.exit(int(sys.argv[1]))";
    let out = two.near.path().join("kept");
    let keep = format!("o/*:{}", out.display());
    let script = two.near.file("make.py", code);
    let run = |command: &mut Command, label: &str, code: &str| -> Value {
        let command =
            command.args(["run", "--json", "--out", &keep, "--label", label]).arg(&script).arg(code);
        serde_json::from_slice(&finish(command, None).expect(0).stdout).unwrap()
    };
    let mut ids = [String::new(), String::new()];
    for code in ["0", "1", "2"] {
        for (place, command) in [two.near.command(), two.at_server()].iter_mut().enumerate() {
            ids[place] = run(command, &format!("code={code}"), code)["id"].as_str().unwrap().to_owned();
            assert_eq!(std::fs::read(out.join("o/a.txt")).unwrap(), vec![b'A'; 700_000]);
            assert_eq!(std::fs::read(out.join("o/ü b")).unwrap(), b"B");
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
    let ids = [&ids[0][..], &ids[1][..]];
    for words in [
        &["files", "ID"][..],
        &["files", "ID", "--json"],
        &["files", "ID", "o/a.txt"],
        &["files", "ID", "./o/ü b"],
        &["files", "ID", "/work/o/a.txt"],
        &["files", "ID", "o/../o/a.txt"],
        &["files", "ID", "none"],
        &["verify", "ID"],
        &["verify", "0"],
        &["get", "0123456789"],
        &["get", "xyz"],
    ] {
        two.same_for(ids, words);
    }
    // In other words than on this machine.
    let nobody = "01234567-89ab-7def-8123-456789abcdef";
    for words in
        [&["get", nobody][..], &["logs", nobody], &["rm", nobody], &["cancel", nobody], &["verify", nobody]]
    {
        let ended = finish(two.at_server().args(words), None).expect(1);
        assert!(ended.message().contains("no execution") && ended.message().contains("hint: "), "{words:?}");
    }
    for options in [
        &[][..],
        &["--status", "failed"],
        &["--status", "failed", "--status", "succeeded", "--limit", "2"],
        &["--label", "code=1"],
        &["--label", "code=1", "--label", "x=y"],
        &["--since", "1h"],
        &["--since", "2100-01-01T00:00:00Z"],
    ] {
        let codes = |mut command: Command| -> Vec<String> {
            let list = finish(command.arg("list").args(options).arg("--json"), None).expect(0);
            let page: Value = serde_json::from_slice(&list.stdout).unwrap();
            let items = page["items"].as_array().unwrap();
            items.iter().map(|item| format!("{} {}", item["status"], item["exit_code"])).collect()
        };
        assert_eq!(codes(two.near.command()), codes(two.at_server()), "{options:?}");
    }
    let text = |mut command: Command| {
        finish(command.arg("list"), None).expect(0).stdout.split(|b| *b == b'\n').count()
    };
    assert_eq!(text(two.near.command()), text(two.at_server()));
    two.same_for(ids, &["rm", "ID"]).expect(0);
    for words in [["rm", ids[1]], ["cancel", ids[1]], ["verify", ids[1]]] {
        finish(two.at_server().args(words), None).expect(1);
    }
}

#[test]
fn cancel_ends_what_runs_and_says_what_had_ended() {
    let two = Two::new();
    let id = two.server.submit(&serde_json::json!({"command": ["sleep", "60"]}));
    let cancelled = finish(two.at_server().args(["cancel", &id]), None).expect(0);
    assert_eq!(cancelled.stdout, format!("{id}\n").into_bytes());
    assert_eq!(two.server.ended(&id)["status"], "cancelled");
    let again = finish(two.at_server().args(["cancel", &id]), None).expect(0);
    assert!(again.message().contains("has ended already: cancelled"), "{}", again.message());
}

#[test]
fn an_interrupt_cancels_at_the_server_and_waits() {
    let two = Two::new();
    let arguments = two.near.arguments(&[], &Program::Sh("echo begun; exec sleep 60"));
    let mut child =
        two.at_server().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(ended(child, None).code(), 130);
    let page = two.server.get("/v1/executions").json();
    assert_eq!(page["items"][0]["status"], "cancelled");
}

#[test]
fn what_a_server_cannot_do_is_refused_with_a_reason() {
    let lab = Lab::new();
    let nowhere = "http://127.0.0.1:9";
    let refused = |words: &[&str], code: i32, said: &str| {
        let ended = finish(lab.command().args(words), None).expect(code);
        assert!(ended.message().contains(said) && ended.message().contains("hint: "), "{}", ended.message());
    };
    let run = |options: &[&str], code: i32, said: &str| {
        refused(&[&["run", "--server", nowhere], options, &["--", "true"]].concat(), code, said);
    };
    run(&["--ro", "/etc:/x"], 2, "--ro of this machine can't be seen by the server");
    run(&["--venv", "/usr"], 2, "--venv of this machine");
    run(&["--image", "./x.tar"], 2, "is a path of this machine");
    run(&["--pull", "always"], 2, "--pull always");
    refused(&["list", "--server", nowhere, "--data-dir", "/tmp/x"], 2, "can't be used together");
    refused(&["doctor", "--server", nowhere], 2, "takes no --server");
    refused(&["verify", "--all", "--server", nowhere], 2, "--all reads a data directory");
    refused(&["list", "--server", "localhost:7070"], 2, "is not the address of a server");
    refused(&["list", "--server", nowhere], 1, "cannot reach the server at http://127.0.0.1:9");
    run(&[], 125, "cannot reach the server at http://127.0.0.1:9");
    let rows = lab.file("rows.jsonl", "{\"command\": [\"true\"]}\n");
    let rows = rows.to_str().unwrap();
    refused(&["batch", rows, "--server", nowhere, "--ro", "/etc"], 2, "--ro of this machine");
    refused(&["batch", rows, "--server", nowhere], 1, "cannot reach the server");
    // --data-dir is typed, and so goes before the environment; without it nothing listens there.
    let local = finish(at(&lab, nowhere).args(["list", "--data-dir"]).arg(&lab.data), None);
    local.expect(0);
    let key = finish(lab.command().args(["run", "--key", "k", "--", "true"]), None).expect(125);
    assert!(key.message().contains("--key needs --server"), "{}", key.message());
}

#[test]
fn a_key_is_needed_where_there_are_keys() {
    let far = Lab::new();
    let made = far.lastword(["keys", "create", "--scope", "run,read", "--tenant", "t"]).expect(0);
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let key = key.as_str();
    let server = Server::start(&far, &[]);
    let near = Lab::new();
    let code = |key: Option<&str>| {
        let mut command = at(&near, &server.url);
        key.map(|key| command.env("LASTWORD_API_KEY", key));
        finish(command.args(["run", "--", "echo", "hi"]), None)
    };
    assert_eq!(code(Some(key)).expect(0).stdout, b"hi\n");
    for wrong in [None, Some("lw_nonsense"), Some("")] {
        let refused = code(wrong).expect(125);
        let said = refused.message();
        assert!(said.contains("API key") && said.contains("hint: set LASTWORD_API_KEY"), "{said}");
        assert!(!said.contains("nonsense"), "{said}");
    }
    let file = near.file("key", format!("{key}\n"));
    let listed = finish(at(&near, &server.url).args(["list", "--json", "--api-key-file"]).arg(file), None);
    assert!(String::from_utf8_lossy(&listed.expect(0).stdout).contains("\"succeeded\""));
}

#[test]
fn the_same_key_gives_the_same_execution() {
    let two = Two::new();
    let run = |key: &str, word: &str| {
        finish(two.at_server().args(["run", "--verbose", "--key", key, "--", "echo", word]), None)
    };
    let id = |ended: &Ended| ended.message().split_whitespace().nth(2).map(str::to_owned);
    let (first, second) = (run("k", "hi").expect(0), run("k", "hi").expect(0));
    assert_eq!((&first.stdout[..], &second.stdout[..]), (&b"hi\n"[..], &b"hi\n"[..]));
    assert_eq!(id(&first), id(&second));
    let other = run("k", "other").expect(125);
    assert!(other.message().contains("was used for another request"), "{}", other.message());
    run("a b", "x").expect(2);
}

/// The server starts anew, with what it had, at the same address.
fn again(far: &Lab, server: Server) -> Server {
    let address = server.url.trim_start_matches("http://").to_owned();
    server.kill();
    wait_for("the address to be free again", || std::net::TcpListener::bind(&address).ok());
    Server::start_at(far, &address)
}

#[test]
fn a_server_that_starts_anew_costs_a_run_nothing() {
    let far = Lab::new();
    let mut server = Server::start(&far, &[]);
    let near = Lab::new();
    let code = "import sys, time\nfor n in range(300):\n print(n); print(-n, file=sys.stderr); time.sleep(0.02)\nprint(sys.stdin.read())";
    let arguments = near.arguments(&["--stdin", "-"], &Program::Python(code));
    let mut child = at(&near, &server.url)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let running = std::thread::spawn(move || ended(child, None));
    for word in ["one ", "two ", "three"] {
        wait_for("records", || {
            let page = server.get("/v1/executions?status=running").json();
            let id = page["items"][0]["id"].as_str()?.to_owned();
            Some(server.get(&format!("/v1/executions/{id}/logs")).body).filter(|text| text.len() > 100)
        });
        stdin.write_all(word.as_bytes()).unwrap();
        server = again(&far, server);
    }
    drop(stdin);
    let ended = running.join().unwrap().expect(0);
    let mut expected: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let errors: Vec<String> = (0..300).map(|n: i32| (-n).to_string()).collect();
    expected.push("one two three".into());
    assert_eq!(String::from_utf8_lossy(&ended.stdout), expected.join("\n") + "\n");
    assert_eq!(ended.message(), errors.join("\n") + "\n");
    assert_eq!(server.get("/v1/executions").json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_batch_runs_each_row_once_whoever_is_killed() {
    let far = Lab::new();
    let mut server = Server::start(&far, &["--concurrency", "4"]);
    let near = Lab::new();
    let rows: String = (0..60)
        .map(|n| {
            format!("{{\"runtime\": \"sh\", \"code\": \"echo row {n}; sleep 0.1\", \"key\": \"k{n}\"}}\n")
        })
        .collect();
    let rows = near.file("rows.jsonl", rows);
    let out = near.path().join("results.jsonl");
    let batch = |url: &str, more: &[&str]| {
        let mut command = at(&near, url);
        command.arg("batch").arg(&rows).arg("--out").arg(&out).args(["-j8"]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let lines = || std::fs::read_to_string(&out).map_or(0, |text| text.lines().count());
    let running = batch(&server.url, &[]).spawn().unwrap();
    wait_for("results", || (lines() > 5).then_some(()));
    server = again(&far, server);
    wait_for("more results", || (lines() > 15).then_some(()));
    // Now the client dies, and then the server once more.
    let mut running = running;
    running.kill().unwrap();
    running.wait().unwrap();
    server = again(&far, server);
    finish(&mut batch(&server.url, &["--resume"]), None).expect(0);
    let text = std::fs::read_to_string(&out).unwrap();
    let results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 60);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["row"], n);
        assert_eq!(result["key"], format!("k{n}"));
        assert_eq!(result["stdout"], format!("row {n}\n"));
        assert_eq!(result["ok"], true, "{result}");
    }
    let all = server.get("/v1/executions?limit=1000").json();
    let started = |item: &&Value| item["retry"]["program_started"] == true;
    let ran: Vec<&Value> = all["items"].as_array().unwrap().iter().filter(started).collect();
    assert_eq!(ran.len(), 60, "a row ran twice: {ran:?}");
}

#[test]
fn a_batch_is_the_same_at_a_server() {
    let two = Two::new();
    let rows = two.near.file(
        "rows.jsonl",
        concat!(
            "{\"runtime\": \"python\", \"code\": \"print(1)\", \"key\": \"first\"}\n",
            "{\"command\": [\"false\"], \"labels\": {\"a\": \"b\"}}\n",
            "{\"command\": 7, \"key\": \"wrong\"}\n\n",
            "{\"runtime\": \"cobol\", \"code\": \"x\"}\n",
            "{\"command\": [\"x\"], \"limits\": {\"pids\": 0}}\n",
            "{\"command\": [\"no-such-command\"]}\n",
            "{\"runtime\": \"sh\", \"code\": \"printf '\\\\377'; sleep 9\", \"limits\": {\"wall_ms\": 300}}\n",
        ),
    );
    for options in [&[][..], &["-j1"], &["--as-they-end", "-j1"]] {
        let arguments: Vec<OsString> =
            args!["batch", &rows].into_iter().chain(options.iter().map(OsString::from)).collect();
        let [near, far] = two.both(&arguments, None);
        assert_eq!((near.code(), far.code()), (1, 1), "{}\n{}", near.message(), far.message());
        let results = |ended: &Ended| -> Vec<Value> {
            let text = String::from_utf8(ended.stdout.clone()).unwrap();
            let one = |line: &str| {
                let mut result: Value = serde_json::from_str(line).unwrap();
                // What ties it to its row has other names at a server.
                if let Some(labels) = result["labels"].as_object_mut() {
                    labels.retain(|name, _| !name.starts_with("lastword"));
                }
                if !result["id"].is_null() {
                    for name in ["id", "usage", "created_at", "started_at", "ended_at", "queue_ms"] {
                        result[name] = Value::Null;
                    }
                }
                result
            };
            text.lines().map(one).collect()
        };
        assert_eq!(results(&near), results(&far));
    }
}

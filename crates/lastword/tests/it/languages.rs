//! The same programs in every language, and what the compile step and its cache promise.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::lab::{Ended, Lab, finish};
use crate::object::{Object, joined};

/// What is particular to one language; the programs and `expected.toml` lie in `languages/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    extension: String,
    #[serde(default)]
    compiled: bool,
    compile_error: String,
    compile_error_exit: Option<i64>,
    runtime_error: String,
    exit_code: Option<i64>,
    signal: Option<String>,
    oom: Oom,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Oom {
    /// "killed": the kernel ended it.
    Killed(String),
    ExitCode(i64),
}

struct Language {
    name: &'static str,
    expected: Expected,
    lab: Lab,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/languages")
}

impl Language {
    fn new(name: &'static str) -> Language {
        let text = std::fs::read_to_string(directory().join("expected.toml")).unwrap();
        let mut all: BTreeMap<String, Expected> = toml::from_str(&text).unwrap();
        Language { name, expected: all.remove(name).unwrap(), lab: Lab::new() }
    }

    fn code(&self, program: &str) -> String {
        let path = directory().join(self.name).join(format!("{program}.{}", self.expected.extension));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn ended(&self, program: &str, options: &[&str], stdin: Option<&[u8]>) -> Ended {
        let mut command = self.lab.command();
        let code = self.code(program);
        command.args(["run", "--json", "--runtime", self.name]).args(options).args(["-c", &code]);
        finish(&mut command, stdin)
    }

    fn run(&self, program: &str, options: &[&str], stdin: Option<&[u8]>) -> Object {
        let object = Object::parse(&self.ended(program, options, stdin).expect(0).stdout);
        self.lab.agree(&object);
        assert!(object.complete(), "{program} of {}: {:?}", self.name, object.0);
        object
    }

    fn hello(&self) {
        let object = self.run("hello", &[], None);
        assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
        assert_eq!(object.stdout(), b"hello from stdout\n");
        assert_eq!(object.stderr(), b"hello from stderr\n");
        assert_eq!(object.at("/runtime"), self.name);
        let version = object.at("/environment/runtime_version");
        // dash has none to tell.
        assert!(
            version.as_str().is_some_and(|version| !version.is_empty()) || self.name == "sh",
            "{version}"
        );
        assert_eq!(object.at("/compile").is_null(), !self.expected.compiled);
    }

    fn exit_code(&self) {
        let object = self.run("exit_code", &[], None);
        assert_eq!((object.end().as_str(), object.exit_code()), ("failed/exit", Some(7)), "{:?}", object.0);
    }

    fn echo(&self) {
        let input = "línea 1\nline 2\nno end".as_bytes();
        let object = self.run("echo", &["--stdin", "-"], Some(input));
        assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
        assert_eq!(object.stdout(), input);
    }

    fn runtime_error(&self) {
        let object = self.run("runtime_error", &[], None);
        assert_eq!(object.stdout(), b"before\n", "{:?}", object.0);
        let stderr = String::from_utf8(object.stderr()).unwrap();
        assert!(stderr.contains(&self.expected.runtime_error), "{stderr}");
        assert_eq!(object.exit_code(), self.expected.exit_code, "{:?}", object.0);
        assert_eq!(object.signal(), self.expected.signal.as_deref());
    }

    fn compile_error(&self) {
        let object = self.run("compile_error", &[], None);
        let (said, stdout) = match self.expected.compiled {
            true => {
                assert_eq!(object.end(), "failed/compile_failed", "{:?}", object.0);
                assert_eq!(object.at("/retry/program_started"), false);
                assert_eq!((object.stdout(), object.stderr()), (Vec::new(), Vec::new()));
                let log = joined(&self.lab.records(object.text("/compile/id")), "stderr");
                assert_eq!(object.text("/compile/stderr").as_bytes(), log);
                (String::from_utf8(log).unwrap(), Vec::new())
            }
            false => {
                assert_eq!(object.exit_code(), self.expected.compile_error_exit, "{:?}", object.0);
                (String::from_utf8(object.stderr()).unwrap(), object.stdout())
            }
        };
        assert!(said.contains(&self.expected.compile_error), "{said}");
        assert!(!String::from_utf8_lossy(&stdout).contains("never said"));
    }

    fn forever(&self) {
        let object = self.run("forever", &["--timeout", "3s"], None);
        assert_eq!(object.end(), "timed_out/wall_time", "{:?}", object.0);
        assert_eq!(object.stdout(), b"started\n");
    }

    fn last_line(&self) {
        let object = self.run("last_line", &[], None);
        assert_eq!((object.end().as_str(), object.signal()), ("failed/signal", Some("SIGKILL")));
        assert_eq!(object.stdout(), b"last line\n", "{:?}", object.0);
    }

    fn out_of_memory(&self) {
        let object = self.run("oom", &["--memory", "256MiB", "--timeout", "60s"], None);
        match &self.expected.oom {
            Oom::Killed(killed) if killed == "killed" => {
                assert_eq!(object.end(), "failed/out_of_memory", "{:?}", object.0)
            }
            Oom::Killed(other) => panic!("{other} in expected.toml"),
            Oom::ExitCode(code) => assert_eq!(object.exit_code(), Some(*code), "{:?}", object.0),
        }
    }
}

macro_rules! languages {
    ($($name:ident)*) => {$(
        mod $name {
            use super::Language;

            #[test]
            fn says_hello_fails_and_reads() {
                let language = Language::new(stringify!($name));
                language.hello();
                language.exit_code();
                language.echo();
                language.runtime_error();
                language.compile_error();
                language.last_line();
                language.forever();
            }

            #[test]
            fn out_of_memory_heavy() {
                Language::new(stringify!($name)).out_of_memory();
            }
        }
    )*};
}

languages!(bash c cpp go java node perl python ruby rust sh);

/// One program in C++ that adds what it reads.
const SUM: &str = "#include <iostream>\n#include \"start.h\"\nint main() { long n, sum = START; while (std::cin >> n) sum += n; std::cout << sum << \"\\n\"; }\n";

struct Judge {
    lab: Lab,
}

impl Judge {
    fn new() -> Judge {
        let lab = Lab::new();
        lab.file("sum.cpp", SUM);
        lab.file("start.h", "#define START 0\n");
        Judge { lab }
    }

    fn run(&self, options: &[&str], stdin: &str) -> Object {
        let mut command = self.lab.command();
        command.current_dir(self.lab.path());
        command.args(["run", "--json", "--stdin", "-", "--file", "start.h"]).args(options).arg("sum.cpp");
        Object::parse(&finish(&mut command, Some(stdin.as_bytes())).expect(0).stdout)
    }

    /// Compile steps that were really done.
    fn steps(&self) -> usize {
        let listed =
            self.lab.lastword(["list", "--json", "--limit", "1000", "--label", "lastword.step=compile"]);
        String::from_utf8(listed.expect(0).stdout).unwrap().matches("\"lastword.step\"").count()
    }
}

#[test]
fn a_program_that_is_judged_on_100_inputs_is_compiled_once() {
    let judge = Judge::new();
    let results: Vec<(Object, u64)> = std::thread::scope(|scope| {
        let judge = &judge;
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                scope.spawn(move || {
                    let inputs = (worker * 25)..(worker + 1) * 25;
                    inputs.map(|n| (judge.run(&[], &format!("{n} 1000\n")), n + 1000)).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    for (object, sum) in &results {
        assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
        assert_eq!(object.stdout(), format!("{sum}\n").as_bytes());
    }
    assert_eq!(results.len(), 100);
    // A list of a hundred runs shows them, not the step.
    let listed = judge.lab.lastword(["list", "--json", "--limit", "100"]).expect(0).stdout;
    let listed = Object::parse(&listed);
    assert_eq!(listed.at("/items").as_array().map(Vec::len), Some(100));
    assert_eq!(results.iter().filter(|(object, _)| object.at("/compile/cached") == false).count(), 1);
    assert_eq!(judge.steps(), 1);
}

#[test]
fn what_changes_the_program_is_compiled_again() {
    let judge = Judge::new();
    let answer = |options: &[&str]| {
        let object = judge.run(options, "1\n");
        assert_eq!(object.end(), "succeeded/exit", "{:?}", object.0);
        (String::from_utf8(object.stdout()).unwrap(), object.at("/compile/cached") == true)
    };
    assert_eq!(answer(&[]), ("1\n".into(), false));
    assert_eq!(answer(&[]), ("1\n".into(), true));
    // A header.
    judge.lab.file("start.h", "#define START 5\n");
    assert_eq!(answer(&[]), ("6\n".into(), false));
    // A flag that changes nothing in what it prints.
    assert_eq!(answer(&["--compile-flag=-O1"]), ("6\n".into(), false));
    assert_eq!(answer(&["--compile-flag=-O1"]), ("6\n".into(), true));
    // Another file beside it, another name of the same file.
    judge.lab.file("other.h", "");
    assert_eq!(answer(&["--file", "other.h"]), ("6\n".into(), false));
    assert_eq!(answer(&["--file", "other.h:moved.h"]), ("6\n".into(), false));
    // Back to the first.
    judge.lab.file("start.h", "#define START 0\n");
    assert_eq!(answer(&[]), ("1\n".into(), true));
    assert_eq!(judge.steps(), 5);
}

/// What would be another answer with more memory is not kept as an answer.
#[test]
fn a_compiler_that_runs_out_of_memory_is_asked_again_heavy() {
    let lab = Lab::new();
    for _ in 0..2 {
        let code = "#include \"/dev/zero\"\n";
        let ended = lab.lastword(["run", "--json", "--runtime", "cpp", "-c", code]).expect(0);
        let object = Object::parse(&ended.stdout);
        assert_eq!(object.end(), "failed/compile_failed", "{:?}", object.0);
        assert_eq!(object.at("/retry/program_started"), false);
        assert_eq!(object.at("/compile/cached"), false, "{:?}", object.0);
        assert!(lab.get(object.text("/compile/id")).at("/oom_killed") == true, "{:?}", object.0);
        lab.agree(&object);
    }
}

#[test]
fn files_beside_the_entry_are_compiled_and_read() {
    let lab = Lab::new();
    let dir = lab.path().join("project");
    std::fs::create_dir_all(dir.join("lib")).unwrap();
    std::fs::write(dir.join("main.c"), "#include <stdio.h>\n#include \"lib/two.h\"\nint main(void) { char b[9] = {0}; FILE *f = fopen(\"data.txt\", \"r\"); fread(b, 1, 8, f); printf(\"%d %s\\n\", two(), b); }\n").unwrap();
    std::fs::write(dir.join("lib/two.c"), "int two(void) { return 2; }\n").unwrap();
    std::fs::write(dir.join("lib/two.h"), "int two(void);\n").unwrap();
    std::fs::write(dir.join("data.txt"), "data").unwrap();
    let mut command = lab.command();
    command.current_dir(&dir).args(["run", "--dir", ".", "main.c"]);
    let ended = finish(&mut command, None).expect(0);
    assert_eq!(ended.stdout, b"2 data\n", "{}", ended.message());
}

//! The commands of the README and of the API guide, run as they are written, and their answers compared with those beside them.
//!
//! All ```sh blocks of a document are one bash session, in a directory of their own that has the project's `examples`. A block of
//! another kind directly behind one of them is its answer. Ids, times and cursors in it stand for any. Only the port is another
//! one than it says.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lastword_api::quantity::{format_ms, format_size};
use lastword_api::{ErrorCode, limits};

use crate::lab::{Lab, ended};

const PORT: &str = "7070";

fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A block of commands, and the answer that stands beside it.
#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    commands: String,
    answer: Option<String>,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    // Whether the next block is an answer: nothing but blank lines may stand between.
    let mut beside = false;
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            beside &= line.is_empty();
            continue;
        };
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
        let text = inside.fold(String::new(), |text, line| text + line + "\n");
        match (kind, blocks.last_mut()) {
            ("sh", _) => blocks.push(Block { line: number + 1, commands: text, answer: None }),
            (_, Some(block)) if beside => block.answer = Some(text),
            _ => {}
        }
        beside = kind == "sh";
    }
    blocks
}

/// With what is another one each time taken out.
fn settled(text: &str) -> String {
    let mut settled = String::new();
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-:.".contains(c);
    let mut rest = text.trim_end();
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len()).max(first.len_utf8());
        let (word, behind) = rest.split_at(length);
        settled.push_str(placeholder(word).unwrap_or(word));
        rest = behind;
    }
    settled
}

fn placeholder(word: &str) -> Option<&'static str> {
    let shape: String = word
        .chars()
        .map(|c| match c {
            '0'..='9' => '9',
            'a'..='f' => 'f',
            other => other,
        })
        .collect();
    let is_id = word.len() == 36 && uuid::Uuid::try_parse(word).is_ok();
    let is_digest = word.len() == 64 && shape.chars().all(|c| "9f".contains(c));
    let is_cursor = word.split_once('-').is_some_and(|(feed, seq)| {
        feed.len() > 9 && [feed, seq].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    });
    match () {
        () if shape.starts_with("9999-99-99T99:99:99") => Some("TIME"),
        () if is_id => Some("ID"),
        () if is_digest => Some("DIGEST"),
        () if is_cursor => Some("CURSOR"),
        () => None,
    }
}

/// Ends everything that the commands have started, however the test ends.
struct Group(rustix::process::Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.0, rustix::process::Signal::KILL);
    }
}

/// bash with the blocks, each of which says into a file of its own.
fn script(blocks: &[Block], port: u16, said: &Path) -> String {
    // A file, since what is started in the background would hold a pipe open. The server's log comes here too.
    let mut script = format!("exec 2>{}\n", said.join("stderr").display());
    for (number, block) in blocks.iter().enumerate() {
        let commands = at_port(&block.commands, port);
        let file = said.join(number.to_string());
        writeln!(script, "{{\n{commands}}} >{}", file.display()).unwrap();
    }
    script
}

fn at_port(text: &str, port: u16) -> String {
    text.replace(&format!("127.0.0.1:{PORT}"), &format!("127.0.0.1:{port}"))
}

fn copy_examples(to: &Path, port: u16) {
    std::fs::create_dir(to).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for entry in std::fs::read_dir(examples).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            std::fs::write(to.join(entry.file_name()), at_port(&text, port)).unwrap();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(path: &str) {
    let document = document(path);
    let blocks = blocks(&document);
    assert!(blocks.len() > 1, "{path} has no commands");
    let lab = Lab::new();
    let (here, said) = (lab.path().join("here"), lab.path().join("said"));
    std::fs::create_dir(&here).unwrap();
    std::fs::create_dir(&said).unwrap();
    let port = free_port();
    copy_examples(&here.join("examples"), port);
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_lastword"));
    let path_variable = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
    // The binary's own surroundings, and bash in its place.
    let lastword = lab.command();
    let mut bash = Command::new("bash");
    for (key, value) in lastword.get_envs() {
        match value {
            Some(value) => bash.env(key, value),
            None => bash.env_remove(key),
        };
    }
    bash.args(["-euo", "pipefail", "-c", &script(&blocks, port, &said)]).current_dir(&here);
    bash.env("PATH", path_variable).env("LASTWORD_ALLOW_UNENFORCED", "true");
    bash.env("LASTWORD_LISTEN", format!("127.0.0.1:{port}"));
    bash.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = bash.spawn().unwrap();
    let group = Group(rustix::process::Pid::from_child(&child));
    let ended = ended(child, None);
    drop(group);
    let answer = |number: usize| std::fs::read_to_string(said.join(number.to_string()));
    // The last one that has begun is the one that failed.
    let last = (0..blocks.len()).rev().find_map(|number| Some((&blocks[number], answer(number).ok()?)));
    let stderr = std::fs::read_to_string(said.join("stderr")).unwrap_or_default();
    assert!(ended.status.success(), "{path}: {}\n{last:#?}\n{stderr}", ended.status);
    for (number, block) in blocks.iter().enumerate() {
        if let Some(expected) = &block.answer {
            let answer = answer(number).unwrap();
            assert_eq!(settled(&answer), settled(expected), "{path}, line {}, said\n{answer}", block.line);
        }
    }
}

#[test]
fn the_guide_is_right() {
    run("docs/api.md");
}

#[test]
fn the_readme_is_right() {
    run("README.md");
}

#[test]
fn the_guide_shows_the_example_as_it_is() {
    let (guide, example) = (document("docs/api.md"), document("examples/completions.py"));
    let (_, shown) = guide.split_once("```python\n").unwrap();
    let (shown, _) = shown.split_once("```\n").unwrap();
    assert!(
        shown.len() > 1000 && example.ends_with(shown),
        "copy examples/completions.py from `def handle` on"
    );
}

/// Cells of the table behind a comment that says what it is checked against.
fn table(document: &str, checked_against: &str) -> Vec<Vec<String>> {
    let (_, rest) = document
        .split_once(&format!("<!-- checked against {checked_against} by tests/it/api_guide.rs -->"))
        .unwrap_or_else(|| panic!("no table of {checked_against}"));
    let rows = rest.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect()
}

#[test]
fn the_guide_has_each_problem() {
    let rows = table(&document("docs/api.md"), "crates/api/src/problem.rs");
    let expected: Vec<[String; 3]> = ErrorCode::ALL
        .iter()
        .map(|code| [code.status().to_string(), code.name().to_owned(), code.title().to_owned()])
        .collect();
    assert!(rows.iter().all(|row| row.len() == 4 && !row[3].is_empty()));
    assert_eq!(
        rows.iter().map(|row| [row[0].clone(), row[1].clone(), row[2].clone()]).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn the_guide_has_each_limit() {
    let row =
        |name: &str, default: String, min: String, max: String| [name.to_owned(), default, min, max].to_vec();
    let none = || "no limit".to_owned();
    let size =
        |name: &str, of: [u64; 3]| row(name, format_size(of[0]), format_size(of[1]), format_size(of[2]));
    let count = |name: &str, of: [u64; 3]| row(name, of[0].to_string(), of[1].to_string(), of[2].to_string());
    let ms = format_ms;
    let expected = [
        row("wall_ms", ms(limits::WALL_MS_DEFAULT), ms(limits::WALL_MS_MIN), ms(limits::WALL_MS_MAX)),
        row("cpu_ms", none(), ms(limits::CPU_MS_MIN), ms(limits::CPU_MS_MAX)),
        size(
            "memory_bytes",
            [limits::MEMORY_BYTES_DEFAULT, limits::MEMORY_BYTES_MIN, limits::MEMORY_BYTES_MAX],
        ),
        count("pids", [limits::PIDS_DEFAULT, limits::PIDS_MIN, limits::PIDS_MAX]),
        row("cpus", none(), limits::CPUS_MIN.to_string(), limits::CPUS_MAX.to_string()),
        size("disk_bytes", [limits::DISK_BYTES_DEFAULT, limits::DISK_BYTES_MIN, limits::DISK_BYTES_MAX]),
        size(
            "output_bytes",
            [limits::OUTPUT_BYTES_DEFAULT, limits::OUTPUT_BYTES_MIN, limits::OUTPUT_BYTES_MAX],
        ),
        size("stack_bytes", [limits::STACK_BYTES_DEFAULT, limits::STACK_BYTES_MIN, limits::STACK_BYTES_MAX]),
        count("open_files", [limits::OPEN_FILES_DEFAULT, limits::OPEN_FILES_MIN, limits::OPEN_FILES_MAX]),
    ];
    assert_eq!(table(&document("docs/api.md"), "crates/api/src/limits.rs"), expected);
}

#[test]
fn what_is_compared_is_what_can_be_known() {
    let one = r#"{"cursor":"5827916327738721-31","id":"01a20b7d-30cc-76cb-a5a8-9894a5c626ee","at":"2026-11-24T02:58:03.632Z","n":31}"#;
    assert_eq!(settled(one), r#"{"cursor":"CURSOR","id":"ID","at":"TIME","n":31}"#);
    assert_eq!(settled("[200,\"a-b\"]\n\n"), "[200,\"a-b\"]");
    let text = "a\n```sh\none\n```\n\n```json\n{}\n```\n\n```sh\ntwo\n```\ntext\n\n```text\nno answer\n```\n";
    let expected = [
        Block { line: 2, commands: "one\n".into(), answer: Some("{}\n".into()) },
        Block { line: 10, commands: "two\n".into(), answer: None },
    ];
    assert_eq!(blocks(text), expected);
}

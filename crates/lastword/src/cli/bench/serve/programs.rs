//! Programs whose output is known, each with bytes of its own: those of another one would show.

use anyhow::{Context, ensure};
use lastword_api::Stream;
use serde_json::{Value, json};

use super::limits::{FLOOD_BLOCKS, FLOOD_LINES, LINE_EVERY_S, PRINTER_WALL_MS};

/// What a program wrote: each stream, and both as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) streams: [Vec<u8>; 2],
    pub(super) together: Vec<u8>,
}

impl Output {
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        self.streams[lastword_frame::Stream::from(stream).index()].extend_from_slice(bytes);
        self.together.extend_from_slice(bytes);
    }
}

/// A request, and what has to come of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) request: Value,
    pub(super) exit_code: i32,
    pub(super) expected: Expected,
}

#[derive(Clone, Debug)]
pub(super) enum Expected {
    Exactly(Output),
    /// Of a printer: as many lines as it came to, none missing.
    Counted(String),
}

/// The Python script that is measured, also bare.
pub(super) fn script(n: u64) -> String {
    format!(
        "import sys\nprint(\"first {n}\")\nprint(\"second {n}\", file=sys.stderr)\nprint(\"third {n}\")\nsys.exit({})\n",
        exit_code(n)
    )
}

fn exit_code(n: u64) -> i32 {
    (n % 4) as i32
}

fn known(code: String, runtime: &str, exit_code: i32, pieces: &[(Stream, &str)]) -> Known {
    let mut output = Output::default();
    pieces.iter().for_each(|(stream, text)| output.push(*stream, text.as_bytes()));
    let request = json!({"runtime": runtime, "code": code});
    Known { request, exit_code, expected: Expected::Exactly(output) }
}

pub(super) fn python(n: u64) -> Known {
    let [first, second, third] = ["first", "second", "third"].map(|word| format!("{word} {n}\n"));
    let pieces = [(Stream::Stdout, &*first), (Stream::Stderr, &*second), (Stream::Stdout, &*third)];
    known(script(n), "python", exit_code(n), &pieces)
}

fn shell(n: u64) -> Known {
    let (out, err) = (format!("out {n}\n"), format!("err {n}\n"));
    let code = format!("echo out {n}\necho err {n} >&2\nexit {}\n", exit_code(n));
    known(code, "bash", exit_code(n), &[(Stream::Stdout, &out), (Stream::Stderr, &err)])
}

/// One that takes its time, so that it is followed while it runs.
fn slow_lines(n: u64) -> Known {
    let code = format!("for i in 1 2 3 4 5 6 7 8 9 10; do echo \"slow {n} $i\"; sleep 0.03; done\n");
    let text: String = (1..=10).map(|i| format!("slow {n} {i}\n")).collect();
    known(code, "bash", 0, &[(Stream::Stdout, &text)])
}

/// What waits in the queue.
pub(super) fn queued(n: u64) -> Known {
    match n % 50 {
        0 => slow_lines(n),
        of if of % 5 == 1 => python(n),
        _ => shell(n),
    }
}

/// More than the buffers between a server and one who doesn't read.
pub(super) fn flood() -> Known {
    let code = format!(
        "import sys\nfor b in range({FLOOD_BLOCKS}):\n    sys.stdout.write(\"\".join(\"flood %d %d {fill}\\n\" % (b, l) for l in range({FLOOD_LINES})))\n",
        fill = "x".repeat(100)
    );
    let line = |at: u64| format!("flood {} {} {}\n", at / FLOOD_LINES, at % FLOOD_LINES, "x".repeat(100));
    let text: String = (0..FLOOD_BLOCKS * FLOOD_LINES).map(line).collect();
    known(code, "python", 0, &[(Stream::Stdout, &text)])
}

/// One that says what time it is until its stdin is closed.
pub(super) fn printer(k: u64) -> Known {
    let name = format!("printer-{k}");
    let code = format!(
        "import select, sys, time\nn = 0\nwhile not select.select([0], [], [], {LINE_EVERY_S})[0]:\n    print(\"{name}\", n, time.time_ns(), file=sys.stderr if n % 10 == 9 else sys.stdout, flush=True)\n    n += 1\nprint(\"{name} said\", n)\n"
    );
    let request = json!({
        "runtime": "python", "code": code, "stdin_open": true, "priority": 100, "limits": {"wall_ms": PRINTER_WALL_MS},
    });
    Known { request, exit_code: 0, expected: Expected::Counted(name) }
}

/// The time that a line of a printer says it was written at; nanoseconds since 1970.
pub(super) fn said_at(line: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.strip_prefix("printer-")?.split_whitespace().skip(1);
    // The last line has a word there.
    let _number: u64 = words.next()?.parse().ok()?;
    words.next()?.parse().ok()
}

impl Expected {
    /// An error that says what is different.
    pub(super) fn check(&self, got: &Output) -> anyhow::Result<()> {
        match self {
            Expected::Exactly(output) => {
                ensure!(got == output, "it wrote {}", shown(&got.together));
                Ok(())
            }
            Expected::Counted(name) => counted(name, got),
        }
    }
}

fn counted(name: &str, got: &Output) -> anyhow::Result<()> {
    let text = std::str::from_utf8(&got.together).context("it wrote what is not UTF-8")?;
    let (last, lines) = {
        let mut lines: Vec<&str> = text.lines().collect();
        (lines.pop().unwrap_or_default(), lines)
    };
    for (n, line) in lines.iter().enumerate() {
        ensure!(line.starts_with(&format!("{name} {n} ")), "line {n} is {line:?}");
    }
    ensure!(last == format!("{name} said {}", lines.len()), "the last of {} lines is {last:?}", lines.len());
    let errors = got.streams[1].iter().filter(|byte| **byte == b'\n').count();
    ensure!(errors == lines.len() / 10, "{errors} of {} lines are on stderr", lines.len());
    Ok(())
}

fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    format!("{} bytes: {}", bytes.len(), bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(lines: &[(Stream, &str)]) -> Output {
        let mut output = Output::default();
        lines.iter().for_each(|(stream, line)| output.push(*stream, line.as_bytes()));
        output
    }

    #[test]
    fn a_printer_may_miss_no_line() {
        let out = Stream::Stdout;
        let expected = Expected::Counted("printer-1".into());
        let good = [(out, "printer-1 0 55\n"), (out, "printer-1 1 66\n"), (out, "printer-1 said 2\n")];
        assert!(expected.check(&printed(&good)).is_ok());
        assert!(expected.check(&printed(&good[1..])).is_err());
        assert!(expected.check(&printed(&good[..2])).is_err());
        assert!(expected.check(&printed(&[good[0], good[2]])).is_err());
        assert!(expected.check(&printed(&[good[0], (Stream::Stderr, good[1].1), good[2]])).is_err());
        assert_eq!(said_at(good[1].1.as_bytes()), Some(66));
        assert_eq!((said_at(b"first 2"), said_at(good[2].1.as_bytes())), (None, None));
    }

    #[test]
    fn another_ones_bytes_are_seen() {
        let (Expected::Exactly(one), two) = (python(1).expected, python(2).expected) else { unreachable!() };
        assert!(python(1).expected.check(&one).is_ok());
        assert!(two.check(&one).is_err());
    }
}

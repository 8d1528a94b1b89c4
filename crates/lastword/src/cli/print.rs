//! Prints records: bytes as they are, or behind their time, or as lines of JSON.

use lastword_api::{Stream, Timestamp};

use super::output::Output;
use crate::execution::Sink;
use crate::replay::select::index;

/// Passes the program's streams on to ours.
#[derive(Debug)]
pub(crate) struct Printer {
    outputs: [Output; 2],
    timestamps: bool,
    /// Per stream: the next byte begins a line.
    at_line_start: [bool; 2],
}

impl Printer {
    pub(crate) fn new(timestamps: bool) -> Self {
        Self { outputs: [Output::stdout(), Output::stderr()], timestamps, at_line_start: [true; 2] }
    }

    /// Nobody reads either stream any more.
    pub(crate) fn is_shut(&self) -> bool {
        self.outputs.iter().all(Output::is_shut)
    }

    /// Why something could not be passed on, and of which stream.
    pub(crate) fn failure(&self) -> Option<(Stream, std::io::Error)> {
        let [stdout, stderr] = &self.outputs;
        let failure = |output: &Output, stream| output.failure().map(|error| (stream, error));
        failure(stdout, Stream::Stdout).or_else(|| failure(stderr, Stream::Stderr))
    }
}

impl Sink for Printer {
    fn record(&mut self, stream: Stream, time_ns: i64, _seq: u64, bytes: &[u8]) {
        let output = &mut self.outputs[index(stream)];
        if self.timestamps {
            let prefix = format!("{} {} ", Timestamp::from_ns(time_ns), stream.name());
            output.write(&prefixed(&prefix, bytes, &mut self.at_line_start[index(stream)]));
        } else {
            output.write(bytes);
        }
    }

    fn dropped(&mut self, _stream: Stream, _time_ns: i64, _seq: u64, _bytes: u64) {}
}

/// The bytes with a prefix at each beginning of a line. A line that goes on from the record before has none.
fn prefixed(prefix: &str, bytes: &[u8], at_line_start: &mut bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + prefix.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if *at_line_start {
            out.extend_from_slice(prefix.as_bytes());
        }
        out.extend_from_slice(line);
        *at_line_start = line.ends_with(b"\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_one_prefix() {
        let mut start = true;
        let mut out = prefixed("> ", b"a\nb", &mut start);
        assert_eq!(out, b"> a\n> b");
        out = prefixed("> ", b"c\n", &mut start);
        assert_eq!(out, b"c\n");
        out = prefixed("> ", b"\n\xff", &mut start);
        assert_eq!(out, b"> \n> \xff");
    }
}

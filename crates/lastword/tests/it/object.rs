//! What lastword prints, taken apart with nothing of its own code.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

/// The execution object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object(pub(crate) Value);

impl Object {
    /// From `run --json` or `get --json`.
    pub(crate) fn parse(text: &[u8]) -> Self {
        match serde_json::from_slice(text) {
            Ok(value) => Self(value),
            Err(error) => panic!("not one JSON object ({error}): {}", text.escape_ascii()),
        }
    }

    pub(crate) fn id(&self) -> &str {
        self.text("/id")
    }

    pub(crate) fn status(&self) -> &str {
        self.text("/status")
    }

    /// Empty if null.
    pub(crate) fn reason(&self) -> &str {
        self.at("/reason").as_str().unwrap_or("")
    }

    /// "status/reason", for one comparison.
    pub(crate) fn end(&self) -> String {
        format!("{}/{}", self.status(), self.reason())
    }

    pub(crate) fn exit_code(&self) -> Option<i64> {
        self.at("/exit_code").as_i64()
    }

    pub(crate) fn signal(&self) -> Option<&str> {
        self.at("/signal").as_str()
    }

    pub(crate) fn complete(&self) -> bool {
        self.at("/transcript/complete") == &Value::Bool(true)
    }

    pub(crate) fn ordering(&self) -> &str {
        self.text("/transcript/ordering")
    }

    /// Records below it are in exact order; `u64::MAX` if all are.
    pub(crate) fn exact_until(&self) -> u64 {
        match self.ordering() {
            "exact" => u64::MAX,
            "arrival" => self.at("/transcript/ordering_until_seq").as_u64().unwrap_or(0),
            other => panic!("ordering {other}"),
        }
    }

    pub(crate) fn dropped(&self, stream: &str) -> u64 {
        self.number(&format!("/transcript/{stream}/dropped"))
    }

    pub(crate) fn bytes(&self, stream: &str) -> u64 {
        self.number(&format!("/transcript/{stream}/bytes"))
    }

    pub(crate) fn stdout(&self) -> Vec<u8> {
        self.inline("stdout")
    }

    pub(crate) fn stderr(&self) -> Vec<u8> {
        self.inline("stderr")
    }

    /// One of `stdout`, `stderr`, `output`, decoded.
    pub(crate) fn inline(&self, field: &str) -> Vec<u8> {
        let text = self.text(&format!("/{field}"));
        match self.text(&format!("/{field}_encoding")) {
            "utf-8" => text.as_bytes().to_vec(),
            "base64" => BASE64_STANDARD.decode(text).unwrap(),
            other => panic!("{field}_encoding {other}"),
        }
    }

    pub(crate) fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {}", self.0))
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_else(|| panic!("{pointer} is no text in {}", self.0))
    }

    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.at(pointer).as_u64().unwrap_or_else(|| panic!("{pointer} is no number in {}", self.0))
    }
}

/// One line of `logs --format jsonl`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) seq: u64,
    pub(crate) timestamp: String,
    pub(crate) stream: String,
    /// Empty for a record of dropped bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) dropped: u64,
}

impl Record {
    pub(crate) fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let bytes = match (value["log"].as_str(), value["log_b64"].as_str()) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(text)) => BASE64_STANDARD.decode(text).unwrap(),
            (None, None) => Vec::new(),
            (Some(_), Some(_)) => panic!("both encodings in {line}"),
        };
        Self {
            seq: value["seq"].as_u64().unwrap(),
            timestamp: value["timestamp"].as_str().unwrap().to_owned(),
            stream: value["stream"].as_str().unwrap().to_owned(),
            bytes,
            dropped: value["dropped"].as_u64().unwrap_or(0),
        }
    }
}

/// All bytes of one stream.
pub(crate) fn joined(records: &[Record], stream: &str) -> Vec<u8> {
    let of = records.iter().filter(|record| record.stream == stream);
    of.flat_map(|record| record.bytes.iter().copied()).collect()
}

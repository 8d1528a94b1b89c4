//! One record of a transcript as a line of JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::encoding::{Encoding, output_text};
use crate::{Stream, Timestamp};

/// One record: bytes of the program, or a count of bytes that were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogRecord {
    /// Counts from 0 without a gap over both streams.
    pub seq: u64,
    /// When the bytes were read.
    pub timestamp: Timestamp,
    pub stream: Stream,
    #[serde(flatten)]
    pub text: LogText,
}

/// What a record holds. The variant's name is the field's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum LogText {
    /// Bytes that are UTF-8, as text.
    #[serde(rename = "log")]
    Log(String),
    /// Bytes that are not UTF-8, in base64.
    #[serde(rename = "log_b64")]
    Base64(String),
    /// So many bytes were read and dropped.
    #[serde(rename = "dropped")]
    Dropped(u64),
}

impl LogRecord {
    pub fn output(seq: u64, timestamp: Timestamp, stream: Stream, bytes: &[u8]) -> Self {
        let text = match output_text(bytes) {
            (text, Encoding::Utf8) => LogText::Log(text),
            (text, Encoding::Base64) => LogText::Base64(text),
        };
        Self { seq, timestamp, stream, text }
    }

    pub fn dropped(seq: u64, timestamp: Timestamp, stream: Stream, bytes: u64) -> Self {
        Self { seq, timestamp, stream, text: LogText::Dropped(bytes) }
    }

    /// The record as one line of JSON with its newline.
    pub fn to_line(&self) -> String {
        // Serialising these types can't fail: no map with keys that aren't strings, no error of ours.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_as_promised() {
        let time = Timestamp::from_ns(0);
        let lines = [
            LogRecord::output(0, time, Stream::Stdout, b"Before error\n"),
            LogRecord::output(1, time, Stream::Stderr, b"\xff\n"),
            LogRecord::dropped(2, time, Stream::Stderr, 7),
        ];
        let expected = [
            r#"{"seq":0,"timestamp":"1970-01-01T00:00:00.000000000Z","stream":"stdout","log":"Before error\n"}"#,
            r#"{"seq":1,"timestamp":"1970-01-01T00:00:00.000000000Z","stream":"stderr","log_b64":"/wo="}"#,
            r#"{"seq":2,"timestamp":"1970-01-01T00:00:00.000000000Z","stream":"stderr","dropped":7}"#,
        ];
        for (record, expected) in lines.iter().zip(expected) {
            assert_eq!(record.to_line(), format!("{expected}\n"));
            assert_eq!(&serde_json::from_str::<LogRecord>(expected).unwrap(), record);
        }
    }
}

//! Bytes in JSON: as text if they are UTF-8, else in base64. Never a replaced byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a text field of the execution object carries its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "utf-8",
            Encoding::Base64 => "base64",
        }
    }
}

/// The bytes as a JSON string can hold them, exactly.
pub fn output_text(bytes: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (base64(bytes), Encoding::Base64),
    }
}

/// The bytes in standard base64, with padding.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes behind a text and its encoding; `None` if the base64 is not valid.
pub fn output_bytes(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Utf8 => Some(text.as_bytes().to_vec()),
        Encoding::Base64 => STANDARD.decode(text).ok(),
    }
}

/// How many of the first bytes to keep, at most `max`, so that a cut doesn't split a character of UTF-8
/// and thereby turn readable text into base64. Bytes that aren't UTF-8 are cut at `max`.
pub fn cut_at(bytes: &[u8], max: usize) -> usize {
    if bytes.len() <= max {
        return bytes.len();
    }
    match std::str::from_utf8(&bytes[..max]) {
        Ok(_) => max,
        // `error_len` is None only where the text ends inside a character.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => max,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(output_text(b""), (String::new(), Encoding::Utf8));
        assert_eq!(output_text("a\0é\n".as_bytes()), ("a\0é\n".to_owned(), Encoding::Utf8));
        assert_eq!(output_text(b"\xff"), ("/w==".to_owned(), Encoding::Base64));
        assert_eq!(output_bytes("no base64!", Encoding::Base64), None);
    }

    #[test]
    fn a_cut_keeps_characters_whole() {
        assert_eq!(cut_at("aé".as_bytes(), 2), 1);
        assert_eq!(cut_at("aé".as_bytes(), 3), 3);
        assert_eq!(cut_at(b"a\xff\xc3\xa9", 3), 3);
        assert_eq!(cut_at(b"abc", 0), 0);
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(bytes: Vec<u8>) {
            let (text, encoding) = output_text(&bytes);
            prop_assert_eq!(output_bytes(&text, encoding), Some(bytes));
        }

        #[test]
        fn a_cut_text_is_still_text(text: String, max in 0usize..40) {
            let keep = cut_at(text.as_bytes(), max);
            prop_assert!(keep <= max || keep == text.len());
            prop_assert!(std::str::from_utf8(&text.as_bytes()[..keep]).is_ok());
        }
    }
}

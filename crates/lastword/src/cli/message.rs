//! What lastword itself says: sentences on stderr, and errors with a hint and an exit code.
//!
//! Nothing here can fail or panic: a reader that went away is no reason to stop.

use std::fmt;
use std::io::Write;

pub use crate::log::escaped;

/// Says a sentence on stderr.
pub fn say(sentence: &str) {
    let _ = std::io::stderr().write_all(format!("lastword: {}\n", escaped(sentence)).as_bytes());
}

/// Says on stderr what to do next.
pub fn hint(sentence: &str) {
    let _ = std::io::stderr().write_all(format!("hint: {}\n", escaped(sentence)).as_bytes());
}

/// Says an error with all of its causes, and its hint.
pub fn say_error(error: &anyhow::Error) {
    say(&causes(error));
    if let Some(text) = hint_of(error) {
        hint(text);
    }
}

/// An error with all of its causes.
pub fn causes(error: &anyhow::Error) -> String {
    let causes: Vec<String> =
        error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()).collect();
    causes.join(": ")
}

/// What to do next.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref().map(|Hint(text)| text.as_str())
}

/// What to do next; carried by an error, not part of its text.
#[derive(Clone, Debug)]
struct Hint(String);

/// The exit code that an error leads to; carried by it, not part of its text.
#[derive(Clone, Copy, Debug)]
struct Code(u8);

// As contexts of an anyhow error both must have a Display. An empty text is left out by `say_error`.
impl fmt::Display for Hint {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Adds what to do next, and an exit code, to an error.
pub trait AdviceError {
    fn with_hint(self, text: impl Into<String>) -> anyhow::Error;
    fn with_code(self, code: u8) -> anyhow::Error;
}

impl AdviceError for anyhow::Error {
    fn with_hint(self, text: impl Into<String>) -> anyhow::Error {
        self.context(Hint(text.into()))
    }

    fn with_code(self, code: u8) -> anyhow::Error {
        self.context(Code(code))
    }
}

/// The same for a result.
pub trait Advice<T> {
    fn hint(self, text: impl Into<String>) -> anyhow::Result<T>;
    fn code(self, code: u8) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advice<T> for Result<T, E> {
    fn hint(self, text: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| error.into().with_hint(text))
    }

    fn code(self, code: u8) -> anyhow::Result<T> {
        self.map_err(|error| error.into().with_code(code))
    }
}

/// The exit code that an error asks for.
pub fn code_of(error: &anyhow::Error) -> Option<u8> {
    error.downcast_ref::<Code>().map(|code| code.0)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(escaped("a\u{1b}[2J\r\nb\u{202e}é"), "a\\u{1b}[2J\\r\\nb\\u{202e}é");
    }

    #[test]
    fn hint_and_code_are_found_behind_other_contexts() {
        let error: anyhow::Error = Err::<(), _>(anyhow!("root")).hint("do this").code(127).unwrap_err();
        let error = error.context("outer");
        assert_eq!(code_of(&error), Some(127));
        assert_eq!(error.downcast_ref::<Hint>().map(|hint| hint.0.as_str()), Some("do this"));
        let texts: Vec<String> = error.chain().map(ToString::to_string).filter(|t| !t.is_empty()).collect();
        assert_eq!(texts, ["outer", "root"]);
    }
}

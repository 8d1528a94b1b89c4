//! Our own log: events as lines on stderr, as text or as JSON.
//!
//! Whatever somebody else wrote may stand in an event: names, paths, messages of programs. Each event is one line, in
//! which nothing can steer a terminal or look like another line: all of it passes through [`Line`].

use std::io::{self, Write};

use tracing::Level as TracingLevel;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// Events with this target come at any level: who starts a server has to learn its address.
pub const START: &str = "lastword::start";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for TracingLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => TracingLevel::ERROR,
            Level::Warn => TracingLevel::WARN,
            Level::Info => TracingLevel::INFO,
            Level::Debug => TracingLevel::DEBUG,
            Level::Trace => TracingLevel::TRACE,
        }
    }
}

/// Sends the events of this process to stderr, and panics as events. The first call counts.
pub fn init(format: Format, level: Level) {
    if layer(format, level, io::stderr).with_subscriber(Registry::default()).try_init().is_err() {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a thread panicked, which is a mistake in lastword: {text}");
    }));
}

/// Ours at the level that was asked for; of libraries what is wrong.
fn filter(level: Level) -> Targets {
    let level = LevelFilter::from_level(level.into());
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("lastword", level)
        .with_target(START, level.max(LevelFilter::INFO))
}

fn layer<W: Write + 'static>(
    format: Format,
    level: Level,
    out: fn() -> W,
) -> Box<dyn Layer<Registry> + Send + Sync> {
    let writer = move || Line { out: out(), format };
    let filter = filter(level);
    match format {
        Format::Text => fmt::layer().with_ansi(false).with_writer(writer).with_filter(filter).boxed(),
        Format::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(true);
            layer.with_writer(writer).with_filter(filter).boxed()
        }
    }
}

/// Takes one formatted event at a time, and passes it on as one harmless line.
struct Line<W> {
    out: W,
    format: Format,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = match self.format {
            Format::Text => escaped(text),
            Format::Json => escaped_for_json(text),
        };
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Steers a terminal, or hides what stands there: control characters, ends of lines, changes of direction.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with everything escaped that could steer a terminal or hide what stands there: names, paths and labels
/// may come from anybody.
pub fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = steers(c).then(|| c.escape_default());
            let plain = (!steers(c)).then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// The same inside of JSON, which stays JSON: whatever steers can only stand in a string.
fn escaped_for_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // All that steer have four digits.
        if steers(c) { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What programs could want to say in our log. The last one was not UTF-8.
    fn hostile() -> String {
        let bytes =
            b"a\x1b[2J\r\nfake line\x00\x7f\xc2\x9b31m \xe2\x80\xae\xe2\x81\xa6\xd8\x9c\xe2\x80\xa8 \xff\xfe";
        String::from_utf8_lossy(bytes).into_owned()
    }

    static OUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    /// One test at a time looks at it.
    static ONE: Mutex<()> = Mutex::new(());

    struct Out;

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            OUT.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: Level, log: impl FnOnce()) -> String {
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let subscriber = layer(format, level, || Out).with_subscriber(Registry::default());
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(std::mem::take(&mut *OUT.lock().unwrap())).unwrap()
    }

    fn say_hostile_things() {
        let text = hostile();
        let span = tracing::info_span!("request", path = %text);
        let _inside = span.enter();
        tracing::info!(field = text, shown = %text, debug = ?text, "message {text}");
    }

    #[test]
    fn no_byte_of_a_program_comes_through() {
        for format in [Format::Text, Format::Json] {
            let line = logged(format, Level::Info, say_hostile_things);
            let inner = line.strip_suffix('\n').unwrap();
            assert!(!inner.chars().any(steers), "{format:?}: {inner:?}");
            // It was said, not left out: the message, three fields, the span.
            assert_eq!(inner.matches("fake line").count(), 5, "{inner}");
        }
    }

    #[test]
    fn json_stays_json_with_the_same_text_in_it() {
        let line = logged(Format::Json, Level::Info, say_hostile_things);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["field"], hostile());
        assert_eq!(value["message"], format!("message {}", hostile()));
        assert_eq!(value["level"], "INFO");
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn levels() {
        let say = || {
            tracing::info!(target: START, "listening");
            tracing::info!(target: "lastword::service", "ours");
            tracing::info!(target: "hyper::proto", "theirs");
            tracing::warn!(target: "hyper::proto", "theirs is wrong");
        };
        let text = logged(Format::Text, Level::Info, say);
        assert!(text.contains("ours") && text.contains("listening") && !text.contains("theirs\n"), "{text}");
        assert!(text.contains("theirs is wrong"));
        let text = logged(Format::Text, Level::Error, say);
        assert!(text.contains("listening") && text.lines().count() == 1, "{text}");
    }
}

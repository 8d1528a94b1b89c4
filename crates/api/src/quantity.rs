//! Durations and sizes as people write them, in one place.
//!
//! A duration is a number with a unit (`30s`, `500ms`, `2m`, `1.5h`), several of them (`1m30s`), or a plain
//! number of seconds. A size is a number of bytes, or a number with a unit: `KiB` `MiB` `GiB` `TiB` (and `Ki`, `K`, `k` and so on, as
//! docker reads them) are powers of 1024; `kB` `MB` `GB` `TB` are powers of 1000.

use std::time::Duration;

/// Why a text is no duration or no size. The text is quoted with its control characters escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("the value is empty: write {example}")]
    Empty { example: &'static str },
    #[error("\"{text}\" is not a number with a unit: write {example}")]
    NotANumber { text: String, example: &'static str },
    #[error("\"{text}\" has the unknown unit \"{unit}\": use one of {units}")]
    UnknownUnit { text: String, unit: String, units: &'static str },
    #[error("\"{text}\" is too large")]
    TooLarge { text: String },
    #[error("\"{text}\" is finer than {finest}")]
    TooFine { text: String, finest: &'static str },
}

const DURATION_EXAMPLE: &str = "it like 30s, 500ms or 2m";
const DURATION_UNITS: &str = "ns, us, ms, s, m, h, d";
const SIZE_EXAMPLE: &str = "it like 64MiB, 1GB, 512k, or a number of bytes";
const SIZE_UNITS: &str = "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB";

/// Parses a duration. Zero is a duration; bounds are the caller's.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(QuantityError::Empty { example: DURATION_EXAMPLE });
    }
    let mut total_ns: u128 = 0;
    let mut first = true;
    while !rest.is_empty() {
        let (number, after) = Number::take(rest)
            .ok_or_else(|| QuantityError::NotANumber { text: quoted(text), example: DURATION_EXAMPLE })?;
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let ns_per_unit: u128 = match unit.trim() {
            // Only a lone number may go without a unit: in 1m30 nobody knows what the 30 is.
            "" if first && after.is_empty() => 1_000_000_000,
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            unit => {
                let unit = quoted(unit);
                return Err(QuantityError::UnknownUnit { text: quoted(text), unit, units: DURATION_UNITS });
            }
        };
        let ns = number.times(ns_per_unit, text, "a nanosecond")?;
        total_ns = total_ns.checked_add(ns).ok_or_else(|| QuantityError::TooLarge { text: quoted(text) })?;
        rest = after;
        first = false;
    }
    let ns = u64::try_from(total_ns).map_err(|_| QuantityError::TooLarge { text: quoted(text) })?;
    Ok(Duration::from_nanos(ns))
}

/// Parses a size in bytes. Zero is a size; bounds are the caller's.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(QuantityError::Empty { example: SIZE_EXAMPLE });
    }
    let (number, unit) = Number::take(trimmed)
        .ok_or_else(|| QuantityError::NotANumber { text: quoted(text), example: SIZE_EXAMPLE })?;
    let bytes_per_unit: u128 = match unit.trim() {
        "" | "B" | "b" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" | "Ki" | "K" | "k" | "kib" => 1 << 10,
        "MiB" | "Mi" | "M" | "m" | "mib" => 1 << 20,
        "GiB" | "Gi" | "G" | "g" | "gib" => 1 << 30,
        "TiB" | "Ti" | "T" | "t" | "tib" => 1 << 40,
        unit => {
            let unit = quoted(unit);
            return Err(QuantityError::UnknownUnit { text: quoted(text), unit, units: SIZE_UNITS });
        }
    };
    let bytes = number.times(bytes_per_unit, text, "a byte")?;
    u64::try_from(bytes).map_err(|_| QuantityError::TooLarge { text: quoted(text) })
}

/// A size for people: with the largest binary unit that divides it, else in bytes. [`parse_size`] reads it back.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// A duration for people: with the largest unit that divides it. [`parse_duration`] reads it back.
pub fn format_ms(ms: u64) -> String {
    for (per_unit, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if ms != 0 && ms.is_multiple_of(per_unit) {
            return format!("{}{unit}", ms / per_unit);
        }
    }
    format!("{ms}ms")
}

/// A decimal number without rounding: `digits` of which the last `decimals` stand behind the point.
struct Number {
    digits: u128,
    decimals: u32,
}

/// More digits than any value in range needs.
const NUMBER_DIGITS_MAX: usize = 24;

impl Number {
    /// Takes a number from the front; `None` if none is there, or it has more digits than any value needs.
    fn take(text: &str) -> Option<(Self, &str)> {
        let length = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(length);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let wanting =
            whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.');
        if wanting || whole.len() + fraction.len() > NUMBER_DIGITS_MAX {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}").parse().ok()?;
        Some((Self { digits, decimals: u32::try_from(fraction.len()).ok()? }, rest))
    }

    fn times(&self, factor: u128, text: &str, finest: &'static str) -> Result<u128, QuantityError> {
        let product =
            self.digits.checked_mul(factor).ok_or_else(|| QuantityError::TooLarge { text: quoted(text) })?;
        let divisor = 10u128.pow(self.decimals);
        if !product.is_multiple_of(divisor) {
            return Err(QuantityError::TooFine { text: quoted(text), finest });
        }
        Ok(product / divisor)
    }
}

/// The text with its control characters escaped, cut to what a message should carry.
fn quoted(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("7", 7_000),
            ("0.5", 500),
            ("1.5h", 5_400_000),
            ("1m30s", 90_000),
            ("1h0.5s", 3_600_500),
            ("1d", 86_400_000),
            (" 3 s ", 3_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_duration("1us"), Ok(Duration::from_micros(1)));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("512k", 512 << 10),
            ("123", 123),
            ("1.5GiB", 3 << 29),
            ("1 KiB", 1024),
            ("2Gi", 2 << 30),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn errors_name_what_was_wrong() {
        let message = |text| parse_size(text).unwrap_err().to_string();
        assert_eq!(message(""), "the value is empty: write it like 64MiB, 1GB, 512k, or a number of bytes");
        assert!(message("-1").starts_with("\"-1\" is not a number with a unit"));
        assert!(message("1.MiB").contains("is not a number"));
        assert!(message("1XB").contains("unknown unit \"XB\""));
        assert_eq!(message("99999999TiB"), "\"99999999TiB\" is too large");
        assert_eq!(message("0.0001kB"), "\"0.0001kB\" is finer than a byte");
        let message = |text| parse_duration(text).unwrap_err().to_string();
        assert!(message("1m30").contains("unknown unit \"\""));
        assert!(message("ten").contains("\"ten\" is not a number"));
        assert!(message("1\u{1b}[31m").contains("\\u{1b}"), "control characters are escaped");
        assert!(message("999999999999999999999999d").contains("too large"));
    }

    proptest! {
        #[test]
        fn sizes_come_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn whole_units_come_back(count in 0u64..1 << 20, shift in 0u32..5) {
            let unit = ["", "KiB", "MiB", "GiB", "TiB"][shift as usize];
            prop_assert_eq!(parse_size(&format!("{count}{unit}")), Ok(count << (10 * shift)));
        }

        #[test]
        fn durations_come_back(ms in 0u64..1 << 43) {
            prop_assert_eq!(parse_duration(&format_ms(ms)), Ok(Duration::from_millis(ms)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }

        #[test]
        fn nearly_a_number_does_not_panic(text in "[0-9.]{0,30}[a-zA-Zµ]{0,3}[0-9.]{0,5}[a-z]{0,2}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }
    }
}

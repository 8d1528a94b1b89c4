//! Values of options that several commands take.

use lastword_api::limits::{
    CPU_MS_MAX, CPU_MS_MIN, CPUS_MAX, CPUS_MIN, DISK_BYTES_MAX, DISK_BYTES_MIN, MEMORY_BYTES_MAX,
    MEMORY_BYTES_MIN, OUTPUT_BYTES_MAX, OUTPUT_BYTES_MIN, STACK_BYTES_MAX, STACK_BYTES_MIN, WALL_MS_MAX,
    WALL_MS_MIN,
};
use lastword_api::quantity::{format_ms, format_size};
use lastword_api::{Status, Timestamp, parse_duration, parse_size};

/// `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like KEY=VALUE".to_owned()),
    }
}

pub(crate) fn status(text: &str) -> Result<Status, String> {
    Status::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Status::ALL.iter().map(|status| status.name()).collect();
        format!("use one of {}", names.join(", "))
    })
}

/// A point in time: RFC 3339, seconds since 1970, or an age like `10m`.
pub(crate) fn point_in_time(text: &str) -> Result<Timestamp, String> {
    at(text, Timestamp::now())
}

fn at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    const WRONG: &str = "write it like 2026-01-31T12:00:00Z, or as an age like 10m";
    let duration = parse_duration(text).ok();
    let since_1970 = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let ns = match duration {
        None => return text.parse().map_err(|_| WRONG.to_owned()),
        Some(duration) => i64::try_from(duration.as_nanos()).map_err(|_| WRONG.to_owned())?,
    };
    Ok(Timestamp::from_ns(if since_1970 { ns } else { now.ns().saturating_sub(ns) }))
}

pub(crate) fn wall_ms(text: &str) -> Result<u64, String> {
    milliseconds(text, WALL_MS_MIN, WALL_MS_MAX)
}

pub(crate) fn cpu_ms(text: &str) -> Result<u64, String> {
    milliseconds(text, CPU_MS_MIN, CPU_MS_MAX)
}

pub(crate) fn memory(text: &str) -> Result<u64, String> {
    bytes(text, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX)
}

pub(crate) fn disk(text: &str) -> Result<u64, String> {
    bytes(text, DISK_BYTES_MIN, DISK_BYTES_MAX)
}

pub(crate) fn output(text: &str) -> Result<u64, String> {
    bytes(text, OUTPUT_BYTES_MIN, OUTPUT_BYTES_MAX)
}

pub(crate) fn stack(text: &str) -> Result<u64, String> {
    bytes(text, STACK_BYTES_MIN, STACK_BYTES_MAX)
}

pub(crate) fn cpus(text: &str) -> Result<f64, String> {
    let wrong = || format!("it must be a number between {CPUS_MIN} and {CPUS_MAX}");
    let cpus: f64 = text.parse().map_err(|_| wrong())?;
    if (CPUS_MIN..=CPUS_MAX).contains(&cpus) { Ok(cpus) } else { Err(wrong()) }
}

fn milliseconds(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    // A limit is never shorter than what was asked for.
    let ms = duration.as_nanos().div_ceil(1_000_000);
    match u64::try_from(ms) {
        Ok(ms) if (min..=max).contains(&ms) => Ok(ms),
        _ => Err(format!("it must be between {} and {}", format_ms(min), format_ms(max))),
    }
}

fn bytes(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if (min..=max).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("it must be between {} and {}", format_size(min), format_size(max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        let now = Timestamp::from_ns(1_000_000_000_000);
        assert_eq!(at("100s", now).unwrap().ns(), 900_000_000_000);
        assert_eq!(at("1.5", now).unwrap().ns(), 1_500_000_000);
        assert_eq!(at("1970-01-01T00:00:01Z", now).unwrap().ns(), 1_000_000_000);
        assert!(at("", now).is_err());
        assert!(at("yesterday", now).unwrap_err().contains("10m"));
    }

    #[test]
    fn values_out_of_bounds_name_the_bounds() {
        assert_eq!(wall_ms("1us"), Ok(1));
        assert_eq!(wall_ms("8d").unwrap_err(), "it must be between 1ms and 7d");
        assert_eq!(memory("1k").unwrap_err(), "it must be between 4MiB and 64TiB");
        assert!(cpus("NaN").is_err() && cpus("0").is_err() && cpus("0.5") == Ok(0.5));
        assert!(label("x").is_err() && label("=x").is_err());
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(status("done").unwrap_err().contains("timed_out"));
    }
}

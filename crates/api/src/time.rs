//! A point in time, written as RFC 3339 in UTC.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// Nanoseconds since 1970, UTC. Written with nine digits, so that texts sort as the times do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    ns: i64,
}

/// A text that is no point in time.
#[derive(Debug, thiserror::Error)]
#[error("\"{text}\" is not a time: write it like 2026-01-31T12:00:00Z, or as an age like 10m")]
pub struct TimestampError {
    text: String,
    #[source]
    source: jiff::Error,
}

impl Timestamp {
    pub fn now() -> Self {
        // Saturates in the year 2262.
        Self { ns: i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX) }
    }

    pub fn from_ns(ns: i64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since 1970.
    pub fn ns(self) -> i64 {
        self.ns
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every i64 of nanoseconds (1677 to 2262) is inside jiff's range.
        match jiff::Timestamp::from_nanosecond(i128::from(self.ns)) {
            Ok(time) => write!(f, "{time:.9}"),
            Err(_) => write!(f, "{}ns", self.ns),
        }
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let time: jiff::Timestamp = text
            .parse()
            .map_err(|source| TimestampError { text: text.escape_debug().to_string(), source })?;
        let ns = time.as_nanosecond();
        // Outside of i64 lies no time that any record has: the nearest one compares alike.
        Ok(Self { ns: i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX }) })
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Timestamp {}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn is_written_in_utc_with_nine_digits() {
        assert_eq!(Timestamp::from_ns(0).to_string(), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            Timestamp::from_ns(1_700_000_000_000_001_000).to_string(),
            "2023-11-14T22:13:20.000001000Z"
        );
    }

    #[test]
    fn reads_other_offsets_and_refuses_what_is_no_time() {
        let time: Timestamp = "2023-11-14T23:13:20+01:00".parse().unwrap();
        assert_eq!(time.ns(), 1_700_000_000_000_000_000);
        let error = "yester\nday".parse::<Timestamp>().unwrap_err();
        assert!(error.to_string().starts_with("\"yester\\nday\" is not a time"), "{error}");
    }

    proptest! {
        #[test]
        fn text_and_back(ns: i64) {
            let time = Timestamp::from_ns(ns);
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
    }
}

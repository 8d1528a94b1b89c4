//! The beginning of an id.
//!
//! The API takes whole ids. But an id begins with the time at which it was made, so its beginning says when that was: only
//! executions of that time are looked through, up to a bound.

use std::time::Duration;

use lastword_api::Timestamp;
use uuid::Uuid;

use super::error::Error;
use super::limits::{ID_SLACK, PAGE, RESOLVE_PAGES};
use super::{Client, ListWish};

/// Digits of an id that say its time, in milliseconds (RFC 9562, version 7).
const TIME_DIGITS: usize = 12;
const DIGITS: usize = 32;
/// Ids that are named where several are meant.
const SHOWN: usize = 3;

pub(super) fn resolve(client: &Client, prefix: &str) -> Result<Uuid, Error> {
    let digits: String = prefix.chars().filter(|c| *c != '-').collect();
    if digits.is_empty() || digits.len() > DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::BadPrefix { prefix: prefix.to_owned() });
    }
    if let Ok(id) = Uuid::try_parse(&digits) {
        return Ok(id);
    }
    let digits = digits.to_ascii_lowercase();
    let (since, until) = times(&digits);
    let wish = ListWish { since: Some(since), until: Some(until), ..ListWish::default() };
    let mut found: Vec<Uuid> = Vec::new();
    let mut cursor = None;
    for _ in 0..RESOLVE_PAGES {
        let page = client.page(&wish, PAGE, cursor)?;
        let ids = page.items.iter().map(|execution| execution.id);
        found.extend(ids.filter(|id| id.simple().to_string().starts_with(&digits)));
        cursor = page.next_cursor;
        if cursor.is_some() && found.len() < SHOWN {
            continue;
        }
        let prefix = prefix.to_owned();
        return match found[..] {
            [] => Err(Error::NoMatch { prefix }),
            [only] => Ok(only),
            _ => {
                found.truncate(SHOWN);
                Err(Error::Ambiguous { prefix, candidates: found })
            }
        };
    }
    Err(Error::TooShort { prefix: prefix.to_owned() })
}

/// From when to when ids were made that begin so.
fn times(digits: &str) -> (Timestamp, Timestamp) {
    let known = &digits[..digits.len().min(TIME_DIGITS)];
    let bound = |fill: &str| {
        let ms = i64::from_str_radix(&format!("{known}{}", fill.repeat(TIME_DIGITS - known.len())), 16);
        Duration::from_millis(ms.unwrap_or_default().unsigned_abs())
    };
    let at = |time: Duration| Timestamp::from_ns(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    (at(bound("0").saturating_sub(ID_SLACK)), at(bound("f") + ID_SLACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_says_when() {
        let made = Uuid::now_v7();
        let now = Timestamp::now();
        let digits = made.simple().to_string();
        for length in 1..DIGITS {
            let (since, until) = times(&digits[..length]);
            assert!(since <= now && now <= until, "{length}");
        }
        let (since, until) = times(&digits[..20]);
        assert!(until.ns() - since.ns() <= 2 * ID_SLACK.as_nanos() as i64);
        assert_eq!(times("f").1, Timestamp::from_ns(i64::MAX));
    }
}

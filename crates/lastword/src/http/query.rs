//! The query of a URL, taken apart strictly: what is not known is refused, so that a misspelt filter doesn't show everything.

use std::time::Duration;

use axum::http::Uri;
use lastword_api::{ErrorCode, Status, Timestamp, parse_duration};
use uuid::Uuid;

use super::limits::{LABELS, QUERY_BYTES, QUERY_PARAMETERS, WAIT};
use super::problem::Problem;
use crate::cli::values;

/// What is left of a query. Whoever has taken all parameters he knows calls [`Query::finish`].
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

fn malformed(detail: &str) -> Problem {
    Problem::new(ErrorCode::MalformedRequest, detail)
}

impl Query {
    pub(super) fn of(uri: &Uri) -> Result<Query, Problem> {
        let text = uri.query().unwrap_or_default();
        if text.len() > QUERY_BYTES {
            return Err(malformed("the query is too long"));
        }
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if pairs.len() == QUERY_PARAMETERS {
                return Err(malformed("the query has too many parameters"));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decoded(name)?, decoded(value)?));
        }
        Ok(Query { pairs })
    }

    /// All values of a parameter.
    fn all(&mut self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.pairs.retain_mut(|(key, value)| {
            let is_it = key == name;
            if is_it {
                found.push(std::mem::take(value));
            }
            !is_it
        });
        found
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut found = self.all(name);
        if found.len() > 1 {
            return Err(Problem::parameter(name, "it is there more than once"));
        }
        Ok(found.pop())
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        parse(&text).map(Some).map_err(|why| Problem::parameter(name, why))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        let flag = self.parsed(name, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("use true or false".to_owned()),
        })?;
        Ok(flag.unwrap_or(false))
    }

    /// A whole number between `min` and `max`.
    pub(super) fn number(&mut self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        self.parsed(name, |text| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|number| digits && (min..=max).contains(number));
            number.ok_or_else(|| format!("it must be a whole number between {min} and {max}"))
        })
    }

    /// How long to wait, as the command line writes durations. Longer than [`WAIT`] counts as that.
    pub(super) fn wait(&mut self) -> Result<Option<Duration>, Problem> {
        let wait = self.parsed("wait", |text| parse_duration(text).map_err(|error| error.to_string()))?;
        Ok(wait.map(|wait| wait.min(WAIT)))
    }

    /// RFC 3339, or an age like `10m`.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        self.parsed(name, values::point_in_time)
    }

    /// Repeated, or separated by commas.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Problem> {
        let values = self.all(name);
        let parts = values.iter().flat_map(|value| value.split(','));
        parts.map(|part| parse(part).map_err(|why| Problem::parameter(name, why))).collect()
    }

    pub(super) fn statuses(&mut self) -> Result<Vec<Status>, Problem> {
        self.list("status", values::status)
    }

    pub(super) fn labels(&mut self) -> Result<Vec<(String, String)>, Problem> {
        let labels = self.all("label");
        if labels.len() > LABELS {
            return Err(Problem::parameter("label", format_args!("at most {LABELS} can be given")));
        }
        let parse = |text: &String| values::label(text).map_err(|why| Problem::parameter("label", why));
        labels.iter().map(parse).collect()
    }

    /// Refuses what nobody has taken.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                Err(Problem::parameter(&name, "there is no such parameter"))
            }
        }
    }
}

/// The one way in which ids are written here: with their dashes.
pub(super) fn uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|_| text.len() == uuid::fmt::Hyphenated::LENGTH)
}

fn decoded(text: &str) -> Result<String, Problem> {
    let bytes = percent_decoded(text, true).ok_or_else(|| malformed("the query has a broken %"))?;
    String::from_utf8(bytes).map_err(|_| malformed("the query is not UTF-8"))
}

/// `None` where a % is not followed by two hexadecimal digits.
pub(super) fn percent_decoded(text: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Problem> {
        Query::of(&format!("http://x/?{text}").parse().unwrap())
    }

    #[test]
    fn values_are_decoded_and_checked() {
        let mut all =
            query("label=a%3Db+c&label=d=e&wait=1m&limit=7&follow=true&status=failed,queued&x=").unwrap();
        assert_eq!(all.labels().unwrap(), [("a".into(), "b c".into()), ("d".into(), "e".into())]);
        assert_eq!(all.wait().unwrap(), Some(Duration::from_secs(60)));
        assert_eq!(all.number("limit", 1, 10).unwrap(), Some(7));
        assert!(all.flag("follow").unwrap() && !all.flag("other").unwrap());
        assert_eq!(all.statuses().unwrap(), [Status::Failed, Status::Queued]);
        let left = all.finish().unwrap_err();
        assert_eq!((left.code(), left.details().field.as_deref()), (ErrorCode::InvalidParameter, Some("x")));
        assert_eq!(query("wait=99d").unwrap().wait().unwrap(), Some(WAIT));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let code = |result: Result<(), Problem>| result.unwrap_err().code();
        assert_eq!(code(query("a=%f").map(drop)), ErrorCode::MalformedRequest);
        assert_eq!(code(query("a=%ff").map(drop)), ErrorCode::MalformedRequest);
        assert_eq!(code(query(&"a&".repeat(QUERY_PARAMETERS + 1)).map(drop)), ErrorCode::MalformedRequest);
        for (text, take) in [
            ("limit=1001", (|query| query.number("limit", 1, 1000).map(drop)) as fn(&mut Query) -> _),
            ("limit=-1", |query| query.number("limit", 0, 1000).map(drop)),
            ("limit=%2B1", |query| query.number("limit", 0, 1000).map(drop)),
            ("limit=1&limit=2", |query| query.number("limit", 0, 1000).map(drop)),
            ("follow=1", |query| query.flag("follow").map(drop)),
            ("wait=soon", |query| query.wait().map(drop)),
            ("since=yesterday", |query| query.time("since").map(drop)),
            ("status=done", |query| query.statuses().map(drop)),
            ("label=x", |query| query.labels().map(drop)),
        ] {
            let problem = take(&mut query(text).unwrap()).unwrap_err();
            let name = text.split('=').next();
            assert_eq!(
                (problem.code(), problem.details().field.as_deref()),
                (ErrorCode::InvalidParameter, name)
            );
        }
    }

    #[test]
    fn ids_are_written_in_one_way() {
        assert!(uuid("01900000-0000-7000-8000-000000000000").is_some());
        for bad in ["", "x", "01900000000070008000000000000000", "{01900000-0000-7000-8000-000000000000}"] {
            assert_eq!(uuid(bad), None);
        }
    }
}

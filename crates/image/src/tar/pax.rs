//! The records of a PAX extended header: `LENGTH KEY=VALUE\n`, where the length counts itself.

use super::Mtime;
use crate::limits::MTIME_SECONDS_MAX;

/// What is left of an extended header. Attributes, owners and comments are passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<Mtime>,
}

const DIGITS_MAX: usize = 19;

pub(super) fn parse(mut records: &[u8]) -> Result<Pax, &'static str> {
    let mut pax = Pax::default();
    while !records.is_empty() {
        let digits = records.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length = records.get(..digits).and_then(decimal).ok_or("a PAX record has no length")?;
        let length = usize::try_from(length).map_err(|_| "a PAX record is too long")?;
        let (record, rest) = records.split_at_checked(length).ok_or("a PAX record ends after its header")?;
        records = rest;
        let body = record.get(digits..).and_then(|body| body.strip_prefix(b" "));
        let body = body.and_then(|body| body.strip_suffix(b"\n")).ok_or("a PAX record is damaged")?;
        let equals = body.iter().position(|byte| *byte == b'=').ok_or("a PAX record has no value")?;
        let (key, value) = body.split_at(equals);
        take(&mut pax, key, value.get(1..).unwrap_or_default())?;
    }
    Ok(pax)
}

fn take(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    match key {
        b"path" => once(&mut pax.path, name(value)?),
        b"linkpath" => once(&mut pax.link, name(value)?),
        b"size" => once(&mut pax.size, decimal(value).ok_or("its PAX size is not a number")?),
        b"mtime" => once(&mut pax.mtime, mtime(value).ok_or("its PAX mtime is not a time")?),
        _ if key.starts_with(b"GNU.sparse.") => Err("sparse files are not supported"),
        _ => Ok(()),
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err("a PAX record is there twice"),
    }
}

/// An empty value would mean "as in the header"; nobody writes that.
fn name(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    if value.is_empty() || value.contains(&0) {
        return Err("a PAX record has an empty name, or one with a zero byte");
    }
    Ok(value.to_vec())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional fraction. What is before 1970 becomes 1970.
fn mtime(value: &[u8]) -> Option<Mtime> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = decimal(parts.next()?)?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
        nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    }
    if negative {
        return Some(Mtime::default());
    }
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).min(MTIME_SECONDS_MAX);
    Some(Mtime { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_records_are_taken_and_others_passed_over() {
        let pax = parse(b"12 path=a/b\n14 linkpath=c\n8 size=\n").unwrap_err();
        assert_eq!(pax, "its PAX size is not a number");
        let pax =
            parse(b"12 path=a/b\n14 linkpath=c\n11 size=42\n19 mtime=1.0000005\n16 comment=a\nb=\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.link.as_deref(), Some(&b"c"[..]));
        assert_eq!(pax.size, Some(42));
        assert_eq!(pax.mtime, Some(Mtime { seconds: 1, nanoseconds: 500 }));
        assert_eq!(parse(b"").unwrap(), Pax::default());
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for records in [
            &b"13 path=a/b\n"[..],
            b"11 path=a/b\n",
            b"0 path=a/b\n",
            b"2 path=a/b\n",
            b"-12 path=a/b\n",
            b"99999999999999999999 path=a/b\n",
            b"18446744073709551615 path=a/b\n",
            b"path=a/b\n",
            b"6 path\n",
            b"8 path\n\n",
            b"12 path=a/b\n12 path=a/b\n",
            b"11 path=\0/b",
            b"12 path=\0/b\n",
            b"8 path=\n",
            b"11 size=-1\n",
            b"11 size=+1\n",
            b"12 size=0x1\n",
            b"29 size=9999999999999999999\n9",
            b"22 GNU.sparse.major=1\n",
            b"14 mtime=1e9\n",
        ] {
            parse(records).expect_err(&records.escape_ascii().to_string());
        }
    }

    #[test]
    fn times_are_clamped() {
        assert_eq!(mtime(b"-5.5"), Some(Mtime::default()));
        assert_eq!(mtime(b"9999999999999999999").map(|time| time.seconds), Some(MTIME_SECONDS_MAX));
        assert_eq!(mtime(b"7.9999999999999"), Some(Mtime { seconds: 7, nanoseconds: 999_999_999 }));
        assert_eq!(mtime(b"7."), Some(Mtime { seconds: 7, nanoseconds: 0 }));
        assert_eq!(mtime(b""), None);
        assert_eq!(mtime(b".5"), None);
    }
}

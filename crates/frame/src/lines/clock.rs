//! Wall time as RFC 3339 in UTC with nine digits.

/// Bytes of a time: `2026-01-02T03:04:05.123456789Z`.
pub(super) const TIME_BYTES: usize = 30;

const NS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// Formats times that are mostly in the same second.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// CLOCK_REALTIME at the anchor.
    pub(super) wall_ns: i64,
    /// The second that `text` is right for, since 1970.
    second: i64,
    text: [u8; TIME_BYTES],
}

impl Clock {
    pub(super) fn new(wall_ns: i64) -> Self {
        Clock { wall_ns, second: 0, text: *b"1970-01-01T00:00:00.000000000Z" }
    }

    /// The wall time of a frame, `time` nanoseconds after the anchor.
    pub(super) fn format(&mut self, time: u64) -> &[u8; TIME_BYTES] {
        // No overflow: both addends of either sum are at most u64::MAX / 10^9 and 10^9.
        let nanos = self.wall_ns.rem_euclid(NS) + (time % NS as u64) as i64;
        let second = self.wall_ns.div_euclid(NS) + (time / NS as u64) as i64 + nanos / NS;
        if second != self.second {
            self.second = second;
            let (year, month, day) = civil(second.div_euclid(DAY));
            let of_day = second.rem_euclid(DAY);
            digits(&mut self.text[0..4], year);
            digits(&mut self.text[5..7], month);
            digits(&mut self.text[8..10], day);
            digits(&mut self.text[11..13], of_day / 3600);
            digits(&mut self.text[14..16], of_day / 60 % 60);
            digits(&mut self.text[17..19], of_day % 60);
        }
        digits(&mut self.text[20..29], nanos % NS);
        &self.text
    }
}

fn digits(to: &mut [u8], mut value: i64) {
    for digit in to.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day since 1970, in the Gregorian calendar. Years begin in March here, so that the leap day is the
/// last one of a year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The anchor that gives a frame at `time` the wall time `text`, if there is one.
pub(super) fn anchor(text: &[u8; TIME_BYTES], time: u64) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        text[range]
            .iter()
            .try_fold(0i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let march_year = year - i64::from(month <= 2);
    let era = march_year.div_euclid(400);
    let year_of_era = march_year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468;
    let second = days * DAY + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let wall = i128::from(second) * i128::from(NS) + i128::from(number(20..29)?) - i128::from(time);
    let wall_ns = i64::try_from(wall).ok()?;
    // Punctuation, and fields out of their range (month 13), show by not coming out the same.
    (Clock::new(wall_ns).format(time) == text).then_some(wall_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(wall_ns: i64, time: u64) -> String {
        String::from_utf8_lossy(Clock::new(wall_ns).format(time)).into_owned()
    }

    #[test]
    fn known_moments() {
        assert_eq!(format(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(format(0, 999_999_999), "1970-01-01T00:00:00.999999999Z");
        assert_eq!(format(951_782_400 * NS, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(format(1_767_225_599 * NS + 999_999_999, 1), "2026-01-01T00:00:00.000000000Z");
        assert_eq!(format(-1, 0), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(format(i64::MIN, 0), "1677-09-21T00:12:43.145224192Z");
        assert_eq!(format(i64::MAX, u64::MAX), "2846-10-30T23:21:50.564327422Z");
    }

    #[test]
    fn an_anchor_is_found_again() {
        let mut days = 0i64;
        while days < 200_000 {
            for (wall, time) in [(days * 40_000_000_000_000, 7), (-days * 40_000_000_000_000, u64::MAX / 5)] {
                let text = *Clock::new(wall).format(time);
                assert_eq!(anchor(&text, time), Some(wall));
            }
            days += 17;
        }
        assert_eq!(anchor(b"2026-13-02T03:04:05.123456789Z", 0), None);
        assert_eq!(anchor(b"2026-12-02 03:04:05.123456789Z", 0), None);
        assert_eq!(anchor(b"2026-02-30T03:04:05.123456789Z", 0), None);
        assert_eq!(anchor(b"9999-12-02T03:04:05.123456789Z", 0), None);
    }
}

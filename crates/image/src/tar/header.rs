//! One header block of 512 bytes.

use super::{Kind, Mtime};
use crate::limits::MTIME_SECONDS_MAX;

pub(super) const BLOCK_BYTES: usize = 512;
pub(super) type Block = [u8; BLOCK_BYTES];

/// The largest number that 11 octal digits hold.
const OCTAL_MAX: u64 = 0o777_7777_7777;

/// What the type flag of a header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Entry(Kind),
    Pax,
    PaxGlobal,
    LongName,
    LongLink,
}

/// The fields of a header that matter here. Owners and the numbers of devices don't.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: Type,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
}

impl Header {
    /// Whether an extended header may give another size: only one that a header can't hold.
    pub(super) fn may_be_sized(&self, size: u64) -> bool {
        size == self.size || size > OCTAL_MAX
    }

    pub(super) fn parse(block: &Block) -> Result<Self, &'static str> {
        let field = |from: usize, length: usize| block.get(from..from + length).unwrap_or_default();
        check_sum(block)?;
        let mut name = text(field(0, 100)).to_vec();
        // GNU's own format has other fields where ustar keeps the beginning of a long name.
        if field(257, 6) == b"ustar\0" {
            let prefix = text(field(345, 155));
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let flag = field(156, 1).first().copied().unwrap_or_default();
        let kind = match flag {
            b'0' | b'7' => Type::Entry(Kind::File),
            // Before POSIX, a name that ended so was a directory.
            0 if name.last() == Some(&b'/') => Type::Entry(Kind::Directory),
            0 => Type::Entry(Kind::File),
            b'1' => Type::Entry(Kind::HardLink),
            b'2' => Type::Entry(Kind::Symlink),
            b'3' | b'4' => Type::Entry(Kind::Device),
            b'5' => Type::Entry(Kind::Directory),
            b'6' => Type::Entry(Kind::Fifo),
            b'x' => Type::Pax,
            b'g' => Type::PaxGlobal,
            b'L' => Type::LongName,
            b'K' => Type::LongLink,
            b'S' => return Err("sparse files are not supported"),
            _ => return Err("its type is not supported"),
        };
        Ok(Header {
            kind,
            name,
            link: text(field(157, 100)).to_vec(),
            size: u64::try_from(number(field(124, 12))?).map_err(|_| "its size is negative or too large")?,
            mode: (number(field(100, 8))? & 0o7777) as u32,
            mtime: Mtime {
                seconds: number(field(136, 12))?.clamp(0, i128::from(MTIME_SECONDS_MAX)) as i64,
                nanoseconds: 0,
            },
        })
    }
}

/// The sum of all bytes, those of the sum itself taken as blanks. Very old writers added signed bytes.
fn check_sum(block: &Block) -> Result<(), &'static str> {
    let expected = number(block.get(148..156).unwrap_or_default())?;
    let bytes =
        || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let unsigned: i128 = bytes().map(i128::from).sum();
    let signed: i128 = bytes().map(|byte| i128::from(byte as i8)).sum();
    if expected == unsigned || expected == signed { Ok(()) } else { Err("its checksum is wrong") }
}

/// Up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or the base-256 form for what they can't hold.
fn number(field: &[u8]) -> Result<i128, &'static str> {
    match field.split_first() {
        Some((0x80, rest)) => Ok(rest.iter().fold(0, |value, byte| value << 8 | i128::from(*byte))),
        Some((0xff, rest)) => Ok(rest.iter().fold(-1, |value, byte| value << 8 | i128::from(*byte))),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Result<i128, &'static str> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Err("one of its numbers has something behind it");
    }
    digits.iter().try_fold(0, |value: i128, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i128::from(digit - b'0')),
        _ => Err("one of its numbers is not octal"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_nothing_else() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"644     ", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"77777777", 0o7777_7777),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ] {
            assert_eq!(number(field), Ok(value), "{}", field.escape_ascii());
        }
        for field in
            [&b"0000648\0"[..], b"-644\0\0\0\0", b"+644    ", b"0x1ff\0\0\0", b"644\0x\0\0\0", b"6 4 4 \0\0"]
        {
            assert!(number(field).is_err(), "{}", field.escape_ascii());
        }
    }

    #[test]
    fn every_byte_of_a_header_counts() {
        let mut block = [0; BLOCK_BYTES];
        block[..4].copy_from_slice(b"name");
        block[156] = b'0';
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(Header::parse(&block).unwrap().name, b"name");
        for at in (0..148).chain(156..BLOCK_BYTES) {
            let mut changed = block;
            changed[at] ^= 1;
            Header::parse(&changed).expect_err("a changed byte");
        }
    }
}

//! Writing strings, base64 and numbers as printable ASCII.

use std::io::Write;

/// Stands for itself inside a string.
pub(super) fn plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Appends `text` escaped, as many characters as fit into `room` bytes. Returns how many bytes of `text` those are.
pub(super) fn put_escaped(text: &str, room: usize, out: &mut Vec<u8>) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut room) = (0, room);
    loop {
        let reach = &bytes[at..bytes.len().min(at + room)];
        let run = reach.iter().position(|byte| !plain(*byte)).unwrap_or(reach.len());
        out.extend_from_slice(&reach[..run]);
        at += run;
        room -= run;
        let Some(character) = text[at..].chars().next() else { return at };
        let width = escaped_width(character);
        if width > room {
            return at;
        }
        put_escape(character, out);
        at += character.len_utf8();
        room -= width;
    }
}

/// Bytes that `text` takes when escaped.
pub(super) fn escaped_bytes(text: &str) -> usize {
    text.chars().map(escaped_width).sum()
}

fn escaped_width(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        ' '..='~' => 1,
        _ => 6 * character.len_utf16(),
    }
}

fn put_escape(character: char, out: &mut Vec<u8>) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        _ => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                put_hex(&unit.to_be_bytes(), out);
            }
        }
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn put_base64(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            let symbol = BASE64[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= group.len() { symbol } else { b'=' });
        }
    }
}

/// The six bits that a symbol stands for.
pub(super) fn base64_bits(symbol: u8) -> Option<u32> {
    Some(u32::from(match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

pub(super) fn put_hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(b"0123456789abcdef"[usize::from(digit)]);
        }
    }
}

/// With the dashes of a UUID.
pub(super) fn put_uuid(id: &[u8; 16], out: &mut Vec<u8>) {
    for (place, byte) in id.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        put_hex(&[*byte], out);
    }
}

pub(super) fn put_number(number: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to a vector has no way to fail.
    let _ = write!(out, "{number}");
}

//! Output files from a server, compared with the digest in the seal.

use std::io::{self, Read};

use bytes::Bytes;
use lastword_api::{ErrorCode, ProblemDetails};
use reqwest::Response;
use uuid::Uuid;

use super::error::Error;
use super::http::{Ask, Http, Patience};

/// An output file on its way. The last read says whether the digest was right.
pub(crate) struct FileReader<'a> {
    http: &'a Http,
    response: Response,
    chunk: Bytes,
    hasher: blake3::Hasher,
    expected: String,
    ended: bool,
}

pub(super) fn open<'a>(http: &'a Http, id: Uuid, path: &[u8], blake3: &str) -> Result<FileReader<'a>, Error> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    // Such a name would lead out of the files of this execution, and no file has it.
    if path.is_empty() || path.split(|byte| *byte == b'/').any(|name| matches!(name, b"." | b"..")) {
        let detail = format!("no output file \"{}\" was kept", path.escape_ascii());
        return Err(Error::Refused(Box::new(ProblemDetails::new(ErrorCode::FileNotFound, detail))));
    }
    let ask = Ask::get(format!("v1/executions/{id}/files/{}", encoded(path)));
    let response = http.ask(&ask, Patience::default())?;
    let hasher = blake3::Hasher::new();
    Ok(FileReader { http, response, chunk: Bytes::new(), hasher, expected: blake3.to_owned(), ended: false })
}

/// Every byte but those that stand for themselves in a path, and the slashes within.
fn encoded(path: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |(at, byte): (usize, &u8)| match *byte {
        byte if plain(byte) || (byte == b'/' && at > 0) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    path.iter().enumerate().map(one).collect()
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.http.chunk(&mut self.response).map_err(io::Error::other)? {
                Some(chunk) => {
                    self.hasher.update(&chunk);
                    self.chunk = chunk;
                }
                None => {
                    self.ended = true;
                    if self.hasher.finalize().to_hex().as_str() != self.expected {
                        let what = "its bytes are not those that were sealed";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                }
            }
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_can_stand_in_an_address() {
        assert_eq!(encoded(b"out/a b.txt"), "out/a%20b.txt");
        assert_eq!(encoded(b"/tmp/x?#%"), "%2Ftmp/x%3F%23%25");
        assert_eq!(encoded(b"\xff\xc3\xa9"), "%FF%C3%A9");
    }

    #[test]
    fn no_path_leads_out_of_the_files() {
        let http = Http::new("http://127.0.0.1:1", None).unwrap();
        for path in [&b".."[..], b"../x", b"a/../../b", b".", b"./", b"", b"a/./b"] {
            let refused = open(&http, Uuid::nil(), path, "").err().unwrap();
            assert_eq!(refused.code(), Some(ErrorCode::FileNotFound), "{}", path.escape_ascii());
        }
    }
}

//! A token: `lw_` KEY-ID `_` SECRET. Whoever shows it is who it was made for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake3::Hash;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::Error;

const PREFIX: &str = "lw_";
const SECRET_BYTES: usize = 32;
const ID_CHARS: usize = 10;
/// 32 letters, so that each has 5 random bits and none looks like another one.
const ID_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// A longer text is no token of ours, and is not hashed.
const TOKEN_BYTES_MAX: usize = 100;
/// Separates these digests from all other uses of BLAKE3. Never changes: kept digests depend on it.
const CONTEXT: &str = "lastword 2026-11-24 digest of an API token";

/// A token that was just made. It has no `Debug`, so that it comes into no log.
pub struct Token {
    text: String,
    id: String,
}

impl Token {
    pub(super) fn random() -> Result<Self, Error> {
        let id: String = random::<ID_CHARS>()?
            .iter()
            .map(|byte| char::from(ID_ALPHABET[usize::from(byte % 32)]))
            .collect();
        let secret = URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>()?);
        Ok(Token { text: format!("{PREFIX}{id}_{secret}"), id })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn digest(&self) -> Hash {
        digest(&self.text)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The secret alone has 256 bits: nobody finds it by trying, so a fast digest without salt is enough.
pub(super) fn digest(token: &str) -> Hash {
    Hash::from_bytes(blake3::derive_key(CONTEXT, token.as_bytes()))
}

/// The id of the key that a token claims to be; `None` for what can't be a token.
pub(super) fn id_of(token: &str) -> Option<&str> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (id, _) = token.strip_prefix(PREFIX)?.split_once('_')?;
    is_id(id).then_some(id)
}

pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && text.bytes().all(|byte| ID_ALPHABET.contains(&byte))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Random(error.into())),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_key() {
        let token = Token::random().unwrap();
        let text = token.to_string();
        assert_eq!(id_of(&text), Some(token.id()));
        assert_eq!(digest(&text), token.digest());
        let secret = text.strip_prefix("lw_").unwrap().split_once('_').unwrap().1;
        assert_eq!(URL_SAFE_NO_PAD.decode(secret).unwrap().len(), 32);
        assert_ne!(text, Token::random().unwrap().to_string());
    }

    #[test]
    fn what_is_no_token() {
        for text in ["", "lw_", "lw__x", "lw_short_x", "lw_ABCDEFGHIJ_x", "xx_abcdefghij_x", "lw_abcdefghij"]
        {
            assert_eq!(id_of(text), None, "{text}");
        }
        assert_eq!(id_of("lw_abcdefghij_x"), Some("abcdefghij"));
        assert_eq!(id_of(&format!("lw_abcdefghij_{}", "x".repeat(TOKEN_BYTES_MAX))), None);
    }

    #[test]
    fn digests_stay_what_they_are() {
        let hex = digest("lw_abcdefghij_x").to_hex();
        assert_eq!(hex.as_str(), "1c177513145e3d5157308ac1f789ef75d8782d46c817aef84cc146e0b60e1a22");
    }
}

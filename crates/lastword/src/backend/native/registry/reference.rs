//! What users call an image: `python`, `python:3.12`, `ghcr.io/x/y@sha256:...`, `localhost:5000/x`.

use std::fmt;
use std::str::FromStr;

use lastword_image::Digest;
use url::{Host, Url};

use super::error::Error;
use super::limits::{NAME_BYTES_MAX, REFERENCE_BYTES_MAX, TAG_BYTES_MAX};

const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub really answers.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// In full: registry, repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: String,
    /// Decides, whatever the tag says.
    pub(super) digest: Option<Digest>,
    pub(super) base: Url,
}

/// The one way to write it. With a digest the tag means nothing, so it is left out.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reference { registry, repository, tag, digest, .. } = self;
        match digest {
            Some(digest) => write!(f, "{registry}/{repository}@{digest}"),
            None => write!(f, "{registry}/{repository}:{tag}"),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error::Reference { text: shown(text), why })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.len() > REFERENCE_BYTES_MAX {
        return Err("it is too long");
    }
    let text = text.strip_prefix("docker://").unwrap_or(text);
    if text.contains("://") {
        return Err("it is an address; leave out what stands before the registry's name");
    }
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => {
            let digest = digest.parse().map_err(|_| "what follows `@` is not a SHA-256 digest")?;
            (text, Some(digest))
        }
        None => (text, None),
    };
    let (name, tag) = match text.rsplit_once(':') {
        // A colon before a slash is that of a port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (text, "latest"),
    };
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("it is an image id, which no registry knows");
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first.to_ascii_lowercase(), rest),
        _ => (DOCKER_HUB.to_owned(), name),
    };
    let registry = match registry.as_str() {
        "index.docker.io" | DOCKER_HUB_HOST => DOCKER_HUB.to_owned(),
        _ => registry,
    };
    let repository = match registry == DOCKER_HUB && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    if registry.len() + repository.len() > NAME_BYTES_MAX {
        return Err("its name is too long");
    }
    if !repository.split('/').all(is_component) {
        return Err(
            "a name consists of lower case letters and digits, with `.`, `_`, `-` or `/` between them",
        );
    }
    if !is_tag(tag) {
        return Err(
            "a tag consists of up to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two",
        );
    }
    let base = base(&registry).ok_or("the registry's name is no name of a host")?;
    Ok(Reference { registry, repository, tag: tag.to_owned(), digest, base })
}

/// As docker decides whether the first part is a host or part of a name on Docker Hub.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_component(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = Vec::new();
    let mut last_plain = false;
    for byte in part.bytes() {
        match (plain(byte), byte) {
            (true, _) => {
                if !(separator.is_empty() || is_separator(&separator)) {
                    return false;
                }
                separator.clear();
                last_plain = true;
            }
            // One at the start joins nothing.
            (false, b'.' | b'_' | b'-') if last_plain => separator.push(byte),
            _ => return false,
        }
    }
    last_plain && separator.is_empty()
}

fn is_separator(bytes: &[u8]) -> bool {
    matches!(bytes, b"." | b"_" | b"__") || bytes.iter().all(|byte| *byte == b'-')
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = tag.bytes().next().is_some_and(word);
    first && tag.len() <= TAG_BYTES_MAX && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// Where a registry answers: HTTPS, and plain HTTP only on this machine.
fn base(registry: &str) -> Option<Url> {
    let host = if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry };
    // Anything else than a host and a port would mean something in an address.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    let label = |label: &str| !(label.is_empty() || label.starts_with('-') || label.ends_with('-'));
    if !host.bytes().all(plain) || !host.split('.').all(label) {
        return None;
    }
    let mut base = Url::parse(&format!("https://{host}/")).ok()?;
    let is_whole = base.path() == "/" && base.host().is_some();
    if is_loopback(&base) {
        // The port has to be read as one of HTTP: 443 would otherwise be gone.
        base = Url::parse(&format!("http://{host}/")).ok()?;
    }
    is_whole.then_some(base)
}

/// Whether an address leads to this machine, so that nobody can listen on the way.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// What somebody wrote, fit for a message.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(100).flat_map(char::escape_default).collect();
    if text.chars().nth(100).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let with_digest = format!("ghcr.io/x/y@{DIGEST}");
        let with_both = format!("ghcr.io/x/y:1@{DIGEST}");
        for (text, full, base) in [
            ("python", "docker.io/library/python:latest", "https://registry-1.docker.io/"),
            ("python:3.12-slim", "docker.io/library/python:3.12-slim", "https://registry-1.docker.io/"),
            ("docker://python:3.12", "docker.io/library/python:3.12", "https://registry-1.docker.io/"),
            ("docker.io/python", "docker.io/library/python:latest", "https://registry-1.docker.io/"),
            ("index.docker.io/x/y", "docker.io/x/y:latest", "https://registry-1.docker.io/"),
            ("x/y", "docker.io/x/y:latest", "https://registry-1.docker.io/"),
            ("library/x__y--z.a", "docker.io/library/x__y--z.a:latest", "https://registry-1.docker.io/"),
            ("GHCR.io/x/y/z:V1", "ghcr.io/x/y/z:V1", "https://ghcr.io/"),
            (&with_digest, &with_digest, "https://ghcr.io/"),
            (&with_both, &with_digest, "https://ghcr.io/"),
            ("localhost/x", "localhost/x:latest", "http://localhost/"),
            ("localhost:5000/x", "localhost:5000/x:latest", "http://localhost:5000/"),
            ("localhost:443/x", "localhost:443/x:latest", "http://localhost:443/"),
            ("127.9.9.9:80/x:y", "127.9.9.9:80/x:y", "http://127.9.9.9/"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "http://[::1]:5000/"),
            ("registry:5000/x", "registry:5000/x:latest", "https://registry:5000/"),
            ("10.0.0.1/x", "10.0.0.1/x:latest", "https://10.0.0.1/"),
            ("localhost.evil.com/x", "localhost.evil.com/x:latest", "https://localhost.evil.com/"),
            ("127.0.0.1.evil.com/x", "127.0.0.1.evil.com/x:latest", "https://127.0.0.1.evil.com/"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.base.as_str(), base, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            ":",
            "@",
            "x:",
            "Python",
            "x//y",
            "/x",
            "x/",
            "-x",
            "x-",
            "x..y",
            "x___y",
            "x._y",
            "x y",
            "x:a b",
            "x:.a",
            "x@sha256:00",
            "x@sha512:00",
            "../x",
            "a/../x",
            "https://ghcr.io/x",
            "user:secret@ghcr.io/x",
            "ghcr.io:port/x",
            "ghcr.io:99999/x",
            "ghcr.io?/x",
            "ghcr.io#.x/y",
            "a.b%2f/x",
            "[::1/x",
            "é.io/x",
            "é",
            "x\n",
            &"x".repeat(256),
            &"a/".repeat(1000),
            &format!("x:{}", "1".repeat(129)),
            &"0".repeat(64),
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains("is not an image reference") && !error.contains('\n'), "{error}");
        }
    }
}

//! From a registry's "401" to something that it lets in: challenges as in RFC 9110, and the token servers that docker knows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::credentials::Login;
use super::error::Error;
use super::http::{Http, Question, host};
use super::limits::{CHALLENGE_BYTES_MAX, TOKEN_BYTES_MAX};
use super::reference::{Reference, is_loopback};

const CLIENT_ID: &str = "lastword";

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What the registry may be shown from now on; `None` if it lets nobody in with this login.
pub(super) fn authorization(
    http: &Http,
    reference: &Reference,
    headers: &HeaderMap,
    login: Option<&Login>,
) -> Result<Option<HeaderValue>, Error> {
    let refused =
        |why| Error::Challenge { reference: http.reference.clone(), host: host(&reference.base), why };
    if let Some(Login::Bearer(token)) = login {
        return Ok(bearer(token));
    }
    match challenge(headers).ok_or_else(|| refused("it does not say how"))? {
        Challenge::Basic => Ok(login.and_then(basic)),
        Challenge::Bearer { realm, service } => {
            let realm = Url::parse(&realm).map_err(|_| refused("its token server has no address"))?;
            // Plain HTTP is for registries on this machine, and must not leave it.
            let plain = realm.scheme() == "http" && is_loopback(&realm) && is_loopback(&reference.base);
            if realm.scheme() != "https" && !plain {
                return Err(refused("on the way to its token server everybody could listen"));
            }
            let response = ask(http, realm, &reference.repository, service.as_deref(), login)?;
            if response.status() == StatusCode::UNAUTHORIZED {
                return Ok(None);
            }
            let body = http.body(response, TOKEN_BYTES_MAX)?;
            let token = token(&body).and_then(|token| bearer(&token));
            token.map(Some).ok_or_else(|| refused("its token server gave no token"))
        }
    }
}

/// Asks a token server for the right to read this one repository.
fn ask(
    http: &Http,
    mut realm: Url,
    repository: &str,
    service: Option<&str>,
    login: Option<&Login>,
) -> Result<Response, Error> {
    let scope = format!("repository:{repository}:pull");
    let mut pairs = vec![("scope", scope.as_str())];
    pairs.extend(service.map(|service| ("service", service)));
    let answer = if let Some(Login::Identity(token)) = login {
        pairs.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", token)]);
        http.post_form(&realm, form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish())
    } else {
        realm.query_pairs_mut().extend_pairs(&pairs);
        let authorization = login.and_then(basic);
        let headers = HeaderMap::new();
        http.get(&Question { url: &realm, headers, authorization: authorization.as_ref() })
    };
    answer.map_err(|error| match error {
        // Of a user who may not log in; a registry's own "403" is about an image.
        Error::Status { reference, status: StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST, .. } => {
            let registry = host(&realm);
            Error::Unauthorized { reference, registry, logged_in: login.is_some(), trouble: None }
        }
        error => error,
    })
}

/// What serde could say of it is not passed on: it might show a part of it.
fn token(body: &[u8]) -> Option<String> {
    if body.len() as u64 > TOKEN_BYTES_MAX {
        return None;
    }
    let Token { token, access_token } = serde_json::from_slice(body).ok()?;
    token.or(access_token).filter(|token| !token.is_empty())
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn basic(login: &Login) -> Option<HeaderValue> {
    match login {
        Login::Password { user, secret: password } => {
            secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        }
        _ => None,
    }
}

/// `None` if it has bytes that no header can have.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The best that is offered: a token, else a password.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).into_iter().filter_map(|value| value.to_str().ok());
    let mut best = None;
    for text in texts.filter(|text| text.len() <= CHALLENGE_BYTES_MAX) {
        for (scheme, parameters) in challenges(text) {
            let find = |wanted: &str| {
                let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| value.clone())
            };
            match (scheme.to_ascii_lowercase().as_str(), find("realm")) {
                ("bearer", Some(realm)) => {
                    return Some(Challenge::Bearer { realm, service: find("service") });
                }
                ("basic", _) => best = Some(Challenge::Basic),
                _ => {}
            }
        }
    }
    best
}

type Parameters = Vec<(String, String)>;

/// `Bearer realm="...",service="...", Basic realm="..."`, as far as it can be understood.
fn challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| c == '=' || c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        match (after.trim_start().strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = value_of(value.trim_start());
                parameters.push((word.to_owned(), value));
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => {
                found.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return (value.to_owned(), after);
    };
    let (mut value, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next() {
            Some('"') | None => return (value, chars.as_str()),
            Some('\\') => value.extend(chars.next()),
            Some(c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
        }
        challenge(&headers)
    }

    fn bearer_of(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn challenges_are_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b,c:d",error="x""#;
        assert_eq!(of(&[hub]), bearer_of("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(of(&["bearer realm=https://x , SERVICE = y"]), bearer_of("https://x", Some("y")));
        assert_eq!(of(&[r#"Basic realm="a \", Bearer realm=b""#]), Some(Challenge::Basic));
        assert_eq!(of(&["Basic", r#"Bearer realm="b""#]), bearer_of("b", None));
        assert_eq!(of(&[r#"Basic realm="a", Bearer realm="b",service="c""#]), bearer_of("b", Some("c")));
        assert_eq!(of(&[r#"Negotiate abc==, Basic realm="a""#]), Some(Challenge::Basic));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        let long = format!("Basic realm={}", "x".repeat(CHALLENGE_BYTES_MAX));
        for text in ["", ",", "=", "==", "Bearer", "Bearer realm", "Digest realm=x", "realm=x", "\"", &long] {
            assert_eq!(of(&[text]), None, "{text}");
        }
        assert_eq!(of(&["Bearer realm=\"never closed"]), bearer_of("never closed", None));
        assert_eq!(of(&["Bearer realm=\"\\"]), bearer_of("", None));
    }

    #[test]
    fn a_token_that_fits_no_header_is_none() {
        assert_eq!(bearer("a\r\nX: y"), None);
        assert!(bearer("abc").unwrap().is_sensitive());
        assert_eq!(token(br#"{"token": "", "access_token": "b"}"#), None);
        assert_eq!(token(br#"{"access_token": "b"}"#).as_deref(), Some("b"));
        assert_eq!(token(br#"{"token": 7}"#), None);
    }
}

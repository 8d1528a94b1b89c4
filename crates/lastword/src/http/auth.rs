//! Who may ask: API keys, or on loopback the rules that keep web pages out.
//!
//! A page in a browser on this machine can send requests to a loopback port. It can't choose the `Host` that the browser sends
//! (so a name that was rebound to 127.0.0.1 is seen), nor leave out `Origin` from a write, nor use a content type other than
//! a form's without asking first, which is never granted.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lastword_api::ErrorCode;

use super::App;
use super::limits::TOKEN_BYTES;
use super::problem::Problem;
pub use crate::keys::{Caller, Scope, Scopes};

/// Whose token it is; `None`: nobody's. Must not block for long.
pub type Authenticate = dyn Fn(&str) -> Option<Caller> + Send + Sync;

/// How callers are told apart.
#[derive(Clone)]
pub enum Auth {
    /// Everybody on this machine may do everything. For a listener on loopback only.
    Open,
    /// By the API key that they show.
    Keys(Arc<Authenticate>),
    /// As it says at the time: a server without keys may get some.
    Now(Arc<dyn Fn() -> Auth + Send + Sync>),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Auth::Open => "Open",
            Auth::Keys(_) => "Keys",
            Auth::Now(_) => "Now",
        })
    }
}

/// What may be read without a key.
const PUBLIC: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

/// Content types that a web page may send without asking first.
const FORM_TYPES: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

fn admit(auth: &Auth, request: &Request) -> Result<Option<Caller>, Problem> {
    match auth {
        Auth::Open => only_this_machine(request).map(|()| Some(Caller::local())),
        Auth::Keys(authenticate) => by_key(request, &**authenticate),
        Auth::Now(now) => admit(&now(), request),
    }
}

/// In front of everything.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let admitted = admit(&app.options().auth, &request);
    match admitted {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn by_key(request: &Request, authenticate: &Authenticate) -> Result<Option<Caller>, Problem> {
    let caller = token(request.headers()).and_then(authenticate);
    if caller.is_none() && !PUBLIC.contains(&request.uri().path()) {
        let detail = "send an API key that is known here: Authorization: Bearer KEY";
        return Err(Problem::new(ErrorCode::Unauthorized, detail));
    }
    Ok(caller)
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (all.next()?.to_str().ok()?, all.next()) else { return None };
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    let good = scheme.eq_ignore_ascii_case("bearer") && (1..=TOKEN_BYTES).contains(&token.len());
    good.then_some(token)
}

fn only_this_machine(request: &Request) -> Result<(), Problem> {
    let foreign = |what: &str| {
        let detail = format!("{what}; without API keys the server answers its own machine only");
        Err(Problem::new(ErrorCode::ForeignOrigin, detail))
    };
    let (headers, uri) = (request.headers(), request.uri());
    if !host_is_loopback(headers, uri) {
        return foreign("the Host header is not one of this machine");
    }
    for origin in headers.get_all(ORIGIN) {
        if !origin.to_str().is_ok_and(origin_is_loopback) {
            return foreign("the request comes from a page of another origin");
        }
    }
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if is_write && headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site") {
        return foreign("the request comes from a page of another site");
    }
    let form = |kind: &str| FORM_TYPES.iter().any(|form| kind.eq_ignore_ascii_case(form));
    if is_write && media_type(headers).is_some_and(form) {
        let detail = "a form's content type is not taken here";
        return Err(Problem::new(ErrorCode::UnsupportedMediaType, detail));
    }
    Ok(())
}

/// The content type without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim())
}

fn host_is_loopback(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let named = uri.authority().is_none_or(|authority| authority_is_loopback(authority.as_str()));
    named && host.to_str().is_ok_and(authority_is_loopback)
}

fn origin_is_loopback(origin: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(authority_is_loopback)
}

/// `localhost`, an address of 127.0.0.0/8, or `[::1]`, with or without a port.
fn authority_is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port),
            None => return false,
        },
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let good_port = match port.strip_prefix(':') {
        Some(number) => number.bytes().all(|byte| byte.is_ascii_digit()) && number.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    let bracketed = authority.starts_with('[');
    let good_host = match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() && address.is_ipv6() == bracketed,
        Err(_) => !bracketed && host.eq_ignore_ascii_case("localhost"),
    };
    good_port && good_host
}

/// A caller who may read.
pub(super) struct Reads(pub(super) Caller);

/// A caller who may run and change.
pub(super) struct Runs(pub(super) Caller);

/// Whoever has a key.
pub(super) struct Anyone;

fn caller(parts: &Parts, scope: Scope) -> Result<Caller, Problem> {
    let Some(caller) = parts.extensions.get::<Caller>() else {
        return Err(Problem::new(ErrorCode::Unauthorized, "an API key is needed"));
    };
    if !caller.may(scope) {
        let detail = format!("the API key lacks the scope {}", scope.name());
        return Err(Problem::new(ErrorCode::Forbidden, detail));
    }
    Ok(caller.clone())
}

impl<S: Sync> FromRequestParts<S> for Reads {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts, Scope::Read).map(Reads)
    }
}

impl<S: Sync> FromRequestParts<S> for Runs {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts, Scope::Run).map(Runs)
    }
}

impl<S: Sync> FromRequestParts<S> for Anyone {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts, Scope::Read).or_else(|_| caller(parts, Scope::Run)).map(|_| Anyone)
    }
}

/// What tells of all tenants is for those who see all of them, and for administrators.
pub(super) fn sees_the_machine(caller: Option<&Caller>) -> bool {
    caller.is_some_and(|caller| {
        caller.may(Scope::Admin) || (caller.tenant.is_none() && caller.may(Scope::Read))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_hosts_are_this_machine() {
        for good in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.9.9.9:7070",
            "[::1]",
            "[::1]:7070",
            "localhost:65535",
        ] {
            assert!(authority_is_loopback(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "example.com",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "localhost:65536",
            "localhost:+1",
            "localhost:x",
            "user@localhost",
            "10.0.0.1",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "[localhost]",
            "0.0.0.0",
        ] {
            assert!(!authority_is_loopback(bad), "{bad}");
        }
        assert!(origin_is_loopback("http://localhost:3000") && !origin_is_loopback("null"));
        assert!(!origin_is_loopback("http://localhost:3000/x") && !origin_is_loopback("file://localhost"));
    }

    #[test]
    fn a_token_is_behind_bearer() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            token(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc").as_deref(), Some("abc"));
        for bad in ["abc", "Basic abc", "Bearer ", &format!("Bearer {}", "k".repeat(TOKEN_BYTES + 1))] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}

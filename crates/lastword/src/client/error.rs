//! Why a server did not do what it was asked for.

use std::time::Duration;

use lastword_api::{ErrorCode, ProblemDetails};
use uuid::Uuid;

/// The address in these is the server's, never with a login or a query.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{url:?} is not the address of a server: {why}")]
    Address { url: String, why: &'static str },
    #[error("the API key {why}")]
    Key { why: String },
    #[error("cannot prepare to connect to {server}")]
    Prepare { server: String, source: std::io::Error },
    #[error("this machine has no certificates to check the server {server} with")]
    NoRoots { server: String },
    #[error("cannot reach the server at {server}")]
    Unreachable { server: String, source: reqwest::Error },
    #[error("the server at {server} has not answered for {} s", after.as_secs())]
    Silent { server: String, after: Duration },
    #[error("the connection to the server at {server} broke")]
    Broken { server: String, source: reqwest::Error },
    #[error("the connection to the server at {server} ended before the answer did")]
    CutOff { server: String },
    #[error("{}", .0.detail)]
    Refused(Box<ProblemDetails>),
    #[error("what answers at {server} with status {status} is no lastword server")]
    NotOurs { server: String, status: u16 },
    #[error("the server at {server} answered with something that can't be understood: {what}")]
    BadAnswer { server: String, what: String },
    #[error("the answer of the server at {server} is longer than {max} bytes")]
    TooLong { server: String, max: usize },
    #[error("no execution matches `{prefix}`")]
    NoMatch { prefix: String },
    #[error("`{prefix}` is not an execution id or the beginning of one")]
    BadPrefix { prefix: String },
    #[error("`{prefix}` matches more than one execution ({}, ...); give more of the id", list(candidates))]
    Ambiguous { prefix: String, candidates: Vec<Uuid> },
    #[error("`{prefix}` is the beginning of too many ids to look through; give more of the id")]
    TooShort { prefix: String },
}

impl Error {
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// The connection failed, or whoever stands between us and the server could not reach it.
    pub(super) fn is_of_the_connection(&self) -> bool {
        match self {
            Error::Unreachable { .. }
            | Error::Silent { .. }
            | Error::Broken { .. }
            | Error::CutOff { .. }
            | Error::NotOurs { status: 502..=504, .. } => true,
            Error::Refused(problem) => matches!(problem.code, ErrorCode::NotReady | ErrorCode::Draining),
            _ => false,
        }
    }

    /// The server has too much to do.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::QueueFull | ErrorCode::TooBusy))
            || matches!(self, Error::NotOurs { status: 429, .. })
    }

    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Error::Refused(problem) => Duration::from_secs(problem.retry_after.unwrap_or_default()),
            _ => Duration::ZERO,
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Address { .. } => "write it like http://127.0.0.1:7070 or https://lastword.example",
            Error::Key { .. } => "lastword keys create makes one, on the server's machine",
            Error::Unreachable { .. } | Error::NotOurs { .. } => {
                "is it running there? lastword serve starts one; --server or LASTWORD_SERVER names it"
            }
            Error::Silent { .. } | Error::Broken { .. } | Error::CutOff { .. } => "try again",
            Error::NoRoots { .. } => "install the package ca-certificates",
            Error::BadAnswer { .. } => "is it of another version?",
            Error::NoMatch { .. }
            | Error::BadPrefix { .. }
            | Error::Ambiguous { .. }
            | Error::TooShort { .. } => "lastword list shows the executions",
            Error::Refused(problem) => return hint_of(problem),
            _ => return None,
        };
        Some(text.to_owned())
    }
}

fn list(ids: &[Uuid]) -> String {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    ids.join(", ")
}

fn hint_of(problem: &ProblemDetails) -> Option<String> {
    let text = match problem.code {
        ErrorCode::Unauthorized => {
            "set LASTWORD_API_KEY, or name a file with --api-key-file; lastword keys create makes one on the server's machine"
        }
        ErrorCode::Forbidden => "use a key with that scope: lastword keys create --scope ... makes one",
        ErrorCode::ExecutionNotFound => "lastword list shows the executions",
        ErrorCode::QueueFull | ErrorCode::TooBusy | ErrorCode::NotReady | ErrorCode::Draining => {
            "try again later"
        }
        ErrorCode::TooLarge => "large data does not fit into a request; run it without --server",
        ErrorCode::ForeignOrigin => "give the server API keys, or ask it under a loopback address",
        ErrorCode::StorageFull => "free some space on the server's disk",
        ErrorCode::IdempotencyConflict => "choose another --key, or send what it was used for",
        _ => return None,
    };
    Some(text.to_owned())
}

//! Why a request was not done: problem details (RFC 9457) with a code from a closed list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The closed list of codes. New ones may be added; none is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// JSON, UTF-8, a header or the query is malformed.
    MalformedRequest,
    /// No API key, or one that is not known.
    Unauthorized,
    /// The key lacks the scope.
    Forbidden,
    /// Host or Origin is not this machine, and no API keys are in use.
    ForeignOrigin,
    /// No such path.
    NotFound,
    /// There is none of this id, it was removed, or it is another tenant's.
    ExecutionNotFound,
    /// There is none of this id, all of it was removed, or it is another tenant's.
    BatchNotFound,
    /// No file of this path was kept.
    FileNotFound,
    /// The execution did not come through a server.
    RequestNotKept,
    /// See the `Allow` header.
    MethodNotAllowed,
    /// The `Accept` header names none that there is.
    NotAcceptable,
    /// The body stopped coming.
    RequestTimeout,
    /// `execution` is what that one made.
    IdempotencyConflict,
    /// `execution` is what it was.
    IdempotencyRemoved,
    /// It must end first.
    NotEnded,
    /// `have` bytes are there.
    StdinGap,
    /// It was closed, or never open; `have` bytes are there.
    StdinClosed,
    /// Read from the beginning, or list the executions.
    CursorGone,
    TooLarge,
    UnsupportedMediaType,
    /// `field` names it.
    InvalidField,
    /// `field` names it.
    InvalidParameter,
    /// A limit or the ordering, and `strict` was asked for.
    Unenforceable,
    /// Try again later.
    QueueFull,
    /// Too many bodies or streams at a time.
    TooBusy,
    Internal,
    /// What came before it is good. In streams only.
    TranscriptDamaged,
    NotReady,
    /// Nothing is taken any more.
    Draining,
    StorageFull,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 30] = [
        ErrorCode::MalformedRequest,
        ErrorCode::Unauthorized,
        ErrorCode::Forbidden,
        ErrorCode::ForeignOrigin,
        ErrorCode::NotFound,
        ErrorCode::ExecutionNotFound,
        ErrorCode::BatchNotFound,
        ErrorCode::FileNotFound,
        ErrorCode::RequestNotKept,
        ErrorCode::MethodNotAllowed,
        ErrorCode::NotAcceptable,
        ErrorCode::RequestTimeout,
        ErrorCode::IdempotencyConflict,
        ErrorCode::IdempotencyRemoved,
        ErrorCode::NotEnded,
        ErrorCode::StdinGap,
        ErrorCode::StdinClosed,
        ErrorCode::CursorGone,
        ErrorCode::TooLarge,
        ErrorCode::UnsupportedMediaType,
        ErrorCode::InvalidField,
        ErrorCode::InvalidParameter,
        ErrorCode::Unenforceable,
        ErrorCode::QueueFull,
        ErrorCode::TooBusy,
        ErrorCode::Internal,
        ErrorCode::TranscriptDamaged,
        ErrorCode::NotReady,
        ErrorCode::Draining,
        ErrorCode::StorageFull,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::MalformedRequest => "malformed_request",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::ForeignOrigin => "foreign_origin",
            ErrorCode::NotFound => "not_found",
            ErrorCode::ExecutionNotFound => "execution_not_found",
            ErrorCode::BatchNotFound => "batch_not_found",
            ErrorCode::FileNotFound => "file_not_found",
            ErrorCode::RequestNotKept => "request_not_kept",
            ErrorCode::MethodNotAllowed => "method_not_allowed",
            ErrorCode::NotAcceptable => "not_acceptable",
            ErrorCode::RequestTimeout => "request_timeout",
            ErrorCode::IdempotencyConflict => "idempotency_conflict",
            ErrorCode::IdempotencyRemoved => "idempotency_removed",
            ErrorCode::NotEnded => "not_ended",
            ErrorCode::StdinGap => "stdin_gap",
            ErrorCode::StdinClosed => "stdin_closed",
            ErrorCode::CursorGone => "cursor_gone",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::UnsupportedMediaType => "unsupported_media_type",
            ErrorCode::InvalidField => "invalid_field",
            ErrorCode::InvalidParameter => "invalid_parameter",
            ErrorCode::Unenforceable => "unenforceable",
            ErrorCode::QueueFull => "queue_full",
            ErrorCode::TooBusy => "too_busy",
            ErrorCode::Internal => "internal",
            ErrorCode::TranscriptDamaged => "transcript_damaged",
            ErrorCode::NotReady => "not_ready",
            ErrorCode::Draining => "draining",
            ErrorCode::StorageFull => "storage_full",
        }
    }

    /// The HTTP status that comes with it.
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::MalformedRequest => 400,
            ErrorCode::Unauthorized => 401,
            ErrorCode::Forbidden | ErrorCode::ForeignOrigin => 403,
            ErrorCode::NotFound
            | ErrorCode::ExecutionNotFound
            | ErrorCode::BatchNotFound
            | ErrorCode::FileNotFound
            | ErrorCode::RequestNotKept => 404,
            ErrorCode::MethodNotAllowed => 405,
            ErrorCode::NotAcceptable => 406,
            ErrorCode::RequestTimeout => 408,
            ErrorCode::IdempotencyConflict
            | ErrorCode::IdempotencyRemoved
            | ErrorCode::NotEnded
            | ErrorCode::StdinGap
            | ErrorCode::StdinClosed => 409,
            ErrorCode::CursorGone => 410,
            ErrorCode::TooLarge => 413,
            ErrorCode::UnsupportedMediaType => 415,
            ErrorCode::InvalidField | ErrorCode::InvalidParameter | ErrorCode::Unenforceable => 422,
            ErrorCode::QueueFull | ErrorCode::TooBusy => 429,
            ErrorCode::Internal | ErrorCode::TranscriptDamaged => 500,
            ErrorCode::NotReady | ErrorCode::Draining | ErrorCode::StorageFull => 503,
        }
    }

    /// The same for every problem of this code.
    pub fn title(self) -> &'static str {
        match self {
            ErrorCode::MalformedRequest => "the request can't be read",
            ErrorCode::Unauthorized => "an API key is needed",
            ErrorCode::Forbidden => "the API key may not do this",
            ErrorCode::ForeignOrigin => "only this machine may ask",
            ErrorCode::NotFound => "there is nothing here",
            ErrorCode::ExecutionNotFound => "no such execution",
            ErrorCode::BatchNotFound => "no such batch",
            ErrorCode::FileNotFound => "no such output file",
            ErrorCode::RequestNotKept => "the request was not kept",
            ErrorCode::MethodNotAllowed => "the path has no such method",
            ErrorCode::NotAcceptable => "none of the accepted formats can be given",
            ErrorCode::RequestTimeout => "the request took too long to arrive",
            ErrorCode::IdempotencyConflict => "the idempotency key was used for another request",
            ErrorCode::IdempotencyRemoved => "what the idempotency key made was removed",
            ErrorCode::NotEnded => "the execution has not ended",
            ErrorCode::StdinGap => "the bytes would leave a gap in stdin",
            ErrorCode::StdinClosed => "stdin is not open",
            ErrorCode::CursorGone => "the place in the feed is gone",
            ErrorCode::TooLarge => "the request is too large",
            ErrorCode::UnsupportedMediaType => "the content type is not the right one",
            ErrorCode::InvalidField => "a field can't be taken as it is",
            ErrorCode::InvalidParameter => "a parameter of the query can't be taken as it is",
            ErrorCode::Unenforceable => "this machine can't do what was asked for",
            ErrorCode::QueueFull => "the queue is full",
            ErrorCode::TooBusy => "too much is going on",
            ErrorCode::Internal => "an error of the server",
            ErrorCode::TranscriptDamaged => "the stored transcript is damaged",
            ErrorCode::NotReady => "the server is not ready",
            ErrorCode::Draining => "the server is going down",
            ErrorCode::StorageFull => "the disk of the server is full",
        }
    }
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDetails {
    /// A URN that ends with the code.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    pub code: ErrorCode,
    /// A sentence for people.
    pub detail: String,
    /// The field of the body, or the parameter of the query, that was wrong: like `limits.pids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The execution that stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Uuid>,
    /// Bytes of stdin that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<u64>,
    /// Seconds, as in the `Retry-After` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl ProblemDetails {
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:lastword:problem:{}", code.name()),
            title: code.title().into(),
            status: code.status(),
            code,
            detail: detail.into(),
            field: None,
            execution: None,
            have: None,
            retry_after: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{}\"", code.name()));
            assert!((400..=599).contains(&code.status()), "{}", code.name());
        }
    }

    #[test]
    fn a_problem_looks_as_the_rfc_says() {
        let problem = ProblemDetails {
            field: Some("limits.pids".into()),
            ..ProblemDetails::new(ErrorCode::InvalidField, "limits.pids is 0")
        };
        assert_eq!(
            serde_json::to_string(&problem).unwrap(),
            concat!(
                r#"{"type":"urn:lastword:problem:invalid_field","title":"a field can't be taken as it is","#,
                r#""status":422,"code":"invalid_field","detail":"limits.pids is 0","field":"limits.pids"}"#
            )
        );
    }
}

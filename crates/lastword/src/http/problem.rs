//! Problem details: the one shape of every refusal.

use std::time::Duration;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lastword_api::{ErrorCode, FieldError, ProblemDetails};
use lastword_store::Error as StoreError;
use uuid::Uuid;

use super::limits::{RETRY_LATER, RETRY_SOON};
use crate::backend::native::Refused;
use crate::cli::message::escaped;
use crate::service::{self, SubmitError};
use crate::{execution, stored};

pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request is not done. Small, so that it costs nothing in a `Result`.
#[derive(Clone, Debug)]
pub(super) struct Problem(Box<ProblemDetails>);

impl Problem {
    pub(super) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Problem(Box::new(ProblemDetails::new(code, detail)))
    }

    /// A field of a body.
    pub(super) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(ErrorCode::InvalidField, detail);
        problem.0.field = Some(field.into());
        problem
    }

    /// A parameter of a query.
    pub(super) fn parameter(name: &str, detail: impl std::fmt::Display) -> Self {
        let mut problem = Self::new(ErrorCode::InvalidParameter, format!("{name}: {detail}"));
        problem.0.field = Some(name.to_owned());
        problem
    }

    pub(super) fn unknown(id: Uuid) -> Self {
        Self::new(ErrorCode::ExecutionNotFound, format!("there is no execution {id}"))
    }

    /// Said to the client in few words; the log has the rest.
    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        let mut chain = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            chain = format!("{chain}: {error}");
            cause = error.source();
        }
        tracing::error!(error = %escaped(&chain), "a request failed");
        Self::new(ErrorCode::Internal, "the server met an error; its log says more")
    }

    pub(super) fn later(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after.as_millis().div_ceil(1000).max(1) as u64);
        self
    }

    pub(super) fn about(mut self, execution: Uuid) -> Self {
        self.0.execution = Some(execution);
        self
    }

    fn have(mut self, bytes: u64) -> Self {
        self.0.have = Some(bytes);
        self
    }

    pub(super) fn code(&self) -> ErrorCode {
        self.0.code
    }

    pub(super) fn details(&self) -> &ProblemDetails {
        &self.0
    }

    pub(super) fn into_details(self) -> ProblemDetails {
        *self.0
    }

    /// As JSON, on one line.
    pub(super) fn to_json(&self) -> String {
        // Serialising this type can't fail: it has texts and numbers only.
        serde_json::to_string(&*self.0).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_JSON)], self.to_json()).into_response();
        // For who counts them.
        response.extensions_mut().insert(self.0.code);
        let headers = response.headers_mut();
        if let Some(seconds) = self.0.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.code == ErrorCode::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// For whatever path has no such method. axum adds which ones it has.
pub(super) async fn no_such_method() -> Response {
    let mut response =
        Problem::new(ErrorCode::MethodNotAllowed, "this path has no such method").into_response();
    response.headers_mut().remove(ALLOW);
    response
}

pub(super) async fn no_such_path() -> Problem {
    Problem::new(ErrorCode::NotFound, "there is nothing at this path")
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NotFound { id } => Problem::unknown(id),
            StoreError::NotEnded { id } => Problem::new(ErrorCode::NotEnded, text).about(id),
            StoreError::CursorGone { .. } => Problem::new(ErrorCode::CursorGone, text),
            StoreError::Ended { id } => Problem::new(ErrorCode::StdinClosed, text).about(id),
            StoreError::StdinGap { id, have, .. } => {
                Problem::new(ErrorCode::StdinGap, text).about(id).have(have)
            }
            StoreError::StdinClosed { id, have } => {
                Problem::new(ErrorCode::StdinClosed, text).about(id).have(have)
            }
            StoreError::TooLarge { what, bytes, max, .. } => {
                let detail = format!("the {what} has {bytes} bytes, at most {max} are taken");
                Problem::new(ErrorCode::TooLarge, detail)
            }
            StoreError::StorageFull { .. } => {
                let _ = Problem::internal(&error);
                Problem::new(ErrorCode::StorageFull, "the disk that keeps transcripts is full")
                    .later(RETRY_LATER)
            }
            error => Problem::internal(&error),
        }
    }
}

impl From<stored::Error> for Problem {
    fn from(error: stored::Error) -> Self {
        match error {
            stored::Error::Store(error) => error.into(),
            stored::Error::Execution(error) => error.into(),
        }
    }
}

impl From<execution::Error> for Problem {
    fn from(error: execution::Error) -> Self {
        match error {
            execution::Error::Store(error) => error.into(),
            execution::Error::Refused(refused) => refused.into(),
            error => Problem::internal(&error),
        }
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        let detail = error.to_string();
        Problem::field(error.field, detail)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        let (code, field) = match &refused {
            Refused::Limit { name, .. } => (ErrorCode::Unenforceable, format!("limits.{}", name.field())),
            Refused::Ordering { .. } => (ErrorCode::Unenforceable, "ordering".into()),
            Refused::TooLarge { .. } => (ErrorCode::InvalidField, "files".into()),
            Refused::Shared { .. } | Refused::NoCommand => (ErrorCode::InvalidField, "command".into()),
        };
        let mut problem = Problem::new(code, detail);
        problem.0.field = Some(field);
        problem
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let text = error.to_string();
        match error {
            SubmitError::Field(error) => error.into(),
            SubmitError::Refused(refused) => refused.into(),
            SubmitError::KeyConflict { id } => Problem::new(ErrorCode::IdempotencyConflict, text).about(id),
            SubmitError::KeyRemoved { id } => Problem::new(ErrorCode::IdempotencyRemoved, text).about(id),
            SubmitError::QueueFull { retry_after, .. } => {
                Problem::new(ErrorCode::QueueFull, text).later(retry_after)
            }
            SubmitError::Draining { retry_after } => {
                Problem::new(ErrorCode::Draining, text).later(retry_after)
            }
            SubmitError::Store(error) => error.into(),
            SubmitError::Object(error) => error.into(),
            error => Problem::internal(&error),
        }
    }
}

impl From<service::Error> for Problem {
    fn from(error: service::Error) -> Self {
        match error {
            service::Error::Store(error) => error.into(),
            service::Error::Execution(error) => error.into(),
        }
    }
}

/// Something is used up for the moment.
pub(super) fn too_busy(what: &str) -> Problem {
    Problem::new(ErrorCode::TooBusy, format!("too many {what} at a time")).later(RETRY_SOON)
}

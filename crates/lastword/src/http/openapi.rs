//! The OpenAPI 3.1 document: schemas from the types, paths from [`operations`].
//!
//! `cargo run -p lastword --example openapi > openapi/openapi.json` writes it anew; a test compares.

mod operations;
mod schemas;

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::body::JSON;
use super::problem::Problem;
use super::query::Query;

static DOCUMENT: LazyLock<String> = LazyLock::new(generate);

/// `GET /openapi.json`
pub(super) async fn document(uri: Uri) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    Ok((StatusCode::OK, [(CONTENT_TYPE, JSON)], Body::from(DOCUMENT.as_str())).into_response())
}

/// The document as it is committed.
pub fn generate() -> String {
    let mut text = serde_json::to_string_pretty(&value()).unwrap_or_default();
    text.push('\n');
    text
}

fn value() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lastword",
            "description": "Runs code that nobody trusts, and never loses what it said.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:7070"}],
        "security": [{}, {"key": []}],
        "paths": operations::paths(),
        "components": {
            "schemas": schemas::schemas(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. On loopback a server may do without.",
                },
            },
        },
    })
}

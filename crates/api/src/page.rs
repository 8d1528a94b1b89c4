//! A page of a list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Execution;

/// Executions, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionPage {
    /// May be fewer than asked for, even none, although more follow.
    pub items: Vec<Execution>,
    /// For the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

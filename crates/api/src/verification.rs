//! What reading one execution again from disk has shown.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Every byte of a transcript and of its output files, compared with what was promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    pub id: Uuid,
    /// No problem was found. A transcript that is not complete and says so is no problem.
    pub ok: bool,
    pub status: String,
    pub complete: bool,
    /// Null exactly if it is complete.
    pub why_incomplete: Option<String>,
    pub records: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// Output files whose bytes are those of the seal.
    pub outputs: u64,
    pub output_bytes: u64,
    pub problems: Vec<String>,
}

//! A change of an execution's status, as `GET /v1/events` tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Reason, Status, Timestamp};

/// What an execution came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Accepted, and waiting.
    Queued,
    /// Handed to a supervisor.
    Running,
    /// It has ended: `status` says how.
    Ended,
    /// It was removed with its transcript.
    Removed,
}

impl EventKind {
    pub const ALL: [EventKind; 4] =
        [EventKind::Queued, EventKind::Running, EventKind::Ended, EventKind::Removed];

    pub fn name(self) -> &'static str {
        match self {
            EventKind::Queued => "queued",
            EventKind::Running => "running",
            EventKind::Ended => "ended",
            EventKind::Removed => "removed",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One change. Each is told once, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Ask for what is `after` this one. An opaque text.
    pub cursor: String,
    pub kind: EventKind,
    pub execution: Uuid,
    pub timestamp: Timestamp,
    /// The status it has from then on; null where it was removed.
    pub status: Option<Status>,
    /// With kind `ended`: why.
    pub reason: Option<Reason>,
    /// With kind `ended`: whether every byte of its transcript is there.
    pub complete: Option<bool>,
    /// Empty where it was removed since.
    pub labels: BTreeMap<String, String>,
    /// The batch that it came with.
    pub batch: Option<Uuid>,
}

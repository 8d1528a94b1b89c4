//! How an execution stands, and why it ended as it did. Both lists are closed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where an execution is in its life. It ends in exactly one of the last five, and stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted and durable, waiting for its turn.
    Queued,
    /// Handed to a supervisor.
    Running,
    /// The program ended with exit code 0.
    Succeeded,
    /// The program ended in any other way by itself, or because of what it used. See the reason.
    Failed,
    /// It ran out of wall or CPU time.
    TimedOut,
    /// Somebody asked for its end.
    Cancelled,
    /// lastword failed, not the program. The problem says how.
    Error,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Queued,
        Status::Running,
        Status::Succeeded,
        Status::Failed,
        Status::TimedOut,
        Status::Cancelled,
        Status::Error,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Running => "running",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::TimedOut => "timed_out",
            Status::Cancelled => "cancelled",
            Status::Error => "error",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// True if the execution has ended: its status never changes again.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Status::Queued | Status::Running)
    }
}

/// Why an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The program ended by itself; `exit_code` has its code.
    Exit,
    /// A signal ended it; `signal` has its name.
    Signal,
    /// The kernel killed it at its memory limit.
    OutOfMemory,
    /// It reached its limit of wall time.
    WallTime,
    /// It reached its limit of CPU time.
    CpuTime,
    /// It wrote more than its output limit, and the policy is to kill.
    OutputLimit,
    /// It wrote more to its disk than it may.
    DiskLimit,
    /// The compile step failed; the program never ran.
    CompileFailed,
    /// The program could not be started.
    StartFailure,
    /// The image could not be had.
    ImageUnavailable,
    /// No place was found to run it.
    Unschedulable,
    /// The platform took it away.
    Evicted,
    /// Its container vanished.
    ContainerGone,
    /// Nobody saw its end: the machine or the supervisor died.
    Lost,
    /// Somebody asked for its end.
    Cancelled,
    /// The disk that keeps transcripts was full for longer than we wait.
    StorageFull,
}

impl Reason {
    pub const ALL: [Reason; 16] = [
        Reason::Exit,
        Reason::Signal,
        Reason::OutOfMemory,
        Reason::WallTime,
        Reason::CpuTime,
        Reason::OutputLimit,
        Reason::DiskLimit,
        Reason::CompileFailed,
        Reason::StartFailure,
        Reason::ImageUnavailable,
        Reason::Unschedulable,
        Reason::Evicted,
        Reason::ContainerGone,
        Reason::Lost,
        Reason::Cancelled,
        Reason::StorageFull,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::Exit => "exit",
            Reason::Signal => "signal",
            Reason::OutOfMemory => "out_of_memory",
            Reason::WallTime => "wall_time",
            Reason::CpuTime => "cpu_time",
            Reason::OutputLimit => "output_limit",
            Reason::DiskLimit => "disk_limit",
            Reason::CompileFailed => "compile_failed",
            Reason::StartFailure => "start_failure",
            Reason::ImageUnavailable => "image_unavailable",
            Reason::Unschedulable => "unschedulable",
            Reason::Evicted => "evicted",
            Reason::ContainerGone => "container_gone",
            Reason::Lost => "lost",
            Reason::Cancelled => "cancelled",
            Reason::StorageFull => "storage_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{}\"", status.name()));
            assert_eq!(Status::from_name(status.name()), Some(status));
        }
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{}\"", reason.name()));
        }
        assert_eq!(Status::from_name("Queued"), None);
    }
}

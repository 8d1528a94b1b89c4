//! What isolates one execution: a [`plan::Plan`] made on the host (pure data), and the ordered steps that carry it out
//! in a fresh set of namespaces ([`enter`], [`init`]).
//!
//! Everything that runs after the clone runs in a single-threaded process (the supervisor and what it forks), so
//! allocating between fork and exec is safe here and nowhere else.

pub mod cgroup;
pub mod enter;
pub mod glob;
pub mod host;
pub mod init;
pub mod limits;
pub mod message;
pub mod plan;
pub mod program;
pub mod root;
pub mod seccomp;
pub mod sys;
pub mod wire;

//! What a server says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Backend, LimitName, Ordering};

/// How full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Executions that run at a time.
    pub concurrency: u64,
    pub running: u64,
    /// Executions that may wait.
    pub queue: u64,
    pub waiting: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Runtimes {
    pub items: Vec<RuntimeInfo>,
}

/// A language, or another way to run code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuntimeInfo {
    /// What `runtime` of a request takes.
    pub name: String,
    /// Other names that it takes.
    pub aliases: Vec<String>,
    /// Of files that it runs, without the dot.
    pub extensions: Vec<String>,
    /// All that it runs is on this machine. With an image it comes from there.
    pub available: bool,
    /// Its own or its compiler's; null where it has none to tell.
    pub version: Option<String>,
    /// There is a compile step.
    pub compiled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backends {
    pub items: Vec<BackendInfo>,
}

/// What can isolate and run programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendInfo {
    pub name: Backend,
    pub available: bool,
    /// Why it is not available.
    pub problem: Option<String>,
    /// For each limit: whether it is enforced.
    pub enforced: BTreeMap<LimitName, bool>,
    /// The best order of records that can be had.
    pub ordering: Option<Ordering>,
}

/// The process is there and answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    pub ok: bool,
    /// Our own version.
    pub lastword: String,
}

/// Whether requests can be taken and run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    pub ready: bool,
    pub parts: Vec<ReadinessPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadinessPart {
    /// Like `store`.
    pub name: String,
    pub ready: bool,
    /// What is wrong with it, for those who may know.
    pub problem: Option<String>,
}

/// The stdin of an execution, after a write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StdinState {
    /// Bytes that are there now, durable: the offset of the next write.
    pub bytes: u64,
    /// This write closed it.
    pub closed: bool,
}

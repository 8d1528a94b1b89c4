//! The native backend: no daemon. One supervisor process per execution builds the sandbox on this machine.
//!
//! Request -> [`plan`] (pure, on top of what [`machine`] found) -> [`start`] (a supervisor with the plan) -> spool.

pub mod image;
pub mod machine;
pub mod plan;
pub mod registry;
pub mod start;

pub use machine::Machine;
pub use plan::Refused;
pub use start::{Error, Supervisor};

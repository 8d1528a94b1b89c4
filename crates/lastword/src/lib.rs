//! lastword runs code that nobody trusts, and never loses its last words.
//!
//! [`cli`] is the way in; [`execution`] the life of one run; [`runtime`] what is known of each language; [`service`] many
//! executions for many users, whose [`keys`] say who they are.
#![forbid(unsafe_code)]

pub mod backend;
pub mod cli;
mod client;
pub mod execution;
pub mod http;
pub mod keys;
pub mod log;
mod replay;
pub mod runtime;
pub mod service;
mod stored;
mod tls;

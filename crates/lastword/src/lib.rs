//! lastword runs code that nobody trusts, and never loses its last words.
//!
//! [`cli`] is the way in; [`execution`] the life of one run; [`runtime`] what is known of each language.
#![forbid(unsafe_code)]

pub mod backend;
pub mod cli;
pub mod execution;
pub mod runtime;
mod tls;

//! What isolates and runs programs.

pub mod native;

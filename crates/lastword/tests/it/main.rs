//! The real binary, driven as its users drive it. One program, so that it links once.
//!
//! `LASTWORD_SOAK=1` takes the large counts; figures then go to the file that `LASTWORD_SOAK_REPORT` names.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test says what it needs by unwrapping")]

mod api_contract;
mod api_guide;
mod api_tenants;
mod bad_input;
mod batch;
mod cli;
mod client;
mod conformance;
mod control;
mod durability;
mod fixture;
mod hostile;
mod images;
mod keys;
mod lab;
mod languages;
mod leftovers;
mod limits;
mod object;
mod ordering;
mod outputs;
mod reboot;
mod review;
mod review_programs;
mod rootless;
mod serve;
mod serve_chaos;
mod serve_config;
mod serve_life;
mod serve_load;
mod server;
mod soak;
mod streams;

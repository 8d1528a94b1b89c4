//! Images made in code, most of them with bad intent, unpacked for real.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "all of this is for tests")]

mod cache;
mod documents;
mod hostile;
mod lab;
mod layers;
mod pack;
mod property;
mod sources;
mod users;

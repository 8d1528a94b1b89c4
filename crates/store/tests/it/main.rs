//! The store from outside: what it keeps, through kills, power cuts and damage.
#![expect(clippy::unwrap_used, reason = "tests")]

mod basics;
mod crash;
mod damage;
mod faulty;
mod feed;
mod fixture;
mod model;
mod queue;
mod queue_crash;
mod support;

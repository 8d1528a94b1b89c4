//! What an image says about how it wants to be run.

use serde::{Deserialize, Serialize};

/// From the image's config document. No text in it has a zero byte; beyond that it is the image's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Config {
    /// As images call it: `amd64`. It is this machine's.
    pub architecture: String,
    /// Always `linux`.
    pub os: String,
    /// What always runs; `cmd`, or what the user gives instead, are its arguments.
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Names and values, in order. No name is empty.
    pub env: Vec<(String, String)>,
    /// Begins with a slash. It may not exist, and may lead through links.
    pub working_dir: String,
    /// As the image has it: empty, `name`, `uid`, `name:group`, ...; [`crate::Image::user`] resolves it.
    pub user: String,
}

/// Whom the image wants to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// From `etc/passwd`; `/` if that has none. Begins with a slash.
    pub home: String,
}

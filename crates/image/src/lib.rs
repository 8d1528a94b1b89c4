//! Images for the native sandbox.
//!
//! An image comes from a file, a directory or a caller who talks to a registry ([`Source`]). Every part is checked against its
//! digest, the layers are unpacked by hand into one tree, and a finished tree stays in a [`Cache`] under the image's digest. An
//! [`Image`] keeps its tree from being thrown away for as long as it lives, or for as long as the descriptor that it gives out.
//!
//! Whoever made the image is the enemy: he must not write outside of the tree, not fill the disk, not stop us, and not get
//! anything into the cache under a digest that isn't its own. Threats, forms and layout: `docs/images.md`.
#![forbid(unsafe_code)]

mod beneath;
mod cache;
mod config;
mod digest;
mod document;
mod error;
pub mod limits;
mod name;
mod source;
mod stream;
mod tar;
mod unpack;
mod users;

pub use cache::{Cache, Image};
pub use config::{Config, User};
pub use digest::{Digest, NotADigest};
pub use error::Error;
pub use limits::Limits;
pub use source::{Blobs, Source};
pub use tar::TarError;

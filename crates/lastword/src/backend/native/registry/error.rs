//! Why an image cannot be had, and what to do about it. Nothing that a registry said stands in here, and no secret.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;

/// An error of this module. Each sentence names the image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("`{text}` is not an image reference: {why}")]
    Reference { text: String, why: &'static str },
    #[error("{registry} has no image {reference}; check its name and its tag")]
    NotFound { reference: String, registry: String },
    #[error("{registry} does not give {reference} to just anybody, or has no such image; {}", advice(registry, *logged_in, trouble))]
    Unauthorized { reference: String, registry: String, logged_in: bool, trouble: Option<String> },
    #[error(
        "{host} gives no more images for now{}, so {reference} cannot be had; wait, or log in with `docker login`",
        later(*retry_after)
    )]
    RateLimited { reference: String, host: String, retry_after: Option<Duration> },
    #[error(
        "{host} cannot be reached for {reference}; check the name and the network, or use an image that is here already"
    )]
    Unreachable { reference: String, host: String, source: reqwest::Error },
    #[error(
        "there is no safe connection to {host} for {reference}; check its certificate, and this machine's clock"
    )]
    Tls { reference: String, host: String, source: reqwest::Error },
    #[error(
        "this machine trusts no certificates, so {reference} cannot be had; install the package `ca-certificates`"
    )]
    NoRoots { reference: String },
    #[error("{host} gave no answer about {reference} within {} seconds; try again later", after.as_secs_f32())]
    Silent { reference: String, host: String, after: Duration },
    #[error(
        "{host} gave next to nothing of {reference} within {} seconds; try again later",
        after.as_secs_f32()
    )]
    Stalled { reference: String, host: String, after: Duration },
    #[error("the connection to {host} broke off in the middle of {reference}; try again")]
    Broken { reference: String, host: String, source: reqwest::Error },
    #[error("{host} gave only {bytes} of the {expected} bytes of a part of {reference}; try again")]
    Short { reference: String, host: String, bytes: u64, expected: u64 },
    #[error("{host} answered with {status} when asked for {reference}; {}", status_advice(*status))]
    Status { reference: String, host: String, status: StatusCode },
    #[error("{host} sends the question for {reference} elsewhere, and {why}; do not use this registry")]
    Redirect { reference: String, host: String, why: &'static str },
    #[error("{host} asks for a login to {reference} in a way that is not safe or not known: {why}")]
    Challenge { reference: String, host: String, why: &'static str },
    #[error(
        "what the registry gave for {reference} is not what was promised; try again, and do not use it if it stays so"
    )]
    Damaged { reference: String, source: lastword_image::Error },
    #[error("{reference} is for {found}, and this machine runs {wanted}; use an image for {wanted}")]
    Platform { reference: String, wanted: String, found: String },
    /// The image itself is refused, or the cache failed.
    #[error("{reference} cannot be used")]
    Image { reference: String, source: lastword_image::Error },
    #[error("cannot prepare to ask registries for {reference}")]
    Prepare { reference: String, source: io::Error },
}

fn advice(registry: &str, logged_in: bool, trouble: &Option<String>) -> String {
    match (trouble, logged_in) {
        (Some(trouble), _) => format!("the login could not be used: {trouble}"),
        (None, true) => {
            format!("the login that docker knows was refused; renew it with `docker login {registry}`")
        }
        (None, false) => format!("check the name, or log in with `docker login {registry}`"),
    }
}

fn later(retry_after: Option<Duration>) -> String {
    retry_after.map_or(String::new(), |wait| format!(" (come again in {} seconds, it says)", wait.as_secs()))
}

fn status_advice(status: StatusCode) -> &'static str {
    if status.is_server_error() { "try again later" } else { "it may be no registry, or not know this image" }
}

impl Error {
    /// Whether the same question may be answered when it is asked again.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Error::Unreachable { .. }
            | Error::Silent { .. }
            | Error::Stalled { .. }
            | Error::Broken { .. }
            | Error::Short { .. } => true,
            Error::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 500 | 502 | 503 | 504)
            }
            Error::RateLimited { retry_after, .. } => {
                retry_after.is_some_and(|wait| wait <= super::limits::RETRY_AFTER_MAX)
            }
            _ => false,
        }
    }

    /// What the other side wants us to wait.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Error::RateLimited { retry_after: Some(wait), .. } => *wait,
            _ => Duration::ZERO,
        }
    }

    /// When nothing came back at all.
    pub(super) fn of_sending(reference: &str, host: String, after: Duration, source: reqwest::Error) -> Self {
        let reference = reference.to_owned();
        // The address may have a signature in it.
        let source = source.without_url();
        if is_tls(&source) {
            Error::Tls { reference, host, source }
        } else if source.is_connect() {
            Error::Unreachable { reference, host, source }
        } else if source.is_timeout() {
            Error::Silent { reference, host, after }
        } else {
            Error::Broken { reference, host, source }
        }
    }
}

fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An I/O error that holds another error leaves that one out of its sources.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

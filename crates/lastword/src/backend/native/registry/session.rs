//! One image's parts, read from a registry as its owner asks for them.
//!
//! ```text
//! part wanted -> GET --+-- 401, once: login, then again
//!                      +-- 200: body -- breaks off, stalls, too short: GET from there on, so often as `Tries` says
//!                      +-- anything else: the error, kept here for whoever asks why
//! ```

use std::io::{self, Cursor, Read};
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use lastword_image::limits::DOCUMENT_BYTES_MAX;
use lastword_image::{Blobs, Digest};
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::credentials::{self, Found};
use super::error::Error;
use super::http::{Http, Pace, Question, Tries, host};
use super::limits::RESUME_BYTES_MIN;
use super::login;
use super::reference::Reference;
use super::{Options, Progress};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const ANYTHING: &str = "*/*";

pub(super) struct Session<'a> {
    http: Http,
    reference: Reference,
    docker: Option<PathBuf>,
    /// Looked for when the registry first wants one.
    found: Option<Found>,
    authorization: Option<HeaderValue>,
    progress: Option<&'a mut dyn FnMut(Progress)>,
    done: Progress,
    /// Why the last part could not be had.
    pub(super) failed: Option<Error>,
}

/// A blob on its way.
struct Blob<'s, 'a> {
    session: &'s mut Session<'a>,
    url: Url,
    size: u64,
    /// Bytes that came.
    at: u64,
    response: Option<Response>,
    chunk: Bytes,
    pace: Pace,
    tries: Tries,
    /// Where it broke off last.
    broke_at: u64,
    ended: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(reference: Reference, options: Options<'a>) -> Result<Self, Error> {
        Ok(Session {
            http: Http::new(&reference, options.times)?,
            reference,
            docker: options.docker,
            found: None,
            authorization: None,
            progress: options.progress,
            done: Progress { bytes: 0, total: None },
            failed: None,
        })
    }

    fn url(&self, kind: &str, what: &str) -> Result<Url, Error> {
        // Nothing in it has to be escaped: `Reference` lets nothing else through.
        let path = format!("v2/{}/{kind}/{what}", self.reference.repository);
        self.reference.base.join(&path).map_err(|error| Error::Prepare {
            reference: self.http.reference.clone(),
            source: io::Error::other(error),
        })
    }

    /// Asks, and logs in if the registry wants that.
    fn get(&mut self, url: &Url, accept: &'static str, from: u64) -> Result<Response, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let mut logged_in = false;
        loop {
            let authorization = self.authorization.as_ref();
            let response = self.http.get(&Question { url, headers: headers.clone(), authorization });
            let response = response.map_err(|error| self.blame(error))?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            // Whom we were sent to has no say in where our login goes.
            if logged_in || response.url().origin() != self.reference.base.origin() {
                return Err(self.unauthorized());
            }
            logged_in = true;
            self.log_in(response.headers())?;
        }
    }

    fn log_in(&mut self, challenge: &HeaderMap) -> Result<(), Error> {
        let (registry, helper) = (&self.reference.registry, self.http.times.helper);
        let docker = self.docker.as_deref();
        let found = self.found.get_or_insert_with(|| credentials::find(docker, registry, helper));
        let login = found.login.as_ref();
        let authorization = login::authorization(&self.http, &self.reference, challenge, login)?;
        self.authorization = Some(authorization.ok_or_else(|| self.unauthorized())?);
        Ok(())
    }

    fn unauthorized(&self) -> Error {
        let found = self.found.as_ref();
        Error::Unauthorized {
            reference: self.http.reference.clone(),
            registry: self.reference.registry.clone(),
            logged_in: found.is_some_and(|found| found.login.is_some()),
            trouble: found.and_then(|found| found.trouble.clone()),
        }
    }

    /// What a status means in an answer of the registry itself.
    fn blame(&self, error: Error) -> Error {
        match error {
            Error::Status { status: StatusCode::NOT_FOUND, reference, .. } => {
                Error::NotFound { reference, registry: self.reference.registry.clone() }
            }
            Error::Status { status: StatusCode::FORBIDDEN, .. } => self.unauthorized(),
            error => error,
        }
    }

    fn document(&mut self, url: &Url) -> Result<Vec<u8>, Error> {
        let mut tries = Tries::new(&self.http.times);
        loop {
            let response = self.get(url, MANIFESTS, 0);
            match response.and_then(|response| self.http.body(response, DOCUMENT_BYTES_MAX)) {
                Err(error) if tries.again(&self.http, &error) => {}
                body => return body,
            }
        }
    }

    /// For `io::Error`s, which cannot be taken apart again by whoever gets them through a parser.
    fn keep(&mut self, error: Error) -> io::Error {
        self.failed = Some(error);
        gone()
    }
}

fn gone() -> io::Error {
    io::Error::other("the registry did not give it")
}

impl Blobs for Session<'_> {
    fn manifest(&mut self, digest: Option<&Digest>) -> io::Result<Box<dyn Read + '_>> {
        let what = digest.map_or_else(|| self.reference.tag.clone(), Digest::to_string);
        let document = self.url("manifests", &what).and_then(|url| self.document(&url));
        let bytes = document.map_err(|error| self.keep(error))?;
        self.done.total = stored_bytes(&bytes).or(self.done.total);
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn blob(&mut self, digest: &Digest, size: u64) -> io::Result<Box<dyn Read + '_>> {
        let url = self.url("blobs", &digest.to_string()).map_err(|error| self.keep(error))?;
        let tries = Tries::new(&self.http.times);
        Ok(Box::new(Blob {
            session: self,
            url,
            size,
            at: 0,
            response: None,
            chunk: Bytes::new(),
            pace: Pace::default(),
            tries,
            broke_at: 0,
            ended: false,
        }))
    }
}

impl Blob<'_, '_> {
    /// The next bytes of the blob; none at its end.
    fn next(&mut self) -> Result<Bytes, Error> {
        loop {
            let error = match self.some() {
                Ok(Some(bytes)) if bytes.is_empty() => continue,
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) if self.at >= self.size => return Ok(Bytes::new()),
                Ok(None) => Error::Short {
                    reference: self.session.http.reference.clone(),
                    host: host(&self.url),
                    bytes: self.at,
                    expected: self.size,
                },
                // All of it is here; whether it is right, its digest says.
                Err(_) if self.at >= self.size && self.response.is_some() => return Ok(Bytes::new()),
                Err(error) => error,
            };
            self.response = None;
            self.pace = Pace::default();
            if self.at.saturating_sub(self.broke_at) >= RESUME_BYTES_MIN {
                self.broke_at = self.at;
                self.tries = Tries::new(&self.session.http.times);
            }
            if !self.tries.again(&self.session.http, &error) {
                return Err(error);
            }
        }
    }

    fn some(&mut self) -> Result<Option<Bytes>, Error> {
        if self.response.is_none() {
            self.open()?;
            if !self.chunk.is_empty() {
                return Ok(Some(std::mem::take(&mut self.chunk)));
            }
        }
        let Some(response) = &mut self.response else { return Ok(None) };
        let chunk = self.session.http.chunk(response, &mut self.pace)?;
        self.at += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Ok(chunk)
    }

    /// Asks for the blob, from where it broke off.
    fn open(&mut self) -> Result<(), Error> {
        let mut response = self.session.get(&self.url, ANYTHING, self.at)?;
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let continues = range.is_some_and(|range| range.starts_with(&format!("bytes {}-", self.at)));
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.at > 0 && continues => {}
            StatusCode::OK => self.pass_over(&mut response)?,
            status => {
                let (reference, host) = (self.session.http.reference.clone(), host(response.url()));
                return Err(Error::Status { reference, host, status });
            }
        }
        self.response = Some(response);
        Ok(())
    }

    /// Of a registry that begins at the start again: what is here already.
    fn pass_over(&mut self, response: &mut Response) -> Result<(), Error> {
        let mut left = self.at;
        while left > 0 {
            match self.session.http.chunk(response, &mut self.pace)? {
                None => {
                    return Err(Error::Short {
                        reference: self.session.http.reference.clone(),
                        host: host(&self.url),
                        bytes: self.at - left,
                        expected: self.size,
                    });
                }
                Some(mut bytes) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes.advance(here);
                    left -= here as u64;
                    self.chunk = bytes;
                }
            }
        }
        self.at += self.chunk.len() as u64;
        Ok(())
    }
}

impl Read for Blob<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.session.failed.is_some() {
            return Err(gone());
        }
        if self.chunk.is_empty() && !self.ended && !buffer.is_empty() {
            let next = self.next().map_err(|error| self.session.keep(error))?;
            self.ended = next.is_empty();
            self.chunk = next;
        }
        let session = &mut *self.session;
        let bytes = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(buffer.get_mut(..bytes).unwrap_or_default());
        session.done.bytes += bytes as u64;
        if let Some(progress) = session.progress.as_mut().filter(|_| bytes > 0) {
            progress(session.done);
        }
        Ok(bytes)
    }
}

/// What a manifest says of its config and layers, for a bar on a terminal; whoever unpacks it reads it with more care.
fn stored_bytes(manifest: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Part {
        size: u64,
    }
    #[derive(Deserialize)]
    struct Manifest {
        config: Part,
        layers: Vec<Part>,
    }
    let Manifest { config, layers } = serde_json::from_slice(manifest).ok()?;
    Some(layers.iter().fold(config.size, |sum, layer| sum.saturating_add(layer.size)))
}

//! Questions to web servers that may be hostile: each has a deadline, a number of tries and of hops, and its answer a pace.
//!
//! The async runtime ends here: callers read and wait as with a file. Nothing goes on between two calls.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use tokio::runtime::Runtime;
use url::Url;

use super::error::Error;
use super::limits::{REDIRECTS_MAX, STALL_BYTES_MIN, TRIES_MAX, Times};
use super::reference::{Reference, is_loopback};
use crate::tls;

pub(super) struct Http {
    /// Always there, until it is dropped.
    runtime: Option<Runtime>,
    client: Client,
    /// Whether any certificate could be believed.
    has_roots: bool,
    pub(super) times: Times,
    /// What all of it is for, as errors name it.
    pub(super) reference: String,
}

/// Something that may be asked any number of times.
pub(super) struct Question<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    /// Shown to the host of `url` only, wherever that sends us.
    pub(super) authorization: Option<&'a HeaderValue>,
}

/// How often something was tried, and how long to wait before it is again.
pub(super) struct Tries {
    left: u32,
    backoff: Duration,
}

/// How fast a body comes: time spent on waiting for it, and what came.
#[derive(Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Http {
    pub(super) fn new(reference: &Reference, times: Times) -> Result<Self, Error> {
        let name = reference.to_string();
        let prepare = |source| Error::Prepare { reference: name.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(prepare)?;
        let (config, has_roots) = tls::client().map_err(|error| prepare(std::io::Error::other(error)))?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(config)
            .user_agent(concat!("lastword/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(times.connect)
            // Followed by hand, see `hop`.
            .redirect(redirect::Policy::none())
            .referer(false);
        if is_loopback(&reference.base) {
            // What goes over plain HTTP has to stay on this machine.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| prepare(std::io::Error::other(error)))?;
        Ok(Http { runtime: Some(runtime), client, has_roots, times, reference: name })
    }

    /// Asks, and follows where it is sent, for an answer that is worth reading: a success, or 401.
    pub(super) fn get(&self, question: &Question<'_>) -> Result<Response, Error> {
        let mut url = question.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client.request(Method::GET, url.clone()).headers(question.headers.clone());
            if let Some(authorization) = question.authorization
                && url.origin() == question.url.origin()
            {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = self.send(&url, request)?;
            if !is_redirect(response.status()) {
                return self.judge(response);
            }
            url = hop(&url, response.headers().get(LOCATION)).map_err(|why| Error::Redirect {
                reference: self.reference.clone(),
                host: host(&url),
                why,
            })?;
        }
        let (reference, host) = (self.reference.clone(), host(question.url));
        Err(Error::Redirect { reference, host, why: "that does not end" })
    }

    /// Once and without following: what is in the form is for this address alone.
    pub(super) fn post_form(&self, url: &Url, form: String) -> Result<Response, Error> {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = self.client.request(Method::POST, url.clone()).header(CONTENT_TYPE, kind).body(form);
        let response = self.send(url, request)?;
        self.judge(response)
    }

    fn send(&self, url: &Url, request: RequestBuilder) -> Result<Response, Error> {
        let reference = self.reference.clone();
        if url.scheme() == "https" && !self.has_roots {
            return Err(Error::NoRoots { reference });
        }
        let after = self.times.answer;
        match self.wait(after, request.send()) {
            Some(Ok(response)) => Ok(response),
            Some(Err(source)) => Err(Error::of_sending(&reference, host(url), after, source)),
            None => Err(Error::Silent { reference, host: host(url), after }),
        }
    }

    fn judge(&self, response: Response) -> Result<Response, Error> {
        let status = response.status();
        let (reference, host) = (self.reference.clone(), host(response.url()));
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::UNAUTHORIZED => Ok(response),
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
                Err(Error::RateLimited { reference, host, retry_after })
            }
            _ => Err(Error::Status { reference, host, status }),
        }
    }

    /// The next piece of a body; `None` at its end.
    pub(super) fn chunk(&self, response: &mut Response, pace: &mut Pace) -> Result<Option<Bytes>, Error> {
        let stall = self.times.stall;
        let stalled = |response: &Response| Error::Stalled {
            reference: self.reference.clone(),
            host: host(response.url()),
            after: stall,
        };
        loop {
            let start = Instant::now();
            let chunk = self.wait(stall.saturating_sub(pace.waited), response.chunk());
            pace.waited += start.elapsed();
            let late = pace.waited >= stall;
            match chunk {
                Some(Ok(Some(bytes))) => {
                    pace.bytes += bytes.len() as u64;
                    if late {
                        pace.next().ok_or_else(|| stalled(response))?;
                    }
                    return Ok(Some(bytes));
                }
                Some(Ok(None)) => return Ok(None),
                Some(Err(source)) => {
                    let (reference, host) = (self.reference.clone(), host(response.url()));
                    return Err(Error::Broken { reference, host, source: source.without_url() });
                }
                None => pace.next().ok_or_else(|| stalled(response))?,
            }
        }
    }

    /// A whole body, and of a longer one so much that its being longer shows.
    pub(super) fn body(&self, mut response: Response, max: u64) -> Result<Vec<u8>, Error> {
        let (mut body, mut pace) = (Vec::new(), Pace::default());
        while (body.len() as u64) <= max {
            match self.chunk(&mut response, &mut pace)? {
                Some(bytes) => body.extend_from_slice(&bytes),
                None => break,
            }
        }
        Ok(body)
    }

    fn wait<F: Future>(&self, most: Duration, future: F) -> Option<F::Output> {
        let runtime = self.runtime.as_ref()?;
        // The timer has to be made inside of the runtime.
        runtime.block_on(async { tokio::time::timeout(most, future).await.ok() })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // A name may still be looked up, on a thread that nobody can stop; nobody has to wait for it either.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Tries {
    pub(super) fn new(times: &Times) -> Self {
        Tries { left: TRIES_MAX - 1, backoff: times.backoff }
    }

    /// Whether to try again after this error; if so, the time for it has come.
    pub(super) fn again(&mut self, http: &Http, error: &Error) -> bool {
        if self.left == 0 || !error.is_passing() {
            return false;
        }
        self.left -= 1;
        http.wait(self.backoff.max(error.wait()), std::future::pending::<()>());
        self.backoff *= 2;
        true
    }
}

impl Pace {
    /// From one stretch of waiting to the next; `None` if too little came in this one.
    fn next(&mut self) -> Option<()> {
        let came = self.bytes;
        *self = Pace::default();
        (came >= STALL_BYTES_MIN).then_some(())
    }
}

/// The host and its port, as errors name it; never the rest of the address.
pub(super) fn host(url: &Url) -> String {
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{}{port}", url.host_str().unwrap_or_default())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads. Never from HTTPS to plain HTTP, and with plain HTTP never off this machine.
fn hop(from: &Url, location: Option<&HeaderValue>) -> Result<Url, &'static str> {
    let location = location.and_then(|value| value.to_str().ok()).ok_or("does not say where")?;
    let to = from.join(location).map_err(|_| "not to an address")?;
    if !to.username().is_empty() || to.password().is_some() {
        return Err("with a login of its own");
    }
    match (from.scheme(), to.scheme()) {
        (_, "https") => Ok(to),
        ("http", "http") if is_loopback(from) && is_loopback(&to) => Ok(to),
        _ => Err("where everybody on the way could listen"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_safe_places_only() {
        let hop = |from: &str, to: &str| {
            hop(&Url::parse(from).unwrap(), Some(&HeaderValue::from_str(to).unwrap())).map(String::from)
        };
        for (from, to, there) in [
            ("https://a.example/v2/", "https://cdn.example/x?y", "https://cdn.example/x?y"),
            ("https://a.example/v2/", "/x", "https://a.example/x"),
            ("https://a.example/v2/", "//b.example/x", "https://b.example/x"),
            ("http://localhost:5000/v2/", "https://cdn.example/x", "https://cdn.example/x"),
            ("http://localhost:5000/v2/", "http://127.0.0.1:1/x", "http://127.0.0.1:1/x"),
            ("http://[::1]:5000/v2/", "y", "http://[::1]:5000/v2/y"),
        ] {
            assert_eq!(hop(from, to).as_deref(), Ok(there));
        }
        for (from, to) in [
            ("https://a.example/", "http://a.example/"),
            ("https://a.example/", "http://localhost/"),
            ("http://localhost/", "http://a.example/"),
            ("http://localhost/", "http://localhost.a.example/"),
            ("https://a.example/", "file:///etc/passwd"),
            ("https://a.example/", "ftp://a.example/"),
            ("https://a.example/", "https://user:secret@b.example/"),
            ("https://a.example/", "https://"),
        ] {
            hop(from, to).expect_err(to);
        }
        super::hop(&Url::parse("https://a.example/").unwrap(), None).expect_err("no place");
    }
}

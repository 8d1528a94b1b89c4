//! Requests to a server, and answers: each with a deadline, and repeated while that may help.
//!
//! The async runtime ends here: callers read and wait as with a file. Threads may share one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lastword_api::ProblemDetails;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, redirect};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use url::{Host, Url};

use super::error::Error;
use super::limits::{
    ANSWER, ANSWER_BYTES_MAX, BUSY_PATIENCE, CONNECT, KNOWN_PATIENCE, PAUSE, PAUSE_MAX, PROBLEM_BYTES_MAX,
    RETRY_AFTER_MAX, STALL, STRANGER_PATIENCE,
};
use crate::execution::Cancel;
use crate::tls;

const PROBLEM_JSON: &str = "application/problem+json";

#[derive(Debug)]
pub(super) struct Http {
    /// Always there, until it is dropped.
    runtime: Option<Runtime>,
    client: Client,
    /// Ends with a slash.
    base: Url,
    authorization: Option<HeaderValue>,
    has_roots: bool,
    /// It has answered, and so is a server.
    answered: AtomicBool,
}

/// A request that may be sent any number of times: it asks, or its repetition changes nothing.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Behind the address, without a slash at the beginning.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<(&'static str, Bytes)>,
    /// To the header of the answer.
    pub(super) within: Duration,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Ask {
        let (query, headers) = (Vec::new(), HeaderMap::new());
        Ask { method, path: path.into(), query, headers, body: None, within: ANSWER }
    }

    pub(super) fn get(path: impl Into<String>) -> Ask {
        Ask::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>) -> Ask {
        Ask::new(Method::POST, path)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Ask {
        self.query.push((name, value.to_string()));
        self
    }

    pub(super) fn within(mut self, time: Duration) -> Ask {
        self.within = time;
        self
    }
}

/// How long something is tried.
#[derive(Clone, Copy, Default)]
pub(crate) struct Patience<'a> {
    /// Ends it early.
    pub(crate) stop: Option<&'a Cancel>,
    /// A full queue is waited for without an end.
    pub(crate) for_room: bool,
}

/// How often something was tried, and since when.
pub(super) struct Tries<'a> {
    patience: Patience<'a>,
    since: Instant,
    pause: Duration,
    /// An earlier try may have been done, and its answer lost.
    pub(super) repeated: bool,
}

impl Http {
    pub(super) fn new(server: &str, key: Option<&str>) -> Result<Http, Error> {
        let base = address(server)?;
        let name = base.to_string();
        let prepare = |source| Error::Prepare { server: name.clone(), source };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            runtime.worker_threads(1).thread_name("client").enable_all().build().map_err(prepare)?;
        let (config, has_roots) = tls::client().map_err(|error| prepare(std::io::Error::other(error)))?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(config)
            .user_agent(concat!("lastword/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .redirect(redirect::Policy::none())
            .referer(false);
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| prepare(std::io::Error::other(error)))?;
        let authorization = key.map(bearer).transpose()?;
        let answered = AtomicBool::new(false);
        Ok(Http { runtime: Some(runtime), client, base, authorization, has_roots, answered })
    }

    /// As errors name it.
    pub(super) fn server(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// Asks until there is an answer, or trying longer makes no sense.
    pub(super) fn ask(&self, ask: &Ask, patience: Patience<'_>) -> Result<Response, Error> {
        let mut tries = Tries::new(patience);
        loop {
            match self.once(ask) {
                Ok(response) => return Ok(response),
                Err(error) => tries.again(self, error)?,
            }
        }
    }

    /// The same for an answer that is JSON, whole.
    pub(super) fn json<T: DeserializeOwned>(&self, ask: &Ask, patience: Patience<'_>) -> Result<T, Error> {
        let mut tries = Tries::new(patience);
        loop {
            let body = self.once(ask).and_then(|response| self.body(response, ANSWER_BYTES_MAX));
            match body {
                Ok(body) => return self.parsed(&body),
                Err(error) => tries.again(self, error)?,
            }
        }
    }

    pub(super) fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body)
            .map_err(|error| Error::BadAnswer { server: self.server(), what: error.to_string() })
    }

    /// One try.
    pub(super) fn once(&self, ask: &Ask) -> Result<Response, Error> {
        if self.base.scheme() == "https" && !self.has_roots {
            return Err(Error::NoRoots { server: self.server() });
        }
        let mut url = self.base.clone();
        // Joining would take a colon in a path for a scheme.
        url.set_path(&format!("{}{}", self.base.path(), ask.path));
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let mut request = self.client.request(ask.method.clone(), url).headers(ask.headers.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some((kind, body)) = &ask.body {
            request = request.header(CONTENT_TYPE, *kind).body(body.clone());
        }
        let response = match self.wait(ask.within, request.send()) {
            Some(Ok(response)) => response,
            Some(Err(error)) => return Err(self.not_sent(error)),
            None => return Err(Error::Silent { server: self.server(), after: ask.within }),
        };
        if response.status().is_success() {
            self.answered.store(true, Ordering::Relaxed);
            return Ok(response);
        }
        Err(self.refusal(response))
    }

    fn not_sent(&self, error: reqwest::Error) -> Error {
        let (server, source) = (self.server(), error.without_url());
        if source.is_connect() {
            Error::Unreachable { server, source }
        } else {
            Error::Broken { server, source }
        }
    }

    fn refusal(&self, response: Response) -> Error {
        let status = response.status();
        let is_problem = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
        let not_ours = Error::NotOurs { server: self.server(), status: status.as_u16() };
        if !is_problem {
            return not_ours;
        }
        match self.body(response, PROBLEM_BYTES_MAX) {
            Ok(body) => match serde_json::from_slice::<ProblemDetails>(&body) {
                Ok(problem) => {
                    self.answered.store(true, Ordering::Relaxed);
                    Error::Refused(Box::new(problem))
                }
                Err(_) => not_ours,
            },
            Err(error) => error,
        }
    }

    /// The next piece of a body; `None` at its end.
    pub(super) fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        match self.wait(STALL, response.chunk()) {
            Some(Ok(chunk)) => Ok(chunk),
            Some(Err(error)) => Err(Error::Broken { server: self.server(), source: error.without_url() }),
            None => Err(Error::Silent { server: self.server(), after: STALL }),
        }
    }

    pub(super) fn body(&self, mut response: Response, max: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk(&mut response)? {
            if body.len() + bytes.len() > max {
                return Err(Error::TooLong { server: self.server(), max });
            }
            body.extend_from_slice(&bytes);
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

impl<'a> Tries<'a> {
    pub(super) fn new(patience: Patience<'a>) -> Self {
        Tries { patience, since: Instant::now(), pause: PAUSE, repeated: false }
    }

    /// Something came: the next failure is a new one.
    pub(super) fn anew(&mut self) {
        (self.since, self.pause) = (Instant::now(), PAUSE);
    }

    /// Returns when the time for another try has come, or the error if there is none.
    pub(super) fn again(&mut self, http: &Http, error: Error) -> Result<(), Error> {
        let most = match () {
            () if error.is_busy() && self.patience.for_room => Duration::MAX,
            () if error.is_busy() => BUSY_PATIENCE,
            () if !error.is_of_the_connection() => return Err(error),
            () if http.answered.load(Ordering::Relaxed) => KNOWN_PATIENCE,
            () => STRANGER_PATIENCE,
        };
        let pause = jittered(self.pause) + error.retry_after().min(RETRY_AFTER_MAX);
        if self.since.elapsed().saturating_add(pause) > most || !self.pause_for(pause) {
            return Err(error);
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.repeated |= !matches!(error, Error::Refused(_));
        Ok(())
    }

    /// False if it is to stop.
    fn pause_for(&self, time: Duration) -> bool {
        let Some(stop) = self.patience.stop else {
            std::thread::sleep(time);
            return true;
        };
        if stop.is_asked() {
            return false;
        }
        let mut fds: Vec<PollFd<'_>> =
            stop.wake().map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN)).into_iter().collect();
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        // A signal that cuts it short does no harm.
        let _ = poll(&mut fds, Some(&time));
        !stop.is_asked()
    }
}

/// Up to a half longer or shorter.
fn jittered(time: Duration) -> Duration {
    let mut byte = [128u8; 1];
    // Without chance it is as long as it is.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    time.mul_f64(0.5 + f64::from(byte[0]) / 255.0)
}

fn bearer(key: &str) -> Result<HeaderValue, Error> {
    let wrong = |why: &str| Error::Key { why: why.to_owned() };
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("has characters that no key has, or none at all"));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| wrong("is no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The address of a server, with a slash at its end.
fn address(text: &str) -> Result<Url, Error> {
    let wrong = |why| Error::Address { url: shown(text), why };
    let mut url = Url::parse(text).map_err(|_| wrong("it has to begin with http:// or https://"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("it has to begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a login has no place in it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("a query has no place in it"));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// Without a login that it may hold.
fn shown(text: &str) -> String {
    text.rsplit('@').next().unwrap_or_default().chars().take(100).collect()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let of = |text: &str| address(text).map(String::from);
        assert_eq!(of("http://127.0.0.1:7070").unwrap(), "http://127.0.0.1:7070/");
        assert_eq!(of("https://a.example/lastword").unwrap(), "https://a.example/lastword/");
        for bad in [
            "",
            "127.0.0.1:7070",
            "localhost:1",
            "ftp://x",
            "unix:/x",
            "http://u:p@x",
            "http://x/?q",
            "http://x#f",
        ] {
            let error = of(bad).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{bad}");
            assert!(!error.to_string().contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_key_is_one_word_and_is_not_shown() {
        let value = bearer("abc").unwrap();
        assert!(!format!("{value:?}").contains("abc"));
        for bad in ["", "a b", "a\n", "\u{e9}"] {
            assert!(bearer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn jitter_stays_within_a_half() {
        for _ in 0..100 {
            let time = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(3)).contains(&time), "{time:?}");
        }
    }

    #[test]
    fn a_server_that_was_never_there_is_not_waited_for_long() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let http = Http::new(&format!("http://{address}"), None).unwrap();
        let since = Instant::now();
        let error = http.ask(&Ask::get("healthz"), Patience::default()).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(since.elapsed() < KNOWN_PATIENCE / 2);
        let stop = Cancel::default();
        stop.cancel();
        http.answered.store(true, Ordering::Relaxed);
        let patience = Patience { stop: Some(&stop), ..Patience::default() };
        assert!(http.ask(&Ask::get("healthz"), patience).is_err());
        assert!(since.elapsed() < KNOWN_PATIENCE / 2, "it was to stop");
    }
}

//! Asks a server, and keeps count of what is wrong with what it says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use lastword_api::ProblemDetails;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::limits::{ANSWER_PATIENCE, WRONG_SHOWN};
use crate::tls;

/// Where the API key of a server that wants one is.
const KEY_VARIABLE: &str = "LASTWORD_API_KEY";

/// All that was wrong. Clones share one.
#[derive(Clone, Debug, Default)]
pub(super) struct Wrongs(Arc<Mutex<(u64, Vec<String>)>>);

impl Wrongs {
    pub(super) fn note(&self, sentence: String) {
        let mut wrongs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wrongs.0 += 1;
        if wrongs.1.len() < WRONG_SHOWN {
            wrongs.1.push(sentence);
        }
    }

    /// What could not be found out is as bad as what was found to be wrong.
    pub(super) fn note_error(&self, what: &str, result: anyhow::Result<()>) {
        if let Err(error) = result {
            self.note(format!("{what}: {error:#}"));
        }
    }

    /// How many there were, and the first of them.
    pub(super) fn all(&self) -> (u64, Vec<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Clones share their connections.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    answers: Arc<AtomicU64>,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).with_context(|| format!("read the answer {}", self.shown()))
    }

    pub(super) fn expect(self, status: StatusCode) -> anyhow::Result<Answer> {
        ensure!(self.status == status, "{} and not {status}: {}", self.status, self.shown());
        Ok(self)
    }

    fn shown(&self) -> String {
        const SHOWN: usize = 300;
        self.body[..self.body.len().min(SHOWN)].escape_ascii().to_string()
    }

    /// That it is the refusal of a full queue, and says when to come back.
    pub(super) fn is_full_queue(&self) -> anyhow::Result<()> {
        ensure!(self.status == StatusCode::TOO_MANY_REQUESTS, "{} {}", self.status, self.shown());
        let problem: ProblemDetails = self.json()?;
        ensure!(problem.code == lastword_api::ErrorCode::QueueFull, "its code is {:?}", problem.code);
        let after = self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after: Option<u64> = after.and_then(|text| text.parse().ok());
        ensure!(after.is_some_and(|seconds| seconds > 0), "its Retry-After is {after:?}");
        Ok(())
    }
}

impl Client {
    pub(super) fn new(base: &str) -> anyhow::Result<Client> {
        let mut headers = HeaderMap::new();
        if let Some(key) = std::env::var_os(KEY_VARIABLE) {
            let key = key.to_str().and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok());
            headers.insert(AUTHORIZATION, key.context("LASTWORD_API_KEY holds no API key")?);
        }
        let (config, _) = tls::client().context("prepare TLS")?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .default_headers(headers)
            .build()
            .context("prepare to ask the server")?;
        Ok(Client { http, base: base.trim_end_matches('/').to_owned(), answers: Arc::default() })
    }

    /// Answers that came, also those that were wrong.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let whole = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await?;
            reqwest::Result::Ok(Answer { status, headers, body })
        };
        let answer = tokio::time::timeout(ANSWER_PATIENCE, whole).await;
        let answer = answer.map_err(|_| anyhow!("there was no answer within {ANSWER_PATIENCE:?}"))??;
        self.answers.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(self.request(Method::GET, path)).await?.expect(StatusCode::OK)?.json()
    }

    /// With the media type that is asked for.
    pub(super) async fn get_as(&self, path: &str, accept: &'static str) -> anyhow::Result<Answer> {
        let request = self.request(Method::GET, path).header(ACCEPT, accept);
        self.send(request).await?.expect(StatusCode::OK)
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let request = self.request(Method::POST, path).header(CONTENT_TYPE, "application/json");
        self.send(request.body(body.to_string())).await
    }

    /// Closes the stdin of an execution whose request left it open.
    pub(super) async fn close_stdin(&self, id: uuid::Uuid) -> anyhow::Result<()> {
        let path = format!("/v1/executions/{id}/stdin?offset=0&close=true");
        let request = self.request(Method::POST, &path).header(CONTENT_TYPE, "application/octet-stream");
        self.send(request).await?.expect(StatusCode::OK).map(drop)
    }

    /// An answer that goes on.
    pub(super) async fn open(
        &self,
        path: &str,
        accept: &'static str,
        last_event_id: Option<u64>,
    ) -> anyhow::Result<Stream> {
        let mut request = self.request(Method::GET, path).header(ACCEPT, accept);
        if let Some(seq) = last_event_id {
            request = request.header("last-event-id", seq);
        }
        let response = request.send().await?;
        self.answers.fetch_add(1, Ordering::Relaxed);
        if response.status() != StatusCode::OK {
            bail!("{}: {}", response.status(), response.text().await.unwrap_or_default());
        }
        Ok(Stream { response, rest: Vec::new() })
    }
}

/// An answer that is read line by line.
pub(super) struct Stream {
    response: Response,
    /// What came behind the last whole line.
    rest: Vec<u8>,
}

impl Stream {
    /// Whatever comes next; `None` at the end. An error if nothing comes for `patience`.
    pub(super) async fn chunk(&mut self, patience: Duration) -> anyhow::Result<Option<Bytes>> {
        let chunk = tokio::time::timeout(patience, self.response.chunk()).await;
        Ok(chunk.map_err(|_| anyhow!("nothing came for {patience:?}"))??)
    }

    /// The whole lines that have come, without their newlines; `None` at the end.
    pub(super) async fn lines(&mut self, patience: Duration) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
        let Some(chunk) = self.chunk(patience).await? else {
            ensure!(self.rest.is_empty(), "it ends within a line: {}", self.rest.escape_ascii());
            return Ok(None);
        };
        let mut lines = Vec::new();
        let mut pieces = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.rest.extend_from_slice(piece);
            if pieces.peek().is_some() {
                lines.push(std::mem::take(&mut self.rest));
            }
        }
        Ok(Some(lines))
    }
}

//! A server, asked over its HTTP API: what `--server` of the command line works with.
//!
//! Calls block. Whatever is sent may be sent again: a submission has an idempotency key, stdin has offsets, the rest changes
//! nothing by repetition. So a connection that breaks, and a server that starts anew, cost time and nothing else.

mod error;
mod file;
mod http;
pub(crate) mod limits;
mod records;
mod request;
mod resolve;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use lastword_api::{
    Capacity, ErrorCode, Execution, ExecutionPage, NewExecution, Status, StdinState, Timestamp, Verification,
};
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use uuid::Uuid;

use self::http::{Ask, Http, Tries};
use self::limits::{ANSWER, KEY_FILE_BYTES_MAX, PAGE, VERIFY, WAIT};
use crate::replay::Record;

pub(crate) use error::Error;
pub(crate) use file::FileReader;
pub(crate) use http::Patience;
pub(crate) use records::Wish;
pub(crate) use request::{NotForServers, check_image, new_execution, stdin};

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// One server. Threads may share it.
#[derive(Debug)]
pub(crate) struct Client {
    http: Http,
}

/// Which executions a list is to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListWish {
    pub(crate) status: Vec<Status>,
    /// All of them must be there.
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

impl Client {
    /// Nothing is sent yet.
    pub(crate) fn new(server: &str, key: Option<&str>) -> Result<Client, Error> {
        Ok(Client { http: Http::new(server, key)? })
    }

    pub(crate) fn server(&self) -> String {
        self.http.server()
    }

    /// How full it is, and how much it does at a time.
    pub(crate) fn capacity(&self, patience: Patience<'_>) -> Result<Capacity, Error> {
        self.http.json(&Ask::get("v1/capacity"), patience)
    }

    /// Has a request taken, and waits for its end at most for a while. The same key and request give the same execution.
    pub(crate) fn submit(
        &self,
        new: &NewExecution,
        key: &str,
        wait: bool,
        patience: Patience<'_>,
    ) -> Result<Execution, Error> {
        let mut ask = Ask::post("v1/executions");
        if wait {
            ask = waiting(ask);
        }
        let key = HeaderValue::try_from(key)
            .map_err(|_| Error::Key { why: "for repetitions has characters that no header takes".into() })?;
        ask.headers.insert(KEY_HEADER, key);
        let body = serde_json::to_vec(new).map_err(|error| self.bad(&error))?;
        ask.body = Some((JSON, Bytes::from(body)));
        self.http.json(&ask, patience)
    }

    /// With the beginning of its streams.
    pub(crate) fn get(&self, id: Uuid) -> Result<Execution, Error> {
        self.http.json(&Ask::get(format!("v1/executions/{id}")), Patience::default())
    }

    /// As [`Client::get`], once it has ended.
    pub(crate) fn ended(&self, id: Uuid, patience: Patience<'_>) -> Result<Execution, Error> {
        loop {
            let execution: Execution =
                self.http.json(&waiting(Ask::get(format!("v1/executions/{id}"))), patience)?;
            if execution.status.is_terminal() {
                return Ok(execution);
            }
        }
    }

    /// Asks for its end, and doesn't wait for that.
    pub(crate) fn cancel(&self, id: Uuid) -> Result<Execution, Error> {
        self.http.json(&Ask::post(format!("v1/executions/{id}/cancel")), Patience::default())
    }

    pub(crate) fn remove(&self, id: Uuid) -> Result<(), Error> {
        let ask = Ask::new(Method::DELETE, format!("v1/executions/{id}"));
        let mut tries = Tries::new(Patience::default());
        loop {
            match self.http.once(&ask) {
                Ok(_) => return Ok(()),
                // Whoever removed it was most likely the try whose answer got lost.
                Err(error) if tries.repeated && error.code() == Some(ErrorCode::ExecutionNotFound) => {
                    return Ok(());
                }
                Err(error) => tries.again(&self.http, error)?,
            }
        }
    }

    pub(crate) fn verify(&self, id: Uuid) -> Result<Verification, Error> {
        let ask = Ask::post(format!("v1/executions/{id}/verify")).within(VERIFY);
        self.http.json(&ask, Patience::default())
    }

    /// Puts bytes at a place of its stdin, and closes it behind them if asked to. Bytes that are there already change nothing.
    pub(crate) fn add_stdin(&self, id: Uuid, offset: u64, bytes: &[u8], close: bool) -> Result<u64, Error> {
        let ask = Ask::post(format!("v1/executions/{id}/stdin")).with("offset", offset).with("close", close);
        let ask = Ask { body: Some((OCTETS, Bytes::copy_from_slice(bytes))), ..ask };
        let StdinState { bytes, .. } = self.http.json(&ask, Patience::default())?;
        Ok(bytes)
    }

    /// Newest first, at most `limit`.
    pub(crate) fn list(&self, wish: &ListWish, limit: usize) -> Result<Vec<Execution>, Error> {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.page(wish, (limit - found.len()).min(PAGE), cursor)?;
            found.extend(page.items);
            cursor = page.next_cursor;
            if found.len() >= limit || cursor.is_none() {
                return Ok(found);
            }
        }
    }

    pub(crate) fn page(
        &self,
        wish: &ListWish,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<ExecutionPage, Error> {
        let mut ask = Ask::get("v1/executions").with("limit", limit);
        for status in &wish.status {
            ask = ask.with("status", status.name());
        }
        for (key, value) in &wish.labels {
            ask = ask.with("label", format!("{key}={value}"));
        }
        if let Some(since) = wish.since {
            ask = ask.with("since", since);
        }
        if let Some(until) = wish.until {
            ask = ask.with("until", until);
        }
        if let Some(cursor) = cursor {
            ask = ask.with("cursor", cursor);
        }
        self.http.json(&ask, Patience::default())
    }

    /// Gives out records until there are no more, or `visit` breaks. Returns the execution as it stands then, without its
    /// streams; `None` after a break.
    pub(crate) fn records(
        &self,
        id: Uuid,
        wish: Wish,
        patience: Patience<'_>,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Execution>, Error> {
        records::read(&self.http, id, wish, patience, visit)
    }

    /// An output file. The last read fails unless all bytes were those of `blake3`, in hex.
    pub(crate) fn file(&self, id: Uuid, path: &[u8], blake3: &str) -> Result<FileReader<'_>, Error> {
        file::open(&self.http, id, path, blake3)
    }

    /// An id, or the beginning of one.
    pub(crate) fn resolve(&self, prefix: &str) -> Result<Uuid, Error> {
        resolve::resolve(self, prefix)
    }

    fn bad(&self, error: &serde_json::Error) -> Error {
        Error::BadAnswer { server: self.server(), what: error.to_string() }
    }
}

fn waiting(ask: Ask) -> Ask {
    ask.with("wait", format!("{}s", WAIT.as_secs())).within(WAIT + ANSWER)
}

/// The API key in a file: its first line.
pub(crate) fn key_in(path: &Path) -> Result<String, Error> {
    let wrong = |why: String| Error::Key { why: format!("in {} {why}", path.display()) };
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| wrong(format!("can't be read: {error}")))?;
    match text.lines().next().map(str::trim).filter(|key| !key.is_empty()) {
        Some(key) => Ok(key.to_owned()),
        None => Err(wrong("is missing: the file is empty".into())),
    }
}

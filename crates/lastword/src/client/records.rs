//! Records of a transcript from a server, also while it grows: resumed where a connection broke, without a gap or a repeat.

use std::ops::ControlFlow;

use lastword_api::encoding::{Encoding, output_bytes};
use lastword_api::{Execution, LogRecord, LogText, ProblemDetails};
use reqwest::Response;
use reqwest::header::{ACCEPT, HeaderValue};
use uuid::Uuid;

use super::error::Error;
use super::http::{Ask, Http, Patience, Tries};
use super::limits::EVENT_BYTES_MAX;
use crate::replay::select::Filter;
use crate::replay::{Content, Record};

/// Which records, and whether to wait for more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) filter: Filter,
    pub(crate) follow: bool,
    /// Only the last so many records.
    pub(crate) tail: Option<u64>,
}

/// Gives out records until there are no more, or `visit` breaks. Returns the execution as it stands behind the last one;
/// `None` after a break.
pub(super) fn read(
    http: &Http,
    id: Uuid,
    wish: Wish,
    patience: Patience<'_>,
    visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
) -> Result<Option<Execution>, Error> {
    let mut place = Place { wish, next: wish.filter.from_seq.unwrap_or(0), begun: false };
    let mut tries = Tries::new(patience);
    loop {
        let before = place.next;
        let error = match place.read_on(http, id, &mut tries, visit) {
            Ok(ended) => return Ok(ended),
            Err(error) => error,
        };
        if place.next > before {
            tries.anew();
        }
        tries.again(http, error)?;
    }
}

struct Place {
    wish: Wish,
    /// The seq that was not given out yet.
    next: u64,
    /// A record was given out: the tail was taken.
    begun: bool,
}

impl Place {
    fn ask(&self, id: Uuid) -> Ask {
        let mut ask = Ask::get(format!("v1/executions/{id}/logs")).with("follow", self.wish.follow);
        ask.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let filter = &self.wish.filter;
        if let Some(stream) = filter.stream {
            ask = ask.with("stream", stream.name());
        }
        if let Some(since) = filter.since {
            ask = ask.with("since", since);
        }
        if let Some(until) = filter.until {
            ask = ask.with("until", until);
        }
        if self.next > 0 {
            ask = ask.with("from_seq", self.next);
        }
        match self.wish.tail {
            Some(tail) if !self.begun => ask.with("tail", tail),
            _ => ask,
        }
    }

    fn read_on(
        &mut self,
        http: &Http,
        id: Uuid,
        tries: &mut Tries<'_>,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Execution>, Error> {
        let mut events =
            Events { response: http.once(&self.ask(id))?, buffer: Vec::new(), taken: 0, looked: 0 };
        while let Some(event) = events.next(http)? {
            tries.anew();
            if event.name == b"record" {
                if self.give_out(http, &event.data, visit)?.is_break() {
                    return Ok(None);
                }
            } else if event.name == b"end" {
                return http.parsed(&event.data).map(Some);
            } else if event.name == b"error" {
                let problem: ProblemDetails = http.parsed(&event.data)?;
                return Err(Error::Refused(Box::new(problem)));
            }
            // Else it is what a newer server says besides.
        }
        Err(Error::CutOff { server: http.server() })
    }

    fn give_out(
        &mut self,
        http: &Http,
        data: &[u8],
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let LogRecord { seq, timestamp, stream, text } = http.parsed(data)?;
        // A server that forgets where we were must not make us say it twice.
        if seq < self.next {
            return Ok(ControlFlow::Continue(()));
        }
        let time_ns = timestamp.ns();
        let decoded;
        let content = match &text {
            LogText::Log(text) => Content::Bytes(text.as_bytes()),
            LogText::Base64(text) => {
                decoded = output_bytes(text, Encoding::Base64).ok_or_else(|| Error::BadAnswer {
                    server: http.server(),
                    what: format!("record {seq} holds no base64"),
                })?;
                Content::Bytes(&decoded)
            }
            LogText::Dropped(bytes) => Content::Dropped(*bytes),
        };
        self.begun = true;
        self.next = seq.saturating_add(1);
        Ok(visit(Record { seq, time_ns, stream, content }))
    }
}

/// An event of a stream, as the HTML standard writes them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: Vec<u8>,
    data: Vec<u8>,
}

struct Events {
    response: Response,
    buffer: Vec<u8>,
    /// The part of `buffer` that was given out.
    taken: usize,
    /// The part of `buffer` in which no event ends.
    looked: usize,
}

impl Events {
    /// `None` where the stream ends.
    fn next(&mut self, http: &Http) -> Result<Option<Event>, Error> {
        loop {
            while let Some(end) = end_of_event(&self.buffer, self.looked) {
                let event = event(&self.buffer[self.taken..end]);
                self.taken = end;
                self.looked = end;
                // A comment says only that the other side is there.
                if !event.data.is_empty() {
                    return Ok(Some(event));
                }
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            self.looked = self.buffer.len().saturating_sub(1);
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(Error::TooLong { server: http.server(), max: EVENT_BYTES_MAX });
            }
            match http.chunk(&mut self.response)? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// Behind the empty line that ends the first event.
fn end_of_event(buffer: &[u8], from: usize) -> Option<usize> {
    buffer.get(from..)?.windows(2).position(|two| two == b"\n\n").map(|at| from + at + 2)
}

fn event(text: &[u8]) -> Event {
    let mut event = Event::default();
    for line in text.split(|byte| *byte == b'\n') {
        let value = |name: &[u8]| {
            let rest = line.strip_prefix(name)?.strip_prefix(b":")?;
            Some(rest.strip_prefix(b" ").unwrap_or(rest))
        };
        if let Some(name) = value(b"event") {
            event.name = name.to_vec();
        } else if let Some(data) = value(b"data") {
            if !event.data.is_empty() {
                event.data.push(b'\n');
            }
            event.data.extend_from_slice(data);
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_apart() {
        let text = b"id: 3\nevent: record\ndata: {\"a\": 1}\n\n: alive\n\nevent:end\ndata:x\ndata: y\n\nrest";
        let first = end_of_event(text, 0).unwrap();
        assert_eq!(event(&text[..first]), Event { name: b"record".to_vec(), data: b"{\"a\": 1}".to_vec() });
        let second = end_of_event(text, first).unwrap();
        assert!(event(&text[first..second]).data.is_empty());
        let third = end_of_event(text, second).unwrap();
        assert_eq!(event(&text[second..third]), Event { name: b"end".to_vec(), data: b"x\ny".to_vec() });
        assert_eq!(end_of_event(text, third), None);
        assert_eq!(end_of_event(text, text.len()), None);
    }
}

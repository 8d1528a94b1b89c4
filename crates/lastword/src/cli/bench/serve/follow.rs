//! Follows a log while it grows, in any of its formats, and says when each line came.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use lastword_api::{Execution, LogRecord, LogText, Timestamp};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::client::Client;
use super::limits::{RESUME_AFTER, SILENCE, SLOW_PAUSE};
use super::programs::{Output, said_at};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Events,
    Lines,
    Text,
}

impl Format {
    pub(super) const ALL: [Format; 3] = [Format::Events, Format::Lines, Format::Text];

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Format::Events => "text/event-stream",
            Format::Lines => "application/x-ndjson",
            Format::Text => "text/plain",
        }
    }
}

pub(super) enum Pace {
    /// As fast as it comes.
    Steady,
    /// Goes away and comes back for what is behind the last record that it has, again and again. Of events only.
    Resuming,
    /// Hardly reads anything before it becomes true.
    Slow(watch::Receiver<bool>),
}

/// When a line came, by this machine's clock, and how long after it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at_ns: i64,
    pub(super) took: Duration,
}

pub(super) struct Followed {
    pub(super) format: Format,
    pub(super) output: Output,
    pub(super) arrivals: Vec<Arrival>,
    next_seq: u64,
    event: Event,
    ended: bool,
    /// Lines that were written before came late by no fault of the server's.
    since_ns: i64,
}

/// One event on its way in.
#[derive(Default)]
struct Event {
    id: Option<u64>,
    name: String,
    data: Vec<u8>,
}

/// `open` gets a permit once the server has begun to answer.
pub(super) async fn follow(
    client: &Client,
    id: Uuid,
    format: Format,
    mut pace: Pace,
    open: Arc<Semaphore>,
) -> anyhow::Result<Followed> {
    let mut seen = Followed::new(format);
    let path = format!("/v1/executions/{id}/logs?follow=true");
    let mut is_first = true;
    loop {
        let last = seen.next_seq.checked_sub(1).filter(|_| !is_first);
        let mut stream = client.open(&path, format.media_type(), last).await?;
        if std::mem::take(&mut is_first) {
            open.add_permits(1);
        }
        let came_back_at = seen.next_seq;
        seen.since_ns = Timestamp::now().ns();
        seen.event = Event::default();
        loop {
            let Some(lines) = stream.lines(SILENCE).await? else { return seen.over() };
            let now = Timestamp::now().ns();
            lines.iter().try_for_each(|line| seen.take(line, now))?;
            match &mut pace {
                Pace::Slow(hurry) => {
                    // An error is the end of who would say so.
                    let _ = tokio::time::timeout(SLOW_PAUSE, hurry.wait_for(|hurry| *hurry)).await;
                }
                Pace::Resuming if !seen.ended && seen.next_seq >= came_back_at + RESUME_AFTER => break,
                Pace::Resuming | Pace::Steady => {}
            }
        }
    }
}

impl Followed {
    fn new(format: Format) -> Followed {
        Followed {
            format,
            output: Output::default(),
            arrivals: Vec::new(),
            next_seq: 0,
            event: Event::default(),
            ended: false,
            since_ns: 0,
        }
    }

    fn take(&mut self, line: &[u8], now_ns: i64) -> anyhow::Result<()> {
        ensure!(!self.ended, "more comes behind the end");
        match self.format {
            Format::Text => {
                self.output.together.extend_from_slice(line);
                self.output.together.push(b'\n');
                self.arrived(line, now_ns);
                Ok(())
            }
            Format::Lines => self.record(line, now_ns),
            Format::Events => self.line_of_event(line, now_ns),
        }
    }

    fn arrived(&mut self, line: &[u8], now_ns: i64) {
        if let Some(said_ns) = said_at(line).filter(|said| *said >= self.since_ns) {
            let took = Duration::from_nanos(u64::try_from(now_ns - said_ns).unwrap_or(0));
            self.arrivals.push(Arrival { at_ns: now_ns, took });
        }
    }

    fn record(&mut self, json: &[u8], now_ns: i64) -> anyhow::Result<()> {
        let record: LogRecord =
            serde_json::from_slice(json).with_context(|| format!("read {}", json.escape_ascii()))?;
        ensure!(record.seq == self.next_seq, "record {} comes where {} is next", record.seq, self.next_seq);
        self.next_seq += 1;
        match &record.text {
            LogText::Log(text) => {
                self.output.push(record.stream, text.as_bytes());
                text.lines().for_each(|line| self.arrived(line.as_bytes(), now_ns));
            }
            LogText::Base64(_) => bail!("a text of ASCII came in base64"),
            LogText::Dropped(bytes) => bail!("{bytes} bytes were dropped"),
        }
        Ok(())
    }

    fn line_of_event(&mut self, line: &[u8], now_ns: i64) -> anyhow::Result<()> {
        let text = std::str::from_utf8(line).context("an event is not UTF-8")?;
        match text.split_once(": ") {
            // It says only that it is alive.
            Some(("", _)) => {}
            Some(("id", id)) => self.event.id = Some(id.parse().context("read the id of an event")?),
            Some(("event", name)) => self.event.name = name.to_owned(),
            Some(("data", data)) => self.event.data = data.as_bytes().to_vec(),
            None if text.is_empty() => {
                let event = std::mem::take(&mut self.event);
                if !event.name.is_empty() {
                    self.whole_event(&event, now_ns)?;
                }
            }
            _ => bail!("no line of an event: {text}"),
        }
        Ok(())
    }

    fn whole_event(&mut self, event: &Event, now_ns: i64) -> anyhow::Result<()> {
        match &*event.name {
            "record" => {
                ensure!(
                    event.id == Some(self.next_seq),
                    "the id of record {} is {:?}",
                    self.next_seq,
                    event.id
                );
                self.record(&event.data, now_ns)
            }
            "end" => {
                let object: Execution = serde_json::from_slice(&event.data).context("read the end")?;
                ensure!(object.ended_at.is_some() && object.is_complete(), "its end is {:?}", object.status);
                self.ended = true;
                Ok(())
            }
            other => bail!("an event {other}: {}", event.data.escape_ascii()),
        }
    }

    fn over(self) -> anyhow::Result<Followed> {
        ensure!(self.ended || self.format != Format::Events, "it ends without an end");
        Ok(self)
    }

    /// That it is what is stored. Of a text there is only both streams together.
    pub(super) fn check(&self, stored: &Output) -> anyhow::Result<()> {
        ensure!(
            self.output.together == stored.together,
            "{} bytes came, and {} are stored, or others",
            self.output.together.len(),
            stored.together.len()
        );
        ensure!(self.format == Format::Text || self.output == *stored, "a stream is not what is stored");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> Vec<String> {
        let data = format!(
            r#"{{"seq":{seq},"timestamp":"1970-01-01T00:00:00Z","stream":"stdout","log":"printer-0 {seq} 1000000\n"}}"#
        );
        vec![format!("id: {seq}"), "event: record".into(), format!("data: {data}"), String::new()]
    }

    fn take(seen: &mut Followed, lines: &[String]) -> anyhow::Result<()> {
        lines.iter().try_for_each(|line| seen.take(line.as_bytes(), 3_000_000))
    }

    #[test]
    fn a_gap_and_a_repeat_are_seen() {
        let mut seen = Followed::new(Format::Events);
        take(&mut seen, &event(0)).unwrap();
        take(&mut seen, &[": alive".into(), String::new()]).unwrap();
        take(&mut seen, &event(1)).unwrap();
        assert_eq!(seen.output.together, b"printer-0 0 1000000\nprinter-0 1 1000000\n");
        assert_eq!(seen.arrivals[0].took, Duration::from_millis(2));
        assert!(take(&mut seen, &event(1)).is_err());
        assert!(take(&mut seen, &event(3)).is_err());
        assert!(seen.over().is_err(), "there was no end");
    }
}

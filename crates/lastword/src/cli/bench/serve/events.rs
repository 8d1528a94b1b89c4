//! The feed of events of all executions under one label: each change once, in the order of a life.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use lastword_api::{Event, EventKind};
use tokio::sync::watch;
use uuid::Uuid;

use super::client::{Client, Stream};
use super::follow::Format;
use super::limits::SILENCE;

/// The feed says so often at the least that it is alive, in events. As lines it says nothing.
const FEED_SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// All that was told. Clones share it.
#[derive(Clone)]
pub(super) struct Feed {
    label: String,
    told: Arc<Mutex<Vec<Event>>>,
    ended: watch::Sender<usize>,
}

impl Feed {
    /// Listens from now on, as long as the runtime lives.
    pub(super) async fn listen(client: &Client, label: &str) -> anyhow::Result<Feed> {
        let path = format!("/v1/events?after=latest&label={label}");
        let stream = client.open(&path, Format::Lines.media_type(), None).await?;
        let feed = Feed { label: label.to_owned(), told: Arc::default(), ended: watch::Sender::new(0) };
        let hears = feed.clone();
        tokio::spawn(async move {
            // Whoever waits for an end misses it, and says so.
            let _ = hears.hear(stream).await;
        });
        Ok(feed)
    }

    async fn hear(&self, mut stream: Stream) -> anyhow::Result<()> {
        while let Some(lines) = stream.lines(FEED_SILENCE).await? {
            for line in lines {
                let event: Event = serde_json::from_slice(&line)?;
                let ended = event.kind == EventKind::Ended;
                self.told.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                if ended {
                    self.ended.send_modify(|ended| *ended += 1);
                }
            }
        }
        Ok(())
    }

    pub(super) fn ended(&self) -> usize {
        *self.ended.borrow()
    }

    /// Returns when so many ends were told. An error when there is none for long.
    pub(super) async fn wait_for(&self, ends: usize) -> anyhow::Result<()> {
        let mut receiver = self.ended.subscribe();
        while *receiver.borrow_and_update() < ends {
            let changed = tokio::time::timeout(SILENCE, receiver.changed()).await;
            changed.map_err(|_| {
                anyhow!("{} of {ends} have ended, and no more for {SILENCE:?}", self.ended())
            })??;
        }
        Ok(())
    }

    fn told(&self) -> Vec<Event> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That each of `ids` was told of once and in order, and no other; and that the feed says the same when it is read again.
    pub(super) async fn check(&self, client: &Client, ids: &[Uuid]) -> anyhow::Result<usize> {
        let told = self.told();
        let first = told.first().context("the feed told nothing")?;
        check_lives(&told, ids)?;
        let mut again = vec![first.clone()];
        while let Some(last) = again.last() {
            let path = format!("/v1/events?follow=false&after={}&label={}", last.cursor, self.label);
            let page = client.get_as(&path, Format::Lines.media_type()).await?;
            let mut lines = page.body.split_inclusive(|byte| *byte == b'\n').peekable();
            if lines.peek().is_none() {
                break;
            }
            for line in lines {
                again.push(serde_json::from_slice(line).context("read an event")?);
            }
        }
        let same = again.len() == told.len()
            && again
                .iter()
                .zip(&told)
                .all(|(a, b)| (&a.cursor, a.kind, a.execution) == (&b.cursor, b.kind, b.execution));
        ensure!(same, "the feed tells {} events when it is read again, and told {}", again.len(), told.len());
        Ok(told.len())
    }
}

fn check_lives(told: &[Event], ids: &[Uuid]) -> anyhow::Result<()> {
    let mut lives: HashMap<Uuid, Vec<EventKind>> = ids.iter().map(|id| (*id, Vec::new())).collect();
    for event in told {
        let Some(life) = lives.get_mut(&event.execution) else {
            bail!("the feed tells of {}, which nobody asked for", event.execution)
        };
        life.push(event.kind);
    }
    for (id, life) in lives {
        ensure!(life == [EventKind::Queued, EventKind::Running, EventKind::Ended], "{id} lived as {life:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_has_three_events() {
        let id = Uuid::now_v7();
        let event = |execution: Uuid, kind: EventKind| Event {
            cursor: "1-1".into(),
            kind,
            execution,
            timestamp: lastword_api::Timestamp::from_ns(0),
            status: None,
            reason: None,
            complete: None,
            labels: Default::default(),
            batch: None,
        };
        let all = [EventKind::Queued, EventKind::Running, EventKind::Ended];
        let of = |kinds: &[EventKind]| -> Vec<Event> { kinds.iter().map(|kind| event(id, *kind)).collect() };
        assert!(check_lives(&of(&all), &[id]).is_ok());
        assert!(check_lives(&of(&all[..2]), &[id]).is_err());
        assert!(check_lives(&of(&[all[0], all[1], all[2], all[2]]), &[id]).is_err());
        assert!(check_lives(&of(&[all[1], all[0], all[2]]), &[id]).is_err());
        assert!(check_lives(&of(&all), &[]).is_err());
        assert!(check_lives(&of(&all), &[id, Uuid::nil()]).is_err());
    }
}

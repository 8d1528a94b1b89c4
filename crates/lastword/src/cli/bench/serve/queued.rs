//! A queue that is filled to its end while logs are followed, and all that came of it.
//!
//! Printers take all turns, so that nothing leaves the queue while it is filled. Once it is full and everybody follows, all of
//! them but one are told to end, and the queue drains. The last one prints on until it is empty.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use lastword_api::{Capacity, ExecutionPage, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::super::rate::Taken;
use super::answers::{check_stored, submit};
use super::client::{Client, Wrongs};
use super::events::Feed;
use super::follow::{Arrival, Followed, Format, Pace, follow};
use super::limits::{LISTEN, OVERFLOW, SILENCE, SLOW_IN};
use super::programs::{Known, Output, flood, printer, queued, said_at};
use super::server::{Memory, Server};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) queued: u64,
    pub(super) followers: u64,
    pub(super) clients: u64,
}

/// A label's key: what carries it is ours.
const LABEL: &str = "lastword-bench";

#[derive(Default)]
pub(super) struct Measured {
    pub(super) submitted: Taken,
    pub(super) drained: u64,
    pub(super) drain: Duration,
    /// 429, as they should be.
    pub(super) refused: u64,
    pub(super) followers: u64,
    pub(super) slow_followers: u64,
    pub(super) events: usize,
    /// Looked at from all sides.
    pub(super) checked: u64,
    /// Lines that one follower listened to while nothing else went on; with a full queue; and while it drained.
    pub(super) lines: [Vec<Duration>; 3],
    pub(super) memory: [Option<Memory>; 2],
}

/// What was asked for, by the execution that came of it.
type Asked = BTreeMap<Uuid, Known>;
type Followers = JoinSet<(Uuid, anyhow::Result<Followed>)>;

struct Load<'a> {
    client: &'a Client,
    wrongs: &'a Wrongs,
    server: &'a Server,
    size: Size,
    label: String,
    feed: Feed,
    asked: Asked,
    printers: Vec<Uuid>,
    followers: Followers,
    /// Becomes true when slow followers may read on.
    hurry: watch::Sender<bool>,
    measured: Measured,
}

/// Leaves nothing running, whatever happens.
pub(super) async fn measure(
    client: &Client,
    wrongs: &Wrongs,
    server: &Server,
    size: Size,
) -> anyhow::Result<Measured> {
    let run = Uuid::now_v7().to_string();
    let feed = Feed::listen(client, &format!("{LABEL}={run}")).await.context("listen to events")?;
    let mut load = Load {
        client,
        wrongs,
        server,
        size,
        label: run,
        feed,
        asked: Asked::new(),
        printers: Vec::new(),
        followers: JoinSet::new(),
        hurry: watch::Sender::new(false),
        measured: Measured::default(),
    };
    let result = load.run().await;
    if result.is_err() {
        wrongs.note_error("cancel what was left", load.cancel_all().await);
    }
    result.map(|()| load.measured)
}

impl Load<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        let capacity: Capacity = self.client.get("/v1/capacity").await?;
        ensure!(capacity.running + capacity.waiting == 0, "the server is at work for somebody else");
        let (room, wanted) = (capacity.queue, self.size.queued);
        ensure!(room >= wanted, "{wanted} can't wait: the server's queue has room for {room}");
        self.start_printers(capacity.concurrency).await?;
        let quiet = self.listen_alone().await?;
        let flood = self.fill().await?;
        self.overflow(capacity.queue).await;
        self.start_followers(flood).await?;
        let full = Timestamp::now().ns();
        tokio::time::sleep(LISTEN).await;
        self.measured.memory[0] = self.server.memory();
        let draining = Timestamp::now().ns();
        self.drain().await?;
        let drained = Timestamp::now().ns();
        let outputs = self.check_all().await;
        let arrivals = self.join_followers(&outputs).await;
        self.measured.memory[1] = self.server.memory();
        let within = |from: i64, to: i64| {
            let mut took: Vec<Duration> =
                arrivals.iter().filter(|a| (from..to).contains(&a.at_ns)).map(|a| a.took).collect();
            took.sort_unstable();
            took
        };
        self.measured.lines = [quiet, within(full, draining), within(draining, drained)];
        let ids: Vec<Uuid> = self.asked.keys().copied().collect();
        match self.feed.check(self.client, &ids).await {
            Ok(events) => self.measured.events = events,
            Err(error) => self.wrongs.note(format!("the feed of events: {error:#}")),
        }
        Ok(())
    }

    fn labelled(&self, mut known: Known) -> Known {
        known.request["labels"] = json!({ (LABEL): self.label });
        known
    }

    async fn start_printers(&mut self, count: u64) -> anyhow::Result<()> {
        for k in 0..count {
            let known = self.labelled(printer(k));
            let id = submit(self.client, &known.request).await.context("start a printer")?;
            self.printers.push(id);
            self.asked.insert(id, known);
        }
        Ok(())
    }

    /// One follower, and nobody else.
    async fn listen_alone(&mut self) -> anyhow::Result<Vec<Duration>> {
        let id = *self.printers.first().context("the server runs nothing")?;
        let (open, begun) = (Arc::new(Semaphore::new(0)), Timestamp::now().ns());
        self.spawn_follower(id, Format::Events, Pace::Resuming, &open);
        // Not the one before: it goes away and comes back.
        let mut stream = self
            .client
            .open(&format!("/v1/executions/{id}/logs?follow=true&stream=stdout"), "text/plain", None)
            .await?;
        let since = Timestamp::now().ns();
        let mut took = Vec::new();
        while Timestamp::now().ns() < begun + LISTEN.as_nanos() as i64 {
            let lines = stream.lines(SILENCE).await?.context("a printer has ended by itself")?;
            let now = Timestamp::now().ns();
            // What was written before anybody listened came late, by no fault of the server's.
            let said = lines.iter().filter_map(|line| said_at(line)).filter(|said| *said >= since);
            took.extend(said.map(|said| Duration::from_nanos(u64::try_from(now - said).unwrap_or(0))));
        }
        took.sort_unstable();
        ensure!(!took.is_empty(), "a printer has said nothing within {LISTEN:?}");
        Ok(took)
    }

    /// Returns the id of the one with the longest output, which goes first.
    async fn fill(&mut self) -> anyhow::Result<Uuid> {
        let mut longest = self.labelled(flood());
        longest.request["priority"] = json!(50);
        let flood = submit(self.client, &longest.request).await?;
        self.asked.insert(flood, longest);
        let begin = Instant::now();
        let next = Arc::new(AtomicU64::new(1));
        let mut tasks = JoinSet::new();
        for _ in 0..self.size.clients {
            let (client, next, until) = (self.client.clone(), Arc::clone(&next), self.size.queued);
            let label = self.label.clone();
            tasks.spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= until {
                        return anyhow::Ok(mine);
                    }
                    let mut known = queued(n);
                    known.request["labels"] = json!({ (LABEL): label });
                    let start = Instant::now();
                    let id = submit(&client, &known.request).await.with_context(|| format!("submit {n}"))?;
                    mine.push((id, known, start.elapsed()));
                }
            });
        }
        for mine in tasks.join_all().await {
            for (id, known, took) in mine? {
                self.measured.submitted.each.push(took);
                let twice = self.asked.insert(id, known).is_some();
                ensure!(!twice, "two requests made the execution {id}");
            }
        }
        self.measured.submitted.whole = begin.elapsed();
        Ok(flood)
    }

    /// What is too much is refused. Nothing can be said of a queue that has more room than we fill.
    async fn overflow(&mut self, room: u64) {
        if room != self.size.queued {
            return;
        }
        for n in 0..OVERFLOW {
            let known = self.labelled(queued(n));
            let refused = self.client.post("/v1/executions", &known.request).await;
            match refused.and_then(|answer| answer.is_full_queue()) {
                Ok(()) => self.measured.refused += 1,
                Err(error) => self.wrongs.note(format!("a request to a full queue: {error:#}")),
            }
        }
    }

    fn spawn_follower(&mut self, id: Uuid, format: Format, pace: Pace, open: &Arc<Semaphore>) {
        let (client, open) = (self.client.clone(), Arc::clone(open));
        self.followers.spawn(async move { (id, follow(&client, id, format, pace, open).await) });
        self.measured.followers += 1;
    }

    /// Some slow ones of the longest output; of the others half follow the printers, and half what waits.
    async fn start_followers(&mut self, flood: Uuid) -> anyhow::Result<()> {
        let waiting: Vec<Uuid> =
            self.asked.keys().copied().filter(|id| !self.printers.contains(id)).collect();
        let open = Arc::new(Semaphore::new(0));
        for n in 0..self.size.followers {
            let format = Format::ALL[(n % 3) as usize];
            let spread = (n * waiting.len() as u64 / self.size.followers) as usize;
            let (id, pace) = match n {
                n if n % SLOW_IN == 0 => {
                    self.measured.slow_followers += 1;
                    (flood, Pace::Slow(self.hurry.subscribe()))
                }
                n if n % 2 == 0 => (waiting.get(spread).copied().unwrap_or(flood), Pace::Steady),
                n => {
                    let id = self.printers[(n / 2) as usize % self.printers.len()];
                    let resumes = format == Format::Events && n % 4 == 1;
                    (id, if resumes { Pace::Resuming } else { Pace::Steady })
                }
            };
            self.spawn_follower(id, format, pace, &open);
        }
        let all = u32::try_from(self.size.followers).unwrap_or(u32::MAX);
        let opened = tokio::time::timeout(SILENCE, open.acquire_many(all)).await;
        let opened =
            opened.map_err(|_| anyhow!("{} of {all} followers are connected", open.available_permits()));
        opened?.map(drop).context("count the followers")
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let before = self.feed.ended();
        let (last, others) = self.printers.split_last().context("the server runs nothing")?;
        let others = if others.is_empty() { std::slice::from_ref(last) } else { others };
        for id in others {
            self.client.close_stdin(*id).await.context("tell a printer to end")?;
        }
        let all = self.asked.len() - self.printers.len() + others.len();
        self.feed.wait_for(all).await?;
        self.measured.drain = begin.elapsed();
        self.measured.drained = (self.feed.ended() - before) as u64;
        if !others.contains(last) {
            self.client.close_stdin(*last).await.context("tell the last printer to end")?;
        }
        self.feed.wait_for(self.asked.len()).await?;
        self.hurry.send_replace(true);
        Ok(())
    }

    /// Looks at all of them from all sides. Returns what is stored of each.
    async fn check_all(&mut self) -> BTreeMap<Uuid, Output> {
        let open: Arc<Semaphore> = Arc::new(Semaphore::new(self.size.clients as usize));
        let mut tasks = JoinSet::new();
        for (id, known) in &self.asked {
            let (client, open, id, known) = (self.client.clone(), Arc::clone(&open), *id, known.clone());
            tasks.spawn(async move {
                let _turn = open.acquire().await;
                (id, check_stored(&client, id, &known).await)
            });
        }
        let mut outputs = BTreeMap::new();
        for (id, result) in tasks.join_all().await {
            match result {
                Ok(output) => drop(outputs.insert(id, output)),
                Err(error) => self.wrongs.note(format!("{error:#}")),
            }
        }
        self.measured.checked = outputs.len() as u64;
        outputs
    }

    async fn join_followers(&mut self, outputs: &BTreeMap<Uuid, Output>) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for (id, followed) in std::mem::take(&mut self.followers).join_all().await {
            let result = followed.and_then(|followed| {
                arrivals.extend_from_slice(&followed.arrivals);
                // One that is missing is wrong already.
                outputs.get(&id).map_or(Ok(()), |output| followed.check(output))
            });
            self.wrongs.note_error(&format!("a follower of {id}"), result);
        }
        arrivals
    }

    async fn cancel_all(&self) -> anyhow::Result<()> {
        let path = format!("/v1/executions?label={LABEL}={}&status=queued,running&limit=1000", self.label);
        loop {
            let page: ExecutionPage = self.client.get(&path).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            for execution in page.items {
                self.client.post(&format!("/v1/executions/{}/cancel", execution.id), &Value::Null).await?;
            }
        }
    }
}

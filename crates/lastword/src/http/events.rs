//! `GET /v1/events`: every change of every execution's status, once and in order.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use lastword_api::{ErrorCode, Event, EventKind, Reason, Status, Timestamp};
use lastword_store::{Cursor, Event as Change, EventChange};
use tokio::sync::broadcast::{self, error::RecvError};

use super::App;
use super::answer::{accepted, encoded, sees};
use super::auth::{Caller, Reads};
use super::limits::{self, EVENTS_READ, STREAM_BUFFER_BYTES};
use super::problem::Problem;
use super::query::Query;
use super::stream::{self, EVENTS, Filled, Format, NDJSON, Source};
use crate::execution::STEP_LABEL;
use crate::service::Service;
use crate::service::metrics::{Listener, Metrics};

/// Asks for what comes from now on.
const LATEST: &str = "latest";

/// `GET /v1/events`
pub(super) async fn events(
    State(app): State<App>,
    Reads(caller): Reads,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let format = Format::of(accepted(&headers, &[EVENTS, NDJSON])?);
    let mut query = Query::of(&uri)?;
    let after = query.text("after")?;
    let filter = Filter {
        caller,
        labels: query.labels()?,
        kinds: query.list("kind", |name| {
            EventKind::from_name(name).ok_or_else(|| "use queued, running, ended or removed".to_owned())
        })?,
    };
    let left = query.number("limit", 1, limits::EVENTS)?;
    let follow = match query.text("follow")?.as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(Problem::parameter("follow", "use true or false")),
    };
    query.finish()?;
    // A client that comes back asks for the same again, and says what it has.
    let seen = headers.get("last-event-id").filter(|value| !value.is_empty());
    let after = match (seen, after.as_deref()) {
        (Some(seen), _) => Some(seen.to_str().ok().and_then(cursor).ok_or_else(bad_id)?),
        (None, None) => None,
        (None, Some(LATEST)) => Some(app.blocking(|service| Ok(service.store().newest_event()?)).await?),
        (None, Some(text)) => {
            Some(cursor(text).ok_or_else(|| Problem::parameter("after", "it is no event's cursor"))?)
        }
    };
    // First in line, then the look at what is there: nothing falls between.
    let fresh = app.service()?.feed().subscribe();
    let changes =
        Changes { fresh, waiting: VecDeque::new(), behind: true, after, filter, left, follow, format };
    stream::answer(app, changes, format).await
}

fn bad_id() -> Problem {
    Problem::new(ErrorCode::MalformedRequest, "Last-Event-ID is not the id of an event of this stream")
}

fn cursor_text(cursor: Cursor) -> String {
    format!("{}-{}", cursor.feed, cursor.seq)
}

fn cursor(text: &str) -> Option<Cursor> {
    let (feed, seq) = text.split_once('-')?;
    let number = |text: &str| {
        text.parse().ok().filter(|_| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Some(Cursor { feed: number(feed)?, seq: number(seq)? })
}

/// Which events a client may see, and wants to.
struct Filter {
    caller: Caller,
    labels: Vec<(String, String)>,
    kinds: Vec<EventKind>,
}

impl Filter {
    fn admits(&self, event: &Event, tenant: Option<&str>) -> bool {
        let has = |(key, value): &(String, String)| event.labels.get(key) == Some(value);
        // As in lists: compile steps are for whoever asks for them.
        let hidden =
            event.labels.contains_key(STEP_LABEL) && !self.labels.iter().any(|(key, _)| key == STEP_LABEL);
        sees(&self.caller, tenant)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.labels.iter().all(has)
            && !hidden
    }
}

/// The feed on its way to one client.
struct Changes {
    fresh: broadcast::Receiver<Arc<[Change]>>,
    /// Fresh ones that were not looked at yet.
    waiting: VecDeque<Arc<[Change]>>,
    /// What is next is in the store, and not among the fresh ones.
    behind: bool,
    after: Option<Cursor>,
    filter: Filter,
    left: Option<u64>,
    follow: bool,
    format: Format,
}

impl Changes {
    fn try_fill(&mut self, service: &Service, out: &mut Vec<u8>) -> Result<Filled, Problem> {
        if let Some(filled) = self.give_fresh(out) {
            return Ok(filled);
        }
        loop {
            let changes = service.store().events(self.after, EVENTS_READ)?;
            if changes.iter().any(|change| self.take(change, out)) {
                return Ok(Filled::End);
            }
            if changes.len() < EVENTS_READ {
                self.behind = false;
                return Ok(if self.follow { Filled::Waiting } else { Filled::End });
            }
            if out.len() >= STREAM_BUFFER_BYTES {
                return Ok(Filled::More);
            }
        }
    }

    /// `None`: what comes next is in the store.
    fn give_fresh(&mut self, out: &mut Vec<u8>) -> Option<Filled> {
        while let Some(changes) = self.waiting.pop_front() {
            if !self.behind && self.take_fresh(&changes, out) {
                return Some(Filled::End);
            }
        }
        (!self.behind).then_some(Filled::Waiting)
    }

    /// True once there are as many as were asked for.
    fn take_fresh(&mut self, changes: &[Change], out: &mut Vec<u8>) -> bool {
        for change in changes {
            match self.after {
                Some(after) if after.feed != change.cursor.feed => {
                    // Numbered anew: the store says what that means.
                    self.behind = true;
                    return false;
                }
                Some(after) if change.cursor.seq <= after.seq => {}
                _ => {
                    if self.take(change, out) {
                        return true;
                    }
                }
            }
        }
        false
    }

    fn take(&mut self, change: &Change, out: &mut Vec<u8>) -> bool {
        self.after = Some(change.cursor);
        let Some(event) = told(change) else { return false };
        if !self.filter.admits(&event, change.tenant.as_deref()) {
            return false;
        }
        let json = encoded(&event).unwrap_or_default();
        self.format.write(out, event.kind.name(), Some(&event.cursor), &String::from_utf8_lossy(&json));
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.left == Some(0)
    }
}

impl Source for Changes {
    fn fill(&mut self, service: &Service, out: &mut Vec<u8>) -> Filled {
        self.try_fill(service, out).unwrap_or_else(Filled::Failed)
    }

    fn fill_at_once(&mut self, out: &mut Vec<u8>) -> Option<Filled> {
        if self.behind { None } else { self.give_fresh(out) }
    }

    async fn changed(&mut self) {
        match self.fresh.recv().await {
            Ok(changes) => self.waiting.push_back(changes),
            Err(RecvError::Lagged(_)) => {
                self.waiting.clear();
                self.behind = true;
            }
            // Nobody tells us any more: we look now and then.
            Err(RecvError::Closed) => {
                self.behind = true;
                std::future::pending().await
            }
        }
    }

    /// Also moves on a client of whose events there are few.
    fn alive(&self) -> String {
        let id = self.after.map(|after| format!("id: {}\n", cursor_text(after)));
        format!(": alive\n{}\n", id.unwrap_or_default())
    }

    fn may_stop(&self) -> bool {
        true
    }

    fn listener(metrics: &Metrics) -> Listener {
        metrics.events_subscriber()
    }
}

/// As it is told outside. `None` for a status that is none.
fn told(change: &Change) -> Option<Event> {
    let meta = change.meta.as_ref();
    let (kind, status) = match &change.change {
        EventChange::Removed => (EventKind::Removed, None),
        EventChange::Status { status, ended } => {
            let status = Status::from_name(status)?;
            let kind = match status {
                _ if *ended => EventKind::Ended,
                Status::Queued => EventKind::Queued,
                _ => EventKind::Running,
            };
            (kind, Some(status))
        }
    };
    let end = meta.filter(|_| kind == EventKind::Ended);
    let reason = end.and_then(|meta| meta.reason.as_deref());
    Some(Event {
        cursor: cursor_text(change.cursor),
        kind,
        execution: change.id,
        timestamp: Timestamp::from_ns(change.time_ns),
        status,
        reason: Reason::ALL.into_iter().find(|known| Some(known.name()) == reason),
        complete: end.and_then(|meta| meta.complete),
        labels: meta.map(|meta| meta.labels.clone()).unwrap_or_default(),
        batch: meta.and_then(|meta| meta.batch),
    })
}

#[cfg(test)]
mod tests {
    use lastword_store::Meta;
    use uuid::Uuid;

    use super::*;

    fn change(seq: u64, status: Option<&str>) -> Change {
        let meta = Meta {
            status: "failed".into(),
            reason: Some("exit".into()),
            complete: Some(true),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            ..Meta::default()
        };
        let change = match status {
            None => EventChange::Removed,
            Some(status) => EventChange::Status {
                status: status.into(),
                ended: Status::from_name(status).is_some_and(Status::is_terminal),
            },
        };
        Change {
            cursor: Cursor { feed: 9, seq },
            id: Uuid::nil(),
            time_ns: 0,
            meta: (change != EventChange::Removed).then_some(meta),
            change,
            tenant: Some("a".into()),
        }
    }

    fn changes(after: Option<Cursor>) -> (broadcast::Sender<Arc<[Change]>>, Changes) {
        let (sender, fresh) = broadcast::channel(4);
        let filter = Filter { caller: Caller::local(), labels: Vec::new(), kinds: Vec::new() };
        let changes = Changes {
            fresh,
            waiting: VecDeque::new(),
            behind: false,
            after,
            filter,
            left: None,
            follow: true,
            format: Format::Ndjson,
        };
        (sender, changes)
    }

    #[test]
    fn cursors_come_back() {
        let place = Cursor { feed: u64::MAX, seq: 0 };
        assert_eq!(cursor(&cursor_text(place)), Some(place));
        for bad in ["", "1", "1-", "-1", "1-2-3", "+1-2", "a-b", "1-99999999999999999999"] {
            assert_eq!(cursor(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_change_is_told() {
        let ended = told(&change(3, Some("failed"))).unwrap();
        assert_eq!((ended.kind, ended.status), (EventKind::Ended, Some(Status::Failed)));
        assert_eq!((ended.reason, ended.complete), (Some(Reason::Exit), Some(true)));
        // The row already knows its end; the event is about the start.
        let running = told(&change(2, Some("running"))).unwrap();
        assert_eq!((running.kind, running.reason, running.complete), (EventKind::Running, None, None));
        let removed = told(&change(4, None)).unwrap();
        assert_eq!((removed.kind, removed.status), (EventKind::Removed, None));
        assert_eq!(told(&change(5, Some("lost in time"))), None);
    }

    #[test]
    fn what_a_client_has_it_does_not_get_again() {
        let (_sender, mut changes) = changes(Some(Cursor { feed: 9, seq: 2 }));
        let mut out = Vec::new();
        let all: Vec<Change> = [1, 2, 3, 4].into_iter().map(|seq| change(seq, Some("running"))).collect();
        assert!(!changes.take_fresh(&all, &mut out));
        let text = String::from_utf8(out).unwrap();
        let seqs: Vec<&str> = text.lines().filter_map(|line| line.get(11..14)).collect();
        assert_eq!(seqs, ["9-3", "9-4"], "{text}");
        assert_eq!(changes.after, Some(Cursor { feed: 9, seq: 4 }));
        // Numbered anew: nothing is taken, and the store is asked.
        let other = Change { cursor: Cursor { feed: 8, seq: 1 }, ..change(1, None) };
        assert!(!changes.take_fresh(&[other], &mut Vec::new()) && changes.behind);
    }

    #[test]
    fn a_filter_looks_at_tenant_label_and_kind() {
        let event = told(&change(1, Some("running"))).unwrap();
        let of = |tenant: Option<&str>, label: Option<&str>, kind: Option<EventKind>| {
            let filter = Filter {
                caller: Caller { tenant: tenant.map(str::to_owned), ..Caller::local() },
                labels: label.map(|value| ("k".to_owned(), value.to_owned())).into_iter().collect(),
                kinds: kind.into_iter().collect(),
            };
            filter.admits(&event, Some("a"))
        };
        assert!(of(None, None, None) && of(Some("a"), Some("v"), Some(EventKind::Running)));
        assert!(!of(Some("b"), None, None));
        assert!(!of(None, Some("w"), None));
        assert!(!of(None, None, Some(EventKind::Ended)));
        let step = Event { labels: [(STEP_LABEL.to_owned(), "compile".to_owned())].into(), ..event };
        let all = Filter { caller: Caller::local(), labels: Vec::new(), kinds: Vec::new() };
        assert!(!all.admits(&step, None));
    }

    #[tokio::test]
    async fn what_is_fresh_is_at_hand() {
        let (sender, mut changes) = changes(None);
        let mut out = Vec::new();
        assert!(matches!(changes.fill_at_once(&mut out), Some(Filled::Waiting)) && out.is_empty());
        sender.send(Arc::new([change(1, Some("running"))])).unwrap();
        changes.changed().await;
        assert!(matches!(changes.fill_at_once(&mut out), Some(Filled::Waiting)) && !out.is_empty());
        // Of another feed: the store is asked.
        let other = Change { cursor: Cursor { feed: 8, seq: 1 }, ..change(1, None) };
        sender.send(Arc::new([other])).unwrap();
        changes.changed().await;
        assert!(changes.fill_at_once(&mut out).is_none());
    }

    #[tokio::test]
    async fn who_lags_reads_on_from_the_store() {
        let (sender, mut changes) = changes(None);
        for seq in 0..10 {
            sender.send(Arc::new([change(seq, None)])).unwrap();
        }
        changes.changed().await;
        assert!(changes.behind && changes.waiting.is_empty());
        assert!(changes.fill_at_once(&mut Vec::new()).is_none());
    }
}

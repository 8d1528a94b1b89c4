//! What a server counts, for Prometheus. Labels come from closed lists: never an id, a tenant or anybody's text.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lastword_api::{Execution, Stream, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::{Capacity, Part};

/// What [`Metrics::encode`] returns, as an HTTP content type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Routes that are told apart. There are fewer; should somebody give paths instead, memory stays bounded.
const ROUTES_MAX: usize = 64;
/// What stands for a route, method or number that isn't told apart.
const OTHER: &str = "other";
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Upper ends of buckets, seconds: how long somebody waits for us, and how long programs run.
const LATENCY: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
const DURATION: [f64; 12] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBackend {
    backend: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    backend: &'static str,
    status: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Whole {
    complete: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStream {
    stream: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPart {
    part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: String,
}

#[derive(Clone, Copy, Debug)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Threads share one. Nothing of it is global: two services of one process count apart.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    runs: Runs,
    clients: Clients,
    store_errors: Counter,
    part_ok: Family<OfPart, Gauge>,
    process: Process,
}

/// Of executions.
#[derive(Debug)]
struct Runs {
    queue_length: Gauge,
    running: Gauge,
    accepted: Counter,
    starts: Family<OfBackend, Counter>,
    ends: Family<End, Counter>,
    transcripts: Family<Whole, Counter>,
    output: Family<OfStream, Counter>,
    queue: Histogram,
    run: Histogram,
    end_to_visible: Histogram,
}

/// Of whoever talks to us.
#[derive(Debug)]
struct Clients {
    requests: Family<Answer, Counter>,
    request: Family<OfRoute, Histogram, Buckets>,
    routes: Mutex<BTreeSet<String>>,
    followers: Gauge,
    events_subscribers: Gauge,
    refused: Family<OfCode, Counter>,
}

/// Of this process, under the names that every dashboard knows.
#[derive(Debug)]
struct Process {
    resident: Gauge,
    descriptors: Gauge,
}

/// Counts somebody who listens, until it is dropped.
#[derive(Debug)]
pub struct Listener(Gauge);

impl Listener {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Listener(gauge.clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// The unit comes behind the name.
fn add_in<M: Metric + Clone>(registry: &mut Registry, name: &str, unit: Unit, help: &str, metric: M) -> M {
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

impl Runs {
    fn new(r: &mut Registry) -> Self {
        let of = |buckets| Buckets(buckets).new_metric();
        let runs = Runs {
            queue_length: add(r, "queue_length", "Executions that wait for their start", Gauge::default()),
            running: add(r, "running", "Executions that run", Gauge::default()),
            accepted: add(r, "accepted", "Executions accepted", Counter::default()),
            starts: add(r, "starts", "Executions handed to a supervisor", Family::default()),
            ends: add(r, "ends", "Executions that ended", Family::default()),
            transcripts: add(r, "transcripts", "Transcripts of ended executions", Family::default()),
            output: add_in(
                r,
                "output",
                Unit::Bytes,
                "What transcripts of ended executions hold",
                Family::default(),
            ),
            queue: add_in(
                r,
                "queue",
                Unit::Seconds,
                "From accepted to handed to a supervisor",
                of(&DURATION),
            ),
            run: add_in(r, "run", Unit::Seconds, "How long programs ran", of(&DURATION)),
            end_to_visible: add_in(
                r,
                "end_to_visible",
                Unit::Seconds,
                "From a program's end to the moment when all can see it and it is durable",
                of(&LATENCY),
            ),
        };
        // What isn't there can't be told from what never counted: whatever an alert asks for is there from the start.
        for complete in ["true", "false"] {
            drop(runs.transcripts.get_or_create(&Whole { complete }));
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            drop(runs.output.get_or_create(&OfStream { stream: stream.name() }));
        }
        runs
    }
}

impl Clients {
    fn new(r: &mut Registry) -> Self {
        let by_route = Family::new_with_constructor(Buckets(&LATENCY));
        Clients {
            requests: add(r, "http_requests", "Requests answered", Family::default()),
            request: add_in(
                r,
                "http_request",
                Unit::Seconds,
                "From a request to the head of its answer",
                by_route,
            ),
            routes: Mutex::default(),
            followers: add(r, "followers", "Clients that follow a log", Gauge::default()),
            events_subscribers: add(
                r,
                "events_subscribers",
                "Clients that follow the events",
                Gauge::default(),
            ),
            refused: add(r, "refused", "Requests refused, by the code of the problem", Family::default()),
        }
    }

    fn route(&self, route: &str) -> String {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if !routes.contains(route) {
            if routes.len() >= ROUTES_MAX {
                return OTHER.to_owned();
            }
            routes.insert(route.to_owned());
        }
        route.to_owned()
    }
}

impl Process {
    fn new(r: &mut Registry) -> Self {
        let bytes = Gauge::default();
        Process {
            resident: add_in(r, "process_resident_memory", Unit::Bytes, "Resident memory", bytes),
            descriptors: add(r, "process_open_fds", "Open file descriptors", Gauge::default()),
        }
    }

    fn look(&self) {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        self.resident.set(signed(pages.saturating_mul(rustix::param::page_size() as u64)));
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.descriptors.set(signed(open as u64));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let process = Process::new(&mut registry);
        let r = registry.sub_registry_with_prefix("lastword");
        r.register("build", "What runs here", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let (runs, clients) = (Runs::new(r), Clients::new(r));
        let store_errors = add(r, "store_errors", "Errors of the store", Counter::default());
        let part_ok = add(r, "part_ok", "1 where a part of the server works, else 0", Family::default());
        Metrics { registry, runs, clients, store_errors, part_ok, process }
    }

    /// So many requests were accepted, and are durable.
    pub fn accepted(&self, count: u64) {
        self.runs.accepted.inc_by(count);
    }

    /// One was handed to a supervisor.
    pub fn started(&self, execution: &Execution) {
        self.runs.starts.get_or_create(&OfBackend { backend: execution.backend.name() }).inc();
        if let Some(ms) = execution.queue_ms {
            self.runs.queue.observe(ms / 1e3);
        }
    }

    /// One ended, and everybody can see it: now.
    pub fn ended(&self, execution: &Execution) {
        self.ended_at(execution, Timestamp::now());
    }

    fn ended_at(&self, execution: &Execution, now: Timestamp) {
        let end = End {
            backend: execution.backend.name(),
            status: execution.status.name(),
            reason: execution.reason.map_or("none", |reason| reason.name()),
        };
        self.runs.ends.get_or_create(&end).inc();
        let complete = if execution.is_complete() { "true" } else { "false" };
        self.runs.transcripts.get_or_create(&Whole { complete }).inc();
        let of = &execution.transcript;
        for (stream, summary) in [(Stream::Stdout, &of.stdout), (Stream::Stderr, &of.stderr)] {
            self.runs.output.get_or_create(&OfStream { stream: stream.name() }).inc_by(summary.bytes);
        }
        if let Some(usage) = &execution.usage {
            self.runs.run.observe(usage.wall_ms / 1e3);
        }
        if let Some(ended) = execution.ended_at {
            // The supervisor's clock and ours are the same one, but somebody may set it.
            let ns = now.ns().saturating_sub(ended.ns()).max(0);
            self.runs.end_to_visible.observe(ns as f64 / 1e9);
        }
    }

    /// A request was answered. `route` is the pattern that it matched, like `/v1/executions/{id}`, never its path; `None` where it
    /// matched none.
    pub fn http(&self, method: &str, route: Option<&str>, status: u16, elapsed: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER);
        let route = route.map_or_else(|| OTHER.to_owned(), |route| self.clients.route(route));
        self.clients.request.get_or_create(&OfRoute { route: route.clone() }).observe(elapsed.as_secs_f64());
        self.clients.requests.get_or_create(&Answer { method, route, status }).inc();
    }

    /// A request was refused with a problem that has this code.
    pub fn refused(&self, code: &'static str) {
        self.clients.refused.get_or_create(&OfCode { code }).inc();
    }

    /// The store could not do what it was asked for.
    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    /// Somebody follows a log, until what is returned is dropped.
    pub fn follower(&self) -> Listener {
        Listener::new(&self.clients.followers)
    }

    /// Somebody follows the events, until what is returned is dropped.
    pub fn events_subscriber(&self) -> Listener {
        Listener::new(&self.clients.events_subscribers)
    }

    /// All of it as OpenMetrics text, see [`CONTENT_TYPE`]. How full and how well the service is comes from itself.
    pub fn encode(&self, capacity: &Capacity, parts: &[Part]) -> String {
        self.runs.queue_length.set(signed(capacity.waiting as u64));
        self.runs.running.set(signed(capacity.running as u64));
        for part in parts {
            let ok = i64::from(part.problem.is_none());
            self.part_ok.get_or_create(&OfPart { part: part.name }).set(ok);
        }
        self.process.look();
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use lastword_api::{Backend, Limits, Reason, Status, Usage};
    use uuid::Uuid;

    use super::*;

    const CAPACITY: Capacity = Capacity { concurrency: 4, running: 3, queue: 100, waiting: 17 };

    fn ended() -> Execution {
        let mut one =
            Execution::queued(Uuid::from_u128(7), Timestamp::from_ns(0), Backend::Native, Limits::default());
        one.status = Status::TimedOut;
        one.reason = Some(Reason::WallTime);
        one.transcript.complete = Some(true);
        one.transcript.stdout.bytes = 13;
        one.transcript.stderr.bytes = 91;
        one.queue_ms = Some(250.0);
        one.ended_at = Some(Timestamp::from_ns(1_000_000_000));
        one.usage = Some(Usage { wall_ms: 2000.0, ..Usage::default() });
        one.labels.insert("customer".into(), "secret-label".into());
        one
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no `{line}` in\n{text}");
        }
    }

    #[test]
    fn an_execution_is_counted() {
        let metrics = Metrics::new();
        metrics.accepted(2);
        metrics.started(&ended());
        metrics.ended_at(&ended(), Timestamp::from_ns(1_004_000_000));
        let parts =
            [Part { name: "store", problem: None }, Part { name: "queue", problem: Some("why".into()) }];
        let text = metrics.encode(&CAPACITY, &parts);
        has(
            &text,
            &[
                "lastword_queue_length 17",
                "lastword_running 3",
                "lastword_accepted_total 2",
                "lastword_starts_total{backend=\"native\"} 1",
                "lastword_ends_total{backend=\"native\",status=\"timed_out\",reason=\"wall_time\"} 1",
                "lastword_transcripts_total{complete=\"true\"} 1",
                "lastword_transcripts_total{complete=\"false\"} 0",
                "lastword_output_bytes_total{stream=\"stdout\"} 13",
                "lastword_output_bytes_total{stream=\"stderr\"} 91",
                "lastword_queue_seconds_sum 0.25",
                "lastword_queue_seconds_bucket{le=\"0.1\"} 0",
                "lastword_queue_seconds_bucket{le=\"0.3\"} 1",
                "lastword_run_seconds_sum 2.0",
                "lastword_end_to_visible_seconds_bucket{le=\"0.0025\"} 0",
                "lastword_end_to_visible_seconds_bucket{le=\"0.005\"} 1",
                "lastword_part_ok{part=\"store\"} 1",
                "lastword_part_ok{part=\"queue\"} 0",
                concat!("lastword_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            ],
        );
        assert!(!text.contains("secret-label") && !text.contains("00000007"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let of =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        assert!(
            of("process_resident_memory_bytes ").unwrap() > 1 << 20 && of("process_open_fds ").unwrap() > 2
        );
    }

    #[test]
    fn what_has_no_seal_is_not_complete() {
        let metrics = Metrics::new();
        let mut lost = ended();
        lost.transcript.complete = None;
        metrics.ended(&lost);
        has(&metrics.encode(&CAPACITY, &[]), &["lastword_transcripts_total{complete=\"false\"} 1"]);
    }

    #[test]
    fn requests_are_counted_under_closed_names() {
        let metrics = Metrics::new();
        let route = Some("/v1/executions/{id}");
        metrics.http("GET", route, 200, Duration::from_millis(4));
        metrics.http("BREW", None, 405, Duration::from_millis(4));
        metrics.refused("queue_full");
        metrics.store_error();
        has(
            &metrics.encode(&CAPACITY, &[]),
            &[
                "lastword_http_requests_total{method=\"GET\",route=\"/v1/executions/{id}\",status=\"200\"} 1",
                "lastword_http_requests_total{method=\"other\",route=\"other\",status=\"405\"} 1",
                "lastword_http_request_seconds_bucket{le=\"0.005\",route=\"/v1/executions/{id}\"} 1",
                "lastword_refused_total{code=\"queue_full\"} 1",
                "lastword_store_errors_total 1",
            ],
        );
    }

    #[test]
    fn paths_instead_of_routes_take_no_memory_without_end() {
        let metrics = Metrics::new();
        for number in 0..10 * ROUTES_MAX {
            metrics.http("GET", Some(&format!("/{number}")), 404, Duration::ZERO);
        }
        let text = metrics.encode(&CAPACITY, &[]);
        let series = text.lines().filter(|line| line.starts_with("lastword_http_requests_total{")).count();
        assert_eq!(series, ROUTES_MAX + 1);
    }

    #[test]
    fn listeners_are_counted_while_they_listen() {
        let metrics = Metrics::new();
        let (one, two, three) = (metrics.follower(), metrics.follower(), metrics.events_subscriber());
        has(&metrics.encode(&CAPACITY, &[]), &["lastword_followers 2", "lastword_events_subscribers 1"]);
        drop((one, three));
        has(&metrics.encode(&CAPACITY, &[]), &["lastword_followers 1", "lastword_events_subscribers 0"]);
        drop(two);
    }

    #[test]
    fn every_metric_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let document = std::fs::read_to_string(path).unwrap();
        let text = Metrics::new().encode(&CAPACITY, &[]);
        for line in text.lines() {
            let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let name = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            assert!(document.contains(&format!("`{name}`")), "docs/operations.md has no {name}");
        }
    }
}

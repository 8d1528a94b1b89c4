//! The HTTP API: one file for each noun, on top of [`crate::service::Service`].
//!
//! What blocks (the service, the store) runs on tokio's threads for that, never in a handler. Whatever a client sends is bounded in
//! [`limits`], and every refusal is a [`problem`]. Names and shapes: `openapi/openapi.json`.

mod about;
mod answer;
pub mod auth;
mod batches;
mod body;
mod events;
mod executions;
mod files;
mod health;
pub mod limits;
mod list;
mod logs;
pub mod openapi;
mod problem;
mod query;
mod serve;
#[cfg(test)]
mod served_tests;
mod stdin;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;
use lastword_api::ErrorCode;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use self::auth::Auth;
use self::problem::Problem;
use crate::service::Service;

pub use serve::serve;

/// How the server is run.
#[derive(Clone)]
pub struct Options {
    pub auth: Auth,
    /// The data directory: what is known of runtimes is kept there.
    pub data_dir: PathBuf,
    /// Bytes of a body, of a batch's body, and of all bodies in memory.
    pub body_bytes: usize,
    pub batch_bytes: usize,
    pub bodies_bytes: usize,
    pub connections: usize,
    pub streams: usize,
    /// Says why the keys can't be read again, while those that were read before are in force.
    pub keys_problem: Option<Arc<dyn Fn() -> Option<String> + Send + Sync>>,
}

impl Options {
    /// With the usual bounds.
    pub fn new(auth: Auth, data_dir: PathBuf) -> Options {
        Options {
            auth,
            data_dir,
            body_bytes: limits::BODY_BYTES,
            batch_bytes: limits::BATCH_BODY_BYTES,
            bodies_bytes: limits::BODIES_BYTES,
            connections: limits::CONNECTIONS,
            streams: limits::STREAMS,
            keys_problem: None,
        }
    }

    /// Takes bodies of so many bytes, and a batch and all of them together at least as much.
    pub fn with_body_limit(mut self, bytes: usize) -> Options {
        self.body_bytes = bytes;
        self.batch_bytes = self.batch_bytes.max(bytes);
        self.bodies_bytes = self.bodies_bytes.max(self.batch_bytes);
        self
    }
}

/// What all handlers share.
#[derive(Clone)]
struct App(Arc<Shared>);

struct Shared {
    /// Empty while it is being opened.
    service: OnceLock<Arc<Service>>,
    options: Options,
    bodies: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    /// One asks toolchains for their versions at a time.
    runtimes: tokio::sync::Mutex<()>,
    /// Executions whose request left stdin open.
    open_stdins: Mutex<HashSet<Uuid>>,
    /// True once the server goes down.
    closing: watch::Receiver<bool>,
}

impl App {
    fn new(service: Option<Arc<Service>>, options: Options, closing: watch::Receiver<bool>) -> App {
        App(Arc::new(Shared {
            service: service.map(OnceLock::from).unwrap_or_default(),
            bodies: Arc::new(Semaphore::new(options.bodies_bytes.div_ceil(body::UNIT))),
            streams: Arc::new(Semaphore::new(options.streams)),
            downloads: Arc::new(Semaphore::new(limits::DOWNLOADS)),
            runtimes: tokio::sync::Mutex::new(()),
            open_stdins: Mutex::default(),
            options,
            closing,
        }))
    }

    fn options(&self) -> &Options {
        &self.0.options
    }

    fn bodies(&self) -> Arc<Semaphore> {
        self.0.bodies.clone()
    }

    fn closing(&self) -> watch::Receiver<bool> {
        self.0.closing.clone()
    }

    fn service(&self) -> Result<Arc<Service>, Problem> {
        self.0.service.get().cloned().ok_or_else(|| {
            Problem::new(ErrorCode::NotReady, "the server is starting").later(limits::RETRY_SOON)
        })
    }

    /// Does work that may block. It goes on to its end also when nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Service) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let service = self.service()?;
        let done = tokio::task::spawn_blocking(move || work(&service)).await;
        done.unwrap_or_else(|error| Err(Problem::internal(&error)))
    }
}

/// All paths. `closing` becomes true when the server goes down: streams end then.
pub fn router(service: Arc<Service>, options: Options, closing: watch::Receiver<bool>) -> Router {
    routes(App::new(Some(service), options, closing))
}

fn routes(app: App) -> Router {
    Router::new()
        .route("/v1/executions", post(executions::create).get(list::list))
        .route("/v1/executions/{id}", get(executions::show).delete(executions::remove))
        .route("/v1/executions/{id}/request", get(executions::request_back))
        .route("/v1/executions/{id}/logs", get(logs::logs))
        .route("/v1/executions/{id}/files/{*path}", get(files::file))
        .route("/v1/executions/{id}/cancel", post(executions::cancel))
        .route("/v1/executions/{id}/verify", post(executions::verify))
        .route("/v1/executions/{id}/stdin", post(stdin::add))
        .route("/v1/batches", post(batches::create))
        .route("/v1/batches/{id}", get(batches::show))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/v1/events", get(events::events))
        .route("/v1/runtimes", get(about::runtimes))
        .route("/v1/backends", get(about::backends))
        .route("/v1/capacity", get(about::capacity))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::document))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(from_fn_with_state(app.clone(), auth::guard))
        .layer(from_fn_with_state(app.clone(), around))
        // Bodies are bounded where they are read.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

/// What every answer has, also one to a request that made us panic.
async fn around(State(app): State<App>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = handled.unwrap_or_else(|_| {
        tracing::error!(%method, path = %crate::cli::message::escaped(&path), "a handler panicked");
        Problem::new(ErrorCode::Internal, "the server met an error; its log says more").into_response()
    });
    if let Ok(service) = app.service() {
        let route = route.as_ref().map(MatchedPath::as_str);
        let metrics = service.metrics();
        metrics.http(method.as_str(), route, response.status().as_u16(), began.elapsed());
        if let Some(code) = response.extensions().get::<ErrorCode>() {
            metrics.refused(code.name());
        }
    }
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

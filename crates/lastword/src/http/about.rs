//! What the server can do, and how full it is.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lastword_api::{
    Backend, BackendInfo, Backends, Capacity, LimitName, Limits, Ordering, RuntimeInfo, Runtimes,
};

use super::App;
use super::answer::json;
use super::auth::Anyone;
use super::problem::Problem;
use super::query::Query;
use crate::backend::native::{self, Machine};
use crate::execution::request::Program;
use crate::execution::{self, Request};
use crate::runtime;

/// `GET /v1/runtimes`
pub(super) async fn runtimes(State(app): State<App>, _: Anyone, uri: Uri) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    // The first to ask may wait for interpreters to start; the others need not start them too.
    let _turn = app.0.runtimes.lock().await;
    let versions = runtime::Versions::at(&app.options().data_dir);
    let items = app
        .blocking(move |_| {
            let probe = |argv: &[std::ffi::OsString]| execution::ask_machine(argv);
            let root = runtime::Root::Host(&Machine::get().base);
            Ok(with_versions(runtime::available(root, &versions, Some(&probe))))
        })
        .await?;
    json(StatusCode::OK, &Runtimes { items })
}

fn with_versions(available: Vec<runtime::Available>) -> Vec<RuntimeInfo> {
    let info = |(runtime, here): (&runtime::Runtime, runtime::Available)| RuntimeInfo {
        name: runtime.name.clone(),
        aliases: runtime.aliases.clone(),
        extensions: runtime.extensions.clone(),
        available: here.found,
        version: here.version,
        compiled: runtime.compile.is_some(),
    };
    let mut items: Vec<RuntimeInfo> = runtime::all().iter().zip(available).map(info).collect();
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items
}

/// `GET /v1/backends`
pub(super) async fn backends(State(app): State<App>, _: Anyone, uri: Uri) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let items =
        app.blocking(|_| Ok(vec![native(), absent(Backend::Docker), absent(Backend::Kubernetes)])).await?;
    json(StatusCode::OK, &Backends { items })
}

fn native() -> BackendInfo {
    let machine = Machine::get();
    let mut asked = Request::new(Program::Command { argv: vec!["true".into()] });
    // Those that are asked for only by name are asked for here too.
    asked.limits = Limits { cpu_ms: Some(1000), cpus: Some(1.0), ..Limits::default() };
    let enforced = native::plan::check(machine, &asked).map(|(_, enforced)| enforced);
    let ordering = if machine.listener { Ordering::Exact } else { Ordering::Arrival };
    BackendInfo {
        name: Backend::Native,
        available: enforced.is_ok(),
        problem: enforced.as_ref().err().map(ToString::to_string),
        enforced: enforced.unwrap_or_default(),
        ordering: Some(ordering),
    }
}

fn absent(name: Backend) -> BackendInfo {
    BackendInfo {
        name,
        available: false,
        problem: Some("not available yet in this version".into()),
        enforced: LimitName::ALL.map(|name| (name, false)).into(),
        ordering: None,
    }
}

/// `GET /v1/capacity`
pub(super) async fn capacity(State(app): State<App>, _: Anyone, uri: Uri) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let full = app.blocking(|service| Ok(service.capacity())).await?;
    json(
        StatusCode::OK,
        &Capacity {
            concurrency: full.concurrency as u64,
            running: full.running as u64,
            queue: full.queue as u64,
            waiting: full.waiting as u64,
        },
    )
}

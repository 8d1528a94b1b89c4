//! For whoever watches over the server: is it there, can it work, how does it do.

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use lastword_api::{ErrorCode, Health, Readiness, ReadinessPart};
use tokio::time::timeout;

use super::App;
use super::answer::json;
use super::auth::{Caller, Reads, sees_the_machine};
use super::limits::HEALTH_PATIENCE;
use super::problem::Problem;
use super::query::Query;
use crate::service::{Part, Service, metrics};

/// `GET /healthz`: the process answers. Nothing else is looked at, so that nobody ends it because a disk is full.
pub(super) async fn healthz(uri: Uri) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    json(StatusCode::OK, &Health { ok: true, lastword: env!("CARGO_PKG_VERSION").into() })
}

/// `GET /readyz`
pub(super) async fn readyz(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    Query::of(request.uri())?.finish()?;
    let asked = app.clone();
    let parts = match timeout(HEALTH_PATIENCE, app.blocking(move |service| Ok(parts(&asked, service)))).await
    {
        Ok(Ok(parts)) => parts,
        Ok(Err(problem)) => vec![broken("service", &problem.details().detail)],
        Err(_) => vec![broken("store", "it doesn't answer in time")],
    };
    // What is wrong may tell of paths and other tenants.
    let tell = sees_the_machine(request.extensions().get::<Caller>());
    let readiness = readiness(parts, tell);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &readiness)
}

/// Those of the service, and the keys where there may be some.
fn parts(app: &App, service: &Service) -> Vec<Part> {
    let mut parts = service.health();
    if let Some(problem) = &app.options().keys_problem {
        parts.push(Part { name: "keys", problem: problem() });
    }
    parts
}

fn broken(name: &'static str, problem: &str) -> Part {
    Part { name, problem: Some(problem.to_owned()) }
}

fn readiness(parts: Vec<Part>, tell: bool) -> Readiness {
    let part = |part: Part| ReadinessPart {
        name: part.name.to_owned(),
        ready: part.problem.is_none(),
        problem: part.problem.filter(|_| tell),
    };
    let parts: Vec<ReadinessPart> = parts.into_iter().map(part).collect();
    Readiness { ready: parts.iter().all(|part| part.ready), parts }
}

/// `GET /metrics`
pub(super) async fn metrics(
    State(app): State<App>,
    Reads(caller): Reads,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    if !sees_the_machine(Some(&caller)) {
        return Err(Problem::new(
            ErrorCode::Forbidden,
            "the metrics tell of all tenants: they need the scope admin",
        ));
    }
    let asked = app.clone();
    let text = app
        .blocking(move |service| Ok(service.metrics().encode(&service.capacity(), &parts(&asked, service))));
    Ok((StatusCode::OK, [(CONTENT_TYPE, metrics::CONTENT_TYPE)], text.await?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_not_ready_is_named() {
        let parts = || vec![Part { name: "queue", problem: None }, broken("store", "/secret is full")];
        let told = readiness(parts(), true);
        assert!(!told.ready && told.parts[0].ready && !told.parts[1].ready);
        assert_eq!(told.parts[1].problem.as_deref(), Some("/secret is full"));
        assert_eq!(readiness(parts(), false).parts[1].problem, None);
    }
}

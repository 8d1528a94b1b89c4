//! Connections: how many, how slow they may be, and how they end.
//!
//! hyper itself and not `axum::serve`, which sets no bound on any of it.

use std::io;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::limits::{
    ACCEPT_PAUSE, CONNECTION_BUFFER_BYTES, HEADER_READ, HEADERS, PEER_SILENT, SEND_STALLED, SHUTDOWN_GRACE,
};
use super::{Options, router};
use crate::service::Service;

/// Serves until `shutdown` is ready. Then nothing is accepted any more, streams end, short requests have a few seconds to, and what
/// is left is broken off.
pub async fn serve(
    service: Arc<Service>,
    options: Options,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (closing, seen) = watch::channel(false);
    let free = Arc::new(Semaphore::new(options.connections));
    let app = TowerToHyperService::new(router(service, options, seen));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // Those that have ended are forgotten as others come.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = accept(&listener, &free) => accepted,
            () = &mut shutdown => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        bound(&stream);
        let connection = builder().serve_connection(TokioIo::new(stream), app.clone());
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            // Who went away or sent no HTTP has no claim on our log.
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = closing.send(true);
    if timeout(SHUTDOWN_GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are broken off: the server goes down");
    }
    connections.shutdown().await;
    Ok(())
}

/// `None` where it failed: one that is gone already is no reason to stop, and descriptors may be free again in a moment.
async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(free).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ)
        .max_headers(HEADERS)
        .max_buf_size(CONNECTION_BUFFER_BYTES);
    builder
}

/// None of these is needed for an answer to be right.
fn bound(stream: &TcpStream) {
    // A line goes out when it is there, not when the next one is.
    let _ = stream.set_nodelay(true);
    let _ =
        sockopt::set_tcp_user_timeout(stream, u32::try_from(SEND_STALLED.as_millis()).unwrap_or(u32::MAX));
    let _ = sockopt::set_tcp_keepidle(stream, PEER_SILENT);
    let _ = sockopt::set_socket_keepalive(stream, true);
}

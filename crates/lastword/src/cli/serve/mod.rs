//! `lastword serve`
//!
//! [`settings`] (flags, environment, file) -> [`refuse`] (reasons not to start) -> the service -> HTTP, until a signal.

mod notify;
mod reference;
mod refuse;
mod settings;

use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use self::settings::{Effective, Settings};
use super::message::{Advice, AdviceError, causes, hint_of, say_error};
use super::output::print;
use super::{FAILURE, summary};
use crate::http::auth::Auth;
use crate::keys::Keys;
use crate::service::{self, Service};
use crate::{http, log};

pub use reference::renewed;

/// How long answering may go on after a signal. It ends sooner by itself; this is for when it doesn't.
const DRAIN: Duration = Duration::from_secs(8);
/// How long what blocks may go on after that.
const LAST: Duration = Duration::from_secs(1);

/// Run executions for many users, over HTTP
///
/// A value comes from its flag, else from the environment, else from the configuration file, else it is the default.
/// SIGTERM ends the server and leaves running programs to their supervisors; the next start goes on with them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword serve
  lastword serve --config /etc/lastword/lastword.toml --check
  lastword keys create && lastword serve --listen 0.0.0.0:7070 --concurrency 16")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Configuration file: TOML with the names of the flags
    #[arg(long, value_name = "FILE", env = "LASTWORD_CONFIG")]
    config: Option<PathBuf>,
    /// Print each value and where it comes from, say what would keep the server from starting, and exit
    #[arg(long)]
    check: bool,
}

/// `matches` are those that `args` was made from.
pub(crate) fn run(args: &Args, matches: &ArgMatches) -> anyhow::Result<u8> {
    let effective = settings::resolve(args.config.as_deref(), matches)?;
    if args.check {
        return check(&effective);
    }
    let settings = &effective.settings;
    let result = prepare(&effective).and_then(|(keys, listener)| {
        log::init(settings.log_format, settings.log_level);
        serve(&effective, keys, listener)
    });
    match (result, settings.log_format) {
        (Ok(()), _) => Ok(0),
        (Err(error), log::Format::Text) => Err(error),
        // Whoever reads the log reads JSON, also when the log was never begun.
        (Err(error), log::Format::Json) => {
            log::init(settings.log_format, settings.log_level);
            tracing::error!(hint = hint_of(&error), "{}", causes(&error));
            Ok(FAILURE)
        }
    }
}

fn check(effective: &Effective) -> anyhow::Result<u8> {
    let mut rows = vec![["KEY", "VALUE", "ORIGIN"].map(str::to_owned).to_vec()];
    rows.extend(effective.rows());
    print(&summary::table(&rows))?;
    let reasons = match Keys::open(&effective.data_dir) {
        Ok(keys) => refuse::reasons(&effective.settings, &keys),
        Err(error) => vec![unreadable(error)],
    };
    reasons.iter().for_each(say_error);
    Ok(if reasons.is_empty() { 0 } else { FAILURE })
}

fn unreadable(error: crate::keys::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    error.with_hint("put a back-up in its place, or remove it and make new keys")
}

/// Everything that can keep the server from starting and needs no service.
fn prepare(effective: &Effective) -> anyhow::Result<(Keys, TcpListener)> {
    let settings = &effective.settings;
    let keys = Keys::open(&effective.data_dir).map_err(unreadable)?;
    if let Some(reason) = refuse::reasons(settings, &keys).into_iter().next() {
        return Err(reason);
    }
    let listener = TcpListener::bind(settings.listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| format!("cannot listen on {}", settings.listen))
        .hint("name another address with --listen")?;
    Ok((keys, listener))
}

fn serve(effective: &Effective, keys: Keys, listener: TcpListener) -> anyhow::Result<()> {
    let settings = &effective.settings;
    refuse::warn();
    raise_descriptor_limit();
    let config = service::Config {
        data_dir: effective.data_dir.clone(),
        concurrency: settings.concurrency.get(),
        queue: settings.queue,
        allow_unenforced: settings.allow_unenforced,
    };
    let service = Arc::new(Service::open(config)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that answer requests")?;
    let result = runtime.block_on(until_stopped(
        &service,
        Arc::new(keys),
        settings.clone(),
        effective.data_dir.clone(),
        listener,
    ));
    runtime.shutdown_timeout(LAST);
    // Whatever matters is on disk. Dropped, the service might wait for runs that go on without us.
    std::mem::forget(service);
    result
}

async fn until_stopped(
    service: &Arc<Service>,
    keys: Arc<Keys>,
    settings: Settings,
    data_dir: PathBuf,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let stop = on_signals()?;
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot wait for connections")?;
    let address = listener.local_addr().context("cannot learn the address that is listened on")?;
    if !keys.are_required() {
        tracing::warn!(
            "there are no keys: everybody on this machine may run programs and read all transcripts"
        );
    }
    let answering =
        tokio::spawn(answer(Arc::clone(service), keys, settings, data_dir, listener, stopped(stop.clone())));
    tracing::info!(target: log::START, "listening on http://{address}");
    notify::ready();
    let (abort, service) = (answering.abort_handle(), Arc::clone(service));
    tokio::spawn(async move {
        stopped(stop).await;
        notify::stopping();
        tokio::task::spawn_blocking(move || service.drain());
        tokio::time::sleep(DRAIN).await;
        abort.abort();
    });
    match answering.await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => {
            tracing::warn!("connections were still open {DRAIN:?} after the signal, and are cut off");
            Ok(())
        }
        Err(error) => Err(error).context("the part that answers requests is gone"),
    }
}

async fn answer(
    service: Arc<Service>,
    keys: Arc<Keys>,
    settings: Settings,
    data_dir: PathBuf,
    listener: tokio::net::TcpListener,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let authenticate: Arc<http::auth::Authenticate> = {
        let keys = Arc::clone(&keys);
        Arc::new(move |token| keys.authenticate(token))
    };
    let watched = Arc::clone(&keys);
    // Keys that are made while we run count at once.
    let auth = Auth::Now(Arc::new(move || match keys.are_required() {
        true => Auth::Keys(Arc::clone(&authenticate)),
        false => Auth::Open,
    }));
    let body_limit = usize::try_from(settings.body_limit).unwrap_or(usize::MAX);
    let mut options = http::Options::new(auth, data_dir).with_body_limit(body_limit);
    options.keys_problem = Some(Arc::new(move || watched.problem()));
    http::serve(service, options, listener, stopped).await.context("cannot go on answering requests")
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives as long as the process.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Becomes true with the first SIGTERM or SIGINT. The second one ends us at once.
fn on_signals() -> anyhow::Result<watch::Receiver<bool>> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    let (sender, receiver) = watch::channel(false);
    let watch = move || {
        for signal in signals.forever() {
            if sender.send_replace(true) {
                std::process::exit(128 + signal);
            }
            tracing::info!(
                "stopping: running programs go on, and the next start finds them; once more exits now"
            );
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(watch).context("cannot start the thread that waits for signals")?;
    Ok(receiver)
}

/// Connections, spools and control pipes all take descriptors, and the usual limit of 1,024 is there for programs that use select.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit on open files: {error}");
    }
}

//! `lastword run`

mod args;
mod files;
mod request;
mod server;
mod venv;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use lastword_api::execution::INLINE_BYTES_DEFAULT;
use lastword_api::{Execution, Reason, Stream};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use uuid::Uuid;

pub(crate) use self::args::Args;
use self::args::SaysArgs;
pub(crate) use self::request::share;
use self::request::{Out, outs, request, stands_behind_dashes};
use super::executions::Executions;
use super::exit::outcome;
use super::message::{Advice, escaped, hint, say};
use super::output::print_json;
use super::print::Printer;
use super::{Globals, save, summary};
use crate::execution::{Cancel, Sink};
use crate::replay::Collector;

pub(crate) fn run(args: Args, globals: &Globals) -> anyhow::Result<u8> {
    let after_dashes = stands_behind_dashes(std::env::args_os(), args.target.len());
    let cancel = Arc::new(Cancel::default());
    if let Some(client) = &globals.server {
        let asked = server::Asked::new(&args, after_dashes)?;
        let interrupted = cancel_on_signals(&cancel)?;
        return show(&args, Executions::Server(client), &interrupted, |sink| {
            server::run(client, asked, sink, &cancel)
        });
    }
    let request = request(&args, after_dashes)?;
    let engine = globals.open_engine()?;
    let interrupted = cancel_on_signals(&cancel)?;
    show(
        &args,
        Executions::Store(&engine.store),
        &interrupted,
        |sink| Ok(engine.run(request, sink, &cancel)?),
    )
}

/// Runs it, and shows what comes of it.
fn show(
    args: &Args,
    executions: Executions<'_>,
    interrupted: &AtomicU8,
    run: impl FnOnce(&mut dyn Sink) -> anyhow::Result<Execution>,
) -> anyhow::Result<u8> {
    if args.says.json {
        let mut collector = Collector::new(INLINE_BYTES_DEFAULT);
        let mut execution = run(&mut Announced::new(&mut collector, &args.says))?;
        execution.inline = Some(collector.into_inline());
        print_json(&execution)?;
        say_summary(&execution, &args.says);
        save_outputs(executions, &execution, args)?;
        return Ok(0);
    }
    let mut printer = Printer::new(args.says.timestamps);
    let execution = run(&mut Announced::new(&mut printer, &args.says))?;
    say_summary(&execution, &args.says);
    say_compiler(&execution, &args.says);
    save_outputs(executions, &execution, args)?;
    let signal = Some(interrupted.load(Ordering::SeqCst)).filter(|signal| *signal != 0);
    let outcome = outcome(&execution, signal);
    if !args.says.quiet {
        outcome.message.iter().for_each(|message| say(message));
        outcome.hint.iter().for_each(|text| hint(text));
    }
    if let Some((stream, error)) = printer.failure() {
        return Err(error)
            .with_context(|| format!("cannot pass on the program's {}", stream.name()))
            .hint(format!("the transcript has it: lastword logs {}", execution.id));
    }
    Ok(outcome.code)
}

fn say_summary(execution: &Execution, says: &SaysArgs) {
    if says.verbose {
        say(&summary::line(execution));
    }
}

/// What the compiler said, where that is why there is nothing else to show.
fn say_compiler(execution: &Execution, says: &SaysArgs) {
    let Some(compile) = &execution.compile else { return };
    if execution.reason == Some(Reason::CompileFailed) || says.verbose {
        for (text, encoding) in
            [(&compile.stdout, compile.stdout_encoding), (&compile.stderr, compile.stderr_encoding)]
        {
            let bytes = lastword_api::encoding::output_bytes(text, encoding).unwrap_or_default();
            let _ = std::io::stderr().write_all(&bytes);
        }
        if let (true, Some(id)) = (compile.truncated, compile.id) {
            say(&format!("the compiler said more: lastword logs {id}"));
        }
    }
}

/// Copies what `--out` asked for, and says what can't be had.
fn save_outputs(executions: Executions<'_>, execution: &Execution, args: &Args) -> anyhow::Result<()> {
    for Out { glob, dir } in outs(&args.keeps.out)? {
        let saved = save::save(executions, execution, &glob, &dir)
            .hint(format!("the execution has them: lastword files {}", execution.id))?;
        if saved.files == 0 && !args.says.quiet {
            say(&format!("nothing was kept of --out {}", glob.escape_ascii()));
        }
    }
    if !args.says.quiet {
        for refused in &execution.outputs_refused {
            say(&format!("not kept: {}: {}", refused.path, refused.reason));
        }
    }
    Ok(())
}

/// Says the id as soon as there is one, and how far an image has come.
struct Announced<'a> {
    sink: &'a mut dyn Sink,
    verbose: bool,
    /// Hidden where stderr is no terminal.
    pulling: ProgressBar,
}

impl<'a> Announced<'a> {
    fn new(sink: &'a mut dyn Sink, says: &SaysArgs) -> Self {
        let shown = !says.quiet && std::io::stderr().is_terminal();
        let pulling = if shown { ProgressBar::no_length() } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
        {
            pulling.set_style(style);
        }
        Announced { sink, verbose: says.verbose, pulling }
    }
}

impl Sink for Announced<'_> {
    fn pulling(&mut self, image: &str, bytes: u64, total: Option<u64>) {
        self.pulling.set_message(escaped(image));
        if let Some(total) = total {
            self.pulling.set_length(total);
        }
        self.pulling.set_position(bytes);
        if total == Some(bytes) {
            self.pulling.finish_and_clear();
        }
    }

    fn accepted(&mut self, id: Uuid) {
        if self.verbose {
            say(&format!("execution {id}"));
        }
    }

    fn record(&mut self, stream: Stream, time_ns: i64, seq: u64, bytes: &[u8]) {
        if !self.pulling.is_finished() {
            // Its line must not stand among the program's.
            self.pulling.finish_and_clear();
        }
        self.sink.record(stream, time_ns, seq, bytes);
    }

    fn dropped(&mut self, stream: Stream, time_ns: i64, seq: u64, bytes: u64) {
        self.sink.dropped(stream, time_ns, seq, bytes);
    }
}

/// The first SIGINT or SIGTERM asks the run for its end, which is then waited for; the second ends us at once.
/// Returns where the number of the first one will stand.
fn cancel_on_signals(cancel: &Arc<Cancel>) -> anyhow::Result<Arc<AtomicU8>> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    let cancel = Arc::clone(cancel);
    let first = Arc::new(AtomicU8::new(0));
    let number = Arc::clone(&first);
    let thread = std::thread::Builder::new().name("signals".into());
    let watch = move || {
        for signal in signals.forever() {
            let signal = u8::try_from(signal).unwrap_or(SIGINT as u8);
            if number.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                std::process::exit(128 + i32::from(signal));
            }
            cancel.cancel();
        }
    };
    thread.spawn(watch).context("cannot start the thread that waits for signals")?;
    Ok(first)
}

//! `lastword run`

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use lastword_api::execution::INLINE_BYTES_DEFAULT;
use lastword_api::limits::{
    DISK_BYTES_DEFAULT, MEMORY_BYTES_DEFAULT, OPEN_FILES_DEFAULT, OPEN_FILES_MAX, OPEN_FILES_MIN,
    OUTPUT_BYTES_DEFAULT, PIDS_DEFAULT, PIDS_MAX, PIDS_MIN, STACK_BYTES_DEFAULT, WALL_MS_DEFAULT,
};
use lastword_api::{Execution, Limits, Stream, check_labels};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use uuid::Uuid;

use super::exit::{self, outcome};
use super::message::{Advice, AdviceError, hint, say};
use super::output::print_json;
use super::print::Printer;
use super::replay::Collector;
use super::{Globals, summary, values};
use crate::execution::request::{Flush, OnOutputLimit, OrderingWish, Program, Stdin};
use crate::execution::{self, Cancel, Request, Sink};
use crate::runtime::{self, Runtime, Selected};

/// Bytes of a program that is given as a file.
const CODE_BYTES_MAX: u64 = 256 << 20;

/// Run a program in a sandbox, pass on what it says, and keep it
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "lastword run [OPTIONS] FILE [ARG]...\n       \
                      lastword run [OPTIONS] --runtime NAME -c CODE [ARG]...\n       \
                      lastword run [OPTIONS] -- COMMAND [ARG]...",
    after_help = "\
Exit code: the program's own, and
  128+n  signal n ended it
  124    it ran out of time
  125    lastword failed, or can't vouch for the transcript
  126    the command can't be executed
  127    the command, or the file, was not found
  2      the command line is wrong
With --json it is 0 whenever there is an execution object.

Durations are written like 30s, 500ms, 2m; sizes like 64MiB, 1GB, 512k.

Examples:
  lastword run script.py --flag-of-the-script
  lastword run --runtime python -c 'print(1)'
  lastword run --timeout 5s --memory 256MiB -- grep -r needle /usr/share/dict
  lastword run --json script.py | jq .transcript
  lastword run --stdin data.txt --env LANG=C --label job=nightly script.sh"
)]
pub(crate) struct Args {
    /// The file and its arguments; behind -- a command and its arguments
    #[arg(value_name = "FILE|COMMAND", trailing_var_arg = true, required_unless_present = "code")]
    target: Vec<OsString>,
    /// The code itself; needs --runtime
    #[arg(short, value_name = "CODE", requires = "runtime", allow_hyphen_values = true)]
    code: Option<OsString>,
    /// What runs it [default: from the file's extension or its #! line]
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Refuse to run if a limit or the ordering asked for can't be had
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    capture: CaptureArgs,
    #[command(flatten)]
    says: SaysArgs,
    #[command(flatten)]
    later: LaterArgs,
}

/// How much it may use. None of them is the caller's own.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Wall time, 1ms to 7d [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::wall_ms)]
    timeout: Option<u64>,
    /// CPU time of all its processes [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = values::cpu_ms)]
    cpu_time: Option<u64>,
    /// Memory with what it writes to its file system, from 4MiB on [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    memory: Option<u64>,
    /// CPUs' worth of time, like 0.5 [default: no limit]
    #[arg(long, value_name = "N", value_parser = values::cpus)]
    cpus: Option<f64>,
    /// Processes and threads, 1 to 4194304
    #[arg(long, value_name = "N", default_value_t = PIDS_DEFAULT, value_parser = clap::value_parser!(u64).range(PIDS_MIN..=PIDS_MAX))]
    pids: u64,
    /// What is kept of its output [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::output)]
    output_limit: Option<u64>,
    /// What happens when it writes more than that
    #[arg(long, value_enum, default_value_t = OutputLimitArg::Kill)]
    on_output_limit: OutputLimitArg,
    /// What it may keep in its file system, from 64KiB on [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::disk)]
    disk: Option<u64>,
    /// Stack of its main thread, 256KiB to 64GiB [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::stack)]
    stack: Option<u64>,
    /// Open files of one process, 16 to 1048576
    #[arg(long, value_name = "N", default_value_t = OPEN_FILES_DEFAULT, value_parser = clap::value_parser!(u64).range(OPEN_FILES_MIN..=OPEN_FILES_MAX))]
    open_files: u64,
}

/// What it is given.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input")]
struct GivenArgs {
    /// What it reads on stdin; - is our own [default: nothing]
    #[arg(long, value_name = "FILE|-")]
    stdin: Option<PathBuf>,
    /// Set a variable; KEY alone takes the value from our environment
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<OsString>,
    /// Set a variable to its value in our environment, and never show that value
    #[arg(long, value_name = "KEY")]
    secret: Vec<OsString>,
    /// Directory in the sandbox to start in
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// A label to find the execution by
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::label)]
    label: Vec<(String, String)>,
}

/// How its output is captured.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Capture")]
struct CaptureArgs {
    /// Give it a terminal; the transcript then has one stream
    #[arg(long)]
    tty: bool,
    /// exact: the order of its writes; arrival: cheaper for programs that write a lot [default: exact if it can be had]
    #[arg(long, value_enum)]
    ordering: Option<OrderingArg>,
    /// When its own buffers go out, where the runtime can be helped
    #[arg(long, value_enum, default_value_t = FlushArg::Line)]
    flush: FlushArg,
}

/// What we say.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
struct SaysArgs {
    /// Print one execution object instead of the program's output
    #[arg(long)]
    json: bool,
    /// Say nothing of our own, not even why the exit code is 125, 126 or 127
    #[arg(long, conflicts_with = "verbose")]
    quiet: bool,
    /// Put the time and the stream's name before each line
    #[arg(long, conflicts_with = "json")]
    timestamps: bool,
    /// Say the id and a one-line summary on stderr
    #[arg(long)]
    verbose: bool,
}

/// What the interface promises and this version has only in part.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
struct LaterArgs {
    /// What isolates and runs it: native
    #[arg(long, default_value = "native")]
    backend: String,
    /// Network that it can reach: none
    #[arg(long, default_value = "none")]
    network: String,
    #[arg(long, hide = true)]
    image: Option<OsString>,
    #[arg(long, hide = true)]
    file: Option<OsString>,
    #[arg(long, hide = true)]
    dir: Option<OsString>,
    #[arg(long, hide = true)]
    ro: Option<OsString>,
    #[arg(long, hide = true)]
    out: Option<OsString>,
    #[arg(long, hide = true)]
    container_runtime: Option<OsString>,
    #[arg(long, hide = true)]
    key: Option<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OutputLimitArg {
    Kill,
    Drop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderingArg {
    Exact,
    Arrival,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FlushArg {
    Line,
    Unbuffered,
    Off,
}

pub(crate) fn run(args: Args, globals: &Globals) -> anyhow::Result<u8> {
    let after_dashes = stands_behind_dashes(std::env::args_os(), args.target.len());
    let request = request(&args, after_dashes)?;
    let store = globals.open_store()?;
    let cancel = Arc::new(Cancel::default());
    let interrupted = cancel_on_signals(&cancel)?;
    if args.says.json {
        let mut collector = Collector::new(INLINE_BYTES_DEFAULT);
        let mut sink = Announced { sink: &mut collector, verbose: args.says.verbose };
        let mut execution = execution::run(&store, request, &mut sink, &cancel)?;
        execution.inline = Some(collector.into_inline());
        print_json(&execution)?;
        say_summary(&execution, &args.says);
        return Ok(0);
    }
    let mut printer = Printer::new(args.says.timestamps);
    let mut sink = Announced { sink: &mut printer, verbose: args.says.verbose };
    let execution = execution::run(&store, request, &mut sink, &cancel)?;
    say_summary(&execution, &args.says);
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

/// Says the id as soon as there is one.
struct Announced<'a> {
    sink: &'a mut dyn Sink,
    verbose: bool,
}

impl Sink for Announced<'_> {
    fn accepted(&mut self, id: Uuid) {
        if self.verbose {
            say(&format!("execution {id}"));
        }
    }

    fn record(&mut self, stream: Stream, time_ns: i64, seq: u64, bytes: &[u8]) {
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

/// Whether the last `count` words of the command line stand behind a `--`. clap takes it away, and it decides
/// between a file and a command. Those words are always the last ones, for nothing may follow them.
fn stands_behind_dashes(words: impl Iterator<Item = OsString>, count: usize) -> bool {
    let words: Vec<OsString> = words.collect();
    let before = words.len().checked_sub(count + 1).and_then(|at| words.get(at));
    count > 0 && before.is_some_and(|word| word == "--")
}

fn request(args: &Args, after_dashes: bool) -> anyhow::Result<Request> {
    refuse_later(&args.later)?;
    let limits = limits(&args.limits);
    limits.check().map_err(|error| {
        anyhow!(
            "{} is {}: it must be between {} and {}",
            error.name.flag(),
            error.value,
            error.min,
            error.max
        )
    })?;
    let labels: BTreeMap<String, String> = args.given.label.iter().cloned().collect();
    check_labels(&labels)?;
    let chosen = args.runtime.as_deref().map(runtime::by_name).transpose();
    let chosen =
        chosen.hint(format!("--runtime takes one of {}; a command goes behind --", runtime::names()))?;
    let (program, runtime, program_args) = program(args, chosen, after_dashes)?;
    let env = variables(&args.given.env)?;
    Ok(Request {
        program,
        runtime,
        args: program_args,
        stdin: stdin(args.given.stdin.as_deref())?,
        env,
        secrets: secrets(&args.given.secret)?,
        cwd: args.given.cwd.clone().map(absolute).transpose()?,
        labels,
        limits,
        on_output_limit: match args.limits.on_output_limit {
            OutputLimitArg::Kill => OnOutputLimit::Kill,
            OutputLimitArg::Drop => OnOutputLimit::Drop,
        },
        tty: args.capture.tty,
        ordering: args.capture.ordering.map(|wish| match wish {
            OrderingArg::Exact => OrderingWish::Exact,
            OrderingArg::Arrival => OrderingWish::Arrival,
        }),
        flush: match args.capture.flush {
            FlushArg::Line => Flush::Line,
            FlushArg::Unbuffered => Flush::Unbuffered,
            FlushArg::Off => Flush::Off,
        },
        strict: args.strict,
    })
}

fn refuse_later(later: &LaterArgs) -> anyhow::Result<()> {
    match later.backend.as_str() {
        "native" => {}
        "docker" | "kubernetes" => bail!("--backend {} is not available yet in this version", later.backend),
        other => bail!("there is no backend \"{other}\"; there is native"),
    }
    if later.network != "none" {
        bail!("--network {} is not available yet in this version; there is none", later.network);
    }
    let options = [
        ("--image", &later.image),
        ("--file", &later.file),
        ("--dir", &later.dir),
        ("--ro", &later.ro),
        ("--out", &later.out),
        ("--container-runtime", &later.container_runtime),
        ("--key", &later.key),
    ];
    match options.iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) => bail!("{name} is not available yet in this version"),
        None => Ok(()),
    }
}

fn limits(args: &LimitArgs) -> Limits {
    Limits {
        wall_ms: args.timeout.unwrap_or(WALL_MS_DEFAULT),
        cpu_ms: args.cpu_time,
        memory_bytes: args.memory.unwrap_or(MEMORY_BYTES_DEFAULT),
        pids: args.pids,
        cpus: args.cpus,
        disk_bytes: args.disk.unwrap_or(DISK_BYTES_DEFAULT),
        output_bytes: args.output_limit.unwrap_or(OUTPUT_BYTES_DEFAULT),
        stack_bytes: args.stack.unwrap_or(STACK_BYTES_DEFAULT),
        open_files: args.open_files,
    }
}

/// What to run, with which runtime and arguments.
fn program(
    args: &Args,
    chosen: Option<&'static Runtime>,
    after_dashes: bool,
) -> anyhow::Result<(Program, Option<Runtime>, Vec<OsString>)> {
    if let Some(code) = &args.code {
        let program = Program::Code { code: code.as_bytes().to_vec() };
        return Ok((program, chosen.cloned(), args.target.clone()));
    }
    let Some((first, rest)) = args.target.split_first() else { bail!("there is nothing to run") };
    // A runtime runs files: with --runtime, -- only ends the options.
    if after_dashes && chosen.is_none() {
        return Ok((Program::Command { argv: args.target.clone() }, None, Vec::new()));
    }
    let path = PathBuf::from(first);
    let code = read_program(&path)?;
    let runtime = match chosen {
        Some(runtime) => Some(runtime.clone()),
        None => match runtime::for_file(&path, &code).hint(undecided_hint())? {
            Selected::Runtime(runtime) => Some(*runtime),
            Selected::AsItIs => None,
        },
    };
    let name = path.file_name().unwrap_or(OsStr::new("main")).to_owned();
    Ok((Program::File { path, name, code }, runtime, rest.to_vec()))
}

fn undecided_hint() -> String {
    format!("name it with --runtime, one of {}; a command goes behind --", runtime::names())
}

fn read_program(path: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let code = if missing { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
        let error = anyhow::Error::new(error).context(cannot()).with_code(code);
        // A lone word may well be a command's name.
        match missing && path.components().count() == 1 && path.extension().is_none() {
            true => {
                error.with_hint(format!("to run a command of that name: lastword run -- {}", path.display()))
            }
            false => error,
        }
    })?;
    // Not only regular files: <(...) of a shell is a pipe.
    if file.metadata().with_context(cannot)?.is_dir() {
        return Err(anyhow!("{} is a directory", path.display())).code(exit::NOT_EXECUTABLE);
    }
    let mut code = Vec::new();
    file.take(CODE_BYTES_MAX + 1).read_to_end(&mut code).with_context(cannot)?;
    if code.len() as u64 > CODE_BYTES_MAX {
        bail!(
            "{} has more than {} MiB, the most that a program may have",
            path.display(),
            CODE_BYTES_MAX >> 20
        );
    }
    Ok(code)
}

fn stdin(path: Option<&Path>) -> anyhow::Result<Stdin> {
    match path {
        None => Ok(Stdin::Nothing),
        Some(path) if path == Path::new("-") => {
            let own =
                std::io::stdin().as_fd().try_clone_to_owned().context("cannot take over our own stdin")?;
            Ok(Stdin::Fd(own))
        }
        Some(path) => {
            let cannot = || format!("cannot read {} for --stdin", path.display());
            let file = File::open(path).with_context(cannot)?;
            if file.metadata().with_context(cannot)?.is_dir() {
                bail!("{} for --stdin is a directory", path.display());
            }
            Ok(Stdin::Fd(file.into()))
        }
    }
}

/// `KEY=VALUE`, or `KEY` with the value of our own environment. Of the same key the last one counts.
fn variables(given: &[OsString]) -> anyhow::Result<Vec<(OsString, OsString)>> {
    let mut all: BTreeMap<OsString, OsString> = BTreeMap::new();
    for text in given {
        let bytes = text.as_bytes();
        let (key, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                (OsStr::from_bytes(&bytes[..at]).to_owned(), OsStr::from_bytes(&bytes[at + 1..]).to_owned())
            }
            None => (text.clone(), own_variable("--env", text)?),
        };
        if key.is_empty() {
            bail!("--env {} has no name before the =", text.display());
        }
        all.insert(key, value);
    }
    Ok(all.into_iter().collect())
}

fn secrets(keys: &[OsString]) -> anyhow::Result<Vec<(OsString, OsString)>> {
    let mut all: BTreeMap<OsString, OsString> = BTreeMap::new();
    for key in keys {
        // The text behind an = would be the secret itself: it must not be in our message.
        if key.is_empty() || key.as_bytes().contains(&b'=') {
            return Err(anyhow!("--secret takes the name of a variable, not its value"))
                .hint("set the variable and name it: API_KEY=... lastword run --secret API_KEY ...");
        }
        all.insert(key.clone(), own_variable("--secret", key)?);
    }
    Ok(all.into_iter().collect())
}

fn own_variable(option: &str, key: &OsStr) -> anyhow::Result<OsString> {
    std::env::var_os(key)
        .ok_or_else(|| anyhow!("{option} {}: there is no variable of that name", key.display()))
        .hint(format!("set it: {}=... lastword run {option} {} ...", key.display(), key.display()))
}

fn absolute(dir: PathBuf) -> anyhow::Result<PathBuf> {
    if dir.is_absolute() {
        return Ok(dir);
    }
    Err(anyhow!("--cwd {} is not absolute", dir.display()))
        .hint("it is a directory of the sandbox, like /tmp")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    /// Parses a command line as `main` gets it.
    fn parse(words: &[&str]) -> anyhow::Result<(Args, bool)> {
        let line = ["run"].iter().chain(words);
        let args = Only::try_parse_from(line.clone())?.args;
        let dashes = stands_behind_dashes(line.map(OsString::from), args.target.len());
        Ok((args, dashes))
    }

    fn asked(words: &[&str]) -> anyhow::Result<Request> {
        let (args, dashes) = parse(words)?;
        request(&args, dashes)
    }

    fn sentence(words: &[&str]) -> String {
        match asked(words) {
            Ok(_) => panic!("{words:?} was accepted"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_follows_the_file_is_the_programs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.py");
        std::fs::write(&file, "print(1)").unwrap();
        let request = asked(&["--quiet", file.to_str().unwrap(), "-x", "--json", "--", "y"]).unwrap();
        assert_eq!(request.args, ["-x", "--json", "--", "y"]);
        assert_eq!(request.runtime.unwrap().name, "python");
        let Program::File { name, code, .. } = request.program else { panic!("no file") };
        assert_eq!((name.to_str(), &code[..]), (Some("a.py"), &b"print(1)"[..]));
    }

    #[test]
    fn what_follows_the_dashes_is_a_command() {
        let request = asked(&["--timeout", "1s", "--", "ls", "-l", "--", "/"]).unwrap();
        let Program::Command { argv } = request.program else { panic!("no command") };
        assert_eq!(argv, ["ls", "-l", "--", "/"]);
        assert!(request.runtime.is_none() && request.args.is_empty());
    }

    #[test]
    fn code_has_a_runtime_and_arguments() {
        let request = asked(&["--runtime", "py", "-c", "-1", "--", "a", "b"]).unwrap();
        let Program::Code { code } = request.program else { panic!("no code") };
        assert_eq!((&code[..], request.args), (&b"-1"[..], vec!["a".into(), "b".into()]));
        assert!(sentence(&["-c", "1"]).contains("--runtime"));
    }

    #[test]
    fn dashes_after_a_runtime_only_end_the_options() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let request = asked(&["--runtime", "sh", "--", file.path().to_str().unwrap()]).unwrap();
        assert!(matches!(request.program, Program::File { .. }));
    }

    #[test]
    fn limits_and_choices_arrive() {
        let line = "--timeout 2m --cpu-time 1s --memory 64MiB --cpus 0.5 --pids 3 --output-limit 1k --disk 1MB \
                    --stack 8MiB --open-files 20 --on-output-limit drop --ordering arrival --flush off --strict -- ls";
        let request = asked(&line.split_ascii_whitespace().collect::<Vec<_>>()).unwrap();
        let expected = Limits {
            wall_ms: 120_000,
            cpu_ms: Some(1000),
            memory_bytes: 64 << 20,
            pids: 3,
            cpus: Some(0.5),
            disk_bytes: 1_000_000,
            output_bytes: 1024,
            stack_bytes: 8 << 20,
            open_files: 20,
        };
        assert_eq!(request.limits, expected);
        assert_eq!(request.on_output_limit, OnOutputLimit::Drop);
        assert_eq!(request.ordering, Some(OrderingWish::Arrival));
        assert_eq!(request.flush, Flush::Off);
        assert!(request.strict);
        let plain = asked(&["--", "ls"]).unwrap();
        assert_eq!((plain.limits, plain.ordering, plain.flush), (Limits::default(), None, Flush::Line));
    }

    #[test]
    fn variables_are_given_by_name_or_with_a_value() {
        let request = asked(&["--env", "A=b=c", "--env", "A=", "--env", "PATH", "--", "ls"]).unwrap();
        assert_eq!(request.env[0], ("A".into(), "".into()));
        assert_eq!(request.env[1], ("PATH".into(), std::env::var_os("PATH").unwrap()));
        let request = asked(&["--secret", "PATH", "--", "ls"]).unwrap();
        assert_eq!(request.secrets.len(), 1);
        assert!(!sentence(&["--secret", "KEY=hidden", "--", "ls"]).contains("hidden"));
    }

    #[test]
    fn bad_input_gets_a_sentence_that_names_it() {
        for (words, named) in [
            (&["/no/such.py"][..], "/no/such.py"),
            (&["/"], "/ is a directory"),
            (&["--runtime", "cobol", "-c", "x"], "\"cobol\""),
            (&["--memory", "1k", "--", "ls"], "between 4MiB and 64TiB"),
            (&["--timeout", "soon", "--", "ls"], "\"soon\""),
            (&["--stdin", "/no/such", "--", "ls"], "/no/such for --stdin"),
            (&["--env", "=x", "--", "ls"], "=x has no name"),
            (&["--secret", "LASTWORD_NO_SUCH", "--", "ls"], "LASTWORD_NO_SUCH"),
            (&["--cwd", "tmp", "--", "ls"], "--cwd tmp"),
            (&["--label", "k=\n", "--", "ls"], "label \"k\""),
            (&["--backend", "docker", "--", "ls"], "docker is not available yet"),
            (&["--backend", "moon", "--", "ls"], "\"moon\""),
            (&["--network", "host", "--", "ls"], "host is not available yet"),
            (&["--image", "x", "--", "ls"], "--image is not available yet"),
        ] {
            let sentence = sentence(words);
            assert!(sentence.contains(named), "{words:?}: {sentence}");
        }
    }

    #[test]
    fn missing_and_forbidden_files_have_the_codes_of_a_shell() {
        let code = |words: &[&str]| super::super::message::code_of(&asked(words).err().unwrap());
        assert_eq!(code(&["/no/such.py"]), Some(127));
        assert_eq!(code(&["/"]), Some(126));
        assert_eq!(code(&["--cwd", "x", "--", "ls"]), None);
    }
}

//! The options of `lastword run`, as they were typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use lastword_api::limits::{
    OPEN_FILES_DEFAULT, OPEN_FILES_MAX, OPEN_FILES_MIN, PIDS_DEFAULT, PIDS_MAX, PIDS_MIN,
};

use crate::cli::values;

/// Run a program in a sandbox, pass on what it says, and keep it
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "lastword run [OPTIONS] FILE [ARG]...\n       \
                      lastword run [OPTIONS] --runtime NAME -c CODE [ARG]...\n       \
                      lastword run [OPTIONS] -- COMMAND [ARG]...\n       \
                      lastword run [OPTIONS] --image IMAGE\n       \
                      lastword run [OPTIONS] --request FILE|-",
    after_help = "\
Exit code: the program's own, the compiler's where it said no, and
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
  lastword run --stdin data.txt --env LANG=C --label job=nightly script.sh
  lastword run --dir project --out 'plots/*.png:.' project/main.py
  lastword run --venv ~/numpy --ro ~/data:/data train.py /data
  lastword run --image python.tar -- python3 -V
  lastword run --server https://lastword.example --key job-17 script.py"
)]
pub(crate) struct Args {
    /// The file and its arguments; behind -- a command and its arguments
    #[arg(value_name = "FILE|COMMAND", trailing_var_arg = true,
          required_unless_present_any = ["code", "image", "request"])]
    pub(crate) target: Vec<OsString>,
    /// The code itself; needs --runtime
    #[arg(short, value_name = "CODE", requires = "runtime", allow_hyphen_values = true)]
    pub(crate) code: Option<OsString>,
    /// The whole request as JSON, as the HTTP API takes it; - is stdin
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["target", "code", "runtime", "image"])]
    pub(crate) request: Option<PathBuf>,
    /// What runs it [default: from the file's extension or its #! line]
    #[arg(long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Refuse to run if a limit or the ordering asked for can't be had
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) given: GivenArgs,
    #[command(flatten)]
    pub(crate) capture: CaptureArgs,
    #[command(flatten)]
    pub(crate) keeps: OutArgs,
    #[command(flatten)]
    pub(crate) says: SaysArgs,
    #[command(flatten)]
    pub(crate) later: LaterArgs,
}

/// How much it may use. None of them is the caller's own.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Wall time, 1ms to 7d [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::wall_ms)]
    pub(crate) timeout: Option<u64>,
    /// CPU time of all its processes [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = values::cpu_ms)]
    pub(crate) cpu_time: Option<u64>,
    /// Memory with what it writes to its file system, from 4MiB on [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    pub(crate) memory: Option<u64>,
    /// CPUs' worth of time, like 0.5 [default: no limit]
    #[arg(long, value_name = "N", value_parser = values::cpus)]
    pub(crate) cpus: Option<f64>,
    /// Processes and threads, 1 to 4194304
    #[arg(long, value_name = "N", default_value_t = PIDS_DEFAULT, value_parser = clap::value_parser!(u64).range(PIDS_MIN..=PIDS_MAX))]
    pub(crate) pids: u64,
    /// What is kept of its output [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::output)]
    pub(crate) output_limit: Option<u64>,
    /// What happens when it writes more than that
    #[arg(long, value_enum, default_value_t = OutputLimitArg::Kill)]
    pub(crate) on_output_limit: OutputLimitArg,
    /// What it may keep in its file system, from 64KiB on [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::disk)]
    pub(crate) disk: Option<u64>,
    /// Stack of its main thread, 256KiB to 64GiB [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::stack)]
    pub(crate) stack: Option<u64>,
    /// Open files of one process, 16 to 1048576
    #[arg(long, value_name = "N", default_value_t = OPEN_FILES_DEFAULT, value_parser = clap::value_parser!(u64).range(OPEN_FILES_MIN..=OPEN_FILES_MAX))]
    pub(crate) open_files: u64,
}

/// What it is given.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input")]
pub(crate) struct GivenArgs {
    /// What it reads on stdin; - is our own [default: nothing]
    #[arg(long, value_name = "FILE|-")]
    pub(crate) stdin: Option<PathBuf>,
    /// Copy a file into the sandbox, into /work unless DST says where
    #[arg(long, value_name = "SRC[:DST]")]
    pub(crate) file: Vec<OsString>,
    /// Copy all that is in a directory into /work
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Vec<PathBuf>,
    /// Show a file or directory in the sandbox, read-only and without copying it
    #[arg(long, value_name = "SRC[:DST]")]
    pub(crate) ro: Vec<OsString>,
    /// Run with this Python virtual environment
    #[arg(long, value_name = "DIR")]
    pub(crate) venv: Option<PathBuf>,
    /// A flag for the compiler, like --compile-flag=-std=c++20
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) compile_flag: Vec<OsString>,
    /// Set a variable; KEY alone takes the value from our environment
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<OsString>,
    /// Set a variable to its value in our environment, and never show that value
    #[arg(long, value_name = "KEY")]
    pub(crate) secret: Vec<OsString>,
    /// Directory in the sandbox to start in
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// A label to find the execution by
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::label)]
    pub(crate) label: Vec<(String, String)>,
}

/// How its output is captured.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Capture")]
pub(crate) struct CaptureArgs {
    /// Give it a terminal; the transcript then has one stream
    #[arg(long)]
    pub(crate) tty: bool,
    /// exact: the order of its writes; arrival: cheaper for programs that write a lot [default: exact if it can be had]
    #[arg(long, value_enum)]
    pub(crate) ordering: Option<OrderingArg>,
    /// When its own buffers go out, where the runtime can be helped
    #[arg(long, value_enum, default_value_t = FlushArg::Line)]
    pub(crate) flush: FlushArg,
}

/// What is kept of its files.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Files out")]
pub(crate) struct OutArgs {
    /// Keep the files that match GLOB (like plots/*.png or out/**), and copy them to DIR
    #[arg(long, value_name = "GLOB:DIR")]
    pub(crate) out: Vec<OsString>,
}

/// What we say.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct SaysArgs {
    /// Print one execution object instead of the program's output
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing of our own, not even why the exit code is 125, 126 or 127
    #[arg(long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Put the time and the stream's name before each line
    #[arg(long, conflicts_with = "json")]
    pub(crate) timestamps: bool,
    /// Say the id and a one-line summary on stderr
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// What the interface promises and this version has only in part.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct LaterArgs {
    /// What isolates and runs it: native
    #[arg(long, default_value = "native")]
    pub(crate) backend: String,
    /// Network that it can reach: none
    #[arg(long, default_value = "none")]
    pub(crate) network: String,
    /// Root of the sandbox: a registry's image, a file of docker save, or an OCI layout [default: this machine's /usr]
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// When the registry is asked for the image
    #[arg(long, value_enum, default_value_t = PullArg::Missing)]
    pub(crate) pull: PullArg,
    #[arg(long, hide = true)]
    pub(crate) container_runtime: Option<OsString>,
    /// With --server: the same key and request give the same execution, for 24 hours [default: one of its own]
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OutputLimitArg {
    Kill,
    Drop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OrderingArg {
    Exact,
    Arrival,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PullArg {
    /// if it isn't here
    Missing,
    /// every time: a tag may mean another image now
    Always,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FlushArg {
    Line,
    Unbuffered,
    Off,
}

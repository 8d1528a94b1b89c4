//! From what was typed to a request, with a sentence for everything that can't be.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use lastword_api::limits::{
    DISK_BYTES_DEFAULT, MEMORY_BYTES_DEFAULT, OUTPUT_BYTES_DEFAULT, STACK_BYTES_DEFAULT, WALL_MS_DEFAULT,
};
use lastword_api::{Limits, check_labels};

use super::args::{Args, FlushArg, LaterArgs, LimitArgs, OrderingArg, OutputLimitArg};
use crate::cli::exit;
use crate::cli::message::{Advice, AdviceError};
use crate::execution::Request;
use crate::execution::request::{Flush, OnOutputLimit, OrderingWish, Program, Stdin};
use crate::runtime::{self, Runtime, Selected};

/// Bytes of a program that is given as a file.
const CODE_BYTES_MAX: u64 = 256 << 20;

/// Whether the last `count` words of the command line stand behind a `--`. clap takes it away, and it decides
/// between a file and a command. Those words are always the last ones, for nothing may follow them.
pub(crate) fn stands_behind_dashes(words: impl Iterator<Item = OsString>, count: usize) -> bool {
    let words: Vec<OsString> = words.collect();
    let before = words.len().checked_sub(count + 1).and_then(|at| words.get(at));
    count > 0 && before.is_some_and(|word| word == "--")
}

pub(crate) fn request(args: &Args, after_dashes: bool) -> anyhow::Result<Request> {
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
        let code = |words: &[&str]| crate::cli::message::code_of(&asked(words).err().unwrap());
        assert_eq!(code(&["/no/such.py"]), Some(127));
        assert_eq!(code(&["/"]), Some(126));
        assert_eq!(code(&["--cwd", "x", "--", "ls"]), None);
    }
}

//! From what was typed to a request, with a sentence for everything that can't be.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use lastword_api::limits::{
    DISK_BYTES_DEFAULT, MEMORY_BYTES_DEFAULT, OUTPUT_BYTES_DEFAULT, STACK_BYTES_DEFAULT, WALL_MS_DEFAULT,
};
use lastword_api::path::{WORK, file_path, glob_path};
use lastword_api::request::REQUEST_BYTES_MAX;
use lastword_api::{Limits, NewExecution, check_labels};

use super::args::{Args, FlushArg, LaterArgs, LimitArgs, OrderingArg, OutputLimitArg, PullArg};
use super::files::{self, Collected};
use super::venv;
use crate::cli::exit;
use crate::cli::message::{Advice, AdviceError};
use crate::client::{self, NotForServers};
use crate::execution::Request;
use crate::execution::new::check_places;
use crate::execution::request::{Flush, OnOutputLimit, OrderingWish, Program, Pull, Stdin};
use crate::runtime::{self, Runtime, Selected};

/// Whether the last `count` words of the command line stand behind a `--`. clap takes it away, and it decides
/// between a file and a command. Those words are always the last ones, for nothing may follow them.
pub(crate) fn stands_behind_dashes(words: impl Iterator<Item = OsString>, count: usize) -> bool {
    let words: Vec<OsString> = words.collect();
    let before = words.len().checked_sub(count + 1).and_then(|at| words.get(at));
    count > 0 && before.is_some_and(|word| word == "--")
}

pub(crate) fn request(args: &Args, after_dashes: bool) -> anyhow::Result<Request> {
    if args.later.key.is_some() {
        bail!("--key needs --server: only a server remembers keys");
    }
    refuse_later(&args.later)?;
    let mut request = match &args.request {
        Some(path) => from_json(path)?,
        None => typed(args, after_dashes)?,
    };
    request.pull = match args.later.pull {
        PullArg::Missing => Pull::Missing,
        PullArg::Always => Pull::Always,
    };
    share(&mut request, &args.given.ro, args.given.venv.as_deref())?;
    for out in outs(&args.keeps.out)? {
        request.outputs.push(out.glob);
    }
    Ok(request)
}

/// What the program can read of this machine: never a request's own wish, always an option.
pub(crate) fn share(request: &mut Request, ro: &[OsString], venv: Option<&Path>) -> anyhow::Result<()> {
    for given in ro {
        request.read_only.push(files::shared(given)?);
    }
    if let Some(dir) = venv {
        venv::enter(request, dir)?;
    }
    Ok(())
}

/// The same for a server: the request as it is sent, and our end of its stdin.
pub(crate) fn for_server(args: &Args, after_dashes: bool) -> anyhow::Result<(NewExecution, Option<OwnedFd>)> {
    refuse_later(&args.later)?;
    // Before anything is read: what is shared may be large, and not there.
    let shares = [("--ro", !args.given.ro.is_empty()), ("--venv", args.given.venv.is_some())];
    if let Some((what, _)) = shares.into_iter().find(|(_, given)| *given) {
        return Err(not_for_servers(NotForServers::Shared { what }));
    }
    if matches!(args.later.pull, PullArg::Always) {
        return Err(not_for_servers(NotForServers::Pull));
    }
    let mut stdin = None;
    let mut new = match &args.request {
        Some(path) => read_json(path)?.0,
        None => {
            let mut request = typed(args, after_dashes)?;
            if let Stdin::Fd(fd) = std::mem::replace(&mut request.stdin, Stdin::Nothing) {
                stdin = Some(fd);
            }
            client::new_execution(request).map_err(not_for_servers)?
        }
    };
    client::check_image(new.image.as_deref()).map_err(not_for_servers)?;
    for out in outs(&args.keeps.out)? {
        new.outputs.push(String::from_utf8(out.glob).context("a pattern of --out is no UTF-8")?);
    }
    Ok((new, stdin))
}

fn not_for_servers(refused: NotForServers) -> anyhow::Error {
    let hint = refused.hint();
    anyhow::Error::new(refused).with_hint(hint).with_code(exit::USAGE)
}

/// The request as the options say it.
fn typed(args: &Args, after_dashes: bool) -> anyhow::Result<Request> {
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
    let mut collected = Collected::default();
    for dir in &args.given.dir {
        collected.directory(dir)?;
    }
    for file in &args.given.file {
        collected.file(file)?;
    }
    let (program, runtime, program_args) = program(args, chosen, after_dashes, &mut collected)?;
    check_places(&collected.files).map_err(|(n, why)| {
        anyhow!("the path {} {why}", String::from_utf8_lossy(&collected.files[n].path).escape_debug())
    })?;
    Ok(Request {
        runtime,
        args: program_args,
        files: collected.files,
        stdin: stdin(args.given.stdin.as_deref())?,
        env: variables(&args.given.env)?,
        secrets: secrets(&args.given.secret)?,
        cwd: args.given.cwd.clone().map(absolute).transpose()?,
        image: args.later.image.clone(),
        compile_flags: args.given.compile_flag.clone(),
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
        ..Request::new(program)
    })
}

/// The request that a file, or our stdin, holds as JSON.
fn from_json(path: &Path) -> anyhow::Result<Request> {
    let (new, name) = read_json(path)?;
    Request::from_new(new).with_context(|| format!("the request in {name} can't be taken")).code(exit::USAGE)
}

/// The request, checked for what can be known without a look at any machine, and where it comes from.
fn read_json(path: &Path) -> anyhow::Result<(NewExecution, String)> {
    let name = if path == Path::new("-") { "stdin".into() } else { path.display().to_string() };
    let read = |from: &mut dyn Read| -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        from.take(REQUEST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match name.as_str() {
        "stdin" => read(&mut std::io::stdin().lock()),
        _ => File::open(path).and_then(|mut file| read(&mut file)),
    };
    let bytes = bytes.with_context(|| format!("cannot read the request from {name}")).code(exit::USAGE)?;
    if bytes.len() as u64 > REQUEST_BYTES_MAX {
        return Err(anyhow!("the request in {name} is longer than {REQUEST_BYTES_MAX} bytes"))
            .code(exit::USAGE);
    }
    let new: NewExecution = serde_json::from_slice(&bytes)
        .with_context(|| format!("the request in {name} is not one"))
        .code(exit::USAGE)?;
    new.check().with_context(|| format!("the request in {name} can't be taken")).code(exit::USAGE)?;
    Ok((new, name))
}

/// One `--out GLOB:DIR`.
pub(crate) struct Out {
    pub(crate) glob: Vec<u8>,
    pub(crate) dir: PathBuf,
}

pub(crate) fn outs(given: &[OsString]) -> anyhow::Result<Vec<Out>> {
    given
        .iter()
        .map(|text| {
            let bytes = text.as_bytes();
            let at = bytes.iter().rposition(|byte| *byte == b':').filter(|at| *at + 1 < bytes.len());
            let at = at
                .ok_or_else(|| anyhow!("--out {} names no directory", text.display()))
                .hint("write --out 'GLOB:DIR', like --out 'plots/*.png:.'")?;
            let glob = glob_path(&bytes[..at])
                .map_err(|error| anyhow!("the pattern of --out {} {error}", text.display()))?;
            Ok(Out { glob, dir: OsStr::from_bytes(&bytes[at + 1..]).into() })
        })
        .collect()
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
    match later.container_runtime {
        Some(_) => bail!("--container-runtime is not available yet in this version"),
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

/// What to run, with which runtime and arguments. The program itself becomes one of the files.
fn program(
    args: &Args,
    chosen: Option<&'static Runtime>,
    after_dashes: bool,
    collected: &mut Collected,
) -> anyhow::Result<(Program, Option<Runtime>, Vec<OsString>)> {
    if let (Some(code), Some(runtime)) = (&args.code, chosen) {
        let Request { program, files, .. } = Request::code(runtime, code.as_bytes().to_vec());
        collected.files.extend(files);
        return Ok((program, chosen.cloned(), args.target.clone()));
    }
    let Some((first, rest)) = args.target.split_first() else {
        if args.later.image.is_some() && chosen.is_none() {
            return Ok((Program::Image, None, Vec::new()));
        }
        bail!("there is nothing to run")
    };
    // A runtime runs files: with --runtime, -- only ends the options.
    if after_dashes && chosen.is_none() {
        return Ok((Program::Command { argv: args.target.clone() }, None, Vec::new()));
    }
    let path = PathBuf::from(first);
    let at = match among(&path, &args.given.dir) {
        Some(target) if collected.files.iter().any(|file| file.path == target) => target,
        _ => {
            let file = open_program(&path)?;
            let name = path.file_name().unwrap_or(OsStr::new("main"));
            let target = [WORK.as_bytes(), b"/", name.as_bytes()].concat();
            collected.add(&path, file, target.clone())?;
            target
        }
    };
    let Some(entry) = collected.files.iter_mut().find(|file| file.path == at) else {
        bail!("there is nothing to run")
    };
    let runtime = match chosen {
        Some(runtime) => Some(runtime.clone()),
        None => match runtime::for_file(&path, &entry.bytes).hint(undecided_hint())? {
            Selected::Runtime(runtime) => Some(*runtime),
            Selected::AsItIs => {
                entry.mode = 0o755;
                None
            }
        },
    };
    Ok((Program::Entry { path: at }, runtime, rest.to_vec()))
}

/// The path in the sandbox of a program that lies in one of the directories of --dir, by its own path or by one below there.
fn among(path: &Path, dirs: &[PathBuf]) -> Option<Vec<u8>> {
    dirs.iter().find_map(|dir| {
        let root = std::fs::canonicalize(dir).ok()?;
        let real = std::fs::canonicalize(path)
            .ok()
            .filter(|real| real.starts_with(&root))
            .or_else(|| std::fs::canonicalize(root.join(path)).ok())?;
        file_path(real.strip_prefix(&root).ok()?.as_os_str().as_bytes()).ok()
    })
}

fn undecided_hint() -> String {
    format!("name it with --runtime, one of {}; a command goes behind --", runtime::names())
}

fn open_program(path: &Path) -> anyhow::Result<File> {
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
    Ok(file)
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
        assert_eq!(request.runtime.as_ref().unwrap().name, "python");
        let entry = request.entry().unwrap();
        assert_eq!((&entry.path[..], &entry.bytes[..]), (&b"/work/a.py"[..], &b"print(1)"[..]));
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
        let entry = request.entry().unwrap();
        assert_eq!((&entry.path[..], &entry.bytes[..]), (&b"/work/main.py"[..], &b"-1"[..]));
        assert_eq!(request.args, ["a", "b"]);
        assert!(sentence(&["-c", "1"]).contains("--runtime"));
    }

    #[test]
    fn dashes_after_a_runtime_only_end_the_options() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let request = asked(&["--runtime", "sh", "--", file.path().to_str().unwrap()]).unwrap();
        assert!(matches!(request.program, Program::Entry { .. }));
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
            (&["--out", "x", "--", "ls"], "--out x names no directory"),
            (&["--out", "/etc/*:.", "--", "ls"], "is not below /work"),
            (&["--file", "/no/such", "--", "ls"], "cannot read /no/such"),
            (&["--file", "/etc/passwd:../x", "--", "ls"], "has a name . or .."),
            (&["--dir", "/etc/passwd", "--", "ls"], "not a directory"),
            (&["--ro", "/no/such", "--", "ls"], "cannot read /no/such"),
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

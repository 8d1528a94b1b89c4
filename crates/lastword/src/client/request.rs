//! From a request of the command line to one that a server takes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use lastword_api::encoding::{Encoding, output_text};
use lastword_api::path::WORK;
use lastword_api::request::{Base64, Flush, InputFile, NewLimits, Stdin};
use lastword_api::{Limits, NewExecution, Ordering};

use crate::execution::Request;
use crate::execution::images::ImageName;
use crate::execution::request::{self, OrderingWish, Program, Pull};

/// What a server can't be asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotForServers {
    #[error("{what} of this machine can't be seen by the server")]
    Shared { what: &'static str },
    #[error("the image {name} is a path of this machine, which the server can't see")]
    ImagePath { name: String },
    #[error("a server pulls an image only if it isn't there: --pull always can't be asked of it")]
    Pull,
    #[error("{what} \"{text}\" is no UTF-8, and a server takes nothing else")]
    NotText { what: &'static str, text: String },
}

impl NotForServers {
    /// What to do instead.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            NotForServers::Shared { .. } => {
                "copy what it needs with --file or --dir, or run it in this process, without --server"
            }
            NotForServers::ImagePath { .. } => {
                "name an image of a registry, or run it in this process, without --server"
            }
            NotForServers::Pull | NotForServers::NotText { .. } => "run it in this process, without --server",
        }
    }
}

/// The request without its stdin.
pub(crate) fn new_execution(request: Request) -> Result<NewExecution, NotForServers> {
    if !request.read_only.is_empty() {
        return Err(NotForServers::Shared { what: "what --ro and --venv share" });
    }
    if request.pull != Pull::Missing {
        return Err(NotForServers::Pull);
    }
    check_image(request.image.as_deref())?;
    let args = texts("the argument", &request.args)?;
    let is_32_bit = request.entry().is_some_and(|file| file.bytes.starts_with(b"\x7fELF\x01"));
    let mut new = NewExecution {
        files: request.files.iter().map(file).collect::<Result<_, _>>()?,
        env: pairs("the variable", &request.env)?,
        secrets: pairs("the secret", &request.secrets)?,
        cwd: request.cwd.as_ref().map(|cwd| text("the directory", cwd.as_os_str())).transpose()?,
        image: request.image,
        outputs: request
            .outputs
            .iter()
            .map(|glob| bytes_text("the pattern", glob))
            .collect::<Result<_, _>>()?,
        compile_flags: texts("the flag", &request.compile_flags)?,
        labels: request.labels,
        limits: limits(&request.limits),
        on_output_limit: Some(request.on_output_limit),
        tty: request.tty,
        ordering: request.ordering.map(|wish| match wish {
            OrderingWish::Exact => Ordering::Exact,
            OrderingWish::Arrival => Ordering::Arrival,
        }),
        // A 32-bit program can't load a 64-bit helper library.
        flush: Some(if is_32_bit { Flush::Off } else { request.flush }),
        strict: request.strict,
        ..NewExecution::default()
    };
    match (request.program, request.runtime) {
        (Program::Command { argv }, _) => new.command = Some(texts("the argument", &argv)?),
        (Program::Image, _) => new.args = args,
        (Program::Entry { path }, Some(runtime)) => {
            (new.runtime, new.args) = (Some(runtime.name), args);
            new.entry = Some(bytes_text("the path", &path)?);
        }
        // What the kernel knows how to run is a command that comes along.
        (Program::Entry { path }, None) => {
            let argv = std::iter::once(bytes_text("the path", &path)?).chain(args).collect();
            new.command = Some(argv);
            new.cwd.get_or_insert_with(|| WORK.to_owned());
        }
    }
    Ok(new)
}

/// A server reads no file of its own machine for anybody, and none of ours.
pub(crate) fn check_image(image: Option<&str>) -> Result<(), NotForServers> {
    match image.map(|name| (name, ImageName::parse(name))) {
        Some((name, ImageName::Path { .. })) => Err(NotForServers::ImagePath { name: name.to_owned() }),
        _ => Ok(()),
    }
}

/// Stdin that goes with the request.
pub(crate) fn stdin(bytes: &[u8]) -> Stdin {
    match output_text(bytes) {
        (text, Encoding::Utf8) => Stdin::Text(text),
        (base64, Encoding::Base64) => Stdin::Bytes(Base64 { base64 }),
    }
}

fn file(file: &request::InputFile) -> Result<InputFile, NotForServers> {
    let path = bytes_text("the path", &file.path)?;
    let (text, base64) = match output_text(&file.bytes) {
        (text, Encoding::Utf8) => (Some(text), None),
        (base64, Encoding::Base64) => (None, Some(base64)),
    };
    Ok(InputFile { path, text, base64, mode: Some(file.mode) })
}

fn limits(limits: &Limits) -> NewLimits {
    NewLimits {
        wall_ms: Some(limits.wall_ms),
        cpu_ms: limits.cpu_ms,
        memory_bytes: Some(limits.memory_bytes),
        pids: Some(limits.pids),
        cpus: limits.cpus,
        disk_bytes: Some(limits.disk_bytes),
        output_bytes: Some(limits.output_bytes),
        stack_bytes: Some(limits.stack_bytes),
        open_files: Some(limits.open_files),
    }
}

fn bytes_text(what: &'static str, bytes: &[u8]) -> Result<String, NotForServers> {
    let not_text = |_| NotForServers::NotText { what, text: bytes.escape_ascii().to_string() };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(not_text)
}

fn text(what: &'static str, text: &OsStr) -> Result<String, NotForServers> {
    bytes_text(what, text.as_encoded_bytes())
}

fn texts(what: &'static str, all: &[OsString]) -> Result<Vec<String>, NotForServers> {
    all.iter().map(|one| text(what, one)).collect()
}

fn pairs(
    what: &'static str,
    all: &[(OsString, OsString)],
) -> Result<BTreeMap<String, String>, NotForServers> {
    let one = |(name, value): &(OsString, OsString)| {
        let name = text(what, name)?;
        // The value may be a secret: the name has to do.
        let value = value.to_str().ok_or_else(|| NotForServers::NotText { what, text: name.clone() })?;
        Ok((name, value.to_owned()))
    };
    all.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::runtime;

    fn of(change: impl FnOnce(&mut Request)) -> Result<NewExecution, NotForServers> {
        let mut request = Request::code(runtime::by_name("python").unwrap(), b"print(1)".to_vec());
        change(&mut request);
        new_execution(request)
    }

    #[test]
    fn code_and_its_surroundings_come_along() {
        let new = of(|request| request.env = vec![("A".into(), "b".into())]).unwrap();
        new.check().unwrap();
        assert_eq!((new.runtime.as_deref(), new.entry.as_deref()), (Some("python"), Some("/work/main.py")));
        let taken = Request::from_new(new).unwrap();
        assert_eq!(taken.entry().unwrap().bytes, b"print(1)");
        assert_eq!(taken.env, [("A".into(), "b".into())]);
        assert_eq!(taken.limits, Limits::default());
    }

    #[test]
    fn a_file_that_is_run_as_it_is_becomes_a_command() {
        let new = of(|request| {
            request.runtime = None;
            request.args = vec!["-x".into()];
            request.files[0].bytes = b"\x7fELF\x01\xff".to_vec();
        })
        .unwrap();
        assert_eq!(new.command.as_deref(), Some(&["/work/main.py".to_owned(), "-x".to_owned()][..]));
        assert_eq!((new.cwd.as_deref(), new.flush), (Some("/work"), Some(Flush::Off)));
        assert!(new.files[0].base64.is_some());
    }

    #[test]
    fn what_a_server_cannot_do_is_refused() {
        let shared = request::Shared { source: "/x".into(), path: "/x".into(), directory: false };
        assert!(matches!(of(|request| request.read_only.push(shared)), Err(NotForServers::Shared { .. })));
        assert_eq!(of(|request| request.pull = Pull::Always).unwrap_err(), NotForServers::Pull);
        for image in ["/x", "./x.tar", "oci:x"] {
            let refused = of(|request| request.image = Some(image.into())).unwrap_err();
            assert_eq!(refused, NotForServers::ImagePath { name: image.into() });
        }
        let refused = of(|request| request.args.push(OsString::from_vec(vec![0xff]))).unwrap_err();
        assert!(refused.to_string().contains("\"\\xff\" is no UTF-8"), "{refused}");
        let secret = (OsString::from("K"), OsString::from_vec(b"hidden\xff".to_vec()));
        let refused = of(|request| request.secrets.push(secret)).unwrap_err();
        assert!(!refused.to_string().contains("hidden"), "{refused}");
    }
}

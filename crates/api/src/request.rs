//! A request to run code, as JSON: the body of `POST /v1/executions`, a row of a batch, and what `run --request` reads.
//!
//! Everything in it is a client's: [`NewExecution::check`] names the field that is wrong. Nothing in it can name a path of
//! the host, but `image`, where the one who takes the request lets it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use crate::bounded::{list, list_or_null, map, object, objects, secrets};
use crate::encoding::{Encoding, output_bytes};
use crate::execution::{Backend, Ordering};
use crate::label::{LABELS_MAX, check_labels};
use crate::limits::Limits;
use crate::path::{any_path, file_path, glob_path};

/// Files of one request.
pub const FILES_MAX: usize = 100_000;
/// Bytes of all files, the code and stdin together: they cross a socket to the supervisor in one piece.
pub const INPUT_BYTES_MAX: u64 = 192 << 20;
/// Bytes of a request as JSON: base64 takes a third more than its bytes, escapes take more.
pub const REQUEST_BYTES_MAX: u64 = 2 * INPUT_BYTES_MAX;
/// Patterns of output files.
pub const OUTPUTS_MAX: usize = 64;
/// Arguments and variables, and the bytes of each.
pub const ARGS_MAX: usize = 10_000;
pub const ENV_MAX: usize = 1_000;
/// The kernel takes at most 128 KiB in one argument or variable (MAX_ARG_STRLEN of execve(2)).
pub const ARG_BYTES_MAX: usize = 128 * 1024 - 1;
/// Bytes of all arguments and variables together: the kernel's own limit depends on the stack limit.
pub const ARGS_BYTES_MAX: usize = 1 << 20;
pub const COMPILE_FLAGS_MAX: usize = 100;
/// Bytes of an image's name or path (PATH_MAX of limits.h), and of a runtime's name.
pub const IMAGE_BYTES_MAX: usize = 4096;
pub const RUNTIME_BYTES_MAX: usize = 64;
/// Of what waits, the higher goes first.
pub const PRIORITY_MIN: i32 = -100;
pub const PRIORITY_MAX: i32 = 100;

/// A request to run code.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewExecution {
    pub runtime: Option<String>,
    /// A command of the sandbox as it is, instead of a runtime.
    #[serde(deserialize_with = "list_or_null::<_, _, ARGS_MAX>")]
    pub command: Option<Vec<String>>,
    #[serde(deserialize_with = "list::<_, _, ARGS_MAX>")]
    pub args: Vec<String>,
    pub code: Option<String>,
    #[serde(deserialize_with = "objects::<_, _, FILES_MAX>")]
    pub files: Vec<InputFile>,
    /// Which of `files` is the program; needed if there are several and none has the runtime's own name.
    pub entry: Option<String>,
    pub cwd: Option<String>,
    pub image: Option<String>,
    pub backend: Option<Backend>,
    pub network: Option<Network>,
    pub stdin: Option<Stdin>,
    /// More stdin may follow behind `stdin` until somebody closes it.
    pub stdin_open: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "map::<_, ENV_MAX>")]
    pub env: BTreeMap<String, String>,
    /// Variables whose values are never returned, listed, logged or exported.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "secrets::<_, ENV_MAX>")]
    pub secrets: BTreeMap<String, String>,
    /// Patterns of files to keep after the end.
    #[serde(deserialize_with = "list::<_, _, OUTPUTS_MAX>")]
    pub outputs: Vec<String>,
    #[serde(deserialize_with = "map::<_, LABELS_MAX>")]
    pub labels: BTreeMap<String, String>,
    /// While it waits: higher goes first [default: 0].
    pub priority: Option<i32>,
    pub tty: bool,
    pub ordering: Option<Ordering>,
    pub on_output_limit: Option<OnOutputLimit>,
    pub flush: Option<Flush>,
    /// Refuse to run if a limit or the ordering asked for can't be had.
    pub strict: bool,
    /// For the compiler, before the source files.
    #[serde(deserialize_with = "list::<_, _, COMPILE_FLAGS_MAX>")]
    pub compile_flags: Vec<String>,
    #[serde(deserialize_with = "object")]
    pub limits: NewLimits,
}

/// Without the fields: secrets must not reach a log.
impl fmt::Debug for NewExecution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewExecution").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// A file for the sandbox. Exactly one of `text` and `base64` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Relative to the working directory /work, or below /work, /tmp or /var/tmp.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Permission bits, 0 to 0o777 [default: 0o644].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// What the program reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stdin {
    Text(String),
    Bytes(Base64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Base64 {
    pub base64: String,
}

/// Not derived: to tell one from the other serde would first keep the whole value, at many times its length.
impl<'de> Deserialize<'de> for Stdin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextOrBytes;

        impl<'de> Visitor<'de> for TextOrBytes {
            type Value = Stdin;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a text, or base64 in a map")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Stdin, E> {
                Ok(Stdin::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Stdin, E> {
                Ok(Stdin::Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<Stdin, A::Error> {
                Base64::deserialize(MapAccessDeserializer::new(from)).map(Stdin::Bytes)
            }
        }

        from.deserialize_any(TextOrBytes)
    }
}

/// What network the program can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    None,
}

/// What happens when the program writes more than its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOutputLimit {
    #[default]
    Kill,
    /// It runs on; what is over the limit is counted and dropped.
    Drop,
}

/// When the program's own buffers should go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flush {
    /// At each line end.
    #[default]
    Line,
    /// At each write of the program.
    Unbuffered,
    /// As the program would by itself.
    Off,
}

/// Limits that were asked for; the others have their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewLimits {
    pub wall_ms: Option<u64>,
    pub cpu_ms: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
    pub cpus: Option<f64>,
    pub disk_bytes: Option<u64>,
    pub output_bytes: Option<u64>,
    pub stack_bytes: Option<u64>,
    pub open_files: Option<u64>,
}

impl NewLimits {
    pub fn over(&self, defaults: &Limits) -> Limits {
        Limits {
            wall_ms: self.wall_ms.unwrap_or(defaults.wall_ms),
            cpu_ms: self.cpu_ms.or(defaults.cpu_ms),
            memory_bytes: self.memory_bytes.unwrap_or(defaults.memory_bytes),
            pids: self.pids.unwrap_or(defaults.pids),
            cpus: self.cpus.or(defaults.cpus),
            disk_bytes: self.disk_bytes.unwrap_or(defaults.disk_bytes),
            output_bytes: self.output_bytes.unwrap_or(defaults.output_bytes),
            stack_bytes: self.stack_bytes.unwrap_or(defaults.stack_bytes),
            open_files: self.open_files.unwrap_or(defaults.open_files),
        }
    }
}

/// A field that can't be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct FieldError {
    /// Like `files[3].path`.
    pub field: String,
    /// The rest of the sentence.
    pub message: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        FieldError { field: field.into(), message: message.into() }
    }
}

impl InputFile {
    /// The file's bytes; `None` if not exactly one of `text` and `base64` is set, or the base64 is not valid.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.text, &self.base64) {
            (Some(text), None) => Some(text.as_bytes().to_vec()),
            (None, Some(base64)) => output_bytes(base64, Encoding::Base64),
            _ => None,
        }
    }

    fn encoded_len(&self) -> u64 {
        let len = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() as u64);
        len(&self.text) + len(&self.base64)
    }
}

impl Stdin {
    /// `None` if the base64 is not valid.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Stdin::Text(text) => Some(text.as_bytes().to_vec()),
            Stdin::Bytes(Base64 { base64 }) => output_bytes(base64, Encoding::Base64),
        }
    }
}

impl NewExecution {
    /// Checks all that can be known without looking at this machine: shapes, sizes, names.
    pub fn check(&self) -> Result<(), FieldError> {
        self.check_program()?;
        self.check_files()?;
        if self.args.len() > ARGS_MAX {
            return Err(FieldError::new("args", format!("has more than {ARGS_MAX} entries")));
        }
        let command = self.command.iter().flatten().map(|arg| ("command", arg));
        let args = self.args.iter().map(|arg| ("args", arg));
        let flags = self.compile_flags.iter().map(|flag| ("compile_flags", flag));
        let mut total = 0;
        for (field, arg) in command.chain(args).chain(flags) {
            check_text(field, arg)?;
            total += arg.len();
        }
        self.check_variables(&mut total)?;
        if total > ARGS_BYTES_MAX {
            return Err(FieldError::new("args", format!("and env take more than {ARGS_BYTES_MAX} bytes")));
        }
        if self.compile_flags.len() > COMPILE_FLAGS_MAX {
            let message = format!("has more than {COMPILE_FLAGS_MAX} entries");
            return Err(FieldError::new("compile_flags", message));
        }
        if self.outputs.len() > OUTPUTS_MAX {
            return Err(FieldError::new("outputs", format!("has more than {OUTPUTS_MAX} entries")));
        }
        for (n, glob) in self.outputs.iter().enumerate() {
            glob_path(glob.as_bytes())
                .map_err(|error| FieldError::new(format!("outputs[{n}]"), error.to_string()))?;
        }
        if let Some(cwd) = &self.cwd {
            any_path(cwd.as_bytes()).map_err(|error| FieldError::new("cwd", error.to_string()))?;
        }
        if let Some(priority) = self.priority.filter(|of| !(PRIORITY_MIN..=PRIORITY_MAX).contains(of)) {
            let message = format!("is {priority}: it must be between {PRIORITY_MIN} and {PRIORITY_MAX}");
            return Err(FieldError::new("priority", message));
        }
        check_labels(&self.labels)
            .map_err(|error| FieldError::new("labels", format!("are wrong: {error}")))?;
        self.limits.over(&Limits::default()).check().map_err(|error| {
            let message = format!("is {}: it must be between {} and {}", error.value, error.min, error.max);
            FieldError::new(format!("limits.{}", error.name.field()), message)
        })
    }

    fn check_program(&self) -> Result<(), FieldError> {
        let wrong = |field: &str, message: &str| Err(FieldError::new(field, message));
        // Both are said in messages, and an image's name is kept with the execution.
        if self.image.as_ref().is_some_and(|image| image.len() > IMAGE_BYTES_MAX || image.contains('\0')) {
            return wrong("image", "is too long or holds a NUL byte");
        }
        if self.runtime.as_ref().is_some_and(|runtime| runtime.len() > RUNTIME_BYTES_MAX) {
            return wrong("runtime", "is too long");
        }
        match (&self.runtime, &self.command) {
            (Some(_), Some(_)) => return wrong("command", "can't be given together with runtime"),
            (None, None) if self.image.is_none() => return wrong("runtime", "is missing, and so is command"),
            (None, Some(command)) if command.is_empty() => return wrong("command", "is empty"),
            (None, Some(command)) if command.len() > ARGS_MAX => return wrong("command", "is too long"),
            (None, Some(_)) if !self.args.is_empty() => {
                return wrong("args", "belong to a runtime; a command has all of its words itself");
            }
            (None, _) if self.code.is_some() => return wrong("code", "needs a runtime"),
            (None, _) if self.entry.is_some() => return wrong("entry", "needs a runtime"),
            (Some(_), None) if self.code.is_none() && self.files.is_empty() => {
                return wrong("code", "is missing, and there are no files");
            }
            _ => {}
        }
        if self.code.is_some() && self.entry.is_some() {
            return wrong("entry", "can't be given together with code");
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), FieldError> {
        if self.files.len() > FILES_MAX {
            return Err(FieldError::new("files", format!("has more than {FILES_MAX} entries")));
        }
        let mut bytes = self.code.as_ref().map_or(0, |code| code.len() as u64);
        for (n, file) in self.files.iter().enumerate() {
            let wrong =
                |part: &str, message: String| Err(FieldError::new(format!("files[{n}]{part}"), message));
            if let Err(error) = file_path(file.path.as_bytes()) {
                return wrong(".path", error.to_string());
            }
            if file.text.is_some() == file.base64.is_some() {
                return wrong("", "needs exactly one of text and base64".into());
            }
            if file.mode.is_some_and(|mode| mode > 0o777) {
                return wrong(".mode", "is more than the permission bits (0 to 511)".into());
            }
            bytes += file.encoded_len();
        }
        bytes += match &self.stdin {
            Some(Stdin::Text(text)) => text.len() as u64,
            Some(Stdin::Bytes(Base64 { base64 })) => base64.len() as u64,
            None => 0,
        };
        if bytes > INPUT_BYTES_MAX {
            let message = format!("take {bytes} bytes with code and stdin, at most {INPUT_BYTES_MAX} can be");
            return Err(FieldError::new("files", message));
        }
        Ok(())
    }

    fn check_variables(&self, total: &mut usize) -> Result<(), FieldError> {
        let env = self.env.iter().map(|variable| ("env", variable));
        let secrets = self.secrets.iter().map(|variable| ("secrets", variable));
        if self.env.len() + self.secrets.len() > ENV_MAX {
            return Err(FieldError::new("env", format!("has more than {ENV_MAX} entries")));
        }
        for (field, (name, value)) in env.chain(secrets) {
            if name.is_empty() || name.contains('=') || name.contains('\0') {
                return Err(FieldError::new(field, format!("has a bad name {name:?}")));
            }
            // The value itself may be secret: only its name is said.
            if value.contains('\0') || value.len() > ARG_BYTES_MAX {
                let message = format!("has a value for {name:?} that is too long or holds a NUL byte");
                return Err(FieldError::new(field, message));
            }
            *total += name.len() + value.len() + 2;
        }
        Ok(())
    }
}

fn check_text(field: &str, text: &str) -> Result<(), FieldError> {
    if text.contains('\0') {
        return Err(FieldError::new(field, "hold a NUL byte"));
    }
    if text.len() > ARG_BYTES_MAX {
        return Err(FieldError::new(field, format!("hold one of more than {ARG_BYTES_MAX} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<NewExecution, String> {
        let request: NewExecution = serde_json::from_str(json).map_err(|error| error.to_string())?;
        request.check().map_err(|error| error.to_string())?;
        Ok(request)
    }

    #[test]
    fn a_whole_request_is_taken() {
        let request = parse(
            r#"{"runtime": "python", "args": ["a"], "files": [{"path": "main.py", "text": "print(1)"},
                {"path": "pkg/x.bin", "base64": "AAE=", "mode": 493}], "entry": "main.py", "cwd": "/work/pkg",
                "stdin": {"base64": "/w=="}, "env": {"A": "b"}, "secrets": {"K": "v"}, "outputs": ["out/**"],
                "labels": {"k": "v"}, "tty": false, "ordering": "exact", "on_output_limit": "drop", "flush": "off",
                "network": "none", "backend": "native", "limits": {"wall_ms": 1000, "cpu_ms": null}}"#,
        )
        .unwrap();
        assert_eq!(request.files[1].bytes(), Some(vec![0, 1]));
        assert_eq!(request.stdin.unwrap().bytes(), Some(vec![255]));
        let limits = request.limits.over(&Limits::default());
        assert_eq!((limits.wall_ms, limits.pids), (1000, Limits::default().pids));
    }

    #[test]
    fn each_bad_field_is_named() {
        for (json, named) in [
            (r#"{}"#, "runtime is missing"),
            (r#"{"runtime": "python"}"#, "code is missing"),
            (r#"{"runtime": "python", "command": ["x"]}"#, "command can't"),
            (r#"{"command": []}"#, "command is empty"),
            (r#"{"command": ["x"], "args": ["y"]}"#, "args belong"),
            (r#"{"command": ["x\u0000"]}"#, "command hold a NUL"),
            (r#"{"command": ["x"], "code": ""}"#, "code needs a runtime"),
            (r#"{"command": ["x"], "typo": 1}"#, "unknown field `typo`"),
            (r#"{"command": ["x"], "limits": {"memry": 1}}"#, "unknown field `memry`"),
            (r#"{"command": ["x"], "limits": []}"#, "expected an object"),
            (r#"{"command": ["x"], "files": [["a", "text"]]}"#, "expected an object"),
            (r#"{"command": ["x"], "limits": {"pids": 0}}"#, "limits.pids is 0: it must be"),
            (r#"{"command": ["x"], "files": [{"path": "../x", "text": ""}]}"#, "files[0].path has a name"),
            (r#"{"command": ["x"], "files": [{"path": "x"}]}"#, "files[0] needs exactly one"),
            (r#"{"command": ["x"], "files": [{"path": "x", "text": "", "mode": 2048}]}"#, "files[0].mode"),
            (r#"{"command": ["x"], "outputs": ["/etc/*"]}"#, "outputs[0] is not below"),
            (r#"{"command": ["x"], "cwd": "../x"}"#, "cwd has a name"),
            (r#"{"command": ["x"], "env": {"A=": "b"}}"#, "env has a bad name"),
            (r#"{"command": ["x"], "labels": {"": "b"}}"#, "labels are wrong"),
            (r#"{"command": ["x"], "priority": 101}"#, "priority is 101: it must be between -100 and 100"),
            (r#"{"command": ["x"], "priority": -101}"#, "priority is -101"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
    }

    #[test]
    fn a_secret_is_not_in_an_error() {
        let error = parse(r#"{"command": ["x"], "secrets": {"K": "hidden\u0000"}}"#).unwrap_err();
        assert!(!error.contains("hidden"), "{error}");
    }
}

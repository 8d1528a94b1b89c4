//! From a request as JSON to one for the engine: the runtime, the program among the files, where everything lies.

use std::ffi::OsString;
use std::path::PathBuf;

use lastword_api::path::{any_path, file_path, glob_path};
use lastword_api::{Backend, FieldError, Limits, NewExecution, Ordering};

use super::Request;
use super::request::{InputFile, OrderingWish, Program, Stdin};
use crate::runtime::{self, Runtime};

const MODE: u32 = 0o644;

impl Request {
    /// Checks a client's request and takes it. The error names the field.
    pub fn from_new(new: NewExecution) -> Result<Request, FieldError> {
        new.check()?;
        if new.backend.is_some_and(|backend| backend != Backend::Native) {
            return Err(FieldError::new("backend", "is not available yet in this version; there is native"));
        }
        let runtime = match &new.runtime {
            Some(name) => Some(
                runtime::by_name(name)
                    .map_err(|error| FieldError::new("runtime", format!("is not known: {error}")))?,
            ),
            None => None,
        };
        let mut files = input_files(&new)?;
        let program = program(&new, runtime, &mut files)?;
        let words = |list: &[String]| list.iter().map(OsString::from).collect();
        let pairs = |map: &std::collections::BTreeMap<String, String>| {
            map.iter().map(|(name, value)| (name.into(), value.into())).collect()
        };
        let first = new
            .stdin
            .as_ref()
            .map(|stdin| stdin.bytes().ok_or_else(|| FieldError::new("stdin", "is not valid base64")));
        let stdin = match (first.transpose()?, new.stdin_open) {
            (first, true) => Stdin::Open { first: first.unwrap_or_default() },
            (Some(bytes), false) => Stdin::Bytes(bytes),
            (None, false) => Stdin::Nothing,
        };
        let absolute = |path: &[u8]| path_of(any_path(path).unwrap_or_default());
        Ok(Request {
            runtime: runtime.cloned(),
            args: words(&new.args),
            files,
            stdin,
            env: pairs(&new.env),
            secrets: pairs(&new.secrets),
            cwd: new.cwd.as_ref().map(|cwd| absolute(cwd.as_bytes())),
            image: new.image.clone(),
            outputs: new.outputs.iter().filter_map(|glob| glob_path(glob.as_bytes()).ok()).collect(),
            compile_flags: words(&new.compile_flags),
            limits: new.limits.over(&Limits::default()),
            on_output_limit: new.on_output_limit.unwrap_or_default(),
            tty: new.tty,
            ordering: new.ordering.map(|ordering| match ordering {
                Ordering::Exact => OrderingWish::Exact,
                Ordering::Arrival => OrderingWish::Arrival,
            }),
            flush: new.flush.unwrap_or_default(),
            strict: new.strict,
            labels: new.labels,
            ..Request::new(program)
        })
    }
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes).into()
}

fn input_files(new: &NewExecution) -> Result<Vec<InputFile>, FieldError> {
    let mut files = Vec::with_capacity(new.files.len());
    for (n, file) in new.files.iter().enumerate() {
        let wrong = |message: &str| FieldError::new(format!("files[{n}]"), message);
        let path = file_path(file.path.as_bytes()).map_err(|error| wrong(&error.to_string()))?;
        let bytes = file.bytes().ok_or_else(|| wrong("is not valid base64"))?;
        files.push(InputFile { path, mode: file.mode.unwrap_or(MODE), bytes });
    }
    check_places(&files).map_err(|(n, message)| FieldError::new(format!("files[{n}].path"), message))?;
    Ok(files)
}

/// No path twice, and none that another one needs as a directory. The error says which file, and why.
pub fn check_places(files: &[InputFile]) -> Result<(), (usize, &'static str)> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by(|a, b| files[*a].path.cmp(&files[*b].path));
    let paths: std::collections::BTreeSet<&[u8]> = files.iter().map(|file| &file.path[..]).collect();
    for pair in order.windows(2) {
        if files[pair[0]].path == files[pair[1]].path {
            return Err((pair[1], "is there twice"));
        }
    }
    for (n, file) in files.iter().enumerate() {
        let slashes = file.path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        if slashes.into_iter().any(|(at, _)| paths.contains(&file.path[..at])) {
            return Err((n, "needs a directory where another file is"));
        }
    }
    Ok(())
}

/// What is to be run; code becomes one more file.
fn program(
    new: &NewExecution,
    runtime: Option<&Runtime>,
    files: &mut Vec<InputFile>,
) -> Result<Program, FieldError> {
    let Some(runtime) = runtime else {
        return Ok(match &new.command {
            Some(command) => Program::Command { argv: command.iter().map(OsString::from).collect() },
            None => Program::Image,
        });
    };
    let own = file_path(runtime.code_file.as_bytes())
        .map_err(|error| FieldError::new("runtime", error.to_string()))?;
    if let Some(code) = &new.code {
        files.push(InputFile { path: own.clone(), mode: MODE, bytes: code.as_bytes().to_vec() });
        check_places(files).map_err(|_| FieldError::new("code", "has the same path as one of the files"))?;
        return Ok(Program::Entry { path: own });
    }
    if let Some(entry) = &new.entry {
        let path =
            file_path(entry.as_bytes()).map_err(|error| FieldError::new("entry", error.to_string()))?;
        if !files.iter().any(|file| file.path == path) {
            return Err(FieldError::new("entry", "is not one of the files"));
        }
        return Ok(Program::Entry { path });
    }
    match (&files[..], files.iter().find(|file| file.path == own)) {
        (_, Some(file)) => Ok(Program::Entry { path: file.path.clone() }),
        ([only], None) => Ok(Program::Entry { path: only.path.clone() }),
        _ => Err(FieldError::new("entry", "is needed: it says which of the files is the program")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(json: &str) -> Result<Request, String> {
        let new: NewExecution = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Request::from_new(new).map_err(|error| error.to_string())
    }

    fn entry(json: &str) -> String {
        let request = taken(json).unwrap();
        let Program::Entry { path } = request.program else { panic!("{json}: no entry") };
        String::from_utf8(path).unwrap()
    }

    #[test]
    fn the_entry_is_found() {
        let file = r#"{"path": "pkg/tool.py", "text": ""}"#;
        let main = r#"{"path": "main.py", "text": ""}"#;
        assert_eq!(entry(r#"{"runtime": "python", "code": "1"}"#), "/work/main.py");
        assert_eq!(entry(&format!(r#"{{"runtime": "python", "files": [{file}]}}"#)), "/work/pkg/tool.py");
        assert_eq!(entry(&format!(r#"{{"runtime": "python", "files": [{file}, {main}]}}"#)), "/work/main.py");
        let asked = format!(r#"{{"runtime": "python", "files": [{file}, {main}], "entry": "pkg/tool.py"}}"#);
        assert_eq!(entry(&asked), "/work/pkg/tool.py");
    }

    #[test]
    fn what_can_not_be_is_named() {
        for (json, named) in [
            (r#"{"runtime": "cobol", "code": "x"}"#, "runtime is not known"),
            (r#"{"command": ["x"], "backend": "docker"}"#, "backend is not available"),
            (r#"{"command": ["x"], "stdin": {"base64": "?"}}"#, "stdin is not valid"),
            (r#"{"command": ["x"], "files": [{"path": "x", "base64": "?"}]}"#, "files[0] is not valid"),
            (
                r#"{"command": ["x"], "files": [{"path": "x", "text": ""}, {"path": "./x", "text": ""}]}"#,
                "files[1].path is there twice",
            ),
            (
                r#"{"command": ["x"], "files": [{"path": "a/b", "text": ""}, {"path": "a", "text": ""}]}"#,
                "files[0].path needs a directory",
            ),
            (
                r#"{"runtime": "python", "files": [{"path": "a", "text": ""}, {"path": "b", "text": ""}]}"#,
                "entry is needed",
            ),
            (
                r#"{"runtime": "python", "files": [{"path": "a", "text": ""}], "entry": "c"}"#,
                "entry is not one",
            ),
            (
                r#"{"runtime": "python", "code": "", "files": [{"path": "main.py", "text": ""}]}"#,
                "code has the same path",
            ),
        ] {
            let error = taken(json).err().unwrap_or_default();
            assert!(error.contains(named), "{json}: {error}");
        }
    }
}

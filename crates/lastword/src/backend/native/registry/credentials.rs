//! The logins that `docker login` keeps: in `config.json`, or with the credential helpers that it names.
//!
//! No secret gets into an error: also what a parser says of a file is not passed on, for it may show a part of it.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::limits::{CONFIG_BYTES_MAX, HELPER_BYTES_MAX};

/// Under this name `docker login` keeps the login of Docker Hub.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name with which a helper says that its secret is an identity token.
const IDENTITY_USER: &str = "<token>";

/// Some tools leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(PartialEq, Eq)]
pub(super) enum Login {
    Password {
        user: String,
        secret: String,
    },
    /// For the token server, not for the registry.
    Identity(String),
    /// For the registry itself.
    Bearer(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Password { .. } => "Login::Password",
            Login::Identity(_) => "Login::Identity",
            Login::Bearer(_) => "Login::Bearer",
        })
    }
}

/// A login, if there is one; else what stood in the way. Many images need none, so trouble is told only when one is missed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) login: Option<Login>,
    pub(super) trouble: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: HashMap<String, Auth>,
    #[serde(rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity: Option<String>,
    #[serde(rename = "registrytoken")]
    registry: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// `$DOCKER_CONFIG`, or `.docker` in the home directory.
pub(super) fn docker_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))
}

/// The login for a registry.
pub(super) fn find(directory: Option<&Path>, registry: &str, helper_time: Duration) -> Found {
    let Some(directory) = directory else { return Found::default() };
    let config = match read(&directory.join("config.json")) {
        Ok(config) => config,
        Err(trouble) => return Found { login: None, trouble: Some(trouble) },
    };
    let of_host = |key: &String| host_of(key) == registry;
    let named = config.helpers.iter().find(|(key, _)| of_host(key)).map(|(_, name)| name);
    let helper = named.or(config.store.as_ref()).filter(|name| !name.is_empty());
    let mut trouble = None;
    if let Some(name) = helper {
        let key = if registry == "docker.io" { DOCKER_HUB_KEY } else { registry };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let asked = match name.bytes().all(plain) {
            true => ask(Command::new(format!("docker-credential-{name}")), key, helper_time),
            false => Err("has no name of a program"),
        };
        match asked {
            Ok(Some(login)) => return Found { login: Some(login), trouble: None },
            Ok(None) => {}
            Err(why) => {
                trouble = Some(format!("the credential helper `docker-credential-{}` {why}", shown(name)));
            }
        }
    }
    let login = config.auths.into_iter().find(|(key, _)| of_host(key)).and_then(|(_, auth)| auth.login());
    Found { trouble: trouble.filter(|_| login.is_none()), login }
}

/// Keys are hosts, or addresses as they were before there was version 2.
fn host_of(key: &str) -> String {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

fn read(path: &Path) -> Result<Config, String> {
    let trouble = |why: &str| format!("{} {why}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(trouble(&format!("cannot be opened ({})", error.kind()))),
    };
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(trouble("is no file"));
    }
    let mut bytes = Vec::new();
    match file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes) {
        Err(error) => Err(trouble(&format!("cannot be read ({})", error.kind()))),
        Ok(read) if read as u64 > CONFIG_BYTES_MAX => Err(trouble("is too large")),
        Ok(_) => serde_json::from_slice(&bytes).map_err(|_| trouble("is not what docker writes")),
    }
}

impl Auth {
    fn login(self) -> Option<Login> {
        let set = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = set(self.registry) {
            return Some(Login::Bearer(token));
        }
        if let Some(token) = set(self.identity) {
            return Some(Login::Identity(token));
        }
        let (user, secret) = match set(self.auth) {
            Some(auth) => {
                let text = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
                let (user, secret) = text.split_once(':')?;
                (user.to_owned(), secret.trim_end_matches('\0').to_owned())
            }
            None => (set(self.username)?, set(self.password)?),
        };
        Some(Login::Password { user, secret })
    }
}

/// `docker-credential-NAME get`. `None` if the helper knows none.
pub(super) fn ask(mut command: Command, key: &str, most: Duration) -> Result<Option<Login>, &'static str> {
    // What it says on stderr is its own; nobody knows what is in it.
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "is not installed",
        _ => "cannot be started",
    })?;
    let answer = talk(&mut child, key, most);
    if answer.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|_| "cannot be waited for")?;
    let answer = answer?;
    if !status.success() {
        // The protocol has one exit code for everything.
        let text = String::from_utf8_lossy(&answer);
        let unknown = text.contains("credentials not found") || text.contains("no credentials");
        return if unknown { Ok(None) } else { Err("failed") };
    }
    let helped: Helped = serde_json::from_slice(&answer).map_err(|_| "gave no login")?;
    Ok(match (helped.username, helped.secret) {
        (_, secret) if secret.is_empty() => None,
        (user, secret) if user == IDENTITY_USER => Some(Login::Identity(secret)),
        (user, secret) => Some(Login::Password { user, secret }),
    })
}

/// Gives the key and reads the answer to its end.
fn talk(child: &mut Child, key: &str, most: Duration) -> Result<Vec<u8>, &'static str> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { return Err("has no pipes") };
    // Fits into a pipe; one that reads nothing is no reason to fail before it has answered.
    let _ = stdin.write_all(key.as_bytes());
    drop(stdin);
    let (sender, receiver) = mpsc::sync_channel(1);
    // Ends with the pipe. If the helper left somebody behind who holds it, that is when he ends, and nobody waits for it.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(HELPER_BYTES_MAX + 1).read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes));
    });
    match receiver.recv_timeout(most) {
        Ok(Ok(bytes)) if bytes.len() as u64 <= HELPER_BYTES_MAX => Ok(bytes),
        Ok(Ok(_)) => Err("says too much"),
        Ok(Err(_)) => Err("cannot be read from"),
        Err(_) => Err("does not answer"),
    }
}

/// A name out of a file, fit for a message.
fn shown(name: &str) -> String {
    name.chars().take(40).flat_map(char::escape_default).collect()
}

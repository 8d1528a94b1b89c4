//! `lastword keys`

use lastword_api::{Timestamp, parse_duration};
use serde::Serialize;

use super::message::{Advice, escaped, say, say_error};
use super::output::{print, print_json};
use super::summary::{self, seconds};
use super::{FAILURE, Globals};
use crate::keys::{self, DEFAULT_TENANT, Key, NewKey, Scope, Token};

/// Nobody means a longer time, and all of it fits into a time stamp.
const EXPIRES_MAX_DAYS: u64 = 36_500;

/// Make, list and revoke the API keys of a server
///
/// A server notices a change within a second. Once there has been a key, it asks for one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword keys create --name ci --tenant acme --scope run,read --expires 90d
  lastword keys list
  lastword keys revoke k3v8mwq2rt")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a key, and print its token: the only time that anybody sees it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword keys create
  TOKEN=$(lastword keys create --name grader --scope run,read)
  lastword keys create --name prometheus --scope admin --expires 365d --json")]
struct Create {
    /// Says whose it is or what it is for
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Whose executions it makes and sees: 1 to 64 of a-z, 0-9, point, underscore, dash
    #[arg(long, value_name = "TENANT", default_value = DEFAULT_TENANT)]
    tenant: String,
    /// What it may do: run (submit, cancel, feed stdin, delete), read, admin (both, and what concerns the machine)
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', default_value = "run,read", value_parser = scope)]
    scope: Vec<Scope>,
    /// How long it works, like 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = expires)]
    expires: Option<std::time::Duration>,
    /// Print it as JSON, with what it may do
    #[arg(long)]
    json: bool,
}

/// List keys, without their tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword keys list
  lastword keys list --json | jq -r '.items[].id'")]
struct List {
    /// Print {"items": [...]}
    #[arg(long)]
    json: bool,
}

/// Revoke keys: a running server refuses them within a second
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword keys revoke k3v8mwq2rt")]
struct Revoke {
    /// Ids of keys: what stands in a token between lw_ and the next underscore
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    name: Option<&'a str>,
    tenant: &'a str,
    scopes: Vec<&'static str>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    expired: bool,
}

impl<'a> Shown<'a> {
    fn new(key: &'a Key, token: Option<&Token>) -> Self {
        Shown {
            id: &key.id,
            token: token.map(ToString::to_string),
            name: key.name.as_deref(),
            tenant: &key.tenant,
            scopes: key.scopes.iter().map(Scope::name).collect(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            expired: key.is_expired(Timestamp::now()),
        }
    }
}

#[derive(Serialize)]
struct Page<'a> {
    items: Vec<Shown<'a>>,
}

fn scope(text: &str) -> Result<Scope, keys::Error> {
    text.parse()
}

fn expires(text: &str) -> Result<std::time::Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration.as_secs() > EXPIRES_MAX_DAYS * 86_400 {
        return Err(format!("it must be more than nothing and at most {EXPIRES_MAX_DAYS}d"));
    }
    Ok(duration)
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    match &args.command {
        Command::Create(args) => create(args, globals),
        Command::List(args) => list(args, globals),
        Command::Revoke(args) => revoke(args, globals),
    }
}

fn create(args: &Create, globals: &Globals) -> anyhow::Result<u8> {
    let after = |duration: std::time::Duration| {
        let ns = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Timestamp::from_ns(Timestamp::now().ns().saturating_add(ns))
    };
    let new = NewKey {
        name: args.name.clone(),
        tenant: args.tenant.clone(),
        scopes: args.scope.iter().copied().collect(),
        expires_at: args.expires.map(after),
    };
    let (token, key) = keys::add(&globals.data_dir()?, new)?;
    if args.json {
        print_json(&Shown::new(&key, Some(&token)))?;
    } else {
        print(&format!("{token}\n"))?;
    }
    say(&format!(
        "key {} of tenant {} may {}; keep its token, it is shown only now",
        key.id, key.tenant, key.scopes
    ));
    Ok(0)
}

fn list(args: &List, globals: &Globals) -> anyhow::Result<u8> {
    let keys = keys::list(&globals.data_dir()?)?;
    if args.json {
        print_json(&Page { items: keys.iter().map(|key| Shown::new(key, None)).collect() })?;
    } else {
        print(&table(&keys, Timestamp::now()))?;
    }
    Ok(0)
}

fn table(keys: &[Key], now: Timestamp) -> String {
    let header = ["ID", "NAME", "TENANT", "SCOPES", "CREATED", "EXPIRES"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        let expires = match key.expires_at {
            None => "never".to_owned(),
            Some(time) if time <= now => format!("{} (expired)", seconds(time)),
            Some(time) => seconds(time),
        };
        let name = key.name.as_deref().map_or_else(|| "-".to_owned(), escaped);
        let scopes = key.scopes.to_string();
        vec![key.id.clone(), name, key.tenant.clone(), scopes, seconds(key.created_at), expires]
    }));
    summary::table(&rows)
}

fn revoke(args: &Revoke, globals: &Globals) -> anyhow::Result<u8> {
    let dir = globals.data_dir()?;
    let mut code = 0;
    for id in &args.ids {
        match keys::revoke(&dir, id).hint("lastword keys list shows the keys") {
            Ok(key) => print(&format!("{}\n", key.id))?,
            Err(error) => {
                say_error(&error);
                code = FAILURE;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_key_expires() {
        assert_eq!(expires("90d").unwrap().as_secs(), 90 * 86_400);
        assert!(expires("0s").is_err() && expires("36501d").is_err() && expires("soon").is_err());
    }
}

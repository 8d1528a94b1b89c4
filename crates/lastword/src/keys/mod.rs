//! API keys: who may talk to a server, and what they may do.
//!
//! `keys.json` in the data directory holds a digest of each token, never the token. `lastword keys` changes the file;
//! a running server notices within a second.

mod error;
mod file;
mod live;
mod token;

use std::fmt;
use std::str::FromStr;

pub use error::Error;
pub use file::{Key, NewKey, add, list, revoke};
pub use live::Keys;
pub use token::Token;

/// Longest name of a tenant, bytes.
pub const TENANT_BYTES_MAX: usize = 64;
/// Longest name of a key, bytes.
pub const NAME_BYTES_MAX: usize = 100;
/// Most keys of one data directory.
pub const KEYS_MAX: usize = 10_000;
/// A larger `keys.json` is not read. The most keys with the longest names fit in.
pub const FILE_BYTES_MAX: u64 = 8 << 20;

/// The tenant of a key that names none.
pub const DEFAULT_TENANT: &str = "default";

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Submit, cancel, feed stdin, delete.
    Run,
    /// Read executions, transcripts, files and events.
    Read,
    /// Both, and what concerns the machine: metrics, capacity. Of no other tenant's executions.
    Admin,
}

impl Scope {
    pub const ALL: [Scope; 3] = [Scope::Run, Scope::Read, Scope::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Scope::Run => "run",
            Scope::Read => "read",
            Scope::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Scope::ALL.into_iter().find(|scope| scope.name() == text);
        found.ok_or_else(|| Error::Scope { text: text.escape_debug().to_string() })
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// Everything.
    pub const ADMIN: Scopes = Scopes(1 << Scope::Admin as u8);

    /// Whether they allow what `scope` allows: `admin` allows everything.
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that were given, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Scope::name).collect();
        f.write_str(&names.join(","))
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Sees what has the same tenant. `None` sees everything: a server without keys, on loopback.
    pub tenant: Option<String>,
    pub scopes: Scopes,
    /// The id of the key that was shown.
    pub key: Option<String>,
}

impl Caller {
    /// Whoever reaches a server that asks for no keys.
    pub fn local() -> Self {
        Caller { tenant: None, scopes: Scopes::ADMIN, key: None }
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.allow(scope)
    }
}

/// Says what is wrong with the name of a tenant.
pub fn check_tenant(text: &str) -> Result<(), Error> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=TENANT_BYTES_MAX).contains(&text.len()) && text.bytes().all(good) {
        return Ok(());
    }
    Err(Error::Tenant { text: text.escape_debug().take(TENANT_BYTES_MAX).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scopes_allow() {
        let run: Scopes = [Scope::Run].into_iter().collect();
        assert!(run.allow(Scope::Run) && !run.allow(Scope::Read) && !run.allow(Scope::Admin));
        let both: Scopes = [Scope::Read, Scope::Run].into_iter().collect();
        assert!(both.allow(Scope::Run) && both.allow(Scope::Read) && !both.allow(Scope::Admin));
        assert_eq!(both.to_string(), "run,read");
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::ADMIN.allow(scope)));
        assert!(!Scope::ALL.into_iter().any(|scope| Scopes::default().allow(scope)));
        assert!("root".parse::<Scope>().is_err() && "read".parse::<Scope>().unwrap() == Scope::Read);
    }

    #[test]
    fn names_of_tenants() {
        for good in ["a", "default", "team-1.eu_west", &"x".repeat(TENANT_BYTES_MAX)] {
            assert!(check_tenant(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a b", "ä", "a/b", "a\n", &"x".repeat(TENANT_BYTES_MAX + 1)] {
            assert!(check_tenant(bad).is_err(), "{bad:?}");
        }
    }
}

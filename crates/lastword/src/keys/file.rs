//! `keys.json`: reading it, and changing it so that a crash leaves the old one or the new one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lastword_api::Timestamp;
use rustix::fs::{FlockOperation, Gid, Uid, fchown, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::token::{self, Token};
use super::{Error, FILE_BYTES_MAX, KEYS_MAX, NAME_BYTES_MAX, Scope, Scopes, TENANT_BYTES_MAX, check_tenant};

const VERSION: u64 = 1;
const NAME: &str = "keys.json";
const LOCK: &str = "keys.lock";
const NEW: &str = ".keys.json.new";

/// A key as it is kept and listed: everything but its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    pub name: Option<String>,
    pub tenant: String,
    pub scopes: Scopes,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub(super) digest: blake3::Hash,
}

impl Key {
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires| expires <= now)
    }
}

/// What a new key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: Option<String>,
    pub tenant: String,
    pub scopes: Scopes,
    pub expires_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u64,
    keys: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    name: Option<String>,
    tenant: String,
    scopes: Vec<String>,
    /// BLAKE3 of the token in its own context, hexadecimal.
    digest: String,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

/// What tells one state of the file from another. A change always makes a new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(data: &std::fs::Metadata) -> Self {
        Stamp {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

/// The state of the file now; `None` if there is none.
pub(super) fn stamp(path: &Path) -> Result<Option<Stamp>, Error> {
    match std::fs::metadata(path) {
        Ok(data) => Ok(Some(Stamp::of(&data))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", path, error)),
    }
}

/// All keys, and the state of the file that they were read from; `None` if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<(Vec<Key>, Stamp)>, Error> {
    let failed = |error| Error::io("read", path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLong { path: path.to_path_buf() });
    }
    Ok(Some((parse(path, &text)?, stamp)))
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<Key>, Error> {
    let damaged = |source| Error::Damaged { path: path.to_path_buf(), source };
    // The version first: a newer file may have another shape.
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let Version { version } = serde_json::from_slice(text).map_err(damaged)?;
    if version != VERSION {
        return Err(Error::Version { path: path.to_path_buf(), found: version, known: VERSION });
    }
    let document: Document = serde_json::from_slice(text).map_err(damaged)?;
    let wrong = |what| Error::Content { path: path.to_path_buf(), what };
    if document.keys.len() > KEYS_MAX {
        return Err(wrong(format!("it has more than {KEYS_MAX} keys")));
    }
    let mut keys: Vec<Key> = Vec::with_capacity(document.keys.len());
    for (index, row) in document.keys.into_iter().enumerate() {
        keys.push(key(row).map_err(|why| wrong(format!("key number {}: {why}", index + 1)))?);
    }
    let mut ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(wrong(format!("key {} is there twice", two[0]))),
        None => Ok(keys),
    }
}

fn key(row: Row) -> Result<Key, String> {
    if !token::is_id(&row.id) {
        return Err("its id is none".into());
    }
    check_tenant(&row.tenant).map_err(|error| error.to_string())?;
    check_name(row.name.as_deref()).map_err(|error| error.to_string())?;
    let scopes: Result<Scopes, Error> = row.scopes.iter().map(|text| text.parse::<Scope>()).collect();
    let scopes = scopes.map_err(|error| error.to_string())?;
    let digest = blake3::Hash::from_hex(&row.digest).map_err(|_| "its digest is none".to_owned())?;
    let Row { id, name, tenant, created_at, expires_at, .. } = row;
    Ok(Key { id, name, tenant, scopes, created_at, expires_at, digest })
}

fn row(key: &Key) -> Row {
    Row {
        id: key.id.clone(),
        name: key.name.clone(),
        tenant: key.tenant.clone(),
        scopes: key.scopes.iter().map(|scope| scope.name().to_owned()).collect(),
        digest: key.digest.to_hex().to_string(),
        created_at: key.created_at,
        expires_at: key.expires_at,
    }
}

fn check_name(name: Option<&str>) -> Result<(), Error> {
    if name.is_some_and(|name| name.len() > NAME_BYTES_MAX) { Err(Error::Name) } else { Ok(()) }
}

/// All keys of a data directory, in the order they were made.
pub fn list(data_dir: &Path) -> Result<Vec<Key>, Error> {
    Ok(read(&path(data_dir))?.map(|(keys, _)| keys).unwrap_or_default())
}

/// Makes a key. Durable on return. Makes the data directory if there is none.
pub fn add(data_dir: &Path, new: NewKey) -> Result<(Token, Key), Error> {
    check_tenant(&new.tenant)?;
    check_name(new.name.as_deref())?;
    if new.scopes.is_empty() {
        return Err(Error::NoScope);
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.map_err(|error| Error::io("make", data_dir, error))?;
    let _lock = lock(data_dir)?;
    let mut keys = list(data_dir)?;
    if keys.len() >= KEYS_MAX {
        return Err(Error::TooMany);
    }
    let mut token = Token::random()?;
    while keys.iter().any(|key| key.id == token.id()) {
        token = Token::random()?;
    }
    let NewKey { name, tenant, scopes, expires_at } = new;
    let id = token.id().to_owned();
    let key =
        Key { id, name, tenant, scopes, created_at: Timestamp::now(), expires_at, digest: token.digest() };
    keys.push(key.clone());
    write(data_dir, &keys)?;
    Ok((token, key))
}

/// Takes a key away. Durable on return; a running server refuses it within a second. The file stays, also without keys: a
/// server that asked for keys goes on asking.
pub fn revoke(data_dir: &Path, id: &str) -> Result<Key, Error> {
    let unknown = || Error::Unknown { id: id.chars().take(TENANT_BYTES_MAX).collect() };
    // Without keys no lock is made, nor a data directory.
    if !list(data_dir)?.iter().any(|key| key.id == id) {
        return Err(unknown());
    }
    let _lock = lock(data_dir)?;
    let mut keys = list(data_dir)?;
    let index = keys.iter().position(|key| key.id == id).ok_or_else(unknown)?;
    let key = keys.remove(index);
    write(data_dir, &keys)?;
    Ok(key)
}

/// Held while the file is read and replaced.
fn lock(data_dir: &Path) -> Result<File, Error> {
    let path = data_dir.join(LOCK);
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(|error| Error::io("open", &path, error))?;
    give_to_owner_of(data_dir, &file)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("lock", &path, error)),
        }
    }
}

fn write(data_dir: &Path, keys: &[Key]) -> Result<(), Error> {
    let (path, new) = (path(data_dir), data_dir.join(NEW));
    let document = Document { version: VERSION, keys: keys.iter().map(row).collect() };
    let mut text = serde_json::to_vec_pretty(&document)
        .map_err(|source| Error::Damaged { path: path.clone(), source })?;
    text.push(b'\n');
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooMany);
    }
    // Left by one that was killed; the lock says that nobody writes it now. A new inode has our mode and no other owner.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &new, error));
        }
        _ => {}
    }
    let failed = |error| Error::io("write", &new, error);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    give_to_owner_of(data_dir, &file)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&new, &path).map_err(|error| Error::io("replace", &path, error))?;
    let synced = File::open(data_dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::io("sync", data_dir, error))
}

/// Root makes keys for a server that runs as somebody else, and that must be able to read them.
fn give_to_owner_of(data_dir: &Path, file: &File) -> Result<(), Error> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let failed = |error: io::Error| Error::io("give to its owner a file in", data_dir, error);
    let (dir, own) = (std::fs::metadata(data_dir).map_err(failed)?, file.metadata().map_err(failed)?);
    if (dir.uid(), dir.gid()) == (own.uid(), own.gid()) {
        return Ok(());
    }
    let owner = (Some(Uid::from_raw(dir.uid())), Some(Gid::from_raw(dir.gid())));
    fchown(file, owner.0, owner.1).map_err(|error| failed(error.into()))
}

//! Users and groups by the image's own `etc/passwd` and `etc/group`: files that anybody may have written.

use std::io::Read;
use std::os::fd::AsFd;

use crate::beneath;
use crate::config::User;
use crate::error::{Error, shown};
use crate::limits::USERS_FILE_BYTES_MAX;

/// Resolves `user`, as in a config. A name comes before a number, as elsewhere; a number need not be in any file.
pub(crate) fn resolve(root: impl AsFd, user: &str) -> Result<User, Error> {
    let refused = |why| Error::User { user: shown(user.as_bytes()), why };
    let passwd = read(&root, b"etc/passwd").map_err(refused)?;
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = id(name.as_bytes());
    let entry = lines(&passwd)
        .find(|fields| fields.first() == Some(&name.as_bytes()))
        .or_else(|| lines(&passwd).find(|fields| number.is_some() && field_id(fields, 2) == number));
    let found = entry.as_deref();
    let uid = match found {
        Some(fields) => field_id(fields, 2).ok_or_else(|| refused("its line in etc/passwd is damaged"))?,
        None => number.ok_or_else(|| refused("there is no such name in its etc/passwd"))?,
    };
    let gid = match group {
        Some(group) if !group.is_empty() => group_id(&root, group).map_err(refused)?,
        _ => match found {
            Some(fields) => {
                field_id(fields, 3).ok_or_else(|| refused("its line in etc/passwd is damaged"))?
            }
            None => 0,
        },
    };
    let home = found.and_then(|fields| fields.get(5)).and_then(|home| str::from_utf8(home).ok());
    let home = home.filter(|home| home.starts_with('/') && !home.contains('\0')).unwrap_or("/");
    Ok(User { uid, gid, home: home.to_owned() })
}

fn group_id(root: impl AsFd, group: &str) -> Result<u32, &'static str> {
    let file = read(root, b"etc/group")?;
    let named = lines(&file).find(|fields| fields.first() == Some(&group.as_bytes()));
    match named {
        Some(fields) => field_id(&fields, 2).ok_or("its line in etc/group is damaged"),
        None => id(group.as_bytes()).ok_or("there is no such name in its etc/group"),
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = file.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty()).map(|line| line.splitn(8, |byte| *byte == b':').collect())
}

fn field_id(fields: &[&[u8]], at: usize) -> Option<u32> {
    fields.get(at).and_then(|field| id(field))
}

/// Digits alone. The largest number means "no change" to the kernel.
fn id(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

/// Empty if it is not there, as in images of a single program.
fn read(root: impl AsFd, path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let file = match beneath::open_file(root, path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(_) => return Err("its etc/passwd or etc/group cannot be opened"),
    };
    let mut bytes = Vec::new();
    match file.take(USERS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
        Ok(read) if read as u64 <= USERS_FILE_BYTES_MAX => Ok(bytes),
        Ok(_) => Err("its etc/passwd or etc/group is too long"),
        Err(_) => Err("its etc/passwd or etc/group cannot be read"),
    }
}

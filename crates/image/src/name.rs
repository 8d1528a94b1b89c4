//! Names of entries: what they may be, and how they are written once they are clean.

use crate::limits::{LINK_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};

/// A path below the root: no slash at either end, no empty, `.` or `..` component. Empty is the root itself.
///
/// A slash in front is dropped, as everybody does. `..` is refused even where it would stay inside: nobody who means well
/// writes it, and its meaning depends on links.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.is_empty() {
        return Err("its name is empty");
    }
    if name.len() > PATH_BYTES_MAX {
        return Err("its name is too long");
    }
    if name.contains(&0) {
        return Err("its name has a zero byte");
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("its name has a `..`"),
            _ if component.len() > NAME_BYTES_MAX => return Err("a part of its name is too long"),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    Ok(path)
}

/// The directory, and the name in it.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

/// The text of a symbolic link is kept as it is: it is followed in the sandbox only.
pub(crate) fn link_text(text: &[u8]) -> Result<(), &'static str> {
    match text {
        b"" => Err("its link is empty"),
        _ if text.len() > LINK_BYTES_MAX => Err("its link is too long"),
        _ if text.contains(&0) => Err("its link has a zero byte"),
        _ => Ok(()),
    }
}

const WHITEOUT: &[u8] = b".wh.";
/// aufs kept its own things under such names; one of them became part of the format.
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry means, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    Plain,
    /// This name is gone from the directory.
    Whiteout(&'a [u8]),
    /// Everything from lower layers is gone from the directory.
    Opaque,
    /// Bookkeeping of aufs.
    Meta,
}

pub(crate) fn meaning(path: &[u8]) -> Result<Meaning<'_>, &'static str> {
    let (directory, name) = split(path);
    let above = || directory.split(|byte| *byte == b'/');
    if above().any(|part| part.starts_with(META)) {
        return Ok(Meaning::Meta);
    }
    if above().any(|part| part.starts_with(WHITEOUT)) {
        return Err("it is inside of a whiteout");
    }
    if name.starts_with(META) {
        return Ok(if name == OPAQUE { Meaning::Opaque } else { Meaning::Meta });
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Plain),
        Some(b"" | b"." | b"..") => Err("it is a whiteout of no name"),
        Some(hidden) => Ok(Meaning::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_names_are_below_the_root() {
        for (name, path) in [
            (&b"a"[..], &b"a"[..]),
            (b"./a/b", b"a/b"),
            (b"/a//b/./c/", b"a/b/c"),
            (b"./", b""),
            (b"/", b""),
            (b"...", b"..."),
            (b"a\n\xff", b"a\n\xff"),
        ] {
            assert_eq!(clean(name), Ok(path.to_vec()));
        }
        let long = [b'a'; NAME_BYTES_MAX + 1];
        let deep = b"a/".repeat(PATH_BYTES_MAX.div_ceil(2));
        for name in [&b""[..], b"..", b"../a", b"a/../b", b"a/..", b"/..", b"a\0b", &long, &deep] {
            clean(name).expect_err("a bad name");
        }
        clean(&long[1..]).unwrap();
        clean(&deep[1..]).unwrap();
    }

    #[test]
    fn whiteouts_hide_a_name_and_nothing_above() {
        assert_eq!(meaning(b"a/.wh.b"), Ok(Meaning::Whiteout(b"b")));
        assert_eq!(meaning(b".wh..wh..opq"), Ok(Meaning::Opaque));
        assert_eq!(meaning(b"a/.wh..wh.plnk"), Ok(Meaning::Meta));
        assert_eq!(meaning(b".wh..wh.plnk/a"), Ok(Meaning::Meta));
        assert_eq!(meaning(b"a/wh.b"), Ok(Meaning::Plain));
        assert_eq!(meaning(b""), Ok(Meaning::Plain));
        for name in [&b".wh."[..], b".wh..", b".wh...", b"a/.wh...", b".wh.a/b"] {
            meaning(name).expect_err("a bad whiteout");
        }
    }
}

//! Paths in the sandbox, as a user may give them for files.
//!
//! They come from clients: nothing here touches a file system, and a path that is accepted can't leave its directory.

/// Where a relative path is taken from.
pub const WORK: &str = "/work";
/// Where files can be put, and where they can be kept from.
pub const WRITABLE: [&str; 3] = [WORK, "/tmp", "/var/tmp"];
/// Bytes of a whole path.
pub const PATH_BYTES_MAX: usize = 1024;
/// Bytes of one name in it (NAME_MAX of limits.h).
pub const NAME_BYTES_MAX: usize = 255;
/// Names in a path.
pub const PATH_NAMES_MAX: usize = 32;

/// What is wrong with a path. Messages follow on a text that names the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("has a name of more than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("has more than {PATH_NAMES_MAX} names")]
    TooDeep,
    #[error("has a control character in it")]
    Control,
    #[error("has a name . or .. in it")]
    Dots,
    #[error("has an empty name in it")]
    EmptyName,
    #[error("ends in a slash, but names a file")]
    Directory,
    #[error("is not below /work, /tmp or /var/tmp")]
    Outside,
}

/// The absolute path of a file below one of [`WRITABLE`]; a relative path is one below [`WORK`].
pub fn file_path(path: &[u8]) -> Result<Vec<u8>, PathError> {
    if path.ends_with(b"/") {
        return Err(PathError::Directory);
    }
    let path = absolute(path)?;
    check(&path)?;
    Ok(path)
}

/// The absolute pattern of files to keep, below one of [`WRITABLE`].
pub fn glob_path(glob: &[u8]) -> Result<Vec<u8>, PathError> {
    file_path(glob)
}

/// An absolute path of the sandbox that may lie anywhere, for what is shared read-only and for the working directory.
pub fn any_path(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let path = absolute(path)?;
    names(&path)?;
    Ok(path)
}

fn absolute(path: &[u8]) -> Result<Vec<u8>, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.starts_with(b"/") {
        return Ok(path.to_vec());
    }
    let path = path.strip_prefix(b"./").unwrap_or(path);
    Ok([WORK.as_bytes(), b"/", path].concat())
}

fn check(path: &[u8]) -> Result<(), PathError> {
    names(path)?;
    let below = |place: &&str| path.strip_prefix(place.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
    if WRITABLE.iter().any(below) { Ok(()) } else { Err(PathError::Outside) }
}

fn names(path: &[u8]) -> Result<(), PathError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    if path.iter().any(|byte| *byte < b' ' || *byte == 0x7f) {
        return Err(PathError::Control);
    }
    let mut count = 0;
    for name in path.split(|byte| *byte == b'/').skip(1) {
        count += 1;
        match name {
            b"" => return Err(PathError::EmptyName),
            b"." | b".." => return Err(PathError::Dots),
            _ if name.len() > NAME_BYTES_MAX => return Err(PathError::NameTooLong),
            _ if count > PATH_NAMES_MAX => return Err(PathError::TooDeep),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_paths_become_absolute() {
        for (given, expected) in [
            ("a.py", "/work/a.py"),
            ("./a.py", "/work/a.py"),
            ("pkg/mod.py", "/work/pkg/mod.py"),
            ("/tmp/x", "/tmp/x"),
            ("/var/tmp/x y", "/var/tmp/x y"),
            (".hidden", "/work/.hidden"),
            ("a..b", "/work/a..b"),
        ] {
            assert_eq!(file_path(given.as_bytes()).as_deref(), Ok(expected.as_bytes()), "{given}");
        }
        assert_eq!(any_path(b"/data/").as_deref(), Ok(&b"/data"[..]));
    }

    #[test]
    fn bad_paths_are_refused() {
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        let deep = vec!["d"; PATH_NAMES_MAX].join("/");
        for (given, expected) in [
            ("", PathError::Empty),
            ("..", PathError::Dots),
            ("../x", PathError::Dots),
            ("a/../../x", PathError::Dots),
            ("a/./b", PathError::Dots),
            ("/work/../etc/passwd", PathError::Dots),
            ("/etc/passwd", PathError::Outside),
            ("/work", PathError::Outside),
            ("/workx/a", PathError::Outside),
            ("/tmp", PathError::Outside),
            ("a//b", PathError::EmptyName),
            ("//work/a", PathError::EmptyName),
            ("a/", PathError::Directory),
            ("a\nb", PathError::Control),
            ("a\0b", PathError::Control),
            (&long, PathError::NameTooLong),
            (&deep, PathError::TooDeep),
        ] {
            assert_eq!(file_path(given.as_bytes()), Err(expected), "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_below(path: Vec<u8>) {
            if let Ok(path) = file_path(&path) {
                let below = WRITABLE.iter().any(|place| path.starts_with(format!("{place}/").as_bytes()));
                prop_assert!(below);
                prop_assert!(path.split(|byte| *byte == b'/').all(|name| name != b".." && name != b"."));
            }
        }
    }
}

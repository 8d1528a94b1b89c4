//! Labels: what a user hangs on an execution to find it again.

use std::collections::BTreeMap;

/// Labels of one execution.
pub const LABELS_MAX: usize = 64;
/// Bytes of a key.
pub const LABEL_KEY_BYTES_MAX: usize = 128;
/// Bytes of a value.
pub const LABEL_VALUE_BYTES_MAX: usize = 1024;

/// Keys that begin so are lastword's own: nobody else may set them.
pub const LABEL_RESERVED_PREFIX: &str = "lastword.";

/// What is wrong with a label. Texts are quoted with their control characters escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("{count} labels are too many: at most {LABELS_MAX} are allowed")]
    TooMany { count: usize },
    #[error(
        "the label key {key:?} is not allowed: 1 to {LABEL_KEY_BYTES_MAX} bytes without \"=\" and control characters"
    )]
    Key { key: String },
    #[error("the value of label {key:?} has {bytes} bytes: at most {LABEL_VALUE_BYTES_MAX} are allowed")]
    ValueTooLong { key: String, bytes: usize },
    #[error("the value of label {key:?} has control characters")]
    ValueControl { key: String },
    #[error(
        "the label key {key:?} begins with \"{LABEL_RESERVED_PREFIX}\", which is kept for lastword itself"
    )]
    Reserved { key: String },
}

/// Checks a user's labels against their bounds.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), LabelError> {
    if labels.len() > LABELS_MAX {
        return Err(LabelError::TooMany { count: labels.len() });
    }
    for (key, value) in labels {
        if key.is_empty()
            || key.len() > LABEL_KEY_BYTES_MAX
            || key.contains(|c: char| c == '=' || c.is_control())
        {
            return Err(LabelError::Key { key: key.chars().take(LABEL_KEY_BYTES_MAX).collect() });
        }
        if key.starts_with(LABEL_RESERVED_PREFIX) {
            return Err(LabelError::Reserved { key: key.clone() });
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return Err(LabelError::ValueTooLong { key: key.clone(), bytes: value.len() });
        }
        if value.contains(char::is_control) {
            return Err(LabelError::ValueControl { key: key.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, value: &str) -> Result<(), LabelError> {
        check_labels(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn bounds_hold() {
        assert_eq!(check("team", "a=b c"), Ok(()));
        assert_eq!(check("k", ""), Ok(()));
        assert_eq!(check("lastword", "x"), Ok(()));
        let reserved = check("lastword.batch", "x").unwrap_err();
        assert!(reserved.to_string().contains("\"lastword.batch\" begins with \"lastword.\""), "{reserved}");
        assert!(check("", "x").is_err());
        assert!(check("a=b", "x").is_err());
        assert!(check(&"k".repeat(LABEL_KEY_BYTES_MAX + 1), "x").is_err());
        assert!(check("k", &"v".repeat(LABEL_VALUE_BYTES_MAX)).is_ok());
        assert!(check("k", &"v".repeat(LABEL_VALUE_BYTES_MAX + 1)).is_err());
        let error = check("k\n", "x").unwrap_err();
        assert!(error.to_string().contains("\"k\\n\""), "{error}");
        assert!(check("k", "a\u{1b}[0m").is_err());
        let many = (0..=LABELS_MAX).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(check_labels(&many), Err(LabelError::TooMany { count: LABELS_MAX + 1 }));
    }
}

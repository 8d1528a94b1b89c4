//! Small counts in the suite, large ones of the same kind in a soak.

use std::io::Write as _;

/// `large` in a soak, else `small`.
pub(crate) fn count(small: usize, large: usize) -> usize {
    if soaking() { large } else { small }
}

pub(crate) fn soaking() -> bool {
    std::env::var_os("LASTWORD_SOAK").is_some_and(|value| value == "1")
}

/// One row of docs/soak.md.
pub(crate) fn figure(what: &str, figure: &str) {
    let Some(report) = std::env::var_os("LASTWORD_SOAK_REPORT") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(report).unwrap();
    // One write: tests append at the same time.
    file.write_all(format!("{what}\t{figure}\n").as_bytes()).unwrap();
}

//! Signal numbers of Linux (x86-64, arm64, riscv) and their names.

const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The name of a signal, like `SIGKILL`. Real-time signals have only a number: `SIG40`.
pub fn signal_name(number: u8) -> String {
    match number.checked_sub(1).and_then(|index| NAMES.get(usize::from(index))) {
        Some(name) => (*name).to_owned(),
        None => format!("SIG{number}"),
    }
}

/// The number of a signal by the name that [`signal_name`] gives it.
pub fn signal_number(name: &str) -> Option<u8> {
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u8::try_from(index + 1).ok();
    }
    name.strip_prefix("SIG")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_back() {
        for (number, name) in
            [(1, "SIGHUP"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (31, "SIGSYS"), (40, "SIG40")]
        {
            assert_eq!(signal_name(number), name);
        }
        for number in 0..=u8::MAX {
            assert_eq!(signal_number(&signal_name(number)), Some(number));
        }
        assert_eq!(signal_number("KILL"), None);
        assert_eq!(signal_number("SIG300"), None);
    }
}

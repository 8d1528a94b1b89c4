//! What `lastword run` exits with.

use lastword_api::{Execution, ProblemCode, Reason, Status, signal_number};

/// lastword itself failed, or can't vouch for the transcript.
pub(crate) const FAILED: u8 = 125;
/// The command line, or the request, is wrong; as clap has it.
pub(crate) const USAGE: u8 = 2;
/// The command can't be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub(crate) const NOT_FOUND: u8 = 127;
/// The program ran out of time.
pub(crate) const TIMED_OUT: u8 = 124;
/// Added to the number of a signal.
const SIGNAL: u8 = 128;
const SIGINT: u8 = 2;

/// An exit code, with a sentence where the code alone doesn't say enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: u8,
    pub(crate) message: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Outcome {
    fn silent(code: u8) -> Self {
        Self { code, message: None, hint: None }
    }

    fn because(code: u8, message: String) -> Self {
        Self { code, message: Some(message), hint: None }
    }
}

/// Exit code and message for an execution that has ended. `interrupted` is the signal that made us cancel it.
pub(crate) fn outcome(execution: &Execution, interrupted: Option<u8>) -> Outcome {
    if let Some(problem) = &execution.problem {
        let code = match problem.code {
            ProblemCode::CommandNotFound => NOT_FOUND,
            ProblemCode::CommandNotExecutable => NOT_EXECUTABLE,
            _ => FAILED,
        };
        let mut message = problem.message.clone();
        if let Some(backend) =
            problem.backend_message.as_ref().filter(|said| !said.is_empty() && !message.contains(*said))
        {
            message = format!("{message}: {backend}");
        }
        return Outcome { hint: hint(problem.code), ..Outcome::because(code, message) };
    }
    if execution.status == Status::Error || !execution.status.is_terminal() {
        let reason = execution.reason.map_or("unknown", |reason| reason.name());
        return Outcome::because(FAILED, format!("the run ended as {} ({reason})", execution.status.name()));
    }
    if !execution.is_complete() {
        return incomplete(execution);
    }
    match execution.status {
        Status::Cancelled => Outcome::silent(SIGNAL + interrupted.unwrap_or(SIGINT)),
        Status::TimedOut => Outcome::silent(TIMED_OUT),
        _ => Outcome::silent(compiler_code(execution).or_else(|| program_code(execution)).unwrap_or(FAILED)),
    }
}

/// The compiler's exit code, where there is no program to have one. A compiler that was killed for what it used counts as 1.
fn compiler_code(execution: &Execution) -> Option<u8> {
    (execution.reason == Some(Reason::CompileFailed)).then(|| {
        let code = execution.compile.as_ref().and_then(|compile| compile.exit_code);
        code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)
    })
}

/// The program's own exit code, or the one that a shell gives a signal.
fn program_code(execution: &Execution) -> Option<u8> {
    if let Some(code) = execution.exit_code {
        return u8::try_from(code).ok();
    }
    SIGNAL.checked_add(signal_number(execution.signal.as_deref()?)?)
}

fn incomplete(execution: &Execution) -> Outcome {
    let transcript = &execution.transcript;
    let why = transcript.why_incomplete.as_deref().unwrap_or("nobody can say why");
    let dropped = transcript.stdout.dropped > 0 || transcript.stderr.dropped > 0;
    let hint = if dropped {
        "keep more with --output-limit".to_owned()
    } else {
        format!("lastword get {} says more", execution.id)
    };
    let message = format!("the transcript is not complete: {why}");
    Outcome { hint: Some(hint), ..Outcome::because(FAILED, message) }
}

fn hint(code: ProblemCode) -> Option<String> {
    let text = match code {
        ProblemCode::CommandNotFound => "the sandbox has the host's /usr, nothing of /home, /root or /opt",
        ProblemCode::CommandNotExecutable => "name the runtime of a script with --runtime",
        ProblemCode::SandboxUnavailable | ProblemCode::StartFailed => {
            "lastword doctor says what this machine lacks"
        }
        ProblemCode::LimitUnenforced | ProblemCode::OrderingUnavailable => {
            "lastword doctor says what this machine lacks; without --strict the run goes on"
        }
        ProblemCode::StorageFull => "free some space, or choose another disk with --data-dir",
        ProblemCode::ImageUnavailable => "lastword run --help says which images can be named",
        ProblemCode::Lost
        | ProblemCode::Internal
        | ProblemCode::BadRequest
        | ProblemCode::CompileUnavailable => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use lastword_api::{Backend, Limits, Problem, Reason, Timestamp, Transcript};
    use uuid::Uuid;

    use super::*;

    fn ended(status: Status, exit_code: Option<i32>, signal: Option<&str>) -> Execution {
        let mut execution =
            Execution::queued(Uuid::nil(), Timestamp::from_ns(0), Backend::Native, Limits::default());
        execution.status = status;
        execution.exit_code = exit_code;
        execution.signal = signal.map(str::to_owned);
        execution.transcript = Transcript { complete: Some(true), ..Transcript::default() };
        execution
    }

    fn with_problem(code: ProblemCode) -> Execution {
        let mut execution = ended(Status::Error, None, None);
        execution.reason = Some(Reason::StartFailure);
        execution.problem = Some(Problem { code, message: "no such thing".into(), backend_message: None });
        execution
    }

    #[test]
    fn the_table() {
        use Status as S;
        let table = [
            (ended(S::Succeeded, Some(0), None), None, 0),
            (ended(S::Failed, Some(1), None), None, 1),
            (ended(S::Failed, Some(255), None), None, 255),
            (ended(S::Failed, None, Some("SIGSEGV")), None, 139),
            (ended(S::Failed, None, Some("SIGKILL")), None, 137),
            (ended(S::Failed, None, Some("SIG64")), None, 192),
            (ended(S::TimedOut, None, Some("SIGKILL")), None, 124),
            (ended(S::Cancelled, None, Some("SIGKILL")), Some(2), 130),
            (ended(S::Cancelled, None, Some("SIGKILL")), Some(15), 143),
            (ended(S::Cancelled, None, None), None, 130),
            // It ended by itself just before the cancel reached it.
            (ended(S::Succeeded, Some(0), None), Some(2), 0),
            (with_problem(ProblemCode::CommandNotFound), None, 127),
            (with_problem(ProblemCode::CommandNotExecutable), None, 126),
            (with_problem(ProblemCode::StartFailed), None, 125),
            (with_problem(ProblemCode::Lost), None, 125),
            (ended(S::Error, None, None), None, 125),
            (ended(S::Running, None, None), None, 125),
            (ended(S::Failed, None, None), None, 125),
        ];
        for (execution, interrupted, code) in table {
            let outcome = outcome(&execution, interrupted);
            assert_eq!(outcome.code, code, "{:?}", execution);
        }
    }

    #[test]
    fn an_incomplete_transcript_is_never_passed_over() {
        for status in [Status::Succeeded, Status::Failed, Status::TimedOut, Status::Cancelled] {
            for complete in [None, Some(false)] {
                let mut execution = ended(status, Some(0), None);
                execution.transcript.complete = complete;
                execution.transcript.why_incomplete = Some("5 bytes of stdout were dropped".into());
                execution.transcript.stdout.dropped = 5;
                let outcome = outcome(&execution, Some(2));
                assert_eq!(outcome.code, 125);
                assert!(outcome.message.unwrap().contains("5 bytes of stdout were dropped"));
                assert!(outcome.hint.unwrap().contains("--output-limit"));
            }
        }
    }

    #[test]
    fn messages_name_the_problem_and_silence_is_kept_otherwise() {
        let missing = outcome(&with_problem(ProblemCode::CommandNotFound), None);
        assert_eq!(missing.message.as_deref(), Some("no such thing"));
        assert!(missing.hint.is_some());
        assert_eq!(outcome(&ended(Status::TimedOut, None, None), None), Outcome::silent(124));
    }
}

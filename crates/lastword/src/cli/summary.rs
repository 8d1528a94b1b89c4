//! Executions for people: one as a list of what is known, many as a table, and one in a line.

use lastword_api::quantity::format_size;
use lastword_api::{Compile, Execution, StreamSummary, Timestamp};

use super::message::escaped;

/// What `get` shows.
pub(crate) fn of_one(execution: &Execution) -> String {
    let mut rows: Vec<(&str, String)> = vec![("id", execution.id.to_string()), ("status", status(execution))];
    if let Some(code) = execution.exit_code {
        rows.push(("exit code", code.to_string()));
    }
    if let Some(signal) = &execution.signal {
        rows.push(("signal", escaped(signal)));
    }
    if let Some(problem) = &execution.problem {
        let said = problem
            .backend_message
            .iter()
            .fold(problem.message.clone(), |all, said| format!("{all}: {said}"));
        rows.push(("problem", escaped(&said)));
    }
    rows.push(("transcript", transcript(execution)));
    rows.push(("stdout", stream(&execution.transcript.stdout)));
    rows.push(("stderr", stream(&execution.transcript.stderr)));
    rows.push(("runs", runs(execution)));
    if let Some(image) = &execution.image {
        let digest = execution.environment.image_digest.as_deref().unwrap_or("not found");
        rows.push(("image", escaped(&format!("{image}, {digest}"))));
    }
    if let Some(compile) = &execution.compile {
        rows.push(("compile step", compile_step(compile)));
    }
    if !execution.outputs.is_empty() || !execution.outputs_refused.is_empty() {
        rows.push(("outputs", outputs(execution)));
    }
    if let Some(usage) = &execution.usage {
        let cpu = match (usage.cpu_user_ms, usage.cpu_system_ms) {
            (None, None) => String::new(),
            (user, system) => format!(", {:.1} ms of CPU", user.unwrap_or(0.0) + system.unwrap_or(0.0)),
        };
        rows.push(("time", format!("{:.1} ms{cpu}", usage.wall_ms)));
        if let Some(peak) = usage.memory_peak_bytes {
            rows.push(("memory", format!("{} at most", format_size(peak))));
        }
    }
    let lax: Vec<&str> =
        execution.enforced.iter().filter(|(_, held)| !**held).map(|(name, _)| name.field()).collect();
    if !lax.is_empty() {
        rows.push(("not enforced", lax.join(", ")));
    }
    if !execution.labels.is_empty() {
        rows.push(("labels", labels(execution)));
    }
    rows.push(("created", execution.created_at.to_string()));
    if let Some(ended) = execution.ended_at {
        rows.push(("ended", ended.to_string()));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn runs(execution: &Execution) -> String {
    let runtime = execution.runtime.as_deref().unwrap_or("command");
    let version = execution.environment.runtime_version.as_deref().unwrap_or_default();
    escaped(format!("{runtime} {version}").trim_end()) + " on " + execution.backend.name()
}

fn compile_step(compile: &Compile) -> String {
    let ended = match (compile.exit_code, compile.reason) {
        (Some(0), _) => "succeeded".to_owned(),
        (Some(code), _) => format!("failed, exit code {code}"),
        (None, reason) => format!("failed, {}", reason.map_or("unknown", |reason| reason.name())),
    };
    let cached = if compile.cached { ", kept from an earlier run" } else { "" };
    let id = compile.id.map(|id| format!(", {id}")).unwrap_or_default();
    format!("{ended}{cached}{id}")
}

fn outputs(execution: &Execution) -> String {
    let bytes = execution.outputs.iter().map(|file| file.bytes).sum();
    let refused = match execution.outputs_refused.len() {
        0 => String::new(),
        count => format!(", {count} not kept"),
    };
    format!("{} files, {}{refused}", execution.outputs.len(), format_size(bytes))
}

/// What `list` shows.
pub(crate) fn of_many(executions: &[Execution]) -> String {
    let header = ["ID", "STATUS", "REASON", "EXIT", "COMPLETE", "CREATED", "TIME", "RUNTIME", "LABELS"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(executions.iter().map(row));
    table(&rows)
}

/// Rows of the same length, the first of which is the header.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut widths = vec![0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(execution: &Execution) -> Vec<String> {
    let dash = || "-".to_owned();
    let exit = match (execution.exit_code, &execution.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => escaped(signal),
        (None, None) => dash(),
    };
    let complete = match execution.transcript.complete {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    };
    vec![
        execution.id.to_string(),
        execution.status.name().to_owned(),
        execution.reason.map_or_else(dash, |reason| reason.name().to_owned()),
        exit,
        complete.to_owned(),
        seconds(execution.created_at),
        execution.usage.as_ref().map_or_else(dash, |usage| format!("{:.1} ms", usage.wall_ms)),
        execution.runtime.as_deref().map_or_else(dash, escaped),
        labels(execution),
    ]
}

/// What `run --verbose` says at the end.
pub(crate) fn line(execution: &Execution) -> String {
    let time =
        execution.usage.as_ref().map_or_else(String::new, |usage| format!(" in {:.1} ms", usage.wall_ms));
    let end = match (execution.exit_code, &execution.signal) {
        (Some(code), _) => format!(", exit code {code}"),
        (None, Some(signal)) => format!(", {signal}"),
        (None, None) => String::new(),
    };
    format!("{} {}{end}{time}, transcript {}", execution.id, status(execution), transcript(execution))
}

fn status(execution: &Execution) -> String {
    match execution.reason {
        Some(reason) => format!("{} ({})", execution.status.name(), reason.name()),
        None => execution.status.name().to_owned(),
    }
}

fn transcript(execution: &Execution) -> String {
    let transcript = &execution.transcript;
    let whole = match (transcript.complete, &transcript.why_incomplete) {
        (Some(true), _) => "complete".to_owned(),
        (Some(false), why) => {
            format!("NOT complete: {}", escaped(why.as_deref().unwrap_or("nobody can say why")))
        }
        (None, _) => return "not ended".to_owned(),
    };
    let order = match (transcript.ordering, transcript.ordering_until_seq) {
        (None, _) => String::new(),
        (Some(order), None) => format!(", {} order", order.name()),
        (Some(order), Some(seq)) => format!(", {} order, exact before record {seq}", order.name()),
    };
    format!("{whole}{order}, {} records", transcript.records)
}

fn stream(summary: &StreamSummary) -> String {
    let dropped = if summary.dropped > 0 { format!(", {} dropped", summary.dropped) } else { String::new() };
    format!("{} bytes{dropped}", summary.bytes)
}

fn labels(execution: &Execution) -> String {
    let pairs: Vec<String> =
        execution.labels.iter().map(|(key, value)| escaped(&format!("{key}={value}"))).collect();
    pairs.join(",")
}

/// Without the fraction.
pub(super) fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    // The fraction is always there: see Timestamp.
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lastword_api::{Backend, LimitName, Limits, Ordering, Reason, Status, Transcript, Usage};
    use uuid::Uuid;

    use super::*;

    fn failed() -> Execution {
        let mut execution =
            Execution::queued(Uuid::nil(), Timestamp::from_ns(0), Backend::Native, Limits::default());
        execution.status = Status::Failed;
        execution.reason = Some(Reason::Exit);
        execution.exit_code = Some(1);
        execution.transcript = Transcript {
            complete: Some(true),
            ordering: Some(Ordering::Exact),
            records: 2,
            stdout: StreamSummary { bytes: 13, dropped: 0, blake3: None },
            ..Transcript::default()
        };
        execution.usage = Some(Usage { wall_ms: 21.42, cpu_user_ms: Some(11.0), ..Usage::default() });
        execution.runtime = Some("python".into());
        execution.labels = BTreeMap::from([("a".into(), "\u{1b}[2J".into())]);
        execution.enforced = BTreeMap::from([(LimitName::Memory, false), (LimitName::Pids, true)]);
        execution
    }

    #[test]
    fn one() {
        let expected = "\
id            00000000-0000-0000-0000-000000000000
status        failed (exit)
exit code     1
transcript    complete, exact order, 2 records
stdout        13 bytes
stderr        0 bytes
runs          python on native
time          21.4 ms, 11.0 ms of CPU
not enforced  memory_bytes
labels        a=\\u{1b}[2J
created       1970-01-01T00:00:00.000000000Z
";
        assert_eq!(of_one(&failed()), expected);
    }

    #[test]
    fn many() {
        let queued =
            Execution::queued(Uuid::nil(), Timestamp::from_ns(0), Backend::Native, Limits::default());
        let expected = "\
ID                                    STATUS  REASON  EXIT  COMPLETE  CREATED               TIME     RUNTIME  LABELS
00000000-0000-0000-0000-000000000000  failed  exit    1     yes       1970-01-01T00:00:00Z  21.4 ms  python   a=\\u{1b}[2J
00000000-0000-0000-0000-000000000000  queued  -       -     -         1970-01-01T00:00:00Z  -        -
";
        assert_eq!(of_many(&[failed(), queued]), expected);
    }

    #[test]
    fn a_line() {
        let expected = "00000000-0000-0000-0000-000000000000 failed (exit), exit code 1 in 21.4 ms, \
                        transcript complete, exact order, 2 records";
        assert_eq!(line(&failed()), expected);
    }
}

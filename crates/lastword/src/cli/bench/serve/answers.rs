//! What a server says of an execution, compared with what has to come of it.

use anyhow::{Context, ensure};
use lastword_api::{Execution, LogRecord, LogText, Status, Verification};
use reqwest::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::client::Client;
use super::follow::Format;
use super::programs::{Known, Output};

/// The object of one that has ended, with its streams as far as they are inline.
pub(super) fn check_object(known: &Known, execution: &Execution) -> anyhow::Result<()> {
    let id = execution.id;
    let status = if known.exit_code == 0 { Status::Succeeded } else { Status::Failed };
    ensure!(
        execution.status == status,
        "{id} is {:?} and not {status:?}: {:?}",
        execution.status,
        execution.problem
    );
    ensure!(execution.exit_code == Some(known.exit_code), "{id} exited with {:?}", execution.exit_code);
    let why = execution.transcript.why_incomplete.as_deref();
    ensure!(execution.is_complete(), "{id} is not complete: {why:?}");
    let inline = execution.inline.as_ref().with_context(|| format!("{id} comes without its streams"))?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    if inline.inline_truncated {
        return Ok(());
    }
    let output =
        Output { streams: [text(&inline.stdout), text(&inline.stderr)], together: text(&inline.output) };
    known.expected.check(&output).with_context(|| id.to_string())
}

/// Everything that the server has of one that has ended, each compared with the others. Returns what it wrote.
pub(super) async fn check_stored(client: &Client, id: Uuid, known: &Known) -> anyhow::Result<Output> {
    let execution: Execution = client.get(&format!("/v1/executions/{id}")).await?;
    check_object(known, &execution)?;
    let output = stored_log(client, id).await.with_context(|| format!("the log of {id}"))?;
    known.expected.check(&output).with_context(|| format!("the log of {id}"))?;
    let summaries = [&execution.transcript.stdout, &execution.transcript.stderr];
    for (summary, bytes) in summaries.into_iter().zip(&output.streams) {
        let hash = blake3::hash(bytes).to_hex().to_string();
        ensure!(summary.blake3.as_ref() == Some(&hash), "{id}: a stream is not what was sealed");
    }
    let path = format!("/v1/executions/{id}/verify");
    let verification: Verification = client.post(&path, &json!({})).await?.expect(StatusCode::OK)?.json()?;
    ensure!(verification.ok && verification.complete, "{id}: {verification:?}");
    Ok(output)
}

async fn stored_log(client: &Client, id: Uuid) -> anyhow::Result<Output> {
    let path = format!("/v1/executions/{id}/logs");
    let answer = client.get_as(&path, Format::Lines.media_type()).await?;
    let mut output = Output::default();
    for (place, line) in answer.body.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let record: LogRecord = serde_json::from_slice(line)?;
        ensure!(record.seq == place as u64, "record {} stands at place {place}", record.seq);
        let LogText::Log(text) = record.text else { anyhow::bail!("record {place} is no text") };
        output.push(record.stream, text.as_bytes());
    }
    Ok(output)
}

/// What a request made, for one that was taken and not waited for.
pub(super) async fn submit(client: &Client, request: &serde_json::Value) -> anyhow::Result<Uuid> {
    let answer = client.post("/v1/executions", request).await?.expect(StatusCode::ACCEPTED)?;
    let execution: Execution = answer.json()?;
    Ok(execution.id)
}

#[cfg(test)]
mod tests {
    use super::super::programs::{Expected, python};
    use super::*;

    #[test]
    fn a_wrong_object_is_seen() {
        let known = python(5);
        let Expected::Exactly(output) = &known.expected else { unreachable!() };
        let id = Uuid::now_v7();
        let mut execution = Execution::queued(
            id,
            lastword_api::Timestamp::now(),
            lastword_api::Backend::Native,
            lastword_api::Limits::default(),
        );
        execution.status = Status::Failed;
        execution.exit_code = Some(1);
        execution.transcript.complete = Some(true);
        let [out, err] = &output.streams;
        execution.inline = Some(lastword_api::Inline::new(out, err, &output.together, 1000));
        assert!(check_object(&known, &execution).is_ok());
        let spoilt: [fn(&mut Execution); 4] = [
            |execution| execution.status = Status::Succeeded,
            |execution| execution.exit_code = Some(2),
            |execution| execution.transcript.complete = Some(false),
            |execution| execution.inline = Some(lastword_api::Inline::new(b"first 5\n", b"", b"", 1000)),
        ];
        for spoil in spoilt {
            let mut other = execution.clone();
            spoil(&mut other);
            assert!(check_object(&known, &other).is_err(), "{other:?}");
        }
        assert!(check_object(&python(9), &execution).is_err());
    }
}

//! `GET /v1/executions/{id}/files/{path}`: one output file.

use std::io::{self, Read};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use lastword_api::ErrorCode;
use lastword_store::Outputs;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::App;
use super::answer::{ExecutionId, find};
use super::auth::Reads;
use super::body::OCTETS;
use super::limits::FILE_CHUNK_BYTES;
use super::problem::{Problem, too_busy};
use super::query::{Query, percent_decoded};
use crate::stored;

/// Chunks on their way to a client.
const CHUNKS: usize = 2;

/// `GET /v1/executions/{id}/files/{path}`
pub(super) async fn file(
    State(app): State<App>,
    Reads(caller): Reads,
    ExecutionId(id): ExecutionId,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let path = path(&uri).ok_or_else(|| no_file(b""))?;
    let (outputs, index) = app
        .blocking(move |service| {
            find(service.store(), id, &caller)?;
            let outputs = service.store().outputs(id)?;
            let index = stored::output(&outputs, &path).ok_or_else(|| no_file(&path))?;
            Ok((outputs, index))
        })
        .await?;
    let Some(file) = outputs.files().get(index) else { return Err(no_file(b"")) };
    let digest: String = file.blake3.iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = [
        (CONTENT_TYPE, OCTETS.to_owned()),
        (CONTENT_LENGTH, file.bytes.to_string()),
        (CONTENT_DISPOSITION, disposition(&file.path)),
        (CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'".to_owned()),
        (ETAG, format!("\"blake3-{digest}\"")),
    ];
    let permit = app.0.downloads.clone().try_acquire_owned().map_err(|_| too_busy("downloads"))?;
    Ok((StatusCode::OK, headers, [("blake3", digest)], body(outputs, index, permit)).into_response())
}

/// As it stands in the URL, byte for byte: it need not be UTF-8.
fn path(uri: &Uri) -> Option<Vec<u8>> {
    let mut parts = uri.path().splitn(6, '/').skip(5);
    percent_decoded(parts.next()?, false)
}

fn no_file(path: &[u8]) -> Problem {
    let detail = format!("no output file \"{}\" was kept", path.escape_ascii());
    Problem::new(ErrorCode::FileNotFound, detail)
}

/// The name to save it under. Its bytes are the program's: each but the plainest is escaped (RFC 6266, RFC 8187).
fn disposition(path: &[u8]) -> String {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let escaped: String = name
        .iter()
        .map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("attachment; filename*=UTF-8''{escaped}")
}

/// Read by a thread that is at most so many chunks ahead. Without the last chunk, which waits for the verdict on all bytes,
/// nobody takes a file for whole that isn't.
fn body(outputs: Outputs, index: usize, permit: OwnedSemaphorePermit) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let sent = send(&outputs, index, &mut |chunk| sender.blocking_send(Ok(chunk)).is_ok());
        if let Err(error) = sent {
            tracing::error!(%error, "an output file can't be read");
            let _ = sender.blocking_send(Err(error));
        }
    });
    let next = |mut receiver: mpsc::Receiver<_>| async move { Some((receiver.recv().await?, receiver)) };
    Body::from_stream(unfold(receiver, next))
}

/// Until `give` says that nobody takes any more.
fn send(outputs: &Outputs, index: usize, give: &mut dyn FnMut(Bytes) -> bool) -> io::Result<()> {
    let mut reader = outputs.open(index).ok_or_else(|| io::Error::other("there is no such file"))?;
    let mut last = Bytes::new();
    loop {
        let mut buffer = vec![0; FILE_CHUNK_BYTES];
        match reader.read(&mut buffer) {
            Ok(0) => {
                give(last);
                return Ok(());
            }
            Ok(count) => {
                buffer.truncate(count);
                let before = std::mem::replace(&mut last, buffer.into());
                if !before.is_empty() && !give(before) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use lastword_api::{Backend, Execution, Limits, Timestamp};
    use lastword_store::Store;
    use uuid::Uuid;

    use super::*;
    use crate::cli::stored_tests::with_outputs;

    /// What is given out of a file of these bytes whose pack holds others.
    fn given(sealed: &[u8], kept: &[u8]) -> (Vec<u8>, io::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut execution =
            Execution::queued(Uuid::now_v7(), Timestamp::from_ns(0), Backend::Native, Limits::default());
        with_outputs(&store, &mut execution, &[(b"a", sealed)]);
        let pack = std::fs::read_dir(dir.path().join("outputs")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(pack, kept).unwrap();
        let mut all = Vec::new();
        let outputs = store.outputs(execution.id).unwrap();
        let sent = send(&outputs, 0, &mut |chunk| {
            all.extend_from_slice(&chunk);
            true
        });
        (all, sent)
    }

    #[test]
    fn nobody_takes_a_file_for_whole_that_is_not() {
        let long = vec![b'x'; FILE_CHUNK_BYTES + 10];
        let (all, sent) = given(&long, &long);
        assert!(all == long && sent.is_ok());
        let mut other = long.clone();
        *other.first_mut().unwrap() = b'y';
        let (all, sent) = given(&long, &other);
        assert!(all.len() < long.len() && sent.is_err(), "{} {sent:?}", all.len());
        let (all, sent) = given(b"short", b"other");
        assert!(all.is_empty() && sent.is_err());
    }

    #[test]
    fn a_path_is_taken_as_bytes() {
        let of = |tail: &str| {
            let uri: Uri = format!("/v1/executions/0190/files/{tail}").parse().unwrap();
            path(&uri)
        };
        assert_eq!(of("out/a.txt").as_deref(), Some(&b"out/a.txt"[..]));
        assert_eq!(of("%2Ftmp/x+y").as_deref(), Some(&b"/tmp/x+y"[..]));
        assert_eq!(of("/tmp/x").as_deref(), Some(&b"/tmp/x"[..]));
        assert_eq!(of("%ff").as_deref(), Some(&b"\xff"[..]));
        assert_eq!(of("%f"), None);
    }

    #[test]
    fn a_name_cannot_leave_its_header() {
        assert_eq!(disposition(b"out/a.txt"), "attachment; filename*=UTF-8''a.txt");
        assert_eq!(disposition(b"a\"\r\nb\xff;"), "attachment; filename*=UTF-8''a%22%0D%0Ab%FF%3B");
    }
}

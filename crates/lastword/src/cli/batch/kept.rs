//! Results that an earlier process wrote to a file: what of them stays, so that the rest is appended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use lastword_api::{Reason, Retry, Status};
use serde::Deserialize;
use uuid::Uuid;

use super::journal::lock;
use super::limits::RESULT_BYTES_MAX;
use super::progress::{Tally, Verdict};
use super::resume::{Past, State, belongs_to};
use crate::cli::exit;
use crate::cli::message::Advice;

/// The rows whose results stay.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Of results in order: the first row that has none.
    pub(super) next: u64,
    /// Of results as they ended.
    rows: HashSet<u64>,
    pub(super) tally: Tally,
}

impl Kept {
    pub(super) fn has(&self, row: u64) -> bool {
        row < self.next || self.rows.contains(&row)
    }
}

/// What is read of a line.
#[derive(Deserialize)]
struct Seen {
    row: u64,
    id: Option<Uuid>,
    status: Status,
    reason: Option<Reason>,
    retry: Retry,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    transcript: Option<SeenTranscript>,
}

#[derive(Deserialize)]
struct SeenTranscript {
    complete: Option<bool>,
    stdout: SeenStream,
    stderr: SeenStream,
}

#[derive(Deserialize)]
struct SeenStream {
    dropped: u64,
}

impl Seen {
    fn verdict(&self) -> Verdict {
        let vouched = self.transcript.as_ref().is_none_or(|transcript| {
            transcript.complete == Some(true)
                || self.reason == Some(Reason::OutputLimit)
                || transcript.stdout.dropped + transcript.stderr.dropped > 0
        });
        let again = self.status == Status::Error && self.retry.safe && !self.retry.program_started;
        Verdict { status: self.status, reason: self.reason, vouched, again }
    }
}

/// Opens the file for results, and takes it for us alone.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    let cannot = || format!("cannot open {} for the results", path.display());
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path);
    // What can only be written is no file that is resumed.
    let file = match file {
        Err(_) if std::fs::metadata(path).is_ok_and(|of| !of.is_file()) => {
            OpenOptions::new().append(true).open(path).with_context(cannot)?
        }
        file => file.with_context(cannot)?,
    };
    if is_regular(&file)? && !lock(&file).with_context(cannot)? {
        return Err(anyhow!("another lastword process writes to {}", path.display()));
    }
    Ok(file)
}

fn is_regular(file: &File) -> anyhow::Result<bool> {
    Ok(file.metadata().context("cannot look at the file for the results")?.is_file())
}

/// A new batch takes no file that holds something.
pub(super) fn refuse_old(file: &File, path: &Path) -> anyhow::Result<()> {
    if is_regular(file)? && file.metadata()?.len() > 0 {
        return Err(anyhow!("{} is not empty, and this is a new batch", path.display()))
            .hint("--resume goes on with it; else remove it or name another file")
            .code(exit::USAGE);
    }
    Ok(())
}

/// Keeps the results at the beginning of the file that are whole, of this batch, each of another row, and final; cuts the
/// rest off. What is cut is in the store, and is written again.
pub(super) fn keep(
    mut file: &File,
    path: &Path,
    batch: Uuid,
    past: &HashMap<u64, Past>,
    as_they_end: bool,
) -> anyhow::Result<Kept> {
    let mut kept = Kept::default();
    if !is_regular(file)? {
        return Ok(kept);
    }
    let cannot = || format!("cannot read the results in {}", path.display());
    file.seek(SeekFrom::Start(0)).with_context(cannot)?;
    let mut reader = BufReader::new(file);
    let mut good = 0;
    while let Some(line) = whole_line(&mut reader).with_context(cannot)? {
        let seen: Seen = match serde_json::from_slice(&line) {
            Ok(seen) => seen,
            // A power cut may leave anything behind what was synced.
            Err(_) if good > 0 || line.iter().all(|byte| [0, b'\n'].contains(byte)) => break,
            Err(_) => return Err(foreign(path, batch)),
        };
        if seen.id.is_some() && belongs_to(&seen.labels).is_none_or(|(of, _)| of != batch) {
            return Err(foreign(path, batch));
        }
        let verdict = seen.verdict();
        // Another execution is the row's result now, or the end of this one is known by now.
        let other = past.get(&seen.row).is_some_and(|past| {
            seen.id != Some(past.id) || (seen.status == Status::Error && past.state != State::Failed)
        });
        let in_turn = if as_they_end { !kept.has(seen.row) } else { seen.row == kept.next };
        if verdict.again || other || !in_turn {
            break;
        }
        good += line.len() as u64;
        kept.tally.add(seen.row, &verdict);
        if as_they_end {
            kept.rows.insert(seen.row);
        } else {
            kept.next += 1;
        }
    }
    let cut = || format!("cannot cut the last results in {}", path.display());
    file.set_len(good).and_then(|()| file.sync_all()).with_context(cut)?;
    Ok(kept)
}

fn foreign(path: &Path, batch: Uuid) -> anyhow::Error {
    let error: anyhow::Result<()> =
        Err(anyhow!("{} holds something else than the results of batch {batch}", path.display()))
            .hint("name another file with --out; nothing was changed")
            .code(exit::USAGE);
    match error {
        Err(error) => error,
        Ok(()) => anyhow!("unreachable"),
    }
}

/// The next line with its end. `None`: there is none, or it was torn.
fn whole_line(reader: &mut BufReader<&File>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.by_ref().take(RESULT_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    Ok(line.ends_with(b"\n").then_some(line))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::batch::resume::mark;
    use crate::cli::batch::rows::Digest;

    struct Bench {
        dir: tempfile::TempDir,
        batch: Uuid,
        past: HashMap<u64, Past>,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { dir: tempfile::tempdir().unwrap(), batch: Uuid::now_v7(), past: HashMap::new() }
        }

        fn line(&mut self, row: u64, status: &str, safe: bool) -> String {
            let id = Uuid::now_v7();
            let state = if status == "error" { State::Failed } else { State::Ended };
            self.past.insert(row, Past { id, line: Digest::of(b""), state });
            let mut labels = BTreeMap::new();
            mark(&mut labels, self.batch, row, Digest::of(b""));
            let retry = Retry { safe, program_started: !safe };
            let stream = serde_json::json!({"dropped": 0});
            let transcript = serde_json::json!({"complete": true, "stdout": stream, "stderr": stream});
            let value = serde_json::json!({"row": row, "id": id, "status": status, "reason": "exit", "retry": retry,
                "labels": labels, "transcript": transcript});
            format!("{value}\n")
        }

        /// The bytes and rows that stay.
        fn keep(&self, text: &str, as_they_end: bool) -> anyhow::Result<(usize, u64)> {
            let path = self.dir.path().join("out");
            std::fs::write(&path, text).unwrap();
            let mut file = open(&path)?;
            let kept = keep(&file, &path, self.batch, &self.past, as_they_end)?;
            let stays = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(&stays));
            file.write_all(b"more").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{stays}more"));
            Ok((stays.len(), kept.tally.rows))
        }
    }

    #[test]
    fn whole_results_stay_and_a_torn_one_goes() {
        let mut bench = Bench::new();
        let (first, second) = (bench.line(0, "failed", false), bench.line(1, "succeeded", false));
        let both = format!("{first}{second}");
        let ends = [first.len() - 1, first.len(), both.len() - 1, both.len()];
        for cut in (0..both.len()).step_by(29).chain(ends) {
            let (bytes, rows) = match cut {
                cut if cut < first.len() => (0, 0),
                cut if cut < both.len() => (first.len(), 1),
                _ => (both.len(), 2),
            };
            assert_eq!(bench.keep(&both[..cut], false).unwrap(), (bytes, rows), "{cut}");
        }
    }

    #[test]
    fn what_is_not_final_or_out_of_turn_goes() {
        let mut bench = Bench::new();
        let (zero, one, two) =
            (bench.line(0, "failed", false), bench.line(1, "error", true), bench.line(2, "failed", false));
        assert_eq!(bench.keep(&format!("{zero}{one}{two}"), false).unwrap(), (zero.len(), 1));
        assert_eq!(bench.keep(&format!("{zero}{two}"), false).unwrap(), (zero.len(), 1));
        assert_eq!(bench.keep(&format!("{two}{zero}"), false).unwrap(), (0, 0));
        assert_eq!(bench.keep(&format!("{two}{zero}"), true).unwrap().1, 2);
        assert_eq!(bench.keep(&format!("{two}{zero}{two}"), true).unwrap().1, 2);
        // What could not be kept then has its true end by now.
        let lost = bench.line(0, "error", false);
        assert_eq!(bench.keep(&lost, false).unwrap().1, 1);
        bench.past.get_mut(&0).unwrap().state = State::Ended;
        assert_eq!(bench.keep(&lost, false).unwrap().1, 0);
        // Another execution is the row's result now.
        bench.line(0, "failed", false);
        assert_eq!(bench.keep(&format!("{zero}{two}"), true).unwrap(), (0, 0));
    }

    #[test]
    fn a_row_without_execution_stays() {
        let bench = Bench::new();
        let bad = r#"{"row":0,"id":null,"status":"error","reason":null,"ok":false,"problem":{"code":"bad_request","message":"m","backend_message":null},"retry":{"safe":false,"program_started":false}}"#;
        assert_eq!(bench.keep(&format!("{bad}\n"), false).unwrap().1, 1);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let mut other = Bench::new();
        let bench = Bench::new();
        let theirs = other.line(0, "failed", false);
        for text in ["my notes\n", "{}\n", &theirs] {
            let path = bench.dir.path().join("out");
            std::fs::write(&path, text).unwrap();
            let error = keep(&open(&path).unwrap(), &path, bench.batch, &bench.past, false).unwrap_err();
            assert!(error.chain().any(|cause| cause.to_string().contains("something else")), "{error:#}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let (path, none) = (bench.dir.path().join("out"), bench.dir.path().join("none"));
        assert!(refuse_old(&open(&path).unwrap(), &path).is_err());
        assert!(refuse_old(&open(&none).unwrap(), &none).is_ok());
    }
}

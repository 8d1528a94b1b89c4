//! Reads everything again and says what it is worth.

use std::collections::BTreeSet;

use lastword_frame::Stream;
use lastword_frame::verify::{Report, Verifier};
use uuid::Uuid;

use crate::disk::DiskFile;
use crate::entry::{Head, SEGMENT_HEADER_BYTES};
use crate::index::{Progress, State};
use crate::orphans::never_started;
use crate::recover::read_failed;
use crate::scan::{self, Item};
use crate::segment::Reader;
use crate::spool::{self, Taken};
use crate::transcript::SegmentSource;
use crate::types::{Entry, SegmentsReport, Verdict};
use crate::{Error, Store};

impl Store {
    pub(crate) fn verify_one(&self, id: Uuid) -> Result<Verdict, Error> {
        let (entry, place) = self.shelf.index.get(id)?.ok_or(Error::NotFound { id })?;
        let mut verdict = Verdict::default();
        match self.read_request(id) {
            Err(error @ Error::Corrupt { .. }) => verdict.problems.push(error.to_string()),
            result => drop(result?),
        }
        let Some(place) = place else {
            verdict.why_incomplete = Some("it has not ended".into());
            return Ok(verdict);
        };
        let mut verifier = Verifier::new();
        match self.read_all(id, place, &mut verifier, &mut verdict) {
            Ok(Some((meta, object)))
                if !entry.damaged && (&meta, &object) != (&entry.meta, &entry.object) =>
            {
                verdict.problems.push("the index does not say what the segment says".into());
            }
            Ok(_) => {}
            Err(error @ Error::Corrupt { .. }) => verdict.problems.push(error.to_string()),
            Err(error) => return Err(error),
        }
        let report = verifier.finish();
        if let Some(seal) = &report.seal {
            self.verify_outputs(id, seal, &mut verdict)?;
        }
        judge(&entry, &report, &mut verdict);
        // Removed, and its bytes with it, while we read them: that is no damage.
        if !verdict.problems.is_empty() && self.shelf.index.get(id)?.is_none() {
            return Err(Error::NotFound { id });
        }
        Ok(verdict)
    }

    fn read_all(
        &self,
        id: Uuid,
        place: crate::index::Place,
        verifier: &mut Verifier,
        verdict: &mut Verdict,
    ) -> Result<Option<(crate::Meta, Vec<u8>)>, Error> {
        let mut source = SegmentSource::open(&self.shelf, id, place)?;
        loop {
            let chunk = source.next_chunk()?;
            if chunk.is_empty() {
                return Ok(source.end().cloned());
            }
            verdict.transcript_bytes += chunk.len() as u64;
            verifier.push(chunk);
        }
    }

    pub(crate) fn verify_all_segments(&self) -> Result<SegmentsReport, Error> {
        let mut report = SegmentsReport::default();
        let known = self.shelf.index.all_progress()?;
        let removed: BTreeSet<Uuid> = self.shelf.index.tombstones()?.into_iter().collect();
        let there = self.shelf.segments()?;
        for progress in known.values() {
            if there.binary_search(&progress.segment).is_err() {
                report
                    .problems
                    .push(format!("{} is gone", self.shelf.layout.segment(progress.segment).display()));
            }
        }
        for id in there {
            report.segments += 1;
            match Reader::open(&*self.shelf.disk, &self.shelf.layout, id) {
                Ok(reader) => self.verify_segment(&reader, known.get(&id), &removed, &mut report)?,
                Err(Error::Corrupt { path, what }) => {
                    report.problems.push(format!("{} is damaged: {what}", path.display()));
                }
                Err(error) => return Err(error),
            }
        }
        self.verify_spools(&mut report)?;
        self.verify_packs(&mut report)?;
        Ok(report)
    }

    fn verify_segment(
        &self,
        reader: &Reader,
        progress: Option<&Progress>,
        removed: &BTreeSet<Uuid>,
        report: &mut SegmentsReport,
    ) -> Result<(), Error> {
        let path = reader.path.display();
        let (file, head): (&dyn DiskFile, &Head) = (&*reader.file, &reader.head);
        let len = file.size().map_err(|error| Error::io("look at", &reader.path, error))?;
        let from = SEGMENT_HEADER_BYTES as u64;
        // Behind the indexed length its writer may be in the middle of an append.
        let indexed = progress.map_or(len, |progress| progress.indexed);
        if len < indexed {
            report.problems.push(format!("{path} has {len} bytes of {indexed} that were durable"));
        }
        let to = len.min(indexed).max(from);
        report.bytes += to;
        let scanned = scan::scan(file, head, from, to, &mut |item| {
            match item {
                Item::Damage(damage) if damage.never_acknowledged => report.notes.push(format!(
                    "{path}: bytes {} to {} are left from a power cut; nobody was told of them",
                    damage.from, damage.to
                )),
                Item::Damage(damage) => report
                    .problems
                    .push(format!("{path}: bytes {} to {} are damaged", damage.from, damage.to)),
                Item::End(end) if !end.whole && !removed.contains(&end.id) => {
                    report.problems.push(format!("{path}: the transcript of execution {} is damaged", end.id))
                }
                Item::End(end) => self.check_known(end.id, removed, report)?,
                Item::State(state) if !state.whole() && !removed.contains(&state.id) => {
                    report.problems.push(format!("{path}: the request of execution {} is damaged", state.id))
                }
                Item::State(state) => self.check_known(state.id, removed, report)?,
                Item::Tombstone { .. } => {}
            }
            Ok(())
        });
        let scanned = scanned.map_err(|error| read_failed(&reader.path, error))?;
        report.entries += scanned.entries;
        if scanned.good_to < to {
            let text =
                format!("{path}: bytes {} to {to} are damaged, or were cut by a crash", scanned.good_to);
            report.problems.push(text);
        }
        Ok(())
    }

    fn check_known(
        &self,
        id: Uuid,
        removed: &BTreeSet<Uuid>,
        report: &mut SegmentsReport,
    ) -> Result<(), Error> {
        if !removed.contains(&id) && self.shelf.index.state(id)? == State::Unknown {
            report.problems.push(format!("execution {id} is in a segment and not in the index"));
        }
        Ok(())
    }

    fn verify_spools(&self, report: &mut SegmentsReport) -> Result<(), Error> {
        for id in spool::ids(&self.shelf.layout)? {
            match spool::try_take(&self.shelf.layout, id) {
                Ok(Taken::Locked(spool))
                    if self.shelf.index.state(id)? == State::Unknown && !never_started(&spool)? =>
                {
                    let path = spool.path.display();
                    report
                        .problems
                        .push(format!("{path} has the bytes of an execution whose record is lost"));
                }
                Ok(_) => {}
                Err(error) => report.problems.push(error.to_string()),
            }
        }
        Ok(())
    }
}

/// Compares what was read with what is claimed.
fn judge(entry: &Entry, report: &Report, verdict: &mut Verdict) {
    verdict.records = report.records;
    verdict.stdout_bytes = report.streams[Stream::Stdout.index()].bytes;
    verdict.stderr_bytes = report.streams[Stream::Stderr.index()].bytes;
    verdict.why_incomplete = report.why_incomplete.clone();
    if let Some(begin) = &report.begin
        && begin.id != *entry.id.as_bytes()
    {
        let problem =
            format!("its transcript says that it belongs to execution {}", Uuid::from_bytes(begin.id));
        verdict.problems.push(problem);
    }
    if entry.meta.complete == Some(true)
        && let Some(why) = &report.why_incomplete
    {
        verdict.problems.push(format!("it claims to be complete, and is not: {why}"));
    }
    if let Some(problem) = verdict.problems.first() {
        verdict.why_incomplete = Some(problem.clone());
    }
    verdict.complete = verdict.why_incomplete.is_none();
}

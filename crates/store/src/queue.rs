//! Executions that wait for their turn, and their requests. `docs/spec/store.md`, Waiting.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::commit::{Job, RowOf};
use crate::entry::{self, Batch, ENTRY_HEADER_BYTES, Header, Kind};
use crate::finish::check_size;
use crate::index::{Place, State};
use crate::layout::now_ns;
use crate::limits::{
    CHUNK_BYTES_MAX, GROUP_BYTES_MAX, REQUEST_BYTES_MAX, SECRET_BYTES_MAX, SECRETS_AT_ONCE_MAX,
    TAILS_WAIT_MAX,
};
use crate::secret::SecretLock;
use crate::segment::Reader;
use crate::types::{Meta, Waiting};
use crate::{Error, Store};

const TAILS_PAUSE: Duration = Duration::from_millis(10);

/// What goes into one group: the items, by their place in the call, and their jobs.
#[derive(Default)]
struct Portion<'a> {
    places: Vec<usize>,
    items: Vec<&'a Waiting<'a>>,
    jobs: Vec<Job>,
    bytes: usize,
    secrets: usize,
}

impl Store {
    pub(crate) fn accept_all(&self, waiting: &[Waiting<'_>]) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = waiting.iter().map(|_| Ok(())).collect();
        let mut seen = BTreeSet::new();
        let mut portion = Portion::default();
        for (place, item) in waiting.iter().enumerate() {
            let job = if seen.insert(item.id) {
                self.waiting_job(item)
            } else {
                Err(Error::Exists { id: item.id })
            };
            match job {
                Ok(job) => {
                    portion.bytes += job.batch.len();
                    portion.secrets += usize::from(item.secret.is_some());
                    portion.places.push(place);
                    portion.items.push(item);
                    portion.jobs.push(job);
                }
                Err(error) => results[place] = Err(error),
            }
            // So that a call of any length is in memory twice only in part, and needs few descriptors.
            if portion.bytes >= GROUP_BYTES_MAX || portion.secrets >= SECRETS_AT_ONCE_MAX {
                self.accept_portion(std::mem::take(&mut portion), &mut results);
            }
        }
        self.accept_portion(portion, &mut results);
        results
    }

    fn accept_portion(&self, mut portion: Portion<'_>, results: &mut [Result<(), Error>]) {
        // Held until the rows are there: a secret whose execution nobody knows belongs to an acceptor that is at work.
        let secrets = self.write_secrets(&portion.items);
        let mut locks: Vec<SecretLock> = Vec::new();
        let mut places = Vec::with_capacity(portion.places.len());
        let mut jobs = Vec::with_capacity(portion.jobs.len());
        for ((place, job), secret) in portion.places.drain(..).zip(portion.jobs.drain(..)).zip(secrets) {
            match secret {
                Ok(lock) => {
                    locks.extend(lock);
                    places.push(place);
                    jobs.push(job);
                }
                Err(error) => results[place] = Err(error),
            }
        }
        for (place, result) in places.into_iter().zip(self.group.submit_all(jobs)) {
            results[place] = result;
        }
        // That of one that failed stays, too: its accept may stand on disk without a row, and turn up. If not, it is swept.
        drop(locks);
    }

    fn waiting_job(&self, item: &Waiting<'_>) -> Result<Job, Error> {
        let id = item.id;
        let parts = [
            ("request", item.request.len(), REQUEST_BYTES_MAX),
            ("secret", item.secret.map_or(0, <[u8]>::len), SECRET_BYTES_MAX),
        ];
        for (what, bytes, max) in parts {
            if bytes > max {
                return Err(Error::TooLarge { id, what, bytes, max });
            }
        }
        if self.shelf.index.state(id)? != State::Unknown {
            return Err(Error::Exists { id });
        }
        let time_ns = now_ns();
        let mut batch = Batch::default();
        // One piece, if an empty one, so that there is always something before the accept.
        let pieces = item.request.len().div_ceil(CHUNK_BYTES_MAX).max(1);
        for piece in 0..pieces {
            let position = piece * CHUNK_BYTES_MAX;
            let end = item.request.len().min(position + CHUNK_BYTES_MAX);
            batch.push(Kind::Request, id, time_ns, position as u64, &item.request[position..end]);
        }
        let request_bytes = batch.len() as u64;
        let payload = entry::encode_state(item.meta, item.object, Some(request_bytes));
        check_size(id, &payload)?;
        batch.push(Kind::Waiting, id, time_ns, item.request.len() as u64, &payload);
        let (meta, object) = (item.meta.clone(), item.object.to_vec());
        let request_bytes = Some(request_bytes);
        let row = RowOf::Live { time_ns, meta, object, accept: true, request_bytes };
        Ok(Job { id, batch, row, sync: true })
    }

    pub(crate) fn list_waiting(&self) -> Result<Vec<(Uuid, Meta)>, Error> {
        let since = Instant::now();
        loop {
            // Before the rows: an entry that is in no tail any more has its row by then.
            let unindexed = self.shelf.unindexed()?;
            let mut rows = self.shelf.index.waiting()?;
            let all = rows.len();
            rows.retain(|(id, _)| !unindexed.contains_key(id));
            if rows.len() == all || since.elapsed() >= TAILS_WAIT_MAX {
                return Ok(rows);
            }
            std::thread::sleep(TAILS_PAUSE);
            // Its holder may have died.
            self.shelf.catch_up()?;
        }
    }

    pub(crate) fn read_request(&self, id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        let Some(place) = self.shelf.index.request_place(id)? else { return Ok(None) };
        let reader = Reader::open(&*self.shelf.disk, &self.shelf.layout, place.segment)?;
        match read_pieces(&reader, id, place) {
            // Removed, and punched out, while we read it.
            Err(Error::Corrupt { .. }) if self.shelf.index.request_place(id)?.is_none() => Ok(None),
            result => result.map(Some),
        }
    }
}

/// Reads and checks the pieces of a request and the header of the accept behind them.
fn read_pieces(reader: &Reader, id: Uuid, place: Place) -> Result<Vec<u8>, Error> {
    let mut request = Vec::new();
    let mut at = place.start;
    loop {
        let corrupt = |what: &str| {
            let what = format!("at byte {at}, the request of execution {id}: {what}");
            Error::Corrupt { path: reader.path.clone(), what }
        };
        let read = |buffer: &mut [u8], at| {
            reader.file.read_exact_at(buffer, at).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => corrupt("the file ends there"),
                _ => Error::io("read", &reader.path, error),
            })
        };
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        read(&mut bytes, at)?;
        let header = Header::decode(&bytes, &reader.head, at)
            .ok_or_else(|| corrupt("the header of an entry is wrong"))?;
        let expected = if at == place.at { Kind::Waiting } else { Kind::Request };
        if header.id != id || header.kind != expected || header.position != request.len() as u64 {
            return Err(corrupt("an entry of something else stands there"));
        }
        if header.kind == Kind::Waiting {
            return Ok(request);
        }
        if request.len() + header.raw_bytes() > REQUEST_BYTES_MAX {
            return Err(corrupt("it is longer than any request"));
        }
        let mut stored = vec![0; header.stored_bytes];
        read(&mut stored, at + ENTRY_HEADER_BYTES as u64)?;
        request.extend_from_slice(&header.unpack(&stored).map_err(corrupt)?);
        at += header.entry_bytes();
    }
}

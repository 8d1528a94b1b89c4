//! Packs: the output files of one execution, one behind the other, in the order of its seal and with nothing between.
//!
//! A supervisor fills a pack and syncs it before it writes the seal that names its files. What isn't named by a seal is
//! nothing: the pack of a run without a seal is removed with its end. Rules: `docs/spec/store.md`, Packs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use lastword_frame::binary::Decoder;
use lastword_frame::{Frame, OutputFile, Seal};
use rustix::fs::OFlags;
use uuid::Uuid;

use crate::disk::Access;
use crate::index::State;
use crate::layout;
use crate::limits::PACK_READ_BYTES;
use crate::spool;
use crate::transcript::Transcript;
use crate::types::{Pack, SegmentsReport, Verdict};
use crate::{Error, Store};

/// The output files of an ended execution, as its seal lists them.
#[derive(Debug)]
pub struct Outputs {
    files: Vec<OutputFile>,
    /// None when there is nothing in it to read.
    pack: Option<File>,
}

impl Outputs {
    /// In the order of their paths. A path is relative to `/work`, or absolute when the file was elsewhere.
    pub fn files(&self) -> &[OutputFile] {
        &self.files
    }

    /// The bytes of one of [`Outputs::files`]; `None` past the last.
    pub fn open(&self, index: usize) -> Option<OutputReader<'_>> {
        let file = self.files.get(index)?;
        let at = self.files[..index].iter().fold(0u64, |sum, before| sum.saturating_add(before.bytes));
        Some(OutputReader {
            file,
            pack: self.pack.as_ref(),
            at,
            left: file.bytes,
            hasher: blake3::Hasher::new(),
            checked: false,
        })
    }
}

/// Reads one output file and compares it with its seal: the last read fails with `InvalidData` if the bytes before it are not
/// those that were sealed, and with `UnexpectedEof` if some are missing.
#[derive(Debug)]
pub struct OutputReader<'a> {
    file: &'a OutputFile,
    pack: Option<&'a File>,
    at: u64,
    left: u64,
    hasher: blake3::Hasher,
    checked: bool,
}

impl Read for OutputReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            if !self.checked && self.hasher.finalize() != self.file.blake3 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its bytes are not those that were sealed: their digest is another",
                ));
            }
            self.checked = true;
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let Some(pack) = self.pack else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file that held its bytes is gone"));
        };
        match pack.read_at(&mut buffer[..wanted], self.at)? {
            0 => {
                let missing = format!("its last {} bytes are missing", self.left);
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, missing))
            }
            read => {
                self.hasher.update(&buffer[..read]);
                self.at += read as u64;
                self.left -= read as u64;
                Ok(read)
            }
        }
    }
}

impl Store {
    pub(crate) fn make_pack(&self, id: Uuid) -> Result<Pack, Error> {
        let path = self.shelf.layout.open_pack(id);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { id },
            _ => Error::io("make", &path, error),
        };
        drop(self.shelf.disk.create(&path).map_err(failed)?);
        // Not for appending: what a failed write left is written over, which O_APPEND would forbid.
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let file = options.open(&path).map_err(|error| Error::io("open", &path, error))?;
        // Its bytes are synced before a seal names them, and its name before there can be any.
        self.sync_outputs()?;
        Ok(Pack { id, file, path })
    }

    /// Before the end of `id` is handed in, whose transcript is `transcript`: either what its seal names is durable, or there
    /// is no pack any more.
    pub(crate) fn keep_pack(&self, id: Uuid, transcript: impl Read) -> Result<(), Error> {
        let (open, kept) = (self.shelf.layout.open_pack(id), self.shelf.layout.pack(id));
        let is_open = layout::exists(&open)?;
        if !is_open && !layout::exists(&kept)? {
            return Ok(());
        }
        let seal = read_seal(transcript).map_err(|error| Error::io("read the spool for", &open, error))?;
        if seal.is_none_or(|seal| seal.outputs.iter().all(|file| file.bytes == 0)) {
            return self.remove_pack(id);
        }
        if is_open {
            let synced = self.shelf.disk.open(&open, Access::Write).and_then(|file| file.sync());
            synced.map_err(|error| Error::io("sync", &open, error))?;
            self.rename(&open, &kept)?;
        }
        self.sync_outputs()
    }

    /// Puts the pack of an execution that is about to be removed aside, durably: should we be killed behind this, the
    /// next [`Store::orphans`] knows by the name that it has to look.
    pub(crate) fn put_pack_aside(&self, id: Uuid) -> Result<(), Error> {
        let kept = self.shelf.layout.pack(id);
        if !layout::exists(&kept)? {
            return Ok(());
        }
        self.rename(&kept, &self.shelf.layout.removed_pack(id))?;
        self.sync_outputs()
    }

    /// Under whatever name. In this order: somebody who takes us for dead may move the second back to the third.
    pub(crate) fn remove_pack(&self, id: Uuid) -> Result<(), Error> {
        let layout = &self.shelf.layout;
        for path in [layout.open_pack(id), layout.removed_pack(id), layout.pack(id)] {
            if layout::exists(&path)? {
                self.unlink(&path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn unlink(&self, path: &Path) -> Result<(), Error> {
        match self.shelf.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Packs that are being filled, or that a crash left so; and those that a crash left put aside.
    pub(crate) fn odd_packs(&self) -> Result<Vec<Uuid>, Error> {
        let mut ids = layout::ids_in(&self.shelf.layout.outputs, layout::OPEN_PACK)?;
        ids.extend(layout::ids_in(&self.shelf.layout.outputs, layout::REMOVED_PACK)?);
        Ok(ids)
    }

    /// Removes packs that belong to nothing, and gives those back that were put aside for nothing. `unindexed` are executions
    /// whose rows are about to be made.
    pub(crate) fn sweep_packs(&self, odd: &[Uuid], unindexed: impl Fn(Uuid) -> bool) -> Result<(), Error> {
        let layout = &self.shelf.layout;
        for &id in odd {
            // A run's spool is made before its pack, and goes after its end has a row.
            if unindexed(id) || layout::exists(&layout.spool(id))? {
                continue;
            }
            match self.shelf.index.state(id)? {
                State::Removed => self.remove_pack(id)?,
                // Nothing is in a pack before its run was accepted.
                State::Unknown if self.open_pack_is_empty(id)? => self.remove_pack(id)?,
                // Given up at the end, which a power cut has undone.
                State::Ended if layout::exists(&layout.open_pack(id))? => {
                    self.unlink(&layout.open_pack(id))?
                }
                State::Ended if layout::exists(&layout.removed_pack(id))? => {
                    match self.shelf.disk.rename_new(&layout.removed_pack(id), &layout.pack(id)) {
                        // Its remover is at work after all, and was quicker.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        result => result.map_err(|error| Error::io("move", &layout.pack(id), error))?,
                    }
                }
                State::Waiting => self.give_up_pack(id)?,
                State::Unknown | State::Live | State::Ended => {}
            }
        }
        Ok(())
    }

    /// Left by a power cut that took its spool. A spool of our own, for the moment, keeps others from making a new pack.
    fn give_up_pack(&self, id: Uuid) -> Result<(), Error> {
        match spool::create(&self.shelf.layout, id) {
            Ok(spool) if self.shelf.index.state(id)? == State::Waiting => self.give_up(spool),
            Ok(spool) => self.remove_spool(spool),
            // Somebody has begun with it after all.
            Err(Error::Exists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn remove_open_pack(&self, id: Uuid) -> Result<(), Error> {
        let path = self.shelf.layout.open_pack(id);
        if layout::exists(&path)? { self.unlink(&path) } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.shelf.disk.rename_new(from, to).map_err(|error| Error::io("move", from, error))
    }

    fn sync_outputs(&self) -> Result<(), Error> {
        let outputs = &self.shelf.layout.outputs;
        self.shelf.disk.sync_dir(outputs).map_err(|error| Error::io("sync", outputs, error))
    }

    fn open_pack_is_empty(&self, id: Uuid) -> Result<bool, Error> {
        let path = self.shelf.layout.open_pack(id);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(metadata.len() == 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("look at", &path, error)),
        }
    }

    /// Names those that belong to no execution that the index knows, and have something in them.
    pub(crate) fn verify_packs(&self, report: &mut SegmentsReport) -> Result<(), Error> {
        let layout = &self.shelf.layout;
        let mut ids = self.odd_packs()?;
        ids.extend(layout::ids_in(&layout.outputs, layout::KEPT_PACK)?);
        for id in ids {
            let lost = self.shelf.index.state(id)? == State::Unknown
                && !layout::exists(&layout.spool(id))?
                && !self.open_pack_is_empty(id)?;
            if lost {
                let place = layout.pack(id);
                report.problems.push(format!(
                    "{} has the output files of an execution whose record is lost",
                    place.with_extension("*").display()
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn read_outputs(&self, id: Uuid) -> Result<Outputs, Error> {
        let transcript = Transcript::open(&self.shelf, id)?;
        if !transcript.ended() {
            return Err(Error::NotEnded { id });
        }
        let path = self.shelf.layout.pack(id);
        let seal =
            read_seal(transcript).map_err(|error| Error::io("read the transcript for", &path, error))?;
        let files = seal.map(|seal| seal.outputs).unwrap_or_default();
        Ok(Outputs { files, pack: self.kept_pack(id)? })
    }

    fn kept_pack(&self, id: Uuid) -> Result<Option<File>, Error> {
        // Put aside: its execution is there until that is durably removed.
        for path in [self.shelf.layout.pack(id), self.shelf.layout.removed_pack(id)] {
            if let Some(file) = spool::open_nofollow(&path)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Reads every output file again. What is wrong with one is a problem of the verdict.
    pub(crate) fn verify_outputs(&self, id: Uuid, seal: &Seal, verdict: &mut Verdict) -> Result<(), Error> {
        let outputs = Outputs { files: seal.outputs.clone(), pack: self.kept_pack(id)? };
        let path = self.shelf.layout.pack(id);
        if outputs.pack.is_none() && outputs.files.iter().any(|file| file.bytes > 0) {
            verdict.problems.push(format!("{} is gone, and with it the output files", path.display()));
            return Ok(());
        }
        let mut buffer = vec![0; PACK_READ_BYTES];
        for (index, file) in outputs.files.iter().enumerate() {
            let Some(mut reader) = outputs.open(index) else { break };
            let result = loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                }
            };
            match result {
                Ok(()) => {
                    verdict.outputs += 1;
                    verdict.output_bytes = verdict.output_bytes.saturating_add(file.bytes);
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
                {
                    let problem = format!("output file `{}`: {error}", file.path.escape_ascii());
                    verdict.problems.push(problem);
                }
                Err(error) => return Err(Error::io("read", &path, error)),
            }
        }
        Ok(())
    }
}

/// The seal of a transcript, as far as that is readable.
fn read_seal(mut transcript: impl Read) -> io::Result<Option<Seal>> {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; PACK_READ_BYTES];
    loop {
        match transcript.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(read) => decoder.push(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        loop {
            match decoder.next() {
                Ok(Some(Frame::Seal(seal))) => return Ok(Some(seal)),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // What can't be read names nothing.
                Err(_) => return Ok(None),
            }
        }
    }
}

//! A segment that this process writes: it holds the lock.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::Error;
use crate::disk::{self, Access, Disk, DiskFile};
use crate::entry::{Batch, Head, SEGMENT_HEADER_BYTES};
use crate::layout::{Layout, now_ns};

/// How often a new segment is tried under another name when someone tidies the temporary one away meanwhile.
const CREATE_TRIES_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Writer {
    file: Box<dyn DiskFile>,
    head: Head,
    path: PathBuf,
    /// Where the next entry goes. The file is never longer, except inside an append.
    len: u64,
    /// Durable up to here.
    synced: u64,
}

impl Writer {
    /// `len` has to be the end of the file, and `synced`.
    pub(crate) fn new(file: Box<dyn DiskFile>, head: Head, path: PathBuf, len: u64) -> Self {
        Writer { file, head, path, len, synced: len }
    }

    /// Makes a segment, durable and under its name.
    pub(crate) fn create(disk: &dyn Disk, layout: &Layout) -> Result<Self, Error> {
        let mut draft = Writer::draft(disk, layout)?;
        draft.sync()?;
        draft.publish(disk, layout)?;
        Ok(draft)
    }

    /// Makes a segment under its temporary name: a crash before [`Writer::publish`] leaves nothing to recover.
    pub(crate) fn draft(disk: &dyn Disk, layout: &Layout) -> Result<Self, Error> {
        let mut tries = 0;
        loop {
            let head = Head { id: Uuid::now_v7(), mark: random()? };
            let path = layout.new_segment(head.id);
            let failed = |error| Error::io("make", &path, error);
            let file = disk.create(&path).map_err(failed)?;
            let ours = file.try_lock().map_err(failed)?
                && disk::leads_to(&path, file.identity().map_err(failed)?).map_err(failed)?;
            if ours {
                let written = file.write_all_at(&head.encode(now_ns()), 0);
                if let Err(error) = written {
                    let _ = disk.remove(&path);
                    return Err(failed(error));
                }
                return Ok(Writer { file, head, path, len: SEGMENT_HEADER_BYTES as u64, synced: 0 });
            }
            tries += 1;
            if tries == CREATE_TRIES_MAX {
                let why = io::Error::other("someone removes it each time");
                return Err(Error::io("make", &path, why));
            }
        }
    }

    /// Gives a synced draft its name, durably.
    pub(crate) fn publish(&mut self, disk: &dyn Disk, layout: &Layout) -> Result<(), Error> {
        debug_assert_eq!(self.len, self.synced);
        let path = layout.segment(self.head.id);
        disk.rename_new(&self.path, &path).map_err(|error| Error::io("make", &path, error))?;
        self.path = path;
        disk.sync_dir(&layout.segments).map_err(|error| Error::io("sync", &layout.segments, error))
    }

    /// Takes a draft away again.
    pub(crate) fn discard(self, disk: &dyn Disk) {
        let _ = disk.remove(&self.path);
    }

    pub(crate) fn id(&self) -> Uuid {
        self.head.id
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    /// Appends all of these with one write. On an error nothing of them is left; if even that can't be had,
    /// `Err(.., false)` says that this segment must not be written to any more.
    pub(crate) fn append(&mut self, batches: &mut [&mut Batch]) -> Result<(), (Error, bool)> {
        let mut at = self.len;
        let mut joined = Vec::new();
        for batch in batches.iter_mut() {
            batch.place(&self.head, at, self.synced);
            at += batch.len() as u64;
        }
        let bytes = match batches {
            [only] => only.bytes(),
            several => {
                several.iter().for_each(|batch| joined.extend_from_slice(batch.bytes()));
                &joined
            }
        };
        if let Err(error) = self.file.write_all_at(bytes, self.len) {
            let cut = self.file.set_len(self.len).is_ok();
            return Err((Error::io("write", &self.path, error), cut));
        }
        self.len = at;
        Ok(())
    }

    /// On an error the kernel may have forgotten what it could not write, so a later sync proves nothing: what was not
    /// synced is cut off, and the writer must be dropped.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        if let Err(error) = self.file.sync() {
            let _ = self.file.set_len(self.synced);
            return Err(Error::io("sync", &self.path, error));
        }
        self.synced = self.len;
        Ok(())
    }
}

/// A segment opened for reading.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) head: Head,
    pub(crate) path: PathBuf,
}

impl Reader {
    pub(crate) fn open(disk: &dyn Disk, layout: &Layout, id: Uuid) -> Result<Self, Error> {
        let path = layout.segment(id);
        let file = disk.open(&path, Access::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Corrupt { path: path.clone(), what: "it is gone".into() },
            _ => Error::io("open", &path, error),
        })?;
        let head = read_head(&*file, &path, id)?;
        Ok(Reader { file, head, path })
    }
}

pub(crate) fn read_head(file: &dyn DiskFile, path: &Path, id: Uuid) -> Result<Head, Error> {
    let corrupt = |what: String| Error::Corrupt { path: path.to_path_buf(), what };
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Head::decode(&bytes, id).map_err(corrupt),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(corrupt("it is shorter than its header".into()))
        }
        Err(error) => Err(Error::io("read", path, error)),
    }
}

pub(crate) fn random() -> Result<[u8; 8], Error> {
    let path = Path::new("/dev/urandom");
    let mut mark = [0; 8];
    File::open(path)
        .and_then(|mut source| source.read_exact(&mut mark))
        .map_err(|error| Error::io("read", path, error))?;
    Ok(mark)
}

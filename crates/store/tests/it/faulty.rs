//! A disk that stops, fills up, fails, and forgets what was not synced.
//!
//! Everything is done on real files at once, so locks and reads are real; what is durable is kept on the side.
//! [`FaultyDisk::power_cut`] then rewrites the directory to what a cut would have left.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lastword_store::disk::{Access, Disk, DiskFile, RealDisk};

/// What goes wrong at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This and every later operation fails and does nothing: the process is dead.
    Stop,
    /// Like [`Fault::Stop`], but half of a write is done.
    StopHalfway,
    /// Half of a write is done, then the disk is full. Later operations work.
    Full,
    /// This one fails. A failed sync leaves its data not durable.
    Fail,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Nothing,
    /// Each block and each directory as a coin falls.
    Some(u64),
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    fault: Option<(u64, Fault)>,
    stopped: bool,
    files: BTreeMap<u64, Durable>,
    /// Names in synced directories, and now.
    names_synced: BTreeMap<PathBuf, u64>,
    names: BTreeMap<PathBuf, u64>,
    /// Removed files that we did not write, with their bytes: spools.
    foreign_removed: Vec<(PathBuf, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Durable {
    bytes: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk(Arc<Mutex<State>>);

enum Go {
    On,
    Half(io::Error),
}

impl FaultyDisk {
    /// The fault comes with operation number `at`, counted from 0.
    pub(crate) fn new(fault: Option<(u64, Fault)>) -> Self {
        FaultyDisk(Arc::new(Mutex::new(State { fault, ..State::default() })))
    }

    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    pub(crate) fn stopped(&self) -> bool {
        self.0.lock().unwrap().stopped
    }

    fn operation(&self) -> io::Result<Go> {
        let mut state = self.0.lock().unwrap();
        let now = state.operations;
        state.operations += 1;
        if state.stopped {
            return Err(io::Error::other("stopped"));
        }
        let Some((_, fault)) = state.fault.filter(|(at, _)| *at == now) else { return Ok(Go::On) };
        state.stopped = matches!(fault, Fault::Stop | Fault::StopHalfway);
        match fault {
            Fault::Stop => Err(io::Error::other("stopped")),
            Fault::StopHalfway => Ok(Go::Half(io::Error::other("stopped"))),
            Fault::Full => Ok(Go::Half(io::ErrorKind::StorageFull.into())),
            Fault::Fail => Err(io::Error::from_raw_os_error(5)),
        }
    }

    /// For operations that have no half.
    fn whole(&self) -> io::Result<()> {
        match self.operation()? {
            Go::On => Ok(()),
            Go::Half(error) => Err(error),
        }
    }

    /// Call when the store is dropped.
    pub(crate) fn power_cut(&self, dir: &Path, cut: Cut) {
        let mut coin = Coin(match cut {
            Cut::Nothing => None,
            Cut::Some(seed) => Some(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
        });
        let state = self.0.lock().unwrap();
        let names = if coin.falls() { &state.names } else { &state.names_synced };
        for path in state.names.keys() {
            let _ = std::fs::remove_file(path);
        }
        for (path, inode) in names {
            std::fs::write(path, state.files[inode].after_cut(&mut coin)).unwrap();
        }
        for (path, bytes) in &state.foreign_removed {
            if coin.falls() {
                std::fs::write(path, bytes).unwrap();
            }
        }
        // Spools are never synced. Secrets are, and were handled above.
        for item in std::fs::read_dir(dir.join("spool")).unwrap() {
            let path = item.unwrap().path();
            if state.names.contains_key(&path) || state.names_synced.contains_key(&path) {
                continue;
            }
            if !std::fs::symlink_metadata(&path).unwrap().is_file() {
                // A FIFO has no bytes, and to read it would wait for somebody who writes.
                if !coin.falls() {
                    std::fs::remove_file(&path).unwrap();
                }
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            match (coin.falls(), coin.falls()) {
                (true, true) => {}
                (true, false) => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                (false, _) => std::fs::remove_file(&path).unwrap(),
            }
        }
    }
}

/// `None` always falls on the side of loss.
struct Coin(Option<u64>);

impl Coin {
    fn falls(&mut self) -> bool {
        let Some(state) = &mut self.0 else { return false };
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state >> 40 & 1 == 1
    }
}

impl Durable {
    fn after_cut(&self, coin: &mut Coin) -> Vec<u8> {
        const BLOCK: usize = 512;
        let mut bytes = self.bytes.clone();
        for pending in &self.pending {
            match pending {
                Pending::Write(at, written) => {
                    for (n, block) in written.chunks(BLOCK).enumerate() {
                        if coin.falls() {
                            put(&mut bytes, *at + (n * BLOCK) as u64, block);
                        }
                    }
                }
                Pending::Length(length) => {
                    if coin.falls() {
                        bytes.resize(*length as usize, 0);
                    }
                }
            }
        }
        bytes
    }

    fn sync(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Write(at, written) => put(&mut self.bytes, at, &written),
                Pending::Length(length) => self.bytes.resize(length as usize, 0),
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, written: &[u8]) {
    let (at, end) = (at as usize, at as usize + written.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(written);
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.whole()?;
        let file = RealDisk.create(path)?;
        let (_, inode) = file.identity()?;
        let mut state = self.0.lock().unwrap();
        state.files.insert(inode, Durable::default());
        state.names.insert(path.to_path_buf(), inode);
        Ok(Box::new(FaultyFile { file, inode, disk: self.clone(), foreign: None }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, access)?;
        let (_, inode) = file.identity()?;
        let foreign = path.parent().is_some_and(|dir| dir.ends_with("outputs")).then(|| path.to_path_buf());
        Ok(Box::new(FaultyFile { file, inode, disk: self.clone(), foreign }))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole()?;
        RealDisk.rename_new(from, to)?;
        let mut state = self.0.lock().unwrap();
        if let Some(inode) = state.names.remove(from) {
            state.names.insert(to.to_path_buf(), inode);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.whole()?;
        let bytes = std::fs::read(path)?;
        RealDisk.remove(path)?;
        let mut state = self.0.lock().unwrap();
        if state.names.remove(path).is_none() {
            state.foreign_removed.push((path.to_path_buf(), bytes));
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.whole()?;
        let mut state = self.0.lock().unwrap();
        let inside = |path: &Path| path.parent() == Some(dir);
        let now: Vec<_> = state.names.iter().map(|(path, inode)| (path.clone(), *inode)).collect();
        state.names_synced.retain(|path, _| !inside(path));
        state.names_synced.extend(now.into_iter().filter(|(path, _)| inside(path)));
        Ok(())
    }

    fn index_commit(&self) -> io::Result<()> {
        self.whole()
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    inode: u64,
    disk: FaultyDisk,
    /// Where it is, if others write it: packs.
    foreign: Option<PathBuf>,
}

impl FaultyFile {
    fn pending(&self, pending: Pending) {
        let mut state = self.disk.0.lock().unwrap();
        state.files.entry(self.inode).or_default().pending.push(pending);
    }
}

impl DiskFile for FaultyFile {
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.identity()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (bytes, result) = match self.disk.operation()? {
            Go::On => (bytes, Ok(())),
            Go::Half(error) => (&bytes[..bytes.len() / 2], Err(error)),
        };
        self.file.write_all_at(bytes, at)?;
        self.pending(Pending::Write(at, bytes.to_vec()));
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.whole()?;
        self.file.set_len(len)?;
        self.pending(Pending::Length(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.whole()?;
        let mut state = self.disk.0.lock().unwrap();
        let durable = state.files.entry(self.inode).or_default();
        durable.sync();
        if let Some(path) = &self.foreign {
            durable.bytes = std::fs::read(path)?;
        }
        Ok(())
    }

    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.disk.whole()?;
        self.file.punch(at, bytes)?;
        self.pending(Pending::Write(at, vec![0; bytes as usize]));
        Ok(())
    }
}

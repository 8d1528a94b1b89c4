//! The compile step of a runtime that has one, and the cache of what it made.
//!
//! ```text
//!   key -> lock shared -> there? ----------------------------------------------> use it (the supervisor keeps the lock)
//!                          \-> lock exclusive -> there now? -> use it
//!                                                 \-> compile in a sandbox of its own -> unpack, sync, rename -> use it
//! ```
//! A compile step is an execution like any other: accepted, sealed, kept, with its own limits, and found by its id. It sees the
//! files, the flags and the compiler, and nothing else; all three are in the key, with everything else that can change what
//! comes out. A compiler that ended by itself is believed, also when it said no: the same code would get the same answer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lastword_api::path::file_path;
use lastword_api::{Compile, Encoding, Execution, Reason, Status, output_text};
use lastword_frame::Cause;
use lastword_sandbox::root::BUILD;
use lastword_store::Meta;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::prepare::{Prepared, Unprepared};
use super::request::{Flush, InputFile, OrderingWish, Program};
use super::{Cancel, Engine, Request, Sink};
use crate::backend::native::Machine;
use crate::runtime::{CompileCommand, Runtime};

/// What the key is made with: a change here makes all that was compiled before unknown.
const KEY_CONTEXT: &str = "lastword compile cache 2026-11 v1";
/// Bytes of each stream that the execution object carries; the compile step's own log has all.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// What compiled programs may take on disk before the ones that were used least recently go.
const CACHE_BYTES_MAX: u64 = 2 << 30;
/// The same for their number: what compilers refused is kept, too, and takes next to nothing.
const CACHE_ENTRIES_MAX: usize = 4096;
/// What a file or directory takes at least; only used to add up.
const DISK_BLOCK_BYTES: u64 = 4096;
/// Two directories, the lock, and room for what a file system adds.
const ENTRY_BLOCKS: u64 = 4;
/// How often somebody who waits for another's compile step looks whether it has ended, or was cancelled itself.
const LOOK: Duration = Duration::from_millis(20);
/// The label of a compile step.
pub const STEP_LABEL: &str = "lastword.step";
/// The label of the execution that it was done for.
const FOR_LABEL: &str = "lastword.for";
/// Of what was made: it is the sandbox's user who runs it.
const MODE: u32 = 0o755;
/// Of the cache: who could write to it could put anything under any key.
const CACHE_MODE: u32 = 0o700;
const OTHERS_MAY_WRITE: u32 = 0o022;

/// What a compile step made.
pub(super) struct Built {
    /// On the host, to be seen at /build; `None` if the compiler said no.
    pub(super) dir: Option<PathBuf>,
    /// While it is held nobody removes the directory.
    pub(super) lock: OwnedFd,
    pub(super) compile: Compile,
}

/// One entry of the cache, as it stands on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    compile: Compile,
    /// About what it takes on disk.
    bytes: u64,
}

/// What a compile step is made from.
pub(super) struct Job<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) command: CompileCommand,
    pub(super) files: &'a [InputFile],
    /// Compiler and system, as [`crate::runtime::identity`] tells them apart.
    pub(super) toolchain: &'a [u8],
    pub(super) strict: bool,
    /// Whose step it is.
    pub(super) tenant: Option<&'a str>,
}

impl Job<'_> {
    /// The digest of everything that can change the result.
    fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        // Each field with its length before it: no two lists can run into one another.
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(std::env::consts::ARCH.as_bytes());
        field(self.runtime.name.as_bytes());
        field(self.toolchain);
        field(&(self.command.argv.len() as u64).to_le_bytes());
        self.command.argv.iter().for_each(|word| field(word.as_bytes()));
        field(&(self.command.env.len() as u64).to_le_bytes());
        for (name, value) in &self.command.env {
            field(name.as_bytes());
            field(value.as_bytes());
        }
        let mut files: Vec<&InputFile> = self.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        for file in files {
            field(&file.path);
            field(&file.mode.to_le_bytes());
            field(&file.bytes);
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl Engine {
    /// The result of a compile step: an earlier one of the same code, or a new one.
    pub(super) fn compile(
        &self,
        job: &Job<'_>,
        parent: &Execution,
        prepared: &mut Prepared<'_>,
        cancel: &Cancel,
    ) -> Result<Built, Unprepared> {
        let cache = Cache::open(&self.cache.join("compile")).map_err(|error| error.unprepared())?;
        let place = cache.place(&job.key());
        match cache.lock(&place, cancel).map_err(|error| error.unprepared())? {
            None => Err(Unprepared { cause: Cause::Cancelled }),
            Some((lock, Some(entry))) => Ok(place.built(lock, entry)),
            Some((lock, None)) => self.compile_anew(job, parent, prepared, cancel, &cache, &place, lock),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the step's inputs, its place, and who may stop it")]
    fn compile_anew(
        &self,
        job: &Job<'_>,
        parent: &Execution,
        prepared: &mut Prepared<'_>,
        cancel: &Cancel,
        cache: &Cache,
        place: &Place,
        lock: File,
    ) -> Result<Built, Unprepared> {
        let mut said = Said::default();
        prepared.compiling = true;
        let ended = self.run_step(job, parent, prepared, &mut said, cancel);
        prepared.compiling = false;
        let step = ended.map_err(|error| unavailable(error.to_string()))?;
        if step.status == Status::Cancelled {
            return Err(Unprepared { cause: Cause::Cancelled });
        }
        if step.status == Status::Error {
            let why = step.problem.map(|problem| problem.message).unwrap_or_default();
            return Err(unavailable(why));
        }
        if let Some(refused) = step.outputs_refused.first() {
            return Err(unavailable(format!(
                "what the compiler made can't be kept: {}: {}",
                refused.path, refused.reason
            )));
        }
        let compile = said.into_compile(&step);
        // A compiler may well survive that its child was killed for want of memory, and say no for that reason.
        let worth_keeping = step.reason == Some(Reason::Exit) && !step.oom_killed && step.is_complete();
        if !worth_keeping {
            // Out of time or memory: the next try may have more luck. What came of it is not believed.
            let _ = fs::remove_file(&place.lock);
            return Ok(Built { dir: None, lock: lock.into(), compile });
        }
        let kept = self.keep(cache, place, &step, compile.clone());
        kept.map_err(|error| error.unprepared())?;
        let dir = (step.status == Status::Succeeded).then(|| place.build());
        let lock = cache.share(lock, place).map_err(|error| error.unprepared())?;
        Ok(Built { dir, lock: lock.into(), compile })
    }

    fn run_step(
        &self,
        job: &Job<'_>,
        parent: &Execution,
        prepared: &mut Prepared<'_>,
        said: &mut Said,
        cancel: &Cancel,
    ) -> Result<Execution, super::Error> {
        let CompileCommand { argv, env } = job.command.clone();
        let mut request = Request::new(Program::Command { argv });
        request.env = env;
        request.files = job.files.to_vec();
        request.cwd = Some(lastword_api::path::WORK.into());
        request.outputs = vec![[BUILD, "/**"].concat().into_bytes()];
        request.flush = Flush::Off;
        // Compilers write much and say little: exact order would only cost.
        request.ordering = Some(OrderingWish::Arrival);
        request.strict = job.strict;
        if let Some(compile) = &job.runtime.compile {
            request.limits = compile.limits();
        }
        request.labels.insert(STEP_LABEL.into(), "compile".into());
        request.labels.insert(FOR_LABEL.into(), parent.id.to_string());
        let mut execution = super::begin(Machine::get(), &mut request)?;
        execution.runtime = Some(job.runtime.name.clone());
        execution.image.clone_from(&parent.image);
        let origin = Meta { tenant: job.tenant.map(str::to_owned), ..Meta::default() };
        self.start(execution, request, prepared, &origin, said, cancel)
    }

    /// Puts the step's result where the next one finds it: whole and on disk, or not at all.
    fn keep(
        &self,
        cache: &Cache,
        place: &Place,
        step: &Execution,
        compile: Compile,
    ) -> Result<(), CacheError> {
        let draft = cache.draft(place)?;
        let build = draft.join(BUILD_DIR);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CacheError::Io { path, source }
        };
        make_readable(&build, Path::new(""))?;
        let outputs = self
            .store
            .outputs(step.id)
            .map_err(|error| CacheError::Io { path: build.clone(), source: io::Error::other(error) })?;
        let mut bytes = ENTRY_BLOCKS * DISK_BLOCK_BYTES;
        for (index, output) in outputs.files().iter().enumerate() {
            let below = below_build(&output.path)
                .ok_or_else(|| CacheError::Name { path: output.path.escape_ascii().to_string() })?;
            bytes += make_readable(&build, below.parent().unwrap_or(Path::new("")))?;
            let path = build.join(below);
            let mut file =
                OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed(&path))?;
            if let Some(mut from) = outputs.open(index) {
                bytes += on_disk(io::copy(&mut from, &mut file).map_err(failed(&path))?);
            }
            // The mask of the process has taken part in making it.
            file.set_permissions(fs::Permissions::from_mode(MODE)).map_err(failed(&path))?;
        }
        let entry = |bytes| {
            serde_json::to_vec(&Entry { compile: compile.clone(), bytes })
                .map_err(|error| CacheError::Io { path: draft.clone(), source: error.into() })
        };
        let entry = entry(bytes + on_disk(entry(bytes)?.len() as u64))?;
        let path = draft.join(ENTRY_FILE);
        fs::write(&path, entry).map_err(failed(&path))?;
        let dir = File::open(&draft).map_err(failed(&draft))?;
        // All of the draft at once, before its name says that it is whole.
        rustix::fs::syncfs(&dir).map_err(|error| failed(&draft)(error.into()))?;
        fs::rename(&draft, &place.dir).map_err(failed(&place.dir))?;
        cache.make_room()
    }
}

fn unavailable(why: String) -> Unprepared {
    Unprepared::new("compile", why)
}

/// Makes the directory `below` of a build, with those on the way. Returns what they take on disk.
fn make_readable(build: &Path, below: &Path) -> Result<u64, CacheError> {
    let mut bytes = 0;
    let mut way: Vec<&Path> = below.ancestors().collect();
    way.reverse();
    for below in way {
        let path = build.join(below);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(MODE))),
        }
        .map_err(|source| CacheError::Io { path, source })?;
        bytes += DISK_BLOCK_BYTES;
    }
    Ok(bytes)
}

fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(DISK_BLOCK_BYTES).max(DISK_BLOCK_BYTES)
}

/// The path below /build of an output file; sealed paths come from the sandbox.
fn below_build(path: &[u8]) -> Option<PathBuf> {
    let below = path.strip_prefix(BUILD.as_bytes())?.strip_prefix(b"/")?;
    file_path(below).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(below)))
}

const ENTRY_FILE: &str = "entry.json";
const BUILD_DIR: &str = "build";
const DRAFT: &str = ".new";
const LOCK: &str = ".lock";

#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("the cache of compiled programs: {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the cache of compiled programs: {} belongs to somebody else, or others may write to it", path.display())]
    Open { path: PathBuf },
    #[error("what the compiler made can't be kept: {path} is no path for it")]
    Name { path: String },
}

impl CacheError {
    fn unprepared(&self) -> Unprepared {
        match self {
            CacheError::Io { source, .. } => unavailable(format!("{self}: {source}")),
            CacheError::Open { .. } | CacheError::Name { .. } => unavailable(self.to_string()),
        }
    }
}

/// Where one entry lies.
///
/// Only who has its lock exclusively makes or removes anything of it: `dir` comes and goes by a rename from and to `draft`.
struct Place {
    dir: PathBuf,
    draft: PathBuf,
    lock: PathBuf,
}

impl Place {
    fn build(&self) -> PathBuf {
        self.dir.join(BUILD_DIR)
    }

    /// `None`: it isn't there, or it can't be read, which is as good: it is made anew.
    fn entry(&self) -> Result<Option<Entry>, CacheError> {
        let path = self.dir.join(ENTRY_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CacheError::Io { path, source }),
        };
        let entry: Option<Entry> = serde_json::from_slice(&text).ok();
        Ok(entry.filter(|entry| entry.compile.status != Status::Succeeded || self.build().is_dir()))
    }

    fn built(&self, lock: File, entry: Entry) -> Built {
        // What was used last goes last.
        let _ = lock.set_modified(SystemTime::now());
        let succeeded = entry.compile.status == Status::Succeeded;
        Built {
            dir: succeeded.then(|| self.build()),
            lock: lock.into(),
            compile: Compile { cached: true, ..entry.compile },
        }
    }

    /// With the lock held exclusively: out of sight in one step, so that a kill leaves a whole entry or none.
    fn discard(&self) -> io::Result<()> {
        let absent = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        absent(fs::remove_dir_all(&self.draft))?;
        absent(fs::rename(&self.dir, &self.draft))?;
        absent(fs::remove_dir_all(&self.draft))
    }
}

struct Cache {
    dir: PathBuf,
}

impl Cache {
    fn open(dir: &Path) -> Result<Cache, CacheError> {
        let failed = |source| CacheError::Io { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(CACHE_MODE).create(dir).map_err(failed)?;
        let metadata = fs::metadata(dir).map_err(failed)?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || metadata.mode() & OTHERS_MAY_WRITE != 0 {
            return Err(CacheError::Open { path: dir.to_owned() });
        }
        Ok(Cache { dir: dir.to_owned() })
    }

    fn place(&self, key: &str) -> Place {
        let at = |suffix| self.dir.join(format!("{key}{suffix}"));
        Place { dir: at(""), draft: at(DRAFT), lock: at(LOCK) }
    }

    /// The entry and its lock, shared; if there is none, the lock alone, exclusive. `None` if a cancel came first.
    fn lock(&self, place: &Place, cancel: &Cancel) -> Result<Option<(File, Option<Entry>)>, CacheError> {
        loop {
            if cancel.is_asked() {
                return Ok(None);
            }
            let there = place.entry()?.is_some();
            let how = match there {
                true => FlockOperation::NonBlockingLockShared,
                false => FlockOperation::NonBlockingLockExclusive,
            };
            let file = open_lock(place)?;
            match flock(&file, how) {
                Ok(()) if is_at(&file, &place.lock) => {
                    let entry = place.entry()?;
                    // Else it was made, or removed, while we took the lock.
                    if entry.is_some() == there {
                        return Ok(Some((file, entry)));
                    }
                }
                Ok(()) => {}
                // Somebody compiles the same right now: wait for them rather than do it twice.
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOOK),
                Err(error) => return Err(CacheError::Io { path: place.lock.clone(), source: error.into() }),
            }
        }
    }

    /// An empty directory to make the entry in. We hold the lock: what a killed one left is nobody's.
    fn draft(&self, place: &Place) -> Result<PathBuf, CacheError> {
        let failed = |source| CacheError::Io { path: place.draft.clone(), source };
        place.discard().map_err(failed)?;
        fs::DirBuilder::new().mode(CACHE_MODE).create(&place.draft).map_err(failed)?;
        Ok(place.draft.clone())
    }

    /// From exclusive to shared. The kernel may let somebody in between, who can only have removed the entry; and if yet another
    /// one has made it again, our lock is one on a file that has no name any more.
    fn share(&self, lock: File, place: &Place) -> Result<File, CacheError> {
        let failed = |error: io::Error| CacheError::Io { path: place.lock.clone(), source: error };
        flock(&lock, FlockOperation::LockShared).map_err(|error| failed(error.into()))?;
        if is_at(&lock, &place.lock) && place.entry()?.is_some() {
            return Ok(lock);
        }
        Err(failed(io::Error::other("the entry was removed before it was used; try again")))
    }

    /// Removes what was used least recently until the rest is within bounds, and what killed processes left. What is in use
    /// stays.
    fn make_room(&self) -> Result<(), CacheError> {
        let mut entries = Vec::new();
        let mut total = 0;
        for key in self.keys()? {
            let place = self.place(&key);
            let Ok(Some(entry)) = place.entry() else {
                remove(&place);
                continue;
            };
            let used = fs::metadata(&place.lock).and_then(|metadata| metadata.modified());
            total += entry.bytes;
            entries.push((used.unwrap_or(SystemTime::UNIX_EPOCH), entry.bytes, place));
        }
        entries.sort_by_key(|(used, ..)| *used);
        let mut left = entries.len();
        for (_, bytes, place) in entries {
            if total <= CACHE_BYTES_MAX && left <= CACHE_ENTRIES_MAX {
                break;
            }
            if remove(&place) {
                total -= bytes;
                left -= 1;
            }
        }
        Ok(())
    }

    /// Of all that lies here: entries, drafts and locks.
    fn keys(&self) -> Result<BTreeSet<String>, CacheError> {
        let failed = |source| CacheError::Io { path: self.dir.clone(), source };
        let mut keys = BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            let key = name.strip_suffix(LOCK).or_else(|| name.strip_suffix(DRAFT)).unwrap_or(name);
            if blake3::Hash::from_hex(key).is_ok() {
                keys.insert(key.to_owned());
            }
        }
        Ok(keys)
    }
}

/// False: it is in use, or somebody else was faster.
fn remove(place: &Place) -> bool {
    let Ok(lock) = open_lock(place) else { return false };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || !is_at(&lock, &place.lock) {
        return false;
    }
    let removed = place.discard().is_ok();
    if removed {
        let _ = fs::remove_file(&place.lock);
    }
    removed
}

fn open_lock(place: &Place) -> Result<File, CacheError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(&place.lock).map_err(|source| CacheError::Io { path: place.lock.clone(), source })
}

/// The file is still the one of that name: who removes an entry removes its lock, too.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}

/// The beginning of what the compiler said.
#[derive(Default)]
struct Said {
    streams: [Vec<u8>; 2],
    cut: bool,
}

impl Sink for Said {
    fn record(&mut self, stream: lastword_api::Stream, _: i64, _: u64, bytes: &[u8]) {
        let kept = &mut self.streams[lastword_frame::Stream::from(stream).index()];
        let room = INLINE_BYTES_MAX.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
        self.cut |= room < bytes.len();
    }

    fn dropped(&mut self, _: lastword_api::Stream, _: i64, _: u64, _: u64) {
        self.cut = true;
    }
}

impl Said {
    fn into_compile(self, step: &Execution) -> Compile {
        let text = |bytes: &[u8]| -> (String, Encoding) { output_text(bytes) };
        let (stdout, stdout_encoding) = text(&self.streams[0]);
        let (stderr, stderr_encoding) = text(&self.streams[1]);
        Compile {
            id: Some(step.id),
            status: step.status,
            reason: step.reason,
            exit_code: step.exit_code,
            stdout,
            stderr,
            stdout_encoding,
            stderr_encoding,
            truncated: self.cut,
            cached: false,
            usage: step.usage.clone(),
        }
    }
}

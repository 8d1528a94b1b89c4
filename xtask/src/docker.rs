//! A Docker daemon for the tests: one that is there already, or one of our own that leaves nothing behind.
//!
//! Ours shares nothing with a daemon of the machine: its own state, sockets, containerd and control group, no bridge and no
//! firewall rules, and a mount namespace, so that its mounts go with its last process. It ends with us, however we end;
//! what a killed one left on the disk is removed by the next one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Tells the tests the path of the daemon's socket.
pub(crate) const VARIABLE: &str = "LASTWORD_TEST_DOCKER";
/// Where a daemon of the machine listens.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// On the disk: overlay2 doesn't work on a tmpfs or on another overlay, and /tmp often is one.
const PARENT: &str = "/var/tmp";
/// Of the directory that holds all that is ours. Short: a socket's path has 107 bytes at most.
const PREFIX: &str = "xtask-docker-";
/// How the names of the daemon's programs begin.
const PROGRAMS: [&str; 3] = ["dockerd", "containerd", "runc"];
/// Empty directories that the daemon makes wherever it is told to live; those that we found missing go again.
const STRAY: [&str; 5] =
    ["/opt/containerd/bin", "/opt/containerd/lib", "/opt/containerd", "/run/docker/plugins", "/run/docker"];
const CGROUPS: &str = "/sys/fs/cgroup";

const START_WAIT: Duration = Duration::from_secs(60);
/// dockerd gives its containers 15 seconds to end.
const STOP_WAIT: Duration = Duration::from_secs(30);
const KILL_WAIT: Duration = Duration::from_secs(10);
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at something that another process will do.
const LOOK: Duration = Duration::from_millis(50);
const ANSWER_BYTES_MAX: u64 = 4096;
const LOG_LINES_SHOWN: usize = 20;
/// What a shell shows for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A daemon that answers.
pub(crate) struct Daemon {
    socket: PathBuf,
    /// `None` if it isn't ours. Shared with the thread that waits for signals.
    own: Option<Arc<Mutex<Option<Running>>>>,
}

impl Daemon {
    /// The machine's, if it answers; else one of our own, which ends when this is dropped or a signal ends us.
    /// `None` for an ordinary user without one: tests that need it pass over then.
    pub(crate) fn for_tests() -> Result<Option<Daemon>> {
        let socket = PathBuf::from(DEFAULT_SOCKET);
        if answers(&socket) {
            return Ok(Some(Daemon { socket, own: None }));
        }
        if !crate::setup::is_root()? {
            return Ok(None);
        }
        Daemon::start().map(Some)
    }

    /// One of our own, whether the machine has one or not. Needs root.
    pub(crate) fn start() -> Result<Daemon> {
        remove_abandoned(Path::new(PARENT))?;
        let running = Arc::new(Mutex::new(None));
        // Before the start: a signal must not find a daemon that nobody stops.
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("can't watch for signals")?;
        // Held while it starts: the thread below then stops a whole one.
        let mut starting = lock(&running);
        let shared = Arc::clone(&running);
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                drop(lock(&shared).take());
                std::process::exit(INTERRUPTED);
            }
        });
        let socket = starting.insert(Running::start()?).socket();
        drop(starting);
        Ok(Daemon { socket, own: Some(running) })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            drop(lock(own).take());
        }
    }
}

/// A panic elsewhere is no reason to leave a daemon behind.
fn lock(running: &Mutex<Option<Running>>) -> MutexGuard<'_, Option<Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `cargo xtask docker`: until Ctrl-C.
pub(crate) fn run() -> Result<()> {
    crate::setup::ensure()?;
    let daemon = Daemon::start()?;
    let socket = daemon.socket().display();
    println!("export {VARIABLE}={socket}\nexport DOCKER_HOST=unix://{socket}");
    eprintln!("Ctrl-C stops it and removes all that it has made");
    loop {
        std::thread::park();
    }
}

/// The daemon's process and its directory.
struct Running {
    dir: PathBuf,
    /// Held for as long as the directory is in use.
    _lock: File,
    /// Of [`STRAY`], what wasn't there.
    strays: Vec<&'static str>,
    child: Option<Child>,
}

impl Running {
    fn start() -> Result<Running> {
        let (dir, lock) = make_directory(Path::new(PARENT))?;
        let strays = STRAY.into_iter().filter(|path| !Path::new(path).exists()).collect();
        let mut running = Running { dir, _lock: lock, strays, child: None };
        // Else it writes a key to /etc/docker. There is no option for it.
        let configuration = serde_json::json!({"deprecated-key-path": running.dir.join("key.json")});
        fs::write(running.dir.join("daemon.json"), configuration.to_string())
            .context("can't write the daemon's configuration")?;
        let log = File::create(running.log()).context("can't make the daemon's log")?;
        let mut command = daemon_command(&running.dir);
        // A group of its own: Ctrl-C in a terminal reaches us alone, and we stop it when the tests are through.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        eprintln!("$ dockerd in {}", running.dir.display());
        running.child = Some(command.spawn().context("can't start dockerd")?);
        running.wait()?;
        Ok(running)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while !answers(&self.socket()) {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || start.elapsed() > START_WAIT {
                let how = ended.map_or("doesn't answer".to_owned(), |status| format!("ended: {status}"));
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
                bail!("dockerd {how}; its last words:\n{}", last.join("\n"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = child.id().to_string();
            if matches!(child.try_wait(), Ok(None)) {
                // It ends its containers and its containerd first.
                let _ = Command::new("kill").args(["-TERM", &pid]).status();
            }
            if !wait_until(STOP_WAIT, || matches!(child.try_wait(), Ok(Some(_)) | Err(_))) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        for stray in &self.strays {
            // Somebody else may use it by now: then it isn't empty.
            let _ = fs::remove_dir(stray);
        }
        remove(&self.dir)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("xtask: the Docker daemon isn't wholly gone: {error:#}");
        }
    }
}

/// `setpriv` has the kernel end the daemon when we are killed; `unshare` takes its mounts out of the machine's sight, while
/// what the machine mounts is seen by it, for tests that share directories.
fn daemon_command(dir: &Path) -> Command {
    let option = |name: &str, below: &str| format!("--{name}={}", dir.join(below).display());
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "slave", "dockerd"])
        .args([
            option("config-file", "daemon.json"),
            option("data-root", "data"),
            option("exec-root", "exec"),
            option("pidfile", "pid"),
            format!("--host=unix://{}", dir.join("docker.sock").display()),
            format!("--cgroup-parent=/{}", name_of(dir)),
        ])
        // Nothing of the machine's network is changed; containers have none, or the machine's.
        .args(["--bridge=none", "--iptables=false", "--ip-masq=false", "--ip-forward=false"])
        // Control groups where we look for them, and not wherever systemd puts them.
        .args(["--userland-proxy=false", "--exec-opt=native.cgroupdriver=cgroupfs"]);
    command
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a daemon answers there. Not an error: it may be starting, or there may be none.
fn answers(socket: &Path) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.0 200 "))
    };
    ask().unwrap_or(false)
}

/// It gets its name when it is locked: under that name it would be taken for an abandoned one before.
fn make_directory(parent: &Path) -> Result<(PathBuf, File)> {
    let pid = std::process::id();
    let (new, dir) = (parent.join(format!(".{PREFIX}{pid}")), parent.join(format!("{PREFIX}{pid}")));
    let make = || -> io::Result<File> {
        fs::DirBuilder::new().mode(0o700).create(&new)?;
        let lock = File::open(&new)?;
        lock.lock()?;
        fs::rename(&new, &dir)?;
        Ok(lock)
    };
    let lock = make().with_context(|| format!("can't make {}", dir.display()))?;
    Ok((dir, lock))
}

/// Daemons whose xtask was killed.
fn remove_abandoned(parent: &Path) -> Result<()> {
    let uid = fs::metadata("/proc/self").context("can't look at /proc/self")?.uid();
    for entry in fs::read_dir(parent).with_context(|| format!("can't list {}", parent.display()))? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Anybody can make anything here; what is another user's isn't touched.
        if !ours || !entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == uid) {
            continue;
        }
        let lock = File::open(entry.path()).context("can't open an abandoned directory")?;
        if lock.try_lock().is_ok() {
            eprintln!("removing what a killed daemon left in {}", entry.path().display());
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whatever is left of the daemon of that directory: processes, control groups, files.
fn remove(dir: &Path) -> Result<()> {
    let ended = wait_until(KILL_WAIT, || {
        let pids = processes(dir);
        if !pids.is_empty() {
            let _ = Command::new("kill").arg("-KILL").args(&pids).stderr(Stdio::null()).status();
        }
        pids.is_empty()
    });
    if !ended {
        bail!("processes of {} don't end: {:?}", dir.display(), processes(dir));
    }
    let groups: Vec<PathBuf> = hierarchies().iter().map(|top| top.join(name_of(dir))).collect();
    for group in groups.iter().filter(|group| group.exists()) {
        remove_group(group).with_context(|| format!("can't remove {}", group.display()))?;
    }
    fs::remove_dir_all(dir).with_context(|| format!("can't remove {}", dir.display()))
}

/// dockerd, containerd and what they start, by the directory that each names in its command line; a client that names the
/// socket is none of them. Containers, by their control group.
fn processes(dir: &Path) -> Vec<String> {
    let path = format!("{}/", dir.display());
    let group = format!(":/{}/", name_of(dir));
    let claimed = |process: &Path| {
        let has = |file: &str, text: &str| {
            let bytes = fs::read(process.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        let name = fs::read_link(process.join("exe")).unwrap_or_default();
        let daemon = PROGRAMS.iter().any(|program| name_of(&name).starts_with(program));
        daemon && has("cmdline", &path) || has("cgroup", &group)
    };
    let is_pid = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let own = std::process::id().to_string();
    children(Path::new("/proc"))
        .into_iter()
        .filter(|process| is_pid(&name_of(process)) && name_of(process) != own && claimed(process))
        .map(|process| name_of(&process))
        .collect()
}

/// Of version 1 each has its own directory, of version 2 there is one.
fn hierarchies() -> Vec<PathBuf> {
    let mut all = children(Path::new(CGROUPS));
    all.push(CGROUPS.into());
    all
}

/// Its files can't be removed, and go with it.
fn remove_group(group: &Path) -> io::Result<()> {
    for inside in children(group).iter().filter(|path| path.is_dir()) {
        remove_group(inside)?;
    }
    fs::remove_dir(group)
}

fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

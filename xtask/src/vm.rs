//! The static binary in a virtual machine: a Debian kernel, cgroup v2 alone, ordinary users, then systemd.
//!
//! Two boots of one disk. First a shell as init, so that nothing but us touches the control groups; then systemd, with
//! a session as a login makes it. What is checked stands in `vm/checks.py`, which prints a line for each check.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{self, Step, root};
use crate::count::Count;
use crate::dist;

/// A Debian release whose kernel and libraries the machine gets, instead of [`RELEASE`].
const RELEASE_VARIABLE: &str = "LASTWORD_VM_RELEASE";
const RELEASE: &str = "bookworm";
/// A static binary to check, instead of one built now.
const BINARY_VARIABLE: &str = "LASTWORD_VM_BINARY";
/// `kvm` where it works. Not found out by trying: inside another virtual machine it may fail in the middle.
const ACCELERATOR_VARIABLE: &str = "LASTWORD_VM_ACCEL";
const ACCELERATOR: &str = "tcg";
/// The kernel for virtual machines: the same source and the same options for what matters here, fewer drivers.
const PACKAGES: &str = "linux-image-cloud-amd64,python3,util-linux,iproute2,systemd,systemd-sysv,dbus,\
    dbus-user-session,libpam-systemd";
const INIT: &str = include_str!("vm/init.sh");
const SERVICE: &str = include_str!("vm/checks.service");
const CHECKS: &str = include_str!("vm/checks.py");
/// One boot with an emulated processor takes two to three minutes; after this time it is killed.
const BOOT_AT_MOST: Duration = Duration::from_secs(420);
const MEMORY: &str = "1024M";
const PROCESSORS: &str = "2";
/// With five levels of page tables the emulated processor does not boot every kernel.
const PROCESSOR: &str = "max,la57=off";
/// Every line of ours on the serial console starts like this.
const MARK: &str = "vm: ";

/// A boot: its name in the checks, and what the kernel's command line gets for it.
const BOOTS: [(&str, &str); 2] = [("bare", ""), ("systemd", "lastword.systemd")];

struct Need {
    program: &'static str,
    package: &'static str,
}

const NEEDS: [Need; 4] = [
    Need { program: "/usr/bin/qemu-system-x86_64", package: "qemu-system-x86" },
    Need { program: "/usr/bin/mmdebstrap", package: "mmdebstrap" },
    Need { program: "/usr/bin/genext2fs", package: "genext2fs" },
    Need { program: "/usr/sbin/mke2fs", package: "e2fsprogs" },
];

/// What a boot needs, all below the target directory.
struct Machine {
    directory: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
    /// The second disk: the binary and the checks.
    payload: PathBuf,
}

pub(crate) fn run() -> Result<Count> {
    ensure()?;
    let release = std::env::var(RELEASE_VARIABLE).unwrap_or_else(|_| RELEASE.into());
    let directory = command::target()?.join("vm").join(&release);
    std::fs::create_dir_all(&directory).with_context(|| format!("can't make {}", directory.display()))?;

    let binary = match std::env::var_os(BINARY_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => {
            dist::run()?;
            root().join("dist/lastword")
        }
    };
    let disk = disk(&directory, &release)?;
    let payload = payload(&directory, &binary)?;
    let machine = Machine {
        kernel: boot_file(&directory, "vmlinuz-")?,
        initrd: boot_file(&directory, "initrd.img-")?,
        directory,
        disk,
        payload,
    };
    let mut count = Count::default();
    for (name, options) in BOOTS {
        count.add(boot(&machine, name, options)?);
    }
    Ok(count)
}

/// Installs what is missing, as `cargo xtask test` does. Only this job needs it.
fn ensure() -> Result<()> {
    let missing: Vec<&str> =
        NEEDS.iter().filter(|need| !Path::new(need.program).exists()).map(|need| need.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !is_root()? || !Path::new("/usr/bin/apt-get").exists() {
        bail!("missing: {}; on Debian run `sudo {install}` and start again", missing.join(", "));
    }
    Step::new("apt-get", &["update", "-q"]).run()?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(missing);
    Step::new("apt-get", &arguments).env("DEBIAN_FRONTEND", "noninteractive").run()
}

fn is_root() -> Result<bool> {
    Ok(Step::new("id", &["-u"]).capture()?.trim() == "0")
}

/// The system's disk, made once for each content; kernel and initrd are copied out beside it.
fn disk(directory: &Path, release: &str) -> Result<PathBuf> {
    let disk = directory.join("system.ext2");
    let made_of = directory.join("made-of");
    let wanted = format!("{PACKAGES}\n{INIT}\n{SERVICE}");
    if disk.exists() && std::fs::read_to_string(&made_of).is_ok_and(|text| text == wanted) {
        return Ok(disk);
    }
    // What is made half is not taken for whole.
    gone(std::fs::remove_file(&made_of))?;
    gone(std::fs::remove_file(&disk))?;
    gone(std::fs::remove_dir_all(directory.join("boot")))?;
    let init = written(directory, "init.sh", INIT)?;
    let service = written(directory, "checks.service", SERVICE)?;
    let include = format!("--include={PACKAGES}");
    let hooks = [
        // No manual pages and the like; the initrd is the largest part of the time, so it is packed fast.
        "--dpkgopt=path-exclude=/usr/share/doc/*".to_owned(),
        "--dpkgopt=path-exclude=/usr/share/man/*".to_owned(),
        "--dpkgopt=path-exclude=/usr/share/locale/*".to_owned(),
        format!("--customize-hook=upload '{}' /sbin/lastword-init", init.display()),
        format!(
            "--customize-hook=upload '{}' /etc/systemd/system/lastword-checks.service",
            service.display()
        ),
        "--customize-hook=chmod 755 \"$1/sbin/lastword-init\" && mkdir \"$1/vm\"".to_owned(),
        "--customize-hook=chroot \"$1\" useradd --uid 1000 --create-home tester".to_owned(),
        "--customize-hook=ln -s /etc/systemd/system/lastword-checks.service \
            \"$1/etc/systemd/system/multi-user.target.wants/\""
            .to_owned(),
        format!("--customize-hook=copy-out /boot '{}'", directory.display()),
    ];
    let disk_text = disk.display().to_string();
    let mut arguments = vec!["--variant=minbase", "--format=ext2", "--quiet", &include];
    arguments.extend(hooks.iter().map(String::as_str));
    arguments.extend([release, &disk_text]);
    if is_root()? {
        // It mounts /proc and more into what it builds: a mount namespace of its own takes them along if it is killed.
        arguments.splice(..0, ["--mount", "mmdebstrap"]);
        Step::new("unshare", &arguments).env("TMPDIR", directory).run()?;
    } else {
        Step::new("mmdebstrap", &arguments).env("TMPDIR", directory).run()?;
    }
    std::fs::write(&made_of, wanted)?;
    Ok(disk)
}

fn payload(directory: &Path, binary: &Path) -> Result<PathBuf> {
    let content = directory.join("payload");
    std::fs::create_dir_all(&content)?;
    std::fs::copy(binary, content.join("lastword"))
        .with_context(|| format!("can't copy {}", binary.display()))?;
    written(&content, "checks.py", CHECKS)?;
    let payload = directory.join("payload.ext2");
    let (content, image) = (content.display().to_string(), payload.display().to_string());
    gone(std::fs::remove_file(&payload))?;
    Step::new("mke2fs", &["-q", "-t", "ext2", "-d", &content, &image, "128M"]).run()?;
    Ok(payload)
}

fn gone(removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn written(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

fn boot_file(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let boot = directory.join("boot");
    for entry in std::fs::read_dir(&boot).with_context(|| format!("can't read {}", boot.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("no {prefix} in {}", boot.display())
}

fn boot(machine: &Machine, name: &str, options: &str) -> Result<Count> {
    let started = Instant::now();
    let mut qemu = start(machine, options)?;
    let console = qemu.stdout.take().context("qemu has no console")?;
    let qemu = Arc::new(Mutex::new(qemu));
    let watchdog = Watchdog::start(Arc::clone(&qemu));
    let mut lines = Lines::default();
    // All of what the machine says, for whoever has to find out why it didn't boot.
    let log = machine.directory.join(format!("{name}.log"));
    let mut kept = std::fs::File::create(&log).with_context(|| format!("can't write {}", log.display()))?;
    for line in BufReader::new(console).split(b'\n') {
        let line = line?;
        std::io::Write::write_all(&mut kept, &[&line[..], b"\n"].concat())?;
        if let Some(line) = lines.line(&String::from_utf8_lossy(&line)) {
            println!("{line}");
        }
    }
    let in_time = watchdog.stop();
    // It has closed its console: it is ending, or was killed.
    qemu.lock().unwrap_or_else(PoisonError::into_inner).wait()?;
    if !in_time {
        println!("{name}: killed after {} s", BOOT_AT_MOST.as_secs());
    } else if !lines.ended {
        println!(
            "{name}: the machine stopped before the checks were through; its console is in {}",
            log.display()
        );
    }
    println!("{name}: {:.0} s from power on to power off", started.elapsed().as_secs_f64());
    Ok(lines.close())
}

fn start(machine: &Machine, options: &str) -> Result<Child> {
    let append = format!(
        "root=/dev/vda rw init=/sbin/lastword-init console=ttyS0 quiet loglevel=1 panic=-1 \
         systemd.unified_cgroup_hierarchy=1 systemd.show_status=0 \
         systemd.mask=serial-getty@ttyS0.service {options}"
    );
    let drive = |path: &Path| format!("file={},format=raw,if=virtio", path.display());
    let mut command = Command::new("qemu-system-x86_64");
    let accelerator = std::env::var(ACCELERATOR_VARIABLE).unwrap_or_else(|_| ACCELERATOR.into());
    command
        .args(["-accel", &accelerator])
        .args(["-cpu", PROCESSOR, "-m", MEMORY, "-smp", PROCESSORS])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-nic", "none"])
        // What the machine writes goes to a file that is gone with qemu.
        .args(["-snapshot", "-drive", &drive(&machine.disk), "-drive", &drive(&machine.payload)])
        .arg("-kernel")
        .arg(&machine.kernel)
        .arg("-initrd")
        .arg(&machine.initrd)
        .args(["-append", &append])
        .env("TMPDIR", &machine.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    eprintln!("$ qemu-system-x86_64 ... -append \"{append}\"");
    command.spawn().context("can't start qemu-system-x86_64")
}

/// Kills the machine that takes too long.
struct Watchdog {
    cancel: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(qemu: Arc<Mutex<Child>>) -> Self {
        let (cancel, cancelled) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            if cancelled.recv_timeout(BOOT_AT_MOST) != Err(RecvTimeoutError::Timeout) {
                return true;
            }
            // Not reaped before the watchdog is stopped, so it is still this process.
            let _ = qemu.lock().unwrap_or_else(PoisonError::into_inner).kill();
            false
        });
        Self { cancel, thread }
    }

    /// Whether there was no need of it.
    fn stop(self) -> bool {
        let _ = self.cancel.send(());
        self.thread.join().unwrap_or(false)
    }
}

/// What the serial console said.
#[derive(Default)]
struct Lines {
    count: Count,
    ended: bool,
}

impl Lines {
    /// The part of a line that is ours: the firmware and the kernel write to the same console.
    fn line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let (_, ours) = line.trim_end().split_once(MARK)?;
        match ours.split_once(' ')?.0 {
            "PASS" => self.count.passed += 1,
            "FAIL" => self.count.failed += 1,
            "END" => self.ended = true,
            _ => {}
        }
        Some(ours)
    }

    /// A machine that stopped in the middle has failed, whatever passed before.
    fn close(mut self) -> Count {
        self.count.failed += u64::from(!self.ended);
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_lines_count_and_a_missing_end_is_a_failure() {
        let mut lines = Lines::default();
        assert_eq!(lines.line("[    1.0] random: crng init done"), None);
        assert_eq!(lines.line("\x1b[cvm: PASS bare: a\r"), Some("PASS bare: a"));
        lines.line("vm: FAIL bare: b: why");
        lines.line("vm: INFO PASS");
        let cut = Lines { count: lines.count, ended: false };
        assert_eq!(cut.close(), Count { passed: 1, failed: 2, skipped: 0 });
        lines.line("vm: END bare");
        assert_eq!(lines.close(), Count { passed: 1, failed: 1, skipped: 0 });
    }
}

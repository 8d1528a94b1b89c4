//! What this machine offers, looked at once per process.

use std::sync::OnceLock;

use lastword_sandbox::cgroup::{Controller, Layout};
use lastword_sandbox::host::Base;
use lastword_sandbox::plan::Identity;
use lastword_sandbox::sys;

/// `nobody` and `nogroup`: what the program is inside, and outside where we may choose.
const NOBODY: u32 = 65534;
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;
/// RLIMIT_NPROC counts per user namespace since then.
const KERNEL_COUNTS_PROCESSES: (u32, u32) = (5, 14);

/// Facts, not state: nothing in here changes while a process lives.
#[derive(Clone, Debug)]
pub struct Machine {
    pub base: Base,
    pub cgroups: Layout,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: String,
    /// glibc's, as linked.
    pub libc: String,
    pub boot_id: [u8; 16],
    /// When it came up by its own wall clock, nanoseconds since 1970: `btime` of /proc/stat.
    pub booted_ns: i64,
    /// The kernel has a seccomp listener that timers can't disturb. Whether one can be had is known only at the start.
    pub listener: bool,
    /// We may give the program another uid than our own.
    pub privileged: bool,
}

static MACHINE: OnceLock<Machine> = OnceLock::new();

impl Machine {
    pub fn get() -> &'static Machine {
        MACHINE.get_or_init(Machine::look)
    }

    fn look() -> Machine {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let needed = CAP_SETUID | CAP_SETGID;
        let cgroups = Layout::detect();
        Machine {
            base: Base::host(),
            cgroups,
            kernel: kernel.trim().to_owned(),
            libc: sys::libc_version(),
            boot_id: boot_id(),
            booted_ns: booted_ns(),
            listener: sys::listener_supported(),
            privileged: sys::geteuid() == 0 && sys::effective_capabilities() & needed == needed,
        }
    }

    pub fn identity(&self) -> Identity {
        let (host_uid, host_gid) =
            if self.privileged { (NOBODY, NOBODY) } else { (sys::geteuid(), sys::getegid()) };
        Identity { uid: NOBODY, gid: NOBODY, host_uid, host_gid, privileged: self.privileged }
    }

    /// Major and minor number of the kernel.
    pub fn kernel_version(&self) -> (u32, u32) {
        let mut numbers = self.kernel.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Without a pids group, the limit on processes of the sandbox's user in its own namespace does the same.
    pub fn counts_processes(&self) -> bool {
        self.cgroups.has(Controller::Pids) || self.kernel_version() >= KERNEL_COUNTS_PROCESSES
    }
}

fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim()).map(uuid::Uuid::into_bytes).unwrap_or_default()
}

/// Unknown counts as: this very moment.
fn booted_ns() -> i64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok());
    seconds.map_or(i64::MAX, |seconds| seconds.saturating_mul(1_000_000_000))
}

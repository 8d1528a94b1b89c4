//! The plan of one execution: all that the supervisor needs to know, decided before anything is done.
//!
//! Plans are made on the host by [`crate::root`], [`crate::cgroup`] and [`crate::seccomp`], cross a socket once, and are
//! carried out in order. Paths are bytes: Linux names are.

use crate::limits::PLAN_BYTES_MAX;
use crate::sys::{BpfInstruction, Errno};
pub use crate::wire::{Bytes, WireError};
use crate::wire::{Reader, Wire, Writer, wire_enum, wire_struct};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The execution's UUIDv7.
    pub id: [u8; 16],
    pub boot_id: [u8; 16],
    pub program: Program,
    pub identity: Identity,
    pub steps: Vec<Step>,
    /// A path in the sandbox whose file system being full at the end explains a failure.
    pub scratch: Bytes,
    pub rlimits: Vec<(u32, u64)>,
    pub cgroups: Vec<Cgroup>,
    pub filter: Filters,
    pub capture: Capture,
    /// Files to keep after the end. A descriptor of the file that takes them follows the plan.
    pub outputs: Option<Outputs>,
    /// A FIFO follows, opened for both ways and without blocking, by which others than the starter speak to the supervisor.
    pub control: bool,
    /// So many more descriptors follow: locks that must be held until the end.
    pub held: u32,
}

/// Which files of the finished sandbox are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// See [`crate::glob`]. Absolute paths of the sandbox, below one of [`crate::root::WRITABLE`] or [`crate::root::BUILD`].
    pub globs: Vec<Bytes>,
    /// Of all of them together.
    pub bytes_max: u64,
    pub files_max: u32,
}

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// `argv[0]` without a slash is looked up in `path`.
    pub argv: Vec<Bytes>,
    /// `NAME=value`.
    pub env: Vec<Bytes>,
    pub path: Vec<Bytes>,
    pub cwd: Bytes,
    pub stdin: Stdin,
    pub tty: bool,
}

/// Where the program's stdin comes from. Never a descriptor of the host: the program could open it anew for writing
/// through /proc/self/fd. The supervisor pumps it through a pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// /dev/null.
    Nothing {},
    Bytes {
        bytes: Bytes,
    },
    /// A descriptor that came with the plan.
    Passed {},
    /// These, then what a regular file holds whose descriptor came with the plan. Others append to it and say so on the control
    /// FIFO. Its end is the input's once its mode lets nobody write.
    Growing {
        first: Bytes,
    },
}

/// Who the program is, inside and outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// The one uid and gid of the host that the user namespace maps `uid` and `gid` to.
    pub host_uid: u32,
    pub host_gid: u32,
    /// The supervisor is privileged: it may map any uid and drop supplementary groups. Otherwise host_uid is its own.
    pub privileged: bool,
}

/// One step in building the root, in order. Targets are relative to the new root, without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Dir {
        path: Bytes,
        mode: u32,
    },
    Symlink {
        path: Bytes,
        target: Bytes,
    },
    /// A fresh file; it must not exist yet.
    File {
        path: Bytes,
        mode: u32,
        bytes: Bytes,
    },
    /// A tmpfs of its own; both bounds are of the whole file system.
    Tmpfs {
        path: Bytes,
        bytes: u64,
        inodes: u64,
    },
    /// A path of the host with all mounts below it. `writable` exists for devices.
    Bind {
        source: Bytes,
        path: Bytes,
        writable: bool,
        devices: bool,
    },
    /// Another place of the new root, seen here too.
    Alias {
        source: Bytes,
        path: Bytes,
    },
    Proc {
        path: Bytes,
    },
    /// Bind over itself and make read-only; nothing happens if the path isn't there.
    ReadOnly {
        path: Bytes,
    },
    /// Hide a file behind /dev/null or a directory behind an empty one; nothing happens if the path isn't there.
    Mask {
        path: Bytes,
    },
    Devpts {
        path: Bytes,
    },
}

/// One control group directory to make: on v1 one for each controller, on v2 one for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Absolute path on the host; its parent exists.
    pub path: Bytes,
    /// Files to write before a process enters, in order: (name, value).
    pub settings: Vec<(Bytes, Bytes)>,
    /// What can be read here.
    pub meters: Vec<Meter>,
}

/// A figure that a control group keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Meter {
    /// v1 `memory.oom_control`, line `oom_kill`.
    OomControl = 1,
    /// v2 `memory.events`, line `oom_kill`.
    MemoryEvents = 2,
    /// v1 `memory.max_usage_in_bytes`.
    MemoryMaxUsage = 3,
    /// v2 `memory.peak` (Linux 5.19).
    MemoryPeak = 4,
    /// `pids.peak` (v2, Linux 6.6).
    PidsPeak = 5,
    /// `pids.current`, sampled.
    PidsCurrent = 6,
    /// v1 `cpuacct.usage_user` and `cpuacct.usage_sys`, nanoseconds.
    CpuacctUsage = 7,
    /// v2 `cpu.stat`, microseconds.
    CpuStat = 8,
}

impl Meter {
    const ALL: [Meter; 8] = [
        Meter::OomControl,
        Meter::MemoryEvents,
        Meter::MemoryMaxUsage,
        Meter::MemoryPeak,
        Meter::PidsPeak,
        Meter::PidsCurrent,
        Meter::CpuacctUsage,
        Meter::CpuStat,
    ];
}

/// The two forms of the seccomp filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters {
    /// With notification of every call that can write to a pipe; empty when exact ordering isn't wanted.
    pub exact: Vec<BpfInstruction>,
    /// The same without.
    pub plain: Vec<BpfInstruction>,
    /// Refuse to start rather than fall back from `exact` to `plain`.
    pub exact_required: bool,
    /// Written into the transcript when `exact` is empty although it would have been wanted.
    pub why_not_exact: Bytes,
}

/// Limits that the supervisor enforces, and what it does then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub wall_ns: Option<u64>,
    pub cpu_ns: Option<u64>,
    /// Of stdout and stderr together.
    pub output_bytes: Option<u64>,
    /// At the output limit: end the program, or let it go on and count what is dropped.
    pub kill_at_output_limit: bool,
    /// How long processes that the main one left behind may go on.
    pub grace_ns: u64,
}

impl Wire for Meter {
    fn put(&self, to: &mut Writer) {
        (*self as u8).put(to);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let number = u8::take(from)?;
        match Meter::ALL.iter().find(|meter| **meter as u8 == number) {
            Some(meter) => Ok(*meter),
            None => from.unknown("an unknown meter"),
        }
    }
}

wire_struct!(Plan {
    id,
    boot_id,
    program,
    identity,
    steps,
    scratch,
    rlimits,
    cgroups,
    filter,
    capture,
    outputs,
    control,
    held
});
wire_struct!(Program { argv, env, path, cwd, stdin, tty });
wire_enum!(Stdin { 0 => Nothing {}, 1 => Bytes { bytes }, 2 => Passed {}, 3 => Growing { first } });
wire_struct!(Identity { uid, gid, host_uid, host_gid, privileged });
wire_enum!(Step {
    1 => Dir { path, mode },
    2 => Symlink { path, target },
    3 => File { path, mode, bytes },
    4 => Tmpfs { path, bytes, inodes },
    5 => Bind { source, path, writable, devices },
    6 => Alias { source, path },
    7 => Proc { path },
    8 => ReadOnly { path },
    9 => Mask { path },
    10 => Devpts { path },
});
wire_struct!(Cgroup { path, settings, meters });
wire_struct!(Filters { exact, plain, exact_required, why_not_exact });
wire_struct!(Outputs { globs, bytes_max, files_max });
wire_struct!(Capture { wall_ns, cpu_ns, output_bytes, kill_at_output_limit, grace_ns });

impl Plan {
    /// Where the one file system is mounted that the program can write to, without the first slash. ENOENT: there is none.
    pub fn scratch_mount(&self) -> Result<&[u8], Errno> {
        let mount = self.steps.iter().find_map(|step| match step {
            Step::Tmpfs { path, .. } => Some(&path.0[..]),
            _ => None,
        });
        mount.ok_or(Errno(libc::ENOENT))
    }

    /// The plan as it goes over the socket: a u64 length, then so many bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer { out: vec![0; 8] };
        self.put(&mut writer);
        let len = (writer.out.len() - 8) as u64;
        writer.out[..8].copy_from_slice(&len.to_le_bytes());
        writer.out
    }

    /// The length from the first 8 bytes, if it is within bounds.
    pub fn encoded_len(prefix: [u8; 8]) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(prefix)).ok().filter(|len| *len <= PLAN_BYTES_MAX)
    }

    pub fn decode(bytes: &[u8]) -> Result<Plan, WireError> {
        let mut reader = Reader::new(bytes);
        let plan = Plan::take(&mut reader)?;
        reader.end()?;
        Ok(plan)
    }
}

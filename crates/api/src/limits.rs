//! The limits of one execution: defaults, and the bounds within which they may be chosen.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::quantity::{format_ms, format_size};

/// Wall time, milliseconds.
pub const WALL_MS_DEFAULT: u64 = 30_000;
pub const WALL_MS_MIN: u64 = 1;
/// Seven days: a supervisor and its host's deadline must outlive it.
pub const WALL_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// CPU time of all processes together, milliseconds.
pub const CPU_MS_MIN: u64 = 1;
pub const CPU_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// Memory of all processes together with what they write to their tmpfs, bytes.
pub const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;
/// Below it the smallest of programs doesn't start.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;
pub const MEMORY_BYTES_MAX: u64 = 64 << 40;

/// Processes and threads at one time.
pub const PIDS_DEFAULT: u64 = 256;
pub const PIDS_MIN: u64 = 1;
/// The kernel's own PID_MAX_LIMIT.
pub const PIDS_MAX: u64 = 4 << 20;

/// CPUs' worth of time at once.
pub const CPUS_MIN: f64 = 0.01;
pub const CPUS_MAX: f64 = 4096.0;

/// What the program may keep in its file system, bytes.
pub const DISK_BYTES_DEFAULT: u64 = 256 << 20;
pub const DISK_BYTES_MIN: u64 = 64 << 10;
pub const DISK_BYTES_MAX: u64 = 64 << 40;

/// What is kept of stdout and stderr together, bytes.
pub const OUTPUT_BYTES_DEFAULT: u64 = 64 << 20;
pub const OUTPUT_BYTES_MIN: u64 = 1;
pub const OUTPUT_BYTES_MAX: u64 = 1 << 40;

/// Stack of the main thread, bytes.
pub const STACK_BYTES_DEFAULT: u64 = 64 << 20;
/// The kernel needs about this much for arguments and environment.
pub const STACK_BYTES_MIN: u64 = 256 << 10;
pub const STACK_BYTES_MAX: u64 = 64 << 30;

/// Open descriptors of one process.
pub const OPEN_FILES_DEFAULT: u64 = 1024;
/// An interpreter that loads its libraries needs about this many.
pub const OPEN_FILES_MIN: u64 = 16;
pub const OPEN_FILES_MAX: u64 = 1 << 20;

/// The limits of one execution. `None` means no limit of that kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Limits {
    pub wall_ms: u64,
    pub cpu_ms: Option<u64>,
    pub memory_bytes: u64,
    pub pids: u64,
    pub cpus: Option<f64>,
    pub disk_bytes: u64,
    pub output_bytes: u64,
    pub stack_bytes: u64,
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall_ms: WALL_MS_DEFAULT,
            cpu_ms: None,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            pids: PIDS_DEFAULT,
            cpus: None,
            disk_bytes: DISK_BYTES_DEFAULT,
            output_bytes: OUTPUT_BYTES_DEFAULT,
            stack_bytes: STACK_BYTES_DEFAULT,
            open_files: OPEN_FILES_DEFAULT,
        }
    }
}

/// One kind of limit. `enforced` of the execution object has one entry for each limit that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitName {
    Wall,
    Cpu,
    Memory,
    Pids,
    Cpus,
    Disk,
    Output,
    Stack,
    OpenFiles,
}

impl LimitName {
    pub const ALL: [LimitName; 9] = [
        LimitName::Wall,
        LimitName::Cpu,
        LimitName::Memory,
        LimitName::Pids,
        LimitName::Cpus,
        LimitName::Disk,
        LimitName::Output,
        LimitName::Stack,
        LimitName::OpenFiles,
    ];

    /// The field of [`Limits`].
    pub fn field(self) -> &'static str {
        match self {
            LimitName::Wall => "wall_ms",
            LimitName::Cpu => "cpu_ms",
            LimitName::Memory => "memory_bytes",
            LimitName::Pids => "pids",
            LimitName::Cpus => "cpus",
            LimitName::Disk => "disk_bytes",
            LimitName::Output => "output_bytes",
            LimitName::Stack => "stack_bytes",
            LimitName::OpenFiles => "open_files",
        }
    }

    /// The option of the command line.
    pub fn flag(self) -> &'static str {
        match self {
            LimitName::Wall => "--timeout",
            LimitName::Cpu => "--cpu-time",
            LimitName::Memory => "--memory",
            LimitName::Pids => "--pids",
            LimitName::Cpus => "--cpus",
            LimitName::Disk => "--disk",
            LimitName::Output => "--output-limit",
            LimitName::Stack => "--stack",
            LimitName::OpenFiles => "--open-files",
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field())
    }
}

/// A limit outside its bounds. `value`, `min` and `max` are texts with units, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}: it must be between {min} and {max}")]
pub struct LimitError {
    pub name: LimitName,
    pub value: String,
    pub min: String,
    pub max: String,
}

impl Limits {
    /// Checks every limit against its bounds, in the order of the fields.
    pub fn check(&self) -> Result<(), LimitError> {
        use LimitName as N;
        let count = |n: u64| n.to_string();
        within(N::Wall, self.wall_ms, WALL_MS_MIN, WALL_MS_MAX, format_ms)?;
        if let Some(cpu_ms) = self.cpu_ms {
            within(N::Cpu, cpu_ms, CPU_MS_MIN, CPU_MS_MAX, format_ms)?;
        }
        within(N::Memory, self.memory_bytes, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX, format_size)?;
        within(N::Pids, self.pids, PIDS_MIN, PIDS_MAX, count)?;
        if let Some(cpus) = self.cpus {
            // Also catches NaN, which lies nowhere.
            within(N::Cpus, cpus, CPUS_MIN, CPUS_MAX, |n| n.to_string())?;
        }
        within(N::Disk, self.disk_bytes, DISK_BYTES_MIN, DISK_BYTES_MAX, format_size)?;
        within(N::Output, self.output_bytes, OUTPUT_BYTES_MIN, OUTPUT_BYTES_MAX, format_size)?;
        within(N::Stack, self.stack_bytes, STACK_BYTES_MIN, STACK_BYTES_MAX, format_size)?;
        within(N::OpenFiles, self.open_files, OPEN_FILES_MIN, OPEN_FILES_MAX, count)
    }
}

fn within<T: PartialOrd + Copy>(
    name: LimitName,
    value: T,
    min: T,
    max: T,
    show: impl Fn(T) -> String,
) -> Result<(), LimitError> {
    if value >= min && value <= max {
        return Ok(());
    }
    Err(LimitError { name, value: show(value), min: show(min), max: show(max) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_bounds_and_are_those_of_the_interface() {
        let limits = Limits::default();
        limits.check().unwrap();
        let json = serde_json::to_string(&limits).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"wall_ms":30000,"cpu_ms":null,"memory_bytes":1073741824,"pids":256,"cpus":null,"#,
                r#""disk_bytes":268435456,"output_bytes":67108864,"stack_bytes":67108864,"open_files":1024}"#
            )
        );
        assert_eq!(serde_json::from_str::<Limits>("{\"pids\":3}").unwrap(), Limits { pids: 3, ..limits });
    }

    #[test]
    fn an_error_names_field_value_and_bounds() {
        let error = Limits { memory_bytes: 1 << 20, ..Limits::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "memory_bytes is 1MiB: it must be between 4MiB and 64TiB");
        let error = Limits { cpus: Some(f64::NAN), ..Limits::default() }.check().unwrap_err();
        assert_eq!(error.name, LimitName::Cpus);
    }

    #[test]
    fn each_bound_holds_on_both_sides() {
        type Set = fn(&mut Limits);
        let outside: [(LimitName, Set); 18] = [
            (LimitName::Wall, |l| l.wall_ms = 0),
            (LimitName::Wall, |l| l.wall_ms = WALL_MS_MAX + 1),
            (LimitName::Cpu, |l| l.cpu_ms = Some(0)),
            (LimitName::Cpu, |l| l.cpu_ms = Some(u64::MAX)),
            (LimitName::Memory, |l| l.memory_bytes = 0),
            (LimitName::Memory, |l| l.memory_bytes = u64::MAX),
            (LimitName::Pids, |l| l.pids = 0),
            (LimitName::Pids, |l| l.pids = u64::MAX),
            (LimitName::Cpus, |l| l.cpus = Some(0.0)),
            (LimitName::Cpus, |l| l.cpus = Some(f64::INFINITY)),
            (LimitName::Disk, |l| l.disk_bytes = 0),
            (LimitName::Disk, |l| l.disk_bytes = u64::MAX),
            (LimitName::Output, |l| l.output_bytes = 0),
            (LimitName::Output, |l| l.output_bytes = u64::MAX),
            (LimitName::Stack, |l| l.stack_bytes = 0),
            (LimitName::Stack, |l| l.stack_bytes = u64::MAX),
            (LimitName::OpenFiles, |l| l.open_files = 0),
            (LimitName::OpenFiles, |l| l.open_files = u64::MAX),
        ];
        for (name, set) in outside {
            let mut limits = Limits::default();
            set(&mut limits);
            assert_eq!(limits.check().unwrap_err().name, name);
        }
    }

    #[test]
    fn names_match_the_fields() {
        let json = serde_json::to_value(Limits::default()).unwrap();
        for name in LimitName::ALL {
            assert!(json.get(name.field()).is_some(), "{name}");
        }
    }
}

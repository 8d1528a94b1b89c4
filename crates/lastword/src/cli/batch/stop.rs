//! Why a batch starts no more rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::progress::Voice;
use crate::execution::Cancel;

#[derive(Debug)]
pub(super) enum Why {
    /// By its number.
    Signal(u8),
    /// The disk of the data directory: every row would fail in the same way.
    DiskFull,
    /// Nobody reads the results.
    NobodyReads,
    Failed(anyhow::Error),
}

/// The first reason counts.
#[derive(Debug, Default)]
pub(super) struct Stop {
    pub(super) cancel: Cancel,
    why: Mutex<Option<Why>>,
}

impl Stop {
    /// False if there was a reason already.
    pub(super) fn because(&self, why: Why) -> bool {
        let mut slot = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        let first = slot.is_none();
        slot.get_or_insert(why);
        drop(slot);
        self.cancel.cancel();
        first
    }

    pub(super) fn is_asked(&self) -> bool {
        self.cancel.is_asked()
    }

    pub(super) fn why(&self) -> Option<Why> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits, unless the batch is to stop.
    pub(super) fn pause(&self, time: Duration) {
        let mut fds: Vec<PollFd<'_>> = self
            .cancel
            .wake()
            .map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN))
            .into_iter()
            .collect();
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        // A signal that cuts it short does no harm.
        let _ = poll(&mut fds, Some(&time));
    }

    /// The first SIGINT or SIGTERM lets running rows end; the second one ends us at once.
    pub(super) fn on_signals(self: &Arc<Self>, voice: &Voice) -> anyhow::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
        let (stop, voice) = (Arc::clone(self), voice.clone());
        let mut caught = false;
        let watch = move || {
            for signal in signals.forever() {
                let signal = u8::try_from(signal).unwrap_or(SIGINT as u8);
                if std::mem::replace(&mut caught, true) {
                    // Supervisors of running rows finish alone.
                    std::process::exit(128 + i32::from(signal));
                }
                voice.say(
                    "stopping: no new row is started, running ones are waited for; \
                     once more leaves them to end by themselves",
                );
                stop.because(Why::Signal(signal));
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(watch).context("cannot start the thread that waits for signals")?;
        Ok(())
    }
}

//! lastword's supervisor: builds a sandbox, starts one program in it, and keeps all that it says.
//!
//! One thread, no async runtime, static. It is started with descriptor 0 a unix socket to its starter and descriptor 1 the
//! spool, whose lock it holds by being alive. It outlives its starter and finishes alone.
#![forbid(unsafe_code)]

mod control;
mod hear;
mod limits;
mod notify;
mod outputs;
mod recorder;
mod run;
mod settle;
mod spool;
mod start;
mod starter;
mod stdin;
mod streams;

use std::process::ExitCode;

use lastword_frame::{Begin, Frame, Ordering};
use lastword_sandbox::plan::Plan;
use lastword_sandbox::sys;

use crate::recorder::Recorder;
use crate::run::Run;
use crate::spool::Spool;
use crate::starter::Starter;

/// The starter's protocol was not kept; nothing can be recorded.
const EXIT_PROTOCOL: u8 = 2;
/// The spool could not be written to its end.
const EXIT_SPOOL: u8 = 3;

fn main() -> ExitCode {
    // A session of our own: Ctrl-C at the terminal of whoever started us is not meant for us.
    let _ = sys::setsid();
    // Nor do we keep its directory busy.
    let _ = sys::chdir_root();
    sys::ignore_signals(&[libc::SIGPIPE, libc::SIGHUP, libc::SIGXFSZ]);
    // What our starter has open is none of our business, and would be kept open by us after its end.
    let _ = sys::close_all_but(&[0, 1, 2]);
    let (Ok(socket), Ok(spool)) = (sys::inherited(0), sys::inherited(1)) else {
        eprintln!("lastword-supervisor: this program is started by lastword, not by hand");
        return ExitCode::from(EXIT_PROTOCOL);
    };
    // Out of the way of 0, 1 and 2, which the program's child will use.
    let (Ok(socket), Ok(spool)) = (to_high(socket), to_high(spool)) else {
        return ExitCode::from(EXIT_PROTOCOL);
    };
    let mut starter = Starter::new(socket);
    let (plan, passed) = match starter.receive_plan() {
        Ok(received) => received,
        Err(error) => {
            eprintln!("lastword-supervisor: {error}");
            return ExitCode::from(EXIT_PROTOCOL);
        }
    };
    let anchor_ns = sys::monotonic_ns();
    let mut recorder = Recorder::new(Spool::new(spool), anchor_ns, plan.capture.output_bytes);
    recorder.frame(&Frame::Begin(begin(&plan)));
    match Run::new(&plan, recorder, starter, passed).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => {
            eprintln!("lastword-supervisor: the spool could not be finished: {errno}");
            ExitCode::from(EXIT_SPOOL)
        }
    }
}

fn to_high(fd: std::os::fd::OwnedFd) -> sys::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    sys::dup_high(fd.as_fd())
}

fn begin(plan: &Plan) -> Begin {
    // One stream is in order by itself.
    let exact = !plan.filter.exact.is_empty() || plan.program.tty;
    Begin {
        version: Begin::VERSION,
        id: plan.id,
        boot_id: plan.boot_id,
        wall_ns: sys::realtime_ns(),
        ordering: if exact { Ordering::Exact } else { Ordering::Arrival },
        tty: plan.program.tty,
    }
}

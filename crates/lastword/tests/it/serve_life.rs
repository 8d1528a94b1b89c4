//! A server as a process: what it says when it is ready, and how it goes.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStderr, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{HANG, Lab, wait_for};

struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// The line that names it.
    line: String,
}

impl Server {
    fn start(lab: &Lab, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = lab.command();
        command.args(["serve", "--allow-unenforced", "--listen", "127.0.0.1:0"]).args(arguments);
        let mut child = command.envs(env.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut server = Server { child, stderr, line: String::new() };
        let mut all = String::new();
        loop {
            server.line.clear();
            assert!(server.stderr.read_line(&mut server.line).unwrap() > 0, "it ended, and said:\n{all}");
            if server.line.contains("listening on http://") {
                return server;
            }
            all.push_str(&server.line);
        }
    }

    fn port(&self) -> u16 {
        let rest = self.line.split_once("listening on http://127.0.0.1:").unwrap().1;
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let status = wait_for("the server goes", || self.child.try_wait().unwrap());
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {}
        assert!(!line.contains("panicked"), "{line}");
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn it_says_where_it_listens_and_goes_when_it_is_asked_to() {
    let lab = Lab::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&lab, &[], &[]);
        assert_ne!(server.port(), 0);
        drop(std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap());
        server.signal(signal);
        assert_eq!(server.ended().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn its_address_is_an_event_at_any_level() {
    let lab = Lab::new();
    let mut server = Server::start(&lab, &["--log-format", "json", "--log-level", "error"], &[]);
    let event: serde_json::Value = serde_json::from_str(&server.line).unwrap();
    assert_eq!(event["message"], format!("listening on http://127.0.0.1:{}", server.port()));
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn systemd_hears_when_it_is_ready_and_when_it_goes() {
    let lab = Lab::new();
    let path = lab.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let heard = || {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut server = Server::start(&lab, &[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(heard(), "READY=1");
    server.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(server.ended().code(), Some(0));
}

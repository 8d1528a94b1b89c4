//! A registry that is broken, away, or hostile: every case ends, with a sentence.

use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant};

use lastword_image::limits::DOCUMENT_BYTES_MAX;
use url::Url;

use super::super::Error;
use super::super::http::{Http, Question};
use super::super::limits::{REDIRECTS_MAX, TRIES_MAX};
use super::Lab;
use super::server::{Answer, End, Packed, Server, ok, status};

fn patience(mut lab: Lab) -> Lab {
    lab.times.answer = Duration::from_millis(300);
    lab.times.stall = Duration::from_millis(200);
    lab
}

/// A registry that answers questions about its layer in one way.
fn layer(packed: Packed, answer: Answer) -> Server {
    let path = packed.layer_path();
    Server::start(packed, move |asked| (asked.path == path).then(|| answer.clone()))
}

#[test]
fn what_is_not_there() {
    let lab = Lab::new();
    let server = Server::of(Packed::saying(b"hi"));
    let (error, text) = lab.fail(&format!("{}/no/such:tag", server.host));
    assert!(matches!(error, Error::NotFound { .. }) && text.contains("check its name"), "{text}");
    assert_eq!(server.paths().len(), 1);
}

#[test]
fn nobody_is_there() {
    let lab = Lab::new();
    let host = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (error, text) = lab.fail(&format!("{host}/x"));
    assert!(
        matches!(error, Error::Unreachable { .. }) && text.contains("check the name and the network"),
        "{text}"
    );
}

#[test]
fn too_many_questions() {
    let lab = Lab::new();
    let server = Server::start(Packed::saying(b"hi"), |_| Some(status(429).with("Retry-After", "3600")));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::RateLimited { retry_after: Some(_), .. }), "{text}");
    assert!(text.contains("3600 seconds") && text.contains("docker login"), "{text}");
    assert_eq!(server.paths().len(), 1, "it is not asked again at once");
}

#[test]
fn a_server_that_fails_is_asked_a_few_times() {
    let lab = Lab::new();
    let server = Server::start(Packed::saying(b"hi"), |_| Some(status(500)));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Status { .. }) && text.contains("try again later"), "{text}");
    assert_eq!(server.paths().len() as u32, TRIES_MAX);
}

#[test]
fn an_odd_status_is_told() {
    let lab = Lab::new();
    let server = Server::start(Packed::saying(b"hi"), |_| Some(status(418)));
    let (_, text) = lab.fail(&server.name());
    assert!(text.contains("418") && text.contains("no registry"), "{text}");
}

#[test]
fn a_blob_that_always_breaks_off() {
    let (lab, packed) = (Lab::new(), Packed::saying(&[7; 5000]));
    let half = Answer { length: Some(packed.layer.len() as u64), ..ok(&packed.layer[..2000]) };
    let server = layer(packed.clone(), half.ending(End::Close));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Broken { .. }), "{error:?} {text}");
    assert_eq!(server.paths().iter().filter(|path| **path == packed.layer_path()).count() as u32, TRIES_MAX);
}

#[test]
fn a_blob_that_is_too_short_and_says_so() {
    let (lab, packed) = (Lab::new(), Packed::saying(&[7; 5000]));
    let server = layer(packed.clone(), ok(&packed.layer[..2000]));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Short { bytes: 2000, .. }), "{text}");
}

#[test]
fn a_blob_that_is_another() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"one"));
    let server = layer(packed.clone(), ok(Packed::saying(b"two").layer));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Damaged { .. }) && text.contains("not what was promised"), "{text}");
}

#[test]
fn a_blob_that_is_longer_than_promised() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"one"));
    let longer = [packed.layer.clone(), vec![0; 512]].concat();
    let server = layer(packed.clone(), ok(longer));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Damaged { .. }), "{text}");
}

#[test]
fn a_blob_without_an_end() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"one"));
    let server = layer(packed.clone(), ok(packed.layer.clone()).ending(End::Endless));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Damaged { .. }), "{text}");
}

#[test]
fn a_manifest_that_is_another() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"one"));
    let path = format!("/v2/x/y/manifests/{}", packed.digest());
    let other = Packed::saying(b"two").manifest;
    let server = Server::start(packed, move |asked| (asked.path == path).then(|| ok(other.clone())));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Damaged { .. }), "{text}");
}

#[test]
fn a_manifest_without_an_end() {
    let lab = Lab::new();
    let server = Server::start(Packed::saying(b"hi"), |_| Some(ok("{").ending(End::Endless)));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Image { .. }) && text.contains("more than the"), "{text}");
}

#[test]
fn a_manifest_that_claims_a_gigabyte() {
    let lab = patience(Lab::new());
    let claim = Answer { length: Some(1 << 30), ..ok(vec![b' '; DOCUMENT_BYTES_MAX as usize + 1]) };
    let server = Server::start(Packed::saying(b"hi"), move |_| Some(claim.clone().ending(End::Hang)));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Image { .. }) && text.contains("more than the"), "{text}");
}

#[test]
fn an_image_for_another_machine() {
    let lab = Lab::new();
    let server = Server::of(Packed::of("mips", Packed::saying(b"hi").layer));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Platform { .. }) && text.contains("linux/mips"), "{text}");
}

/// The slow ones: each has to end, and not long after its patience.
fn ends_soon(server: &Server, lab: &Lab) -> Error {
    let start = Instant::now();
    let (error, _) = lab.fail(&server.name());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    error
}

#[test]
fn a_server_that_says_nothing() {
    let lab = patience(Lab::new());
    let server = Server::start(Packed::saying(b"hi"), |_| Some(ok("").ending(End::Mute)));
    let error = ends_soon(&server, &lab);
    assert!(matches!(error, Error::Silent { .. }), "{error:?}");
}

#[test]
fn a_manifest_that_stalls() {
    let lab = patience(Lab::new());
    let answer = Answer { length: Some(1000), ..ok("{") }.ending(End::Hang);
    let server = Server::start(Packed::saying(b"hi"), move |_| Some(answer.clone()));
    let error = ends_soon(&server, &lab);
    assert!(matches!(error, Error::Stalled { .. }), "{error:?}");
}

#[test]
fn a_blob_that_stalls() {
    let (lab, packed) = (patience(Lab::new()), Packed::saying(&[7; 5000]));
    let half = Answer { length: Some(packed.layer.len() as u64), ..ok(&packed.layer[..2000]) };
    let server = layer(packed, half.ending(End::Hang));
    let error = ends_soon(&server, &lab);
    assert!(matches!(error, Error::Stalled { .. }), "{error:?}");
}

#[test]
fn a_blob_that_drips() {
    let (lab, packed) = (patience(Lab::new()), Packed::saying(&[7; 5000]));
    // Faster than the patience for one piece: only a pace sees it.
    let server = layer(packed, ok("").ending(End::Drip(20)));
    let error = ends_soon(&server, &lab);
    assert!(matches!(error, Error::Stalled { .. }), "{error:?}");
}

#[test]
fn redirects_end() {
    let lab = Lab::new();
    let server = Server::start(Packed::saying(b"hi"), |asked| {
        Some(status(302).with("Location", format!("{}0", asked.path)))
    });
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Redirect { .. }) && text.contains("does not end"), "{text}");
    assert_eq!(server.paths().len(), REDIRECTS_MAX + 1);
}

#[test]
fn plain_http_stays_on_this_machine() {
    let lab = Lab::new();
    let server =
        Server::start(Packed::saying(b"hi"), |_| Some(status(302).with("Location", "http://192.0.2.1/")));
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Redirect { .. }) && text.contains("could listen"), "{text}");
}

/// HTTPS on loopback cannot be asked for by a reference, so one floor below.
#[test]
fn what_is_no_tls_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
    let plain = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 No TLS\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    let lab = Lab::new();
    let http = Http::new(&"localhost/x".parse().unwrap(), lab.times).unwrap();
    let question = Question { url: &url, headers: Default::default(), authorization: None };
    let error = http.get(&question).expect_err("no TLS");
    // A machine without certificates doesn't even try.
    assert!(matches!(error, Error::Tls { .. } | Error::NoRoots { .. }), "{error:?}");
    assert!(!error.is_passing());
    drop(http);
    let _ = std::net::TcpStream::connect((url.host_str().unwrap(), url.port().unwrap()));
    let _ = plain.join().unwrap();
}

//! What works, and how often the registry is asked for it.

use super::super::{Options, Progress, Pull, image_with};
use super::server::{Answer, End, Packed, Server, ok, status};
use super::{Lab, hello};

/// More than one piece of a body, and more than what makes the tries start anew.
fn large() -> Vec<u8> {
    (0..3_000_000_u32).map(|at| (at % 251) as u8).collect()
}

#[test]
fn an_image_comes_once() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"hi"));
    let server = Server::of(packed.clone());
    let image = lab.pull(&server.name(), Pull::Missing).unwrap();
    assert_eq!((hello(&image), image.digest), (b"hi".to_vec(), packed.digest()));
    let paths = server.paths();
    assert_eq!(paths.len(), 4, "{paths:?}");
    assert_eq!(paths.first().map(String::as_str), Some("/v2/x/y/manifests/latest"));
    assert!(
        server.asked().iter().all(|asked| asked.method == "GET" && asked.header("authorization").is_none())
    );

    // Under any way to write the same name, and with nobody there any more.
    for name in [server.name(), format!("docker://{}:latest", server.name())] {
        let again = lab.pull(&name, Pull::Missing).unwrap();
        assert_eq!(again.digest, packed.digest());
    }
    assert_eq!(server.paths().len(), 4);
    let name = server.name();
    drop(server);
    lab.pull(&name, Pull::Missing).unwrap();
}

#[test]
fn a_tag_is_asked_for_again_on_request() {
    let (lab, first, second) = (Lab::new(), Packed::saying(b"1"), Packed::saying(b"2"));
    let server = Server::of(first.clone());
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"1");
    server.serve_instead(second);
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"1");
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Always).unwrap()), b"2");
    // What was learnt stays.
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"2");
    let before = server.paths().len();
    lab.pull(&server.name(), Pull::Always).unwrap();
    let after: Vec<_> = server.paths().split_off(before);
    assert!(after.iter().all(|path| *path != first.layer_path()), "the layer is here already: {after:?}");
}

#[test]
fn a_digest_is_asked_for_once_whatever_the_tag_and_the_wish() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"hi"));
    let server = Server::of(packed.clone());
    let name = format!("{}:other@{}", server.name(), packed.digest());
    lab.pull(&name, Pull::Always).unwrap();
    let before = server.paths();
    assert!(before.iter().all(|path| !path.ends_with("latest") && !path.ends_with("other")), "{before:?}");
    lab.pull(&name, Pull::Always).unwrap();
    // The digest of the index, which `docker pull` shows.
    let index = lastword_image::Digest::of(&packed.index);
    let of_index = format!("{}@{index}", server.name());
    assert_eq!(server.paths().len(), before.len());
    lab.pull(&of_index, Pull::Missing).unwrap();
    let before = server.paths().len();
    lab.pull(&of_index, Pull::Always).unwrap();
    assert_eq!(server.paths().len(), before);
}

#[test]
fn an_image_that_was_thrown_away_comes_again() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"hi"));
    let server = Server::of(packed.clone());
    lab.pull(&server.name(), Pull::Missing).unwrap();
    std::fs::remove_dir_all(lab.dir.path().join("cache/entries").join(packed.digest().hex())).unwrap();
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"hi");
}

#[test]
fn a_damaged_file_of_references_costs_a_question() {
    let lab = Lab::new();
    let server = Server::of(Packed::saying(b"hi"));
    lab.pull(&server.name(), Pull::Missing).unwrap();
    std::fs::write(lab.refs(), b"{\"version\": 1, \"refs\": [").unwrap();
    let before = server.paths().len();
    lab.pull(&server.name(), Pull::Missing).unwrap();
    assert!(server.paths().len() > before);
}

#[test]
fn what_comes_is_reported() {
    let (lab, packed) = (Lab::new(), Packed::saying(&large()));
    let server = Server::of(packed.clone());
    let mut reports: Vec<Progress> = Vec::new();
    let mut note = |progress| reports.push(progress);
    let options = Options { times: lab.times, docker: None, progress: Some(&mut note) };
    image_with(&lab.cache, &lab.refs(), &server.name(), Pull::Missing, options).unwrap();
    let all = packed.stored_bytes();
    assert!(reports.len() > 2 && reports.is_sorted_by_key(|progress| progress.bytes));
    assert_eq!(reports.last(), Some(&Progress { bytes: all, total: Some(all) }));
}

#[test]
fn a_blob_that_breaks_off_goes_on_where_it_was() {
    let (lab, packed) = (Lab::new(), Packed::saying(&large()));
    let (path, layer) = (packed.layer_path(), packed.layer.clone());
    let mut broken = 0;
    let server = Server::start(packed.clone(), move |asked| {
        if asked.path != path {
            return None;
        }
        let range = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let from: usize = range.map_or(0, |from| from.parse().unwrap());
        let (left, all) = (&layer[from..], layer.len());
        let head = if from == 0 {
            status(200)
        } else {
            status(206).with("Content-Range", format!("bytes {from}-{}/{all}", all - 1))
        };
        broken += 1;
        let cut = if broken < 3 { left.len() / 2 } else { left.len() };
        let end = if broken < 3 { End::Close } else { End::Keep };
        Some(Answer { body: left[..cut].to_vec(), length: Some(left.len() as u64), ..head }.ending(end))
    });
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), large());
    assert_eq!(server.asked().iter().filter(|asked| asked.header("range").is_some()).count(), 2);
}

#[test]
fn a_registry_that_begins_at_the_start_again_is_understood() {
    let (lab, packed) = (Lab::new(), Packed::saying(&large()));
    let (path, layer) = (packed.layer_path(), packed.layer.clone());
    let mut first = true;
    let server = Server::start(packed, move |asked| {
        let cut =
            if std::mem::take(&mut first) || asked.path != path { layer.len() / 3 } else { layer.len() };
        let is_layer = asked.path == path;
        is_layer.then(|| Answer { length: Some(layer.len() as u64), ..ok(&layer[..cut]) }.ending(End::Close))
    });
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), large());
}

#[test]
fn passing_faults_are_tried_again() {
    let lab = Lab::new();
    let mut answers = vec![
        status(503),
        status(429).with("Retry-After", "0"),
        Answer { length: Some(100), ..ok("{") }.ending(End::Close),
    ];
    let server = Server::start(Packed::saying(b"hi"), move |_| answers.pop());
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"hi");
}

#[test]
fn blobs_may_be_elsewhere() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"hi"));
    let (elsewhere, path) = (Server::of(packed.clone()), packed.layer_path());
    let to = format!("http://{}{path}", elsewhere.host);
    let server = Server::start(packed, move |asked| {
        (asked.path == path).then(|| status(307).with("Location", to.clone()))
    });
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"hi");
    assert_eq!(elsewhere.paths().len(), 1);
}

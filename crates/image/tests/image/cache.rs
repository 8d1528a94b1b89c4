//! The cache: one unpacking for all, nothing half done, nothing in use thrown away.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use lastword_image::{Blobs, Cache, Digest, Source};

use crate::lab::{Lab, assert_has, chain};
use crate::pack::{Packed, Tar, docker_save};

fn packed(name: &str) -> Packed {
    Packed::plain(&[Tar::new().file(name, vec![b'x'; 10_000]).end()])
}

fn unpack(cache: &Cache, packed: &mut Packed) -> lastword_image::Image {
    cache.unpack(Source::Blobs { blobs: packed, digest: None }).map_err(|error| chain(&error)).unwrap()
}

#[test]
fn the_second_time_nothing_is_unpacked() {
    let lab = Lab::new();
    let mut image = packed("a");
    let first = unpack(&lab.cache(), &mut image);
    let asked = image.asked;
    let second = unpack(&lab.cache(), &mut image);
    // Manifest and config, no layer.
    assert_eq!(image.asked, asked + 2);
    assert_eq!((&second.digest, &second.config, second.bytes), (&first.digest, &first.config, first.bytes));
    // With a digest, nothing is asked at all.
    let digest = Some(image.digest());
    lab.cache().unpack(Source::Blobs { blobs: &mut image, digest }).unwrap();
    assert_eq!(image.asked, asked + 2);
    assert_eq!(lab.cache().get(&first.digest).unwrap().unwrap().rootfs, first.rootfs);
    assert!(lab.cache().get(&Digest::of(b"other")).unwrap().is_none());
}

/// Gives its layer only when told to.
struct Gate {
    packed: Packed,
    reached: Sender<()>,
    go: Receiver<()>,
}

impl Blobs for Gate {
    fn manifest(&mut self, digest: Option<&Digest>) -> io::Result<Box<dyn Read + '_>> {
        self.packed.manifest(digest)
    }

    fn blob(&mut self, digest: &Digest, size: u64) -> io::Result<Box<dyn Read + '_>> {
        if self.packed.manifest["layers"][0]["digest"] == digest.to_string() {
            self.reached.send(()).unwrap();
            self.go.recv().unwrap();
        }
        self.packed.blob(digest, size)
    }
}

#[test]
fn who_comes_second_waits_and_takes_what_the_first_has_made() {
    let lab = Lab::new();
    let (reached, is_reached) = channel();
    let (let_go, go) = channel();
    let mut gate = Gate { packed: packed("a"), reached, go };
    let digest = gate.packed.digest();
    thread::scope(|scope| {
        let first = scope
            .spawn(|| lab.cache().unpack(Source::Blobs { blobs: &mut gate, digest: None }).unwrap().digest);
        is_reached.recv_timeout(Duration::from_secs(60)).unwrap();
        // A sweep leaves alone what is being made, and nobody sees it yet.
        assert!(lab.cache().get(&digest).unwrap().is_none());
        let second = scope.spawn(|| {
            let mut image = packed("a");
            let made = unpack(&lab.cache(), &mut image);
            (made.digest, image.asked)
        });
        let_go.send(()).unwrap();
        assert_eq!(first.join().unwrap(), digest);
        // Manifest and config; the layer came from the first one.
        assert_eq!(second.join().unwrap(), (digest, 2));
    });
}

#[test]
fn many_at_once_all_get_a_whole_image() {
    let lab = Lab::new();
    thread::scope(|scope| {
        let made: Vec<_> = (0..8)
            .map(|n| {
                // So small a cache throws away all the time.
                let cache = Cache::open(&lab.path().join("cache"), 1).unwrap();
                scope.spawn(move || {
                    for _ in 0..10 {
                        let name = if n % 2 == 0 { "a" } else { "b" };
                        let image = unpack(&cache, &mut packed(name));
                        assert_eq!(fs::read(image.rootfs.join(name)).unwrap().len(), 10_000);
                    }
                })
            })
            .collect();
        made.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(lab.left("tmp").is_empty());
}

#[test]
fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
    let lab = Lab::new();
    let size = unpack(&lab.cache(), &mut packed("size")).bytes;
    fs::remove_dir_all(lab.path().join("cache")).unwrap();
    let cache = Cache::open(&lab.path().join("cache"), 3 * size).unwrap();
    let digests = ["a", "b", "c"].map(|name| unpack(&cache, &mut packed(name)).digest);
    let there = |digest: &Digest| lab.path().join("cache/entries").join(digest.hex()).exists();
    // Used in another order than made: the second is the oldest now, but somebody holds it.
    let used = |at: usize, seconds: u64| {
        let file = fs::File::open(lab.path().join("cache/locks").join(digests[at].hex())).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    };
    let held = cache.get(&digests[1]).unwrap().unwrap();
    [(1, 1), (2, 2), (0, 3)].into_iter().for_each(|(at, seconds)| used(at, seconds));
    unpack(&cache, &mut packed("d"));
    assert_eq!(digests.each_ref().map(there), [true, true, false]);
    // The descriptor holds on when the image is gone.
    let descriptor = held.hold().unwrap();
    drop(held);
    [(1, 1), (0, 3)].into_iter().for_each(|(at, seconds)| used(at, seconds));
    unpack(&cache, &mut packed("e"));
    assert_eq!(digests.each_ref().map(there), [false, true, false]);
    drop(descriptor);
    used(1, 1);
    unpack(&cache, &mut packed("f"));
    assert_eq!(digests.each_ref().map(there), [false, false, false]);
    assert!(lab.left("tmp").is_empty());
    assert_eq!(lab.left("locks").len(), lab.left("entries").len());
}

#[test]
fn what_a_killed_process_left_is_swept() {
    let lab = Lab::new();
    lab.cache();
    let tmp = lab.path().join("cache/tmp");
    for (at, inside) in ["rootfs/a/b", "trash/0/c", "trash/7/d", ""].into_iter().enumerate() {
        let dir = tmp.join(Digest::of(&[at as u8]).hex());
        fs::create_dir_all(dir.join(inside)).unwrap();
        fs::write(dir.join(inside).join("file"), "x").unwrap();
        fs::write(dir.join("image.json"), "{").unwrap();
    }
    fs::write(tmp.join("spool-1"), "x").unwrap();
    lab.cache();
    assert!(lab.left("tmp").is_empty(), "{:?}", lab.left("tmp"));
    assert!(lab.left("locks").is_empty());
}

#[test]
fn a_damaged_entry_is_made_anew() {
    let lab = Lab::new();
    let image = unpack(&lab.cache(), &mut packed("a"));
    let record = image.rootfs.parent().unwrap().join("image.json");
    for damage in [&b""[..], b"{", b"{}"] {
        fs::write(&record, damage).unwrap();
        assert!(lab.cache().get(&image.digest).unwrap().is_none());
    }
    drop(image);
    let image = unpack(&lab.cache(), &mut packed("a"));
    assert!(image.rootfs.join("a").exists());
}

#[test]
fn a_file_is_read_once() {
    let lab = Lab::new();
    let (path, layer) = (lab.path().join("image.tar"), Tar::new().file("a", "1").end());
    let config = Packed::plain(std::slice::from_ref(&layer)).config;
    let bytes = docker_save(&[layer], &config, &["a:1"]);
    // Not settled: it could change again within one tick of the clock.
    fs::write(&path, &bytes).unwrap();
    lab.unpack_path(&path, None).unwrap();
    assert!(!lab.path().join("cache/known.json").exists());
    // Hours later, as far as the file is concerned. The time of change can't be set, so the list is made to know it.
    let image = lab.unpack_path(&path, Some("a:1")).unwrap();
    let meta = fs::metadata(&path).unwrap();
    use std::os::unix::fs::MetadataExt;
    let at = |seconds: i64, nanoseconds: i64| seconds * 1_000_000_000 + nanoseconds;
    let key = format!(
        "{}\n\n{} {} {} {} {}",
        path.canonicalize().unwrap().display(),
        meta.dev(),
        meta.ino(),
        meta.len(),
        at(meta.mtime(), meta.mtime_nsec()),
        at(meta.ctime(), meta.ctime_nsec()),
    );
    let known = serde_json::json!([[key, image.digest]]);
    fs::write(lab.path().join("cache/known.json"), known.to_string()).unwrap();
    // That it isn't read shows by what the list says: another image, which is not in the file.
    let other = lab.unpack(&mut packed("other")).unwrap();
    fs::write(
        lab.path().join("cache/known.json"),
        known.to_string().replace(&image.digest.hex(), &other.digest.hex()),
    )
    .unwrap();
    assert_eq!(lab.unpack_path(&path, None).unwrap().digest, other.digest);
    fs::write(lab.path().join("cache/known.json"), known.to_string()).unwrap();
    assert_eq!(lab.unpack_path(&path, None).unwrap().digest, image.digest);
    // Any change of the file is seen.
    fs::write(&path, vec![b'x'; bytes.len()]).unwrap();
    lab.cache().unpack(Source::Path { path: &path, name: None }).map(|_| ()).expect_err("another file");
}

#[test]
fn a_cache_of_somebody_else_is_refused() {
    let lab = Lab::new();
    lab.cache();
    let path = lab.path().join("cache");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
    assert_has(&chain(&Cache::open(&path, 1).expect_err("open to a group")), &["others"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(path.join("format"), "lastword images 2\n").unwrap();
    assert_has(&chain(&Cache::open(&path, 1).expect_err("from the future")), &["format"]);
}

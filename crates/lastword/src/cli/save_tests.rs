use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use lastword_api::{Backend, Limits, Timestamp};
use lastword_store::Store;

use super::*;
use crate::cli::stored_tests::with_outputs;

struct Kept {
    _dir: tempfile::TempDir,
    store: Store,
    execution: Execution,
    to: std::path::PathBuf,
}

fn kept(files: &[(&[u8], &[u8])]) -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("data")).unwrap();
    let mut execution =
        Execution::queued(Uuid::now_v7(), Timestamp::from_ns(0), Backend::Native, Limits::default());
    with_outputs(&store, &mut execution, files);
    let to = dir.path().join("to");
    Kept { _dir: dir, store, execution, to }
}

impl Kept {
    fn save(&self, glob: &str) -> anyhow::Result<Saved> {
        save(Executions::Store(&self.store), &self.execution, glob.as_bytes(), &self.to)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.to.join(path)).unwrap()
    }

    fn error(&self, glob: &str) -> String {
        format!("{:#}", self.save(glob).unwrap_err())
    }
}

#[test]
fn files_get_their_places() {
    let kept = kept(&[(b"/tmp/x", b"1"), (b"a.txt", b"22"), (b"out/b.txt", b"333"), (b"out/c", b"")]);
    assert_eq!(kept.save("**").unwrap(), Saved { files: 3, bytes: 5 });
    assert_eq!((kept.read("a.txt"), kept.read("out/b.txt")), (b"22".to_vec(), b"333".to_vec()));
    assert_eq!(kept.read("out/c"), b"");
    assert!(!kept.to.join("tmp").exists());
    assert_eq!(kept.save("/tmp/*").unwrap(), Saved { files: 1, bytes: 1 });
    assert_eq!(kept.read("tmp/x"), b"1");
    assert_eq!(kept.save("nothing").unwrap(), Saved::default());
    assert_eq!(fs::metadata(kept.to.join("a.txt")).unwrap().mode() & 0o777 & !0o644, 0);
    // Again, over what is there.
    fs::write(kept.to.join("a.txt"), b"old and longer").unwrap();
    assert_eq!(kept.save("a.txt").unwrap(), Saved { files: 1, bytes: 2 });
    assert_eq!(kept.read("a.txt"), b"22");
    let left: Vec<_> = fs::read_dir(&kept.to).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn links_that_were_planted_are_not_followed() {
    let kept = kept(&[(b"out/a", b"new"), (b"b", b"new")]);
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("a"), b"precious").unwrap();
    fs::create_dir(&kept.to).unwrap();
    symlink(victim.path(), kept.to.join("out")).unwrap();
    symlink(victim.path().join("a"), kept.to.join("b")).unwrap();
    assert!(kept.error("out/a").contains("out is in the way"), "{}", kept.error("out/a"));
    assert!(kept.error("b").contains("is a symbolic link"), "{}", kept.error("b"));
    assert_eq!(fs::read(victim.path().join("a")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 1);
    fs::remove_file(kept.to.join("out")).unwrap();
    fs::write(kept.to.join("out"), b"a file").unwrap();
    assert!(kept.error("out/a").contains("out is in the way"));
    fs::remove_file(kept.to.join("b")).unwrap();
    fs::create_dir(kept.to.join("b")).unwrap();
    assert!(kept.error("b").contains("is a directory"), "{}", kept.error("b"));
    assert_eq!(fs::read_dir(&kept.to).unwrap().count(), 2, "a draft was left");
}

/// No supervisor writes such a seal; should one get into the store all the same, it leads nowhere.
#[test]
fn paths_that_lead_out_are_refused() {
    for path in [&b"../escaped"[..], b"out/../../escaped", b"/tmp/../escaped", b"a//b", b"nul\0x"] {
        let kept = kept(&[(path, b"x")]);
        for glob in ["**", "/tmp/**"] {
            match kept.save(glob) {
                Ok(saved) => assert_eq!(saved, Saved::default()),
                Err(error) => {
                    assert!(format!("{error:#}").contains("none that a file can have"), "{error:#}")
                }
            }
        }
        assert!(!kept.to.join("../escaped").exists());
    }
}

#[test]
fn what_is_not_what_was_sealed_gets_no_name() {
    let kept = kept(&[(b"a", b"right"), (b"b", b"right")]);
    let outputs = kept._dir.path().join("data/outputs");
    let pack = fs::read_dir(&outputs).unwrap().next().unwrap().unwrap().path();
    fs::write(&pack, b"rightwrong").unwrap();
    let error = kept.error("*");
    assert!(error.contains("cannot save b") && error.contains("not those that were sealed"), "{error}");
    assert_eq!(kept.read("a"), b"right");
    assert_eq!(fs::read_dir(&kept.to).unwrap().count(), 1);
    fs::write(&pack, b"right").unwrap();
    assert!(kept.error("b").contains("are missing"), "{}", kept.error("b"));
    fs::remove_file(&pack).unwrap();
    assert!(kept.error("b").contains("is gone"), "{}", kept.error("b"));
}

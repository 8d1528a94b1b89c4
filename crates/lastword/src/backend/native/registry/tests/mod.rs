//! Against a registry on loopback that lies, stalls and asks for logins.

mod faults;
mod logins;
mod pulls;
mod server;

use std::error::Error as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lastword_image::{Cache, Image};
use tempfile::TempDir;

use super::{Error, Options, Pull, Times, image_with};

/// A cache, a file for what references led to, and a directory for docker's logins.
struct Lab {
    dir: TempDir,
    cache: Cache,
    times: Times,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache"), 1 << 30).unwrap();
        fs::create_dir(dir.path().join("docker")).unwrap();
        let times = Times { backoff: Duration::from_millis(1), ..Times::default() };
        Lab { dir, cache, times }
    }

    fn refs(&self) -> PathBuf {
        self.dir.path().join("cache/refs.json")
    }

    fn docker(&self) -> PathBuf {
        self.dir.path().join("docker")
    }

    fn pull(&self, reference: &str, pull: Pull) -> Result<Image, Error> {
        let options = Options { times: self.times, docker: Some(self.docker()), progress: None };
        image_with(&self.cache, &self.refs(), reference, pull, options)
    }

    /// What must fail, in one sentence with its causes, which has to name the image.
    fn fail(&self, reference: &str) -> (Error, String) {
        let error = self.pull(reference, Pull::Missing).expect_err("it cannot be had");
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        assert!(text.contains(reference), "{text}");
        assert_eq!(fs::read_dir(self.dir.path().join("cache/entries")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(self.dir.path().join("cache/tmp")).unwrap().count(), 0);
        (error, text)
    }
}

fn hello(image: &Image) -> Vec<u8> {
    fs::read(image.rootfs.join("hello")).unwrap()
}

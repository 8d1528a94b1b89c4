//! An OCI image layout: `oci-layout`, `index.json` and `blobs/sha256/DIGEST`, in a directory or in an archive.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Blobs, read_file};
use crate::beneath;
use crate::digest::Digest;
use crate::document;
use crate::error::Error;

/// Files by their names.
pub(crate) trait Files {
    fn open(&mut self, name: &str) -> io::Result<Box<dyn Read + '_>>;
}

/// A directory. Links in it may lead about in it, but not out of it: they are not ours.
pub(crate) struct Directory(OwnedFd);

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Error::io("open", path, error))?;
        if rustix::fs::statat(&fd, "oci-layout", rustix::fs::AtFlags::empty()).is_err() {
            let path = PathBuf::from(path);
            return Err(Error::NotAnImage { path, why: "the directory has no file `oci-layout`" });
        }
        Ok(Directory(fd))
    }
}

impl Files for Directory {
    fn open(&mut self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(beneath::open_file_within(&self.0, name.as_bytes())?))
    }
}

pub(crate) struct Layout<F>(F);

impl<F: Files> Layout<F> {
    pub(crate) fn open(mut files: F) -> Result<Self, Error> {
        let version = read_file(&mut files, "oci-layout")?;
        document::check_layout("oci-layout", &version)?;
        Ok(Layout(files))
    }
}

impl<F: Files> Blobs for Layout<F> {
    fn manifest(&mut self, digest: Option<&Digest>) -> io::Result<Box<dyn Read + '_>> {
        match digest {
            Some(digest) => self.0.open(&blob(digest)),
            None => self.0.open("index.json"),
        }
    }

    fn blob(&mut self, digest: &Digest, _size: u64) -> io::Result<Box<dyn Read + '_>> {
        self.0.open(&blob(digest))
    }
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

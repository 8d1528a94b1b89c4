//! What `docker save` wrote before version 25, and what others write in its form: `manifest.json` names a config and tar files.

use std::io::{self, Read};

use super::archive::Archive;
use super::layout::Files;
use super::{Layer, Place, Plan, read_file};
use crate::digest::Digest;
use crate::document;
use crate::error::{Error, shown};

pub(crate) struct Saved {
    archive: Archive,
    image: document::Saved,
}

impl Saved {
    pub(crate) fn open(archive: Archive, list: &[u8], name: Option<&str>) -> Result<Self, Error> {
        let images = document::parse_saved("manifest.json", list)?;
        let names = || images.iter().flat_map(tags).map(|tag| shown(tag.as_bytes())).collect();
        let named = |image: &&document::Saved| name.is_none_or(|name| tags(image).any(|tag| tag == name));
        let chosen = images.iter().position(|image| named(&image));
        if images.iter().filter(named).count() > 1 {
            return Err(Error::Ambiguous { names: names() });
        }
        let Some(at) = chosen else {
            return Err(match name {
                Some(name) => Error::NoSuchName { name: name.to_owned(), names: names() },
                None => Error::document("manifest.json", "it lists no image"),
            });
        };
        let image = images.into_iter().nth(at);
        let image = image.ok_or_else(|| Error::document("manifest.json", "it lists no image"))?;
        Ok(Saved { archive, image })
    }

    /// The digest of the config is docker's image id. Names in the list bind nothing: what is read is checked against the config.
    pub(crate) fn plan(&mut self) -> Result<Plan, Error> {
        let bytes = read_file(&mut self.archive, &self.image.config)?;
        let digest = Digest::of(&bytes);
        let what = format!("config {digest}");
        // Its file is named by it, with an ending in the older form.
        let name = self.image.config.rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(".json").unwrap_or(name);
        if let Some(expected) = Digest::from_hex(name).filter(|expected| *expected != digest) {
            return Err(Error::Digest { what, expected, found: digest });
        }
        let (config, diff_ids) = document::parse_config(&what, &bytes)?;
        if diff_ids.len() != self.image.layers.len() {
            return Err(Error::document(&what, "it does not list as many layers as manifest.json"));
        }
        let layers = self.image.layers.iter().zip(diff_ids);
        let layers =
            layers.map(|(name, diff_id)| Layer { diff_id, place: Place::Member(name.clone()) }).collect();
        Ok(Plan { digest, index: None, config, layers })
    }

    pub(crate) fn member(&mut self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        self.archive.open(name)
    }
}

fn tags(image: &document::Saved) -> impl Iterator<Item = &str> {
    image.repo_tags.iter().flatten().map(String::as_str)
}

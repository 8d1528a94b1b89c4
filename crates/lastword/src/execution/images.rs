//! The image that a request names: found, unpacked if it isn't yet, and held while it is used.

use std::path::PathBuf;

use lastword_api::Execution;
use lastword_frame::Cause;
use lastword_image::{Cache, Image, Source};
use lastword_sandbox::host::Base;

use super::prepare::{ImageRun, Prepared, Unprepared};
use super::{Engine, Sink};
use crate::backend::native::registry::{self, Pull};

/// What unpacked images may take on disk before the ones that were used least recently go.
const CACHE_BYTES_MAX: u64 = 20 << 30;
/// In the cache directory.
const DIRECTORY: &str = "images";
/// What references of registries led to.
const REFERENCES: &str = "references.json";

const ARCHIVES: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

/// What a request's image text means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageName {
    /// A file of `docker save`, an OCI archive, or an OCI layout; and which image of it.
    Path { path: PathBuf, name: Option<String> },
    /// A registry's.
    Reference(String),
}

impl ImageName {
    /// `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]` and `docker-archive:FILE[:NAME]` as skopeo has them; what begins like a path
    /// or ends like an archive; else what `docker pull` takes. What lies in the working directory decides nothing: a file
    /// called `alpine` must not become somebody's image.
    pub fn parse(text: &str) -> ImageName {
        for prefix in ["oci:", "oci-archive:", "docker-archive:"] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let named = rest.split_once(':').filter(|(_, name)| !name.is_empty());
                let (path, name) = named.map_or((rest, None), |(path, name)| (path, Some(name.to_owned())));
                return ImageName::Path { path: path.into(), name };
            }
        }
        let is_path = text.starts_with(['/', '.']) || ARCHIVES.iter().any(|ending| text.ends_with(ending));
        match is_path {
            true => ImageName::Path { path: text.into(), name: None },
            false => ImageName::Reference(text.to_owned()),
        }
    }
}

impl Engine {
    pub(super) fn with_image(
        &self,
        execution: &mut Execution,
        name: &str,
        pull: Pull,
        sink: &mut dyn Sink,
    ) -> Result<Prepared<'static>, Unprepared> {
        let failed = |error: &dyn std::error::Error| unavailable(name, error);
        let image = self.image(name, pull, sink)?;
        let base = Base::image(&image.rootfs).map_err(|error| failed(&error))?;
        let user = match image.config.user.is_empty() {
            // As everywhere in the sandbox: nobody.
            true => None,
            false => Some(image.user().map_err(|error| failed(&error))?),
        };
        let digest = image.digest.to_string();
        execution.environment.image_digest = Some(digest.clone());
        let held = image.hold().map_err(|error| failed(&error))?;
        let config = image.config;
        Ok(Prepared {
            base: std::borrow::Cow::Owned(base),
            image: Some(ImageRun {
                digest,
                entrypoint: config.entrypoint,
                cmd: config.cmd,
                env: config.env,
                working_dir: Some(config.working_dir.into()),
                user: user.map(|user| (user.uid, user.gid)),
            }),
            build: None,
            compiling: false,
            held: vec![held],
        })
    }

    fn image(&self, name: &str, pull: Pull, sink: &mut dyn Sink) -> Result<Image, Unprepared> {
        let dir = self.cache.join(DIRECTORY);
        let cache = Cache::open(&dir, CACHE_BYTES_MAX).map_err(|error| unavailable(name, &error))?;
        match ImageName::parse(name) {
            ImageName::Path { path, name: which } => cache
                .unpack(Source::Path { path: &path, name: which.as_deref() })
                .map_err(|error| unavailable(name, &error)),
            ImageName::Reference(reference) => {
                let mut progress = |came: registry::Progress| sink.pulling(name, came.bytes, came.total);
                let options = registry::Options { progress: Some(&mut progress), ..Default::default() };
                registry::image_with(&cache, &dir.join(REFERENCES), &reference, pull, options)
                    .map_err(|error| unavailable(name, &error))
            }
        }
    }
}

/// With all of its causes: which digest was wrong, which entry was refused.
fn unavailable(name: &str, error: &dyn std::error::Error) -> Unprepared {
    let mut message = format!("the image {name} can't be used: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    Unprepared { cause: Cause::ImageUnavailable { message } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_path_or_a_reference() {
        let path = |path: &str, name: Option<&str>| ImageName::Path {
            path: path.into(),
            name: name.map(str::to_owned),
        };
        assert_eq!(ImageName::parse("/x/y.tar"), path("/x/y.tar", None));
        assert_eq!(ImageName::parse("./y"), path("./y", None));
        assert_eq!(ImageName::parse("y/python.tar"), path("y/python.tar", None));
        // It is there, beside this crate's sources.
        assert_eq!(ImageName::parse("src"), ImageName::Reference("src".into()));
        assert_eq!(ImageName::parse("oci:/x/y"), path("/x/y", None));
        assert_eq!(ImageName::parse("oci:/x/y:latest"), path("/x/y", Some("latest")));
        assert_eq!(ImageName::parse("docker-archive:y.tar:a:b"), path("y.tar", Some("a:b")));
        assert_eq!(ImageName::parse("python:3.12"), ImageName::Reference("python:3.12".into()));
        assert_eq!(ImageName::parse("no/such/path"), ImageName::Reference("no/such/path".into()));
    }
}

//! The JSON documents of an image: index, manifest, config, and the list in a `docker save` file.
//!
//! Each is read as one thing only. A document that could be taken for two of them is refused: two tools would see two images
//! under one digest.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, shown};
use crate::limits::{DOCUMENT_BYTES_MAX, INDEX_ENTRIES_MAX, LAYERS_MAX};

const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER_TYPES: [&str; 8] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

#[derive(Debug, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    platform: Option<Platform>,
    annotations: Option<Annotations>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// The names that an image has in a layout.
#[derive(Debug, Default, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    reference: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    containerd: Option<String>,
}

#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

#[derive(Deserialize)]
struct RawDocument {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    rootfs: Option<IgnoredAny>,
}

impl Document {
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self, Error> {
        let raw: RawDocument = json(what, bytes)?;
        let refused = |why: &str| Err(Error::document(what, why));
        if raw.schema_version != 2 {
            return refused("its schema version is not 2; older images have to be pulled and pushed again");
        }
        match raw {
            RawDocument { manifests: Some(entries), config: None, layers: None, rootfs: None, .. } => {
                if entries.len() > INDEX_ENTRIES_MAX {
                    return refused("it lists too many manifests");
                }
                Ok(Document::Index(entries))
            }
            RawDocument {
                config: Some(config), layers: Some(layers), manifests: None, rootfs: None, ..
            } => {
                if layers.len() > LAYERS_MAX {
                    return refused("it has too many layers");
                }
                if !config.media_type.is_empty() && !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                    return refused("it is something else than a container image");
                }
                match layers.iter().find(|layer| !LAYER_TYPES.contains(&layer.media_type.as_str())) {
                    Some(layer) => refused(&format!(
                        "layer {} has the unknown type `{}`",
                        layer.digest,
                        shown(layer.media_type.as_bytes())
                    )),
                    None => Ok(Document::Manifest { config, layers }),
                }
            }
            _ => refused("it is not exactly one of an index and a manifest"),
        }
    }
}

impl Descriptor {
    /// Of Linux on this machine; `None` if it does not say for what it is.
    pub(crate) fn runs_here(&self) -> Option<bool> {
        let platform = self.platform.as_ref()?;
        // What a plain machine runs; `v2` and later of amd64 need more than that.
        let variant = matches!(
            (platform.architecture.as_str(), platform.variant.as_str()),
            (_, "") | ("amd64", "v1") | ("arm64", "v8")
        );
        Some(platform.os == "linux" && platform.architecture == architecture() && variant)
    }

    pub(crate) fn platform(&self) -> Option<String> {
        let platform = self.platform.as_ref()?;
        let parts = [&platform.os, &platform.architecture, &platform.variant];
        let parts: Vec<_> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| shown(part.as_bytes())).collect();
        Some(parts.join("/"))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let annotations = self.annotations.iter();
        annotations.flat_map(|names| [&names.containerd, &names.reference]).filter_map(Option::as_deref)
    }
}

/// This machine's architecture, as images call it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[derive(Deserialize)]
struct RawConfig {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<RawSettings>,
    rootfs: RootFs,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawSettings {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

/// The config, and the digests of the layers when they are unpacked.
pub(crate) fn parse_config(what: &str, bytes: &[u8]) -> Result<(Config, Vec<Digest>), Error> {
    let raw: RawConfig = json(what, bytes)?;
    if raw.manifests.is_some() || raw.layers.is_some() {
        return Err(Error::document(what, "it could be taken for a manifest or an index"));
    }
    if raw.os != "linux" || raw.architecture != architecture() {
        return Err(Error::Platform {
            wanted: format!("linux/{}", architecture()),
            found: format!("{}/{}", shown(raw.os.as_bytes()), shown(raw.architecture.as_bytes())),
        });
    }
    let layers = raw.rootfs.diff_ids.unwrap_or_default();
    if layers.len() > LAYERS_MAX {
        return Err(Error::document(what, "it has too many layers"));
    }
    let settings = raw.config.unwrap_or_default();
    let mut env = Vec::new();
    for variable in settings.env.unwrap_or_default() {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() => env.push((name.to_owned(), value.to_owned())),
            _ => return Err(Error::document(what, "an environment variable has no name or no value")),
        }
    }
    // Relative ones are meant from the root.
    let working_dir = format!("/{}", settings.working_dir.unwrap_or_default().trim_start_matches('/'));
    let config = Config {
        architecture: raw.architecture,
        os: raw.os,
        entrypoint: settings.entrypoint.unwrap_or_default(),
        cmd: settings.cmd.unwrap_or_default(),
        env,
        working_dir,
        user: settings.user.unwrap_or_default(),
    };
    if has_zero_byte(&config) {
        return Err(Error::document(what, "one of its texts has a zero byte"));
    }
    Ok((config, layers))
}

/// What no system call could be told.
fn has_zero_byte(config: &Config) -> bool {
    let texts = config.entrypoint.iter().chain(&config.cmd).chain([&config.working_dir, &config.user]);
    let env = config.env.iter().flat_map(|(name, value)| [name, value]);
    texts.chain(env).any(|text| text.contains('\0'))
}

/// One image in the `manifest.json` of a `docker save` file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

pub(crate) fn parse_saved(what: &str, bytes: &[u8]) -> Result<Vec<Saved>, Error> {
    let images: Vec<Saved> = json(what, bytes)?;
    if images.len() > INDEX_ENTRIES_MAX {
        return Err(Error::document(what, "it lists too many images"));
    }
    if images.iter().any(|image| image.layers.len() > LAYERS_MAX) {
        return Err(Error::document(what, "it has too many layers"));
    }
    Ok(images)
}

/// The `oci-layout` file.
pub(crate) fn check_layout(what: &str, bytes: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Layout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let layout: Layout = json(what, bytes)?;
    if layout.version.starts_with("1.") { Ok(()) } else { Err(Error::document(what, "its version is not 1")) }
}

fn json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    check_size(what, bytes.len() as u64)?;
    serde_json::from_slice(bytes).map_err(|error| Error::document(what, shown(error.to_string().as_bytes())))
}

pub(crate) fn check_size(what: &str, bytes: u64) -> Result<(), Error> {
    if bytes > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLarge { what: what.to_owned(), bytes, max: DOCUMENT_BYTES_MAX });
    }
    Ok(())
}

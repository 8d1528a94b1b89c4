//! What may be linked. Every exception has its reason beside it.

/// Licences that go with MIT OR Apache-2.0 without a duty beyond keeping the notice.
pub(crate) const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
];

/// The one registry. Crates of this workspace have no source at all.
pub(crate) const SOURCES: &[&str] = &["registry+https://github.com/rust-lang/crates.io-index"];

/// Crates that must not come in, not even through others.
pub(crate) const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "C that has to be installed; rustls is pure enough and links statically"),
    ("openssl", "see openssl-sys"),
    ("native-tls", "picks openssl on Linux"),
    ("aws-lc-sys", "needs cmake and half a minute of C; rustls works with ring"),
    ("async-std", "unmaintained; one async runtime is enough"),
    ("smol", "one async runtime is enough"),
    ("chrono", "jiff does time here, and one library for it is enough"),
    ("time", "jiff does time here, and one library for it is enough"),
    ("atty", "unmaintained; std has IsTerminal"),
    ("failure", "unmaintained; thiserror and anyhow"),
    ("nix", "rustix and libc are there already"),
    ("serde_yaml", "unmaintained; files are TOML or JSON"),
];

/// The supervisor, and everything that may be linked into it. What stands here is read by whoever reviews it.
pub(crate) const SUPERVISOR: &str = "lastword-supervisor";
pub(crate) const SUPERVISOR_LINKS: &[&str] = &[
    "lastword-supervisor",
    "lastword-frame",
    "lastword-sandbox",
    "libc",
    // Digests of the seal, and what they are made of.
    "blake3",
    "arrayref",
    "arrayvec",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    // Checksums of the frames.
    "crc32c",
];

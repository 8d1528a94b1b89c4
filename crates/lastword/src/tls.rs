//! TLS, decided in one place: rustls with ring, and the certificates that this machine trusts.
//!
//! The provider is handed over, never installed for the whole process: two libraries that both install one make a process panic.

use std::sync::Arc;

use rustls::{ClientConfig, Error, RootCertStore};

/// How to connect to a server; and whether there is any certificate to believe one by.
pub(crate) fn client() -> Result<(ClientConfig, bool), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    // A file that can't be read leaves the others; none at all is told by whoever needs one.
    let (trusted, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok((config.with_root_certificates(roots).with_no_client_auth(), trusted > 0))
}

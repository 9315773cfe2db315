//! TLS as a client: one set of versions and roots for providers and upstreams alike.

use hyper_rustls::ConfigBuilderExt;
use std::sync::Arc;

/// TLS 1.2 and 1.3 with the roots of this machine.
///
/// # Panics
/// Never: the cryptography library serves both versions.
#[must_use]
pub fn client_config() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = || {
        rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("aws-lc-rs serves TLS 1.2 and 1.3")
    };
    match versions().with_native_roots() {
        Ok(config) => config.with_no_client_auth(),
        // A machine without root certificates can still talk to loopback; https then fails as untrusted.
        Err(error) => {
            tracing::warn!(%error, "no root certificates on this machine: nothing can be reached by https");
            versions().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        }
    }
}

//! TLS as a client: one set of versions for providers and upstreams alike; PEM files read and checked.

use native_roots::NativeRoots;
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

mod native_roots;

pub use native_roots::read as read_native_roots;

/// TLS 1.2 and 1.3 with the roots of this machine, which are read when they are needed.
#[must_use]
pub fn client_config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    versions().dangerous().with_custom_certificate_verifier(Arc::new(NativeRoots { provider })).with_no_client_auth()
}

/// TLS 1.2 and 1.3 with these roots and no others.
#[must_use]
pub fn client_config_trusting(roots: Arc<RootCertStore>) -> ClientConfig {
    trusting(roots).with_no_client_auth()
}

/// Why a PEM file cannot be used. Never says what is in it.
#[derive(Debug)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

/// The certificates in `file`, as those who may sign others.
///
/// # Errors
/// When the file cannot be read, or has no certificate, or one that is none.
pub fn roots(file: &Path) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| Unusable(format!("holds a certificate that is none: {error}")))?;
    }
    Ok(roots)
}

/// The certificates in `file`, in its order.
///
/// # Errors
/// When the file cannot be read, or has no certificate.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))?.collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(Unusable("has no certificate in it".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unreadable(&error)),
    }
}

/// The private key in `file`: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
/// When the file cannot be read, or has no private key.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => Unusable("has no private key in it".to_owned()),
        error => unreadable(&error),
    })
}

/// A certificate chain and its key: what one side of a connection shows of itself.
///
/// # Errors
/// When the key is not the certificate's, or of no kind that TLS uses.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Unusable> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Unusable("is not the key of the certificate".to_owned()),
        error => Unusable(format!("cannot be used: {error}")),
    })
}

fn unreadable(error: &rustls::pki_types::pem::Error) -> Unusable {
    Unusable(match error {
        rustls::pki_types::pem::Error::Io(error) => format!("names a file that cannot be read: {error}"),
        // What it says of the others may quote the file.
        _ => "names a file that is not PEM".to_owned(),
    })
}

fn trusting(roots: Arc<RootCertStore>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    versions().with_root_certificates(roots)
}

fn versions() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("aws-lc-rs serves TLS 1.2 and 1.3")
}

//! The root certificates of this machine, read when the first certificate is to be checked: some 140 take milliseconds and a megabyte, and
//! a gateway in front of loopback, or of upstreams with a CA of their own, needs none of them.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::{Arc, LazyLock};

/// Checks as rustls does by default, against the roots of this machine. One that has none trusts nobody.
#[derive(Debug)]
pub(super) struct NativeRoots {
    /// Who verifies signatures.
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NativeRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = VERIFIER.as_ref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Reads them now, which blocks for some milliseconds.
pub fn read() {
    LazyLock::force(&VERIFIER);
}

/// None without roots.
static VERIFIER: LazyLock<Option<Arc<WebPkiServerVerifier>>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "root certificates that cannot be read");
    }
    let mut roots = RootCertStore::empty();
    // Bundles have certificates in them that webpki does not take; the others count.
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier
        .inspect_err(|error| {
            tracing::warn!(%error, "no root certificates on this machine: nothing can be reached by https");
        })
        .ok()
});

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::time::Duration;

    #[test]
    fn a_certificate_of_nobody_is_refused() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["app.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let roots = NativeRoots { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()) };
        let name = ServerName::try_from("app.example").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let refused = roots.verify_server_cert(certificate.der(), &[], &name, &[], now).unwrap_err();
        assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused}");
    }
}

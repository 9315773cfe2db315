//! TLS towards clients: which certificate a name gets, who has to show one, and how files that change are taken up.
//!
//! What a verified client certificate says reaches nobody yet: it opens the connection and no more.

use crate::clock::Clock;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use simple_asn1::ASN1Block;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

/// `[server.tls]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `certificate` with `private_key`, then `certificates`. The first is for clients that name none of them.
    pub certificates: Vec<CertificateFiles>,
    /// `client_ca`, and what `client_auth` says of clients without a certificate.
    pub client_auth: Option<ClientAuth>,
    /// `min_version`, default TLS 1.2.
    pub min_version: MinVersion,
    /// `handshake_timeout`, default 5 s.
    pub handshake_timeout: Duration,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The chain, the certificate itself first.
    pub certificate: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub private_key: PathBuf,
}

/// Whose certificates count.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// The authorities, in PEM.
    pub ca: PathBuf,
    /// Whether a client without a certificate is turned away. One with a bad certificate always is.
    pub required: bool,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// `"1.2"`
    Tls12,
    /// `"1.3"`
    Tls13,
}

/// A file that cannot be used, and why; never what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// What the file is for.
    pub part: Part,
    /// Its name.
    pub file: PathBuf,
    /// To stand behind the name of the key or the file.
    pub problem: String,
    /// What to do about it.
    pub help: &'static str,
}

/// What a file is for, by the name of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `certificate`
    Certificate,
    /// `private_key`
    PrivateKey,
    /// `client_ca`
    ClientCa,
}

impl Unusable {
    fn new(part: Part, file: &Path, problem: impl Into<String>, help: &'static str) -> Unusable {
        Unusable { part, file: file.to_owned(), problem: problem.into(), help }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.file.display(), self.problem)
    }
}

/// A certificate that fits its key.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970; None when the certificate does not say it in a way that can be read.
    pub not_after: Option<u64>,
}

impl Certificate {
    /// Whether clients refuse it by its date.
    #[must_use]
    pub fn is_over(&self, unix: u64) -> bool {
        self.not_after.is_some_and(|not_after| not_after < unix)
    }
}

impl CertificateFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// The file that is missing, is no PEM, or does not fit the other.
    pub fn read(&self) -> Result<Certificate, Unusable> {
        let chain = read_certificates(&self.certificate, Part::Certificate)?;
        let not_after = not_after(&chain[0]);
        let key = CertifiedKey::new(chain, self.read_key()?);
        match key.keys_match() {
            // A key that does not tell its public half cannot be compared.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Certificate { key: Arc::new(key), not_after })
            }
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let help = "name the two that were made together";
                Err(Unusable::new(Part::PrivateKey, &self.private_key, "is not the key of the certificate", help))
            }
            Err(_) => {
                let problem = "begins with a certificate that cannot be read";
                Err(Unusable::new(Part::Certificate, &self.certificate, problem, CERTIFICATE_HELP))
            }
        }
    }

    fn read_key(&self) -> Result<Arc<dyn SigningKey>, Unusable> {
        let refuse = |problem: &str| Unusable::new(Part::PrivateKey, &self.private_key, problem, KEY_HELP);
        let text = Zeroizing::new(read_file(&self.private_key, Part::PrivateKey)?);
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            pem::Error::NoItemsFound => refuse("has no private key in it, or one that is encrypted"),
            _ => refuse("is not PEM"),
        })?;
        let key = cryptography().key_provider.load_private_key(key);
        key.map_err(|_| refuse("has a key of a kind that cannot be used"))
    }
}

impl ClientAuth {
    /// Reads the authorities.
    ///
    /// # Errors
    /// The file that is missing, is no PEM, or has none in it.
    pub fn read(&self) -> Result<RootCertStore, Unusable> {
        let mut authorities = RootCertStore::empty();
        for certificate in read_certificates(&self.ca, Part::ClientCa)? {
            let problem = "has a certificate in it that cannot be read";
            let unusable = |_| Unusable::new(Part::ClientCa, &self.ca, problem, CERTIFICATE_HELP);
            authorities.add(certificate).map_err(unusable)?;
        }
        Ok(authorities)
    }
}

/// Ends TLS for all workers. New handshakes take what was read last; connections keep what they began with.
pub struct Terminator {
    settings: Settings,
    clock: Clock,
    /// Read once for each handshake, written when files have changed.
    current: RwLock<Arc<ServerConfig>>,
    /// The files as they were when they were read last, whatever came of it.
    tried: Mutex<Vec<Option<Version>>>,
}

impl Terminator {
    /// Reads all files.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn new(settings: Settings, clock: Clock) -> Result<Terminator, Unusable> {
        let tried = Mutex::new(versions(&settings));
        let current = RwLock::new(Arc::new(read(&settings, &clock)?));
        Ok(Terminator { settings, clock, current, tried })
    }

    /// Reads the files again. One that cannot be used is reported, and everything stays as it was.
    pub fn reload(&self) {
        // Held to the end: of two at once, the one that has read last writes last.
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        *tried = versions(&self.settings);
        match read(&self.settings, &self.clock) {
            // With its own store of sessions: who resumes has passed the authorities of today.
            Ok(config) => *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config),
            Err(problem) => tracing::error!(%problem, "certificates cannot be read again: the old ones stay"),
        }
    }

    /// Reloads whenever files have changed, until the process ends. Asks for their versions now and then: that works on
    /// every file system, and through the links that Kubernetes swaps.
    pub async fn watch(self: Arc<Terminator>) {
        let mut before = None;
        loop {
            sleep(LOOK_EVERY).await;
            let terminator = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                let found = versions(&terminator.settings);
                let has_changed = *terminator.tried.lock().unwrap_or_else(PoisonError::into_inner) != found;
                // Seen twice: whoever writes has come to an end, with both the certificate and the key.
                if has_changed && before.as_ref() == Some(&found) {
                    terminator.reload();
                }
                found
            });
            before = looked.await.ok();
        }
    }

    /// The handshake. Plain HTTP is told what it has met, as nginx tells it.
    ///
    /// # Errors
    /// When the client is too slow, does not speak TLS, or is not let in.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Box<TlsStream<TcpStream>>> {
        let handshake = async {
            let mut first = [0];
            stream.peek(&mut first).await?;
            if first[0] != HANDSHAKE_RECORD {
                return Err(refuse_plain(stream).await);
            }
            let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
            TlsAcceptor::from(config).accept(stream).await.map(Box::new)
        };
        let done = timeout(self.settings.handshake_timeout, handshake).await;
        let done = done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        // Anybody can fail here as often as they like.
        done.inspect_err(|error| tracing::debug!(%error, "no TLS connection"))
    }
}

/// Everything of `[server.tls]`, from its files.
fn read(settings: &Settings, clock: &Clock) -> Result<ServerConfig, Unusable> {
    let certificates: Vec<Certificate> =
        settings.certificates.iter().map(CertificateFiles::read).collect::<Result<_, _>>()?;
    let spoken: &[_] = match settings.min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(cryptography())
        .with_protocol_versions(spoken)
        .expect("aws-lc-rs serves TLS 1.2 and 1.3");
    let builder = match &settings.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(auth.read()?), cryptography());
            let verifier = if auth.required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().expect("there are authorities"))
        }
    };
    for (files, certificate) in settings.certificates.iter().zip(&certificates) {
        tell(files, certificate, clock);
    }
    let keys = certificates.into_iter().map(|certificate| certificate.key).collect();
    let mut config = builder.with_cert_resolver(Arc::new(ByName(keys)));
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn refuse_plain(mut stream: TcpStream) -> io::Error {
    let told = async {
        // What is not read would reset the connection before the answer is.
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(PLAIN_HTTP).await;
        let _ = stream.shutdown().await;
    };
    let _ = timeout(Duration::from_secs(1), told).await;
    io::Error::new(io::ErrorKind::InvalidData, "not TLS")
}

fn tell(files: &CertificateFiles, certificate: &Certificate, clock: &Clock) {
    let file = files.certificate.display();
    let not_after = certificate.not_after.map(|at| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at)));
    if certificate.is_over(clock.now().unix) {
        tracing::warn!(certificate = %file, not_after, "clients will refuse this certificate: it has expired");
    } else {
        tracing::info!(certificate = %file, not_after, "certificate in use for TLS");
    }
}

/// Chooses by the name that a client asks for (SNI, RFC 6066 §3). That is all a name decides: every request on the
/// connection is judged by its own authority, and what is asked of clients is the same under all names.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    /// | | is taken |
    /// |---|---|
    /// | 1 | the first certificate of that name with a key that this client can check |
    /// | 2 | no such name, or none given: the first with such a key |
    /// | 3 | no such key: none, and the handshake fails |
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|it| it.key.choose_scheme(hello.signature_schemes()).is_some());
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_named = |it: &&Arc<CertifiedKey>| {
            let certificate = it.end_entity_cert().ok().and_then(|it| ParsedCertificate::try_from(it).ok());
            name.as_ref().zip(certificate).is_some_and(|(name, it)| verify_server_name(&it, name).is_ok())
        };
        match self.0.as_slice() {
            [only] => Some(Arc::clone(only)),
            _ => usable().find(is_named).or_else(|| usable().next()).cloned(),
        }
    }
}

/// What tells one version of a file from another without reading it.
type Version = (i64, i64, u64, u64);

fn versions(settings: &Settings) -> Vec<Option<Version>> {
    let pairs = settings.certificates.iter().flat_map(|files| [&files.certificate, &files.private_key]);
    let version = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
    };
    pairs.chain(settings.client_auth.iter().map(|auth| &auth.ca)).map(version).collect()
}

/// At least one.
fn read_certificates(path: &Path, part: Part) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let text = read_file(path, part)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Unusable::new(part, path, "has no certificate in it", CERTIFICATE_HELP)),
        Err(_) => Err(Unusable::new(part, path, "is not PEM", CERTIFICATE_HELP)),
    }
}

fn read_file(path: &Path, part: Part) -> Result<Vec<u8>, Unusable> {
    std::fs::read(path).map_err(|error| Unusable::new(part, path, format!("cannot be read: {error}"), PATH_HELP))
}

/// RFC 5280 §4.1.2.5: of the fields of a certificate, the one that is two times.
fn not_after(certificate: &CertificateDer<'_>) -> Option<u64> {
    let blocks = simple_asn1::from_der(certificate).ok()?;
    let [ASN1Block::Sequence(_, certificate), ..] = blocks.as_slice() else { return None };
    let [ASN1Block::Sequence(_, fields), ..] = certificate.as_slice() else { return None };
    fields.iter().find_map(|field| match field {
        ASN1Block::Sequence(_, validity) => match validity.as_slice() {
            [_, ASN1Block::UTCTime(_, not_after) | ASN1Block::GeneralizedTime(_, not_after)] => {
                u64::try_from(not_after.assume_utc().unix_timestamp()).ok()
            }
            _ => None,
        },
        _ => None,
    })
}

fn cryptography() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The name of HTTP/2 in ALPN (RFC 9113 §3.1).
pub(super) const HTTP2: &[u8] = b"h2";
/// The first byte of a ClientHello (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;
const LOOK_EVERY: Duration = Duration::from_secs(2);
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 35\r\n\
    Connection: close\r\n\r\nThis port speaks HTTPS, not HTTP.\r\n";
const PATH_HELP: &str = "the path is relative to the directory the process starts in";
const CERTIFICATE_HELP: &str = "PEM, as between `-----BEGIN CERTIFICATE-----` and `-----END CERTIFICATE-----`";
const KEY_HELP: &str = "PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted";

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, date_time_ymd};

    #[test]
    fn certificates_say_when_they_end() {
        for (year, expected) in
            [(2030, 1_893_456_000), (2049, 2_493_072_000), (2050, 2_524_608_000), (4096, 67_090_118_400)]
        {
            let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(certificate.der()), Some(expected), "{year}");
        }
        assert_eq!(not_after(&CertificateDer::from(vec![0x30, 0x82])), None);
    }

    #[test]
    fn a_certificate_is_over_the_second_after() {
        let directory = tempfile::tempdir().unwrap();
        let mut read = write(directory.path(), &PKCS_ECDSA_P256_SHA256).read().unwrap();
        for (not_after, expected) in [(None, false), (Some(999), true), (Some(1000), false)] {
            read.not_after = not_after;
            assert_eq!(read.is_over(1000), expected, "{not_after:?}");
        }
    }

    #[test]
    fn keys_of_the_usual_kinds_fit() {
        let directory = tempfile::tempdir().unwrap();
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
            assert!(write(directory.path(), algorithm).read().is_ok(), "{algorithm:?}");
        }
    }

    /// The length in the answer is the length of the text.
    #[test]
    fn the_answer_to_plain_http_is_whole() {
        let text = std::str::from_utf8(PLAIN_HTTP).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    fn write(directory: &Path, algorithm: &'static rcgen::SignatureAlgorithm) -> CertificateFiles {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let files = CertificateFiles { certificate: directory.join("a.pem"), private_key: directory.join("a.key") };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.private_key, key.serialize_pem()).unwrap();
        files
    }
}

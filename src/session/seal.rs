//! Sealing: what leaves the process and comes back, such as the record of a login under way, is
//! encrypted and bound to its purpose (AES-256-GCM, key by HKDF-SHA-256 from `session.secret`).

use super::SessionId;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, RandomizedNonceKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Opens what any of its keys sealed; the first key seals.
///
/// One key seals all logins and tokens of ours, each with 96 random bits as nonce: among 2^32 of them, a hundred a
/// second for more than a year, the chance that any two are alike is 2^-33 (NIST SP 800-38D, section 8.3).
pub struct Sealer {
    keys: Vec<RandomizedNonceKey>,
}

impl Sealer {
    /// One key for each secret. Without any, a random key: nothing sealed outlives the process.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new(secrets: &[SecretString]) -> Result<Sealer, NoRandomness> {
        Ok(Sealer { keys: keys_of(secrets, derive)? })
    }

    /// Text in the URL-safe base64 alphabet: nonce, ciphertext, tag. `purpose` and `holder` are not
    /// in it, but it opens only under the same ones.
    ///
    /// # Errors
    /// When there is no randomness for the nonce.
    pub fn seal(&self, purpose: Purpose, holder: &str, plain: &[u8]) -> Result<String, NoRandomness> {
        let mut sealed = plain.to_vec();
        let nonce =
            self.keys[0].seal_in_place_append_tag(bound_to(purpose, holder), &mut sealed).map_err(|_| NoRandomness)?;
        let mut text = nonce.as_ref().to_vec();
        text.append(&mut sealed);
        Ok(URL_SAFE_NO_PAD.encode(text))
    }

    /// What was sealed, or None: for forged, foreign, truncated and outdated text alike.
    #[must_use]
    pub fn open(&self, purpose: Purpose, holder: &str, text: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let mut sealed = sealed.to_vec();
            let plain = key.open_in_place(nonce.into(), bound_to(purpose, holder), &mut sealed).ok()?;
            Some(plain.to_vec())
        })
    }
}

/// Seals the records of sessions, each under a key of its own that takes both to make: one of
/// `session.secret`, and the id in the browser's cookie. Neither a dump of the store nor the secret
/// alone opens a record. Nonces are random too, and a key has no more to seal than the writes of one session.
pub struct RecordSealer {
    keyring: Keyring,
}

impl RecordSealer {
    /// The first secret seals, all open. Without any, a random one: records do not outlive the process.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new(secrets: &[SecretString]) -> Result<RecordSealer, NoRandomness> {
        Ok(RecordSealer { keyring: Keyring::new(b"latchgate session record v1", secrets)? })
    }

    /// It opens only with the same `id` and `context`.
    ///
    /// # Errors
    /// When there is no randomness for the nonce.
    pub fn seal(&self, id: &SessionId, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        self.keyring.seal(&id.0, context, plain)
    }

    /// What was sealed; None for everything else, whatever is wrong with it.
    #[must_use]
    pub fn open(&self, id: &SessionId, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.keyring.open(&id.0, context, sealed)
    }
}

/// Seals what browsers carry of their sessions. Each text has a key of its own, so that however many
/// are sealed, no nonce meets its like (NIST SP 800-38D, section 8.3).
pub struct CarriedSealer {
    keyring: Keyring,
}

impl CarriedSealer {
    /// The first secret seals, all open.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new(secrets: &[SecretString]) -> Result<CarriedSealer, NoRandomness> {
        Ok(CarriedSealer { keyring: Keyring::new(b"latchgate carried session v1", secrets)? })
    }

    /// The name of the key, then what `Keyring::seal` makes: [`CarriedSealer::OVERHEAD`] more than `plain`.
    ///
    /// # Errors
    /// When there is no randomness for the name or the nonce.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let mut name = [0; KEY_NAME_LEN];
        aws_lc_rs::rand::fill(&mut name).map_err(|_| NoRandomness)?;
        let mut sealed = self.keyring.seal(&name, b"", plain)?;
        sealed.splice(0..0, name);
        Ok(sealed)
    }

    /// What was sealed; None for everything else, whatever is wrong with it.
    #[must_use]
    pub fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (name, rest) = sealed.split_first_chunk::<KEY_NAME_LEN>()?;
        self.keyring.open(name, b"", rest)
    }

    /// How much longer sealing makes anything.
    pub const OVERHEAD: usize = KEY_NAME_LEN + LABEL_LEN + NONCE_LEN + TAG_LEN;
}

/// Seals the same text to the same text, so that two who do it at once need not agree on who does.
///
/// The nonce is made of the text by HMAC-SHA-256 under a key of its own (as in RFC 5297, section 4): two texts have the same one as
/// rarely as if it were random.
pub struct RepeatableSealer {
    keys: Vec<RepeatableKey>,
}

struct RepeatableKey {
    nonces: hmac::Key,
    seal: LessSafeKey,
}

impl RepeatableSealer {
    /// The first secret seals, all open. Without any, a random one.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new(purpose: &[u8], secrets: &[SecretString]) -> Result<RepeatableSealer, NoRandomness> {
        let keys = keys_of(secrets, |secret| {
            let prk = Salt::new(HKDF_SHA256, purpose).extract(secret);
            let (mut nonces, mut seal) = (Zeroizing::new([0; KEY_LEN]), Zeroizing::new([0; KEY_LEN]));
            expand(&prk, &[b"nonces"], nonces.as_mut());
            expand(&prk, &[b"seal"], seal.as_mut());
            let seal = UnboundKey::new(&AES_256_GCM, seal.as_ref()).expect("the length is that of an AES-256 key");
            RepeatableKey { nonces: hmac::Key::new(hmac::HMAC_SHA256, nonces.as_ref()), seal: LessSafeKey::new(seal) }
        })?;
        Ok(RepeatableSealer { keys })
    }

    /// Text in the URL-safe base64 alphabet: nonce, ciphertext, tag. None for more than AES-GCM takes at once.
    #[must_use]
    pub fn seal(&self, plain: &[u8]) -> Option<String> {
        let key = &self.keys[0];
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&hmac::sign(&key.nonces, plain).as_ref()[..NONCE_LEN]);
        let mut sealed = plain.to_vec();
        key.seal.seal_in_place_append_tag(Nonce::from(&nonce), Aad::empty(), &mut sealed).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// What was sealed; None for everything else, whatever is wrong with it.
    #[must_use]
    pub fn open(&self, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let mut plain = Zeroizing::new(sealed.to_vec());
            let length = key.seal.open_in_place(Nonce::from(nonce), Aad::empty(), &mut plain).ok()?.len();
            plain.truncate(length);
            Some(plain)
        })
    }
}

/// Keys by name, derived from each of `session.secret` for one purpose.
struct Keyring {
    secrets: Vec<KeyringSecret>,
}

struct KeyringSecret {
    prk: Prk,
    /// Says which secret something was sealed with.
    label: [u8; LABEL_LEN],
}

impl Keyring {
    fn new(purpose: &[u8], secrets: &[SecretString]) -> Result<Keyring, NoRandomness> {
        let secrets = keys_of(secrets, |secret| {
            let prk = Salt::new(HKDF_SHA256, purpose).extract(secret);
            let mut label = [0; LABEL_LEN];
            expand(&prk, &[b"label"], &mut label);
            KeyringSecret { prk, label }
        })?;
        Ok(Keyring { secrets })
    }

    /// Label, nonce, ciphertext, tag.
    fn seal(&self, name: &[u8], context: &[u8], plain: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let secret = &self.secrets[0];
        let mut sealed = Vec::with_capacity(LABEL_LEN + NONCE_LEN + plain.len() + TAG_LEN);
        sealed.extend(plain);
        let nonce =
            secret.key_for(name).seal_in_place_append_tag(Aad::from(context), &mut sealed).map_err(|_| NoRandomness)?;
        let head = secret.label.iter().chain(nonce.as_ref()).copied();
        sealed.splice(0..0, head);
        Ok(sealed)
    }

    fn open(&self, name: &[u8], context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (label, rest) = sealed.split_first_chunk::<LABEL_LEN>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
        let secret = self.secrets.iter().find(|secret| secret.label == *label)?;
        let mut plain = Zeroizing::new(rest.to_vec());
        let length = secret.key_for(name).open_in_place(nonce.into(), Aad::from(context), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl KeyringSecret {
    fn key_for(&self, name: &[u8]) -> RandomizedNonceKey {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        expand(&self.prk, &[b"key", name], key.as_mut());
        RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).expect("the length is that of an AES-256 key")
    }
}

/// What sealed text is for; text sealed for one purpose does not open for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The record of a login under way, held by the browser that began it.
    Login,
    /// The session that a token of ours stands for.
    OwnToken,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Purpose::Login => "latchgate login v1",
            Purpose::OwnToken => "latchgate own token v1",
        }
    }
}

/// The operating system gave no random bytes. Nothing is issued without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

impl std::fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the operating system gave no random bytes")
    }
}

impl std::error::Error for NoRandomness {}

/// What `derive` makes of each of `session.secret`, the first one first. Without any, of random bytes:
/// what is made with it does not outlive the process. They come from the kernel's generator, which is there at once;
/// aws-lc's own is seeded beside the start (`app`).
pub(super) fn keys_of<K>(secrets: &[SecretString], derive: impl Fn(&[u8]) -> K) -> Result<Vec<K>, NoRandomness> {
    if secrets.is_empty() {
        let mut secret = [0; KEY_LEN];
        getrandom::fill(&mut secret).map_err(|_| NoRandomness)?;
        return Ok(vec![derive(&secret)]);
    }
    Ok(secrets.iter().map(|secret| derive(secret.expose_secret().as_bytes())).collect())
}

fn bound_to(purpose: Purpose, holder: &str) -> Aad<Vec<u8>> {
    Aad::from([purpose.label().as_bytes(), b"\0", holder.as_bytes()].concat())
}

fn derive(secret: &[u8]) -> RandomizedNonceKey {
    let prk = Salt::new(HKDF_SHA256, b"latchgate").extract(secret);
    let mut key = [0; KEY_LEN];
    expand(&prk, &[b"seal"], &mut key);
    RandomizedNonceKey::new(&AES_256_GCM, &key).expect("the length is that of an AES-256 key")
}

fn expand(prk: &Prk, info: &[&[u8]], into: &mut [u8]) {
    prk.expand(info, Length(into.len()))
        .and_then(|okm| okm.fill(into))
        .expect("the lengths are constants that HKDF-SHA-256 takes");
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const LABEL_LEN: usize = 4;
const KEY_NAME_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealer(secrets: &[&str]) -> Sealer {
        Sealer::new(&secrets.iter().map(|&secret| SecretString::from(secret)).collect::<Vec<_>>()).unwrap()
    }

    proptest! {
        #[test]
        fn open_gives_back_what_was_sealed(plain in proptest::collection::vec(any::<u8>(), 0..200), holder in ".{0,20}") {
            let sealer = sealer(&["a secret of this test, and long enough"]);
            let text = sealer.seal(Purpose::Login, &holder, &plain).unwrap();
            prop_assert_eq!(sealer.open(Purpose::Login, &holder, &text), Some(plain));
        }

        #[test]
        fn any_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let sealer = sealer(&["a secret of this test, and long enough"]);
            let text = sealer.seal(Purpose::Login, "me", b"plain").unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(sealer.open(Purpose::Login, "me", &URL_SAFE_NO_PAD.encode(bytes)), None);
        }

        #[test]
        fn garbage_does_not_open(text in ".{0,200}") {
            prop_assert_eq!(sealer(&["a secret of this test, and long enough"]).open(Purpose::Login, "", &text), None);
        }
    }

    #[test]
    fn a_record_opens_with_its_own_id_and_context_alone() {
        let sealer = RecordSealer::new(&["a secret of this test, and long enough".into()]).unwrap();
        let (id, other) = (SessionId::random().unwrap(), SessionId::random().unwrap());
        let sealed = sealer.seal(&id, b"context", b"plain").unwrap();
        assert_eq!(sealer.open(&id, b"context", &sealed).as_deref(), Some(&b"plain".to_vec()));
        assert_eq!(sealer.open(&other, b"context", &sealed), None, "the secret alone");
        assert_eq!(sealer.open(&id, b"contexT", &sealed), None, "moved to another record");
        assert_eq!(RecordSealer::new(&[]).unwrap().open(&id, b"context", &sealed), None, "the cookie alone");
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(sealer.open(&id, b"context", &damaged), None, "byte {at}");
            assert_eq!(sealer.open(&id, b"context", &sealed[..at]), None, "cut at {at}");
        }
    }

    // SC-11
    #[test]
    fn records_survive_the_rotation_of_the_secret() {
        let (old, new) = ("the old secret, which is long enough", "the new secret, which is long enough");
        let sealer = |secrets: &[&str]| {
            RecordSealer::new(&secrets.iter().map(|&secret| SecretString::from(secret)).collect::<Vec<_>>()).unwrap()
        };
        let id = SessionId::random().unwrap();
        let sealed = sealer(&[old]).seal(&id, b"", b"plain").unwrap();
        assert!(sealer(&[new, old]).open(&id, b"", &sealed).is_some());
        assert!(sealer(&[old, new]).open(&id, b"", &sealed).is_some());
        assert!(sealer(&[new]).open(&id, b"", &sealed).is_none());
    }

    #[test]
    fn what_browsers_carry_opens_unharmed_or_not_at_all() {
        let (old, new) = ("the old secret, which is long enough", "the new secret, which is long enough");
        let sealer = |secrets: &[&str]| {
            CarriedSealer::new(&secrets.iter().map(|&secret| SecretString::from(secret)).collect::<Vec<_>>()).unwrap()
        };
        let sealed = sealer(&[old]).seal(b"plain").unwrap();
        assert_eq!(sealed.len(), b"plain".len() + CarriedSealer::OVERHEAD);
        assert_ne!(sealer(&[old]).seal(b"plain").unwrap(), sealed, "no two are alike");
        assert_eq!(sealer(&[new, old]).open(&sealed).as_deref(), Some(&b"plain".to_vec()));
        assert_eq!(sealer(&[new]).open(&sealed), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(sealer(&[old]).open(&damaged), None, "byte {at}");
            assert_eq!(sealer(&[old]).open(&sealed[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn the_same_text_is_sealed_to_the_same_text() {
        let (old, new) = ("the old secret, which is long enough", "the new secret, which is long enough");
        let sealer = |secrets: &[&str]| {
            let secrets: Vec<_> = secrets.iter().map(|&secret| SecretString::from(secret)).collect();
            RepeatableSealer::new(b"a test", &secrets).unwrap()
        };
        let sealed = sealer(&[old]).seal(b"plain").unwrap();
        assert_eq!(sealer(&[old]).seal(b"plain").unwrap(), sealed);
        assert_ne!(sealer(&[old]).seal(b"plaim").unwrap()[..16], sealed[..16], "another text has another nonce");
        assert_eq!(sealer(&[new, old]).open(&sealed).as_deref(), Some(&b"plain".to_vec()));
        assert!(sealer(&[new]).open(&sealed).is_none());
        let other = RepeatableSealer::new(b"another purpose", &[old.into()]).unwrap();
        assert!(other.open(&sealed).is_none());
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(sealer(&[old]).open(&URL_SAFE_NO_PAD.encode(damaged)).is_none(), "byte {at}");
            assert!(sealer(&[old]).open(&URL_SAFE_NO_PAD.encode(&bytes[..at])).is_none(), "cut at {at}");
        }
    }

    // SC-09
    #[test]
    fn no_two_nonces_are_alike() {
        let logins = Sealer::new(&[]).unwrap();
        let (records, id) = (RecordSealer::new(&[]).unwrap(), SessionId::random().unwrap());
        let mut nonces = std::collections::HashSet::new();
        const MANY: usize = 20_000;
        for _ in 0..MANY {
            let login = URL_SAFE_NO_PAD.decode(logins.seal(Purpose::Login, "", b"plain").unwrap()).unwrap();
            nonces.insert(login[..NONCE_LEN].to_vec());
            let record = records.seal(&id, b"", b"plain").unwrap();
            nonces.insert(record[LABEL_LEN..][..NONCE_LEN].to_vec());
        }
        assert_eq!(nonces.len(), 2 * MANY);
    }

    #[test]
    fn another_holder_cannot_open_it() {
        let sealer = sealer(&[]);
        let text = sealer.seal(Purpose::Login, "state-a", b"plain").unwrap();
        assert_eq!(sealer.open(Purpose::Login, "state-b", &text), None);
    }

    // SC-11
    #[test]
    fn a_secret_can_be_rotated() {
        let (old, new) = ("the old secret, which is long enough", "the new secret, which is long enough");
        let text = sealer(&[old]).seal(Purpose::Login, "", b"plain").unwrap();
        assert_eq!(sealer(&[new, old]).open(Purpose::Login, "", &text).as_deref(), Some(&b"plain"[..]));
        assert_eq!(sealer(&[new]).open(Purpose::Login, "", &text), None);
    }
}

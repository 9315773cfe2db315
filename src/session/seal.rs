//! Sealing: what leaves the process and comes back, such as the record of a login under way, is
//! encrypted and bound to its purpose (AES-256-GCM, key by HKDF-SHA-256 from `session.secret`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

/// Opens what any of its keys sealed; the first key seals.
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

/// What sealed text is for; text sealed for one purpose does not open for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The record of a login under way, held by the browser that began it.
    Login,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Purpose::Login => "latchgate login v1",
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
/// what is made with it does not outlive the process.
pub(super) fn keys_of<K>(secrets: &[SecretString], derive: impl Fn(&[u8]) -> K) -> Result<Vec<K>, NoRandomness> {
    if secrets.is_empty() {
        let mut secret = [0; KEY_LEN];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| NoRandomness)?;
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
    prk.expand(&[b"seal"], Key256)
        .and_then(|okm| okm.fill(&mut key))
        .and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &key))
        .expect("the lengths are constants that HKDF-SHA-256 and AES-256-GCM take")
}

struct Key256;

impl KeyType for Key256 {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

const KEY_LEN: usize = 32;

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
    fn another_holder_cannot_open_it() {
        let sealer = sealer(&[]);
        let text = sealer.seal(Purpose::Login, "state-a", b"plain").unwrap();
        assert_eq!(sealer.open(Purpose::Login, "state-b", &text), None);
    }

    #[test]
    fn a_secret_can_be_rotated() {
        let (old, new) = ("the old secret, which is long enough", "the new secret, which is long enough");
        let text = sealer(&[old]).seal(Purpose::Login, "", b"plain").unwrap();
        assert_eq!(sealer(&[new, old]).open(Purpose::Login, "", &text).as_deref(), Some(&b"plain"[..]));
        assert_eq!(sealer(&[new]).open(Purpose::Login, "", &text), None);
    }
}

//! The opening handshake of a WebSocket where the gateway is its client (RFC 6455 §4.1): the browser's own came over HTTP/2, which has
//! neither key nor answer (RFC 8441 §5).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// A new `Sec-WebSocket-Key`. It tells caches and WebSockets apart and is no secret.
pub fn key() -> HeaderValue {
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// Whether `accept`, a `Sec-WebSocket-Accept`, answers `key`.
pub fn accepts(key: &HeaderValue, accept: &HeaderValue) -> bool {
    let text = [key.as_bytes(), SALT].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text)).as_bytes() == accept.as_bytes().trim_ascii()
}

const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6455_section_1_3() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert!(accepts(&key, &HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!accepts(&key, &HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOp=")));
        assert_eq!(super::key().len(), 24);
    }
}

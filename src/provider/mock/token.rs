//! The token endpoint of the mock provider: codes and refresh tokens become access and ID tokens.

use super::MockProvider;
use super::grants::{Redeemed, random};
use super::keys::TokenType;
use super::persona::Stage;
use super::request::{Parameters, client_id};
use super::response::{TokenError, json_response};
use crate::clock::Now;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::time::Duration;

impl MockProvider {
    /// The token endpoint (RFC 6749 §3.2).
    pub(super) fn token(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, TokenError> {
        let parameters = Parameters::of_form(request)?;
        let client_id = client_id(request, &parameters)?;
        let now = self.clock.now();
        match parameters.get("grant_type") {
            Some("authorization_code") => self.token_for_code(&parameters, &client_id, now),
            Some("refresh_token") => self.token_for_refresh_token(&parameters, &client_id, now),
            Some("client_credentials") => self.token_for_client(&parameters, &client_id, now),
            Some(_) => Err(TokenError::unsupported_grant_type()),
            None => Err(TokenError::invalid_request("grant_type is missing")),
        }
    }

    /// RFC 6749 §4.1.3, RFC 7636 §4.6
    fn token_for_code(
        &self,
        parameters: &Parameters<'_>,
        client_id: &str,
        now: Now,
    ) -> Result<Response<Bytes>, TokenError> {
        let code = parameters.get("code").ok_or(TokenError::invalid_request("code is missing"))?;
        let verifier =
            parameters.get("code_verifier").ok_or(TokenError::invalid_request("code_verifier is missing"))?;
        let redeemed = self.grants().redeem_code(code, now.mono, |code| {
            if code.consent.client_id != client_id {
                return Err(TokenError::invalid_client());
            }
            if parameters.get("redirect_uri") != Some(&code.redirect_uri) {
                return Err(TokenError::invalid_grant("redirect_uri is not the one of the authorization request"));
            }
            if !is_code_verifier(verifier) || sha256_base64url(verifier.as_bytes()) != code.code_challenge {
                return Err(TokenError::invalid_grant("code_verifier does not match code_challenge"));
            }
            TokenError::rehearsed(code.consent.failure, Stage::Code)
        })?;
        let scope = redeemed.consent.scope.clone();
        self.issue(&redeemed, &scope, now)
    }

    /// RFC 6749 §6; OIDC Core §12
    fn token_for_refresh_token(
        &self,
        parameters: &Parameters<'_>,
        client_id: &str,
        now: Now,
    ) -> Result<Response<Bytes>, TokenError> {
        let refresh_token =
            parameters.get("refresh_token").ok_or(TokenError::invalid_request("refresh_token is missing"))?;
        let redeemed = self.grants().redeem_refresh_token(refresh_token, now.mono, |consent| {
            if consent.client_id != client_id {
                return Err(TokenError::invalid_client());
            }
            let granted: Vec<&str> = consent.scope.split(' ').collect();
            if parameters.get("scope").is_some_and(|scope| scope.split(' ').any(|token| !granted.contains(&token))) {
                return Err(TokenError::invalid_scope());
            }
            TokenError::rehearsed(consent.failure, Stage::Refresh)
        })?;
        let scope = parameters.get("scope").unwrap_or(&redeemed.consent.scope);
        self.issue(&redeemed, scope, now)
    }

    /// RFC 6749 §4.4: the client is its own subject (RFC 9068 §2.2), and nothing comes to renew the token with.
    fn token_for_client(
        &self,
        parameters: &Parameters<'_>,
        client_id: &str,
        now: Now,
    ) -> Result<Response<Bytes>, TokenError> {
        let scope = parameters.get("scope").unwrap_or_default();
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), client_id.into());
        self.describe_access(&mut claims, client_id, self.access_life, now);
        claims.insert("aud".to_owned(), parameters.get("audience").unwrap_or(&self.issuer).into());
        claims.insert("scope".to_owned(), scope.into());
        let answer = json!({
            "access_token": self.key.sign(TokenType::Access, &claims)?,
            "token_type": "Bearer",
            "expires_in": self.access_life.as_secs(),
            "scope": scope,
        });
        Ok(json_response(StatusCode::OK, &answer))
    }

    /// RFC 6749 §5.1, with an ID token when `openid` was granted (OIDC Core §3.1.3.3).
    fn issue(&self, redeemed: &Redeemed, scope: &str, now: Now) -> Result<Response<Bytes>, TokenError> {
        let expires_in = redeemed.consent.access_life.as_secs();
        let access_token = self.access_token(redeemed, scope, now)?;
        let mut answer = json!({
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": expires_in,
            "scope": scope,
        });
        if scope.split(' ').any(|token| token == "openid") {
            answer["id_token"] = self.id_token(redeemed, scope, &access_token, now)?.into();
        }
        if let Some(refresh_token) = &redeemed.refresh_token {
            answer["refresh_token"] = refresh_token.as_str().into();
        }
        Ok(json_response(StatusCode::OK, &answer))
    }

    /// RFC 9068 §2.2
    fn access_token(&self, redeemed: &Redeemed, scope: &str, now: Now) -> Result<String, TokenError> {
        let Redeemed { consent, family, .. } = redeemed;
        let mut claims = consent.persona.claims(scope);
        self.describe_access(&mut claims, &consent.client_id, consent.access_life, now);
        claims.insert("aud".to_owned(), self.issuer.as_str().into());
        claims.insert("scope".to_owned(), scope.into());
        claims.insert("sid".to_owned(), family.to_sid().into());
        Ok(self.key.sign(TokenType::Access, &claims)?)
    }

    /// What every access token says (RFC 9068 §2.2), whoever it is for.
    fn describe_access(&self, claims: &mut Map<String, Value>, client_id: &str, life: Duration, now: Now) {
        claims.insert("iss".to_owned(), self.issuer.as_str().into());
        claims.insert("client_id".to_owned(), client_id.into());
        claims.insert("iat".to_owned(), now.unix.into());
        claims.insert("exp".to_owned(), (now.unix + life.as_secs()).into());
        claims.insert("jti".to_owned(), jti().into());
    }

    /// OIDC Core §2, §3.1.3.6; after a refresh without `nonce` and with the first `auth_time` (§12.2)
    fn id_token(&self, redeemed: &Redeemed, scope: &str, access_token: &str, now: Now) -> Result<String, TokenError> {
        let Redeemed { consent, family, nonce, .. } = redeemed;
        let mut claims = consent.persona.claims(scope);
        claims.insert("iss".to_owned(), self.issuer.as_str().into());
        claims.insert("aud".to_owned(), consent.client_id.as_str().into());
        claims.insert("iat".to_owned(), now.unix.into());
        claims.insert("exp".to_owned(), (now.unix + ID_TOKEN_LIFE.as_secs()).into());
        claims.insert("auth_time".to_owned(), consent.auth_time.into());
        claims.insert("sid".to_owned(), family.to_sid().into());
        claims.insert("at_hash".to_owned(), left_half_of_sha256(access_token).into());
        if let Some(nonce) = nonce {
            claims.insert("nonce".to_owned(), nonce.as_str().into());
        }
        if let Some(acr) = &consent.acr {
            claims.insert("acr".to_owned(), acr.as_str().into());
        }
        Ok(self.key.sign(TokenType::Id, &claims)?)
    }
}

/// RFC 7636 §4.1
fn is_code_verifier(verifier: &str) -> bool {
    (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

pub(super) fn sha256_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

/// `at_hash` for ES256 (OIDC Core §3.1.3.6)
pub(super) fn left_half_of_sha256(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..SHA256.output_len / 2])
}

fn jti() -> String {
    URL_SAFE_NO_PAD.encode(random::<16>())
}

pub(super) const ID_TOKEN_LIFE: Duration = Duration::from_secs(3600);

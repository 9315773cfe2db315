//! `{prefix}/session`: what the front end may know of its session, and the data it keeps there.

use super::{Asked, Endpoints, json_object, not_signed_in, read_body};
use crate::body::Body;
use crate::clock::Now;
use crate::reply::{self, Refusal};
use crate::session::{Session, Update};
use http::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};

pub(super) async fn session(endpoints: &Endpoints, asked: &Asked<'_>, body: Body) -> Response<Body> {
    let Some(session) = &asked.session else { return not_signed_in() };
    if asked.facts.method != Method::PATCH {
        return show(endpoints, session, asked.facts.now);
    }
    if endpoints.is_foreign(&asked.headers) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let patch = match read_patch(body).await {
        Ok(patch) => patch,
        Err(refusal) => return asked.refuse(&refusal),
    };
    let sessions = endpoints.sessions.clone();
    let update = endpoints.sessions.update(session, move |session| {
        let mut custom = Map::clone(&session.custom);
        merge(&mut custom, &patch);
        let fits = serde_json::to_string(&custom).is_ok_and(|text| text.len() <= MOST_CUSTOM_DATA);
        fits.then(|| session.with_custom(custom)).filter(|next| sessions.fits(next))
    });
    match update.await {
        Ok(Update::Stored(session)) => show(endpoints, &session, asked.facts.now),
        Ok(Update::Declined(_)) => asked.refuse(&Refusal::BodyTooLarge),
        Ok(Update::Ended) => not_signed_in(),
        Err(_) => asked.refuse(&Refusal::StoreUnavailable),
    }
}

fn show(endpoints: &Endpoints, session: &Session, now: Now) -> Response<Body> {
    let token_left = session.tokens.expires().map(|expires| expires.since(now.mono).as_secs());
    reply::json(
        StatusCode::OK,
        &json!({
            "provider": &*session.provider,
            "sub": session.identity.subject,
            "iat": session.started.unix,
            "exp": session.ends_at(),
            "idleTimeout": endpoints.sessions.settings().idle_timeout.as_secs(),
            "tokenExpiresIn": token_left,
            "data": &*session.custom,
        }),
    )
}

async fn read_patch(body: Body) -> Result<Map<String, Value>, Refusal> {
    json_object(&read_body(body, MOST_CUSTOM_DATA).await?)
}

/// RFC 7396: null takes a member away, objects merge, everything else replaces.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match (value, target.get_mut(name)) {
            (Value::Null, _) => {
                target.remove(name);
            }
            (Value::Object(inner), Some(Value::Object(existing))) => merge(existing, inner),
            (Value::Object(inner), _) => {
                let mut fresh = Map::new();
                merge(&mut fresh, inner);
                target.insert(name.clone(), Value::Object(fresh));
            }
            (value, _) => {
                target.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Sessions live in memory; a front end keeps settings there, not documents.
const MOST_CUSTOM_DATA: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_merge_as_rfc_7396_says() {
        for (before, patch, after) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut target = before.as_object().unwrap().clone();
            merge(&mut target, patch.as_object().unwrap());
            assert_eq!(Value::Object(target), after);
        }
    }
}

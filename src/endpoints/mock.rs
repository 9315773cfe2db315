//! `/mock/*` and `{prefix}/mock/*`: the browser's side of the built-in provider.

use super::{Asked, Endpoints};
use crate::body::Body;
use crate::reply::Refusal;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Limited};

pub(super) async fn mock(endpoints: &Endpoints, asked: &Asked<'_>, body: Body) -> Response<Body> {
    let Some(provider) = &endpoints.mock else { return asked.refuse(&Refusal::NotFound) };
    let Ok(body) = Limited::new(body, MOST_FORM_DATA).collect().await else {
        return asked.refuse(&Refusal::BodyTooLarge);
    };
    let mut request = Request::new(body.to_bytes());
    *request.method_mut() = asked.facts.method.clone();
    let target = asked.facts.path.path_and_query().as_str();
    // Its own addresses, which its metadata names, are those without the prefix.
    let target =
        target.strip_prefix(&endpoints.settings.prefix).filter(|rest| rest.starts_with("/mock/")).unwrap_or(target);
    let Ok(uri) = Uri::try_from(target) else { return asked.refuse(&Refusal::NotFound) };
    *request.uri_mut() = uri;
    request.headers_mut().clone_from(&asked.headers);
    provider.handle(request).map(Body::from)
}

const MOST_FORM_DATA: usize = 64 * 1024;

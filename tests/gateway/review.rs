//! What a reader with bad intentions found: one test for each hole, so that it stays closed.

use crate::harness::expect::{error_json, relayed};
use crate::harness::{Request, Site};

// WB-06: an identity header is as good as a token to the backend that trusts it
#[tokio::test]
async fn other_sites_cannot_post_where_the_session_shows_in_another_way_than_a_token() {
    let site = Site::plan()
        .route("/headers/*", "auth = \"optional\"\nattach = \"never\"\nidentity = { \"X-User\" = \"sub\" }")
        .route("/admitted/*", "auth = true\nattach = { basic = { username = \"u\", password = \"a long password\" } }")
        .start()
        .await;
    let browser = site.signed_in().await;
    let cookies = browser.cookie_field();
    for path in ["/headers/x", "/admitted/x"] {
        let foreign = Request::new("POST", path)
            .header("Sec-Fetch-Site", "same-site")
            .header("Origin", "http://sub.gw.test")
            .header("Cookie", &cookies);
        error_json(&browser.send(foreign).await, 403);
        assert_eq!(site.upstream.hits(), 0, "{path}");
    }
    for path in ["/headers/x", "/admitted/x"] {
        relayed(&browser.fetch("POST", path).await, 200);
    }
}

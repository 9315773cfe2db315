//! Several providers at once: choosing one, a route's own, and which one a session is from.

use crate::harness::expect::{error_json, error_page};
use crate::harness::inspect::Expectations;
use crate::harness::provider::CLIENT_ID;
use crate::harness::site::parse;
use crate::harness::{Browser, Endpoint, Provider, Request, Site};
use latchgate::clock::Clock;
use serde_json::{Value, json};
use url::Url;

/// `corp`, a GitLab called `lab`, and the mock.
struct Three {
    site: Site,
    lab: Provider,
}

impl Three {
    async fn start(lab_keys: &str) -> Three {
        let clock = Clock::system();
        let lab = Provider::start(clock.clone()).await;
        lab.register("http://gw.test/auth/lab");
        let corp = Provider::start(clock.clone()).await;
        let more = format!(
            "[providers.lab]\nkind = \"gitlab\"\nbase_url = \"{}\"\nclient_id = \"{CLIENT_ID}\"\n\
             client_secret = {{ env = \"CLIENT_SECRET\" }}\n{lab_keys}\n\
             [providers.demo]\nkind = \"mock\"\ntitle = \"Try it <b>out</b>\"\n",
            lab.issuer()
        );
        let site = Site::plan()
            .provider(&corp, &clock)
            .more(&more)
            .route("/lab/open", "auth = \"optional\"\nprovider = \"lab\"")
            .route("/lab/*", "auth = true\nprovider = \"lab\"")
            .route("/*", "auth = true")
            .start()
            .await;
        Three { site, lab }
    }

    /// A browser that knows its way to `lab`.
    fn browser_at_lab(&self) -> Browser {
        let expected = Expectations {
            external: "http://gw.test".parse().unwrap(),
            login_prefix: "/auth".to_owned(),
            issuer: self.lab.issuer(),
        };
        Browser::new(self.site.gateway.address, self.lab.clone(), expected, self.site.clock.clone())
    }
}

// SPEC §6, `GET /auth/login`
#[tokio::test]
async fn a_person_chooses_on_a_page_and_a_script_from_a_list() {
    let three = Three::start("").await;
    let browser = three.site.browser();
    let page = browser.navigate("/private?x=1").await;
    assert_eq!((page.reply.status, page.url.path()), (200, "/auth/login"));
    let text = page.reply.text();
    let links: Vec<&str> =
        text.split("class=\"option\" href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let onward = "?return_to=%2Fprivate%3Fx%3D1";
    assert_eq!(links, [format!("/auth/corp{onward}"), format!("/auth/lab{onward}"), format!("/auth/demo{onward}")]);
    for title in ["<strong>corp</strong>", "<strong>GitLab</strong>"] {
        assert!(text.contains(title), "{title}: {text}");
    }
    assert!(!text.contains("<b>out"), "titles are text");
    assert!(text.contains("<h1>") && text.contains("lang=\"") && text.contains("aria-hidden=\"true\""), "{text}");

    let reply = browser.fetch("GET", "/auth/login?return_to=%2Fprivate&status=expired").await;
    assert_eq!(
        reply.json(),
        json!({ "providers": [
            { "name": "corp", "title": "corp", "loginUrl": "/auth/corp?return_to=%2Fprivate" },
            { "name": "lab", "title": "GitLab", "loginUrl": "/auth/lab?return_to=%2Fprivate" },
            { "name": "demo", "title": "Try it <b>out</b>", "loginUrl": "/auth/demo?return_to=%2Fprivate" },
        ] })
    );
    assert_eq!(three.site.provider.count(Endpoint::Authorize) + three.lab.count(Endpoint::Authorize), 0);
}

// G-1
#[tokio::test]
async fn tg_02_an_unknown_provider_is_404() {
    let three = Three::start("").await;
    for target in
        ["/auth/unknown", "/auth/login?provider=unknown", "/auth/unknown?code=c&state=s", "/auth/Corp", "/auth/lab/x"]
    {
        let browser = three.site.browser();
        error_page(&browser.send(Request::navigation(target)).await, 404);
        error_json(&browser.fetch("GET", target).await, 404);
        assert!(browser.cookies().is_empty(), "{target}");
    }
}

// SPEC §6, `GET /auth/{provider}`
#[tokio::test]
async fn each_provider_signs_in_at_its_own_place_and_the_session_says_which() {
    let three = Three::start("").await;
    for (browser, provider, sub) in [
        (three.site.browser(), "corp", "bob"),
        (three.browser_at_lab(), "lab", "bob"),
        (three.site.browser(), "demo", "ada"),
    ] {
        let query = if provider == "demo" { "user=ada" } else { "login_hint=bob" };
        let page = browser.navigate(&format!("/auth/login?provider={provider}&return_to=%2Fx&{query}")).await;
        assert_eq!((page.reply.status, page.url), (200, browser.url("/x")), "{provider}: {:?}", page.trail);
        for target in ["/auth/session", "/auth/me", "/api/user/me"] {
            let said: Value = browser.fetch("GET", target).await.json();
            assert_eq!((&said["provider"], &said["sub"]), (&json!(provider), &json!(sub)), "{target}");
        }
    }
    assert_eq!((three.site.provider.code_exchanges(), three.lab.code_exchanges()), (1, 1));
}

// The session of one provider is not renewed at another.
#[tokio::test]
async fn a_session_is_refreshed_where_it_began() {
    let three = Three::start("").await;
    let browser = three.browser_at_lab();
    browser.navigate("/auth/lab?return_to=%2Fx&login_hint=bob").await;
    three.site.clock.advance(std::time::Duration::from_secs(3601));
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);
    assert_eq!((three.site.provider.refreshes(), three.lab.refreshes()), (0, 1));
}

// SPEC §11, `provider` of a route
#[tokio::test]
async fn a_route_has_a_provider_of_its_own() {
    let three = Three::start("").await;
    let url = three.browser_at_lab().authorization_request("/lab/x").await;
    assert_eq!(parameter(&url, "redirect_uri"), ["http://gw.test/auth/lab"]);
    assert_eq!(parameter(&url, "scope"), ["openid profile email"]);
    let refusal = three.site.browser().fetch("GET", "/lab/x").await;
    assert_eq!(refusal.status, 401);
    let login = three.browser_at_lab().authorization_request(refusal.header("latchgate-login")).await;
    assert_eq!(login.origin().ascii_serialization(), three.lab.issuer());
}

// A token reaches the upstreams of its own provider, and who signed in elsewhere is a stranger there.
#[tokio::test]
async fn a_session_of_another_provider_is_none_on_a_route_that_names_one() {
    let three = Three::start("").await;
    let browser = three.site.browser();
    browser.navigate("/auth/corp?return_to=%2Fx&login_hint=bob").await;
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);
    let hits = three.site.upstream.hits();
    let refusal = browser.fetch("POST", "/lab/x").await;
    assert_eq!((refusal.status, refusal.header("latchgate-reason")), (401, "unauthorized"));
    assert!(refusal.header("latchgate-login").contains("provider=lab"));
    assert_eq!(three.site.upstream.hits(), hits);
    assert_eq!(browser.fetch("GET", "/lab/open").await.status, 200);
    assert!(!three.site.upstream.received().pop().unwrap().headers.contains("authorization"));
    assert_eq!(browser.fetch("GET", "/x").await.status, 200, "the session is untouched");

    let at_lab = three.browser_at_lab();
    assert_eq!(at_lab.navigate("/lab/x?login_hint=bob").await.reply.status, 200);
    assert_eq!(at_lab.fetch("GET", "/lab/open").await.status, 200);
    assert!(three.site.upstream.received().pop().unwrap().headers.contains("authorization"));
}

// G-2
#[tokio::test]
async fn tg_04_an_answer_without_the_state_of_this_browser_signs_nobody_in() {
    let three = Three::start("").await;
    let callback = three.browser_at_lab().stop_before_callback("/auth/lab?return_to=%2Fx").await;
    let mut without = callback.clone();
    without.set_query(Some("code=some-code"));
    for url in [callback, without] {
        let other = three.browser_at_lab();
        error_page(&other.arrive_from_provider(&url).await.reply, 400);
        assert_eq!(other.session_cookie(), None);
    }
    assert_eq!(three.lab.count(Endpoint::Token), 0);
}

// G-4
#[tokio::test]
async fn tg_05_a_refusal_says_nothing_of_what_the_provider_said() {
    let three = Three::start("").await;
    three.lab.configure(|habits| {
        habits.refuse = Some(("access_denied".to_owned(), "tenant 7 of cluster blue".to_owned()));
    });
    let browser = three.browser_at_lab();
    let page = browser.navigate("/auth/lab?return_to=%2Fx").await;
    error_page(&page.reply, 401);
    assert!(!page.reply.text().contains("cluster blue"), "{}", page.reply.text());
    assert_eq!(browser.session_cookie(), None);
}

#[tokio::test]
async fn parameters_of_the_file_go_along_and_the_callers_come_first() {
    let three = Three::start("authorization_params = { prompt = \"login\", realm = \"deck\" }").await;
    let url = three.browser_at_lab().authorization_request("/auth/lab").await;
    assert_eq!((parameter(&url, "prompt"), parameter(&url, "realm")), (vec!["login".into()], vec!["deck".into()]));
    let url = three.browser_at_lab().authorization_request("/auth/lab?prompt=none&realm=bridge").await;
    assert_eq!((parameter(&url, "prompt"), parameter(&url, "realm")), (vec!["none".into()], vec!["deck".into()]));
}

// IT-18
#[tokio::test]
async fn a_max_age_of_the_file_is_held_to() {
    let three = Three::start("authorization_params = { max_age = \"300\" }").await;
    let browser = three.browser_at_lab();
    let page = browser.navigate("/auth/lab?return_to=%2Fx").await;
    assert_eq!(page.reply.status, 502, "no auth_time: {}", page.reply.text());
    three.lab.configure(|habits| {
        habits.id_token = Box::new(|token| {
            let now = token.claims["iat"].clone();
            token.claims.insert("auth_time".to_owned(), now);
        });
    });
    let page = browser.navigate("/auth/lab?return_to=%2Fx").await;
    assert_eq!(page.reply.status, 200, "{:?}", page.trail);
}

// G-5
#[tokio::test]
async fn mapped_claims_reach_the_user_endpoint_and_change_with_a_refresh() {
    let three = Three::start("claims = { role = \"work.role\", email = \"work.mail\" }").await;
    let work = |role: &str| json!({ "email": "typed@by.hand", "name": "Bob", "work": { "role": role, "mail": "bob@corp.test" } });
    three.lab.add_user("bob", work("sailor"));
    let browser = three.browser_at_lab();
    browser.navigate("/auth/lab?return_to=%2Fx&login_hint=bob").await;
    let me = browser.fetch("GET", "/auth/me").await.json();
    assert_eq!((&me["role"], &me["email"]), (&json!("sailor"), &json!("bob@corp.test")));

    three.lab.add_user("bob", work("captain"));
    three.site.clock.advance(std::time::Duration::from_secs(3601));
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);
    let me = browser.fetch("GET", "/auth/me").await.json();
    assert_eq!((&me["role"], &me["email"]), (&json!("captain"), &json!("bob@corp.test")));
}

#[test]
fn a_file_with_every_kind_is_a_file() {
    let client = "client_id = \"app\"\nclient_secret = { env = \"CLIENT_SECRET\" }\n";
    let kinds = [
        "kind = \"google\"",
        "kind = \"github\"",
        "kind = \"auth0\"\ndomain = \"example.auth0.com\"",
        "kind = \"microsoft\"",
        "kind = \"gitlab\"",
        "kind = \"keycloak\"\nbase_url = \"https://sso.example.com\"\nrealm = \"staff\"",
        "kind = \"okta\"\ndomain = \"example.okta.com\"",
        "kind = \"discord\"",
        "kind = \"oidc\"\nissuer = \"https://login.example.com\"",
    ];
    let mut source = "[upstreams.app]\nurl = \"demo:\"\n[[routes]]\npath = \"/*\"\n".to_owned();
    for (number, kind) in kinds.iter().enumerate() {
        source += &format!("[providers.p{number}]\n{kind}\n{client}");
    }
    assert_eq!(parse(&source).unwrap().providers.len(), kinds.len());
}

fn parameter(url: &Url, name: &str) -> Vec<String> {
    url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

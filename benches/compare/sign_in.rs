//! Sessions as browsers get them: through a whole authorization code flow, at the gateway and at its peers alike.

use crate::Failure;
use crate::http::{Connection, header, headers};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use url::Url;

/// Signs in `count` times at `server`, whose login begins at `login`; answers the `Cookie` of each session.
pub fn sessions(server: SocketAddr, login: &str, count: usize) -> Result<Vec<String>, Failure> {
    let left = AtomicUsize::new(count);
    let one_after_the_other = || -> Result<Vec<String>, String> {
        let mut connection = Connection::open(server).map_err(|error| error.to_string())?;
        let mut cookies = Vec::new();
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            cookies.push(session(&mut connection, login).map_err(|error| error.to_string())?);
        }
        Ok(cookies)
    };
    std::thread::scope(|scope| {
        let browsers: Vec<_> = (0..BROWSERS.min(count)).map(|_| scope.spawn(one_after_the_other)).collect();
        let mut cookies = Vec::with_capacity(count);
        for browser in browsers {
            cookies.extend(browser.join().map_err(|_| "a browser panicked")??);
        }
        Ok(cookies)
    })
}

/// The provider would ask nothing and send the browser back at once, so it is left out: its answer is the state it was
/// given and a code, for which it takes the nonce, if there is one. So it needs no memory to put it into the ID token.
fn session(connection: &mut Connection, login: &str) -> Result<String, Failure> {
    let to_provider = connection.get(login, &NAVIGATION)?;
    let authorization_request = Url::parse(header(&to_provider, "location")?)?;
    let parameter = |wanted: &str| {
        authorization_request.query_pairs().find_map(|(name, value)| (name == wanted).then(|| value.into_owned()))
    };
    let (Some(redirect_uri), Some(state)) = (parameter("redirect_uri"), parameter("state")) else {
        return Err(format!("not an authorization request:\n{to_provider}").into());
    };
    let mut back = Url::parse(&redirect_uri)?;
    let code = parameter("nonce").unwrap_or_else(|| "c".to_owned());
    back.query_pairs_mut().append_pair("code", &code).append_pair("state", &state);
    let target = format!("{}?{}", back.path(), back.query().unwrap_or_default());
    let login_cookies = cookies(&to_provider);
    let headers = [&NAVIGATION[..], &[("Cookie", &login_cookies)]].concat();
    let signed_in = connection.get(&target, &headers)?;
    match cookies(&signed_in) {
        none if none.is_empty() => Err(format!("no session:\n{signed_in}").into()),
        cookies => Ok(cookies),
    }
}

/// Those that a response sets and does not take away, as a `Cookie` line.
pub fn cookies(response: &str) -> String {
    let set = headers(response, "set-cookie").filter(|line| !line.to_ascii_lowercase().contains("max-age=0"));
    let pairs = set.filter_map(|line| line.split(';').next());
    pairs.filter(|pair| pair.split_once('=').is_some_and(|(_, value)| !value.is_empty())).collect::<Vec<_>>().join("; ")
}

const NAVIGATION: [(&str, &str); 3] =
    [("Accept", "text/html"), ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")];
/// Side by side.
const BROWSERS: usize = 16;

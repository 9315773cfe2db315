//! Query parameters by name, with everything else in its bytes and order.

use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

/// Whether `pair` (`name=value`, as it stands in a query) is the parameter `name`.
pub fn is_named(pair: &str, name: &str) -> bool {
    let sent = pair.split('=').next().unwrap_or_default().replace('+', " ");
    percent_decode_str(&sent).decode_utf8_lossy() == name
}

/// The values of `name`, decoded, in order.
pub fn values(target: &PathAndQuery, name: &str) -> impl Iterator<Item = Vec<u8>> {
    target.query().unwrap_or_default().split('&').filter(move |pair| is_named(pair, name)).map(|pair| {
        let value = pair.split_once('=').map_or("", |(_, value)| value).replace('+', " ");
        percent_decode_str(&value).collect()
    })
}

/// The target without the parameters of these names. None: it could not be written.
pub fn without(target: &PathAndQuery, names: &[String]) -> Option<PathAndQuery> {
    let query = target.query().unwrap_or_default();
    let is_unwanted = |pair: &str| names.iter().any(|name| is_named(pair, name));
    if !query.split('&').any(is_unwanted) {
        return Some(target.clone());
    }
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_unwanted(pair)).collect();
    match rest.as_slice() {
        [] => PathAndQuery::try_from(target.path()).ok(),
        rest => PathAndQuery::try_from(format!("{}?{}", target.path(), rest.join("&"))).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_others_keep_their_bytes_and_their_order() {
        for (target, rest) in [
            ("/p?api_key=x", "/p"),
            ("/p?a=1&api_key=x&a=%7e", "/p?a=1&a=%7e"),
            ("/p?api%5Fkey=x&b", "/p?b"),
            ("/p?api_key&&c=", "/p?&c="),
            ("/p?api_keys=x&API_KEY=y", "/p?api_keys=x&API_KEY=y"),
            ("/p?", "/p?"),
            ("/api_key", "/api_key"),
            ("/p?t=1&api_key=x&t2=2&t=3", "/p?t2=2"),
        ] {
            let target: PathAndQuery = target.parse().unwrap();
            assert_eq!(without(&target, &names(&["api_key", "t"])).unwrap(), rest, "{target}");
        }
    }

    #[test]
    fn values_are_decoded() {
        let target: PathAndQuery = "/p?k=a%2Bb+c&x=1&%6B=%ff&k&k=".parse().unwrap();
        assert_eq!(values(&target, "k").collect::<Vec<_>>(), [&b"a+b c"[..], b"\xff", b"", b""]);
        assert_eq!(values(&"/p".parse().unwrap(), "k").count(), 0);
    }
}

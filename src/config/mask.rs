//! The source without its secrets: same length, same lines, `*` where one stood.
//!
//! In a file that parses, the tree says which bytes are values, and names say which of them are
//! secrets. In one that does not, too much is hidden rather than too little.

use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The source of a file that parses. Hides `hidden`, every value whose key is the name of a secret,
/// what a URL may carry for a secret, and all comments: an old secret may be in one.
pub(super) fn mask(source: &str, document: &DeTable<'_>, hidden: &[Range<usize>]) -> String {
    let mut paint = Paint::new(source);
    let mut literals = Vec::new();
    mask_table(document, false, source, &mut paint, &mut literals);
    for span in hidden {
        paint.cover_value(source, span.clone());
    }
    literals.sort_by_key(|span| span.start);
    for comment in comments(source, &literals) {
        paint.cover(comment, ' ');
    }
    paint.apply(source)
}

/// The source of a file that does not parse: nobody knows where a value ends, or which key it belongs
/// to. So only lines are shown that are headers, or that give a value to a key that is never a secret.
pub(super) fn mask_unparsed(source: &str) -> String {
    let mut paint = Paint::new(source);
    let mut start = 0;
    for line in source.split_inclusive('\n') {
        paint.cover(start + shown_len(line)..start + line.len(), '*');
        start += line.len();
    }
    paint.apply(source)
}

/// How much of a line of a broken file may be shown.
fn shown_len(line: &str) -> usize {
    let blank = line.len() - line.trim_start().len();
    if line.trim().trim_matches(['[', ']']).chars().all(is_word) {
        return if line.trim().starts_with('[') || PUBLIC_KEYS.contains(&line.trim()) { line.len() } else { blank };
    }
    let Some((key, value)) = line.split_once('=') else {
        return blank;
    };
    let value_at = line.len() - value.trim_start().len();
    let key = key.trim();
    let harmless = !value.contains(['=', '@', '#']);
    if PUBLIC_KEYS.contains(&key) && harmless {
        line.len()
    } else if PUBLIC_KEYS.contains(&key) || key.chars().all(is_word) && is_secret_name(key) {
        value_at
    } else {
        blank
    }
}

fn mask_table(table: &DeTable<'_>, secret: bool, source: &str, paint: &mut Paint, literals: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        literals.push(key.span());
        let secret = is_secret_name(key.get_ref()) || secret && !PUBLIC_PARTS.contains(&key.get_ref().as_ref());
        mask_value(value, secret, source, paint, literals);
    }
}

fn mask_value(
    value: &Spanned<DeValue<'_>>,
    secret: bool,
    source: &str,
    paint: &mut Paint,
    literals: &mut Vec<Range<usize>>,
) {
    match value.get_ref() {
        DeValue::Table(table) => mask_table(table, secret, source, paint, literals),
        DeValue::Array(items) => items.iter().for_each(|item| mask_value(item, secret, source, paint, literals)),
        _ if secret => {
            literals.push(value.span());
            paint.cover_value(source, value.span());
        }
        DeValue::String(text) => {
            let span = value.span();
            literals.push(span.clone());
            let written = source.get(span.clone()).unwrap_or_default();
            if url_secrets(text).len() > url_secrets(written).len() {
                // written with escapes: the parts cannot be told from each other in the source
                paint.cover_value(source, span);
            } else {
                for range in url_secrets(written) {
                    paint.cover(span.start + range.start..span.start + range.end, '*');
                }
            }
        }
        _ => {}
    }
}

/// Under a secret's name: where it comes from, and what goes beside it.
const PUBLIC_PARTS: &[&str] = &["audience", "env", "file", "header", "provider", "query", "scope", "username"];

/// Keys whose values are shown even in a file that does not parse.
const PUBLIC_KEYS: &[&str] = &[
    "absolute_timeout",
    "access_ttl",
    "admin_listen",
    "after_login",
    "after_logout",
    "algorithm",
    "aliases",
    "allow_encoded_slash",
    "allow_in_production",
    "auth",
    "authorization_server",
    "base_url",
    "body_timeout",
    "brand",
    "cache_memory",
    "case_insensitive_paths",
    "client_auth",
    "client_id",
    "connect_timeout",
    "connection_max_age",
    "connections",
    "cooldown",
    "dns_refresh",
    "domain",
    "drain_timeout",
    "early",
    "external_url",
    "flow",
    "grace",
    "header_bytes",
    "header_count",
    "header_timeout",
    "host",
    "hosted_domain",
    "idle_timeout",
    "kind",
    "listen",
    "log",
    "login",
    "login_attempts",
    "max_body",
    "max_idle_connections",
    "max_sessions",
    "max_sessions_per_user",
    "methods",
    "on_401",
    "path",
    "prefix",
    "preset",
    "protocol",
    "provider",
    "realm",
    "refresh_token_property",
    "replace_prefix",
    "replay_body",
    "replay_memory",
    "request_timeout",
    "response_timeout",
    "return_to_page",
    "rotation",
    "scopes",
    "server_name",
    "store",
    "strip_prefix",
    "tenant",
    "timeout",
    "title",
    "token_property",
    "trusted_proxies",
    "ttl",
    "update_claims",
    "upstream",
    "user_path",
    "websocket_idle_timeout",
    "workers",
    "write_timeout",
];

/// Whether a key of this name, misspelt or not, may hold a secret.
fn is_secret_name(name: &str) -> bool {
    const EXACT: &[&str] = &["basic", "key", "keys", "set", "value"];
    const PARTS: &[&str] = &["apikey", "credential", "passphrase", "passwd", "password", "privatekey", "secret"];
    const NEAR: &[&str] = &["apikey", "clientsecret", "password", "secret"];
    let name = name.to_lowercase().replace(['_', '-', '.'], "");
    EXACT.contains(&name.as_str())
        || PARTS.iter().any(|part| name.contains(part))
        || NEAR.iter().any(|near| strsim::osa_distance(near, &name) <= 2)
}

/// The user information and the query of each URL in `text`, quotes and all.
fn url_secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('@') {
        let word = text[..at].rfind(is_delimiter).map_or(0, |before| before + 1);
        let authority = text[..at].find("://").map(|scheme| scheme + 3);
        match authority {
            Some(start) => found.push(start..at),
            None if text[word..at].contains(':') => found.push(word..at),
            None => {}
        }
    }
    for (at, _) in text.match_indices("://") {
        let end = text[at..].find(is_delimiter).map_or(text.len(), |end| at + end);
        if let Some(query) = text[at..end].find('?') {
            found.push(at + query + 1..end);
        }
    }
    found
}

fn is_delimiter(char: char) -> bool {
    char.is_ascii_whitespace() || matches!(char, '"' | '\'')
}

/// The `#…` outside of `literals`, which are sorted.
fn comments(source: &str, literals: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(hash) = source[at..].find('#').map(|hash| at + hash) {
        let inside = literals.iter().find(|literal| literal.contains(&hash));
        at = match inside {
            Some(literal) => literal.end,
            None => {
                let end = source[hash..].find('\n').map_or(source.len(), |end| hash + end);
                found.push(hash..end);
                end
            }
        };
    }
    found
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.')
}

/// What each byte of the source is replaced with.
struct Paint {
    bytes: Vec<Option<char>>,
}

impl Paint {
    fn new(source: &str) -> Paint {
        Paint { bytes: vec![None; source.len()] }
    }

    fn cover(&mut self, range: Range<usize>, with: char) {
        if let Some(bytes) = self.bytes.get_mut(range) {
            bytes.fill(Some(with));
        }
    }

    /// Leaves the outermost quotes, so that the value still looks like one.
    fn cover_value(&mut self, source: &str, span: Range<usize>) {
        let quoted = source.get(span.clone()).is_some_and(|value| value.len() > 1 && value.starts_with(['"', '\'']));
        self.cover(if quoted { span.start + 1..span.end - 1 } else { span }, '*');
    }

    /// Every character that is covered becomes as many `*` or spaces as it has bytes.
    fn apply(&self, source: &str) -> String {
        let mut masked = String::with_capacity(source.len());
        for (at, char) in source.char_indices() {
            match self.bytes[at] {
                Some(with) if !matches!(char, '\n' | '\r') => masked.extend((0..char.len_utf8()).map(|_| with)),
                _ => masked.push(char),
            }
        }
        masked
    }
}

//! The source without its secrets: same length, same lines, `*` where one stood.
//!
//! In a file that parses, the tree says which bytes are values; in one that does not, names have to
//! do, and the rule is to hide too much rather than too little.

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

/// The source of a file that does not parse.
pub(super) fn mask_unparsed(source: &str) -> String {
    let mut paint = Paint::new(source);
    let mut secret_goes_on = false;
    let mut open_quotes = None;
    let mut start = 0;
    for line in source.split_inclusive('\n') {
        let end = start + line.len();
        if let Some(quotes) = open_quotes {
            paint.cover(start..end, '*');
            if line.contains(quotes) {
                open_quotes = None;
            }
        } else {
            if secret_goes_on && !begins_entry(line) {
                paint.cover(start..end, '*');
            } else {
                secret_goes_on = false;
            }
            if let Some(secret) = secret_in_line(line) {
                paint.cover(start + secret..end, '*');
                secret_goes_on = true;
                open_quotes = [r#"""""#, "'''"].into_iter().find(|quotes| line[secret..].matches(quotes).count() == 1);
            }
            for range in url_secrets(line) {
                paint.cover(start + range.start..start + range.end, '*');
            }
        }
        start = end;
    }
    paint.apply(source)
}

fn mask_table(
    table: &DeTable<'_>,
    secret: bool,
    source: &str,
    paint: &mut Paint,
    literals: &mut Vec<Range<usize>>,
) {
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
const PUBLIC_PARTS: &[&str] = &["env", "file", "header", "query", "username"];

/// Whether a key of this name, misspelt or not, may hold a secret.
fn is_secret_name(name: &str) -> bool {
    const EXACT: &[&str] = &["key", "keys", "set", "value"];
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

/// Where in a line the value of a secret's name begins.
fn secret_in_line(line: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(start) = line[at..].find(is_word).map(|start| at + start) {
        let end = line[start..].find(|char| !is_word(char)).map_or(line.len(), |end| start + end);
        at = end;
        if !is_secret_name(&line[start..end]) {
            continue;
        }
        let value = line[end..].trim_start_matches([' ', '\t', '=', '"', '\'']);
        let value_at = line.len() - value.len();
        match reference_len(value) {
            Some(len) => at = value_at + len,
            // what is secret in this table has a name of its own
            None if line[start..end].ends_with("api_key") && value.starts_with('{') => at = value_at,
            None => return Some(end + line[end..].find(|char| !matches!(char, ' ' | '\t' | '=')).unwrap_or(0)),
        }
    }
    None
}

/// The length of `{ env = "NAME" }` or `{ file = "path" }` at the start of `text`.
fn reference_len(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('{')?.trim_start();
    let value = inside.strip_prefix("env").or_else(|| inside.strip_prefix("file"))?;
    let quoted = value.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
    let rest = quoted[quoted.find('"')? + 1..].trim_start().strip_prefix('}')?;
    Some(text.len() - rest.len())
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.')
}

/// Whether a line looks like a header or like `key = value`, so that the value before it has ended.
fn begins_entry(line: &str) -> bool {
    let line = line.trim();
    if line.starts_with('[') {
        return line.trim_start_matches('[').starts_with(is_word);
    }
    let Some((key, value)) = line.split_once('=') else {
        return false;
    };
    let key = key.trim().trim_matches(['"', '\'']);
    // the padding of a Base64 text looks like a key without a value
    let value = value.trim_matches([' ', '\t', '"', '\'', ',', '=', ']']);
    !key.is_empty() && key.chars().all(is_word) && !value.is_empty()
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

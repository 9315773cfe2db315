//! Small strict readers, one for each kind of value: durations, sizes, URLs, secrets, headers.

use super::raw::Field;
use http::{HeaderName, HeaderValue, Method};
use secrecy::SecretString;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;
use url::{Host, Url};

/// A whole number and a unit, `"500ms"`, `"30s"`, `"5m"`, `"24h"` or `"7d"`; zero is fine.
pub(super) fn duration(field: &Field) -> Option<Duration> {
    const HELP: &str = r#"a whole number and a unit: "500ms", "30s", "5m", "24h" or "7d""#;
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let DeValue::String(text) = field.value() else {
        return field.refuse_type(HELP);
    };
    match number_with_unit(text, &units) {
        Ok(millis) if millis <= TEN_YEARS_IN_MILLIS => Some(Duration::from_millis(millis)),
        Ok(_) | Err(NumberProblem::TooLarge) => field.refuse("is longer than ten years", HELP),
        Err(NumberProblem::Malformed) => field.refuse("is not a duration", HELP),
    }
}

/// A duration that is not zero.
pub(super) fn positive_duration(field: &Field) -> Option<Duration> {
    match duration(field)? {
        Duration::ZERO => field.refuse("is zero", "it must be longer than that"),
        duration => Some(duration),
    }
}

/// A whole number and a unit, `"100B"`, `"64KiB"`, `"1MiB"` or `"1GiB"`, in bytes; zero is fine.
pub(super) fn size(field: &Field) -> Option<u64> {
    const HELP: &str = r#"a whole number and a unit: "100B", "64KiB", "1MiB" or "1GiB""#;
    let units = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let DeValue::String(text) = field.value() else {
        return field.refuse_type(HELP);
    };
    match number_with_unit(text, &units) {
        Ok(bytes) => Some(bytes),
        Err(NumberProblem::TooLarge) => field.refuse("is too large", HELP),
        Err(NumberProblem::Malformed) => field.refuse("is not a size", HELP),
    }
}

/// A secret: written out, `{ env = "NAME" }` or `{ file = "path" }` (relative to the process
/// directory, one trailing line break taken off). Never empty, and never named in a problem.
pub(super) fn secret(field: &Field) -> Option<SecretString> {
    const HELP: &str = r#"a string, { env = "NAME" } or { file = "path" }"#;
    let text = match field.value() {
        DeValue::String(_) => {
            field.hide();
            field.string()?.to_owned()
        }
        DeValue::Table(_) => field.table(|table| {
            let variable = table.read("env", secret_from_env);
            let file = table.read("file", secret_from_file);
            match (table.has("env"), table.has("file")) {
                (true, false) => variable,
                (false, true) => file,
                _ => field.refuse("needs either `env` or `file`", HELP),
            }
        })??,
        _ => {
            field.hide();
            return field.refuse_type(HELP);
        }
    };
    Some(SecretString::from(text))
}

/// The path of a file, relative to the directory the process starts in.
pub(super) fn file_path(field: &Field) -> Option<PathBuf> {
    field.string().map(PathBuf::from)
}

/// `http` or `https`, host, port, and nothing else.
pub(super) fn origin(field: &Field) -> Option<Url> {
    const HELP: &str = r#"scheme, host and port only, as in "https://app.example.com""#;
    let url = web_url(field)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return field.refuse("is more than an origin", HELP);
    }
    Some(url)
}

/// The URL of an identity provider: `https`, or `http` on this machine (RFC 8252 §8.3 has the same exception).
pub(super) fn provider_url(field: &Field) -> Option<Url> {
    let url = web_url(field)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return field
            .refuse("is not https", "tokens and secrets travel here; plain http is only accepted on loopback hosts");
    }
    if url.fragment().is_some() {
        return field.refuse("has a fragment", "take the `#…` off");
    }
    Some(url)
}

/// An `http` or `https` URL without user information.
pub(super) fn web_url(field: &Field) -> Option<Url> {
    const HELP: &str = r#"a whole URL, as in "https://login.example.com""#;
    let text = field.string()?;
    // the parser drops some of these silently, and then two readers see two URLs
    if text.contains(|char: char| char.is_ascii_whitespace() || char.is_control() || char == '\\') {
        return field.refuse("is not a URL: it has white space or a backslash in it", HELP);
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(problem) => return field.refuse(format!("is not a URL: {problem}"), HELP),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return field.refuse("is neither http nor https", HELP);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return field.refuse("has a user name or a password in it", "take out everything up to the `@`");
    }
    Some(url)
}

/// `localhost`, `127.0.0.0/8` and `::1`.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A path of this host: `/` and visible ASCII, and nothing a browser takes for another host.
pub(super) fn path(field: &Field) -> Option<String> {
    const HELP: &str = "a path on this host that begins with one `/`";
    let text = field.string()?;
    let local = text.starts_with('/') && !text.starts_with("//");
    if !local || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return field.refuse("is not a path", HELP);
    }
    Some(text.to_owned())
}

/// A path that stands for all below it: segments of unreserved characters (RFC 3986 §2.3), no slash at the end.
pub(super) fn path_prefix(field: &Field) -> Option<String> {
    const HELP: &str = r#"`/` and plain segments without a slash at the end, as in "/api""#;
    let text = field.string()?;
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    match text.strip_prefix('/') {
        Some(segments) if segments.split('/').all(plain) => Some(text.to_owned()),
        _ => field.refuse("is not a path prefix", HELP),
    }
}

/// The path of a claim: names with dots between them.
pub(super) fn claim_path(field: &Field) -> Option<String> {
    let text = field.string()?;
    if text.split('.').any(str::is_empty) {
        return field.refuse("is not the path of a claim", r#"names with dots between them, as in "address.country""#);
    }
    Some(text.to_owned())
}

/// A method as it stands in a request: upper-case.
pub(super) fn method(field: &Field) -> Option<Method> {
    let text = field.string()?;
    let upper = text.to_ascii_uppercase();
    if text != upper {
        return field.refuse("is not a method", format!("methods are upper-case: `{upper}`"));
    }
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') => Some(method),
        _ => field.refuse("is not a method", r#"a method as in "GET" or "POST""#),
    }
}

/// A field name (RFC 9110 §5.1), from a value.
pub(super) fn header_name(field: &Field) -> Option<HeaderName> {
    let text = field.string()?;
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Some(name),
        Err(_) => field.refuse("is not the name of a header", HEADER_NAME_HELP),
    }
}

/// A field name that is the key of a table.
pub(super) fn header_name_of_key(field: &Field) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(field.key().as_bytes()).ok();
    if name.is_none() {
        field.refuse_key(format!("`{}` is not the name of a header", field.key()), HEADER_NAME_HELP);
    }
    name
}

/// A field value: no line breaks, no control characters.
pub(super) fn header_value(field: &Field) -> Option<HeaderValue> {
    match HeaderValue::from_str(field.string_or_empty()?) {
        Ok(value) => Some(value),
        Err(_) => field.refuse("cannot be the value of a header", "visible ASCII characters, spaces and tabs"),
    }
}

const HEADER_NAME_HELP: &str = r#"letters, digits and `-`, as in "X-User""#;

const TEN_YEARS_IN_MILLIS: u64 = 10 * 365 * 86_400_000;

fn secret_from_env(field: &Field) -> Option<String> {
    let variable = field.string()?;
    let is_name = variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !variable.starts_with(|first: char| first.is_ascii_digit());
    if !is_name {
        // most likely the secret itself
        field.hide();
        return field
            .refuse("is not the name of an environment variable", "letters, digits and `_`; never the secret itself");
    }
    match field.env(variable) {
        None => field.refuse(
            format!("names the environment variable `{variable}`, which is not set"),
            format!("set `{variable}` for the process"),
        ),
        Some(value) if value.trim().is_empty() => field.refuse(
            format!("names the environment variable `{variable}`, which is empty"),
            format!("give `{variable}` a value"),
        ),
        Some(value) => Some(value),
    }
}

fn secret_from_file(field: &Field) -> Option<String> {
    let path = field.string()?;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            return field.refuse(
                format!("names a file that cannot be read: {error}"),
                "the path is relative to the directory the process starts in",
            );
        }
    };
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.trim().is_empty() {
        return field.refuse("names a file that is empty", "write the secret into it");
    }
    Some(secret.to_owned())
}

#[derive(Debug, PartialEq, Eq)]
enum NumberProblem {
    Malformed,
    TooLarge,
}

/// Decimal digits, then exactly one of the units.
fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Result<u64, NumberProblem> {
    let digits = text.len() - text.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(NumberProblem::Malformed);
    };
    if number.is_empty() {
        return Err(NumberProblem::Malformed);
    }
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or(NumberProblem::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_strict() {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
        for (text, expected) in [
            ("500ms", Ok(500)),
            ("30s", Ok(30_000)),
            ("0s", Ok(0)),
            ("007m", Ok(420_000)),
            ("", Err(NumberProblem::Malformed)),
            ("s", Err(NumberProblem::Malformed)),
            ("30", Err(NumberProblem::Malformed)),
            ("300x", Err(NumberProblem::Malformed)),
            ("30S", Err(NumberProblem::Malformed)),
            ("-5s", Err(NumberProblem::Malformed)),
            ("+5s", Err(NumberProblem::Malformed)),
            ("1.5s", Err(NumberProblem::Malformed)),
            ("1m30s", Err(NumberProblem::Malformed)),
            (" 30s", Err(NumberProblem::Malformed)),
            ("30 s", Err(NumberProblem::Malformed)),
            ("٣s", Err(NumberProblem::Malformed)),
            ("99999999999999999999s", Err(NumberProblem::TooLarge)),
            ("18446744073709551615s", Err(NumberProblem::TooLarge)),
        ] {
            assert_eq!(number_with_unit(text, &units), expected, "{text:?}");
        }
    }
}

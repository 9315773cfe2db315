//! JSON from a provider, read so that no two readers can understand it differently.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// The object that `text` is. `None` for anything else: other types, invalid UTF-8, a byte order mark, a member name that occurs
/// twice at any level, more than 127 levels.
pub(crate) fn object(text: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice::<Unambiguous>(text) {
        Ok(Unambiguous(Value::Object(members))) => Some(members),
        _ => None,
    }
}

/// The objects that `text` is a list of, read like [`object`].
pub(super) fn objects(text: &[u8]) -> Option<Vec<Map<String, Value>>> {
    let Ok(Unambiguous(Value::Array(elements))) = serde_json::from_slice(text) else { return None };
    let member = |element| match element {
        Value::Object(members) => Some(members),
        _ => None,
    };
    elements.into_iter().map(member).collect()
}

/// A non-empty string member.
pub(crate) fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// What names somebody for good: a text, or a whole number written out.
pub(super) fn identifier(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// What stands at a path, as in `data.attributes.token` or `tokens[0].value`: names into objects, numbers into arrays. A member
/// that is called like the whole path wins.
pub(super) fn at_path<'a>(members: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = members.get(path) {
        return Some(value);
    }
    let mut steps = steps(path)?.into_iter();
    let first = members.get(steps.next()?)?;
    steps.try_fold(first, |value, step| match value {
        Value::Object(members) => members.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Puts `value` where [`at_path`] finds it, in objects that are made on the way: to a script, `a[0]` of `{"0": …}` is the same.
pub(super) fn put_at_path(members: &mut Map<String, Value>, path: &str, value: Value) {
    let steps = steps(path).unwrap_or_else(|| vec![path]);
    let Some((last, before)) = steps.split_last() else { return };
    let mut place = members;
    for step in before {
        let entry = place.entry(*step).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = entry else { return };
        place = inner;
    }
    place.insert((*last).to_owned(), value);
}

/// The object that the last step of a path leads out of.
pub(super) fn around<'a>(members: &'a Map<String, Value>, path: &str) -> Option<&'a Map<String, Value>> {
    if members.contains_key(path) {
        return Some(members);
    }
    let steps = steps(path)?;
    let (_, before) = steps.split_last()?;
    match before {
        [] => Some(members),
        before => at_path(members, &before.join("."))?.as_object(),
    }
}

/// Whether a text can be a path.
#[must_use]
pub fn is_json_path(path: &str) -> bool {
    steps(path).is_some()
}

/// `a[0].b` is `a.0.b`.
fn steps(path: &str) -> Option<Vec<&str>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (name, mut indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
        if name.is_empty() || name.contains(']') {
            return None;
        }
        steps.push(name);
        while !indexes.is_empty() {
            let (index, rest) = indexes.strip_prefix('[')?.split_once(']')?;
            if index.is_empty() || !index.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            steps.push(index);
            indexes = rest;
        }
    }
    Some(steps)
}

struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unambiguous, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Unambiguous)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without repeated members")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unambiguous(element)) = elements.next_element()? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Unambiguous(value))) = entries.next_entry::<String, Unambiguous>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member name occurs twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_out_what_two_readers_could_read_differently() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let refused: [&[u8]; 10] = [
            b"",
            b"[]",
            b"null",
            b"\"a\"",
            b"{\"a\":1,\"a\":2}",
            b"{\"a\":{\"b\":1,\"b\":1}}",
            b"{\"a\":1} x",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
            deep.as_bytes(),
        ];
        for text in refused {
            assert_eq!(object(text), None, "{}", String::from_utf8_lossy(&text[..text.len().min(40)]));
        }
    }

    // TN-35
    #[test]
    fn paths_lead_into_objects_and_arrays() {
        let members =
            object(br#"{"a":{"b":[{"c":"deep"},"second"]},"a.b":"plain","x":{"0":"zero"},"n":null}"#).unwrap();
        for (path, expected) in [
            ("a.b", Some("plain")),
            ("a.b[0].c", Some("deep")),
            ("a.b.0.c", Some("deep")),
            ("a.b[1]", Some("second")),
            ("a.b[2]", None),
            ("a.b.x", None),
            ("x.0", Some("zero")),
            ("x[0]", Some("zero")),
            ("n.m", None),
            ("y", None),
        ] {
            assert_eq!(at_path(&members, path).and_then(Value::as_str), expected, "{path}");
        }
        for malformed in ["", ".", "a.", ".a", "a..b", "a[", "a[]", "a[x]", "a[-1]", "a[0", "a]", "[0]", "a[0]b"] {
            assert!(!is_json_path(malformed), "{malformed}");
            assert_eq!(at_path(&members, malformed), None, "{malformed}");
        }
        assert!(around(&members, "a.b[0].c").unwrap().contains_key("c"));
        assert!(around(&members, "y").unwrap().contains_key("x"));
        assert_eq!(around(&members, "a.b[1]"), None);
    }

    #[test]
    fn what_is_put_at_a_path_is_found_there() {
        let mut members = Map::new();
        for path in ["token", "data.attributes.token", "data.attributes.refresh", "list[0].value"] {
            put_at_path(&mut members, path, path.into());
        }
        for path in ["token", "data.attributes.token", "data.attributes.refresh", "list[0].value"] {
            assert_eq!(at_path(&members, path), Some(&path.into()), "{path}");
        }
    }

    #[test]
    fn keeps_every_type() {
        let text = r#"{"n":null,"b":true,"u":18446744073709551615,"i":-1,"f":1.5,"s":"é","a":[1,{"x":[]}]}"#;
        let members = object(text.as_bytes()).unwrap();
        assert_eq!(Value::Object(members), serde_json::from_str::<Value>(text).unwrap());
    }
}

//! Reading the parsed document: tables and fields that know where they stand.
//!
//! serde stops at the first error, and we want all of them; so the tree that `toml` parsed, spans
//! and all, is walked by hand. A [`Table`] remembers which keys were asked for: whatever else
//! stands in it is an unknown key, and the list of known ones cannot drift from the code.

use super::report::Problem;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// What the walk has found so far.
pub(super) struct Check<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: RefCell<Vec<Problem>>,
    hidden: RefCell<Vec<Range<usize>>>,
}

impl<'a> Check<'a> {
    pub(super) fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Check<'a> {
        Check { env, problems: RefCell::default(), hidden: RefCell::default() }
    }

    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Keeps a value out of every report: it is, or could be, a secret.
    fn hide(&self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().for_each(|item| self.hide(item)),
            DeValue::Table(entries) => entries.iter().for_each(|(_, value)| self.hide(value)),
            _ => self.hidden.borrow_mut().push(value.span()),
        }
    }

    /// The problems, and the byte ranges that must not be shown.
    pub(super) fn into_findings(self) -> (Vec<Problem>, Vec<Range<usize>>) {
        (self.problems.into_inner(), self.hidden.into_inner())
    }
}

/// One table of the file, or the place where it could stand.
pub(super) struct Table<'a> {
    check: &'a Check<'a>,
    /// Dotted, as in `providers.corp`; empty for the whole file.
    name: String,
    span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    known: RefCell<Vec<&'static str>>,
    unavailable: RefCell<Vec<&'static str>>,
    any_key: Cell<bool>,
}

impl<'a> Table<'a> {
    /// Reads the whole document.
    pub(super) fn read_document<T>(
        document: &'a DeTable<'a>,
        source_len: usize,
        check: &'a Check<'a>,
        read: impl FnOnce(&Table<'a>) -> T,
    ) -> T {
        Table::read_entries(check, String::new(), source_len..source_len, Some(document), read)
    }

    /// Calls `read`, then reports every key that it did not ask for.
    fn read_entries<T>(
        check: &'a Check<'a>,
        name: String,
        span: Range<usize>,
        entries: Option<&'a DeTable<'a>>,
        read: impl FnOnce(&Table<'a>) -> T,
    ) -> T {
        let table = Table {
            check,
            name,
            span,
            entries,
            known: RefCell::default(),
            unavailable: RefCell::default(),
            any_key: Cell::new(false),
        };
        let result = read(&table);
        table.report_unknown_keys();
        result
    }

    /// Where this table stands: its header, or its braces.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn check(&self) -> &'a Check<'a> {
        self.check
    }

    /// The field called `key`, if it is there.
    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        self.known.borrow_mut().push(key);
        let (key, value) = self.entries?.get_key_value(key)?;
        Some(self.field_of(key, value))
    }

    /// What `parse` makes of the field; None when it is absent or refused.
    pub(super) fn read<T>(&self, key: &'static str, parse: impl FnOnce(&Field<'a>) -> Option<T>) -> Option<T> {
        parse(&self.field(key)?)
    }

    /// As [`Table::read`], and a field that is absent is a problem.
    pub(super) fn require<T>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        if let Some(field) = self.field(key) {
            return parse(&field);
        }
        let message = format!("`{}` is missing", self.name_of(key));
        self.check.report(Problem::error(self.span(), message).help(format!("add `{key} = {example}`")));
        None
    }

    /// Reads the table called `key`; an absent one is read as an empty one.
    pub(super) fn table<T>(&self, key: &'static str, read: impl FnOnce(&Table<'a>) -> T) -> T {
        let field = self.field(key);
        let entries = field.as_ref().and_then(Field::entries);
        let span = field.map_or(self.span(), |field| field.span);
        Table::read_entries(self.check, self.name_of(key), span, entries, read)
    }

    /// All fields, in file order: the keys are names that the user made up.
    pub(super) fn all(&self) -> impl Iterator<Item = Field<'a>> + '_ {
        self.accept_any_key();
        self.entries.into_iter().flatten().map(|(key, value)| self.field_of(key, value))
    }

    /// Keys of the format that this version cannot honour: never silently ignored.
    pub(super) fn unavailable(&self, keys: &[&'static str]) {
        self.unavailable.borrow_mut().extend(keys);
        for key in keys {
            if let Some((key, value)) = self.entries.and_then(|entries| entries.get_key_value(*key)) {
                self.field_of(key, value).refuse_as_unavailable();
            }
        }
    }

    /// Leaves unknown keys alone: which keys are known depends on a field that is wrong itself.
    pub(super) fn accept_any_key(&self) {
        self.any_key.set(true);
    }

    /// An error at the value of `key`, or at the table when the key is absent.
    pub(super) fn refuse(&self, key: &'static str, message: impl Into<String>, help: &str) {
        self.check.report(Problem::error(self.span_of(key), message).help(help));
    }

    /// A warning at the value of `key`, or at the table when the key is absent.
    pub(super) fn warn(&self, key: &'static str, message: impl Into<String>, help: &str) {
        self.check.report(Problem::warning(self.span_of(key), message).help(help));
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_none_or(|entries| entries.is_empty())
    }

    /// Where the value of `key` stands; the table itself when the key is absent.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.entries.and_then(|entries| entries.get(key)).map_or(self.span(), Spanned::span)
    }

    fn field_of(&self, key: &Spanned<DeString<'a>>, value: &'a Spanned<DeValue<'a>>) -> Field<'a> {
        Field {
            check: self.check,
            name: self.name_of(key.get_ref()),
            key: key.get_ref().to_string(),
            key_span: key.span(),
            span: value.span(),
            value,
        }
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn report_unknown_keys(&self) {
        if self.any_key.get() {
            return;
        }
        let known = self.known.borrow();
        let unavailable = self.unavailable.borrow();
        for (key, value) in self.entries.into_iter().flatten() {
            let name = key.get_ref();
            if known.iter().chain(unavailable.iter()).any(|known| known == name) {
                continue;
            }
            self.check.hide(value);
            let message = match self.name.as_str() {
                "" => format!("unknown key `{name}`"),
                table => format!("unknown key `{name}` in `{table}`"),
            };
            let candidates: Vec<&str> = known.iter().chain(unavailable.iter()).copied().collect();
            let help = did_you_mean(name, &candidates).unwrap_or_else(|| match known.as_slice() {
                [] => "this table takes no keys".to_owned(),
                known => format!("known keys: {}", quoted(known, ", ")),
            });
            self.check.report(Problem::error(key.span(), message).help(help));
        }
    }
}

/// A value of the file with its name and its place.
pub(super) struct Field<'a> {
    check: &'a Check<'a>,
    /// Dotted, as in `session.idle_timeout`.
    name: String,
    key: String,
    key_span: Range<usize>,
    span: Range<usize>,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    /// The last part of the name.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn key_span(&self) -> Range<usize> {
        self.key_span.clone()
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    pub(super) fn env(&self, variable: &str) -> Option<String> {
        (self.check.env)(variable)
    }

    /// Keeps this value out of every report.
    pub(super) fn hide(&self) {
        self.check.hide(self.value);
    }

    /// Reports an error at the value. None, so that a reader can end with it.
    pub(super) fn refuse<T>(&self, message: impl AsRef<str>, help: impl Into<String>) -> Option<T> {
        let message = format!("`{}` {}", self.name, message.as_ref());
        self.check.report(Problem::error(self.span(), message).help(help));
        None
    }

    /// Reports an error at the key: for names that the user made up.
    pub(super) fn refuse_key(&self, message: impl Into<String>, help: impl Into<String>) {
        self.check.report(Problem::error(self.key_span(), message).help(help));
    }

    pub(super) fn warn(&self, message: impl AsRef<str>, help: impl Into<String>) {
        let message = format!("`{}` {}", self.name, message.as_ref());
        self.check.report(Problem::warning(self.span(), message).help(help));
    }

    pub(super) fn refuse_as_unavailable(&self) {
        let message = format!("`{}` is not available in this version", self.name);
        self.check.report(Problem::error(self.key_span(), message).help("take it out"));
    }

    /// A string with something in it.
    pub(super) fn string(&self) -> Option<&'a str> {
        match self.string_or_empty()? {
            "" => self.refuse("is empty", "give it a value, or take the key out"),
            text => Some(text),
        }
    }

    pub(super) fn string_or_empty(&self) -> Option<&'a str> {
        match self.value() {
            DeValue::String(text) => Some(text),
            _ => self.refuse_type("a string"),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.refuse_type("`true` or `false`"),
        }
    }

    /// A whole number of at least `least` and at most `most`.
    pub(super) fn integer(&self, least: u64, most: u64) -> Option<u64> {
        let DeValue::Integer(integer) = self.value() else {
            return self.refuse_type("a whole number");
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => self.refuse("is out of range", format!("a whole number from {least} to {most}")),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Clone>(&self, words: &[(&str, T)], unavailable: &[&str]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.refuse_choice(text, &words, unavailable)
    }

    /// Refuses a word: because it is not available yet, or because nobody knows it.
    pub(super) fn refuse_choice<T>(&self, text: &str, words: &[&str], unavailable: &[&str]) -> Option<T> {
        let one_of = format!("one of {}", quoted(words, ", "));
        if unavailable.contains(&text) {
            let message = format!("`{} = \"{text}\"` is not available in this version", self.key);
            self.check.report(Problem::error(self.span(), message).help(one_of));
            return None;
        }
        let candidates: Vec<&str> = words.iter().chain(unavailable).copied().collect();
        let help = match did_you_mean(text, &candidates) {
            Some(help) => format!("{help}; {one_of}"),
            None => one_of,
        };
        self.refuse("has a value that is not known", help)
    }

    /// A list, each item read by `parse`; None when one of them is refused.
    pub(super) fn list<T>(&self, mut parse: impl FnMut(&Field<'a>) -> Option<T>) -> Option<Vec<T>> {
        let DeValue::Array(_) = self.value() else {
            return self.refuse_type("a list");
        };
        // every item is read, so that every problem is found
        let items: Vec<Option<T>> = self.items().map(|item| parse(&item)).collect();
        items.into_iter().collect()
    }

    /// A list with something in it.
    pub(super) fn nonempty_list<T>(&self, parse: impl FnMut(&Field<'a>) -> Option<T>) -> Option<Vec<T>> {
        match self.list(parse)? {
            items if items.is_empty() => self.refuse("is empty", "give it a value, or take the key out"),
            items => Some(items),
        }
    }

    /// One value, or a list with something in it.
    pub(super) fn one_or_more<T>(&self, mut parse: impl FnMut(&Field<'a>) -> Option<T>) -> Option<Vec<T>> {
        match self.value() {
            DeValue::Array(_) => self.nonempty_list(parse),
            _ => Some(vec![parse(self)?]),
        }
    }

    /// The items of a list, each under the name of the list.
    pub(super) fn items(&self) -> impl Iterator<Item = Field<'a>> + '_ {
        self.value().as_array().into_iter().flatten().map(|item| Field {
            check: self.check,
            name: self.name.clone(),
            key: self.key.clone(),
            key_span: self.key_span.clone(),
            span: item.span(),
            value: item,
        })
    }

    /// Reads this value as a table; None when it is something else.
    pub(super) fn table<T>(&self, read: impl FnOnce(&Table<'a>) -> T) -> Option<T> {
        let entries = self.entries()?;
        Some(Table::read_entries(self.check, self.name.clone(), self.span(), Some(entries), read))
    }

    fn entries(&self) -> Option<&'a DeTable<'a>> {
        match self.value() {
            DeValue::Table(entries) => Some(entries),
            _ => self.refuse_type("a table"),
        }
    }

    pub(super) fn refuse_type<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.refuse(format!("has the wrong type: {found}"), format!("it must be {wanted}"))
    }
}

/// "did you mean `x`?" when one candidate is near enough.
pub(super) fn did_you_mean<S: AsRef<str>>(word: &str, candidates: &[S]) -> Option<String> {
    let plain = |text: &str| text.replace(['_', '-'], "").to_lowercase();
    let far = (word.chars().count().max(3)) / 3;
    candidates
        .iter()
        .map(|candidate| (strsim::osa_distance(&plain(word), &plain(candidate.as_ref())), candidate.as_ref()))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// The words in backticks with `separator` between them.
pub(super) fn quoted<S: AsRef<str>>(words: &[S], separator: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    words.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        for (word, expected) in [
            ("listne", Some("listen")),
            ("externalUrl", Some("external_url")),
            ("drain-timeout", Some("drain_timeout")),
            ("tls_port", None),
            ("x", None),
        ] {
            let candidates = ["listen", "external_url", "drain_timeout"];
            assert_eq!(
                did_you_mean(word, &candidates),
                expected.map(|word| format!("did you mean `{word}`?")),
                "{word}"
            );
        }
    }
}

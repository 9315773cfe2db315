//! Keeps the arrows of the napkin down. The rows are the `mod` list of `src/lib.rs`, top to bottom,
//! with an empty line between them: a module uses modules of rows below its own, and no others.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Who knows the configuration; `main.rs` uses the crate from outside.
const KNOW_CONFIG: [&str; 1] = ["app"];

/// Arrows that still point the wrong way: who, whom, and how to turn it round. Only ever shorter.
const TO_BE_TURNED: [(&str, &str, &str); 2] = [
    ("gateway", "server", "`Limits` belongs to `gateway`: `server` is above it and may use it"),
    (
        "session",
        "provider",
        "`TokenSet::new` takes a `TokenResponse`: `tokens` knows both and can make one of the other",
    ),
];

#[test]
fn arrows_point_down() {
    let rows = rows_of(&read("src/lib.rs"));
    let row_of = |module: &str| rows.iter().position(|row| row.iter().any(|name| name == module));
    let mut wrong: BTreeSet<(String, String)> = BTreeSet::new();
    let mut complaints = Vec::new();
    for file in rust_files(&root().join("src")) {
        let shown = file.strip_prefix(root()).unwrap().display().to_string();
        let Some(module) = module_of(&shown).filter(|module| row_of(module).is_some()) else { continue };
        for (line, used) in modules_used(&without_tests(&fs::read_to_string(&file).unwrap())) {
            let Some(row) = row_of(&used).filter(|_| used != module) else { continue };
            let points_down = row > row_of(&module).unwrap();
            let may_know = used != "config" || KNOW_CONFIG.contains(&module.as_str());
            if points_down && may_know {
                continue;
            }
            if !TO_BE_TURNED.iter().any(|(from, to, _)| (*from, *to) == (&module, &used)) {
                let rule =
                    if may_know { "is not below it on the napkin" } else { "is known to `app` and `main` alone" };
                complaints.push(format!("{shown}:{line}: `{module}` uses `{used}`, which {rule}"));
            }
            wrong.insert((module.clone(), used));
        }
    }
    for (from, to, _) in TO_BE_TURNED {
        if !wrong.contains(&(from.to_owned(), to.to_owned())) {
            complaints.push(format!("`{from}` does not use `{to}` any more: take it out of TO_BE_TURNED"));
        }
    }
    let advice = "Move what both need into a row below, or hand it in as an argument from `app.rs`.";
    assert!(complaints.is_empty(), "\n{}\n{advice}\nThe napkin: src/lib.rs.\n", complaints.join("\n"));
}

#[test]
fn every_module_is_on_the_napkins_for_readers() {
    let library = read("src/lib.rs");
    let drawn_in_library: String = library.lines().filter(|line| line.starts_with("//!")).collect();
    let architecture = read("ARCHITECTURE.md");
    for module in rows_of(&library).concat() {
        for (place, text) in [("the doc of src/lib.rs", &drawn_in_library), ("ARCHITECTURE.md", &architecture)] {
            let is_named = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == module);
            assert!(is_named, "`{module}` is missing in {place}");
        }
    }
}

/// Runs of `mod` lines without an empty line between them.
fn rows_of(library: &str) -> Vec<Vec<String>> {
    let rows: Vec<Vec<String>> = library
        .split("\n\n")
        .map(|row| {
            row.lines().filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.into())).collect()
        })
        .filter(|row: &Vec<String>| !row.is_empty())
        .collect();
    assert!(rows.len() > 5, "the `mod` list of src/lib.rs has its rows: {rows:?}");
    rows
}

/// `src/gateway/attach.rs` and `src/reply.rs` belong to `gateway` and `reply`.
fn module_of(path: &str) -> Option<String> {
    let name = path.strip_prefix("src/")?.split('/').next()?;
    Some(name.strip_suffix(".rs").unwrap_or(name).to_owned())
}

/// Tests stand last in a file and may use whatever they like; files of tests have names that say so.
fn without_tests(source: &str) -> String {
    let is_start = |(at, line): (usize, &str)| {
        let next = source.lines().nth(at + 1).unwrap_or_default();
        (line == "#[cfg(test)]" && next.ends_with('{')).then_some(at)
    };
    let end = source.lines().enumerate().find_map(is_start).unwrap_or(usize::MAX);
    source
        .lines()
        .take(end)
        .map(|line| if line.trim_start().starts_with("//") { "\n".into() } else { format!("{line}\n") })
        .collect()
}

/// Every `crate::name` and `crate::{name, …}`, with its line.
fn modules_used(code: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split(';').next().unwrap_or_default().trim_end_matches('}'),
            None => rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default(),
        };
        let mut depth = 0;
        for name in names.split(',') {
            let module = name.trim().split("::").next().unwrap_or_default();
            if depth == 0 && !module.is_empty() {
                used.push((line, module.to_owned()));
            }
            depth += name.matches('{').count() as i32 - name.matches('}').count() as i32;
        }
    }
    used
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if name.ends_with(".rs") && !name.starts_with("test") {
            files.push(path);
        }
    }
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn uses_are_found_wherever_they_stand() {
    let code = "use crate::{a, b::{x, y}, c};\nlet d = crate::e::f();\n";
    let found: Vec<(usize, String)> = [(1, "a"), (1, "b"), (1, "c"), (2, "e")].map(|(l, m)| (l, m.to_owned())).into();
    assert_eq!(modules_used(&without_tests(code)), found);
    assert_eq!(modules_used(&without_tests("// crate::a\n#[cfg(test)]\nmod tests {\nuse crate::b;\n}\n")), []);
    assert_eq!(module_of("src/gateway/attach.rs").as_deref(), Some("gateway"));
}

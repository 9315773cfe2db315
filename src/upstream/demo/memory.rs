//! What the demo remembers: tokens it was told to refuse, and the last calls of each subject.

use super::bearer::TokenHash;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};

/// One request as the backend saw it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Call {
    /// Counts all calls of the process, so that a page can tell which are new.
    pub(super) id: u64,
    /// `HH:MM:SS`, UTC.
    pub(super) time: String,
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    /// Fingerprint.
    pub(super) token: String,
    pub(super) status: u16,
}

/// Bounded in every direction; the oldest goes first.
#[derive(Default)]
pub(super) struct Memory {
    refused: VecDeque<TokenHash>,
    calls: HashMap<String, VecDeque<Call>>,
    subjects: VecDeque<String>,
    count: u64,
}

impl Memory {
    pub(super) fn refuse(&mut self, token: TokenHash) {
        if self.refused.len() == REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back(token);
    }

    pub(super) fn is_refused(&self, token: TokenHash) -> bool {
        self.refused.contains(&token)
    }

    /// Adds a call, which is given its `id`.
    pub(super) fn record(&mut self, subject: &str, mut call: Call) {
        self.count += 1;
        call.id = self.count;
        shorten(&mut call.method);
        shorten(&mut call.path);
        if !self.calls.contains_key(subject) {
            if self.subjects.len() == SUBJECTS_MAX
                && let Some(oldest) = self.subjects.pop_front()
            {
                self.calls.remove(&oldest);
            }
            self.subjects.push_back(subject.to_owned());
        }
        let calls = self.calls.entry(subject.to_owned()).or_default();
        if calls.len() == CALLS_MAX {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    /// Oldest first.
    pub(super) fn calls(&self, subject: &str) -> Vec<Call> {
        self.calls.get(subject).map(|calls| calls.iter().cloned().collect()).unwrap_or_default()
    }
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
        text.push('…');
    }
}

const REFUSED_MAX: usize = 1000;
const SUBJECTS_MAX: usize = 1000;
const CALLS_MAX: usize = 20;
/// Characters of a method or a path.
const TEXT_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn call(path: &str) -> Call {
        Call {
            id: 0,
            time: String::new(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            token: String::new(),
            status: 200,
        }
    }

    #[test]
    fn the_last_calls_are_kept() {
        let mut memory = Memory::default();
        for _ in 0..30 {
            memory.record("ada", call("/"));
        }
        memory.record("bob", call("/bob"));
        let ids: Vec<u64> = memory.calls("ada").iter().map(|call| call.id).collect();
        assert_eq!(ids, (11..=30).collect::<Vec<_>>());
        assert_eq!(memory.calls("bob").len(), 1);
        assert!(memory.calls("zoe").is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..SUBJECTS_MAX + 5 {
            memory.record(&format!("user {number}"), call(&"é".repeat(5000)));
        }
        assert_eq!(memory.calls.len(), SUBJECTS_MAX);
        assert_eq!(memory.subjects.len(), SUBJECTS_MAX);
        assert!(memory.calls("user 4").is_empty());
        assert_eq!(memory.calls("user 5")[0].path.chars().count(), TEXT_MAX + 1);

        for number in 0..REFUSED_MAX + 1 {
            let mut token = [0; 32];
            token[..8].copy_from_slice(&number.to_be_bytes());
            memory.refuse(token);
        }
        assert_eq!(memory.refused.len(), REFUSED_MAX);
        assert!(!memory.is_refused([0; 32]), "the first one made room");
    }
}

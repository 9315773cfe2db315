//! What is logged, by everyone in this process.

use std::io;
use std::sync::{Mutex, Once, PoisonError};
use tracing_subscriber::fmt::MakeWriter;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// From here on everything logged is kept.
pub fn capture() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(Kept).init());
}

/// The lines so far in which all of these stand.
pub fn lines_with(words: &[&str]) -> Vec<String> {
    let kept = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&kept);
    text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

pub fn last(count: usize) -> String {
    let lines = lines_with(&[]);
    lines[lines.len().saturating_sub(count)..].join("\n")
}

struct Kept;

impl MakeWriter<'_> for Kept {
    type Writer = Kept;

    fn make_writer(&self) -> Kept {
        Kept
    }
}

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

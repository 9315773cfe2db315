//! argv and exit code.
fn main() {}

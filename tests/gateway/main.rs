//! The in-process integration suite.

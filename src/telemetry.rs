//! Logs: to standard error, as text or JSON; the level by `LATCHGATE_LOG`, then `RUST_LOG`.

use tracing_subscriber::EnvFilter;

/// `[telemetry]`, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// `log`, default text.
    pub log: LogFormat,
}

/// `telemetry.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging, once for the process.
pub fn init(settings: Settings) {
    let filter = ["LATCHGATE_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // It fails when somebody has started logging before, and then they have.
    let _ = match settings.log {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

//! Logs: to standard error, as text or JSON; the level by `LATCHGATE_LOG`, then `RUST_LOG`.

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
        .and_then(|text| text.parse::<Targets>().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let builder = tracing_subscriber::fmt().with_max_level(most_detailed(&filter)).with_writer(std::io::stderr);
    // It fails when somebody has started logging before, and then they have.
    let _ = match settings.log {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .finish()
            .with(filter)
            .with(filter_fn(is_fit_to_log))
            .try_init(),
        LogFormat::Json => builder.json().finish().with(filter).with(filter_fn(is_fit_to_log)).try_init(),
    };
}

/// Of any target: what is more detailed is skipped without a look at its target.
fn most_detailed(filter: &Targets) -> LevelFilter {
    filter.iter().map(|(_, level)| level).chain(filter.default_level()).max().unwrap_or(LevelFilter::OFF)
}

/// Whatever the level: what other crates say in detail is not ours to vouch for. At DEBUG h2 prints
/// request targets, and codes travel in those. rustls warns of what clients send, as often as they like.
fn is_fit_to_log(metadata: &Metadata<'_>) -> bool {
    match metadata.target().split("::").next() {
        Some(env!("CARGO_CRATE_NAME")) => true,
        Some("rustls") => *metadata.level() <= Level::ERROR,
        _ => *metadata.level() <= Level::INFO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_targets_count_beside_the_default() {
        let filter: Targets = "warn,latchgate::access=debug".parse().unwrap();
        assert!(filter.would_enable("latchgate::access", &Level::DEBUG));
        assert!(!filter.would_enable("latchgate::audit", &Level::INFO));
        assert_eq!(most_detailed(&filter), LevelFilter::DEBUG);
        assert_eq!(most_detailed(&Targets::new()), LevelFilter::OFF);
    }

    #[test]
    fn details_come_from_this_crate_alone() {
        let everything = tracing_subscriber::registry().with(filter_fn(is_fit_to_log));
        tracing::subscriber::with_default(everything, || {
            assert!(tracing::enabled!(target: "latchgate::access", Level::TRACE));
            assert!(tracing::enabled!(target: "latchgate", Level::DEBUG));
            assert!(tracing::enabled!(target: "h2::server", Level::INFO));
            assert!(!tracing::enabled!(target: "h2::server", Level::DEBUG));
            assert!(!tracing::enabled!(target: "rustls::client", Level::TRACE));
            assert!(!tracing::enabled!(target: "rustls::check", Level::WARN), "a client may cause it");
            assert!(!tracing::enabled!(target: "latchgatex", Level::DEBUG));
        });
    }
}

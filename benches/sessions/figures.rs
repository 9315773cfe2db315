//! Medians, and the load they were taken under.

use crate::Failure;
use std::fs;
use std::time::Duration;

/// Numbers that were measured one after the other.
pub struct Samples(Vec<f64>);

impl Samples {
    /// In ascending order from here on.
    pub fn new(mut numbers: Vec<f64>) -> Samples {
        numbers.sort_by(f64::total_cmp);
        Samples(numbers)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    pub fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    pub fn most(&self) -> f64 {
        self.quantile(1.0)
    }

    /// The nearest one.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    }
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What a goal came to.
pub fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

/// Of the last minute.
pub fn load_average() -> Result<String, Failure> {
    Ok(fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned())
}

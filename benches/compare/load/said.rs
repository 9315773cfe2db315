//! What programs that make load say in the end. A run with an answer that was no success is an error.

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Answers.
    pub requests: f64,
    /// Milliseconds, if it says.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

/// The line that our script prints: answers, failures, and microseconds of the 50th and 99th percentile.
pub fn by_wrk(said: &str) -> Result<Counted, String> {
    let line = said.lines().find_map(|line| line.strip_prefix(SUMMARY));
    let numbers: Option<Vec<f64>> =
        line.and_then(|line| line.split_whitespace().map(|number| number.parse().ok()).collect());
    let Some(&[requests, failed, p50, p99]) = numbers.as_deref() else { return Err(format!("wrk says: {said}")) };
    if failed > 0.0 || requests == 0.0 {
        return Err(format!("{failed} of {requests} requests failed"));
    }
    Ok(Counted { requests, p50: Some(p50 / 1e3), p99: Some(p99 / 1e3) })
}

/// `status codes: 84211 2xx, 0 3xx, 0 4xx, 0 5xx`.
pub fn by_h2load(said: &str) -> Result<Counted, String> {
    if !said.contains("Application protocol: h2") {
        return Err(format!("not HTTP/2:\n{said}"));
    }
    let codes = said.lines().find_map(|line| line.strip_prefix("status codes: "));
    let numbers: Option<Vec<f64>> = codes.map(|codes| {
        let counts = codes.split(',').filter_map(|count| count.split_whitespace().next());
        counts.filter_map(|count| count.parse().ok()).collect()
    });
    match numbers.as_deref() {
        // 2xx, 3xx, 4xx, 5xx.
        Some(&[requests, 0.0, 0.0, 0.0]) if requests > 0.0 => Ok(Counted { requests, p50: None, p99: None }),
        _ => Err(format!("h2load says:\n{said}")),
    }
}

/// `4321 connections in 3 real seconds, 0 bytes read per connection`; the line before counts CPU time of openssl.
pub fn by_openssl(said: &str) -> Result<Counted, String> {
    let line = said.lines().find(|line| line.contains("real seconds"));
    let requests: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    match requests {
        Some(requests) if requests > 0.0 => Ok(Counted { requests, p50: None, p99: None }),
        _ => Err(format!("openssl says: {said}")),
    }
}

/// How the line begins that our script for wrk prints.
pub const SUMMARY: &str = "summary:";

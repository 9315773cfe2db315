//! Active health checks: one task for each server, whatever the number of workers.

use super::ServerAddress;
use super::health::Group;
use super::pool::Pool;
use crate::body::Body;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// `[upstreams.X.health]`
#[derive(Debug, Clone)]
pub struct Settings {
    /// `path`, with a query if need be.
    pub path: Uri,
    /// `interval`, default 10 s.
    pub interval: Duration,
    /// `timeout`, default 3 s: from the connection to the head of the answer.
    pub timeout: Duration,
    /// `healthy`, default 2: so many good checks in a row bring a server back.
    pub healthy: u32,
    /// `unhealthy`, default 3: so many bad ones in a row take it out.
    pub unhealthy: u32,
    /// `status`, default `[200]`: what a good check is answered with.
    pub status: Vec<StatusCode>,
}

/// Checks server `at` of `group` for ever. `way_to_it` has no connection yet.
pub(super) async fn run(
    settings: Settings,
    address: ServerAddress,
    way_to_it: impl Fn() -> Pool,
    at: usize,
    group: Arc<Group>,
) {
    let mut tally = Tally::new(&settings);
    sleep(settings.interval.mul_f64(fastrand::f64() / 10.0)).await;
    loop {
        // A new connection each time: that it can be made is part of the question. It is not kept until the next.
        let verdict = check(&settings, &address, &Arc::new(way_to_it())).await;
        if let Some(healthy) = tally.note(verdict.is_ok()) {
            group.checked(at, healthy, verdict.err().as_deref().unwrap_or_default());
        }
        // Not all servers, and not all gateways, at the same moment.
        sleep(settings.interval.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}

/// One check; says what is wrong.
async fn check(settings: &Settings, address: &ServerAddress, pool: &Arc<Pool>) -> Result<(), String> {
    let mut request = Request::new(Body::Empty);
    *request.uri_mut() = settings.path.clone();
    request.headers_mut().insert(header::HOST, host(address));
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("latchgate-health"));
    match pool.send(request, None, settings.timeout).await {
        Ok(response) if settings.status.contains(&response.status()) => Ok(()),
        Ok(response) => Err(format!("status {}", response.status().as_u16())),
        Err(failure) => Err(failure.error.to_string()),
    }
}

fn host(address: &ServerAddress) -> HeaderValue {
    let text = match address {
        ServerAddress::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
        ServerAddress::Tcp { host, port, .. } => format!("{host}:{port}"),
        ServerAddress::Unix(_) | ServerAddress::Demo => "localhost".to_owned(),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("localhost"))
}

/// | server is | check | then |
/// |---|---|---|
/// | healthy | good | the count of bad ones begins anew |
/// | healthy | bad, `unhealthy` times in a row | unhealthy |
/// | unhealthy | bad | the count of good ones begins anew |
/// | unhealthy | good, `healthy` times in a row | healthy |
struct Tally {
    to_return: u32,
    to_leave: u32,
    is_healthy: bool,
    against: u32,
}

impl Tally {
    /// Healthy until the checks say otherwise: a gateway that starts has to begin somewhere.
    fn new(settings: &Settings) -> Tally {
        Tally { to_return: settings.healthy, to_leave: settings.unhealthy, is_healthy: true, against: 0 }
    }

    /// What it has become, if it has.
    fn note(&mut self, good: bool) -> Option<bool> {
        if good == self.is_healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if self.is_healthy { self.to_leave } else { self.to_return } {
            return None;
        }
        self.is_healthy = good;
        self.against = 0;
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_row_and_the_other_way_round() {
        for (checks, expected) in
            [("--+---", ".....u"), ("---+-++", "..u...h"), ("---++---", "..u.h..u"), ("+-+-+", ".....")]
        {
            let mut tally = Tally { to_return: 2, to_leave: 3, is_healthy: true, against: 0 };
            let became: String = checks
                .chars()
                .map(|check| match tally.note(check == '+') {
                    None => '.',
                    Some(true) => 'h',
                    Some(false) => 'u',
                })
                .collect();
            assert_eq!(became, expected, "{checks}");
        }
    }

    #[test]
    fn a_check_names_the_host_that_it_asks() {
        let tcp = |host: &str| ServerAddress::Tcp { tls: true, host: host.into(), port: 8443 };
        for (address, expected) in [
            (tcp("app.internal"), "app.internal:8443"),
            (tcp("::1"), "[::1]:8443"),
            (ServerAddress::Unix("/run/app.sock".into()), "localhost"),
        ] {
            assert_eq!(host(&address), expected);
        }
    }
}

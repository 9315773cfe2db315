//! The load: wrk, with the requests a page in a browser makes, by 64 signed-in users in turn.

use crate::Failure;
use crate::process::{Cores, Role};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Starts wrk.
pub struct Wrk<'a> {
    pub cores: &'a Cores,
    pub directory: &'a Path,
}

/// What wrk counted.
pub struct Counted {
    /// Answers.
    pub requests: f64,
    pub per_second: f64,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
}

impl Wrk<'_> {
    /// Asks for `path`, in turn with each of `cookies`.
    ///
    /// # Errors
    /// When anything but a 2xx or 3xx came; wrk does not tell 3xx apart, so the caller must.
    pub fn run(&self, port: u16, path: &str, cookies: &[String], duration: Duration) -> Result<Counted, Failure> {
        let script = self.directory.join("requests.lua");
        fs::write(&script, requests(port, path, cookies))?;
        let output = self
            .cores
            .command(Role::Load, "wrk")
            .args(["--threads", "1", "--connections", "64", "--duration", &format!("{}s", duration.as_secs())])
            .arg("--script")
            .arg(&script)
            .arg(format!("http://127.0.0.1:{port}{path}"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = said
            .lines()
            .find_map(|line| line.strip_prefix(SUMMARY))
            .map(|line| line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
            .unwrap_or_default();
        let &[requests, microseconds, failed, p50, p99] = numbers.as_slice() else {
            return Err(format!("wrk says: {said}{}", String::from_utf8_lossy(&output.stderr)).into());
        };
        if failed > 0.0 || requests == 0.0 {
            return Err(format!("{failed} of {requests} requests for {path} failed").into());
        }
        Ok(Counted { requests, per_second: requests * 1e6 / microseconds, p50: p50 / 1e3, p99: p99 / 1e3 })
    }
}

/// Requests are made once, so that wrk costs little; a function that looked at the answers would
/// double its cost.
fn requests(port: u16, path: &str, cookies: &[String]) -> String {
    let list: Vec<String> = cookies.iter().map(|cookie| format!("{cookie:?}")).collect();
    format!(
        r#"
local cookies = {{ {list} }}
local requests, turn = {{}}, 0

function init()
  for index, cookie in ipairs(cookies) do
    requests[index] = wrk.format("GET", "{path}", {{
      ["Host"] = "127.0.0.1:{port}",
      ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
      ["Accept"] = "*/*",
      ["Accept-Language"] = "en-GB,en;q=0.5",
      ["Accept-Encoding"] = "gzip, deflate, br, zstd",
      ["Referer"] = "http://127.0.0.1:{port}/items",
      ["Sec-Fetch-Site"] = "same-origin",
      ["Sec-Fetch-Mode"] = "cors",
      ["Cookie"] = "theme=dark; " .. cookie,
    }})
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  print(string.format("{SUMMARY} %d %d %d %d %d", summary.requests, summary.duration, failed,
    latency:percentile(50), latency:percentile(99)))
end
"#,
        list = list.join(", ")
    )
}

const SUMMARY: &str = "summary:";

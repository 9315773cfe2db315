//! The requests a page in a browser makes, by signed-in users in turn.

use super::said::{self, Counted, SUMMARY};
use super::said_by;
use crate::Failure;
use crate::site::Site;
use std::fs;
use std::time::Duration;

pub struct Request<'a> {
    pub port: u16,
    pub path: &'a str,
    pub cookies: &'a [String],
    pub is_tls: bool,
    /// Bytes to POST; 0 for a GET.
    pub body: usize,
}

/// # Errors
/// When anything but a 2xx or 3xx came; wrk does not tell 3xx apart, so the caller must.
pub fn run(site: &Site, request: &Request<'_>, duration: Duration) -> Result<Counted, Failure> {
    let (script, cookies) = (site.directory.join("requests.lua"), site.directory.join("cookies.txt"));
    fs::write(&cookies, request.cookies.join("\n"))?;
    fs::write(&script, requests(request, &cookies.to_string_lossy()))?;
    let (seconds, script) = (format!("{}s", duration.as_secs().max(1)), script.to_string_lossy());
    let scheme = if request.is_tls { "https" } else { "http" };
    let url = format!("{scheme}://127.0.0.1:{}{}", request.port, request.path);
    // A large answer on a busy machine is slow, and not a failure.
    let patience = ["--timeout", "10s"];
    let load = ["--threads", "1", "--connections", "64", "--duration", &seconds, "--script", &script, &url];
    let arguments = [&patience[..], &load].concat();
    Ok(said::by_wrk(&said_by(site, "wrk", &arguments)?)?)
}

/// Requests are made once, so that wrk costs little; a function that looked at the answers would
/// double its cost.
fn requests(request: &Request<'_>, cookies: &str) -> String {
    let Request { port, path, body, .. } = request;
    let method = if *body == 0 { "GET" } else { "POST" };
    format!(
        r#"
local requests, turn = {{}}, 0

function init()
  local body
  if {body} > 0 then body = string.rep("x", {body}) end
  for cookie in io.lines("{cookies}") do
    requests[#requests + 1] = wrk.format("{method}", "{path}", {{
      ["Host"] = "127.0.0.1:{port}",
      ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
      ["Accept"] = "*/*",
      ["Accept-Language"] = "en-GB,en;q=0.5",
      ["Accept-Encoding"] = "gzip, deflate, br, zstd",
      ["Referer"] = "http://127.0.0.1:{port}/items",
      ["Sec-Fetch-Site"] = "same-origin",
      ["Sec-Fetch-Mode"] = "cors",
      ["Cookie"] = "theme=dark; " .. cookie,
    }}, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  print(string.format("{SUMMARY} %d %d %d %d", summary.requests, failed, latency:percentile(50), latency:percentile(99)))
end
"#
    )
}

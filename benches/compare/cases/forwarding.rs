//! CPU time for a request, under load.

use super::{Effort, measure};
use crate::Failure;
use crate::backend::{BEARER, ONE_MIB, PLAIN, TEN_KIB};
use crate::load::{Contender, Load};
use crate::peers::latchgate::{self, Plan};
use crate::peers::{apache, caddy, haproxy, nginx, oauth2_proxy, pingora};
use crate::process::Role;
use crate::site::Site;
use crate::table::{CONTROL, Goal, Table};
use std::rc::Rc;

pub fn plain(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let goals = [Goal::Ratio { of: "latchgate", over: NGINX, at_least: 1.2 }];
    let mut table = Table::new("Plain forwarding: `auth = false`, 200 B", MICROSECONDS, &goals);
    let nginx = nginx::start(site, Role::Target, 1)?;
    let own = latchgate::start(site, Plan::ONE_WORKER)?;
    let (cookies, path) = (nobody(), at(PLAIN));
    // What is compared first stands next to the anchor, in time too.
    let mut contenders = vec![
        Contender::new(NGINX, &nginx.plain, &path, &cookies),
        Contender::new("latchgate", &own, &path, &cookies),
        Contender::new(CONTROL, &nginx.again, &path, &cookies),
    ];
    let others = [
        ("HAProxy", haproxy::start(site)?),
        ("Caddy", caddy::start(site)?.map(|caddy| caddy.plain)),
        ("Pingora", pingora::start(site)?),
    ];
    for (label, peer) in others {
        contenders.extend(peer.map(|peer| Contender::new(label, &peer, &path, &cookies)));
    }
    measure(&mut table, site, effort, REQUESTS, &contenders)?;
    Ok(vec![table])
}

pub fn bearer(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let over = |over, at_least| Goal::Ratio { of: "latchgate", over, at_least };
    let goals = [over(NGINX, 1.05), over(CHECKED, 1.7), over(APACHE, 6.0), over(IN_COOKIES, 5.0), over(IN_REDIS, 5.0)];
    let title = format!("Cookie to bearer: {HOT} sessions, 900 B of token");
    let mut table = Table::new(title, MICROSECONDS, &goals);
    let nginx = nginx::start(site, Role::Target, 1)?;
    let (own, logging) =
        (latchgate::start(site, Plan::ONE_WORKER)?, latchgate::start(site, Plan { log: "", ..Plan::ONE_WORKER })?);
    let cookies = latchgate::sessions(&own, HOT)?;
    let (plain, bearer) = (at(PLAIN), at(BEARER));
    let mut contenders = vec![
        Contender::new(NGINX, &nginx.plain, &plain, &cookies),
        Contender::new("latchgate", &own, &bearer, &cookies),
        Contender::new(CONTROL, &nginx.again, &plain, &cookies),
        Contender::new("nginx + 900 B header", &nginx.with_header, &bearer, &cookies),
        Contender::new(CHECKED, &nginx.with_check, &bearer, &cookies),
        Contender::new("nginx + access_log", &nginx.logging, &plain, &cookies),
        Contender::new("latchgate, access log", &logging, &bearer, &latchgate::sessions(&logging, HOT)?),
    ];
    let apache = apache::start(site, HOT)?;
    contenders.extend(apache.iter().map(|apache| Contender::new(APACHE, &apache.peer, &bearer, &apache.cookies)));
    let stores = [(IN_COOKIES, oauth2_proxy::Store::Cookie), (IN_REDIS, oauth2_proxy::Store::Redis)];
    let mut started = Vec::new();
    for (label, store) in stores {
        started.extend(oauth2_proxy::start(site, store, HOT)?.map(|proxy| (label, proxy)));
    }
    contenders
        .extend(started.iter().map(|(label, proxy)| Contender::new(*label, &proxy.peer, &bearer, &proxy.cookies)));
    measure(&mut table, site, effort, REQUESTS, &contenders)?;
    Ok(vec![table])
}

/// Sessions that no cache of the processor has, and what many cost over few.
pub fn cold(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let goals = [
        Goal::Ratio { of: "latchgate", over: NGINX, at_least: 0.95 },
        // 1.25 times the cost.
        Goal::Ratio { of: "latchgate", over: "latchgate, 1,000 sessions", at_least: 1.0 / 1.25 },
    ];
    let many = latchgate::start(site, Plan::ONE_WORKER)?;
    let few = latchgate::start(site, Plan::ONE_WORKER)?;
    let all = latchgate::sessions(&many, effort.sessions)?;
    let spread: Rc<[String]> = all.iter().step_by((all.len() / COLD).max(1)).cloned().collect();
    let title = format!("Cookie to bearer: {} sessions spread over {}", spread.len(), all.len());
    let mut table = Table::new(title, MICROSECONDS, &goals);
    let nginx = nginx::start(site, Role::Target, 1)?;
    let (plain, bearer) = (at(PLAIN), at(BEARER));
    let contenders = [
        Contender::new(NGINX, &nginx.plain, &plain, &spread),
        Contender::new("latchgate", &many, &bearer, &spread),
        Contender::new(CONTROL, &nginx.again, &plain, &spread),
        Contender::new("latchgate, 1,000 sessions", &few, &bearer, &latchgate::sessions(&few, FEW)?),
        Contender::new("nginx + 900 B header", &nginx.with_header, &bearer, &spread),
        Contender::new(CHECKED, &nginx.with_check, &bearer, &spread),
    ];
    measure(&mut table, site, effort, REQUESTS, &contenders)?;
    Ok(vec![table])
}

/// The same bytes for everybody, so a ratio of requests is one of bytes.
pub fn bodies(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let goals = [Goal::Ratio { of: "latchgate", over: NGINX, at_least: 1.1 }];
    let nginx = nginx::start(site, Role::Target, 1)?;
    let own = latchgate::start(site, Plan::ONE_WORKER)?;
    let cookies = nobody();
    let kinds = [
        ("10 KiB down", TEN_KIB, 0),
        ("1 MiB down", ONE_MIB, 0),
        ("10 KiB up", "/items", 10 << 10),
        ("1 MiB up", "/items", 1 << 20),
    ];
    let mut tables = Vec::new();
    for (title, below, body) in kinds {
        let (path, mut table) = (format!("{PLAIN}{below}"), Table::new(title, MICROSECONDS, &goals));
        let contenders = [
            Contender::new(NGINX, &nginx.plain, &path, &cookies),
            Contender::new("latchgate", &own, &path, &cookies),
            Contender::new(CONTROL, &nginx.again, &path, &cookies),
        ];
        measure(&mut table, site, effort, Load::Requests { is_tls: false, body }, &contenders)?;
        tables.push(table);
    }
    Ok(tables)
}

pub fn tls(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let kinds = [
        ("TLS 1.3, kept connections, 200 B", 1.35, Load::Requests { is_tls: true, body: 0 }),
        ("TLS 1.3, full handshakes", 1.5, Load::Handshakes),
        ("HTTP/2 over TLS, 200 B", 1.6, Load::Http2),
    ];
    let nginx = nginx::start(site, Role::Target, 1)?;
    let (own, caddy) = (latchgate::start_with_tls(site)?, caddy::start(site)?);
    let (cookies, path) = (nobody(), at(PLAIN));
    let mut tables = Vec::new();
    for (title, at_least, load) in kinds {
        let goals = [Goal::Ratio { of: "latchgate", over: NGINX, at_least }];
        let mut table = Table::new(title, MICROSECONDS, &goals);
        let mut contenders = vec![Contender::new(NGINX, &nginx.tls, &path, &cookies)];
        contenders.extend(own.iter().map(|own| Contender::new("latchgate", own, &path, &cookies)));
        contenders.push(Contender::new(CONTROL, &nginx.tls_again, &path, &cookies));
        contenders.extend(caddy.iter().map(|caddy| Contender::new("Caddy", &caddy.tls, &path, &cookies)));
        let program = if matches!(load, Load::Http2) { "h2load" } else { "openssl" };
        if matches!(load, Load::Requests { .. }) || site.program(program).is_some() {
            measure(&mut table, site, effort, load, &contenders)?;
            tables.push(table);
        }
    }
    Ok(tables)
}

pub fn routes(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    // 1.05 times the cost.
    let goals = [Goal::Ratio { of: "latchgate, 10,000 routes", over: "latchgate, 10 routes", at_least: 1.0 / 1.05 }];
    let mut table = Table::new("10,000 routes over 10", MICROSECONDS, &goals);
    let nginx = nginx::start(site, Role::Target, 1)?;
    let few = latchgate::start(site, Plan { routes: 10, ..Plan::ONE_WORKER })?;
    let many = latchgate::start(site, Plan { routes: 10_000, ..Plan::ONE_WORKER })?;
    let (cookies, path) = (nobody(), format!("{PLAIN}/r7/items/42"));
    let contenders = [
        Contender::new(NGINX, &nginx.plain, &path, &cookies),
        Contender::new("latchgate, 10 routes", &few, &path, &cookies),
        Contender::new("latchgate, 10,000 routes", &many, &path, &cookies),
        Contender::new(CONTROL, &nginx.again, &path, &cookies),
    ];
    measure(&mut table, site, effort, REQUESTS, &contenders)?;
    Ok(vec![table])
}

/// No target is pinned, and the load competes: with two cores in all, twice the rate cannot be seen. What can be is whether
/// a request costs more CPU with two workers than with one; 1.8 times the work on 2 cores is 0.9 of the work for each.
pub fn cores(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let goals = [Goal::Ratio { of: "latchgate, 2 workers", over: "latchgate, 1 worker", at_least: 1.8 / 2.0 }];
    let mut table = Table::new("One worker and two, not pinned: 200 B", MICROSECONDS, &goals);
    let own = |workers| Plan { role: Role::Anywhere, workers: Some(workers), ..Plan::ONE_WORKER };
    let (one, two) = (nginx::start(site, Role::Anywhere, 1)?, nginx::start(site, Role::Anywhere, 2)?);
    let (cookies, path) = (nobody(), at(PLAIN));
    let contenders = [
        Contender::new("nginx, 1 worker", &one.plain, &path, &cookies),
        Contender::new("nginx, 2 workers", &two.plain, &path, &cookies),
        Contender::new("latchgate, 1 worker", &latchgate::start(site, own(1))?, &path, &cookies),
        Contender::new("latchgate, 2 workers", &latchgate::start(site, own(2))?, &path, &cookies),
        Contender::new(CONTROL, &one.again, &path, &cookies),
    ];
    measure(&mut table, site, effort, REQUESTS, &contenders)?;
    Ok(vec![table])
}

fn at(route: &str) -> String {
    format!("{route}/items/42?page=1")
}

/// A cookie that is nobody's, as long as one that is.
fn nobody() -> Rc<[String]> {
    Rc::new([format!("visitor={}", "v".repeat(43))])
}

pub const NGINX: &str = "nginx";
const CHECKED: &str = "nginx + auth_request";
const APACHE: &str = "mod_auth_openidc";
const IN_COOKIES: &str = "oauth2-proxy, cookies";
const IN_REDIS: &str = "oauth2-proxy, Redis";
/// Of the process, for a request.
pub const MICROSECONDS: &str = "us of CPU";
pub const REQUESTS: Load = Load::Requests { is_tls: false, body: 0 };
/// Enough that no two requests in a row are one user's, few enough to stay in the cache.
const HOT: usize = 64;
const FEW: usize = 1_000;
const COLD: usize = 20_000;

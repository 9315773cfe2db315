//! Which route a request takes (SPEC §3).
//!
//! Among the routes that match, the precedence of the Kubernetes Gateway API decides:
//!
//! | | first | then | last |
//! |---|---|---|---|
//! | 1. host | exact | the longest `*.` wildcard | any |
//! | 2. path | exact | exact with `{id}`, literal segments as far left as possible | the longest prefix |
//! | 3. methods | named | not named | |
//! | 4. file | earlier | later | |
//!
//! A route that does not accept the method is not a match, so the search goes on behind it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::Ipv6Addr;
use std::ops::ControlFlow;

use http::Method;

use super::path::{NormalPath, PathProblem, matching_form, normal_form};

/// `host`, `path` and `methods` of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePattern {
    /// `host`.
    pub host: HostPattern,
    /// `path`.
    pub path: PathPattern,
    /// `methods`; None when the route does not name any. GET stands for HEAD as well
    /// (RFC 9110 §9.3.2).
    pub methods: Option<Vec<Method>>,
}

/// `host`: lower-case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `app.example.com`
    Exact(String),
    /// `*.example.com`, kept as `example.com`: one or more labels before it.
    Wildcard(String),
    /// No `host`.
    Any,
}

/// `path`: `/a` is that path, `/a/*` is `/a` and everything below it, `{id}` is one segment that is
/// not empty. `/a` and `/a/` are two paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
    /// Ends with `/*`.
    prefix: bool,
}

/// The routes of one configuration, ready for lookups. Routes are known by their index in the list
/// the table was compiled from.
#[derive(Debug)]
pub struct RouteTable {
    exact_hosts: BTreeMap<String, Node>,
    wildcard_hosts: BTreeMap<String, Node>,
    any_host: Node,
    unreachable: Vec<(usize, usize)>,
    case_insensitive: bool,
}

/// The outcome of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The index of the route.
    Route(usize),
    /// Routes match, but not for this method: 405 with these as `Allow`, sorted and each once.
    MethodNotAllowed(Vec<Method>),
    /// 404.
    NotFound,
}

/// Two routes with the same host, path and method set, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The earlier one.
    pub first: usize,
    /// The later one.
    pub second: usize,
}

/// What is wrong with a `path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternProblem {
    /// It does not begin with `/`.
    NotAbsolute,
    /// It contains `?` or `#`.
    Query,
    /// It contains `;`, which requests are matched without.
    Parameters,
    /// `*` anywhere but alone in the last segment.
    Wildcard,
    /// A `{` or `}` that does not make one whole segment with a name.
    Placeholder,
    /// Requests are matched in normal form, and this is the normal form of the pattern.
    NotNormal(String),
    /// Every request for it is refused.
    Refused(PathProblem),
}

/// What is wrong with a host. The `Display` text is fixed and repeats nothing of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostProblem {
    /// Nothing, or nothing before the port.
    Empty,
    /// `user@host`.
    UserInfo,
    /// Not a number from 0 to 65535.
    BadPort,
    /// A host pattern names a port.
    Port,
    /// Not a DNS name, or longer than one may be.
    BadName,
    /// Not an IPv6 address between the brackets.
    BadAddress,
    /// `*` anywhere but as the first label, followed by others.
    Wildcard,
}

impl HostPattern {
    /// Reads the `host` of a route.
    ///
    /// # Errors
    /// See [`HostProblem`].
    pub fn parse(text: &str) -> Result<HostPattern, HostProblem> {
        let (host, port) = split_port(text)?;
        if port.is_some() {
            return Err(HostProblem::Port);
        }
        match host.strip_prefix("*.") {
            Some(suffix) if suffix.contains('*') => Err(HostProblem::Wildcard),
            Some(suffix) => Ok(HostPattern::Wildcard(canonical_host(suffix)?.into_owned())),
            None if host.contains('*') => Err(HostProblem::Wildcard),
            None => Ok(HostPattern::Exact(canonical_host(host)?.into_owned())),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => f.write_str(host),
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

/// The canonical host of a request, from a `Host` field or an `:authority`: lower-case, without port
/// and trailing dot; an IPv6 address in brackets and in the form of RFC 5952.
///
/// # Errors
/// The reason to answer 400.
pub fn host_of(authority: &str) -> Result<Cow<'_, str>, HostProblem> {
    if let Some(host) = plain_host(authority) {
        return Ok(Cow::Borrowed(host));
    }
    let (host, port) = split_port(authority)?;
    if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err()) {
        return Err(HostProblem::BadPort);
    }
    canonical_host(host)
}

impl PathPattern {
    /// Reads the `path` of a route. It must be in normal form, as the paths it is compared with are.
    ///
    /// # Errors
    /// See [`PatternProblem`].
    pub fn parse(text: &str) -> Result<PathPattern, PatternProblem> {
        let inner = text.strip_prefix('/').ok_or(PatternProblem::NotAbsolute)?;
        if text.contains(['?', '#']) {
            return Err(PatternProblem::Query);
        }
        let (inner, prefix) = match inner.strip_suffix('*') {
            Some("") => (None, true),
            Some(above) if above.ends_with('/') => (Some(&above[..above.len() - 1]), true),
            _ => (Some(inner), false),
        };
        let mut segments = Vec::new();
        let mut normal = String::new();
        let mut rest = inner;
        while let Some(text) = rest {
            let (segment, behind) = text.split_once('/').map_or((text, None), |(first, behind)| (first, Some(behind)));
            rest = behind;
            if segment.is_empty() && (rest.is_some() || prefix) {
                continue;
            }
            let (segment, normal_segment) = parse_segment(segment)?;
            segments.push(segment);
            normal.push('/');
            normal.push_str(&normal_segment);
        }
        if prefix {
            normal.push_str("/*");
        }
        if normal == text {
            Ok(PathPattern { text: normal, segments, prefix })
        } else {
            Err(PatternProblem::NotNormal(normal))
        }
    }

    /// As the configuration has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What every path it matches begins with, as far as that is spelt out: `/api` for `/api/*`,
    /// `/users` for `/users/{id}/*`.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        let end = self.text.find(['*', '{']).unwrap_or(self.text.len());
        self.text[..end].trim_end_matches('/')
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl RouteTable {
    /// Compiles the routes of a file, in its order. `case_insensitive` compares paths without regard
    /// to the case of ASCII letters.
    ///
    /// # Errors
    /// All routes that repeat the host, path and method set of an earlier one. The names of
    /// placeholders do not make a difference.
    pub fn compile(patterns: &[RoutePattern], case_insensitive: bool) -> Result<RouteTable, Vec<Conflict>> {
        let mut table = RouteTable {
            exact_hosts: BTreeMap::new(),
            wildcard_hosts: BTreeMap::new(),
            any_host: Node::default(),
            unreachable: Vec::new(),
            case_insensitive,
        };
        let mut conflicts = Vec::new();
        let mut seen = HashMap::new();
        for (route, pattern) in patterns.iter().enumerate() {
            let segments: Vec<Segment> = pattern.path.segments.iter().map(|segment| table.fold(segment)).collect();
            let methods: Option<BTreeSet<&str>> =
                pattern.methods.as_ref().map(|methods| methods.iter().map(Method::as_str).collect());
            let first = *seen.entry((&pattern.host, segments.clone(), pattern.path.prefix, methods)).or_insert(route);
            if first == route {
                table.insert(route, pattern, segments);
            } else {
                conflicts.push(Conflict { first, second: route });
            }
        }
        if conflicts.is_empty() { Ok(table) } else { Err(conflicts) }
    }

    /// The route of a request. `host` is what [`host_of`] made of it.
    ///
    /// The cost depends on the length of host and path, and hardly on the number of routes. Nothing is
    /// allocated for a match, except for paths that must be copied to be compared: those with
    /// `;params`, with escapes such as `%40`, or with capital letters in a case-insensitive table.
    #[must_use]
    pub fn find(&self, host: &str, method: &Method, path: &NormalPath) -> Found {
        let mut path = path.for_matching();
        if self.case_insensitive && path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            path = Cow::Owned(path.to_ascii_lowercase());
        }
        let inner = path.strip_prefix('/').unwrap_or(&path);
        if let Some(route) = self.trees(host).find_map(|tree| tree.best_route(method, inner)) {
            return Found::Route(route);
        }
        let mut allowed: Vec<Method> = self.trees(host).flat_map(|tree| tree.methods(inner)).cloned().collect();
        if allowed.is_empty() {
            return Found::NotFound;
        }
        allowed.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        allowed.dedup();
        Found::MethodNotAllowed(allowed)
    }

    /// Routes that no request can take, each with a route that takes what it names: earlier ones with
    /// the same host and path accept all its methods.
    #[must_use]
    pub fn unreachable(&self) -> Vec<(usize, usize)> {
        self.unreachable.clone()
    }

    fn insert(&mut self, route: usize, pattern: &RoutePattern, segments: Vec<Segment>) {
        let mut node = match &pattern.host {
            HostPattern::Exact(host) => self.exact_hosts.entry(host.clone()).or_default(),
            HostPattern::Wildcard(suffix) => self.wildcard_hosts.entry(suffix.clone()).or_default(),
            HostPattern::Any => &mut self.any_host,
        };
        for segment in segments {
            node = match segment {
                Segment::Literal(literal) => node.literals.entry(literal).or_default(),
                Segment::Placeholder => node.placeholder.get_or_insert_default(),
            };
        }
        let choices = if pattern.path.prefix { &mut node.below } else { &mut node.here };
        if let Some(shadow) = choices.add(route, pattern.methods.as_deref()) {
            self.unreachable.push((route, shadow));
        }
    }

    fn fold(&self, segment: &Segment) -> Segment {
        match segment {
            Segment::Literal(literal) if self.case_insensitive => Segment::Literal(literal.to_ascii_lowercase()),
            segment => segment.clone(),
        }
    }

    /// The trees for a host, the most specific first.
    fn trees<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Node> {
        let dots = (!self.wildcard_hosts.is_empty()).then(|| host.match_indices('.'));
        let parents = dots.into_iter().flatten().map(|(dot, _)| &host[dot + 1..]);
        let exact = self.exact_hosts.get(host);
        let wildcards = parents.filter_map(|parent| self.wildcard_hosts.get(parent));
        exact.into_iter().chain(wildcards).chain([&self.any_host])
    }
}

impl fmt::Display for PatternProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternProblem::NotAbsolute => f.write_str("a path begins with `/`"),
            PatternProblem::Query => f.write_str("a path has no `?` and no `#`: the query takes no part in matching"),
            PatternProblem::Parameters => f.write_str("a path has no `;`: requests are matched without parameters"),
            PatternProblem::Wildcard => f.write_str("`*` stands alone and last, as in `/a/*`"),
            PatternProblem::Placeholder => f.write_str("a placeholder is one whole segment, as in `/users/{id}`"),
            PatternProblem::NotNormal(normal) => {
                write!(f, "the normal form of this path is `{normal}`")
            }
            PatternProblem::Refused(problem) => {
                write!(f, "requests for this path are refused: {problem}")
            }
        }
    }
}

impl std::error::Error for PatternProblem {}

impl fmt::Display for HostProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostProblem::Empty => "the host is empty",
            HostProblem::UserInfo => "the host contains user information",
            HostProblem::BadPort => "the port is not a number from 0 to 65535",
            HostProblem::Port => "the host of a route has no port",
            HostProblem::BadName => "the host is not a DNS name in ASCII",
            HostProblem::BadAddress => "the host is not an IPv6 address in brackets",
            HostProblem::Wildcard => "`*` stands only for the first labels of a host, as in `*.example.com`",
        })
    }
}

impl std::error::Error for HostProblem {}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    /// In matching form.
    Literal(String),
    /// `{id}`
    Placeholder,
}

/// One segment of the paths of a host; the root stands before the first slash.
#[derive(Debug, Default)]
struct Node {
    literals: BTreeMap<String, Node>,
    placeholder: Option<Box<Node>>,
    /// Routes for exactly this path.
    here: Choices,
    /// Routes for this path and everything below it.
    below: Choices,
}

/// Routes with the same host and path.
#[derive(Debug, Default)]
struct Choices {
    by_method: Vec<(Method, usize)>,
    any_method: Option<usize>,
}

/// A stop on the walk from the root to a path.
enum Stop<'a> {
    /// Routes for exactly the path.
    Here(&'a Choices),
    /// Routes for everything below a prefix of so many segments.
    Below(&'a Choices, usize),
}

impl Node {
    fn best_route(&self, method: &Method, path: &str) -> Option<usize> {
        let mut longest: Option<(usize, usize)> = None;
        let exact = self.walk(Some(path), 0, &mut |stop| match stop {
            Stop::Here(choices) => choices.route(method).map_or(ControlFlow::Continue(()), ControlFlow::Break),
            Stop::Below(choices, depth) => {
                // Of two prefixes of the same length the walk meets the better one first.
                if longest.is_none_or(|(longest, _)| depth > longest)
                    && let Some(route) = choices.route(method)
                {
                    longest = Some((depth, route));
                }
                ControlFlow::Continue(())
            }
        });
        exact.break_value().or(longest.map(|(_, route)| route))
    }

    fn methods(&self, path: &str) -> Vec<&Method> {
        let mut methods = Vec::new();
        let _: ControlFlow<()> = self.walk(Some(path), 0, &mut |stop| {
            let (Stop::Here(choices) | Stop::Below(choices, _)) = stop;
            methods.extend(choices.by_method.iter().map(|(method, _)| method));
            ControlFlow::Continue(())
        });
        methods
    }

    /// Visits all routes that match, literal segments before placeholders. `rest` is what follows the
    /// slash behind this node; None at the end of the path. The tree bounds the depth, not the path.
    fn walk<'a, B>(
        &'a self,
        rest: Option<&str>,
        depth: usize,
        visit: &mut impl FnMut(Stop<'a>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        visit(Stop::Below(&self.below, depth))?;
        let Some(rest) = rest else {
            return visit(Stop::Here(&self.here));
        };
        let (segment, rest) = match rest.bytes().position(|byte| byte == b'/') {
            Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
            None => (rest, None),
        };
        if let Some(node) = self.literals.get(segment) {
            node.walk(rest, depth + 1, visit)?;
        }
        match &self.placeholder {
            Some(node) if !segment.is_empty() => node.walk(rest, depth + 1, visit),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Choices {
    fn route(&self, method: &Method) -> Option<usize> {
        let named = self.by_method.iter().find(|(named, _)| named == method);
        named.map(|(_, route)| *route).or(self.any_method)
    }

    /// Adds a route behind those already there. If they leave no method to it, the first one it loses to.
    fn add(&mut self, route: usize, methods: Option<&[Method]>) -> Option<usize> {
        let Some(methods) = methods else {
            self.any_method.get_or_insert(route);
            return None;
        };
        let head = methods.contains(&Method::GET).then_some(&Method::HEAD);
        let before = self.by_method.len();
        let mut shadow = None;
        for method in methods.iter().chain(head) {
            match self.by_method.iter().find(|(taken, _)| taken == method) {
                Some(&(_, earlier)) => shadow = shadow.or(Some(earlier)),
                None => self.by_method.push((method.clone(), route)),
            }
        }
        if self.by_method.len() == before { shadow } else { None }
    }
}

/// One segment of a pattern, and its normal form.
fn parse_segment(segment: &str) -> Result<(Segment, String), PatternProblem> {
    if segment.contains(['{', '}']) {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        return if is_name { Ok((Segment::Placeholder, segment.to_owned())) } else { Err(PatternProblem::Placeholder) };
    }
    if segment.contains('*') {
        return Err(PatternProblem::Wildcard);
    }
    let path = format!("/{segment}");
    let normal = &normal_form(&path).map_err(PatternProblem::Refused)?[1..];
    if normal.contains(';') || normal.contains("%3B") {
        return Err(PatternProblem::Parameters);
    }
    Ok((Segment::Literal(matching_form(normal).into_owned()), normal.to_owned()))
}

/// Host and port of an authority without user information (RFC 3986 §3.2).
fn split_port(authority: &str) -> Result<(&str, Option<&str>), HostProblem> {
    if authority.contains('@') {
        return Err(HostProblem::UserInfo);
    }
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(HostProblem::BadAddress)? + 1;
        return match &authority[end..] {
            "" => Ok((authority, None)),
            rest => Ok((&authority[..end], Some(rest.strip_prefix(':').ok_or(HostProblem::BadAddress)?))),
        };
    }
    Ok(authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))))
}

/// The host where it is canonical as it stands: most are, and one pass tells.
fn plain_host(authority: &str) -> Option<&str> {
    let mut label = 0;
    for (at, byte) in authority.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if label < LONGEST_LABEL => label += 1,
            b'.' if label > 0 => label = 0,
            b':' if label > 0 && at <= LONGEST_NAME => {
                let port = &authority[at + 1..];
                let is_number = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
                return is_number.then(|| &authority[..at]);
            }
            _ => return None,
        }
    }
    (label > 0 && authority.len() <= LONGEST_NAME).then_some(authority)
}

fn canonical_host(host: &str) -> Result<Cow<'_, str>, HostProblem> {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| HostProblem::BadAddress)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err(HostProblem::Empty);
    }
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        return Err(HostProblem::BadName);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// Octets (RFC 1035 §2.3.4); a name loses two of 255 when it is written with dots.
const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;
    use http::uri::PathAndQuery;
    use proptest::prelude::*;

    fn path(text: &str) -> NormalPath {
        NormalPath::from_target(&PathAndQuery::try_from(text).unwrap()).unwrap()
    }

    /// `[METHOD,METHOD] [HOST]PATH`
    fn route(text: &str) -> RoutePattern {
        let (methods, target) = text.split_once(' ').unwrap_or(("", text));
        let (host, path) = target.split_at(target.find('/').unwrap());
        RoutePattern {
            host: if host.is_empty() { HostPattern::Any } else { HostPattern::parse(host).unwrap() },
            path: PathPattern::parse(path).unwrap(),
            methods: (!methods.is_empty()).then(|| methods.split(',').map(|method| method.parse().unwrap()).collect()),
        }
    }

    fn routes(texts: &[&str]) -> Vec<RoutePattern> {
        texts.iter().map(|text| route(text)).collect()
    }

    fn table(texts: &[&str]) -> RouteTable {
        RouteTable::compile(&routes(texts), false).unwrap()
    }

    /// What `METHOD HOST/PATH` finds, as the text of the route.
    fn find<'a>(texts: &[&'a str], request: &str) -> &'a str {
        let (method, target) = request.split_once(' ').unwrap();
        let (host, target) = target.split_at(target.find('/').unwrap());
        match table(texts).find(host, &method.parse().unwrap(), &path(target)) {
            Found::Route(index) => texts[index],
            Found::MethodNotAllowed(_) => "405",
            Found::NotFound => "404",
        }
    }

    #[test]
    fn patterns_match_on_segment_boundaries() {
        for (pattern, matching, others) in [
            ("/", &["/", "//", "/?q", "/;x"] as &[_], &["/a"] as &[_]),
            ("/a", &["/a", "/%61", "/a;x", "/a%3bx", "/a?/b"], &["/", "/a/", "/ab", "/A", "/a/b"]),
            ("/a/", &["/a/", "/a//", "/a/;x"], &["/a", "/a/b"]),
            ("/a/*", &["/a", "/a/", "/a/b", "/a/b/c/", "/a;x/b"], &["/", "/ab", "/ab/c", "/b/a"]),
            ("/*", &["/", "/a", "/a/b/"], &[]),
            ("/{id}", &["/a", "/%2A", "/a%20b"], &["/", "/a/", "/a/b"]),
            ("/u/{id}/p", &["/u/1/p", "/u/p/p"], &["/u//p", "/u/1", "/u/1/2/p", "/u/1/p/"]),
            ("/u/{id}/*", &["/u/1", "/u/1/", "/u/1/2/3"], &["/u", "/u/"]),
            ("/@me/%7Bx%7D", &["/@me/{x}", "/%40me/%7bx%7d"], &["/@me/x"]),
            ("/users/%40me", &["/users/@me", "/users/%40me"], &[]),
        ] {
            for target in matching {
                assert_eq!(find(&[pattern], &format!("GET h{target}")), pattern, "{pattern} {target}");
            }
            for target in others {
                assert_eq!(find(&[pattern], &format!("GET h{target}")), "404", "{pattern} {target}");
            }
        }
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
        for (ranking, request) in [
            // host before path, path before methods
            (&["a.x.io/*", "*.x.io/*", "*.io/*", "/a"] as &[_], "GET a.x.io/a"),
            (&["*.x.io/*", "*.io/a"], "GET b.a.x.io/a"),
            (&["/a", "GET /a/*"], "GET h/a"),
            // path
            (&["/a/b/c", "/a/b/{z}", "/a/{y}/c", "/{x}/b/c", "/a/b/c/*", "/a/b/*", "/a/*", "/*"], "GET h/a/b/c"),
            (&["/a/{y}/c/*", "/{x}/b/c/*", "/a/b/*", "/a/{y}/*", "/*"], "GET h/a/b/c/d"),
            (&["/{x}/{y}/*", "/a/*"], "GET h/a/b"),
            // methods
            (&["GET /a/*", "/a/*", "GET /*"], "GET h/a"),
        ] {
            for rotation in 0..ranking.len() {
                let mut shuffled = ranking.to_vec();
                shuffled.rotate_left(rotation);
                assert_eq!(find(&shuffled, request), ranking[0], "{shuffled:?}");
                shuffled.reverse();
                assert_eq!(find(&shuffled, request), ranking[0], "{shuffled:?}");
            }
        }
    }

    #[test]
    fn overlapping_method_sets_go_by_file_order() {
        assert_eq!(find(&["GET,POST /a", "POST,PUT /a"], "POST h/a"), "GET,POST /a");
        assert_eq!(find(&["POST,PUT /a", "GET,POST /a"], "POST h/a"), "POST,PUT /a");
    }

    #[test]
    fn a_route_for_get_takes_head_and_no_other_method() {
        let routes = ["GET /a", "POST /a"];
        assert_eq!(find(&routes, "HEAD h/a"), "GET /a");
        for method in ["PUT", "get", "OPTIONS", "PROPFIND"] {
            assert_eq!(find(&routes, &format!("{method} h/a")), "405");
        }
    }

    #[test]
    fn the_search_goes_on_behind_a_route_that_does_not_take_the_method() {
        let routes = ["GET a.io/x/y", "PUT a.io/x/{id}", "POST a.io/x/*", "DELETE /x/y", "/*"];
        for (request, expected) in [
            ("GET a.io/x/y", routes[0]),
            ("PUT a.io/x/y", routes[1]),
            ("POST a.io/x/y", routes[2]),
            ("DELETE a.io/x/y", routes[3]),
            ("PATCH a.io/x/y", routes[4]),
        ] {
            assert_eq!(find(&routes, request), expected);
        }
    }

    #[test]
    fn allow_lists_every_method_once() {
        let table = table(&["PUT,GET a.io/x", "DELETE,PUT /x", "POST *.io/{id}", "PATCH /x/*", "LINK /y"]);
        let Found::MethodNotAllowed(allowed) = table.find("a.io", &Method::OPTIONS, &path("/x")) else {
            panic!("expected 405");
        };
        let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
        assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"]);
        assert_eq!(table.find("a.io", &Method::GET, &path("/z/z")), Found::NotFound);
    }

    #[test]
    fn a_table_without_routes_finds_nothing() {
        assert_eq!(table(&[]).find("h", &Method::GET, &path("/")), Found::NotFound);
    }

    #[test]
    fn wildcard_hosts_need_a_label_of_their_own() {
        for (host, expected) in [
            ("a.x.io", "*.x.io/*"),
            ("b.a.x.io", "*.x.io/*"),
            ("x.io", "404"),
            ("badx.io", "404"),
            ("x.io.evil", "404"),
        ] {
            assert_eq!(find(&["*.x.io/*"], &format!("GET {host}/")), expected, "{host}");
        }
    }

    #[test]
    fn case_counts_unless_told_otherwise() {
        let patterns = routes(&["/Admin/{id}/caf%C3%A9"]);
        for (case_insensitive, target, expected) in [
            (false, "/Admin/1/café", Found::Route(0)),
            (false, "/admin/1/café", Found::NotFound),
            (true, "/aDMIN/X/CAF%c3%a9", Found::Route(0)),
            (true, "/admin/1/cafÉ", Found::NotFound),
        ] {
            let table = RouteTable::compile(&patterns, case_insensitive).unwrap();
            assert_eq!(table.find("h", &Method::GET, &path(target)), expected, "{target}");
        }
    }

    #[test]
    fn the_same_route_twice_is_a_conflict() {
        let patterns = routes(&[
            "/a/{id}",
            "GET,POST /b",
            "/a/{name}",
            "POST,GET /b",
            "a.io/a/{id}",
            "/a/{id}/*",
            "GET /b",
            "/B",
            "GET,GET /b",
            "/a/{x}",
            "/@",
            "/%40",
        ]);
        let conflict = |first, second| Conflict { first, second };
        let expected = [conflict(0, 2), conflict(1, 3), conflict(6, 8), conflict(0, 9), conflict(10, 11)];
        assert_eq!(RouteTable::compile(&patterns, false).unwrap_err(), expected);
        assert!(RouteTable::compile(&routes(&["/b", "/B"]), false).is_ok());
        assert_eq!(RouteTable::compile(&routes(&["/b", "/B"]), true).unwrap_err(), [conflict(0, 1)]);
    }

    #[test]
    fn unreachable_routes_are_named_with_what_shadows_them() {
        for (texts, expected) in [
            (&["GET,POST /a", "POST /a"] as &[_], vec![(1, 0)]),
            (&["GET /a", "HEAD /a"], vec![(1, 0)]),
            (&["POST /a", "GET /a", "HEAD,POST /a"], vec![(2, 1)]),
            (&["/a", "POST /a"], vec![]),
            (&["POST /a", "GET,POST /a"], vec![]),
            (&["GET,POST /a", "POST /a/*", "POST h/a", "POST /{a}"], vec![]),
        ] {
            assert_eq!(table(texts).unreachable(), expected, "{texts:?}");
        }
    }

    #[test]
    fn patterns_that_say_something_else_are_refused() {
        use PatternProblem::{NotAbsolute, NotNormal, Parameters, Placeholder, Query, Refused, Wildcard};
        let normal = |text: &str| NotNormal(text.to_owned());
        for (text, problem) in [
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("*", NotAbsolute),
            ("/a?b", Query),
            ("/a#b", Query),
            ("/a;b", Parameters),
            ("/a%3bb", Parameters),
            ("/a*", Wildcard),
            ("/*/a", Wildcard),
            ("/a/**", Wildcard),
            ("/*/*", Wildcard),
            ("/{}", Placeholder),
            ("/{a", Placeholder),
            ("/a{b}", Placeholder),
            ("/{a}{b}", Placeholder),
            ("/{a b}", Placeholder),
            ("//a//{id}//", normal("/a/{id}/")),
            ("//*", normal("/*")),
            ("/a//*", normal("/a/*")),
            ("//", normal("/")),
            ("/%61/*", normal("/a/*")),
            ("/a%2fb/{id}", normal("/a%2Fb/{id}")),
            ("/café", normal("/caf%C3%A9")),
            ("/a b", normal("/a%20b")),
            ("/a/../b", Refused(PathProblem::DotSegment)),
            ("/a\\b", Refused(PathProblem::Backslash)),
            ("/100%", Refused(PathProblem::BadEscape)),
        ] {
            assert_eq!(PathPattern::parse(text), Err(problem), "{text}");
        }
        for text in ["/", "/*", "/a/", "/a/{id}/*", "/{user_id}", "/a%2Fb", "/%2A", "/.well-known/x"] {
            assert_eq!(PathPattern::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn hosts_are_canonical_or_refused() {
        for (authority, expected) in [
            ("example.com", "example.com"),
            ("Example.COM:8080", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:443", "example.com"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("my_app", "my_app"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("[::1]", "[::1]"),
            ("[0:0::1]:80", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
        ] {
            assert_eq!(host_of(authority).unwrap(), expected, "{authority}");
        }
        assert!(matches!(host_of("example.com:80"), Ok(Cow::Borrowed(_))));
        let long = format!("{}com", "a.".repeat(126));
        for (authority, problem) in [
            ("", HostProblem::Empty),
            (":80", HostProblem::Empty),
            (".", HostProblem::Empty),
            ("user@example.com", HostProblem::UserInfo),
            ("a:", HostProblem::BadPort),
            ("a:b", HostProblem::BadPort),
            ("a:+80", HostProblem::BadPort),
            ("a:65536", HostProblem::BadPort),
            ("a:80:80", HostProblem::BadPort),
            ("::1", HostProblem::BadPort),
            ("[::1]:", HostProblem::BadPort),
            ("[::1", HostProblem::BadAddress),
            ("[::1]80", HostProblem::BadAddress),
            ("[fe80::1%25eth0]", HostProblem::BadAddress),
            ("[1.2.3.4]", HostProblem::BadAddress),
            ("a..b", HostProblem::BadName),
            (".a", HostProblem::BadName),
            ("a.com..", HostProblem::BadName),
            ("a b", HostProblem::BadName),
            ("a/b", HostProblem::BadName),
            ("a,b", HostProblem::BadName),
            ("a%41", HostProblem::BadName),
            ("bücher.example", HostProblem::BadName),
            ("*.a", HostProblem::BadName),
            (&long, HostProblem::BadName),
        ] {
            assert_eq!(host_of(authority), Err(problem), "{authority}");
        }
    }

    #[test]
    fn host_patterns() {
        for (text, expected) in [
            ("App.Example.com.", Ok(HostPattern::Exact("app.example.com".into()))),
            ("*.Example.com", Ok(HostPattern::Wildcard("example.com".into()))),
            ("[0::1]", Ok(HostPattern::Exact("[::1]".into()))),
            ("a.io:80", Err(HostProblem::Port)),
            ("[::1]:80", Err(HostProblem::Port)),
            ("*", Err(HostProblem::Wildcard)),
            ("a.*.io", Err(HostProblem::Wildcard)),
            ("*.*.io", Err(HostProblem::Wildcard)),
            ("*a.io", Err(HostProblem::Wildcard)),
            ("*.", Err(HostProblem::Empty)),
            ("", Err(HostProblem::Empty)),
        ] {
            assert_eq!(HostPattern::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn ten_thousand_routes_keep_their_places() {
        let texts: Vec<String> = (0..10_000).map(|n| format!("h{}.io/s{n}/{{id}}/*", n % 100)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let table = table(&texts);
        for n in [0, 1, 4_999, 9_999] {
            let host = format!("h{}.io", n % 100);
            assert_eq!(table.find(&host, &Method::GET, &path(&format!("/s{n}/x/y"))), Found::Route(n));
            assert_eq!(table.find("h.io", &Method::GET, &path(&format!("/s{n}/x/y"))), Found::NotFound);
        }
    }

    /// The table of the module documentation, applied to one route after the other.
    mod reference {
        use super::*;

        pub(super) fn find(routes: &[RoutePattern], host: &str, method: &Method, target: &str) -> Found {
            let matching: Vec<usize> =
                (0..routes.len()).filter(|&index| rank(&routes[index], index, host, target).is_some()).collect();
            let accepting =
                matching.iter().filter(|&&index| accepts(&routes[index]).is_none_or(|m| m.contains(method)));
            if let Some(&best) = accepting.min_by_key(|&&index| rank(&routes[index], index, host, target)) {
                return Found::Route(best);
            }
            let mut allowed: Vec<Method> =
                matching.iter().filter_map(|&index| accepts(&routes[index])).flatten().collect();
            allowed.sort_by_key(|method| method.as_str().to_owned());
            allowed.dedup();
            if allowed.is_empty() { Found::NotFound } else { Found::MethodNotAllowed(allowed) }
        }

        fn accepts(route: &RoutePattern) -> Option<Vec<Method>> {
            let mut methods = route.methods.clone()?;
            if methods.contains(&Method::GET) {
                methods.push(Method::HEAD);
            }
            Some(methods)
        }

        type Rank = (u8, isize, u8, isize, Vec<bool>, bool, usize);

        fn rank(route: &RoutePattern, index: usize, host: &str, target: &str) -> Option<Rank> {
            let (host_class, host_length) = match &route.host {
                HostPattern::Exact(exact) => (exact == host).then_some((0, 0))?,
                HostPattern::Wildcard(suffix) => {
                    host.ends_with(&format!(".{suffix}")).then_some((1, -isize::try_from(suffix.len()).unwrap()))?
                }
                HostPattern::Any => (2, 0),
            };
            let pattern = route.path.as_str();
            let above = pattern.strip_suffix("/*");
            let segments: Vec<&str> = above.unwrap_or(pattern).split('/').collect();
            let given: Vec<&str> = target.split('/').collect();
            let fits = match above {
                Some(_) => given.len() >= segments.len(),
                None => given.len() == segments.len(),
            };
            let placeholders: Vec<bool> = segments.iter().map(|segment| segment.starts_with('{')).collect();
            let same = segments
                .iter()
                .zip(&given)
                .all(|(segment, given)| if segment.starts_with('{') { !given.is_empty() } else { segment == given });
            if !fits || !same {
                return None;
            }
            let (path_class, path_length) = match above {
                Some(_) => (2, -isize::try_from(segments.len()).unwrap()),
                None => (u8::from(placeholders.contains(&true)), 0),
            };
            Some((host_class, host_length, path_class, path_length, placeholders, route.methods.is_none(), index))
        }
    }

    fn any_route() -> impl Strategy<Value = String> {
        let methods = prop::sample::select(vec!["", "", "GET ", "POST ", "GET,POST ", "HEAD,PUT ", "PUT "]);
        let host = prop::sample::select(vec!["", "", "a.x.io", "*.x.io", "*.io", "*.a.x.io"]);
        let segment = prop::sample::select(vec!["/a", "/b", "/{p}"]);
        let end = prop::sample::select(vec!["", "", "/", "/*"]);
        (methods, host, prop::collection::vec(segment, 0..4), end).prop_map(|(methods, host, segments, end)| {
            let path = segments.concat() + end;
            format!("{methods}{host}{}", if path.is_empty() { "/" } else { &path })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_short_way_to_a_host_and_the_long_one_agree(authority in "[a-z0-9A-Z._:@\\[-]{0,12}(:[0-9]{0,6})?|[a-z.]{60,66}(:80)?|(a[.]){125,128}") {
            if let Some(host) = plain_host(&authority) {
                let (name, port) = split_port(&authority).unwrap();
                prop_assert_eq!(canonical_host(name), Ok(Cow::Borrowed(host)));
                prop_assert!(port.is_none_or(|port| port.parse::<u16>().is_ok()));
            }
        }

        #[test]
        fn the_table_finds_what_the_reference_finds(
            texts in prop::collection::vec(any_route(), 1..12),
            method in prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE]),
            host in prop::sample::select(vec!["a.x.io", "b.a.x.io", "x.io", "other"]),
            segments in prop::collection::vec(prop::sample::select(vec!["/a", "/b", "/c"]), 0..5),
            end in prop::sample::select(vec!["", "", "/"]),
        ) {
            let mut patterns: Vec<RoutePattern> = texts.iter().map(|text| route(text)).collect();
            if let Err(conflicts) = RouteTable::compile(&patterns, false) {
                for conflict in conflicts.iter().rev() {
                    patterns.remove(conflict.second);
                }
            }
            let table = RouteTable::compile(&patterns, false).unwrap();
            let target = segments.concat() + end;
            let target = if target.is_empty() { "/" } else { &target };
            let found = table.find(host, &method, &path(target));
            prop_assert_eq!(&found, &reference::find(&patterns, host, &method, target));
            if let Found::Route(index) = found {
                prop_assert!(table.unreachable().iter().all(|&(unreachable, _)| unreachable != index));
            }
        }

        #[test]
        fn any_pattern_and_any_host_is_read_or_refused(text in "\\PC{0,30}", path in "/[a{}*%/;.é ]{0,12}") {
            let _ = HostPattern::parse(&text);
            let _ = host_of(&text);
            for text in [&text, &path] {
                match PathPattern::parse(text) {
                    Ok(pattern) => prop_assert_eq!(pattern.as_str(), text),
                    Err(PatternProblem::NotNormal(normal)) => prop_assert!(PathPattern::parse(&normal).is_ok()),
                    Err(_) => {}
                }
            }
        }
    }
}

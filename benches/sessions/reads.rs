//! From the `Cookie` line of a request to its session: at hand, and for the first time.

use crate::Failure;
use crate::figures::{Samples, micros, verdict};
use crate::stage::{Kind, Stage};
use http::HeaderValue;
use latchgate::session::{Found, Sessions};
use std::fmt;
use std::hint::black_box;
use tokio::time::Instant;

/// Microseconds for one read.
pub struct Reads {
    warm: Vec<(Kind, Samples)>,
    /// Redis to memory, of neighbours in time.
    ratios: Samples,
    first: Vec<(Kind, Samples)>,
}

/// A store, a gateway that has opened sessions, and what browsers send.
struct Reader {
    stage: Stage,
    sessions: Sessions,
    lines: Vec<Vec<HeaderValue>>,
}

pub async fn measure(rounds: usize) -> Result<Reads, Failure> {
    let mut readers = Vec::new();
    for kind in Kind::ALL {
        readers.push(Reader::new(kind).await?);
    }
    let (warm, ratios) = measure_warm(&readers, rounds)?;
    let first = measure_first(&readers, rounds).await?;
    Ok(Reads { warm, ratios, first })
}

/// Memory and redis in turns, `M R R M`; file beside them. Cookies are opened on every request, and have no warm read.
fn measure_warm(readers: &[Reader], rounds: usize) -> Result<(Vec<(Kind, Samples)>, Samples), Failure> {
    let warm: Vec<&Reader> = readers.iter().filter(|reader| reader.stage.kind != Kind::Cookie).collect();
    warm.iter().try_for_each(|reader| reader.peek_all().map(drop))?;
    let mut times = vec![Vec::new(); warm.len()];
    let mut order: Vec<usize> = (0..warm.len()).collect();
    for _ in 0..rounds {
        for &index in &order {
            times[index].push(warm[index].peek_all()?);
        }
        order.reverse();
    }
    let of = |kind| &times[warm.iter().position(|reader| reader.stage.kind == kind).unwrap_or_default()];
    let ratios = of(Kind::Redis).iter().zip(of(Kind::Memory)).map(|(redis, memory)| redis / memory).collect();
    let kinds = warm.iter().map(|reader| reader.stage.kind);
    Ok((kinds.zip(times).map(|(kind, times)| (kind, Samples::new(times))).collect(), Samples::new(ratios)))
}

/// Each session once, by a gateway that has not seen it; a session of each store in turn.
async fn measure_first(readers: &[Reader], rounds: usize) -> Result<Vec<(Kind, Samples)>, Failure> {
    let mut times = vec![Vec::new(); readers.len()];
    for _ in 0..rounds.div_ceil(HOT) {
        let mut late = Vec::new();
        for reader in readers {
            late.push(reader.stage.gateway().await?);
        }
        for number in 0..HOT {
            for ((reader, sessions), times) in readers.iter().zip(&late).zip(&mut times) {
                let begun = Instant::now();
                if !reader.stage.read(sessions, &reader.lines[number]).await? {
                    return Err("a session is not there".into());
                }
                times.push(micros(begun.elapsed()));
            }
        }
    }
    let kinds = readers.iter().map(|reader| reader.stage.kind);
    Ok(kinds.zip(times).map(|(kind, times)| (kind, Samples::new(times))).collect())
}

impl Reader {
    async fn new(kind: Kind) -> Result<Reader, Failure> {
        let stage = Stage::of(kind).await?;
        let sessions = stage.gateway().await?;
        let mut lines = Vec::new();
        for number in 0..HOT {
            let session = stage.open(&sessions, number).await?;
            lines.push(stage.cookie_lines(&sessions, &session)?);
        }
        // Redis says that a session has changed to whoever wrote it, too.
        for line in &lines {
            stage.read(&sessions, line).await?;
        }
        Ok(Reader { stage, sessions, lines })
    }

    /// The mean of a few milliseconds of reads.
    fn peek_all(&self) -> Result<f64, Failure> {
        let begun = Instant::now();
        for _ in 0..REPEATS {
            for lines in &self.lines {
                let presented = self.stage.presented(&self.sessions, lines);
                let found = black_box(self.sessions.peek(&presented, self.stage.clock.now()));
                if !matches!(found, Some(Found::Live(_))) {
                    return Err(format!("a session is not at hand on {}", self.stage.kind.name()).into());
                }
            }
        }
        Ok(micros(begun.elapsed()) / (REPEATS * HOT) as f64)
    }
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| read of a session, us | median | p99 |\n|---|---|---|")?;
        for (kind, times) in &self.warm {
            writeln!(f, "| {}, at hand | {:.2} | {:.2} |", kind.name(), times.median(), times.p99())?;
        }
        for (kind, times) in &self.first {
            writeln!(f, "| {}, for the first time | {:.0} | {:.0} |", kind.name(), times.median(), times.p99())?;
        }
        let (median, least, most) = (self.ratios.median(), self.ratios.least(), self.ratios.most());
        let verdict = verdict(median <= MOST_RATIO);
        writeln!(
            f,
            "\nat hand, redis to memory: {median:.3} ({least:.2}-{most:.2}); the goal is {MOST_RATIO}: {verdict}"
        )
    }
}

/// Sessions: enough that no two reads in a row are of one, few enough to stay at hand.
const HOT: usize = 64;
const REPEATS: usize = 50;
const MOST_RATIO: f64 = 1.05;

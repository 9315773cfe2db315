//! What a case came to: a line for each contender, and whether the goals were met.

use crate::statistics::{self, Samples};
use std::fmt::{self, Write};

/// One contender in one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What is compared, in the table's unit; less is better.
    pub cost: f64,
    /// What was seen besides, under load.
    pub load: Option<UnderLoad>,
}

/// Microseconds of CPU for a request, requests in a second of the clock, milliseconds of latency.
#[derive(Clone, Copy, Debug)]
pub struct UnderLoad {
    pub user: f64,
    pub system: f64,
    pub per_second: f64,
    pub latency: Option<Latency>,
    /// Share of the target's core that others had.
    pub strangers: f64,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

/// What the gateway is to be.
#[derive(Clone, Debug)]
pub enum Goal {
    /// So many times as good as another line.
    Ratio { of: &'static str, over: &'static str, at_least: f64 },
    /// Not above this, in the table's unit.
    Most { of: &'static str, at_most: f64 },
}

/// Samples of contenders that were measured in turns. The first line is the anchor.
pub struct Table {
    pub title: String,
    /// Of what is compared.
    pub unit: &'static str,
    lines: Vec<Line>,
    goals: Vec<Goal>,
}

struct Line {
    label: String,
    samples: Vec<Sample>,
}

/// A goal, and how it went.
pub struct Verdict {
    pub text: String,
    /// None when one of the two was not measured.
    pub is_met: Option<bool>,
}

impl Table {
    pub fn new(title: impl Into<String>, unit: &'static str, goals: &[Goal]) -> Table {
        Table { title: title.into(), unit, lines: Vec::new(), goals: goals.to_vec() }
    }

    /// The samples of one contender, in the order of the rounds.
    pub fn add(&mut self, label: impl Into<String>, samples: Vec<Sample>) {
        self.lines.push(Line { label: label.into(), samples });
    }

    /// Each line's ratio to the anchor: the median of the rounds.
    pub fn bars(&self) -> Vec<(&str, f64)> {
        let shown = self.lines.iter().filter(|line| line.label != CONTROL);
        shown.map(|line| (line.label.as_str(), self.ratios(line).median())).collect()
    }

    /// Whether these figures mean anything; see [`statistics::noise`]. Figures without a control are sizes and start
    /// times, which nothing else on the machine changes by much.
    pub fn noise(&self) -> Option<String> {
        let control = self.line(CONTROL)?;
        let strangers = self.lines.iter().flat_map(|line| &line.samples).filter_map(|sample| sample.load);
        statistics::noise(&self.ratios(control), &Samples::new(strangers.map(|load| load.strangers)))
    }

    pub fn verdicts(&self) -> Vec<Verdict> {
        self.goals.iter().map(|goal| self.verdict(goal)).collect()
    }

    fn verdict(&self, goal: &Goal) -> Verdict {
        match *goal {
            Goal::Ratio { of, over, at_least } => {
                let goal = format!("{of} at least {at_least:.2} x {over}");
                let (Some(one), Some(other)) = (self.line(of), self.line(over)) else {
                    return Verdict { text: format!("{goal}: not measured"), is_met: None };
                };
                let ratios = statistics::ratios(&other.costs(), &one.costs());
                Verdict::of(&goal, ratios.median(), ratios.median() >= at_least)
            }
            Goal::Most { of, at_most } => {
                let goal = format!("{of} at most {at_most} {}", self.unit);
                let Some(line) = self.line(of) else {
                    return Verdict { text: format!("{goal}: not measured"), is_met: None };
                };
                let median = Samples::new(line.costs()).median();
                Verdict::of(&goal, median, median <= at_most)
            }
        }
    }

    fn ratios(&self, line: &Line) -> Samples {
        let anchor = self.lines.first().map(Line::costs).unwrap_or_default();
        statistics::ratios(&anchor, &line.costs())
    }

    fn line(&self, label: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.label == label)
    }
}

impl Line {
    fn costs(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.cost).collect()
    }

    /// The median of what was seen under load.
    fn seen(&self, of: impl Fn(&UnderLoad) -> Option<f64>) -> Option<f64> {
        let loads: Vec<UnderLoad> = self.samples.iter().filter_map(|sample| sample.load).collect();
        let numbers: Vec<f64> = loads.iter().filter_map(of).collect();
        (!numbers.is_empty()).then(|| Samples::new(numbers).median())
    }
}

impl Verdict {
    fn of(goal: &str, figure: f64, is_met: bool) -> Verdict {
        let word = if is_met { "met" } else { "**missed**" };
        Verdict { text: format!("{goal}: {word} ({figure:.2})"), is_met: Some(is_met) }
    }
}

/// Markdown: the lines only. Goals and noise are the report's to say.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(anchor) = self.lines.first() else { return Ok(()) };
        let is_loaded = anchor.seen(|load| Some(load.per_second)).is_some();
        let has_latency = anchor.seen(|load| load.latency.map(|latency| latency.p50)).is_some();
        let mut head = format!("| | ratio | least-most | {} |", self.unit);
        if is_loaded {
            head += " user | system | a second |";
        }
        if has_latency {
            head += " p50 ms | p99 ms |";
        }
        writeln!(f, "{head}\n|{}", "---|".repeat(head.matches('|').count() - 1))?;
        for line in &self.lines {
            let ratios = self.ratios(line);
            let cost = Samples::new(line.costs()).median();
            write!(f, "| {} | {:.2} | {:.2}-{:.2} |", line.label, ratios.median(), ratios.least(), ratios.most())?;
            write!(f, " {} |", figure(cost))?;
            let mut cell = |of: &dyn Fn(&UnderLoad) -> Option<f64>| match line.seen(of) {
                Some(number) => write!(f, " {} |", figure(number)),
                None => f.write_str(" - |"),
            };
            if is_loaded {
                cell(&|load| Some(load.user))?;
                cell(&|load| Some(load.system))?;
                cell(&|load| Some(load.per_second))?;
            }
            if has_latency {
                cell(&|load| load.latency.map(|latency| latency.p50))?;
                cell(&|load| load.latency.map(|latency| latency.p99))?;
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn figure(number: f64) -> String {
    match number.abs() {
        0.0..10.0 => format!("{number:.2}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// The anchor once more: what it is to itself says how noisy a run was.
pub const CONTROL: &str = "nginx again";

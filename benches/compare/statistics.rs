//! What a row of samples says, and whether it may say anything.

/// Numbers that were measured one after the other, in ascending order. Not a number where there are none.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn new(numbers: impl IntoIterator<Item = f64>) -> Samples {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        Samples(numbers)
    }

    /// Between the two in the middle, where there are two.
    pub fn median(&self) -> f64 {
        match self.0.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => self.0[count / 2],
            count => f64::midpoint(self.0[count / 2 - 1], self.0[count / 2]),
        }
    }

    pub fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    pub fn most(&self) -> f64 {
        self.quantile(1.0)
    }

    /// The nearest one to that share of them.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    }

    fn share_within(&self, least: f64, most: f64) -> f64 {
        let within = self.0.iter().filter(|&&number| (least..=most).contains(&number)).count();
        within as f64 / self.0.len().max(1) as f64
    }
}

/// What the anchor cost to what another cost, round by round: more than one is better than the anchor. Two that are
/// compared are always of one round, since what the machine did besides is then the same for both.
pub fn ratios(anchor: &[f64], other: &[f64]) -> Samples {
    Samples::new(anchor.iter().zip(other).map(|(anchor, other)| anchor / other))
}

/// Why a run means nothing.
///
/// | | is too much |
/// |---|---|
/// | `control`: the anchor to itself, measured twice in every round | median outside 0.95-1.05, or more than a quarter of the rounds outside 0.9-1.1 |
/// | `strangers`: the share of the target's core that went to processes of others | median above 0.1 |
///
/// The first says that neighbours in time are no longer comparable, whatever the reason. The second is not in the
/// first when something runs all the time: caches are then shared with it by everybody, but not at everybody's cost.
pub fn noise(control: &Samples, strangers: &Samples) -> Option<String> {
    let (median, close) = (control.median(), control.share_within(0.9, 1.1));
    if !(0.95..=1.05).contains(&median) {
        return Some(format!("the anchor is {median:.2} times itself"));
    }
    if close < 0.75 {
        return Some(format!(
            "in {:.0} % of the rounds the anchor is outside 0.9-1.1 of itself",
            (1.0 - close) * 100.0
        ));
    }
    let busy = strangers.median();
    (busy > 0.1).then(|| format!("other processes have {:.0} % of the target's core", busy * 100.0))
}

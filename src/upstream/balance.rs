//! Which of several servers. Pure: what is known of them comes in, a number goes out.
//!
//! | `balance` | takes |
//! |---|---|
//! | `round_robin` | turns, spread out (smooth weighted round robin): of any Σweight turns in a row each server has its weight |
//! | `least_requests` | two at random, by weight; of them the one with fewer requests in flight for its weight |
//! | `sticky` | the one that scores highest for the key (weighted rendezvous hashing): when a server goes, its keys move, and no others |
//!
//! A candidate of weight zero is never taken; when all are, nobody is.

/// `upstreams.X.balance`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// `"round_robin"`
    RoundRobin,
    /// `"least_requests"`
    LeastRequests,
    /// `"sticky"`
    Sticky,
}

/// A server that could be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// In proportion to the others'. Zero: not eligible.
    pub weight: u32,
    /// Requests that it works on.
    pub in_flight: usize,
}

/// Whose turn it is: one credit for each server.
#[derive(Debug)]
pub struct Turns {
    credits: Vec<i64>,
}

impl Turns {
    /// The first turn goes to the heaviest.
    pub fn new(servers: usize) -> Turns {
        Turns { credits: vec![0; servers] }
    }

    /// Every candidate earns its weight, the richest is taken and pays for all.
    pub fn next(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let mut total = 0;
        let mut richest: Option<usize> = None;
        for (at, weight) in eligible(candidates) {
            self.credits[at] += i64::from(weight);
            total += i64::from(weight);
            if richest.is_none_or(|richest| self.credits[at] > self.credits[richest]) {
                richest = Some(at);
            }
        }
        let taken = richest?;
        self.credits[taken] -= total;
        Some(taken)
    }
}

/// The less busy of two. `random` gives a number below its argument.
pub fn less_busy(candidates: &[Candidate], mut random: impl FnMut(u64) -> u64) -> Option<usize> {
    let total: u64 = eligible(candidates).map(|(_, weight)| u64::from(weight)).sum();
    if total == 0 {
        return None;
    }
    let first = at_point(candidates, random(total), None)?;
    let rest = total - u64::from(candidates[first].weight);
    if rest == 0 {
        return Some(first);
    }
    let second = at_point(candidates, random(rest), Some(first))?;
    let load = |of: usize, other: usize| candidates[of].in_flight as u64 * u64::from(candidates[other].weight);
    // At equal load the first one, whom the weights have chosen.
    Some(if load(second, first) < load(first, second) { second } else { first })
}

/// The one that `key` belongs to. `names` tell the servers apart, in this process and in its neighbours.
pub fn home(candidates: &[Candidate], names: &[u64], key: u64) -> Option<usize> {
    eligible(candidates)
        .map(|(at, weight)| (at, score(key, names[at], weight)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(at, _)| at)
}

/// A number for a server's address: the same in every process (FNV-1a).
pub fn name(address: &str) -> u64 {
    address.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// −weight / ln u, with u in (0, 1) from the hash: the highest of these is each server's with a probability in proportion to its weight.
fn score(key: u64, name: u64, weight: u32) -> f64 {
    let hash = mix(key ^ mix(name));
    let u = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / u.ln()
}

/// The finalizer of SplitMix64: every bit of the input moves half of the output's.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn eligible(candidates: &[Candidate]) -> impl Iterator<Item = (usize, u32)> + '_ {
    candidates.iter().enumerate().filter(|(_, it)| it.weight > 0).map(|(at, it)| (at, it.weight))
}

/// Whose stretch of the weights laid end to end `point` is in.
fn at_point(candidates: &[Candidate], mut point: u64, without: Option<usize>) -> Option<usize> {
    eligible(candidates).filter(|(at, _)| Some(*at) != without).find_map(|(at, weight)| {
        if point < u64::from(weight) {
            return Some(at);
        }
        point -= u64::from(weight);
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idle(weights: &[u32]) -> Vec<Candidate> {
        weights.iter().map(|weight| Candidate { weight: *weight, in_flight: 0 }).collect()
    }

    #[test]
    fn turns_are_spread_out() {
        for (weights, expected) in
            [(&[1, 1, 1][..], "012012"), (&[5, 1, 1], "0010200"), (&[1, 3], "1011"), (&[0, 2, 1], "121"), (&[7], "000")]
        {
            let mut turns = Turns::new(weights.len());
            let taken: String = expected.chars().map(|_| turns.next(&idle(weights)).unwrap().to_string()).collect();
            assert_eq!(taken, expected, "{weights:?}");
        }
        assert_eq!(Turns::new(2).next(&idle(&[0, 0])), None);
    }

    #[test]
    fn of_two_the_less_busy_one_is_taken_and_at_equal_load_the_weights_decide() {
        let candidate = |weight, in_flight| Candidate { weight, in_flight };
        for (candidates, first_point, expected) in [
            ([candidate(1, 5), candidate(1, 4)], 0, 1),
            ([candidate(1, 4), candidate(1, 4)], 0, 0),
            ([candidate(1, 4), candidate(1, 4)], 1, 1),
            ([candidate(3, 5), candidate(1, 2)], 0, 0),
            ([candidate(3, 7), candidate(1, 2)], 0, 1),
            ([candidate(1, 0), candidate(0, 0)], 0, 0),
        ] {
            let mut points = [first_point, 0].into_iter();
            assert_eq!(less_busy(&candidates, |_| points.next().unwrap()), Some(expected), "{candidates:?}");
        }
    }

    proptest! {
        #[test]
        fn any_full_round_has_each_server_as_often_as_its_weight(
            weights in proptest::collection::vec(0u32..=7, 1..6), before in 0usize..40
        ) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let candidates = idle(&weights);
            let mut turns = Turns::new(weights.len());
            for _ in 0..before {
                turns.next(&candidates);
            }
            let mut taken = vec![0; weights.len()];
            for _ in 0..total {
                taken[turns.next(&candidates).unwrap()] += 1;
            }
            prop_assert_eq!(taken, weights);
        }

        #[test]
        fn whoever_is_not_eligible_is_never_taken(
            servers in proptest::collection::vec((0u32..=3, 0usize..5), 1..6), seed: u64
        ) {
            let candidates: Vec<Candidate> =
                servers.iter().map(|(weight, in_flight)| Candidate { weight: *weight, in_flight: *in_flight }).collect();
            let names: Vec<u64> = (0..candidates.len()).map(|at| name(&at.to_string())).collect();
            let mut random = fastrand::Rng::with_seed(seed);
            let mut turns = Turns::new(candidates.len());
            let some_are = candidates.iter().any(|it| it.weight > 0);
            for _ in 0..20 {
                let all = [
                    turns.next(&candidates),
                    less_busy(&candidates, |below| random.u64(0..below)),
                    home(&candidates, &names, random.u64(..)),
                ];
                for taken in all {
                    prop_assert_eq!(taken.is_some(), some_are);
                    prop_assert!(taken.is_none_or(|at| candidates[at].weight > 0));
                }
            }
        }

        #[test]
        fn only_the_keys_of_a_server_that_goes_move(
            weights in proptest::collection::vec(1u32..=5, 2..8), gone in 0usize..8, seed: u64
        ) {
            let gone = gone % weights.len();
            let names: Vec<u64> = (0..weights.len()).map(|at| name(&format!("10.0.0.{at}:80"))).collect();
            let before = idle(&weights);
            let mut after = before.clone();
            after[gone].weight = 0;
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..200 {
                let key = random.u64(..);
                let (was, is) = (home(&before, &names, key).unwrap(), home(&after, &names, key).unwrap());
                prop_assert_ne!(is, gone);
                prop_assert!(was == gone || is == was);
            }
        }
    }

    #[test]
    fn keys_spread_by_weight_and_one_of_n_servers_has_one_nth_of_them() {
        let names: Vec<u64> = (0..4).map(|at| name(&format!("http://10.0.0.{at}:3000"))).collect();
        for weights in [[1, 1, 1, 1], [1, 2, 3, 4]] {
            let mut keys = [0u32; 4];
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..40_000 {
                keys[home(&idle(&weights), &names, random.u64(..)).unwrap()] += 1;
            }
            let share = 40_000 / weights.iter().sum::<u32>();
            for (at, weight) in weights.iter().enumerate() {
                assert!(keys[at].abs_diff(share * weight) < 800, "{weights:?}: {keys:?}");
            }
        }
    }
}

//! What may be sent once more, and how many retries an upstream may be asked for: a fifth of the requests, and a few a second for those who have few requests. When
//! everything fails, retries would be the load that keeps it down.

use crate::body::Body;
use crate::clock::Mono;
use http::{Method, Request};
use http_body::Body as _;

/// Whether a request may be sent twice, although a server may have seen it: it is safe (RFC 9110 §9.2.1), and has no body.
pub fn is_repeatable(request: &Request<Body>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) && request.body().is_end_stream()
}

/// A copy of a request whose body does not have to come from somewhere first.
pub fn copy_if_whole(request: &Request<Body>) -> Option<Request<Body>> {
    let body = match request.body() {
        Body::Full(bytes) => Body::Full(bytes.clone()),
        body if body.is_end_stream() => Body::Empty,
        _ => return None,
    };
    let mut copy = Request::new(body);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    Some(copy)
}

/// One worker's account, in thousandths of a retry.
#[derive(Debug)]
pub struct RetryBudget {
    balance: u64,
    paid_until: Mono,
}

impl RetryBudget {
    /// Enough for the first few.
    pub fn new(now: Mono) -> RetryBudget {
        RetryBudget { balance: A_FEW * RETRY, paid_until: now }
    }

    /// A request pays in.
    pub fn deposit(&mut self) {
        self.balance = (self.balance + PER_REQUEST).min(MOST * RETRY);
    }

    /// Whether one retry can be paid for.
    pub fn withdraw(&mut self, now: Mono) -> bool {
        let millis = u64::try_from(now.since(self.paid_until).as_millis()).unwrap_or(u64::MAX);
        self.paid_until = self.paid_until.max(now);
        self.balance = self.balance.saturating_add(millis.saturating_mul(A_FEW)).min(MOST * RETRY);
        match self.balance.checked_sub(RETRY) {
            Some(left) => {
                self.balance = left;
                true
            }
            None => false,
        }
    }
}

const RETRY: u64 = 1000;
const PER_REQUEST: u64 = RETRY / 5;
/// For each second, and to begin with.
const A_FEW: u64 = 3;
/// What can be saved: enough for all that a server had in flight when it went.
const MOST: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fifth_of_the_requests_and_three_a_second() {
        let mut budget = RetryBudget::new(Mono(0));
        let retries = |budget: &mut RetryBudget, now| (0..).take_while(|_| budget.withdraw(Mono(now))).count();
        assert_eq!(retries(&mut budget, 0), 3);
        for _ in 0..50 {
            budget.deposit();
        }
        assert_eq!(retries(&mut budget, 0), 10);
        assert_eq!(retries(&mut budget, 999), 2);
        assert_eq!(retries(&mut budget, 2000), 4, "what was left counts");
        assert_eq!(retries(&mut budget, 1000), 0, "time that was paid for is not paid twice");
        assert_eq!(retries(&mut budget, 10_000_000), 100);
    }

    proptest! {
        // RL-11
        #[test]
        fn never_more_than_the_budget(steps in proptest::collection::vec((0u64..200, 0usize..4, 0usize..4), 1..200)) {
            let mut budget = RetryBudget::new(Mono(0));
            let (mut now, mut requests, mut retries) = (0, 0, 0);
            for (millis, asked, failed) in steps {
                now += millis;
                for _ in 0..asked {
                    budget.deposit();
                    requests += 1;
                }
                for _ in 0..failed {
                    retries += u64::from(budget.withdraw(Mono(now)));
                }
                prop_assert!(retries * 1000 <= requests * 200 + now * 3 + 3000);
            }
        }
    }
}

//! What went wrong with one thing, a peer or a URL, in short: how often, what last, and when that was. What has worked
//! since is told no more; it stays counted.

use super::clip;
use crate::time::Monotonic;

/// What went wrong so far; at first, nothing.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: u64,
    /// When, and why; `None` when nothing did since it last worked.
    last: Option<(Monotonic, String)>,
}

impl Failures {
    /// Once more, for this reason.
    pub(super) fn add(&mut self, now: Monotonic, reason: &str) {
        self.count += 1;
        self.last = Some((now, clip(reason)));
    }

    /// It works: what went wrong before is over.
    pub(super) fn over(&mut self) {
        self.last = None;
    }

    /// How often.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The last reason; empty for none.
    pub(super) fn last(&self) -> &str {
        self.last.as_ref().map_or("", |(_, reason)| reason)
    }

    /// Together with what went wrong with another thing: how often, and the later of the two last reasons.
    pub(super) fn with<'a>(&'a self, other: Option<&'a Self>) -> (u64, &'a str) {
        let Some(other) = other else { return (self.count(), self.last()) };
        let at = |failures: &Self| failures.last.as_ref().map(|(at, _)| *at);
        let later = if at(other) > at(self) { other } else { self };
        (self.count + other.count, later.last())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_two_the_later_reason_is_shown_and_both_are_counted() {
        let (mut one, mut other) = (Failures::default(), Failures::default());
        assert_eq!(one.with(Some(&other)), (0, ""));
        one.add(Monotonic(Duration::from_secs(2)), "late");
        assert_eq!(one.with(Some(&other)), (1, "late"));
        other.add(Monotonic(Duration::from_secs(1)), "early");
        assert_eq!((one.with(Some(&other)), other.with(Some(&one))), ((2, "late"), (2, "late")));
        assert_eq!(one.with(None), (1, "late"));
        one.over();
        assert_eq!((one.with(None), one.with(Some(&other))), ((1, ""), (2, "early")));
    }
}

//! What peers say of this node's clock, as the coordinator tells it.
//!
//! While the clock is wrong, clients' writes are refused: a version that it stamps would win, or lose, for as long
//! as it is off. The word lapses when it is not said again in time, since a coordinator that is gone would
//! otherwise stop the writes for ever.

use lattice_core::clock::WRONG_HOLDS;
use lattice_core::time::Monotonic;

/// The last word; at first, that nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    wrong: Option<Wrong>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wrong {
    why: String,
    until: Monotonic,
}

impl Verdict {
    /// The clock is right, or nobody can say.
    pub fn right() -> Self {
        Self::default()
    }

    /// The clock is wrong, for [`WRONG_HOLDS`] from now.
    pub fn wrong(now: Monotonic, why: impl Into<String>) -> Self {
        Self { wrong: Some(Wrong { why: why.into(), until: now + WRONG_HOLDS }) }
    }

    /// Why clients' writes are refused now, if they are.
    pub fn refusal(&self, now: Monotonic) -> Option<String> {
        let wrong = self.wrong.as_ref().filter(|wrong| now < wrong.until)?;
        Some(format!("this node's clock is wrong: {}", wrong.why))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wrong_clock_refuses_until_it_is_right_or_nobody_says_so_any_more() {
        let at = |seconds| Monotonic(Duration::from_secs(seconds));
        assert_eq!(Verdict::right().refusal(at(0)), None);
        let wrong = Verdict::wrong(at(5), "60000 ms ahead");
        let refusal = wrong.refusal(at(64)).unwrap();
        assert_eq!(refusal, "this node's clock is wrong: 60000 ms ahead");
        assert_eq!(wrong.refusal(at(65)), None);
    }
}

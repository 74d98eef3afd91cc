//! How two nodes compare their sealed roots: at the newest common epoch only.
//!
//! An older epoch says nothing of today, and a newer one is not yet sealed by both. What a comparison leads
//! to (counting, pulling, or nothing) is the divergence machine's to say.

use super::{Root, Run, Runs};
use crate::model::Epoch;

/// What two nodes' seals say of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The newest epoch that both sealed has one root.
    Agree {
        /// That epoch.
        epoch: Epoch,
    },
    /// The newest epoch that both sealed has two roots.
    Differ {
        /// That epoch.
        epoch: Epoch,
        /// Ours; an empty tree of our own differs from any root.
        ours: Option<Root>,
        /// Theirs.
        theirs: Root,
    },
    /// They have no root to offer: neither agreement nor difference.
    NothingOffered,
    /// No epoch was sealed by both, as far as the runs reach. Counts as a difference unless `known` is set
    /// (or their root is remembered as one that ours dominates).
    NoCommonEpoch {
        /// Their newest epoch.
        epoch: Epoch,
        /// Their root there.
        theirs: Root,
        /// Their newest root equals one of ours.
        known: bool,
    },
}

/// Compares two nodes' seals at the newest common epoch.
pub fn compare(ours: &Runs, theirs: &Runs) -> Comparison {
    let Some(epoch) = newest_common(ours.as_slice(), theirs.as_slice()) else {
        return match theirs.newest() {
            Some(Run { to, root: Some(root), .. }) => Comparison::NoCommonEpoch {
                epoch: *to,
                theirs: *root,
                known: ours.as_slice().iter().any(|run| run.root == Some(*root)),
            },
            Some(Run { root: None, .. }) | None => Comparison::NothingOffered,
        };
    };
    let ours = ours.at(epoch).flatten().copied();
    match theirs.at(epoch).flatten().copied() {
        None => Comparison::NothingOffered,
        Some(theirs) if ours == Some(theirs) => Comparison::Agree { epoch },
        Some(theirs) => Comparison::Differ { epoch, ours, theirs },
    }
}

/// The newest epoch that a run of each side covers.
fn newest_common(mut ours: &[Run], mut theirs: &[Run]) -> Option<Epoch> {
    while let (Some((a, older_ours)), Some((b, older_theirs))) = (ours.split_last(), theirs.split_last()) {
        if a.from > b.to {
            ours = older_ours;
        } else if b.from > a.to {
            theirs = older_theirs;
        } else {
            return Some(a.to.min(b.to));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::{parsed, root};
    use super::*;

    #[test]
    fn roots_are_compared_only_at_the_newest_common_epoch() {
        let theirs = |number| root(number).unwrap();
        for (case, ours, other, expected) in [
            ("equal", vec![(1, 9, 1)], vec![(3, 7, 1)], Comparison::Agree { epoch: Epoch(7) }),
            (
                "different",
                vec![(1, 9, 1)],
                vec![(3, 7, 2)],
                Comparison::Differ { epoch: Epoch(7), ours: root(1), theirs: theirs(2) },
            ),
            (
                "older epochs say nothing",
                vec![(1, 4, 1), (5, 5, 2)],
                vec![(1, 4, 3), (5, 9, 2)],
                Comparison::Agree { epoch: Epoch(5) },
            ),
            (
                "our own empty tree differs from a root",
                vec![(1, 9, 0)],
                vec![(1, 9, 2)],
                Comparison::Differ { epoch: Epoch(9), ours: None, theirs: theirs(2) },
            ),
            ("their empty tree offers nothing", vec![(1, 9, 1)], vec![(1, 9, 0)], Comparison::NothingOffered),
            ("two empty trees", vec![(1, 9, 0)], vec![(1, 9, 0)], Comparison::NothingOffered),
            ("no seals of theirs", vec![(1, 9, 1)], vec![], Comparison::NothingOffered),
            ("no seals at all", vec![], vec![], Comparison::NothingOffered),
            ("empty and apart", vec![(1, 2, 1)], vec![(5, 9, 0)], Comparison::NothingOffered),
            (
                "gaps that never meet",
                vec![(1, 2, 1), (5, 6, 3)],
                vec![(3, 4, 1), (7, 8, 2)],
                Comparison::NoCommonEpoch { epoch: Epoch(8), theirs: theirs(2), known: false },
            ),
            (
                "apart, but theirs is one of ours",
                vec![(5, 6, 2), (7, 8, 3)],
                vec![(1, 2, 2)],
                Comparison::NoCommonEpoch { epoch: Epoch(2), theirs: theirs(2), known: true },
            ),
            (
                "no seals of ours",
                vec![],
                vec![(1, 2, 2)],
                Comparison::NoCommonEpoch { epoch: Epoch(2), theirs: theirs(2), known: false },
            ),
            (
                "the same counts with another digest differ",
                vec![(1, 1, 1)],
                vec![(1, 1, 4)],
                Comparison::Differ { epoch: Epoch(1), ours: root(1), theirs: theirs(4) },
            ),
        ] {
            assert_eq!(compare(&parsed(&ours), &parsed(&other)), expected, "{case}");
        }
    }

    fn arb_runs() -> impl Strategy<Value = Runs> {
        prop::collection::vec((0_u64..3, 0_u64..4, 0_u8..4), 0..8).prop_map(|steps| {
            let mut epoch = 0;
            let mut all = Vec::new();
            for (gap, length, number) in steps {
                let from = epoch + gap;
                all.push((from, from + length, number));
                epoch = from + length + 1;
            }
            parsed(&all)
        })
    }

    proptest! {
        #[test]
        fn comparing_finds_what_a_search_of_all_epochs_finds(ours in arb_runs(), theirs in arb_runs()) {
            let common = (0..100).map(Epoch).rfind(|epoch| ours.at(*epoch).is_some() && theirs.at(*epoch).is_some());
            match (common, compare(&ours, &theirs)) {
                (Some(common), Comparison::Agree { epoch }) => {
                    prop_assert_eq!(common, epoch);
                    prop_assert_eq!(ours.at(epoch), theirs.at(epoch));
                }
                (Some(common), Comparison::Differ { epoch, ours: our_root, theirs: their_root }) => {
                    prop_assert_eq!(common, epoch);
                    prop_assert_ne!(our_root, Some(their_root));
                    prop_assert_eq!(ours.at(epoch), Some(our_root.as_ref()));
                    prop_assert_eq!(theirs.at(epoch), Some(Some(&their_root)));
                }
                (Some(common), Comparison::NothingOffered) => {
                    prop_assert_eq!(theirs.at(common), Some(None));
                }
                (None, Comparison::NoCommonEpoch { epoch, .. }) => {
                    prop_assert_eq!(theirs.newest_epoch(), Some(epoch));
                }
                (None, Comparison::NothingOffered) => {
                    prop_assert!(theirs.newest().is_none_or(|run| run.root.is_none()));
                }
                (common, comparison) => prop_assert!(false, "{common:?}: {comparison:?}"),
            }
        }
    }
}

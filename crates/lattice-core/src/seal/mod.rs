//! Sealed roots: what a node's tree was at the end of an epoch.
//!
//! While writes flow, live roots of honest replicas are almost never equal; sealed ones of a common epoch
//! are. Equal roots of consecutive epochs fold into one [`Run`], so that idle time costs nothing.

mod compare;
mod runs;

use crate::model::{Digest, Epoch, Incarnation, NodeId};
use crate::tree::Summary;

pub use compare::{Comparison, compare};
pub use runs::{InvalidRuns, NotNewer, Runs};

/// What one signer, in one incarnation, says its tree was at the end of one epoch. There is never a second
/// root for the same three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The cluster, part of everything signed.
    pub cluster: String,
    /// Who signs.
    pub node: NodeId,
    /// Which of its stores.
    pub incarnation: Incarnation,
    /// The epoch, all of whose entries known at the time are under the root.
    pub epoch: Epoch,
    /// The tree's root; `None` when it holds neither entries nor tombstones.
    pub root: Option<Root>,
}

/// Consecutive epochs with one root, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first epoch.
    pub from: Epoch,
    /// The last one, not before `from`.
    pub to: Epoch,
    /// The tree throughout; `None` when it held nothing.
    pub root: Option<Root>,
}

/// A tree as seals and announcements tell it: the counts, and the digest that commits to them, which is the
/// topmost node's wrapped once more ([`crate::tree::root_of`]).
pub type Root = Summary;

/// The most runs that an announcement carries.
pub const RUNS_MAX: usize = 64;

/// The root digest for people: 64 hex characters, or `null` for an empty tree.
pub fn root_text(root: Option<&Root>) -> String {
    root.map_or_else(|| "null".to_owned(), |root| root.digest.to_string())
}

/// The digest alone.
pub fn root_digest(root: Option<&Root>) -> Option<Digest> {
    root.map(|root| root.digest)
}

/// Runs for tests.
#[cfg(test)]
mod fixture {
    use super::*;

    pub(super) fn root(number: u8) -> Option<Root> {
        (number > 0).then(|| Root { digest: Digest([number; 32]), entries: u64::from(number), tombstones: 0 })
    }

    /// Runs from `(from, to, root)`, root 0 for none.
    pub(super) fn runs(runs: &[(u64, u64, u8)]) -> Vec<Run> {
        runs.iter()
            .map(|&(from, to, number)| Run { from: Epoch(from), to: Epoch(to), root: root(number) })
            .collect()
    }

    pub(super) fn parsed(given: &[(u64, u64, u8)]) -> Runs {
        Runs::parse(runs(given)).unwrap()
    }
}

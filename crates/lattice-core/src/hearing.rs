//! Decides which announcements are believed.
//!
//! Freshness does not rest on clocks: per incarnation only a greater sequence is heard, and a new incarnation
//! is believed only when something proves that its signer speaks now (a noise connection, or an exchange that
//! answers our challenge). An incarnation once replaced is never believed again.
//!
//! The signature was checked before; what an announcement means is for others.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::{Epoch, EpochLength, Incarnation, NodeId};
use crate::seal::{InvalidRuns, Runs};
use crate::signed::Announcement;
use crate::time::WallTime;

/// How an announcement came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over the announcer's own noise connection, which proves its key now.
    Noise,
    /// In the answer to a poll, which anybody may have kept.
    Http,
    /// In a request of its announcer that answered a challenge of ours.
    Challenged,
}

/// What is new about an announcement that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// It is the first that we hear of this incarnation.
    pub new_incarnation: bool,
    /// The incarnation before this one.
    pub replaced: Option<Incarnation>,
    /// An epoch for which this incarnation has announced another root before.
    pub contradiction: Option<Epoch>,
}

/// Why an announcement is not heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its key is not a member's.
    #[error("key {node} is not trusted: add it to node.trusted_keys, if it is a member")]
    Untrusted {
        /// Whose.
        node: NodeId,
    },
    /// It is of another cluster.
    #[error("cluster is {theirs:?}: it must be {ours:?} (node.cluster)")]
    Cluster {
        /// Its cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Its epochs have another length, so that no two seals could be compared.
    #[error("epochs take {theirs} ms: they must take {ours} on all nodes (store.epoch_ms)")]
    EpochLength {
        /// Its length in milliseconds.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// It is the one that we heard last: harmless.
    #[error("sequence {sequence} was heard already: the next one must be greater")]
    Repeated {
        /// Its sequence.
        sequence: u64,
    },
    /// It is a little older than what we heard: announcements travel by several ways, and some overtake others.
    /// Harmless.
    #[error("sequence is {sequence}: a newer one, {heard}, has overtaken it")]
    Overtaken {
        /// Its sequence.
        sequence: u64,
        /// The greatest heard.
        heard: u64,
    },
    /// It is older than what we heard.
    #[error("sequence is {sequence}: it must be greater than {heard}")]
    Sequence {
        /// Its sequence.
        sequence: u64,
        /// The greatest heard.
        heard: u64,
    },
    /// Over HTTP, nothing has proved yet that this incarnation is the present one.
    #[error(
        "incarnation {incarnation} is not confirmed yet: a hello exchange must show that it is the present one"
    )]
    Unconfirmed {
        /// Which.
        incarnation: Incarnation,
    },
    /// A newer incarnation was believed since.
    #[error("incarnation {incarnation} was replaced: the present one is {present}")]
    Replaced {
        /// Which.
        incarnation: Incarnation,
        /// The one that is believed.
        present: Incarnation,
    },
    /// Its runs are not what a node can have sealed.
    #[error("{0}")]
    Runs(#[from] InvalidRuns),
}

impl Refused {
    /// Whether it happens between honest nodes every day.
    pub fn is_harmless(&self) -> bool {
        match self {
            Self::Repeated { .. } | Self::Overtaken { .. } => true,
            Self::Untrusted { .. }
            | Self::Cluster { .. }
            | Self::EpochLength { .. }
            | Self::Sequence { .. }
            | Self::Unconfirmed { .. }
            | Self::Replaced { .. }
            | Self::Runs(_) => false,
        }
    }

    /// A stable name, for metrics and programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Untrusted { .. } => "untrusted",
            Self::Cluster { .. } => "cluster",
            Self::EpochLength { .. } => "epoch_length",
            Self::Repeated { .. } => "repeated",
            Self::Overtaken { .. } => "overtaken",
            Self::Sequence { .. } => "sequence",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Replaced { .. } => "replaced",
            Self::Runs(_) => "runs",
        }
    }
}

/// Replaced incarnations remembered for each peer. A replay of one older than these would still need to be
/// confirmed by an exchange, which a replayed announcement cannot be.
const REPLACED_MAX: usize = 8;

/// What was believed of one peer.
#[derive(Clone, Debug)]
struct Known {
    incarnation: Incarnation,
    /// The greatest sequence; `None` when the incarnation was confirmed and nothing was heard yet.
    sequence: Option<u64>,
    /// The greatest epoch heard.
    epoch: Epoch,
    /// The time that the announcement heard last was signed with.
    time: WallTime,
    /// What was announced last.
    runs: Runs,
    replaced: VecDeque<Incarnation>,
}

/// Everything that was heard, of each trusted peer.
#[derive(Clone, Debug)]
pub struct Register {
    cluster: String,
    epoch_length: EpochLength,
    /// How much earlier than the newest an announcement may have been signed to be merely late.
    late_max: Duration,
    trusted: BTreeSet<NodeId>,
    known: BTreeMap<NodeId, Known>,
}

impl Register {
    /// Nothing was heard, and nobody is trusted. An announcement signed no more than `late_max` before one that
    /// was heard has merely been overtaken.
    pub fn new(cluster: String, epoch_length: EpochLength, late_max: Duration) -> Self {
        Self { cluster, epoch_length, late_max, trusted: BTreeSet::new(), known: BTreeMap::new() }
    }

    /// From now on these are trusted (without our own key); what was heard of others is forgotten.
    pub fn set_trusted(&mut self, trusted: BTreeSet<NodeId>) {
        self.known.retain(|node, _| trusted.contains(node));
        self.trusted = trusted;
    }

    /// Judges an announcement whose signature was checked, and remembers it if it is believed.
    ///
    /// # Errors
    /// [`Refused`], and nothing is remembered.
    pub fn hear(&mut self, announcement: &Announcement, via: Via) -> Result<Heard, Refused> {
        let Announcement { cluster, node, incarnation, sequence, time, epoch_length, runs, .. } =
            announcement;
        if *cluster != self.cluster {
            return Err(Refused::Cluster { theirs: cluster.clone(), ours: self.cluster.clone() });
        }
        if !self.trusted.contains(node) {
            return Err(Refused::Untrusted { node: *node });
        }
        if *epoch_length != self.epoch_length {
            let (theirs, ours) = (epoch_length.millis(), self.epoch_length.millis());
            return Err(Refused::EpochLength { theirs, ours });
        }
        let runs = Runs::parse(runs.clone())?;
        let proves_now = match via {
            Via::Noise | Via::Challenged => true,
            Via::Http => false,
        };
        let late_max = self.late_max;
        let known = self.admit(*node, *incarnation, proves_now)?;
        match known.sequence {
            Some(heard) if *sequence == heard => return Err(Refused::Repeated { sequence: heard }),
            Some(heard) if *sequence < heard => {
                let late = known.time.distance(*time) <= late_max;
                let sequence = *sequence;
                return Err(match late {
                    true => Refused::Overtaken { sequence, heard },
                    false => Refused::Sequence { sequence, heard },
                });
            }
            Some(_) | None => {}
        }
        let heard = Heard {
            new_incarnation: known.sequence.is_none(),
            replaced: known.replaced.back().copied(),
            contradiction: contradiction(&known.runs, &runs),
        };
        known.sequence = Some(*sequence);
        known.time = *time;
        known.epoch = known.epoch.max(runs.newest_epoch().unwrap_or_default());
        known.runs = runs;
        debug_assert!(known.replaced.len() <= REPLACED_MAX, "memory is bounded");
        debug_assert!(
            !known.replaced.contains(incarnation),
            "a replaced incarnation is never believed again"
        );
        Ok(heard)
    }

    /// An exchange with `node`, challenged by us, was answered by `incarnation`: it is the present one.
    ///
    /// # Errors
    /// [`Refused`] when the node is not trusted, or the incarnation was replaced.
    pub fn confirm(&mut self, node: NodeId, incarnation: Incarnation) -> Result<(), Refused> {
        if !self.trusted.contains(&node) {
            return Err(Refused::Untrusted { node });
        }
        self.admit(node, incarnation, true).map(|_| ())
    }

    /// `incarnation` of `node` was replaced by `present`, says somebody who remembers longer than we do. Whether it
    /// was the one that is believed.
    pub fn replaced(&mut self, node: &NodeId, incarnation: Incarnation, present: Incarnation) -> bool {
        let Some(known) = self.known.get_mut(node).filter(|known| known.incarnation == incarnation) else {
            return false;
        };
        known.replaced.retain(|replaced| *replaced != present);
        known.replace_by(present);
        true
    }

    /// The incarnation of `node` that is believed.
    pub fn incarnation(&self, node: &NodeId) -> Option<Incarnation> {
        self.known.get(node).map(|known| known.incarnation)
    }

    /// The greatest sequence and epoch heard of the incarnation that is believed.
    pub fn greatest(&self, node: &NodeId) -> Option<(u64, Epoch)> {
        let known = self.known.get(node)?;
        known.sequence.map(|sequence| (sequence, known.epoch))
    }

    /// What `node` announced last, in the incarnation that is believed.
    pub fn runs(&self, node: &NodeId) -> Option<&Runs> {
        self.known.get(node).filter(|known| known.sequence.is_some()).map(|known| &known.runs)
    }

    /// Makes `incarnation` the present one of a trusted `node`, if it is or may become that.
    fn admit(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        proves_now: bool,
    ) -> Result<&mut Known, Refused> {
        let known = match self.known.entry(node) {
            Entry::Vacant(_) if !proves_now => return Err(Refused::Unconfirmed { incarnation }),
            Entry::Vacant(vacant) => return Ok(vacant.insert(Known::new(incarnation, VecDeque::new()))),
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if known.incarnation == incarnation {
            return Ok(known);
        }
        if known.replaced.contains(&incarnation) {
            return Err(Refused::Replaced { incarnation, present: known.incarnation });
        }
        if !proves_now {
            return Err(Refused::Unconfirmed { incarnation });
        }
        known.replace_by(incarnation);
        Ok(known)
    }
}

impl Known {
    fn new(incarnation: Incarnation, replaced: VecDeque<Incarnation>) -> Self {
        Self {
            incarnation,
            sequence: None,
            epoch: Epoch::default(),
            time: WallTime(0),
            runs: Runs::default(),
            replaced,
        }
    }

    fn replace_by(&mut self, incarnation: Incarnation) {
        let mut replaced = std::mem::take(&mut self.replaced);
        if replaced.len() == REPLACED_MAX {
            replaced.pop_front();
        }
        replaced.push_back(self.incarnation);
        *self = Self::new(incarnation, replaced);
    }
}

/// The newest epoch for which two announcements of one incarnation name different roots.
pub fn contradiction(before: &Runs, after: &Runs) -> Option<Epoch> {
    let mut found = None;
    for a in before.as_slice() {
        for b in after.as_slice() {
            let common = (a.from.max(b.from), a.to.min(b.to));
            if common.0 <= common.1 && a.root != b.root {
                found = found.max(Some(common.1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::Digest;
    use crate::seal::Run;
    use crate::tree::Summary;

    const PEER: NodeId = NodeId([1; 32]);
    const FIRST: Incarnation = Incarnation([1; 16]);
    const SECOND: Incarnation = Incarnation([2; 16]);

    fn length(millis: u32) -> EpochLength {
        EpochLength(NonZeroU32::new(millis).unwrap())
    }

    fn register() -> Register {
        let mut register = Register::new("lattice".into(), length(1000), Duration::from_secs(10));
        register.set_trusted(BTreeSet::from([PEER]));
        register
    }

    fn announcement(incarnation: Incarnation, sequence: u64) -> Announcement {
        Announcement {
            cluster: "lattice".into(),
            node: PEER,
            incarnation,
            sequence,
            time: WallTime(1_000 * sequence),
            epoch_length: length(1000),
            runs: Vec::new(),
            addresses: Vec::new(),
            name: "peer".into(),
            recovering: false,
        }
    }

    fn hear(register: &mut Register, incarnation: Incarnation, sequence: u64, via: Via) -> &'static str {
        match register.hear(&announcement(incarnation, sequence), via) {
            Ok(_) => "heard",
            Err(refused) => refused.name(),
        }
    }

    #[test]
    fn each_refusal_has_its_own_name() {
        let mut register = register();
        let mut other = announcement(FIRST, 1);
        other.cluster = "elsewhere".into();
        assert_eq!(register.hear(&other, Via::Noise).unwrap_err().name(), "cluster");
        let mut other = announcement(FIRST, 1);
        other.node = NodeId([7; 32]);
        assert_eq!(register.hear(&other, Via::Noise).unwrap_err().name(), "untrusted");
        let mut other = announcement(FIRST, 1);
        other.epoch_length = length(500);
        let refused = register.hear(&other, Via::Noise).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "epochs take 500 ms: they must take 1000 on all nodes (store.epoch_ms)"
        );
        let mut other = announcement(FIRST, 1);
        other.runs = vec![Run { from: Epoch(5), to: Epoch(4), root: None }];
        assert_eq!(register.hear(&other, Via::Noise).unwrap_err().name(), "runs");
        assert_eq!(register.greatest(&PEER), None, "nothing refused is remembered");
    }

    #[test]
    fn only_a_greater_sequence_is_heard() {
        let mut register = register();
        assert_eq!(hear(&mut register, FIRST, 50, Via::Noise), "heard");
        assert_eq!(hear(&mut register, FIRST, 50, Via::Noise), "repeated");
        assert_eq!(hear(&mut register, FIRST, 40, Via::Noise), "overtaken");
        assert_eq!(hear(&mut register, FIRST, 39, Via::Noise), "sequence");
        assert_eq!(hear(&mut register, FIRST, 60, Via::Http), "heard");
        assert_eq!(hear(&mut register, FIRST, 40, Via::Http), "sequence");
        assert_eq!(register.greatest(&PEER), Some((60, Epoch(0))));
    }

    #[test]
    fn over_http_an_incarnation_needs_a_hello() {
        let mut register = register();
        assert_eq!(hear(&mut register, FIRST, 1, Via::Http), "unconfirmed");
        register.confirm(PEER, FIRST).unwrap();
        let heard = register.hear(&announcement(FIRST, 1), Via::Http).unwrap();
        assert!(heard.new_incarnation);
        assert_eq!(hear(&mut register, SECOND, 1, Via::Http), "unconfirmed");
        assert_eq!(register.incarnation(&PEER), Some(FIRST));
        register.confirm(PEER, SECOND).unwrap();
        let heard = register.hear(&announcement(SECOND, 1), Via::Http).unwrap();
        assert_eq!((heard.new_incarnation, heard.replaced), (true, Some(FIRST)));
        assert_eq!(register.confirm(NodeId([7; 32]), FIRST).unwrap_err().name(), "untrusted");
    }

    #[test]
    fn a_replaced_incarnation_is_never_believed_again() {
        let mut register = register();
        for via in [Via::Noise, Via::Challenged, Via::Http] {
            assert_eq!(
                hear(&mut register, FIRST, 9, Via::Noise),
                if via == Via::Noise { "heard" } else { "replaced" }
            );
            hear(&mut register, SECOND, 1, Via::Noise);
            assert_eq!(hear(&mut register, FIRST, 10, via), "replaced");
            assert_eq!(register.confirm(PEER, FIRST).unwrap_err().name(), "replaced");
        }
        assert_eq!(register.incarnation(&PEER), Some(SECOND));
    }

    #[test]
    fn what_a_restart_forgot_is_put_right_by_whoever_remembers() {
        let mut register = register();
        assert_eq!(hear(&mut register, FIRST, 9, Via::Noise), "heard");
        assert!(!register.replaced(&PEER, SECOND, FIRST), "it is not believed");
        assert!(register.replaced(&PEER, FIRST, SECOND));
        assert_eq!(register.incarnation(&PEER), Some(SECOND));
        assert_eq!(register.runs(&PEER), None, "what was heard is forgotten");
        assert_eq!(hear(&mut register, FIRST, 10, Via::Noise), "replaced");
        assert_eq!(hear(&mut register, SECOND, 1, Via::Http), "heard");

        // Heard in the wrong order since.
        let mut register = self::register();
        hear(&mut register, SECOND, 1, Via::Noise);
        hear(&mut register, FIRST, 9, Via::Noise);
        assert!(register.replaced(&PEER, FIRST, SECOND));
        assert_eq!(hear(&mut register, SECOND, 2, Via::Noise), "heard");
        assert_eq!(hear(&mut register, FIRST, 10, Via::Noise), "replaced");
    }

    #[test]
    fn two_roots_for_one_epoch_are_told() {
        let root = |byte| Some(Summary { digest: Digest([byte; 32]), entries: 1, tombstones: 0 });
        let runs = |from, to, byte| vec![Run { from: Epoch(from), to: Epoch(to), root: root(byte) }];
        let mut register = register();
        let mut say = |sequence, runs| {
            let mut said = announcement(FIRST, sequence);
            said.runs = runs;
            register.hear(&said, Via::Noise).unwrap().contradiction
        };
        assert_eq!(say(1, runs(1, 5, 1)), None);
        assert_eq!(say(2, runs(3, 9, 1)), None);
        assert_eq!(say(3, runs(10, 12, 2)), None);
        assert_eq!(say(4, runs(11, 14, 3)), Some(Epoch(12)));
    }

    #[test]
    fn trust_taken_away_forgets() {
        let mut register = register();
        hear(&mut register, FIRST, 5, Via::Noise);
        register.set_trusted(BTreeSet::new());
        assert_eq!(hear(&mut register, FIRST, 6, Via::Noise), "untrusted");
        register.set_trusted(BTreeSet::from([PEER]));
        assert_eq!(hear(&mut register, FIRST, 1, Via::Http), "unconfirmed");
    }
}

//! Puts a batch of changed entries into a tree, and hands back the nodes that changed.
//!
//! The tree is persistent in the functional sense: nothing is edited in place. The caller keeps nodes by
//! position and epoch; here we load the nodes on the way to the changes, each once, and return their
//! successors, each hashed once however many entries changed below it. The cost is that of the changes times
//! the depth, whatever else the tree holds.
//!
//! Entries are added or replaced, never removed (a deletion is an entry too), so a bucket may split and
//! nothing ever merges. Of two entries of one key the dominating one stays, so that any order and any
//! batching of the same entries make the same tree.

use std::collections::BTreeMap;

use super::{BUCKET_ENTRIES_MAX, FANOUT, Node, Position, Summary, root_of};
use crate::model::EntryHead;

/// What a batch made of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The root after it; `None` while the tree holds nothing.
    pub root: Option<Summary>,
    /// The nodes that changed, and no others. Empty buckets are never among them.
    pub nodes: BTreeMap<Position, Node>,
}

/// Why a batch could not be put into a tree. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError<E> {
    /// A node could not be loaded.
    #[error("load tree node")]
    Load(#[source] E),
    /// A parent says that entries hang at this position, but no node was found there.
    #[error("tree node {position} is missing")]
    Missing {
        /// Where.
        position: Position,
    },
    /// The node found cannot be the one that its parent commits to.
    #[error("tree node {position} is not the one that its parent commits to")]
    Mismatch {
        /// Where.
        position: Position,
    },
}

/// Puts `changes` (in any order; of one key, the dominating one counts) into the tree that `load` reads.
///
/// `load` answers with the node at a position, and `None` only where nothing was ever stored: with none at
/// [`Position::ROOT`] the tree is built from nothing. It is asked only for nodes that hold entries, and
/// is trusted to have checked what it read: only counts are compared with the parent's here.
///
/// # Errors
/// [`ApplyError`] when a node cannot be loaded, is missing, or contradicts its parent.
pub fn apply<E>(
    changes: impl IntoIterator<Item = EntryHead>,
    mut load: impl FnMut(&Position) -> Result<Option<Node>, E>,
) -> Result<Applied, ApplyError<E>> {
    let changes = newest(changes.into_iter().collect());
    let top = load(&Position::ROOT).map_err(ApplyError::Load)?.unwrap_or(Node::empty_bucket());
    let mut update = Update { load, nodes: BTreeMap::new() };
    let top = match update.put(&Position::ROOT, &top, &changes)? {
        Some(changed) => changed,
        None => top.summary(),
    };
    Ok(Applied { root: root_of(&top), nodes: update.nodes })
}

struct Update<L> {
    load: L,
    nodes: BTreeMap<Position, Node>,
}

impl<L> Update<L> {
    /// Puts `changes`, all of them below `position`, into `node`. `None` when nothing changed.
    fn put<E>(
        &mut self,
        position: &Position,
        node: &Node,
        changes: &[EntryHead],
    ) -> Result<Option<Summary>, ApplyError<E>>
    where
        L: FnMut(&Position) -> Result<Option<Node>, E>,
    {
        match node {
            Node::Bucket(present) => Ok(merge(present, changes).map(|heads| self.grow(position, heads))),
            Node::Inner(children) => self.put_below(position, children, changes),
        }
    }

    fn put_below<E>(
        &mut self,
        position: &Position,
        children: &[Summary; FANOUT],
        changes: &[EntryHead],
    ) -> Result<Option<Summary>, ApplyError<E>>
    where
        L: FnMut(&Position) -> Result<Option<Node>, E>,
    {
        if position.depth() == Position::DEPTH_MAX {
            // Nothing has children there: what was loaded is damaged.
            return Err(ApplyError::Mismatch { position: *position });
        }
        let mut successor: Option<Box<[Summary; FANOUT]>> = None;
        for (place, changes) in by_child(position, changes) {
            let index = usize::from(place.nibble(position.depth()));
            let child = self.child(&place, &children[index])?;
            if let Some(summary) = self.put(&place, &child, changes)? {
                successor.get_or_insert_with(|| Box::new(*children))[index] = summary;
            }
        }
        Ok(successor.map(|children| self.keep(position, Node::Inner(children))))
    }

    /// The node at `place`, which its parent knows as `known`.
    fn child<E>(&mut self, place: &Position, known: &Summary) -> Result<Node, ApplyError<E>>
    where
        L: FnMut(&Position) -> Result<Option<Node>, E>,
    {
        if known.total() == 0 {
            return Ok(Node::empty_bucket());
        }
        let node =
            (self.load)(place).map_err(ApplyError::Load)?.ok_or(ApplyError::Missing { position: *place })?;
        if node.counts() != (known.entries, known.tombstones) {
            return Err(ApplyError::Mismatch { position: *place });
        }
        Ok(node)
    }

    /// Makes the subtree of `heads` (ascending) at `position`: a bucket, or split until buckets hold them.
    fn grow(&mut self, position: &Position, heads: Vec<EntryHead>) -> Summary {
        if heads.len() <= BUCKET_ENTRIES_MAX {
            return self.keep(position, Node::Bucket(heads));
        }
        let mut children = Box::new([Summary::EMPTY; FANOUT]);
        for (place, heads) in by_child(position, &heads) {
            children[usize::from(place.nibble(position.depth()))] = self.grow(&place, heads.to_vec());
        }
        self.keep(position, Node::Inner(children))
    }

    fn keep(&mut self, position: &Position, node: Node) -> Summary {
        let summary = node.summary();
        self.nodes.insert(*position, node);
        summary
    }
}

/// Ascending heads below `position`, cut into those of each child that has any.
fn by_child<'a>(
    position: &Position,
    heads: &'a [EntryHead],
) -> impl Iterator<Item = (Position, &'a [EntryHead])> {
    let depth = position.depth();
    debug_assert!(depth < Position::DEPTH_MAX || heads.is_empty(), "a whole key hash has one entry");
    heads
        .chunk_by(move |a, b| a.key_hash.nibble(depth) == b.key_hash.nibble(depth))
        .map(move |heads| (Position::towards(&heads[0].key_hash, depth + 1), heads))
}

/// Both merged, ascending; `None` when `changes` add nothing to what is present.
fn merge(present: &[EntryHead], changes: &[EntryHead]) -> Option<Vec<EntryHead>> {
    let merged = newest([present, changes].concat());
    (merged != present).then_some(merged)
}

/// Ascending by key hash, and of one key only the head that dominates the others.
fn newest(mut heads: Vec<EntryHead>) -> Vec<EntryHead> {
    heads.sort_by_key(|head| head.key_hash);
    heads.dedup_by(|head, kept| {
        let same_key = head.key_hash == kept.key_hash;
        if same_key && !kept.dominates(head) {
            *kept = *head;
        }
        same_key
    });
    heads
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::fixture::{Tree, arb_heads, golden, head, reference_root};

    #[test]
    fn roots_keep_their_golden_values() {
        for (count, root) in [
            (1, "1cb86ef978aa45672a38aaaf965deadd8cfab312ed886b435205fb936ea56888"),
            (3, "a71ffb4877ea45b3fbf665111c6fe21226fd3f1e001abdf7643d1c6f57565762"),
            (32, "31a4673b97eb4813fd6966cc043abda788fa23d813edc2b852e10f3dd15eabbc"),
            (33, "681c6456c4c2551baed3e11ccf85ea2fc24756c3e9fce661fca4c2d20761d9cf"),
            (1000, "86d369133198131f8d54fdb58e38c80fc962769d5161dbf1cbb82ed348547ca0"),
        ] {
            let tree = Tree::of(golden(count));
            let expected = Summary {
                digest: root.parse().unwrap(),
                entries: count - count / 10,
                tombstones: count / 10,
            };
            assert_eq!(tree.root, Some(expected), "{count} entries");
        }
    }

    #[test]
    fn nothing_has_no_root() {
        let applied = apply([], |_| Ok::<_, Infallible>(None)).unwrap();
        assert_eq!(applied, Applied { root: None, nodes: BTreeMap::new() });
    }

    #[test]
    fn a_batch_loads_and_returns_only_the_way_to_its_changes() {
        let tree = Tree::of(golden(1_000));
        let change = head(77, 9_999);
        let mut loaded = Vec::new();
        let applied = apply([change], |position| {
            loaded.push(*position);
            Ok::<_, Infallible>(tree.nodes.get(position).cloned())
        })
        .unwrap();
        let way: Vec<Position> =
            (0..loaded.len()).map(|depth| Position::towards(&change.key_hash, depth)).collect();
        assert_eq!(loaded, way);
        assert_eq!(applied.nodes.keys().copied().collect::<Vec<_>>(), way);
        assert_ne!(applied.root, tree.root);
    }

    #[test]
    fn a_lost_node_is_never_taken_for_an_empty_one() {
        let tree = Tree::of(golden(1_000));
        let change = head(77, 9_999);
        let lost = Position::towards(&change.key_hash, 1);
        let load = |position: &Position| {
            Ok::<_, Infallible>(tree.nodes.get(position).filter(|_| *position != lost).cloned())
        };
        assert_eq!(apply([change], load), Err(ApplyError::Missing { position: lost }));

        let load = |position: &Position| {
            let node = if *position == lost {
                Some(Node::empty_bucket())
            } else {
                tree.nodes.get(position).cloned()
            };
            Ok::<_, Infallible>(node)
        };
        assert_eq!(apply([change], load), Err(ApplyError::Mismatch { position: lost }));
        assert_eq!(apply([change], |_| Err("disk")), Err(ApplyError::Load("disk")));
    }

    #[test]
    fn keys_that_share_almost_all_of_their_hash_split_as_deep_as_they_must() {
        let heads: Vec<EntryHead> = (0..33)
            .map(|last| {
                let mut head = head(1, 1);
                head.key_hash.0.0[31] = last;
                head
            })
            .collect();
        let tree = Tree::of(heads.clone());
        let deepest = tree.nodes.keys().map(Position::depth).max();
        assert_eq!(deepest, Some(Position::DEPTH_MAX - 1));
        assert_eq!(tree.nodes.len(), 63 + 3, "one node a level, then three buckets");
        assert_eq!(tree.root, reference_root(&heads));
        assert_eq!(Tree::of(heads[..32].to_vec()).nodes.len(), 1);
    }

    #[test]
    fn an_inner_node_below_the_deepest_place_is_damage() {
        let change = head(1, 1);
        let load = |position: &Position| {
            let mut children = [Summary::EMPTY; FANOUT];
            let depth = position.depth();
            let index = if depth < Position::DEPTH_MAX { change.key_hash.nibble(depth) } else { 0 };
            children[usize::from(index)].entries = 40;
            Ok::<_, Infallible>(Some(Node::Inner(Box::new(children))))
        };
        let deepest = Position::towards(&change.key_hash, Position::DEPTH_MAX);
        assert_eq!(apply([change], load), Err(ApplyError::Mismatch { position: deepest }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(80))]

        #[test]
        fn any_order_and_any_batching_of_the_same_entries_make_the_same_tree(
            (heads, shuffled) in arb_heads(200)
                .prop_flat_map(|heads| (Just(heads.clone()), Just(heads).prop_shuffle())),
            batch in 1_usize..80,
        ) {
            let at_once = Tree::of(heads.clone());
            let mut in_batches = Tree::default();
            for batch in shuffled.chunks(batch) {
                in_batches.apply(batch.to_vec());
            }
            prop_assert_eq!(&in_batches, &at_once);
            prop_assert_eq!(at_once.root, reference_root(&heads));

            // Once more changes nothing, and touches nothing.
            prop_assert_eq!(in_batches.apply(shuffled), 0);
            prop_assert_eq!(in_batches, at_once);
        }
    }
}

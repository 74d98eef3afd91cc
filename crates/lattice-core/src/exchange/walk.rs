//! Checks what a server answered to a walk, before anything else sees it.
//!
//! The answer names only the children that the asker does not have already. The whole node is rebuilt here
//! and compared with the digest above it: the parent's, where the walk came by it under the same seal, else
//! the root's, by a chain. What passes is what the server signed; what does not has a name.
//!
//! Whose seal it is, and of which epoch, is for the caller to check.

use super::{Digests, InvalidAnswer, Shape, WalkNode};
use crate::tree::{BUCKET_ENTRIES_MAX, FANOUT, Node, Position, Summary, root_of};

/// What a node of a walk is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor<'a> {
    /// What its parent, already verified under the same seal, says of it. A chain is refused.
    Parent(&'a Summary),
    /// The root of the seal that the answer stands on: by its chain, which only [`Position::ROOT`] may leave
    /// out.
    Root(&'a Summary),
}

impl Shape {
    /// The server's whole inner node at `position`, from its answer and what we have there ourselves (`mine`, as
    /// named in [`super::WalkAsk::mine`]); `None` where it says that a bucket is. Checks its form; whether it is the
    /// sealed one is [`WalkNode::verify`]'s.
    ///
    /// # Errors
    /// [`InvalidAnswer`] when this is no node of a tree.
    pub fn rebuild(
        &self,
        position: &Position,
        mine: Option<&[Summary; FANOUT]>,
    ) -> Result<Option<Node>, InvalidAnswer> {
        match self {
            Self::Bucket => Ok(None),
            Self::Inner { equal, others } => {
                if position.depth() == Position::DEPTH_MAX {
                    return Err(InvalidAnswer::TooDeep);
                }
                let expected = equal.count_zeros() as usize;
                if others.len() != expected {
                    return Err(InvalidAnswer::Children { count: others.len(), expected });
                }
                let mut children = Vec::with_capacity(FANOUT);
                let mut others = others.iter();
                for index in 0..FANOUT {
                    let child = if equal >> index & 1 == 1 {
                        &mine.ok_or(InvalidAnswer::EqualToNothing)?[index]
                    } else {
                        others.next().expect("as many others as zero bits")
                    };
                    children.push(*child);
                }
                Ok(Some(Node::inner(children)?))
            }
        }
    }

    /// What a server answers of `node` to an asker who has `theirs` there.
    pub fn of(node: &Node, theirs: Option<&Digests>) -> Self {
        match node {
            Node::Bucket(_) => Self::Bucket,
            Node::Inner(children) => {
                let mut equal = 0;
                let mut others = Vec::new();
                for (index, child) in children.iter().enumerate() {
                    if theirs.is_some_and(|theirs| theirs.matches(index, &child.digest)) {
                        equal |= 1 << index;
                    } else {
                        others.push(*child);
                    }
                }
                Self::Inner { equal, others }
            }
        }
    }
}

impl WalkNode {
    /// The server's whole inner node, proved to hang at its position under the seal; `mine` as in
    /// [`Shape::rebuild`]. `None` where it says that a bucket is: of that, a fetch brings the proof.
    ///
    /// # Errors
    /// [`InvalidAnswer`] when it is no node, or not the sealed one.
    pub fn verify(
        &self,
        mine: Option<&[Summary; FANOUT]>,
        anchor: Anchor<'_>,
    ) -> Result<Option<Node>, InvalidAnswer> {
        let Some(node) = self.shape.rebuild(&self.position, mine)? else {
            return if anchor.may_be_bucket(&self.position) {
                Ok(None)
            } else {
                Err(InvalidAnswer::NoBucket)
            };
        };
        let summary = node.summary();
        match (anchor, &self.chain) {
            (Anchor::Parent(parent), None) if summary == *parent => {}
            (Anchor::Parent(_), None) => return Err(InvalidAnswer::Digest),
            (Anchor::Root(root), Some(chain)) => chain.verify(&self.position, &summary, root)?,
            (Anchor::Root(root), None) if self.position == Position::ROOT => {
                if root_of(&summary).as_ref() != Some(root) {
                    return Err(InvalidAnswer::Digest);
                }
            }
            (Anchor::Root(_), None) | (Anchor::Parent(_), Some(_)) => {
                return Err(InvalidAnswer::ChainPresence);
            }
        }
        Ok(Some(node))
    }
}

impl Anchor<'_> {
    /// Whether a bucket at `position` would not contradict what is known of it.
    fn may_be_bucket(&self, position: &Position) -> bool {
        match self {
            Self::Parent(known) => known.total() <= BUCKET_ENTRIES_MAX as u64,
            Self::Root(root) => *position != Position::ROOT || root.total() <= BUCKET_ENTRIES_MAX as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::KeyHash;
    use crate::tree::fixture::{Tree, arb_heads, golden, head};
    use crate::tree::{InvalidChain, InvalidNode};

    fn children(node: &Node) -> Option<&[Summary; FANOUT]> {
        match node {
            Node::Inner(children) => Some(children),
            Node::Bucket(_) => None,
        }
    }

    /// What `server` answers about `position` to an asker who has `mine` there.
    fn answer(server: &Tree, position: Position, mine: Option<&Node>, width: usize, chain: bool) -> WalkNode {
        let digests = mine.and_then(children).map(|children| Digests::truncate(children, width));
        WalkNode {
            position,
            chain: chain.then(|| server.chain(&position)),
            shape: Shape::of(&server.node(&position), digests.as_ref()),
        }
    }

    /// A walk without rounds: the keys of which `asker` lacks what `server` has.
    fn walk(asker: &Tree, server: &Tree, width: usize) -> BTreeSet<KeyHash> {
        let mut lacking = BTreeSet::new();
        let Some(root) = server.root else { return lacking };
        let mut todo: Vec<(Position, Option<Summary>)> = vec![(Position::ROOT, None)];
        while let Some((position, parent)) = todo.pop() {
            let mine = asker.nodes.get(&position);
            let anchor = parent.as_ref().map_or(Anchor::Root(&root), Anchor::Parent);
            let verify =
                |width| answer(server, position, mine, width, false).verify(mine.and_then(children), anchor);
            let node = match verify(width) {
                // Truncated digests that collide: asked again with whole ones.
                Err(InvalidAnswer::Digest | InvalidAnswer::Node(_)) if width < Digests::WIDTH_MAX => {
                    verify(Digests::WIDTH_MAX)
                }
                other => other,
            }
            .unwrap();
            match &node.unwrap_or_else(|| server.node(&position)) {
                Node::Bucket(heads) => {
                    lacking.extend(
                        heads
                            .iter()
                            .filter(|head| asker.get(&head.key_hash).as_ref() != Some(head))
                            .map(|head| head.key_hash),
                    );
                }
                Node::Inner(theirs) => {
                    for (index, child) in theirs.iter().enumerate() {
                        let ours = mine.and_then(children).map(|children| children[index]);
                        if child.total() > 0 && ours != Some(*child) {
                            todo.push((position.child(index as u8).unwrap(), Some(*child)));
                        }
                    }
                }
            }
        }
        lacking
    }

    #[test]
    fn a_shape_that_is_no_node_is_refused() {
        let tree = Tree::of(golden(300));
        let node = tree.node(&Position::ROOT);
        let mine = children(&node).unwrap();
        let root = Position::ROOT;
        let rebuild = |equal, others: &[Summary], mine| {
            Shape::Inner { equal, others: others.to_vec() }.rebuild(&root, mine)
        };
        assert_eq!(rebuild(0, mine, None), Ok(Some(node.clone())));
        assert_eq!(rebuild(0xffff, &[], Some(mine)), Ok(Some(node.clone())));
        assert_eq!(rebuild(0xfffe, &mine[..1], Some(mine)), Ok(Some(node.clone())));
        assert_eq!(rebuild(0x7fff, &mine[15..], Some(mine)), Ok(Some(node.clone())));

        let count = |count, expected| Err(InvalidAnswer::Children { count, expected });
        assert_eq!(rebuild(0, &mine[..15], None), count(15, 16));
        assert_eq!(rebuild(1, mine, Some(mine)), count(16, 15));
        assert_eq!(rebuild(1, &mine[1..], None), Err(InvalidAnswer::EqualToNothing));
        let hollow = InvalidNode::TooFew { total: 0 };
        assert_eq!(rebuild(0, &[Summary::EMPTY; 16], None), Err(InvalidAnswer::Node(hollow)));
        let deepest = Position::towards(&head(1, 1).key_hash, Position::DEPTH_MAX);
        let inner = Shape::Inner { equal: 0, others: mine.to_vec() };
        assert_eq!(inner.rebuild(&deepest, None), Err(InvalidAnswer::TooDeep));
        assert_eq!(Shape::Bucket.rebuild(&root, None), Ok(None));
    }

    #[test]
    fn a_walk_node_is_checked_against_its_anchor() {
        let tree = Tree::of(golden(2_000));
        let root = tree.root.unwrap();
        let top = tree.node(&Position::ROOT);
        let place = Position::ROOT.child(4).unwrap();
        let summary = children(&top).unwrap()[4];
        let other = children(&top).unwrap()[5];
        let node = Ok(Some(tree.node(&place)));
        let [bare, chained] = [false, true].map(|chain| answer(&tree, place, None, 32, chain));

        assert_eq!(bare.verify(None, Anchor::Parent(&summary)), node);
        assert_eq!(bare.verify(None, Anchor::Parent(&other)), Err(InvalidAnswer::Digest));
        assert_eq!(bare.verify(None, Anchor::Root(&root)), Err(InvalidAnswer::ChainPresence));
        assert_eq!(chained.verify(None, Anchor::Root(&root)), node);
        assert_eq!(chained.verify(None, Anchor::Parent(&summary)), Err(InvalidAnswer::ChainPresence));
        assert_eq!(chained.verify(None, Anchor::Root(&other)), Err(InvalidAnswer::Chain(InvalidChain::Root)));
        for chain in [false, true] {
            let top_answer = answer(&tree, Position::ROOT, None, 32, chain);
            assert_eq!(top_answer.verify(None, Anchor::Root(&root)), Ok(Some(top.clone())));
            assert!(top_answer.verify(None, Anchor::Root(&other)).is_err());
        }
    }

    #[test]
    fn a_bucket_is_not_believed_where_more_hangs() {
        let small = Tree::of(golden(20)).root.unwrap();
        let large = Tree::of(golden(300)).root.unwrap();
        let at = |position| WalkNode { position, chain: None, shape: Shape::Bucket };
        let child = Position::ROOT.child(1).unwrap();
        assert_eq!(at(Position::ROOT).verify(None, Anchor::Root(&small)), Ok(None));
        assert_eq!(at(Position::ROOT).verify(None, Anchor::Root(&large)), Err(InvalidAnswer::NoBucket));
        assert_eq!(at(child).verify(None, Anchor::Parent(&small)), Ok(None));
        assert_eq!(at(child).verify(None, Anchor::Parent(&large)), Err(InvalidAnswer::NoBucket));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_walk_finds_exactly_what_differs(
            common in arb_heads(150),
            ours in arb_heads(40),
            theirs in arb_heads(80),
            width in prop_oneof![Just(1_usize), Just(8), Just(32)],
        ) {
            let mut asker = Tree::of(common.clone());
            asker.apply(ours);
            let mut server = Tree::of(common.clone());
            server.apply(theirs.clone());
            let expected: BTreeSet<KeyHash> = common
                .iter()
                .chain(&theirs)
                .map(|head| head.key_hash)
                .filter(|hash| asker.get(hash) != server.get(hash))
                .collect();
            prop_assert_eq!(walk(&asker, &server, width), expected);

            // What it finds, merged, leaves only what ours is ahead in.
            let found = walk(&asker, &server, width);
            asker.apply(found.iter().filter_map(|hash| server.get(hash)).collect());
            for hash in walk(&asker, &server, width) {
                let (ours, theirs) = (asker.get(&hash).unwrap(), server.get(&hash).unwrap());
                prop_assert!(ours.dominates(&theirs));
            }
        }
    }
}

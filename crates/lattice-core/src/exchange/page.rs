//! Checks the pages of a fetch, each provable alone.
//!
//! A page carries the chain down from the root of its seal, all heads of its bucket, and some of the entries:
//! the chain proves the heads, and the heads prove the entries. The store merges nothing else.
//!
//! Whose seal it is, and of which epoch, is for the caller to check.

use super::{FetchAsk, InvalidAnswer, Page, PageBucket};
use crate::model::{Content, Entry, EntryHead, KeyHash};
use crate::tree::{Node, Position, Summary};

impl Page {
    /// The server's whole node at the page's position, proved to hang there under `root`, the root of the
    /// answer's seal; and each entry of the page is one of its bucket's.
    ///
    /// An entry whose value was dropped passes if it expires at all; whether that time has come is for the
    /// caller to judge, who has a clock.
    ///
    /// # Errors
    /// [`InvalidAnswer`] when anything in the page is not under the root.
    pub fn verify(&self, root: &Summary) -> Result<Node, InvalidAnswer> {
        let node = match &self.bucket {
            PageBucket::Entries { heads, .. } => Node::bucket(&self.position, heads.clone())?,
            PageBucket::Split(_) if self.position.depth() == Position::DEPTH_MAX => {
                return Err(InvalidAnswer::TooDeep);
            }
            PageBucket::Split(children) => Node::inner(children.clone())?,
        };
        self.chain.verify(&self.position, &node.summary(), root)?;
        if let PageBucket::Entries { heads, entries } = &self.bucket {
            verify_entries(heads, entries)?;
        }
        Ok(node)
    }

    /// Checks that the page answers `ask`: its position, and a leading part of its keys (each of which the
    /// bucket holds, or has held: entries are never removed).
    ///
    /// # Errors
    /// [`InvalidAnswer::Position`] and [`InvalidAnswer::Unasked`].
    pub fn answers(&self, ask: &FetchAsk) -> Result<(), InvalidAnswer> {
        if self.position != ask.position {
            return Err(InvalidAnswer::Position);
        }
        let entries = match &self.bucket {
            PageBucket::Entries { entries, .. } => entries.as_slice(),
            PageBucket::Split(_) => &[],
        };
        for (index, entry) in entries.iter().enumerate() {
            if ask.keys.get(index) != Some(&entry.key.hash()) {
                return Err(InvalidAnswer::Unasked { index });
            }
        }
        Ok(())
    }
}

/// Checks that `entries` ascend and that `heads`, already verified, commit to each of them.
fn verify_entries(heads: &[EntryHead], entries: &[Entry]) -> Result<(), InvalidAnswer> {
    let mut before: Option<KeyHash> = None;
    for (index, entry) in entries.iter().enumerate() {
        let head = entry.head();
        if before.is_some_and(|before| head.key_hash <= before) {
            return Err(InvalidAnswer::NotAscending { index });
        }
        before = Some(head.key_hash);
        if heads.binary_search_by_key(&head.key_hash, |head| head.key_hash).map(|at| heads[at]) != Ok(head) {
            return Err(InvalidAnswer::Unknown { index });
        }
        if matches!(entry.content, Content::Dropped { .. }) && entry.expires.is_none() {
            return Err(InvalidAnswer::Withheld { index });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::Digest;
    use crate::tree::fixture::{Tree, entry, golden, head};
    use crate::tree::{InvalidChain, InvalidNode};

    /// The page of the bucket of entry 5 in a tree of `count` entries, with up to three entries.
    fn page(count: u64) -> (Page, Summary, FetchAsk) {
        let tree = Tree::of(golden(count));
        let hash = head(5, 0).key_hash;
        let position = Position::towards(&hash, tree.path(&hash).len() - 1);
        let Node::Bucket(heads) = tree.node(&position) else { panic!("a path ends in a bucket") };
        let mut entries: Vec<Entry> = (0..count)
            .map(|number| entry(number, 1_000 + number))
            .filter(|entry| heads.iter().any(|head| head.key_hash == entry.key.hash()))
            .collect();
        entries.sort_by_key(|entry| entry.key.hash());
        let ask = FetchAsk { position, keys: entries.iter().map(|entry| entry.key.hash()).collect() };
        entries.truncate(3);
        let chain = tree.chain(&position);
        let bucket = PageBucket::Entries { heads, entries };
        (Page { position, chain, bucket }, tree.root.unwrap(), ask)
    }

    fn changed(page: &Page, change: impl FnOnce(&mut Vec<EntryHead>, &mut Vec<Entry>)) -> Page {
        let mut page = page.clone();
        let PageBucket::Entries { heads, entries } = &mut page.bucket else { panic!("not a bucket") };
        change(heads, entries);
        page
    }

    #[test]
    fn a_page_is_provable_alone() {
        for count in [20, 300] {
            let (page, root, ask) = page(count);
            assert!(matches!(page.verify(&root), Ok(Node::Bucket(_))));
            assert_eq!(page.answers(&ask), Ok(()));
            assert!(changed(&page, |_, entries| entries.clear()).verify(&root).is_ok());

            let short = changed(&page, |heads, _| heads.truncate(5));
            assert_eq!(short.verify(&root), Err(InvalidAnswer::Chain(InvalidChain::Root)));
            let newer = changed(&page, |heads, _| heads[0].version = head(1, 9_999).version);
            assert_eq!(newer.verify(&root), Err(InvalidAnswer::Chain(InvalidChain::Root)));
            let swapped = changed(&page, |heads, _| heads.swap(0, 1));
            assert_eq!(
                swapped.verify(&root),
                Err(InvalidAnswer::Node(InvalidNode::NotAscending { index: 1 }))
            );
        }
    }

    #[test]
    fn each_entry_of_a_page_is_one_of_its_bucket() {
        let (page, root, ask) = page(300);
        let foreign =
            changed(&page, |_, entries| entries[1].content = Content::Value(Bytes::from_static(b"x")));
        assert_eq!(foreign.verify(&root), Err(InvalidAnswer::Unknown { index: 1 }));
        let twice = changed(&page, |_, entries| entries[1] = entries[0].clone());
        assert_eq!(twice.verify(&root), Err(InvalidAnswer::NotAscending { index: 1 }));
        let swapped = changed(&page, |_, entries| entries.swap(0, 1));
        assert_eq!(swapped.verify(&root), Err(InvalidAnswer::NotAscending { index: 1 }));
        assert_eq!(swapped.answers(&ask), Err(InvalidAnswer::Unasked { index: 0 }));
        let gap = changed(&page, |_, entries| drop(entries.remove(0)));
        assert!(gap.verify(&root).is_ok());
        assert_eq!(gap.answers(&ask), Err(InvalidAnswer::Unasked { index: 0 }));
        let elsewhere = FetchAsk { position: Position::ROOT, ..ask };
        assert_eq!(page.answers(&elsewhere), Err(InvalidAnswer::Position));
    }

    #[test]
    fn a_value_may_be_missing_only_where_it_can_expire() {
        for (number, expected) in [(6, Ok(())), (5, Err(InvalidAnswer::Withheld { index: 0 }))] {
            let mut kept = entry(number, 1_000);
            let Content::Value(value) = &kept.content else { panic!("entry {number} has a value") };
            kept.content = Content::Dropped { value_digest: Digest::of(&[value]) };
            assert_eq!(verify_entries(&[kept.head()], &[kept]), expected);
        }
    }

    #[test]
    fn a_bucket_that_has_split_is_proved_too() {
        let tree = Tree::of(golden(1_000));
        let root = tree.root.unwrap();
        let position = Position::ROOT.child(3).unwrap();
        let node = tree.node(&position);
        let Node::Inner(children) = &node else { panic!("a sixteenth of 1,000 is no bucket") };
        let bucket = PageBucket::Split(children.to_vec());
        let mut page = Page { position, chain: tree.chain(&position), bucket };
        assert_eq!(page.verify(&root), Ok(node));
        assert_eq!(page.answers(&FetchAsk { position, keys: vec![head(1, 1).key_hash] }), Ok(()));
        let PageBucket::Split(children) = &mut page.bucket else { panic!("it was split") };
        children.swap(0, 1);
        assert_eq!(page.verify(&root), Err(InvalidAnswer::Chain(InvalidChain::Root)));
        let PageBucket::Split(children) = &mut page.bucket else { panic!("it was split") };
        children.pop();
        assert_eq!(page.verify(&root), Err(InvalidAnswer::Node(InvalidNode::ChildCount { count: 15 })));
    }
}

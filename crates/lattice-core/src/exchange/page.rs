//! Rebuilds the buckets of a fetch from what came and from what we know.
//!
//! A page names what its bucket holds in three ways: a bit for what the asker knows, the entry, or its head. All
//! heads together rebuild the bucket, and what its parent or the chains commit to proves them: so an entry is proved
//! with the bucket that it belongs to. The store merges nothing else.
//!
//! Whose seal it is, of which epoch, and the chains are for the caller to check.

use super::{InvalidAnswer, Known, Page, PageBucket};
use crate::model::{Content, Entry, EntryHead};
use crate::tree::{Node, Position};

impl Page {
    /// The server's whole node at the page's position; `known` are the heads that [`super::FetchAsk::known`] named, in that
    /// order. Checks its form; whether it is the sealed one is for the caller.
    ///
    /// An entry whose value was dropped passes if it expires at all; whether that time has come is for the
    /// caller to judge, who has a clock.
    ///
    /// # Errors
    /// [`InvalidAnswer`] when this is no node of a tree.
    pub fn rebuild(&self, known: &[EntryHead]) -> Result<Node, InvalidAnswer> {
        let (bits, entries, told) = match &self.bucket {
            PageBucket::Split(_) if self.position.depth() == Position::DEPTH_MAX => {
                return Err(InvalidAnswer::TooDeep);
            }
            PageBucket::Split(children) => return Ok(Node::inner(children.clone())?),
            PageBucket::Entries { known, entries, heads } => (*known, entries, heads),
        };
        if bits.checked_shr(u32::try_from(known.len()).unwrap_or(u32::MAX)).unwrap_or(0) != 0 {
            return Err(InvalidAnswer::EqualToNothing);
        }
        if let Some(index) = entries.iter().position(is_withheld) {
            return Err(InvalidAnswer::Withheld { index });
        }
        let brought: Vec<EntryHead> = entries.iter().map(Entry::head).collect();
        for heads in [&brought, told] {
            if let Some(index) = heads.windows(2).position(|pair| pair[0].key_hash >= pair[1].key_hash) {
                return Err(InvalidAnswer::NotAscending { index: index + 1 });
            }
        }
        let kept = known.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
        let mut heads: Vec<EntryHead> = kept.map(|(_, head)| *head).collect();
        heads.extend(brought);
        heads.extend(told);
        heads.sort_by_key(|head| head.key_hash);
        Ok(Node::bucket(&self.position, heads)?)
    }

    /// Checks that the page is of the place asked for.
    ///
    /// # Errors
    /// [`InvalidAnswer::Position`].
    pub fn is_at(&self, position: &Position) -> Result<(), InvalidAnswer> {
        if self.position == *position { Ok(()) } else { Err(InvalidAnswer::Position) }
    }

    /// Whether the page takes anything that the asker knows for the server's own.
    pub fn takes_known(&self) -> bool {
        matches!(self.bucket, PageBucket::Entries { known, .. } if known != 0)
    }
}

impl PageBucket {
    /// What a server answers of a bucket of `heads`, of which the asker says that it knows `known`, and brings those
    /// at `brought` (ascending) whole.
    pub fn of(heads: &[EntryHead], known: &Known, brought: Vec<(usize, Entry)>) -> Self {
        let (mut bits, mut told) = (0, Vec::new());
        for (index, head) in heads.iter().enumerate() {
            if brought.iter().any(|(at, _)| *at == index) {
                continue;
            }
            match known.find(&head.digest()).filter(|at| bits >> at & 1 == 0) {
                Some(at) => bits |= 1 << at,
                None => told.push(*head),
            }
        }
        Self::Entries {
            known: bits,
            entries: brought.into_iter().map(|(_, entry)| entry).collect(),
            heads: told,
        }
    }
}

/// Whether an entry lacks its value, although it never expires.
fn is_withheld(entry: &Entry) -> bool {
    matches!(entry.content, Content::Dropped { .. }) && entry.expires.is_none()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::Digest;
    use crate::tree::InvalidNode;
    use crate::tree::fixture::{Tree, entry, golden, head};

    /// The bucket of entry 5 in a tree of `count` entries, and all entries in it.
    fn bucket(count: u64) -> (Position, Vec<EntryHead>, Vec<Entry>) {
        let tree = Tree::of(golden(count));
        let hash = head(5, 0).key_hash;
        let position = Position::towards(&hash, tree.path(&hash).len() - 1);
        let Node::Bucket(heads) = tree.node(&position) else { panic!("a path ends in a bucket") };
        let is_here = |entry: &Entry| heads.iter().any(|head| head.key_hash == entry.key.hash());
        let mut entries: Vec<Entry> =
            (0..count).map(|number| entry(number, 1_000 + number)).filter(is_here).collect();
        entries.sort_by_key(|entry| entry.key.hash());
        (position, heads, entries)
    }

    #[test]
    fn a_bucket_is_rebuilt_from_what_is_known_brought_and_told() {
        for count in [20, 300] {
            let (position, heads, entries) = bucket(count);
            let node = Node::bucket(&position, heads.clone()).map_err(InvalidAnswer::Node);
            for (knows, brings) in
                [(0, 0), (0, heads.len()), (heads.len(), 0), (heads.len() / 2, heads.len() - 3)]
            {
                let mine = &heads[..knows];
                let brought: Vec<(usize, Entry)> =
                    entries.iter().cloned().enumerate().skip(brings.max(knows)).collect();
                let sent = brought.len();
                let page =
                    Page { position, bucket: PageBucket::of(&heads, &Known::truncate(mine, 4), brought) };
                let PageBucket::Entries { known, heads: told, .. } = &page.bucket else {
                    panic!("not a bucket")
                };
                assert_eq!((known.count_ones() as usize, told.len()), (knows, heads.len() - knows - sent));
                assert_eq!(page.rebuild(mine).as_ref(), node.as_ref());
                assert_eq!(page.takes_known(), knows > 0);
            }
            // What is known may be wanted, too.
            let wanted = vec![(1, entries[1].clone())];
            let page =
                Page { position, bucket: PageBucket::of(&heads, &Known::truncate(&heads, 32), wanted) };
            assert_eq!(page.rebuild(&heads).as_ref(), node.as_ref());
        }
    }

    #[test]
    fn a_page_that_is_no_bucket_is_refused() {
        let (position, heads, entries) = bucket(300);
        let page = |known, entries: &[Entry], heads: &[EntryHead]| Page {
            position,
            bucket: PageBucket::Entries { known, entries: entries.to_vec(), heads: heads.to_vec() },
        };
        let mut swapped = entries.clone();
        swapped.swap(0, 1);
        assert_eq!(page(0, &swapped, &[]).rebuild(&[]), Err(InvalidAnswer::NotAscending { index: 1 }));
        let twice = [heads[2], heads[2]];
        assert_eq!(page(0, &[], &twice).rebuild(&[]), Err(InvalidAnswer::NotAscending { index: 1 }));
        // Known and brought.
        assert!(matches!(
            page(1, &entries, &[]).rebuild(&heads[..1]),
            Err(InvalidAnswer::Node(InvalidNode::NotAscending { .. }))
        ));
        assert_eq!(page(0b10, &[], &[]).rebuild(&heads[..1]), Err(InvalidAnswer::EqualToNothing));
        let mut all = golden(33);
        all.sort_by_key(|head| head.key_hash);
        let all_known = Page { position: Position::ROOT, ..page(u32::MAX, &[], &[]) };
        assert!(matches!(all_known.rebuild(&all[..32]), Ok(Node::Bucket(heads)) if heads.len() == 32));
        assert_eq!(page(0, &[], &[]).is_at(&position), Ok(()));
        assert_eq!(page(0, &[], &[]).is_at(&Position::ROOT), Err(InvalidAnswer::Position));
    }

    #[test]
    fn a_value_may_be_missing_only_where_it_can_expire() {
        for (number, expected) in [(6, None), (5, Some(InvalidAnswer::Withheld { index: 0 }))] {
            let mut kept = entry(number, 1_000);
            let Content::Value(value) = &kept.content else { panic!("entry {number} has a value") };
            kept.content = Content::Dropped { value_digest: Digest::of(&[value]) };
            let bucket = PageBucket::Entries { known: 0, entries: vec![kept], heads: Vec::new() };
            let page = Page { position: Position::ROOT, bucket };
            assert_eq!(page.rebuild(&[]).err(), expected);
        }
        let forged = Entry { content: Content::Value(Bytes::from_static(b"x")), ..entry(5, 1_000) };
        let bucket = PageBucket::Entries { known: 0, entries: vec![forged], heads: Vec::new() };
        let node = Page { position: Position::ROOT, bucket }.rebuild(&[]).unwrap();
        assert_ne!(node.summary(), Node::bucket(&Position::ROOT, vec![head(5, 1_000)]).unwrap().summary());
    }

    #[test]
    fn a_bucket_that_has_split_is_rebuilt_too() {
        let tree = Tree::of(golden(1_000));
        let position = Position::ROOT.child(3).unwrap();
        let node = tree.node(&position);
        let Node::Inner(children) = &node else { panic!("a sixteenth of 1,000 is no bucket") };
        let mut page = Page { position, bucket: PageBucket::Split(children.to_vec()) };
        assert_eq!(page.rebuild(&[]), Ok(node));
        let PageBucket::Split(children) = &mut page.bucket else { panic!("it was split") };
        children.pop();
        assert_eq!(page.rebuild(&[]), Err(InvalidAnswer::Node(InvalidNode::ChildCount { count: 15 })));
        let deepest = Position::towards(&head(1, 1).key_hash, Position::DEPTH_MAX);
        assert_eq!(Page { position: deepest, ..page }.rebuild(&[]), Err(InvalidAnswer::TooDeep));
    }
}

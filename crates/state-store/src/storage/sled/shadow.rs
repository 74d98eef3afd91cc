//! What readers see of a commit before it is durable: nothing.
//!
//! sled shows a batch as soon as it is applied, some time before the fsync that makes it last. A reader who saw
//! it then could tell somebody of a write that a loss of power takes back. So a commit first notes what its keys
//! held, and until it is durable, readers get that instead. When it fails, they go on getting it: what failed is
//! never read.
//!
//! Readers look here *after* they have read from sled: whoever found the new record looks while the note is still
//! there, or after the commit has become durable.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

/// What the keys of a commit held before it; `None` where there was no record.
pub(super) type Before = BTreeMap<Bytes, Option<Bytes>>;

/// The note of the commit under way, if there is one.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    before: RwLock<Option<Arc<Before>>>,
}

impl Shadow {
    /// A commit begins to be visible in sled.
    pub(super) fn cast(&self, before: Before) {
        self.put(Some(Arc::new(before)));
    }

    /// It is durable.
    pub(super) fn lift(&self) {
        self.put(None);
    }

    /// What is to be read instead; `None` when no commit is under way.
    pub(super) fn before(&self) -> Option<Arc<Before>> {
        self.before.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is to be read of a key instead of what sled has: `None` when sled is right.
    pub(super) fn of(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.before()?.get(key).cloned()
    }

    fn put(&self, before: Option<Arc<Before>>) {
        // A single assignment: a panic elsewhere leaves it in order.
        *self.before.write().unwrap_or_else(PoisonError::into_inner) = before;
    }
}

/// The records between two keys as they were before the commit.
pub(super) fn between<'a>(
    before: &'a Before,
    from: Bound<&'a [u8]>,
    to: &'a [u8],
) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Bytes)> {
    // The map would panic on a range that ends before it begins.
    let empty = matches!(from, Bound::Included(from) | Bound::Excluded(from) if from >= to);
    let range = (!empty).then(|| before.range::<[u8], _>((from, Bound::Excluded(to))));
    range.into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_ref()?)))
}

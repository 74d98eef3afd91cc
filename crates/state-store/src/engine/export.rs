//! Reads all entries, page by page, for a backup: each as it is when it is read.

use std::ops::ControlFlow;

use lattice_core::model::{Entry, Key};

use super::open::take;
use super::records::{Records, parse_kept};
use super::{Error, Reader};
use crate::format::keys;

impl Reader {
    /// The next entries after a key, deletions and expired ones included, in order of key: at most `most`, and no
    /// more once they have `bytes`. None at the end.
    ///
    /// # Errors
    /// When the disk fails, an entry is damaged, or the store recovers: nothing is left out silently.
    pub fn export(&self, after: Option<&Key>, most: usize, bytes: usize) -> Result<Vec<Entry>, Error> {
        self.completeness()?;
        let mut from = vec![keys::CURRENT];
        if let Some(after) = after {
            from.extend_from_slice(after.as_bytes());
            from.push(0);
        }
        let records = Records::of(&*self.shared.storage);
        let mut entries = Vec::new();
        let mut size = 0;
        take(&*self.shared.storage, &from, &[keys::CURRENT + 1], |at, framed| {
            let kept = parse_kept(at, framed)?;
            let key = kept.entry.key.clone();
            // Replaced since its record was read: then as it is now.
            let entry = match records.whole(kept)? {
                Some(entry) => Some(entry),
                None => self.current(&key)?,
            };
            if let Some(entry) = entry {
                size += lattice_proto::codec::entry_bytes(&entry);
                entries.push(entry);
            }
            let full = entries.len() == most || size >= bytes;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(entries)
    }
}

//! Reads and writes records by meaning: the batch under way first, then the disk.
//!
//! A value longer than [`INLINE_BYTES_MAX`] stands apart from its entry, in pieces: moving the entry, or
//! judging a condition, then never touches the value, and no page of the database grows out of proportion.

use bytes::{Bytes, BytesMut};
use lattice_core::model::{Content, Digest, Entry, EntryHead, HeadContent, Key};
use lattice_core::time::WallTime;
use prost::Message;

use super::Error;
use crate::format::record::{self, Apart, Piece, Stored};
use crate::format::{Damaged, frame, keys};
use crate::storage::{Batch, Storage};

/// The longest value that stands in its entry's record.
pub(crate) const INLINE_BYTES_MAX: usize = 4_096;
/// The most bytes of a piece.
const PIECE_BYTES: usize = 4_096;

/// The records as a batch under way leaves them.
#[derive(Clone, Copy)]
pub(crate) struct Records<'a> {
    storage: &'a dyn Storage,
    batch: Option<&'a Batch>,
}

/// An entry as its record has it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The entry; a value that stands apart is `Dropped` here.
    pub(crate) entry: Entry,
    /// The length of the value that stands apart.
    pub(crate) apart: Option<u32>,
    /// The record, framed.
    framed: Bytes,
}

impl Kept {
    /// What the tree commits to of it.
    pub(crate) fn head(&self) -> EntryHead {
        self.entry.head()
    }

    /// Whether a client reads a value here.
    pub(crate) fn visible(&self, now: WallTime) -> bool {
        match self.apart {
            Some(_) => self.entry.expires.is_none_or(|expires| now < expires),
            None => self.entry.visible(now),
        }
    }

    /// The record as it is stored.
    pub(crate) fn record(&self) -> Bytes {
        self.framed.clone()
    }

    /// Moves the record; a value that stands apart stays where it is.
    pub(crate) fn move_to(&self, batch: &mut Batch, at: Vec<u8>) {
        batch.put(at, self.framed.clone());
    }

    /// From when on the value that is kept here reads as absent; `None` for none, or one that never does.
    pub(crate) fn term(&self) -> Option<WallTime> {
        let value = self.apart.is_some() || matches!(self.entry.content, Content::Value(_));
        self.entry.expires.filter(|_| value)
    }

    /// The same entry without its value.
    pub(crate) fn without_value(&self) -> Entry {
        let content = match &self.entry.content {
            Content::Value(value) => Content::Dropped { value_digest: Digest::of(&[value]) },
            Content::Dropped { .. } | Content::Tombstone => self.entry.content.clone(),
        };
        Entry { content, ..self.entry.clone() }
    }

    /// Removes what stands apart, if anything; the record itself is the caller's.
    pub(crate) fn remove_value(&self, batch: &mut Batch) {
        if let Some(length) = self.apart {
            let digest = self.head().digest();
            for index in 0..pieces(length as usize) {
                batch.remove(keys::piece(&digest, index));
            }
        }
    }
}

fn pieces(length: usize) -> u16 {
    u16::try_from(length.div_ceil(PIECE_BYTES)).expect("a value of 1 MiB has 256 pieces")
}

/// Writes an entry's record, and its value beside it when that is long.
pub(crate) fn put_entry(batch: &mut Batch, at: Vec<u8>, entry: &Entry) {
    let framed = framed_entry(batch, &at, entry);
    batch.put(at, framed);
}

/// Writes an entry as the current one of its key. `held` is the record there, if the caller has read it.
pub(crate) fn put_current(batch: &mut Batch, entry: &Entry, held: Option<Option<Bytes>>) {
    let at = keys::current(&entry.key);
    let framed = framed_entry(batch, &at, entry);
    match held {
        Some(held) => batch.put_over(at, framed, held),
        None => batch.put(at, framed),
    }
}

/// The record of an entry; puts a long value beside it.
fn framed_entry(batch: &mut Batch, at: &[u8], entry: &Entry) -> Bytes {
    let stored = match &entry.content {
        Content::Value(value) if value.len() > INLINE_BYTES_MAX => {
            let head = entry.head();
            let HeadContent::Value(value_digest) = head.content else {
                unreachable!("the head of a value has the value's digest")
            };
            let digest = head.digest();
            for (index, bytes) in value.chunks(PIECE_BYTES).enumerate() {
                let key =
                    keys::piece(&digest, u16::try_from(index).expect("a value of 1 MiB has 256 pieces"));
                let piece = Piece {
                    entry: Bytes::copy_from_slice(digest.as_bytes()),
                    index: index as u32,
                    bytes: value.slice_ref(bytes),
                };
                let framed = record::encode(&key, &piece);
                batch.put(key, framed);
            }
            let without = Entry { content: Content::Dropped { value_digest }, ..entry.clone() };
            let length = u32::try_from(value.len()).expect("a value has at most 1 MiB");
            Stored { entry: (&without).into(), apart: Some(Apart { length }) }
        }
        Content::Value(_) | Content::Dropped { .. } | Content::Tombstone => {
            Stored { entry: entry.into(), apart: None }
        }
    };
    record::encode(at, &stored)
}

impl<'a> Records<'a> {
    /// The records on the disk.
    pub(crate) fn of(storage: &'a dyn Storage) -> Self {
        Self { storage, batch: None }
    }

    /// The records as `batch` will leave them.
    pub(crate) fn with(storage: &'a dyn Storage, batch: &'a Batch) -> Self {
        Self { storage, batch: Some(batch) }
    }

    fn framed(&self, at: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.batch.and_then(|batch| batch.get(at)) {
            Some(changed) => Ok(changed.cloned()),
            None => Ok(self.storage.get(at)?),
        }
    }

    /// A record.
    pub(crate) fn get<Record: Message + Default>(&self, at: &[u8]) -> Result<Option<Record>, Error> {
        match self.framed(at)? {
            Some(framed) => Ok(Some(record::decode(at, &framed)?)),
            None => Ok(None),
        }
    }

    /// Whether there is a record.
    pub(crate) fn has(&self, at: &[u8]) -> Result<bool, Error> {
        Ok(self.framed(at)?.is_some())
    }

    /// The record of an entry, without a value that stands apart.
    pub(crate) fn kept(&self, at: &[u8]) -> Result<Option<Kept>, Error> {
        match self.framed(at)? {
            Some(framed) => Ok(Some(parse_kept(at, framed)?)),
            None => Ok(None),
        }
    }

    /// The current entry of a key, without a value that stands apart.
    pub(crate) fn current(&self, key: &Key) -> Result<Option<Kept>, Error> {
        let at = keys::current(key);
        match self.kept(&at)? {
            Some(kept) if kept.entry.key != *key => {
                Err(Damaged::new(&at, "holds the entry of another key").into())
            }
            kept => Ok(kept),
        }
    }

    /// The whole entry: its value is gathered when it stands apart. `None` when pieces are missing, as happens
    /// when the entry is replaced meanwhile.
    pub(crate) fn whole(&self, kept: Kept) -> Result<Option<Entry>, Error> {
        let Some(length) = kept.apart else { return Ok(Some(kept.entry)) };
        let Content::Dropped { value_digest } = kept.entry.content else { return Ok(Some(kept.entry)) };
        let digest = kept.head().digest();
        let mut value = BytesMut::with_capacity(length as usize);
        for index in 0..pieces(length as usize) {
            let Some(piece) = self.get::<Piece>(&keys::piece(&digest, index))? else { return Ok(None) };
            value.extend_from_slice(&piece.bytes);
        }
        let value = value.freeze();
        if Digest::of(&[&value]) != value_digest {
            return Err(Damaged::new(kept.entry.key.as_bytes(), "has a value of another digest").into());
        }
        Ok(Some(Entry { content: Content::Value(value), ..kept.entry }))
    }
}

/// Parses the framed record of an entry.
pub(crate) fn parse_kept(at: &[u8], framed: Bytes) -> Result<Kept, Damaged> {
    let content = frame::open(at, &framed)?;
    let stored = Stored::decode(content).map_err(|error| Damaged::new(at, error))?;
    let entry = Entry::try_from(stored.entry).map_err(|error| Damaged::new(at, error))?;
    Ok(Kept { entry, apart: stored.apart.map(|apart| apart.length), framed })
}

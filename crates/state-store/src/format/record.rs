//! The contents of the records, save the tree's nodes and the entries themselves. Private to the disk, and
//! versioned with it: fields are only added.

use bytes::Bytes;
use lattice_core::model::{EntryHead, Epoch, Incarnation};
use lattice_core::seal::Run;
use lattice_proto::{convert, types::v1 as types};
use prost::Message;

use super::frame::{self, Damaged};

/// `m identity`: whose store this is. Written with the database, changed with the incarnation.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Identity {
    /// [`super::VERSION`].
    #[prost(uint32, tag = "1")]
    pub format: u32,
    #[prost(string, tag = "2")]
    pub cluster: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub node: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub incarnation: Bytes,
    #[prost(uint32, tag = "5")]
    pub generation: u32,
    #[prost(uint64, tag = "6")]
    pub damage_generation: u64,
    #[prost(uint32, tag = "7")]
    pub epoch_ms: u32,
    /// More keys are damaged than are listed.
    #[prost(bool, tag = "8")]
    pub damage_overflow: bool,
}

/// `m state`: what changes with commits.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct State {
    /// The next epoch to seal; all before it are sealed.
    #[prost(uint64, tag = "1")]
    pub next_epoch: u64,
    /// The clock's high water.
    #[prost(fixed64, tag = "2")]
    pub clock: u64,
    /// Sealed entries up to the expiry mark.
    #[prost(uint64, tag = "3")]
    pub expired: u64,
    /// The expiry mark: the last expiry record that was counted (and removed), without its generation.
    #[prost(bytes = "bytes", tag = "4")]
    pub expired_mark: Bytes,
    /// The next commit's number.
    #[prost(uint64, tag = "5")]
    pub commit: u64,
    /// The first epoch that still takes entries: the next one to seal, or the one after it once that is being
    /// sealed.
    #[prost(uint64, tag = "6")]
    pub open_epoch: u64,
    /// The number of the last change of a current entry.
    #[prost(uint64, tag = "7")]
    pub change: u64,
    /// The number of the first change that is noted still; 0 when none was ever forgotten.
    #[prost(uint64, tag = "8")]
    pub change_from: u64,
    /// Bytes of all notes of changes.
    #[prost(uint64, tag = "9")]
    pub change_bytes: u64,
}

/// `l`: changes of current entries, one number after the other.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Changes {
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<Change>,
}

/// A change of a current entry.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Change {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The first 8 bytes of the entry's digest.
    #[prost(bytes = "bytes", tag = "2")]
    pub head: Bytes,
}

/// `m sequence`: the first announcement sequence that was never handed out.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Sequence {
    #[prost(uint64, tag = "1")]
    pub next: u64,
}

/// `m rebuild`: how far a rebuild of the derived records came. Absent when none is under way.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Rebuild {
    /// Keys up to this one are done; empty at the start.
    #[prost(bytes = "bytes", tag = "1")]
    pub done: Bytes,
}

/// `m commit`: the number of the last commit. The watermark file beside the database has it, too.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Commit {
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// `m recovering`: the store lost entries, and does not know which. Absent when it did not.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Recovering {
    /// Unix milliseconds.
    #[prost(uint64, tag = "1")]
    pub since_ms: u64,
    /// What happened, for people.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// `m salvage`: how far the salvage of a database that was set aside came. Absent when none is under way.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Salvage {
    /// The name of its folder.
    #[prost(string, tag = "1")]
    pub folder: String,
    /// 0: pieces of values; 1: entries; 2: what is missing; 3: cleaning up.
    #[prost(uint32, tag = "2")]
    pub pass: u32,
    /// The file that is being read, in order of their names, and up to where it is done.
    #[prost(uint64, tag = "3")]
    pub file: u64,
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// How long the report is up to there.
    #[prost(uint64, tag = "5")]
    pub report_bytes: u64,
    /// What came of it so far.
    #[prost(uint64, tag = "6")]
    pub entries: u64,
    #[prost(uint64, tag = "7")]
    pub lost: u64,
    #[prost(uint64, tag = "8")]
    pub illegible: u64,
}

/// `b`: a damaged entry.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DamagedKey {
    /// What it was, as far as anything intact tells.
    #[prost(message, optional, tag = "1")]
    pub head: Option<types::EntryHead>,
    #[prost(string, tag = "2")]
    pub problem: String,
    /// Unix milliseconds.
    #[prost(uint64, tag = "3")]
    pub found_ms: u64,
}

/// `d`: a peer's incarnations.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Heard {
    #[prost(bytes = "bytes", tag = "1")]
    pub incarnation: Bytes,
    /// The last ones replaced, oldest first.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub replaced: Vec<Bytes>,
}

/// `s`: a run of seals.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SealRun {
    #[prost(message, required, tag = "1")]
    pub run: types::Run,
    /// The root's entries that had not expired at the end of the last epoch.
    #[prost(uint64, tag = "2")]
    pub state_size: u64,
}

/// Any record that holds an entry. The fields of a `types.v1.Entry`, and where its value is when not in it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stored {
    #[prost(message, required, tag = "1")]
    pub entry: types::Entry,
    /// The value's length and digest, when it stands in pieces of its own; `entry` then says `dropped`.
    #[prost(message, optional, tag = "2")]
    pub apart: Option<Apart>,
}

/// A value that stands apart.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Apart {
    /// Its length in bytes.
    #[prost(uint32, tag = "1")]
    pub length: u32,
}

/// `v`: a piece of a value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Piece {
    #[prost(bytes = "bytes", tag = "1")]
    pub entry: Bytes,
    #[prost(uint32, tag = "2")]
    pub index: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub bytes: Bytes,
}

/// The framed bytes of a record.
pub(crate) fn encode(key: &[u8], record: &impl Message) -> Bytes {
    frame::seal(key, &record.encode_to_vec())
}

/// The record in framed bytes.
pub(crate) fn decode<Record: Message + Default>(key: &[u8], framed: &Bytes) -> Result<Record, Damaged> {
    Record::decode(frame::open(key, framed)?).map_err(|error| Damaged::new(key, error))
}

impl DamagedKey {
    /// What the damaged entry was; `None` where nothing intact tells.
    pub(crate) fn head(&self) -> Option<EntryHead> {
        self.head.clone().and_then(|head| EntryHead::try_from(head).ok())
    }
}

impl SealRun {
    pub(crate) fn new(run: &Run, state_size: u64) -> Self {
        Self { run: run.into(), state_size }
    }

    pub(crate) fn parse(self, at: &[u8]) -> Result<(Run, u64), Damaged> {
        let run = Run::try_from(self.run).map_err(|error| Damaged::new(at, error))?;
        Ok((run, self.state_size))
    }
}

impl State {
    pub(crate) fn next_epoch(&self) -> Epoch {
        Epoch(self.next_epoch)
    }

    pub(crate) fn open_epoch(&self) -> Epoch {
        Epoch(self.open_epoch)
    }
}

/// An incarnation in a record.
pub(crate) fn incarnation(at: &[u8], bytes: &Bytes) -> Result<Incarnation, Damaged> {
    convert::incarnation("incarnation", bytes).map_err(|error| Damaged::new(at, error))
}

/// The greatest number of a commit whose record stands somewhere in `bytes`.
pub(crate) fn last_commit(bytes: &[u8]) -> Option<u64> {
    let at = super::keys::meta("commit");
    let numbers = memchr::memmem::find_iter(bytes, b"LTm").filter_map(|start| {
        let framed = frame::leading(bytes.get(start..)?)?;
        let Commit { number } = decode(&at, &Bytes::copy_from_slice(framed)).ok()?;
        Some(number)
    });
    numbers.max()
}

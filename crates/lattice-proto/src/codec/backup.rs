//! Backup files: entries in frames that are each checked, so that a file that was damaged or cut off says so, and
//! where.
//!
//! `LTBACKUP`, one header, chunks of entries in ascending order of key, one trailer. A frame is its kind, the length
//! of its content, the content, and a checksum over all of that and the frame's number: one that is missing, doubled
//! or out of order shows as well. The trailer has the counts, and the digest of everything before it. The format is
//! told before anything else, and fields of its messages are only added.
//!
//! Neither side holds more than one frame: [`BackupWriter`] makes bytes from entries, [`BackupReader`] entries from
//! bytes, in pieces of any size.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use lattice_core::model::{Content, Digest, Entry, Incarnation, Key, NodeId};
use lattice_core::time::WallTime;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::convert::{self, InField as _, Invalid};
use crate::kv::v1 as wire;

/// What a file begins with.
const MAGIC: &[u8; 8] = b"LTBACKUP";
/// The version of the format.
const FORMAT: u32 = 1;
const HEADER: u8 = b'H';
const CHUNK: u8 = b'C';
const TRAILER: u8 = b'T';
/// Kind and length.
const HEAD_BYTES: usize = 5;
const CHECKSUM_BYTES: usize = 8;
/// The most bytes of a chunk's content, and of the other frames'.
const CHUNK_BYTES_MAX: usize = 2 << 20;
const OTHER_BYTES_MAX: usize = 4 << 10;
/// About the bytes of a chunk that is written; a long entry makes a longer one.
pub const BACKUP_CHUNK_BYTES: usize = 256 << 10;
/// The most entries of a chunk.
pub const BACKUP_CHUNK_ENTRIES: usize = 1_024;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHeader {
    /// The cluster whose entries it holds.
    pub cluster: String,
    /// The node that made it.
    pub node: NodeId,
    /// From which of its stores.
    pub incarnation: Incarnation,
    /// When it was begun, by that node's clock.
    pub time: WallTime,
    /// About how many entries follow.
    pub about: u64,
}

/// The next of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupItem {
    /// What it says of itself: the first.
    Header(BackupHeader),
    /// Entries.
    Entries(Vec<Entry>),
    /// The end; everything was there.
    End {
        /// Entries in all, deletions included.
        entries: u64,
    },
}

/// A backup that is damaged, ends early, or is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at} (frame {frame}): {problem}")]
pub struct BackupError {
    /// Where the frame begins.
    pub at: u64,
    /// Which frame: 0 is the header.
    pub frame: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// Makes a backup.
pub struct BackupWriter {
    hash: Sha256,
    frame: u64,
    entries: u64,
    chunks: u64,
}

/// Reads a backup.
pub struct BackupReader {
    buffer: BytesMut,
    hash: Sha256,
    /// Where the buffer begins.
    at: u64,
    frame: u64,
    state: State,
    entries: u64,
    chunks: u64,
    last: Option<Key>,
    /// Pieces that were pushed and are not in the buffer yet.
    pushed: VecDeque<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Magic,
    Header,
    Chunks,
    Ended,
}

fn checksum(frame: u64, kind: u8, content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::of(&[b"lattice/v1/backup\0", &frame.to_be_bytes(), &[kind], content]);
    *digest.as_bytes().first_chunk().expect("a digest has 32 bytes")
}

impl BackupWriter {
    /// Begins a backup: its first bytes.
    pub fn begin(header: &BackupHeader) -> (Self, Bytes) {
        let mut writer = Self { hash: Sha256::new(), frame: 0, entries: 0, chunks: 0 };
        writer.hash.update(MAGIC);
        let content = wire::BackupHeader {
            format: FORMAT,
            cluster: header.cluster.clone(),
            node: Bytes::copy_from_slice(header.node.as_bytes()),
            incarnation: Bytes::copy_from_slice(&header.incarnation.0),
            time_ms: header.time.millis(),
            about: header.about,
        };
        let frame = writer.frame(HEADER, &content);
        (writer, [MAGIC.as_slice(), &frame].concat().into())
    }

    /// The next bytes: these entries, at least one, which lie after those before by key.
    pub fn chunk(&mut self, entries: &[Entry]) -> Bytes {
        debug_assert!(
            (1..=BACKUP_CHUNK_ENTRIES).contains(&entries.len()),
            "a chunk has entries, and a bound"
        );
        self.entries += entries.len() as u64;
        self.chunks += 1;
        self.frame(CHUNK, &wire::BackupChunk { entries: entries.iter().map(Into::into).collect() })
    }

    /// The last bytes.
    pub fn end(mut self) -> Bytes {
        let digest = self.hash.clone().finalize();
        let digest = Bytes::copy_from_slice(&digest);
        let trailer = wire::BackupTrailer { entries: self.entries, chunks: self.chunks, digest };
        self.frame(TRAILER, &trailer)
    }

    fn frame(&mut self, kind: u8, content: &impl prost::Message) -> Bytes {
        let content = content.encode_to_vec();
        let length = u32::try_from(content.len()).expect("a frame is far below 4 GiB");
        let mut frame = Vec::with_capacity(HEAD_BYTES + content.len() + CHECKSUM_BYTES);
        frame.push(kind);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&content);
        frame.extend_from_slice(&checksum(self.frame, kind, &content));
        self.hash.update(&frame);
        self.frame += 1;
        frame.into()
    }
}

impl Default for BackupReader {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            hash: Sha256::new(),
            at: 0,
            frame: 0,
            state: State::Magic,
            entries: 0,
            chunks: 0,
            last: None,
            pushed: VecDeque::new(),
        }
    }
}

impl BackupReader {
    /// Adds the next bytes. They are held until [`Self::next_item`] has used them: ask it until it says that it
    /// needs more.
    pub fn push(&mut self, bytes: impl Into<Bytes>) {
        self.pushed.push_back(bytes.into());
    }

    /// The next of the backup; `None` when it takes more bytes, or everything was read.
    ///
    /// # Errors
    /// [`BackupError`]; nothing of what follows is to be believed.
    pub fn next_item(&mut self) -> Result<Option<BackupItem>, BackupError> {
        if self.state == State::Magic {
            if !self.fill(MAGIC.len()) {
                return Ok(None);
            }
            if self.buffer[..MAGIC.len()] != MAGIC[..] {
                return Err(self.error("is no backup of lattice"));
            }
            self.take(MAGIC.len());
            self.state = State::Header;
        }
        if self.state == State::Ended {
            let more = self.fill(1);
            return if more { Err(self.error("bytes follow the end of the backup")) } else { Ok(None) };
        }
        if !self.fill(HEAD_BYTES) {
            return Ok(None);
        }
        let kind = self.buffer[0];
        let length: [u8; 4] = self.buffer[1..HEAD_BYTES].try_into().expect("a length has 4 bytes");
        let length = u32::from_le_bytes(length) as usize;
        let max = if kind == CHUNK { CHUNK_BYTES_MAX } else { OTHER_BYTES_MAX };
        if length > max {
            return Err(self.error(format!("the frame is damaged: it says {length} bytes, and takes {max}")));
        }
        let whole = HEAD_BYTES + length + CHECKSUM_BYTES;
        if !self.fill(whole) {
            return Ok(None);
        }
        let content = &self.buffer[HEAD_BYTES..HEAD_BYTES + length];
        if self.buffer[HEAD_BYTES + length..whole] != checksum(self.frame, kind, content) {
            return Err(self.error("the frame is damaged, or not the one that belongs here"));
        }
        let content = Bytes::copy_from_slice(content);
        let digest = self.hash.clone();
        let item = match (self.state, kind) {
            (State::Header, HEADER) => header(content),
            (State::Chunks, CHUNK) => self.chunk(content),
            (State::Chunks, TRAILER) => self.trailer(content, digest),
            _ => Err("the frame is of a kind that does not belong here".to_owned()),
        };
        let item = item.map_err(|problem| self.error(problem))?;
        self.state = if kind == TRAILER { State::Ended } else { State::Chunks };
        self.take(whole);
        self.frame += 1;
        Ok(Some(item))
    }

    /// To be called after the last byte: whether that was the end of the backup.
    ///
    /// # Errors
    /// [`BackupError`] when the backup ends early.
    pub fn finish(&self) -> Result<(), BackupError> {
        match self.state {
            State::Ended => Ok(()),
            State::Magic | State::Header | State::Chunks => {
                let rest = self.buffer.len() + self.pushed.iter().map(Bytes::len).sum::<usize>();
                let problem = match rest {
                    0 => "the file ends early: the rest is missing".to_owned(),
                    rest => format!("the file ends early: of this frame there are {rest} bytes"),
                };
                Err(self.error(problem))
            }
        }
    }

    /// How many entries were read.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    fn chunk(&mut self, content: Bytes) -> Result<BackupItem, String> {
        let chunk = wire::BackupChunk::decode(content).map_err(|error| error.to_string())?;
        if chunk.entries.is_empty() || chunk.entries.len() > BACKUP_CHUNK_ENTRIES {
            let count = chunk.entries.len();
            return Err(format!("entries: takes 1 to {BACKUP_CHUNK_ENTRIES}, got {count}"));
        }
        let mut entries = Vec::with_capacity(chunk.entries.len());
        for (index, entry) in chunk.entries.into_iter().enumerate() {
            let entry = checked(entry, self.last.as_ref()).in_item("entries", index);
            let entry = entry.map_err(|invalid| invalid.to_string())?;
            self.last = Some(entry.key.clone());
            entries.push(entry);
        }
        self.entries += entries.len() as u64;
        self.chunks += 1;
        Ok(BackupItem::Entries(entries))
    }

    fn trailer(&self, content: Bytes, before: Sha256) -> Result<BackupItem, String> {
        let trailer = wire::BackupTrailer::decode(content).map_err(|error| error.to_string())?;
        if (trailer.entries, trailer.chunks) != (self.entries, self.chunks) {
            let (entries, chunks) = (self.entries, self.chunks);
            return Err(format!(
                "the backup has {} entries in {} chunks by its trailer, and {entries} in {chunks} were read",
                trailer.entries, trailer.chunks
            ));
        }
        if trailer.digest[..] != before.finalize()[..] {
            return Err("the digest of the whole is another one".to_owned());
        }
        Ok(BackupItem::End { entries: self.entries })
    }

    /// Whether so many bytes are in the buffer; takes them from what was pushed.
    fn fill(&mut self, bytes: usize) -> bool {
        while self.buffer.len() < bytes {
            let Some(mut piece) = self.pushed.pop_front() else { return false };
            let more = piece.split_to(piece.len().min(bytes - self.buffer.len()));
            self.buffer.extend_from_slice(&more);
            if !piece.is_empty() {
                self.pushed.push_front(piece);
            }
        }
        true
    }

    fn take(&mut self, bytes: usize) {
        self.hash.update(&self.buffer[..bytes]);
        self.buffer.advance(bytes);
        self.at += bytes as u64;
    }

    fn error(&self, problem: impl Into<String>) -> BackupError {
        BackupError { at: self.at, frame: self.frame, problem: problem.into() }
    }
}

fn header(content: Bytes) -> Result<BackupItem, String> {
    let header = wire::BackupHeader::decode(content).map_err(|error| error.to_string())?;
    if header.format != FORMAT {
        return Err(format!("the backup has format {}: this release reads {FORMAT}", header.format));
    }
    let parsed = || -> Result<BackupHeader, Invalid> {
        Ok(BackupHeader {
            cluster: convert::cluster("cluster", header.cluster.clone())?,
            node: convert::node("node", &header.node)?,
            incarnation: convert::incarnation("incarnation", &header.incarnation)?,
            time: WallTime(header.time_ms),
            about: header.about,
        })
    };
    parsed().map(BackupItem::Header).map_err(|invalid| invalid.to_string())
}

fn checked(entry: crate::types::v1::Entry, before: Option<&Key>) -> Result<Entry, Invalid> {
    let entry = Entry::try_from(entry)?;
    if before.is_some_and(|before| *before >= entry.key) {
        return Err(Invalid::new("key", "does not lie after the one before it"));
    }
    if matches!(entry.content, Content::Dropped { .. }) && entry.expires.is_none() {
        return Err(Invalid::new("dropped", "is for an entry that expires"));
    }
    Ok(entry)
}

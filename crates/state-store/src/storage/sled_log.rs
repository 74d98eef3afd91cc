//! Reads sled's log before sled does.
//!
//! What sled 0.34 does not understand of its own log it takes for the torn end of a crash: it goes on without it,
//! and overwrites it with zeros. So a flipped bit costs everything written after it, without an error. This
//! module reads what sled would replay, by the same rules, and tells a log that ends from one that is damaged:
//! what was stable when later segments were begun is never torn by a crash. It also finds the number of the last
//! commit in it, to be compared with what was acknowledged. It writes nothing.
//!
//! What lies before the last snapshot is not replayed: sled finds it by the snapshot, and checks each page when it
//! reads it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

/// The bytes of a segment's header, and the most of a message's.
const SEGMENT_HEADER: usize = 20;
const MESSAGE_HEADER_MAX: usize = 32;
/// What the numbers in a segment's header are combined with, so that zeros are none.
const MASK: i64 = 0x7fff_ffff_ffff_ffff;
/// The longest segment that sled takes.
const SEGMENT_BYTES_MAX: usize = 16 << 20;
/// The most damaged places that are told one by one.
const PLACES_MAX: usize = 1_000;

/// What a look at a log came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// sled will replay all of it.
    Sound {
        /// The number of the last commit that it will find; `None` when there is none in the log.
        last_commit: Option<u64>,
    },
    /// sled would lose something, or fail.
    Damaged {
        /// The places, each on one line.
        places: Vec<String>,
    },
}

/// A segment that sled would replay.
struct Segment {
    lsn: i64,
    bytes: Vec<u8>,
    offset: u64,
}

struct Header {
    lsn: i64,
    stable: i64,
}

/// A message of a segment.
enum Message<'a> {
    /// One that says something, with its content.
    Content(&'a [u8]),
    /// The content stands in a file of its own.
    Apart(i64),
    /// What follows is only there if the log goes on up to this number.
    Batch(i64),
    /// Nothing comes after it in its segment.
    Cap,
}

/// How the messages of a segment ended.
enum End {
    /// With the segment.
    Whole,
    /// With something that is no message, at this place in the segment.
    Broken(usize),
    /// With a batch whose end is missing.
    Torn,
}

struct Log {
    file: File,
    segment_bytes: usize,
    blobs: std::path::PathBuf,
}

/// Looks at the log of the database in `path`; of none, or one that sled has not begun, there is nothing to say.
///
/// # Errors
/// When the files cannot be read.
pub fn inspect(path: &Path) -> io::Result<Inspection> {
    let nothing = Inspection::Sound { last_commit: None };
    let file = match File::open(path.join("db")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing),
        Err(error) => return Err(error),
    };
    let damaged = |place: String| Ok(Inspection::Damaged { places: vec![place] });
    let segment_bytes = match fs::read(path.join("conf")) {
        Ok(conf) => segment_bytes(&conf),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing),
        Err(error) => return Err(error),
    };
    let Some(segment_bytes) = segment_bytes else {
        return damaged("conf: fails its checksum".to_owned());
    };
    let base = match snapshot(path)? {
        Ok(base) => base,
        Err(place) => return damaged(place),
    };
    Log { file, segment_bytes, blobs: path.join("blobs") }.inspect(base)
}

impl Log {
    fn inspect(&self, base: i64) -> io::Result<Inspection> {
        let mut places = Vec::new();
        let (all, stable) = self.headers(base, &mut places)?;
        let length = self.segment_bytes as i64;
        let replayed = base / length * length;
        let tail = stable.max(0) / length * length;

        // The tail may end anywhere; what lies before it was stable, and is whole.
        let mut end = None;
        let mut expected = tail;
        for (lsn, offset) in all.range(tail..) {
            if *lsn != expected {
                break;
            }
            expected += length;
            let segment = self.segment(*lsn, *offset)?;
            match self.messages(&segment, i64::MAX, &mut |_| Ok(()))? {
                (_, End::Whole) => end = Some(lsn + length - 1),
                (at, _) => {
                    end = Some(lsn + at as i64 - 1);
                    break;
                }
            }
        }
        let end = end.unwrap_or(tail - 1);
        for (lsn, offset) in all.range(replayed..tail) {
            let segment = self.segment(*lsn, *offset)?;
            let mut apart = Vec::new();
            let (_, ended) = self.messages(&segment, i64::MAX, &mut |message| {
                if let Message::Apart(blob) = message {
                    apart.push(blob);
                }
                Ok(())
            })?;
            if let End::Broken(at) = ended
                && places.len() < PLACES_MAX
            {
                let left = self.segment_bytes - at;
                places.push(format!("db: {left} bytes from {} on are no log", offset + at as u64));
            }
            for blob in apart {
                if !self.blob_is_sound(blob)? && places.len() < PLACES_MAX {
                    places.push(format!("blobs/{blob}: fails its checksum"));
                }
            }
        }
        if !places.is_empty() {
            return Ok(Inspection::Damaged { places });
        }
        // The last commit stands in the last segment, or not long before it.
        for (lsn, offset) in all.range(..=end).rev() {
            let mut last = None;
            let segment = self.segment(*lsn, *offset)?;
            self.messages(&segment, end, &mut |message| {
                if let Message::Content(content) = message {
                    last = last.max(crate::format::last_commit(content));
                }
                Ok(())
            })?;
            if last.is_some() {
                return Ok(Inspection::Sound { last_commit: last });
            }
        }
        Ok(Inspection::Sound { last_commit: None })
    }

    /// Where all segments are, and up to where the log was stable when the last of them was begun.
    fn headers(&self, base: i64, places: &mut Vec<String>) -> io::Result<(BTreeMap<i64, u64>, i64)> {
        let bytes = self.file.metadata()?.len();
        let mut all = BTreeMap::new();
        let mut stable = base / self.segment_bytes as i64 * self.segment_bytes as i64;
        for index in 0..bytes.div_ceil(self.segment_bytes as u64) {
            let offset = index * self.segment_bytes as u64;
            let mut header = [0; SEGMENT_HEADER];
            if self.read_at(&mut header, offset)? < SEGMENT_HEADER || header == [0; SEGMENT_HEADER] {
                continue;
            }
            match parse_header(&header).filter(|header| header.lsn % self.segment_bytes as i64 == 0) {
                Some(header) => {
                    if header.lsn >= base / self.segment_bytes as i64 * self.segment_bytes as i64 {
                        stable = stable.max(header.stable);
                    }
                    if all.insert(header.lsn, offset).is_some() {
                        places.push(format!("db: the segment at {offset} is there twice"));
                    }
                }
                None if places.len() < PLACES_MAX => {
                    places.push(format!("db: the header of the segment at {offset} fails its checksum"));
                }
                None => {}
            }
        }
        Ok((all, stable))
    }

    fn segment(&self, lsn: i64, offset: u64) -> io::Result<Segment> {
        let mut bytes = vec![0; self.segment_bytes];
        self.read_at(&mut bytes, offset)?;
        Ok(Segment { lsn, bytes, offset })
    }

    /// Visits the messages of a segment, up to `end` at most; where it stopped, and why.
    fn messages(
        &self,
        segment: &Segment,
        end: i64,
        visit: &mut dyn FnMut(Message<'_>) -> io::Result<()>,
    ) -> io::Result<(usize, End)> {
        debug_assert!(segment.offset.is_multiple_of(self.segment_bytes as u64), "segments are aligned");
        let number = u64::try_from(segment.lsn).unwrap_or_default() / self.segment_bytes as u64;
        let mut at = SEGMENT_HEADER;
        while at + MESSAGE_HEADER_MAX <= self.segment_bytes {
            if segment.lsn + at as i64 > end {
                return Ok((at, End::Torn));
            }
            let Some((message, next)) = parse_message(&segment.bytes, at, number) else {
                return Ok((at, End::Broken(at)));
            };
            match message {
                Message::Cap => return Ok((self.segment_bytes, End::Whole)),
                Message::Batch(last) if last > end => return Ok((at, End::Torn)),
                message => visit(message)?,
            }
            at = next;
        }
        Ok((self.segment_bytes, End::Whole))
    }

    /// A file that is gone was let go: sled passes over it, too.
    fn blob_is_sound(&self, blob: i64) -> io::Result<bool> {
        match fs::read(self.blobs.join(blob.to_string())) {
            Ok(bytes) => Ok(bytes
                .split_first_chunk()
                .is_some_and(|(sum, content)| u32::from_le_bytes(*sum) == crc32fast::hash(content))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there of `bytes`.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match self.file.read_at(&mut bytes[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

fn parse_header(bytes: &[u8; SEGMENT_HEADER]) -> Option<Header> {
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*sum) ^ u32::MAX != crc32fast::hash(rest) {
        return None;
    }
    let number = |at: usize| rest.get(at..at + 8)?.try_into().ok().map(i64::from_le_bytes);
    Some(Header { lsn: number(0)? ^ MASK, stable: number(8)? ^ MASK })
}

/// The message at a place, and where the next one begins; `None` for what is none.
fn parse_message(segment: &[u8], at: usize, number: u64) -> Option<(Message<'_>, usize)> {
    let message = segment.get(at..)?;
    let (sum, mut rest) = message.split_first_chunk::<4>()?;
    let kind = *rest.first()?;
    rest = &rest[1..];
    let length = varint(&mut rest)?;
    let segment_number = varint(&mut rest)?;
    let _page = varint(&mut rest)?;
    let header = message.len() - rest.len();
    let content = rest.get(..usize::try_from(length).ok()?)?;
    if kind == 0 || kind > 11 {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(content);
    hasher.update(&message[4..header]);
    if hasher.finalize() ^ u32::MAX != u32::from_le_bytes(*sum) || segment_number != number {
        return None;
    }
    let lsn = || content.first_chunk().map(|bytes| i64::from_le_bytes(*bytes));
    let message = match kind {
        2 => Message::Cap,
        3 => Message::Batch(lsn()?),
        7 | 9 | 11 => Message::Apart(lsn()?),
        _ => Message::Content(content),
    };
    Some((message, at + header + content.len()))
}

/// A number as sled writes it.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let byte = |at: usize| bytes.get(at).copied().map(u64::from);
    let (number, length) = match first {
        0..=240 => (u64::from(first), 1),
        241..=248 => (240 + 256 * (u64::from(first) - 241) + byte(1)?, 2),
        249 => (2_288 + 256 * byte(1)? + byte(2)?, 3),
        250.. => {
            let length = usize::from(first) - 247;
            let mut number = [0; 8];
            number[..length].copy_from_slice(bytes.get(1..=length)?);
            (u64::from_le_bytes(number), length + 1)
        }
    };
    *bytes = &bytes[length..];
    Some(number)
}

/// What `conf` says of the length of segments.
fn segment_bytes(conf: &[u8]) -> Option<usize> {
    let (text, sum) = conf.split_last_chunk::<4>()?;
    if crc32fast::hash(text) != u32::from_le_bytes(*sum) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("segment_size: "))?.trim().parse().ok()?;
    (256..=SEGMENT_BYTES_MAX).contains(&bytes).then_some(bytes)
}

/// Up to where the newest snapshot has the log, 0 without one; or what is wrong with it.
fn snapshot(path: &Path) -> io::Result<Result<i64, String>> {
    let mut newest: Option<(i64, String)> = None;
    for file in fs::read_dir(path)? {
        let name = file?.file_name();
        let Some(name) = name.to_str() else { continue };
        let lsn = name.strip_prefix("snap.").and_then(|lsn| i64::from_str_radix(lsn, 16).ok());
        if let Some(lsn) = lsn
            && newest.as_ref().is_none_or(|(newest, _)| *newest < lsn)
        {
            newest = Some((lsn, name.to_owned()));
        }
    }
    let Some((lsn, name)) = newest else { return Ok(Ok(0)) };
    let bytes = Bytes::from(fs::read(path.join(&name))?);
    let sound = bytes.len() > 12 && {
        let (content, rest) = bytes.split_at(bytes.len() - 12);
        rest[8..] == crc32fast::hash(content).to_le_bytes()
    };
    Ok(if sound { Ok(lsn) } else { Err(format!("{name}: fails its checksum")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{keys, record};
    use crate::storage::{Batch, SledStorage, Storage as _};

    fn commit(storage: &SledStorage, number: u64, bytes: usize) {
        let mut batch = Batch::default();
        let at = keys::meta("commit");
        let framed = record::encode(&at, &record::Commit { number });
        batch.put(at, framed);
        batch.put(format!("ckey-{}", number % 500).into_bytes(), vec![number as u8; bytes]);
        storage.commit(&batch).unwrap();
    }

    #[test]
    fn the_last_commit_of_a_sound_log_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sled");
        assert_eq!(inspect(&path).unwrap(), Inspection::Sound { last_commit: None });
        let mut number = 0;
        for commits in [0, 1, 3, 400, 0, 2_000, 1] {
            let storage = SledStorage::open(folder.path(), 1 << 20).unwrap();
            for _ in 0..commits {
                number += 1;
                commit(&storage, number, 700);
            }
            // While it is open, too: a killed process leaves just this.
            let last_commit = (number > 0).then_some(number);
            assert_eq!(inspect(&path).unwrap(), Inspection::Sound { last_commit }, "open");
            drop(storage);
            assert_eq!(inspect(&path).unwrap(), Inspection::Sound { last_commit }, "closed");
        }
    }

    #[test]
    fn no_flip_in_what_is_replayed_hides_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sled");
        let storage = SledStorage::open(folder.path(), 1 << 20).unwrap();
        for number in 1..=800 {
            commit(&storage, number, 3_000);
        }
        drop(storage);
        let file = File::options().write(true).read(true).open(path.join("db")).unwrap();
        let length = file.metadata().unwrap().len();
        let mut noticed = 0;
        for case in 0..300 {
            let at = case * (length / 300) + case % 7;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            match inspect(&path).unwrap() {
                Inspection::Damaged { places } => {
                    noticed += 1;
                    assert!(places.iter().all(|place| place.starts_with("db: ")), "{places:?}");
                }
                // In the end that a crash could have torn, it shows as commits that are missing; else it is in
                // what nothing was written to.
                Inspection::Sound { last_commit } => {
                    let missing = last_commit < Some(800);
                    let unused = byte == [0] || !missing;
                    noticed += u64::from(missing);
                    assert!(missing || unused, "at {at}");
                }
            }
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(noticed > 200, "{noticed} of 300 flips were noticed");
        assert_eq!(inspect(&path).unwrap(), Inspection::Sound { last_commit: Some(800) });
    }
}

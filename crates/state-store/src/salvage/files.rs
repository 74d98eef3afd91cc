//! Finds records in the bytes of files, whatever wrote them, with a bounded amount of memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::format::frame::{self, FRAMED_BYTES_MAX};

/// How much is read at a time: the longest record fits several times.
const WINDOW: usize = 1 << 20;
/// How much is passed over where the disk does not read.
const SECTOR: u64 = 4_096;
/// How deep folders are followed.
const DEPTH_MAX: usize = 8;

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The file, by its place in the list, and where in it.
    pub(crate) file: u64,
    pub(crate) offset: u64,
    /// Where to go on.
    pub(crate) next: u64,
    pub(crate) what: What,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An intact record: its kind, and what it holds.
    Intact(u8, Bytes),
    /// What is left of a record: its kind, and what stands where its content was.
    Broken(u8, Bytes),
    /// Bytes that the disk does not give back, so many.
    Unreadable(u64),
}

/// The files below a folder, in an order that stays.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(folder, 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.push(entry.path());
        } else if kind.is_dir() && depth < DEPTH_MAX {
            collect(&entry.path(), depth + 1, files)?;
        }
    }
    Ok(())
}

/// Goes through files from a place on.
pub(crate) struct Finder<'a> {
    files: &'a [PathBuf],
    index: usize,
    open: Option<(File, u64)>,
    /// Where in the file the next look is, and the bytes from `start` on.
    offset: u64,
    start: u64,
    window: Vec<u8>,
}

impl<'a> Finder<'a> {
    pub(crate) fn new(files: &'a [PathBuf], file: u64, offset: u64) -> Self {
        let index = usize::try_from(file).unwrap_or(usize::MAX);
        Self { files, index, open: None, offset, start: 0, window: Vec::new() }
    }

    /// The next thing in these files; `None` at their end.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub(crate) fn next(&mut self) -> io::Result<Option<Item>> {
        loop {
            let Some(path) = self.files.get(self.index) else { return Ok(None) };
            if self.open.is_none() {
                let file = File::open(path)?;
                let length = file.metadata()?.len();
                self.open = Some((file, length));
                (self.start, self.window) = (self.offset, Vec::new());
            }
            let length = self.open.as_ref().map_or(0, |(_, length)| *length);
            if self.offset >= length {
                (self.open, self.offset) = (None, 0);
                self.index += 1;
                continue;
            }
            if let Some(unreadable) = self.fill(length)? {
                return Ok(Some(unreadable));
            }
            let within = usize::try_from(self.offset - self.start).unwrap_or(usize::MAX);
            let Some(at) = frame::next(&self.window, within) else {
                // The last byte may be the first of a mark; where no more can be read, it is not.
                let end = self.start + self.window.len() as u64;
                self.offset = match self.window.len() {
                    _ if end >= length => length,
                    0 => length,
                    1 => end,
                    _ => end - 1,
                };
                continue;
            };
            self.offset = self.start + at as u64;
            let cut = self.window.len() - at < FRAMED_BYTES_MAX;
            if at > 0 && cut && self.start + (self.window.len() as u64) < length {
                // Once more, from here on, with as much of it in view as can be read.
                (self.start, self.window) = (self.offset, Vec::new());
                continue;
            }
            if let Some(item) = self.recognize(at) {
                return Ok(Some(item));
            }
        }
    }

    /// What begins at a place of the window; goes on behind it.
    fn recognize(&mut self, at: usize) -> Option<Item> {
        let (file, offset) = (self.index as u64, self.offset);
        let copy = |content: &[u8]| Bytes::copy_from_slice(content);
        let (what, length) = match frame::recognize(&self.window[at..]) {
            frame::Found::Intact { kind, content } => {
                (What::Intact(kind, copy(content)), frame::framed_bytes(content.len()))
            }
            // It may hide an intact one.
            frame::Found::Broken { kind, content } => (What::Broken(kind, copy(content)), 1),
            frame::Found::Cut { .. } => {
                self.offset += 1;
                return None;
            }
        };
        self.offset += length as u64;
        Some(Item { file, offset, next: self.offset, what })
    }

    /// Brings what is to be looked at into the window.
    fn fill(&mut self, length: u64) -> io::Result<Option<Item>> {
        let end = self.start + self.window.len() as u64;
        let in_view = end.saturating_sub(self.offset);
        if self.offset >= self.start && (in_view >= FRAMED_BYTES_MAX as u64 || (end >= length && in_view > 0))
        {
            return Ok(None);
        }
        let Some((file, _)) = &self.open else { return Ok(None) };
        self.start = self.offset;
        self.window.resize(usize::try_from(length - self.offset).unwrap_or(WINDOW).min(WINDOW), 0);
        let mut read = 0;
        while read < self.window.len() {
            match file.read_at(&mut self.window[read..], self.start + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What comes before it is looked at first.
                Err(_) if read > 0 => break,
                Err(_) => {
                    self.window.clear();
                    let (offset, file) = (self.offset, self.index as u64);
                    self.offset = (offset / SECTOR + 1) * SECTOR;
                    let what = What::Unreadable(self.offset - offset);
                    return Ok(Some(Item { file, offset, next: self.offset, what }));
                }
            }
        }
        self.window.truncate(read);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::keys;

    fn found(files: &[PathBuf], file: u64, offset: u64) -> Vec<Item> {
        let mut finder = Finder::new(files, file, offset);
        std::iter::from_fn(|| finder.next().unwrap()).collect()
    }

    #[test]
    fn records_are_found_among_noise_and_at_the_edges_of_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for number in 0..400_u32 {
            bytes.extend(std::iter::repeat_n(b'L', (number as usize * 37) % 9_000));
            let content = vec![number as u8; (number as usize * 91) % 8_000];
            let key = [&[keys::CURRENT], &number.to_be_bytes()[..]].concat();
            expected.push((bytes.len() as u64, content.clone()));
            bytes.extend_from_slice(&frame::seal(&key, &content));
        }
        assert!(bytes.len() > 2 * WINDOW);
        fs::write(folder.path().join("b"), &bytes).unwrap();
        fs::write(folder.path().join("a"), frame::seal(b"pkey", b"first")).unwrap();
        let files = list(folder.path()).unwrap();
        let items = found(&files, 0, 0);
        assert_eq!(items.len(), 401);
        assert_eq!(items[0].what, What::Intact(b'p', Bytes::from_static(b"first")));
        for (item, (offset, content)) in items[1..].iter().zip(&expected) {
            assert_eq!((item.file, item.offset), (1, *offset));
            assert_eq!(item.what, What::Intact(frame::ENTRY, content.clone().into()));
        }
        // From anywhere on, the same ones follow.
        for index in [0, 1, 100, 399] {
            assert_eq!(found(&files, items[index].file, items[index].next), items[index + 1..]);
        }
    }

    #[test]
    fn a_broken_record_does_not_hide_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let one = frame::seal(b"ckey", &[7; 100]);
        let mut bytes = [&one[..], &one[..]].concat();
        bytes[50] ^= 4;
        fs::write(folder.path().join("a"), &bytes).unwrap();
        let items = found(&list(folder.path()).unwrap(), 0, 0);
        assert_eq!(items.len(), 2);
        assert!(matches!(&items[0].what, What::Broken(frame::ENTRY, content) if content.len() == 100));
        assert!(matches!(&items[1].what, What::Intact(frame::ENTRY, _)));
        // A length beyond all bounds is none.
        bytes[6] = 0xff;
        fs::write(folder.path().join("a"), &bytes).unwrap();
        assert_eq!(found(&list(folder.path()).unwrap(), 0, 0).len(), 2);
    }
}

//! Saves what can be saved from a database that was set aside.
//!
//! Its files are read as bytes, three times: records carry what they are and a checksum (`format::frame`), so no
//! storage engine has to understand the rest. The engine takes over what is found (`engine::salvage`), batch by
//! batch, and remembers how far it came: an interrupted salvage goes on from there. What is lost goes to a report
//! in the folder, by key where that is legible, else by file, place and size. The folder itself is only read.

mod files;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::{EntryHead, Key};

use crate::engine::{self, Engine, Lost, Now};
use crate::format::{frame, heads, keys, node, record};
use files::{Finder, Item, What};

/// The report in the folder, and the file that says that all is done.
pub(crate) const REPORT: &str = "REPORT";
pub(crate) const SALVAGED: &str = "SALVAGED";
/// Why a folder was set aside.
pub(crate) const REASON: &str = "REASON";
/// What one commit takes over, at most.
const ITEMS: usize = 256;
const BYTES: usize = 1 << 20;
/// How often it is told how far a salvage is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Why a salvage ended early. It goes on at the next start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be read, or the report not written.
    #[error("salvage {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The new database fails.
    #[error("salvage {path}: {source}")]
    Store {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: engine::Error,
    },
}

/// What came of a salvage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Entries that were merged, older versions of keys among them.
    pub entries: u64,
    /// Keys whose newest entry is lost.
    pub lost: u64,
    /// Damaged places of which nobody can tell what they held.
    pub illegible: u64,
}

/// What a pass looks for. The number is part of the disk format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pass {
    Pieces = 0,
    Entries = 1,
    Missing = 2,
    Clean = 3,
}

/// What was found and waits for the commit.
#[derive(Default)]
struct Found {
    contents: Vec<Bytes>,
    named: Vec<(Key, EntryHead)>,
    broken: Vec<Item>,
    bytes: usize,
}

impl Found {
    fn len(&self) -> usize {
        self.contents.len() + self.named.len() + self.broken.len()
    }
}

struct Salvage<'a> {
    engine: &'a mut Engine,
    folder: &'a Path,
    files: Vec<PathBuf>,
    progress: record::Salvage,
    report: File,
    now: &'a dyn Fn() -> Now,
}

/// Salvages the database in `folder`.
///
/// # Errors
/// [`Error`]; what was done stays done.
pub fn run(engine: &mut Engine, folder: &Path, now: &dyn Fn() -> Now) -> Result<Salvaged, Error> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let store = |source| Error::Store { path: folder.to_owned(), source };
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let progress = engine.salvage_progress().map_err(store)?.filter(|progress| progress.folder == name);
    let progress = progress.unwrap_or_else(|| record::Salvage { folder: name, ..record::Salvage::default() });
    let mut files = files::list(folder).map_err(io)?;
    files.retain(|file| ![REPORT, SALVAGED, REASON].iter().any(|ours| *file == folder.join(ours)));
    let report = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(REPORT));
    let mut report = report.map_err(io)?;
    report.set_len(progress.report_bytes).map_err(io)?;
    report.seek(SeekFrom::End(0)).map_err(io)?;
    let mut salvage = Salvage { engine, folder, files, progress, report, now };
    salvage.run()?;
    let record::Salvage { entries, lost, illegible, .. } = salvage.progress;
    done(folder).map_err(io)?;
    Ok(Salvaged { entries, lost, illegible })
}

/// Says that a folder is done with.
fn done(folder: &Path) -> io::Result<()> {
    File::create(folder.join(SALVAGED))?.sync_all()?;
    File::open(folder)?.sync_all()
}

impl Salvage<'_> {
    fn run(&mut self) -> Result<(), Error> {
        for pass in [Pass::Pieces, Pass::Entries, Pass::Missing] {
            if self.progress.pass == pass as u32 {
                tracing::info!(folder = self.progress.folder, ?pass, "salvaging");
                self.pass(pass)?;
                (self.progress.file, self.progress.offset) = (0, 0);
                self.progress.pass += 1;
            }
        }
        debug_assert!(self.progress.pass == Pass::Clean as u32, "passes follow each other");
        while self.engine.salvage_clean().map_err(|source| self.failed(source))? {}
        Ok(())
    }

    fn failed(&self, source: engine::Error) -> Error {
        Error::Store { path: self.folder.to_owned(), source }
    }

    fn io(&self) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.folder.to_owned();
        move |source| Error::Io { path: path.clone(), source }
    }

    fn pass(&mut self, pass: Pass) -> Result<(), Error> {
        let files = std::mem::take(&mut self.files);
        let mut finder = Finder::new(&files, self.progress.file, self.progress.offset);
        let mut told = (self.now)().monotonic;
        let mut found = Found::default();
        loop {
            let item = finder.next().map_err(self.io())?;
            let end = item.is_none();
            if let Some(item) = item {
                (self.progress.file, self.progress.offset) = (item.file, item.next);
                sort(pass, item, &mut found);
            }
            if end || found.len() >= ITEMS || found.bytes >= BYTES {
                self.take_over(pass, std::mem::take(&mut found), &files)?;
                let now = (self.now)().monotonic;
                if now.since(told) >= TELL_EVERY {
                    told = now;
                    let record::Salvage { folder, file, offset, entries, lost, .. } = &self.progress;
                    let of = files.len();
                    tracing::info!(folder, ?pass, file, of, offset, entries, lost, "salvaging");
                }
            }
            if end {
                break;
            }
        }
        self.files = files;
        Ok(())
    }

    /// Takes over what was found, and reports what is lost; once both are on the disk, so is how far it came.
    fn take_over(&mut self, pass: Pass, found: Found, files: &[PathBuf]) -> Result<(), Error> {
        let now = (self.now)();
        match pass {
            Pass::Pieces => {
                let taken = self.engine.salvage_pieces(&found.contents, &self.progress);
                taken.map_err(|source| self.failed(source))
            }
            Pass::Entries => {
                let lost = self.engine.salvage_entries(&found.contents, &mut self.progress, now);
                for lost in lost.map_err(|source| self.failed(source))? {
                    self.report_lost(
                        &lost,
                        "is too far ahead of the clock, and there was no room to hold it",
                    )?;
                }
                Ok(())
            }
            Pass::Missing => self.compare(found, files, now),
            Pass::Clean => Ok(()),
        }
    }

    fn compare(&mut self, found: Found, files: &[PathBuf], now: Now) -> Result<(), Error> {
        for item in &found.broken {
            self.report_broken(item, files)?;
        }
        let lost = self.engine.salvage_missing(found.named, &mut self.progress, now);
        for lost in lost.map_err(|source| self.failed(source))? {
            self.report_lost(&lost, "could not be salvaged")?;
        }
        Ok(())
    }

    fn report_broken(&mut self, item: &Item, files: &[PathBuf]) -> Result<(), Error> {
        let name = usize::try_from(item.file).ok().and_then(|index| files.get(index));
        let name = name.map(|path| path.strip_prefix(self.folder).unwrap_or(path).display().to_string());
        let place = format!("{} at {}", name.unwrap_or_default(), item.offset);
        let (what, length) = match &item.what {
            What::Broken(kind, content) => {
                if *kind == frame::ENTRY {
                    let legible =
                        self.engine.salvage_legible(content).map_err(|source| self.failed(source))?;
                    match legible {
                        Some(None) => return Ok(()),
                        Some(Some(lost)) => {
                            let what = format!("stood in {place} and is damaged; an older one may be here");
                            return self.report_lost(&lost, &what);
                        }
                        None => {}
                    }
                }
                ("a damaged record, perhaps one that was replaced long ago", content.len() as u64)
            }
            What::Unreadable(bytes) => ("the disk does not give back", *bytes),
            What::Intact(..) => return Ok(()),
        };
        self.progress.illegible += 1;
        self.line(&format!("place {place}, {length} bytes: {what}"))
    }

    fn report_lost(&mut self, lost: &Lost, why: &str) -> Result<(), Error> {
        let key = lost.key.as_bytes().escape_ascii();
        self.line(&format!("key {key}: version {} {why}", lost.head.version))
    }

    fn line(&mut self, line: &str) -> Result<(), Error> {
        tracing::error!(folder = self.progress.folder, "{line}");
        let line = format!("{line}\n");
        self.report.write_all(line.as_bytes()).and_then(|()| self.report.sync_data()).map_err(self.io())?;
        self.progress.report_bytes += line.len() as u64;
        Ok(())
    }
}

/// Keeps of an item what a pass wants.
fn sort(pass: Pass, item: Item, found: &mut Found) {
    match (pass, &item.what) {
        (Pass::Pieces, What::Intact(keys::PIECE, content))
        | (Pass::Entries, What::Intact(frame::ENTRY, content)) => {
            found.bytes += content.len();
            found.contents.push(content.clone());
        }
        (Pass::Missing, What::Intact(kind, content)) => {
            let named = named(*kind, content);
            found.bytes += named.iter().map(|(key, _)| key.as_bytes().len() + 200).sum::<usize>();
            found.named.extend(named);
        }
        (Pass::Missing, What::Broken(frame::ENTRY | keys::PIECE, content)) => {
            found.bytes += content.len();
            found.broken.push(item);
        }
        (Pass::Missing, What::Unreadable(_)) => found.broken.push(item),
        (Pass::Pieces | Pass::Entries | Pass::Missing | Pass::Clean, _) => {}
    }
}

/// The entries that an intact record says were here.
fn named(kind: u8, content: &Bytes) -> Vec<(Key, EntryHead)> {
    match kind {
        frame::ENTRY => {
            let entry = engine::stored(content).map(|(entry, _)| entry);
            entry.into_iter().map(|entry| (entry.key.clone(), entry.head())).collect()
        }
        keys::PENDING => heads::named(content),
        keys::NODE => node::named(content),
        _ => Vec::new(),
    }
}

/// What was reported of a folder, for people.
///
/// # Errors
/// When the report cannot be read.
pub fn report(folder: &Path) -> io::Result<String> {
    fs::read_to_string(folder.join(REPORT))
}

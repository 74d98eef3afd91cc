//! The pulls that have ended: the last 1,000, in memory and in `<data_dir>/coordinator/heals.jsonl`.
//!
//! One heal, one line, appended when it ends, and once more when more is known of it: of lines with one id,
//! the last one counts. The file is rewritten when it has grown to twice what is kept.
//! It is a record for people: a line that cannot be read is skipped with a warning, and a file that cannot be
//! written costs the record, never a pull.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;

use lattice_runtime::files;

/// How many heals are kept.
pub const HEALS_MAX: usize = 1_000;

/// A file larger than any that we write is not read; so is a line.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A pull that has ended, as it is kept: numbers and text that outlive releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heal {
    /// The pull's id, 16 hex characters.
    pub id: String,
    /// The peer's key, 64 hex characters.
    pub node: String,
    /// The peer as people call it: its name, or where that is not known yet its URL on HTTP.
    pub peer: String,
    /// `P2P` or `HTTP`: where it ended.
    pub path: String,
    /// `Healed`, or what else it came to.
    pub outcome: String,
    /// Unix milliseconds.
    pub started_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Questions asked.
    pub rounds: u32,
    /// Bytes of the answers.
    pub bytes_in: u64,
    /// Bytes of the questions.
    pub bytes_out: u64,
    /// Entries that were new here.
    pub entries_merged: u64,
    /// Our root when it began, 64 hex characters; none for an empty tree.
    pub root_before: Option<String>,
    /// Our root after it.
    pub root_after: Option<String>,
    /// 32 hex characters; empty without a trace.
    pub trace_id: String,
    /// Why it ended so; empty when healed.
    pub detail: String,
}

/// The history of heals.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    /// Oldest first. Never held while the disk is written to: who reads must not wait for it.
    kept: Mutex<Kept>,
    /// Lines in the file; held while it is written.
    lines: Mutex<usize>,
}

#[derive(Debug, Default)]
struct Kept(VecDeque<Heal>);

impl History {
    /// Reads what is there.
    ///
    /// # Errors
    /// When the file is there and cannot be read at all.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let bytes = files::read(&path, FILE_BYTES_MAX)?.unwrap_or_default();
        let mut kept = Kept::default();
        let mut lines = 0_usize;
        let mut damaged = 0_usize;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines += 1;
            match serde_json::from_slice(line) {
                Ok(heal) => kept.put(heal),
                Err(_) => damaged += 1,
            }
        }
        if damaged > 0 {
            warn!(file = %path.display(), lines = damaged, "skipped damaged lines of the heal history");
        }
        // A line that was cut off would swallow the next one.
        if damaged > 0 || bytes.last().is_some_and(|last| *last != b'\n') {
            lines = usize::MAX;
        }
        Ok(Self { path, kept: Mutex::new(kept), lines: Mutex::new(lines) })
    }

    /// Adds one, in memory and on disk, or replaces the one with its id. Call where a moment's disk work
    /// harms nobody.
    pub fn put(&self, heal: Heal) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = line_of(&heal);
        self.lock().put(heal);
        let written = if *lines >= 2 * HEALS_MAX {
            let heals = self.newest(HEALS_MAX);
            *lines = heals.len();
            let all: Vec<u8> = heals.iter().rev().flat_map(line_of).collect();
            files::replace(&self.path, &all)
        } else {
            *lines += 1;
            let file = OpenOptions::new().create(true).append(true).open(&self.path);
            file.and_then(|mut file| file.write_all(&line))
        };
        if let Err(error) = written {
            // Whatever the file ends with now, the next write replaces it.
            *lines = usize::MAX;
            warn!(file = %self.path.display(), %error, "cannot write the heal history");
        }
    }

    /// The newest, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Heal> {
        self.lock().0.iter().rev().take(limit).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn put(&mut self, heal: Heal) {
        // It is among the newest, if it is there at all.
        if let Some(known) = self.0.iter_mut().rev().find(|known| known.id == heal.id) {
            *known = heal;
            return;
        }
        if self.0.len() == HEALS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(heal);
    }
}

fn line_of(heal: &Heal) -> Vec<u8> {
    let mut line = serde_json::to_vec(heal).expect("numbers and text are JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heal(id: usize) -> Heal {
        Heal {
            id: format!("{id:016x}"),
            node: "ab".repeat(32),
            peer: "http://node-2:8080".into(),
            path: "HTTP".into(),
            outcome: "Healed".into(),
            started_ms: 1,
            duration_ms: 2,
            rounds: 3,
            bytes_in: 4,
            bytes_out: 5,
            entries_merged: 6,
            root_before: None,
            root_after: Some("cd".repeat(32)),
            trace_id: String::new(),
            detail: "with \"quotes\"\nand lines".into(),
        }
    }

    #[test]
    fn heals_outlive_a_restart_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heals.jsonl");
        let history = History::open(path.clone()).unwrap();
        (0..3).for_each(|id| history.put(heal(id)));
        let again = History::open(path).unwrap();
        assert_eq!(again.newest(2), [heal(2), heal(1)]);
        assert_eq!(again.newest(100), history.newest(100));
    }

    #[test]
    fn what_is_learned_later_replaces_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heals.jsonl");
        let history = History::open(path.clone()).unwrap();
        (0..3).for_each(|id| history.put(heal(id)));
        let rooted = Heal { root_after: Some("ef".repeat(32)), ..heal(1) };
        history.put(rooted.clone());
        let expected = [heal(2), rooted, heal(0)];
        assert_eq!(history.newest(10), expected);
        assert_eq!(History::open(path).unwrap().newest(10), expected);
    }

    #[test]
    fn damaged_lines_are_skipped_and_leave_with_the_next_heal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heals.jsonl");
        let mut bytes = line_of(&heal(1));
        bytes.extend_from_slice(b"{\"id\": 5}\n\xff\xfe\n");
        bytes.extend_from_slice(&line_of(&heal(2)));
        bytes.extend_from_slice(&line_of(&heal(3))[..20]);
        std::fs::write(&path, bytes).unwrap();

        let history = History::open(path.clone()).unwrap();
        assert_eq!(history.newest(10), [heal(2), heal(1)]);
        history.put(heal(4));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert_eq!(History::open(path).unwrap().newest(10), [heal(4), heal(2), heal(1)]);
    }

    #[test]
    fn file_and_memory_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heals.jsonl");
        let history = History::open(path.clone()).unwrap();
        let mut lines_max = 0;
        for id in 0..2 * HEALS_MAX + 10 {
            history.put(heal(id));
            if id % 100 == 0 || id > 2 * HEALS_MAX {
                lines_max = lines_max.max(std::fs::read_to_string(&path).unwrap().lines().count());
            }
        }
        assert!(lines_max <= 2 * HEALS_MAX, "{lines_max}");
        let newest = history.newest(usize::MAX);
        assert_eq!((newest.len(), newest[0].clone()), (HEALS_MAX, heal(2 * HEALS_MAX + 9)));
        assert_eq!(History::open(path).unwrap().newest(usize::MAX), newest);
    }

    #[test]
    fn a_file_that_cannot_be_written_costs_the_record_only() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path().join("gone/heals.jsonl")).unwrap();
        history.put(heal(1));
        assert_eq!(history.newest(1), [heal(1)]);
    }
}

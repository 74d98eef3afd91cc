//! Whether the disk has room for more: writing stops before it is full, and goes on when there is room again.
//!
//! sled cannot go on after a write for which there was no room, so none may get that far. A group of changes is at
//! most 12 MiB (`run`), for which sled's log grew by up to 33 MiB per 8 MiB when measured (decision 0020): what is
//! kept free is more than one of them needs, and it is asked for before each.

use std::io;

/// Below so much free space, clients' writes, merges and seals wait.
pub(crate) const RESERVE_BYTES: u64 = 64 << 20;
/// From so much on they go on: further up, so that a disk at the limit does not flap.
pub(crate) const ENOUGH_BYTES: u64 = 96 << 20;
/// Below so much even the few bytes wait that a node notes of its peers and itself.
pub(crate) const LAST_BYTES: u64 = 16 << 20;

/// Tells how many bytes are free.
pub(crate) type Source = Box<dyn FnMut() -> io::Result<u64> + Send>;

/// How much may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Everything.
    Enough,
    /// Only what is small and rare; so many bytes were free.
    Little(u64),
    /// Nothing; so many bytes were free.
    No(u64),
}

impl Room {
    /// What there is room for, after there was `self`, when so many bytes are free.
    fn with(self, free: u64) -> Self {
        let was_enough = self == Self::Enough;
        match free {
            ..LAST_BYTES => Self::No(free),
            LAST_BYTES..RESERVE_BYTES => Self::Little(free),
            RESERVE_BYTES..ENOUGH_BYTES if !was_enough => Self::Little(free),
            RESERVE_BYTES.. => Self::Enough,
        }
    }

    /// Why writes are refused.
    pub(crate) fn problem(self) -> Option<String> {
        let (Self::Little(free) | Self::No(free)) = self else { return None };
        let mib = |bytes: u64| bytes >> 20;
        let (free, enough) = (mib(free), mib(ENOUGH_BYTES));
        Some(format!("the disk is full: {free} MiB are free, writes go on from {enough} MiB"))
    }
}

/// The room on a disk, as it was last looked at.
pub(crate) struct Space {
    source: Option<Source>,
    room: Room,
    /// The source failed when it was last asked.
    blind: bool,
}

impl Space {
    /// No disk, and therefore no end of it.
    pub(crate) fn unlimited() -> Self {
        Self { source: None, room: Room::Enough, blind: false }
    }

    /// What `source` tells.
    pub(crate) fn of(source: Source) -> Self {
        Self { source: Some(source), ..Self::unlimited() }
    }

    /// The file system that a folder is on.
    pub(crate) fn of_folder(folder: &std::path::Path) -> io::Result<Self> {
        let folder = std::fs::File::open(folder)?;
        Ok(Self::of(Box::new(move || {
            let stat = rustix::fs::fstatvfs(&folder)?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        })))
    }

    /// Looks at the disk; returns how many bytes are free, when that is known.
    pub(crate) fn look(&mut self) -> Option<u64> {
        match self.source.as_mut()?() {
            Ok(free) => {
                self.room = self.room.with(free);
                self.blind = false;
                Some(free)
            }
            Err(error) => {
                // A disk that does not even tell how full it is will refuse the next commit by itself.
                if !self.blind {
                    tracing::warn!(%error, "how full the disk is cannot be told");
                }
                self.blind = true;
                None
            }
        }
    }

    /// What there was room for when it was last looked at.
    pub(crate) fn room(&self) -> Room {
        self.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn writing_stops_below_the_reserve_and_goes_on_with_more_than_it() {
        let mut room = Room::Enough;
        for (free, expected) in [
            (64, Room::Enough),
            (63, Room::Little(63 * MIB)),
            (64, Room::Little(64 * MIB)),
            (95, Room::Little(95 * MIB)),
            (96, Room::Enough),
            (70, Room::Enough),
            (15, Room::No(15 * MIB)),
            (16, Room::Little(16 * MIB)),
            (1_000, Room::Enough),
            (0, Room::No(0)),
            (96, Room::Enough),
        ] {
            room = room.with(free * MIB);
            assert_eq!(room, expected, "at {free} MiB");
        }
    }

    #[test]
    fn a_real_folder_tells_its_free_space() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Space::of_folder(folder.path()).unwrap().look().is_some());
    }

    #[test]
    fn a_disk_that_does_not_tell_changes_nothing() {
        let mut answers = [Ok(1), Err(io::Error::from_raw_os_error(5))].into_iter();
        let mut space = Space::of(Box::new(move || answers.next().unwrap()));
        assert_eq!(space.look(), Some(1));
        assert_eq!(space.look(), None);
        assert_eq!(space.room(), Room::No(1));
    }
}

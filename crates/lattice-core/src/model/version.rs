//! What orders two writes of one key.

use std::fmt;
use std::str::FromStr;

use super::{Epoch, EpochLength, NodeId};
use crate::time::WallTime;

/// A hybrid logical clock reading: 48 bits of Unix milliseconds over 16 bits of counter, which carries into
/// them. (Kulkarni et al., "Logical Physical Clocks", 2014.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first reading of millisecond `at`; times past 48 bits saturate.
    pub fn at(at: WallTime) -> Self {
        Self(at.millis().min((1 << 48) - 1) << 16)
    }

    /// The milliseconds.
    pub fn wall(self) -> WallTime {
        WallTime(self.0 >> 16)
    }

    /// The reading that follows, one count later; saturates at the end of time.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The epoch that the reading belongs to.
    pub fn epoch(self, length: EpochLength) -> Epoch {
        length.epoch_of(self.wall())
    }
}

/// What orders two writes: the clock reading first, the writer's id to break a tie. The greater one wins.
///
/// Prints as 16 hex characters, `-`, and 64 hex characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// When, by the writer's hybrid logical clock.
    pub hlc: Hlc,
    /// Who wrote it.
    pub writer: NodeId,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.hlc.0, self.writer)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let (hlc, writer) = text.split_once('-').ok_or(InvalidVersion)?;
        let mut reading = [0; 8];
        hex::decode_to_slice(hlc, &mut reading).map_err(|_| InvalidVersion)?;
        Ok(Self {
            hlc: Hlc(u64::from_be_bytes(reading)),
            writer: writer.parse().map_err(|_| InvalidVersion)?,
        })
    }
}

/// The text is not a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a version is 16 hex characters, a dash, and 64 hex characters")]
pub struct InvalidVersion;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_counter_carries_into_the_milliseconds() {
        let last = Hlc(5 << 16 | 0xffff);
        assert_eq!(last.next(), Hlc::at(WallTime(6)));
        assert_eq!(last.wall(), WallTime(5));
        assert_eq!(Hlc(u64::MAX).next(), Hlc(u64::MAX));
        assert_eq!(Hlc::at(WallTime(u64::MAX)).wall(), WallTime((1 << 48) - 1));
    }

    #[test]
    fn a_reading_belongs_to_the_epoch_of_its_millisecond() {
        let length = EpochLength(NonZeroU32::new(1_000).unwrap());
        assert_eq!(Hlc::at(WallTime(1_999)).epoch(length), Epoch(1));
        assert_eq!(Hlc(1_999 << 16 | 0xffff).epoch(length), Epoch(1));
        assert_eq!(Hlc(1_999 << 16 | 0xffff).next().epoch(length), Epoch(2));
        assert_eq!(length.end_of(Epoch(1)), WallTime(2_000));
    }

    #[test]
    fn text_that_is_no_version_is_refused() {
        let version = Version { hlc: Hlc(0xabc), writer: NodeId([0xde; 32]) };
        let text = version.to_string();
        assert_eq!(text, format!("0000000000000abc-{}", "de".repeat(32)));
        for wrong in ["", "-", "abc", &text[1..], &text[..80], &text.replace('-', ":"), &format!("{text}0")] {
            assert_eq!(wrong.parse::<Version>(), Err(InvalidVersion), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(hlc in any::<u64>(), writer in any::<[u8; 32]>()) {
            let version = Version { hlc: Hlc(hlc), writer: NodeId(writer) };
            prop_assert_eq!(version.to_string().parse(), Ok(version));
        }

        #[test]
        fn the_later_reading_is_greater_and_the_writer_breaks_a_tie(
            a in any::<(u64, [u8; 32])>(), b in any::<(u64, [u8; 32])>(),
        ) {
            let version = |(hlc, writer)| Version { hlc: Hlc(hlc), writer: NodeId(writer) };
            prop_assert_eq!(version(a).cmp(&version(b)), a.cmp(&b));
        }
    }
}

//! The disk format: what the store's records are called, and what they hold.
//!
//! Version 1. A folder names its format in a file of plain text (`manifest`) that is read before the
//! database is touched. In the database, records are framed (`frame`): each carries its kind, its length
//! and a checksum, so that damage shows on reading, and entries can be found in a file that no database opens
//! any more. `keys` has the layout; `record` the contents: protobuf, so that fields can be added; an entry
//! is a `types.v1.Entry`.
//!
//! Everything derived from the entries (tree, pending entries, seals) lives under a generation, so that a
//! rebuild starts on empty ground while the old one is swept away bit by bit.

pub(crate) mod frame;
pub(crate) mod heads;
pub(crate) mod history;
pub(crate) mod keys;
pub(crate) mod manifest;
pub(crate) mod node;
#[cfg(test)]
mod properties;
pub(crate) mod record;

pub use frame::Damaged;
pub use manifest::{Claimed, Manifest, ManifestError};
pub(crate) use record::last_commit;

/// The version of the format.
pub const VERSION: u32 = 1;

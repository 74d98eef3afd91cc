//! What a node stores: keys, versions, entries, and the names of nodes and epochs.
//!
//! Every type here is parsed once, at the edge, and valid from then on. Different numbers have different
//! types, so that a node, an epoch and a version never mix.

mod digest;
mod entry;
mod epoch;
mod key;
mod node;
mod version;

pub use digest::{Digest, InvalidDigest};
pub use entry::{Content, Entry, EntryHead, HeadContent, TTL_MAX, VALUE_BYTES_MAX, ValueTooLong};
pub use epoch::{Epoch, EpochLength};
pub use key::{InvalidKey, KEY_BYTES_MAX, Key, KeyHash};
pub use node::{Incarnation, InvalidNodeId, NodeId};
pub use version::{Hlc, InvalidVersion, Version};

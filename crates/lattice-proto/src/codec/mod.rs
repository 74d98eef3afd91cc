//! Bytes: what nodes sign and broadcast, and what the store writes to its disk.
//!
//! Each thing is opened in the order of distrust: its size, then its few fixed fields, then who signed it,
//! and only then whatever it carries. What is signed is checked over the bytes as received; nothing is ever
//! encoded again to be checked.
//!
//! - [`announcement`], [`seal`]: signed statements without a receiver.
//! - [`envelope`]: signed requests and responses; [`check`]: all that is asked of one before it is believed.
//! - [`delta`]: a batch of a node's own writes, signed by gossip itself.
//! - [`backup`]: files of entries, to be kept elsewhere.
//! - [`record`]: the messages of `types.v1` as bytes, for the disk and for bodies of HTTP and libp2p.

pub mod announcement;
pub mod backup;
pub mod check;
pub mod delta;
pub mod envelope;
mod error;
pub mod record;
pub mod seal;
mod shape;

pub use announcement::{ANNOUNCEMENT_BYTES_MAX, decode_announcement, open_announcement, sign_announcement};
pub use backup::{
    BACKUP_CHUNK_BYTES, BACKUP_CHUNK_ENTRIES, BackupError, BackupHeader, BackupItem, BackupReader,
    BackupWriter,
};
pub use check::{Refused, RequestChecks, ResponseChecks, ResponseError, open_request, open_response};
pub use delta::{
    DELTA_BYTES_MAX, DELTA_BYTES_TARGET, DELTA_ENTRIES_MAX, Delta, DeltaError, decode_delta, encode_delta,
    split_deltas,
};
pub use envelope::{
    Header, parse_request, parse_response, read_header, request_hash, sign_request, sign_response,
};
pub use error::OpenError;
pub use record::{
    SIGNED_BYTES_MAX, decode_entry, decode_head, decode_position, decode_run, decode_signed, decode_summary,
    decode_version, encode_entry, encode_head, encode_position, encode_run, encode_signed, encode_summary,
    encode_version, entry_bytes,
};
pub use seal::{SEAL_BYTES_MAX, decode_seal, open_seal, sign_seal};

//! Why a call failed, where the gRPC code alone does not say: a word that stays, in the status' metadata.

use tonic::Status;
use tonic::metadata::MetadataValue;

/// The name of the metadata.
pub const KEY: &str = "lattice-reason";
/// With `RESOURCE_EXHAUSTED`: the disk has no room for writes; they go on by themselves when it has.
pub const DISK_FULL: &str = "disk-full";
/// With `UNAVAILABLE`: the store lost entries and waits for its peers; it cannot tell what is absent.
pub const RECOVERING: &str = "recovering";

/// The status with a reason.
pub fn with(mut status: Status, reason: &'static str) -> Status {
    status.metadata_mut().insert(KEY, MetadataValue::from_static(reason));
    status
}

/// The reason that a status names.
pub fn of(status: &Status) -> Option<&str> {
    status.metadata().get(KEY)?.to_str().ok()
}

//! Signed announcements.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::signed::{Announcement, Context, Signed, SignedAnnouncement};
use prost::Message as _;

use super::OpenError;
use super::error::{bounded, decode};
use crate::peer::v1 as wire;

/// The most bytes of an announcement: its runs stay under 8 KiB, its addresses and name under as much.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 16 << 10;

/// Encodes and signs an announcement. `key` is that of the node it names.
pub fn sign_announcement(announcement: &Announcement, key: &SigningKey) -> SignedAnnouncement {
    debug_assert_eq!(key.verifying_key().as_bytes(), announcement.node.as_bytes(), "a node announces itself");
    let body = wire::Announcement::from(announcement).encode_to_vec().into();
    SignedAnnouncement {
        announcement: announcement.clone(),
        signed: Signed::sign(Context::Announcement, body, key),
    }
}

/// Opens an announcement, and checks that the node that it names signed it.
///
/// # Errors
/// [`OpenError`], in the order of its variants.
pub fn open_announcement(signed: &Signed) -> Result<SignedAnnouncement, OpenError> {
    let announcement = decode_announcement(signed)?;
    announcement.verify()?;
    Ok(announcement)
}

/// Opens an announcement without looking at its signature: the caller does, by
/// [`SignedAnnouncement::verify`].
///
/// # Errors
/// [`OpenError::TooLarge`] and [`OpenError::Malformed`].
pub fn decode_announcement(signed: &Signed) -> Result<SignedAnnouncement, OpenError> {
    bounded(signed.body.len(), ANNOUNCEMENT_BYTES_MAX)?;
    let announcement = decode::<wire::Announcement>(signed.body.clone())?.try_into()?;
    // A copy, since what is kept would else pin all of the message that it came in.
    let body = Bytes::copy_from_slice(&signed.body);
    Ok(SignedAnnouncement { announcement, signed: Signed { body, signature: signed.signature } })
}

//! Why signed bytes are not opened.

use lattice_core::signed::BadSignature;

use crate::convert::Invalid;

/// Why signed bytes are not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// More bytes than such a thing takes; none of them was looked at.
    #[error("{bytes} bytes are too many: it takes at most {max}")]
    TooLarge {
        /// How many.
        bytes: usize,
        /// How many it takes.
        max: usize,
    },
    /// The bytes are not such a message, or one of its fields is wrong.
    #[error("malformed: {0}")]
    Malformed(#[from] Invalid),
    /// The signature does not cover these bytes, or is not by the node that they name.
    #[error("signature does not verify")]
    Signature,
}

impl From<BadSignature> for OpenError {
    fn from(_: BadSignature) -> Self {
        Self::Signature
    }
}

/// The size, before anything else.
pub(super) fn bounded(bytes: usize, max: usize) -> Result<(), OpenError> {
    if bytes > max { Err(OpenError::TooLarge { bytes, max }) } else { Ok(()) }
}

/// Parses a message; what prost says becomes a problem of the message as a whole.
pub(super) fn decode<Message: prost::Message + Default>(bytes: impl bytes::Buf) -> Result<Message, Invalid> {
    Message::decode(bytes).map_err(|error| Invalid::new("", error))
}

//! Signed bytes: every reason for which they are not opened, and the order of the reasons.

mod deltas;
mod requests;
mod responses;
mod statements;

use lattice_core::signed::Signed;
use lattice_proto::codec::{self, OpenError};

use crate::fixtures::*;

/// Every single-bit change of body and signature.
pub(crate) fn mutations(signed: &Signed) -> impl Iterator<Item = Signed> {
    let signed = signed.clone();
    (0..signed.body.len() + 64).map(move |at| {
        let mut changed = signed.clone();
        match at.checked_sub(signed.body.len()) {
            Some(at) => changed.signature[at] ^= 1,
            None => {
                let mut body = changed.body.to_vec();
                body[at] ^= 1;
                changed.body = body.into();
            }
        }
        changed
    })
}

pub(crate) fn signed(body: Vec<u8>) -> Signed {
    Signed { body: body.into(), signature: [0; 64] }
}

pub(crate) fn malformed(error: OpenError) -> String {
    match error {
        OpenError::Malformed(invalid) => invalid.to_string(),
        error => panic!("not malformed: {error}"),
    }
}

pub(crate) fn signed_walk() -> Signed {
    codec::sign_request(&request_header(), &walk(), &asker_key())
}

//! What conversions refuse: each bound and each missing field, by the name of its field.

mod replies;
mod requests;
mod store;
mod types;

use bytes::Bytes;
use lattice_proto::convert::Invalid;

/// A change of a valid wire message, and what its conversion says to that.
pub(crate) type Refused<Wire> = (fn(&mut Wire), &'static str);

/// Changes a valid wire message, and asserts what its conversion says to that.
pub(crate) fn refuses<Wire: Clone, Model>(valid: Wire, table: &[Refused<Wire>])
where
    Model: TryFrom<Wire, Error = Invalid>,
{
    assert!(Model::try_from(valid.clone()).is_ok(), "unchanged, it is valid");
    for (change, expected) in table {
        let mut wire = valid.clone();
        change(&mut wire);
        match Model::try_from(wire) {
            Ok(_) => panic!("not refused: {expected}"),
            Err(invalid) => assert_eq!(invalid.to_string(), *expected),
        }
    }
}

pub(crate) fn zeros(length: usize) -> Bytes {
    vec![0; length].into()
}

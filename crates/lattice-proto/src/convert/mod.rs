//! Conversions between wire types and the model.
//!
//! `From<&model>` makes a wire type and cannot fail. `TryFrom<wire>` makes a value of the model and is strict:
//! every bound of `lattice_core` is held, what is missing is named, and one value has one encoding. What only
//! the whole tree can tell (an order, a digest that does not lead to the root) is left to the machines, to
//! which it may be a lie rather than a mistake.

mod error;
mod field;
mod peer;
mod proof;
mod reply;
mod request;
mod store;
mod types;

pub use error::{InField, Invalid};
pub use field::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, CHALLENGE_BYTES_MAX, CLUSTER_BYTES_MAX, DETAIL_BYTES_MAX,
    NAME_BYTES_MAX, TRACEPARENT_BYTES_MAX, cluster, digest, epoch_length, incarnation, key, list, node,
    nodes, optional, required, value,
};
pub(crate) use field::{challenge, fixed, traceparent};
pub(crate) use reply::BRANCHES_MAX;
pub use store::{
    COMPARE_HEADS_MAX, DAMAGED_MAX, Damaged, MERGE_BYTES_MAX, MERGE_ENTRIES_MAX, Seals, compare_heads, merge,
    own_node, positions,
};
pub use types::runs;

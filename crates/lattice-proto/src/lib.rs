//! The wire types of Lattice, generated from `proto/`, and conversions between them and the model.
//!
//! Wire types stop at the edge of a service: what arrives is turned into `lattice_core` types by `TryFrom`,
//! with an error that names the field, and nothing else is believed of it.
//!
//! - [`convert`]: `From<&model>` for wire types, `TryFrom<wire>` for the model.
//! - [`codec`]: bytes: what nodes sign, what they broadcast, what the store writes to its disk, and backups.
//! - [`metadata`]: names of what goes with refusals.
//! - [`reason`]: why a call failed, where the gRPC code alone does not say.
//! - [`reads`]: point reads without a call, in one process.

pub mod codec;
pub mod convert;
pub mod metadata;
pub mod reads;
pub mod reason;

/// The generated modules, nested like their packages, as the generated code refers to its siblings.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod lattice {
    pub mod types {
        pub mod v1 {
            tonic::include_proto!("lattice.types.v1");
        }
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("lattice.peer.v1");
        }
    }
    pub mod kv {
        pub mod v1 {
            tonic::include_proto!("lattice.kv.v1");
        }
    }
    pub mod store {
        pub mod v1 {
            tonic::include_proto!("lattice.store.v1");
        }
    }
    pub mod sensor {
        pub mod v1 {
            tonic::include_proto!("lattice.sensor.v1");
        }
    }
    pub mod coordinator {
        pub mod v1 {
            tonic::include_proto!("lattice.coordinator.v1");
        }
    }
}

pub use lattice::{coordinator, kv, peer, sensor, store, types};

/// All protocol files, encoded: for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

//! What the binaries allocate memory with.
//!
//! A store allocates and frees small things all the time, most of them inside its database, and on threads other than
//! those that made them. The system's allocator took about half of the processor time of a load of batches there
//! (`make bench-store`, with one and the other). mimalloc (Leijen, Zorn, de Moura: "Mimalloc: Free List Sharding in
//! Action", 2019) takes little, and keeps more memory: there, up to a hundred megabytes.

/// To be named by a binary as its `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

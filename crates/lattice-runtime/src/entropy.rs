//! Chance: the only place that asks the system for it.
//!
//! Machines that need chance own a generator that is seeded at construction, so that a simulation can
//! repeat them; in production the seed comes from here.

/// Random bytes for keys, incarnations, nonces and challenges.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes);
    bytes
}

/// A seed for a machine's own generator.
pub fn seed() -> u64 {
    rand::random()
}

//! The `lattice` binary.

use lattice_runtime::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> std::process::ExitCode {
    lattice::args::main()
}

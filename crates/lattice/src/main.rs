//! The `lattice` binary.

fn main() -> std::process::ExitCode {
    lattice::args::main()
}

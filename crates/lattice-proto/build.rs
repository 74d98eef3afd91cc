//! Compiles the protocol files with protox, so that no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const FILES: [&str; 6] = [
    "lattice/types/v1/types.proto",
    "lattice/peer/v1/peer.proto",
    "lattice/kv/v1/kv.proto",
    "lattice/store/v1/store.proto",
    "lattice/sensor/v1/sensor.proto",
    "lattice/coordinator/v1/coordinator.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true);
    for file in FILES {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
        compiler.open_file(file)?;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().bytes(".lattice").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

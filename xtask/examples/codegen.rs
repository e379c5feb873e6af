//! Writes the generated code of `proto` into the folder it is given.
//!
//! An example, so that only `cargo xtask codegen` builds what it needs; here
//! rather than in `proto`, so that it runs when the generated code is broken.
//!
//! protox compiles the .proto files, so no protoc is needed.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

const PACKAGES: [&str; 5] = [
    "broker/v1",
    "google/longrunning",
    "google/rpc",
    "users/v1",
    "users/v2",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("usage: codegen OUT_DIR")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");

    let mut files = Vec::new();
    for package in PACKAGES {
        for entry in fs::read_dir(root.join(package))? {
            files.push(entry?.path());
        }
    }
    files.sort();

    fs::create_dir_all(&out)?;
    let descriptors = protox::compile(&files, [&root])?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .codec_path("crate::codec::Codec")
        // The type carries a password; lib.rs writes its Debug by hand.
        .skip_debug(["broker.v1.Connection"])
        .compile_fds(descriptors)?;
    Ok(())
}

//! The suite: one binary, so that it links once. `cargo xtask test` runs it.

#![allow(missing_docs)]

mod emulator_api;
mod emulator_engine;
mod emulator_start;

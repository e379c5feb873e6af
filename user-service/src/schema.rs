//! The tables as Diesel knows them, one module a version: what its branch holds
//! when it is migrated. `cargo xtask codegen` makes the files.

pub(crate) mod v1;
pub(crate) mod v2;

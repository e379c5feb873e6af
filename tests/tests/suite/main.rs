//! The suite: one binary, so that it links once. `cargo xtask test` runs it.

#![allow(missing_docs)]

mod broker_apply;
mod broker_bad_days;
mod broker_branches;
mod broker_cli;
mod broker_faults;
mod broker_governor;
mod broker_identity;
mod broker_leases;
mod broker_leasing;
mod broker_metrics;
mod broker_prune;
mod broker_roles;
mod broker_several;
mod broker_start;
mod broker_state;
mod broker_switch;
mod broker_warm;
mod clients_neon_cli;
mod clients_postgres17;
mod clients_schemathesis;
mod clients_sdks;
mod coverage;
mod details;
mod emulator_account;
mod emulator_api;
mod emulator_doctor;
mod emulator_engine;
mod emulator_faults;
mod emulator_gateway;
mod emulator_history;
mod emulator_idle;
mod emulator_pooler;
mod emulator_recovery;
mod emulator_replicas;
mod emulator_restore;
mod emulator_schema;
mod emulator_snapshots;
mod emulator_start;
mod emulator_storage;
mod given_up;
mod pool_follows;
mod system;
mod users;

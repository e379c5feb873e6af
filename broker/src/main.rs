//! The `broker` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    broker::cli::main()
}

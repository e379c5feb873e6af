//! The command line. `serve` is the broker; everything else asks one over gRPC
//! and needs no key.

mod audit;
mod branches;
mod client;
mod serve;
mod table;
mod tokens;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing::Instrument as _;

use crate::text::one_line;

/// How long what still runs may take to end when the process does, in
/// milliseconds. A migration that is cut off is finished by the next start.
const RUNTIME_SHUTDOWN_MS_MAX: u64 = 500;

/// Owns the Neon branches that broker.toml declares and hands out leases on them.
#[derive(Debug, Parser)]
#[command(name = "broker", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker: make the branches match broker.toml, then serve gRPC.
    ///
    /// Needs NEON_API_KEY and NEON_PROJECT_ID in the environment.
    Serve(serve::Arguments),
    /// Show what `apply` would do.
    Plan(client::ApplyArguments),
    /// Have a running broker read broker.toml again and make the world match.
    Apply(client::ApplyArguments),
    /// List, make, change, delete, reset, restore and compare branches.
    Branches(branches::BranchArguments),
    /// Follow what goes on after a command has ended.
    Operations(branches::OperationArguments),
    /// Ask whether a broker runs and the world is as declared.
    Health(client::HealthArguments),
    /// Show who got, kept and lost what, newest first.
    Audit(audit::AuditArguments),
    /// Make, show and revoke the tokens that callers may show.
    Tokens(tokens::Arguments),
}

/// Runs the command line of this process. An error is one sentence on stderr
/// and exit code 1.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let is_server = matches!(arguments.command, Command::Serve(_));
    let ended = runtime.block_on(traced(is_server, async {
        match arguments.command {
            Command::Serve(arguments) => Box::pin(serve::serve(arguments)).await.map_err(boxed),
            Command::Plan(arguments) => client::plan(arguments).await.map_err(boxed),
            Command::Apply(arguments) => client::apply(arguments).await.map_err(boxed),
            Command::Branches(arguments) => {
                Box::pin(branches::branches(arguments)).await.map_err(boxed)
            }
            Command::Operations(arguments) => branches::operations(arguments).await.map_err(boxed),
            Command::Health(arguments) => client::health(arguments).await.map_err(boxed),
            Command::Audit(arguments) => audit::audit(arguments).await.map_err(boxed),
            Command::Tokens(arguments) => tokens::run(&arguments).map_err(boxed),
        }
    }));
    runtime.shutdown_timeout(Duration::from_millis(RUNTIME_SHUTDOWN_MS_MAX));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

/// Runs a command as one span, if traces are exported. A server sees to its own.
async fn traced<T>(is_server: bool, command: impl Future<Output = T>) -> T {
    if is_server {
        return command.await;
    }
    let telemetry = rpc::telemetry::init_traces("broker-cli");
    // clap has seen to it that this is the subcommand.
    let name = std::env::args().nth(1).unwrap_or_default();
    let span = rpc::traces::of_command(&format!("broker {name}"));
    let ended = command.instrument(span).await;
    telemetry.end().await;
    ended
}

fn boxed(error: impl std::error::Error + 'static) -> Box<dyn std::error::Error> {
    Box::new(error)
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {}", one_line(error));
    ExitCode::FAILURE
}

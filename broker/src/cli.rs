//! The command line. `serve` is the broker; everything else asks one over gRPC
//! and needs no key.

mod api;
mod audit;
mod bindings;
mod branches;
mod client;
mod command;
mod held;
mod leases;
mod migrate;
mod operations;
mod output;
mod progress;
mod psql;
mod run;
mod serve;
mod signals;
mod table;
mod times;
mod tokens;
mod wish;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
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
    Plan(client::ConfigArguments),
    /// Have a running broker read broker.toml again and make the world match.
    Apply(client::ConfigArguments),
    /// Run a command with a database: DATABASE_URL is in its environment.
    ///
    /// `broker run --ephemeral --parent main --migrate -- cargo test` gives the
    /// command a branch of its own, keeps it while the command runs, hands signals on
    /// to it, deletes the branch afterwards and ends with the command's exit code.
    /// BROKER_BRANCH is the branch, as branches/{id}.
    Run(run::RunArguments),
    /// Open psql on a binding or a branch, to read unless --access says otherwise.
    Psql(psql::PsqlArguments),
    /// List bindings, show one, change its credentials.
    Bindings(bindings::BindingArguments),
    /// List, acquire, renew, release and revoke leases.
    Leases(leases::LeaseArguments),
    /// List, make, change, delete, reset, restore and compare branches.
    Branches(branches::BranchArguments),
    /// Show which revisions a branch has; run them, take them back, write new ones.
    #[command(after_help = migrate::HELP)]
    Migrate(migrate::MigrateArguments),
    /// Follow what goes on after a command has ended.
    Operations(operations::OperationArguments),
    /// Ask whether a broker runs and the world is as declared.
    Health(client::HealthArguments),
    /// Show who got, kept and lost what, newest first.
    Audit(audit::AuditArguments),
    /// Make, show and revoke the tokens that callers may show.
    Tokens(tokens::Arguments),
    /// Print what makes a shell complete these commands.
    Completions { shell: Shell },
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
    let ended = Box::pin(traced(is_server, run(arguments.command)));
    let ended = runtime.block_on(ended);
    runtime.shutdown_timeout(Duration::from_millis(RUNTIME_SHUTDOWN_MS_MAX));
    ended.unwrap_or_else(|error| failed(&*error))
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

async fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Serve(arguments) => Box::pin(serve::serve(arguments)).await?,
        Command::Plan(arguments) => client::plan(arguments).await?,
        Command::Apply(arguments) => client::apply(arguments).await?,
        Command::Run(arguments) => return Ok(run::run(arguments).await?),
        Command::Psql(arguments) => return Ok(psql::psql(arguments).await?),
        Command::Bindings(arguments) => bindings::bindings(arguments).await?,
        Command::Leases(arguments) => leases::leases(arguments).await?,
        Command::Branches(arguments) => branches::branches(arguments).await?,
        Command::Migrate(arguments) => return Ok(migrate::migrate(arguments).await?),
        Command::Operations(arguments) => operations::operations(arguments).await?,
        Command::Health(arguments) => client::health(arguments).await?,
        Command::Audit(arguments) => audit::audit(arguments).await?,
        Command::Tokens(arguments) => tokens::run(&arguments)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "broker", &mut script);
            output::put(&String::from_utf8_lossy(&script));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {}", one_line(error));
    ExitCode::FAILURE
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_go_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_documented_commands_are_there() {
        for text in [
            include_str!("../../docs/CLI.md"),
            include_str!("../../docs/MIGRATIONS.md"),
            include_str!("../../docs/github-actions/pull-request.yml"),
        ] {
            let text = text.replace("\\\n", " ");
            let lines = text.lines().map(str::trim);
            let commands: Vec<&str> = lines.filter(|line| line.starts_with("broker ")).collect();
            assert!(commands.len() > 2, "{commands:?}");
            for command in commands {
                let parsed = Arguments::try_parse_from(words(command));
                let error = parsed.err().map(|error| error.to_string());
                assert_eq!(error, None, "{command}");
            }
        }
    }

    /// A line as a shell splits it, up to where it hands on or says something.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quote) = (vec![String::new()], None);
        for character in line.chars() {
            let word = words.last_mut().unwrap();
            match (quote, character) {
                (None, '"' | '\'') => quote = Some(character),
                (Some(open), _) if open == character => quote = None,
                (None, '>' | '|' | ';' | '&' | '#') => break,
                (None, ' ') if !word.is_empty() => words.push(String::new()),
                (None, ' ') => {}
                _ => word.push(character),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }
}

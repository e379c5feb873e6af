//! `broker tokens`: the file of the tokens that callers may show. Needs no
//! running broker: one that runs reads the file again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use rpc::clock::ClockArgs;
use rpc::tokens::{self, TokensError};
use secrecy::ExposeSecret as _;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The file of tokens that `broker serve` is given.
    #[arg(long, value_name = "FILE", env = "TOKENS_FILE", global = true)]
    tokens_file: Option<PathBuf>,
    #[command(flatten)]
    clock: ClockArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token and print it: this once, since only its hash is kept.
    ///
    /// A caller with it is `token:NAME` to the grants of broker.toml. A name may
    /// have several tokens: make the next, hand it out, then revoke the last.
    Create {
        /// Its holder.
        name: String,
        /// How long it is good, like 720h. Without: until it is revoked.
        #[arg(long, value_name = "DURATION", value_parser = ttl)]
        ttl: Option<Duration>,
    },
    /// Show the tokens there are: id, name, when made, until when good.
    List,
    /// Take back the tokens of a holder.
    Revoke {
        /// The holder.
        name: String,
        /// This one of them only.
        #[arg(long)]
        id: Option<String>,
    },
}

/// Why the file of tokens was not changed or shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("name the file of tokens with --tokens-file or TOKENS_FILE")]
    NoFile,
    #[error("read the clock's file")]
    Clock(#[source] std::io::Error),
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

/// `broker tokens`.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let file = arguments.tokens_file.as_deref().ok_or(Error::NoFile)?;
    let clock = arguments.clock.clock().map_err(Error::Clock)?;
    let now = Timestamp::try_from(clock.now()).unwrap_or(Timestamp::MAX);
    match &arguments.command {
        Command::Create { name, ttl } => create(file, name, *ttl, now),
        Command::List => list(file, now),
        Command::Revoke { name, id } => revoke(file, name, id.as_deref()),
    }
}

fn create(file: &Path, name: &str, ttl: Option<Duration>, now: Timestamp) -> Result<(), Error> {
    let created = tokens::create(file, name, ttl, now)?;
    // The one line on stdout, for a file or a pipe.
    println!("{}", created.secret.expose_secret());
    let until = match created.token.expire_time {
        Some(time) => format!("good until {time:.0}"),
        None => "good until it is revoked".to_owned(),
    };
    eprintln!(
        "token {} of {name}, {until}; it is not shown again",
        created.token.id
    );
    Ok(())
}

fn list(file: &Path, now: Timestamp) -> Result<(), Error> {
    for token in tokens::list(file)? {
        let until = match token.expire_time {
            Some(time) if time <= now => format!("expired {time:.0}"),
            Some(time) => format!("until {time:.0}"),
            None => "until revoked".to_owned(),
        };
        let (id, name, made) = (&token.id, &token.name, token.create_time);
        println!("{id}  {name}  made {made:.0}  {until}");
    }
    Ok(())
}

fn revoke(file: &Path, name: &str, id: Option<&str>) -> Result<(), Error> {
    for token in tokens::revoke(file, name, id)? {
        println!("revoked {} of {}", token.id, token.name);
    }
    Ok(())
}

fn ttl(text: &str) -> Result<Duration, String> {
    let parsed: Option<SignedDuration> = text.parse().ok();
    parsed
        .and_then(|ttl| Duration::try_from(ttl).ok())
        .filter(|ttl| *ttl >= Duration::from_secs(1))
        .ok_or_else(|| "it is no duration of a second or more, as 720h and 1h 30m are".to_owned())
}

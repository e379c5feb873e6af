//! `broker tokens`: the file of the tokens that callers may show. Needs no
//! running broker: one that runs reads the file again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use rpc::clock::ClockArgs;
use rpc::tokens::{self, Token, TokensError};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::json;

use super::output::{self, Output, OutputArguments};
use super::table;
use super::times::ttl;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The file of tokens that `broker serve` is given.
    #[arg(long, value_name = "FILE", env = "TOKENS_FILE", global = true)]
    tokens_file: Option<PathBuf>,
    #[command(flatten)]
    clock: ClockArgs,
    #[command(flatten)]
    output: OutputArguments,
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
    #[error(transparent)]
    Output(#[from] output::Error),
}

/// `broker tokens`.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let file = arguments.tokens_file.as_deref().ok_or(Error::NoFile)?;
    let clock = arguments.clock.clock().map_err(Error::Clock)?;
    let now = Timestamp::try_from(clock.now()).unwrap_or(Timestamp::MAX);
    let output = arguments.output.output;
    match &arguments.command {
        Command::Create { name, ttl } => create(file, name, *ttl, now, output),
        Command::List => {
            let rows = tokens::list(file)?.into_iter().map(Row::from);
            let rows: Vec<Row> = rows.collect();
            Ok(output.value(&rows, |rows| table_of(rows, now))?)
        }
        Command::Revoke { name, id } => {
            let revoked = tokens::revoke(file, name, id.as_deref())?;
            let rows: Vec<Row> = revoked.into_iter().map(Row::from).collect();
            Ok(output.value(&rows, |rows| {
                let lines = rows.iter();
                let lines = lines.map(|row| format!("revoked {} of {}\n", row.id, row.name));
                lines.collect()
            })?)
        }
    }
}

/// A token as it is shown: without its hash.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    name: String,
    create_time: Timestamp,
    expire_time: Option<Timestamp>,
}

impl From<Token> for Row {
    fn from(token: Token) -> Row {
        Row {
            id: token.id,
            name: token.name,
            create_time: token.create_time,
            expire_time: token.expire_time,
        }
    }
}

fn create(
    file: &Path,
    name: &str,
    ttl: Option<Duration>,
    now: Timestamp,
    output: Output,
) -> Result<(), Error> {
    let created = tokens::create(file, name, ttl, now)?;
    let until = match created.token.expire_time {
        Some(time) => format!("good until {time:.0}"),
        None => "good until it is revoked".to_owned(),
    };
    let id = &created.token.id;
    eprintln!("token {id} of {name}, {until}; it is not shown again");
    // The one line on stdout, for a file or a pipe.
    let secret = created.secret.expose_secret();
    Ok(output.value(&json!({ "token": secret, "id": id }), |_| {
        format!("{secret}\n")
    })?)
}

fn table_of(rows: &[Row], now: Timestamp) -> String {
    let rows = rows.iter().map(|row| {
        let until = match row.expire_time {
            Some(time) if time <= now => format!("expired {time:.0}"),
            Some(time) => format!("{time:.0}"),
            None => "revoked".to_owned(),
        };
        let made = format!("{:.0}", row.create_time);
        vec![row.id.clone(), row.name.clone(), made, until]
    });
    table::of(&["ID", "NAME", "MADE", "GOOD UNTIL"], rows)
}

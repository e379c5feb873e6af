//! `broker psql`: Postgres's own client on a lease.

use std::ffi::OsString;
use std::process::ExitCode;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::process::Command;
use url::Url;

use super::api::Api;
use super::client;
use super::command;
use super::held::Held;
use super::wish::{self, Access, Wish};

/// Who holds the lease, for people who look at the list.
const HOLDER: &str = "broker psql";

/// What of the user's own environment would lead psql elsewhere.
const ELSEWHERE: [&str; 3] = ["PGHOSTADDR", "PGSERVICE", "PGTARGETSESSIONATTRS"];

#[derive(Debug, clap::Args)]
pub(super) struct PsqlArguments {
    #[command(flatten)]
    broker: client::Arguments,
    /// What on: services/{service}/versions/{version}, branches/{id}, or a branch by
    /// its name.
    #[arg(value_name = "BINDING")]
    target: String,
    #[command(flatten)]
    wish: Wish,
    /// For psql, as in -- -c 'SELECT 1'.
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Why psql cannot be told where to connect.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection URI of the lease cannot be read")]
    NotAUri,
    #[error("the connection URI of the lease has a parameter that psql cannot be told: {0}")]
    Parameter(String),
}

/// `broker psql`.
pub(super) async fn psql(arguments: PsqlArguments) -> Result<ExitCode, command::Error> {
    let mut api = Api::connect(&arguments.broker).await?;
    let on = wish::on(&mut api, &arguments.target).await?;
    let request = arguments.wish.request(on, Access::ReadOnly, HOLDER);
    let command = move |held: &Held| {
        let mut command = Command::new("psql");
        command
            .args(arguments.arguments)
            .envs(environment(held.uri())?);
        for variable in ELSEWHERE {
            command.env_remove(variable);
        }
        Ok(command)
    };
    let not_found = ": install it, in Debian and Ubuntu the package postgresql-client";
    Box::pin(command::run(api, request, command, not_found)).await
}

/// A URI as libpq's environment: everybody on the machine sees a command line.
fn environment(uri: &SecretString) -> Result<Vec<(&'static str, String)>, Error> {
    let uri = Url::parse(uri.expose_secret()).map_err(|_| Error::NotAUri)?;
    let host = uri.host_str().ok_or(Error::NotAUri)?;
    let mut variables = vec![
        // An IPv6 address is in brackets in a URI alone.
        ("PGHOST", host.trim_matches(['[', ']']).to_owned()),
        ("PGPORT", uri.port().unwrap_or(5432).to_string()),
        ("PGUSER", decoded(uri.username())?),
        ("PGPASSWORD", decoded(uri.password().unwrap_or_default())?),
        ("PGDATABASE", decoded(uri.path().trim_start_matches('/'))?),
    ];
    for pair in uri.query().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let variable = match name {
            "" => continue,
            "sslmode" => "PGSSLMODE",
            "sslrootcert" => "PGSSLROOTCERT",
            "sslnegotiation" => "PGSSLNEGOTIATION",
            "channel_binding" => "PGCHANNELBINDING",
            "connect_timeout" => "PGCONNECT_TIMEOUT",
            "application_name" => "PGAPPNAME",
            "options" => "PGOPTIONS",
            // To leave one out could make the connection less safe.
            other => return Err(Error::Parameter(other.to_owned())),
        };
        variables.push((variable, decoded(value)?));
    }
    Ok(variables)
}

fn decoded(text: &str) -> Result<String, Error> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| Error::NotAUri)?.into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(uri: &str) -> Result<Vec<(&'static str, String)>, Error> {
        environment(&uri.to_owned().into())
    }

    #[test]
    fn a_uri_becomes_an_environment() {
        let found = of(
            "postgresql://lease_users_ro_1:a%2Fb@ep-a.neon.tech/neon%20db?sslmode=require&channel_binding=require",
        );
        let expected = [
            ("PGHOST", "ep-a.neon.tech"),
            ("PGPORT", "5432"),
            ("PGUSER", "lease_users_ro_1"),
            ("PGPASSWORD", "a/b"),
            ("PGDATABASE", "neon db"),
            ("PGSSLMODE", "require"),
            ("PGCHANNELBINDING", "require"),
        ];
        assert_eq!(
            found.unwrap(),
            expected.map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn what_cannot_be_told_is_named_and_no_secret_is() {
        let error = of("postgresql://a:hunter2@b/c?sslcrl=x")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sslcrl") && !error.contains("hunter2"),
            "{error}"
        );
        let error = of("hunter2").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

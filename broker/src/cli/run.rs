//! `broker run`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ArgGroup;
use secrecy::ExposeSecret as _;
use tokio::process::Command;

use super::api::Api;
use super::client;
use super::command::{self, Error};
use super::held::Held;
use super::wish::{self, Access, Wish};

/// Who holds the lease, for people who look at the list.
const HOLDER: &str = "broker run";

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("on").required(true)))]
pub(super) struct RunArguments {
    #[command(flatten)]
    broker: client::Arguments,
    /// On a new branch, which is deleted afterwards.
    #[arg(long, group = "on", requires = "parent")]
    ephemeral: bool,
    /// What that is forked from: a branch by its name, branches/{id}, or what a
    /// binding leads to, services/{service}/versions/{version}.
    #[arg(long, requires = "ephemeral")]
    parent: Option<String>,
    /// Run the service's newest revisions on it first.
    #[arg(long, requires = "ephemeral")]
    migrate: bool,
    /// On what a binding leads to: services/{service}/versions/{version}.
    #[arg(long, group = "on")]
    binding: Option<String>,
    /// On a branch that is there: by its name, or branches/{id}.
    #[arg(long, group = "on")]
    branch: Option<String>,
    #[command(flatten)]
    wish: Wish,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// `broker run`.
pub(super) async fn run(arguments: RunArguments) -> Result<ExitCode, Error> {
    let mut api = Api::connect(&arguments.broker).await?;
    let api_ref = &mut api;
    let on = arguments.binding.or(arguments.branch);
    let (on, default) = match (on, arguments.parent) {
        (Some(on), _) => (wish::on(api_ref, &on).await?, Access::ReadWrite),
        (None, parent) => {
            // clap sees to it that there is one.
            let parent = parent.unwrap_or_default();
            let on = wish::ephemeral(api_ref, &parent, arguments.migrate).await?;
            (on, Access::Ddl)
        }
    };
    let request = arguments.wish.request(on, default, HOLDER);
    let words = arguments.command;
    let command = move |held: &Held| {
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .env("DATABASE_URL", held.uri().expose_secret())
            .env("BROKER_BRANCH", held.branch());
        Ok(command)
    };
    Box::pin(command::run(api, request, command, "")).await
}

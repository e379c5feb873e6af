//! `broker bindings …`.

mod refresh;
mod switch;

use clap::Subcommand;
use proto::broker::v1 as pb;

use super::api::{Api, request_id};
use super::client::{Arguments, Error, refused};
use super::output::{Output, OutputArguments};
use super::table;

#[derive(Debug, clap::Args)]
pub(super) struct BindingArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
    #[command(subcommand)]
    command: Bindings,
}

/// Bindings are named as services/{service}/versions/{version}.
#[derive(Debug, Subcommand)]
enum Bindings {
    /// List bindings, and where they lead.
    List,
    /// Show one binding.
    Get { binding: String },
    /// Give the holders of a binding other roles, with other passwords.
    Rotate { binding: String },
    /// Move a binding to another branch, for all its consumers or for none.
    Switch(switch::SwitchArguments),
    /// Have a version catch up with the one that its branch was forked from: a new branch
    /// of that, and a switch to it.
    Refresh(refresh::RefreshArguments),
    /// End a version: it gives no leases any more, and its branch goes.
    Retire(switch::RetireArguments),
}

/// `broker bindings …`.
pub(super) async fn bindings(arguments: BindingArguments) -> Result<(), Error> {
    let mut api = Api::connect(&arguments.broker).await?;
    let output = arguments.output.output;
    match arguments.command {
        Bindings::List => output.many(&api.all_bindings().await?, table_of)?,
        Bindings::Get { binding } => {
            let request = pb::GetBindingRequest { name: binding };
            let answer = api.bindings.get_binding(request).await;
            show(output, answer.map_err(refused)?.into_inner().binding)?;
        }
        Bindings::Rotate { binding } => {
            let request = pb::RotateCredentialsRequest {
                name: binding,
                request_id: request_id(),
            };
            let answer = api.bindings.rotate_credentials(request).await;
            show(output, answer.map_err(refused)?.into_inner().binding)?;
        }
        Bindings::Switch(wished) => switch::switch(&mut api, wished, output).await?,
        Bindings::Refresh(wished) => refresh::refresh(&mut api, wished, output).await?,
        Bindings::Retire(wished) => switch::retire(&mut api, wished, output).await?,
    }
    Ok(())
}

fn show(output: Output, binding: Option<pb::Binding>) -> Result<(), Error> {
    let binding = binding.unwrap_or_default();
    output.one(&binding, |binding| table_of(std::slice::from_ref(binding)))?;
    Ok(())
}

fn table_of(bindings: &[pb::Binding]) -> String {
    let rows = bindings.iter().map(|binding| {
        let state = binding.state().as_str_name();
        vec![
            binding.name.clone(),
            binding.branch_display_name.clone(),
            binding.branch.clone(),
            binding.revision.clone(),
            binding.generation.to_string(),
            state.trim_start_matches("BINDING_STATE_").to_owned(),
            binding.state_message.clone(),
        ]
    });
    let head = [
        "BINDING",
        "BRANCH",
        "RESOURCE",
        "REVISION",
        "GENERATION",
        "STATE",
        "MESSAGE",
    ];
    table::of(&head, rows)
}

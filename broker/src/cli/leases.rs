//! `broker leases …`.

use clap::Subcommand;
use proto::broker::v1 as pb;
use proto::broker::v1::revoke_leases_request::Which;

use super::api::{Api, request_id};
use super::client::{Arguments, Error, refused};
use super::output::{Output, OutputArguments};
use super::progress::Waiting;
use super::table;
use super::times::{shown, ttl};
use super::wish::{self, Access, Wish};

#[derive(Debug, clap::Args)]
pub(super) struct LeaseArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
    #[command(subcommand)]
    command: Leases,
}

/// Leases are named as leases/{id}.
#[derive(Debug, Subcommand)]
enum Leases {
    /// List leases that live, and revoked ones whose role is not closed yet.
    List {
        /// As in `service = users AND state = REVOKING`.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Show one lease.
    Get { lease: String },
    /// Acquire a lease and print its connection URI, which is a credential.
    ///
    /// Nobody renews it: it ends after its ttl. `broker run` and `broker psql` hold
    /// one for as long as a command runs.
    Acquire {
        /// What on: services/{service}/versions/{version}, branches/{id}, or a branch
        /// by its name.
        target: String,
        /// On a new branch, forked from the target, that goes with the lease.
        #[arg(long)]
        ephemeral: bool,
        /// Run the service's newest revisions on that branch first.
        #[arg(long, requires = "ephemeral")]
        migrate: bool,
        /// A name for people who look at the list of leases.
        #[arg(long, default_value = "broker leases acquire")]
        holder: String,
        #[command(flatten)]
        wish: Wish,
    },
    /// Make a lease last longer.
    Renew {
        lease: String,
        /// How long from now, like 30m. Without it: the broker's default.
        #[arg(long, value_name = "DURATION", value_parser = ttl)]
        ttl: Option<std::time::Duration>,
    },
    /// End a lease of one's own, and with it its branch if that is ephemeral.
    Release { lease: String },
    /// Take leases from their holders, now.
    #[command(group(clap::ArgGroup::new("which").required(true)))]
    Revoke {
        /// One lease.
        #[arg(group = "which")]
        lease: Option<String>,
        /// All on that branch: branches/{id} or its name.
        #[arg(long, group = "which", value_name = "BRANCH")]
        branch: Option<String>,
        /// All of that service: users.
        #[arg(long, group = "which", value_name = "SERVICE")]
        service: Option<String>,
        /// Why, for the audit events and people.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// `broker leases …`.
pub(super) async fn leases(arguments: LeaseArguments) -> Result<(), Error> {
    let mut api = Api::connect(&arguments.broker).await?;
    let api = &mut api;
    let output = arguments.output.output;
    match arguments.command {
        Leases::List { filter } => output.many(&list(api, &filter).await?, table_of)?,
        Leases::Get { lease } => {
            let request = pb::GetLeaseRequest { name: lease };
            let answer = api.leases.get_lease(request).await;
            show(output, answer.map_err(refused)?.into_inner().lease)?;
        }
        Leases::Acquire {
            target,
            ephemeral,
            migrate,
            holder,
            wish,
        } => {
            let (on, default) = match ephemeral {
                true => (wish::ephemeral(api, &target, migrate).await?, Access::Ddl),
                false => (wish::on(api, &target).await?, Access::ReadWrite),
            };
            let request = wish.request(on, default, &holder);
            acquire(api, request, output).await?;
        }
        Leases::Renew { lease, ttl } => {
            let request = pb::RenewLeaseRequest {
                name: lease,
                ttl: ttl.map(wish::wire),
                request_id: request_id(),
            };
            let answer = api.leases.renew_lease(request).await;
            show(output, answer.map_err(refused)?.into_inner().lease)?;
        }
        Leases::Release { lease } => {
            let request = pb::ReleaseLeaseRequest {
                name: lease,
                request_id: request_id(),
            };
            let answer = api.leases.release_lease(request).await;
            answer.map_err(refused)?;
            output.one(&(), |()| "done\n".to_owned())?;
        }
        Leases::Revoke {
            lease,
            branch,
            service,
            reason,
        } => {
            let which = match (lease, branch, service) {
                (_, Some(branch), _) => Some(Which::Branch(api.branch_name(&branch).await?)),
                (_, _, Some(service)) => Some(Which::Service(wish::service(&service))),
                (lease, ..) => lease.map(Which::Lease),
            };
            let request = pb::RevokeLeasesRequest {
                which,
                reason,
                request_id: request_id(),
            };
            let waiting = Waiting::begin("close the roles");
            let answer = api.leases.revoke_leases(request).await;
            drop(waiting);
            output.many(&answer.map_err(refused)?.into_inner().leases, table_of)?;
        }
    }
    Ok(())
}

/// The one place where a connection URI is printed.
async fn acquire(
    api: &mut Api,
    request: pb::AcquireLeaseRequest,
    output: Output,
) -> Result<(), Error> {
    let waiting = Waiting::begin("acquire a lease");
    let answer = api.leases.acquire_lease(request).await;
    drop(waiting);
    let answer = answer.map_err(refused)?.into_inner();
    if output == Output::Table
        && let Some(lease) = &answer.lease
    {
        let until = lease.expire_time.map(shown).unwrap_or_default();
        let (name, branch) = (&lease.name, &lease.branch);
        eprintln!("{name} on {branch}, until {until}; `broker leases release {name}` ends it");
    }
    // The one line on stdout, for a file or a variable.
    output.one(&answer, |answer| {
        let uri = answer
            .connection
            .as_ref()
            .map(|connection| &*connection.uri);
        format!("{}\n", uri.unwrap_or_default())
    })?;
    Ok(())
}

async fn list(api: &mut Api, filter: &str) -> Result<Vec<pb::Lease>, Error> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    // Each page brings more, so there is a last one.
    loop {
        let request = pb::ListLeasesRequest {
            page_token,
            filter: filter.to_owned(),
            ..Default::default()
        };
        let page = api.leases.list_leases(request).await;
        let page = page.map_err(refused)?.into_inner();
        all.extend(page.leases);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn show(output: Output, lease: Option<pb::Lease>) -> Result<(), Error> {
    let lease = lease.unwrap_or_default();
    output.one(&lease, |lease| table_of(std::slice::from_ref(lease)))?;
    Ok(())
}

fn table_of(leases: &[pb::Lease]) -> String {
    let rows = leases.iter().map(|lease| {
        vec![
            lease.name.clone(),
            lease.holder.clone(),
            lease.binding.clone(),
            lease.branch.clone(),
            lease.parent.clone(),
            (lease.access().as_str_name())
                .trim_start_matches("ACCESS_")
                .to_owned(),
            (lease.state().as_str_name())
                .trim_start_matches("LEASE_STATE_")
                .to_owned(),
            lease.expire_time.map(shown).unwrap_or_default(),
            lease.state_message.clone(),
        ]
    });
    let head = [
        "LEASE", "HOLDER", "BINDING", "BRANCH", "PARENT", "ACCESS", "STATE", "EXPIRES", "MESSAGE",
    ];
    table::of(&head, rows)
}

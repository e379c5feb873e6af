//! Looking at the world. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use neon_api::BranchId;
use tokio_postgres::Client;

use super::{Error, Inside, Remark, World, budget, lineage};
use crate::config::{BindingSpec, Config, ServiceSpec};
use crate::ledger::Ledger;
use crate::names::BranchName;
use crate::neon::{EndpointKind, Found, Neon};
use crate::{migrate, postgres, roles, seed};

/// How long looking into a branch may take, waking it included.
pub const LOOK_LIMIT: Duration = Duration::from_secs(90);

/// Looks at the branches that broker.toml names, and into those that have an
/// endpoint.
pub async fn look(neon: &Neon, ledger: &Ledger, config: &Config) -> Result<World, Error> {
    let there = branches_by_name(neon).await?;
    let mut world = World::default();
    for spec in &config.bindings {
        let is_kept = |id: &BranchId| ledger.is_kept(id);
        let remark = lineage::remark(spec, there.values(), is_kept);
        world.remarks.extend(remark);
        for name in [Some(&spec.branch), spec.parent.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Some(found) = there.get(name)
                && !world.branches.contains_key(name)
            {
                let endpoints = neon.endpoints(&found.branch.id).await?;
                world.branches.insert(name.clone(), endpoints);
            }
        }
        world
            .remarks
            .extend(undeclared_replica(config, spec, &world));
        // A parent's inside matters only to a branch that is not there yet.
        let place = match world.branches.get(&spec.branch) {
            Some(_) => Some(&spec.branch),
            None => spec.parent.as_ref(),
        };
        if let Some(name) = place
            && has_endpoint(&world, name, EndpointKind::ReadWrite)
            && let Some(found) = there.get(name)
        {
            branch(neon, name, &found.branch.id, &spec.service, &mut world).await?;
        }
    }
    Ok(world)
}

/// Looks for parents that are neither declared nor there: a name that is
/// misspelt is found before anything is made.
pub async fn check_parents(neon: &Neon, config: &Config) -> Result<(), Error> {
    let declared: BTreeSet<&BranchName> = config.bindings.iter().map(|spec| &spec.branch).collect();
    let mut others = config
        .bindings
        .iter()
        .filter_map(|spec| Some((spec, spec.parent.as_ref()?)))
        .filter(|(_, parent)| !declared.contains(parent))
        .peekable();
    if others.peek().is_none() {
        return Ok(());
    }
    let there = branches_by_name(neon).await?;
    match others.find(|(_, parent)| !there.contains_key(*parent)) {
        None => Ok(()),
        Some((spec, parent)) => Err(Error::ParentNotFound {
            branch: spec.branch.clone(),
            parent: parent.clone(),
        }),
    }
}

/// That a branch has a read-only endpoint which none of its bindings asks for.
fn undeclared_replica(config: &Config, spec: &BindingSpec, world: &World) -> Option<Remark> {
    let branch = &spec.branch;
    let is_declared = || config.bindings_on(branch).any(|one| one.read_only_endpoint);
    let is_there = has_endpoint(world, branch, EndpointKind::ReadOnly);
    (is_there && !is_declared()).then(|| Remark {
        binding: spec.name.clone(),
        text: format!(
            "{branch} has a read-only endpoint that is not declared: leases are told of it, and \
             it stays, for nothing says that the broker made it"
        ),
    })
}

fn has_endpoint(world: &World, branch: &BranchName, kind: EndpointKind) -> bool {
    let has = world.branches.get(branch);
    has.is_some_and(|has| has.contains(&kind))
}

/// Every branch of the project, by name.
pub(super) async fn branches_by_name(neon: &Neon) -> Result<BTreeMap<BranchName, Found>, Error> {
    let found = neon.branches().await?;
    Ok(found
        .into_iter()
        .filter_map(|found| Some((found.branch.name.parse().ok()?, found)))
        .collect())
}

/// Looks into one branch for one service, unless that was done.
async fn branch(
    neon: &Neon,
    name: &BranchName,
    id: &BranchId,
    service: &ServiceSpec,
    world: &mut World,
) -> Result<(), Error> {
    let place = (name.clone(), service.name.clone());
    if world.inside.contains_key(&place) {
        return Ok(());
    }
    let uris = neon.owner_uris(id, &service.database).await?;
    let looking = async {
        let client = postgres::session(&uris.direct).await?;
        let limits = budget::limits(&client).await?;
        Ok((limits, inside(&client, service, id).await?))
    };
    let looked = postgres::bounded(LOOK_LIMIT, "look", looking).await;
    let (limits, inside) = looked.map_err(|source| Error::FailedLook {
        branch: name.clone(),
        source,
    })?;
    world.limits.insert(name.clone(), limits);
    world.inside.insert(place, inside);
    Ok(())
}

/// What a service has on a branch.
pub(super) async fn inside(
    client: &Client,
    service: &ServiceSpec,
    branch: &BranchId,
) -> Result<Inside, postgres::Error> {
    let applied: BTreeSet<String> = migrate::applied(client, service)
        .await?
        .into_iter()
        .collect();
    Ok(Inside {
        applied,
        seeded: seed::applied(client).await?,
        granted: roles::are_granted(client, service, branch).await?,
    })
}

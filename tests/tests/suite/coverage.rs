//! Walks the descriptors of the API and calls every RPC that is in them: a new
//! one fails here until it is called.

use std::collections::BTreeSet;

use anyhow::Context;
use prost::Message;
use prost_types::FileDescriptorSet;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{self as broker, AcquireLeaseRequest, WatchBindingRequest};
use proto::google::longrunning as operation;
use proto::users::{v1, v2};
use suite::System;

const V1: &str = "services/users/versions/v1";

#[tokio::test]
async fn every_rpc_is_called_and_answers() -> anyhow::Result<()> {
    let system = System::start().await?;
    let declared = declared()?;
    assert!(declared.len() > 15, "{declared:?}");
    for method in &declared {
        call(&system, method)
            .await
            .with_context(|| format!("call {method}"))?;
    }
    system.finish().await
}

/// A client that shows an operation's error as text has only these descriptors.
#[test]
fn the_details_of_refusals_are_described() -> anyhow::Result<()> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS)?;
    let mut files = files.file.iter();
    let file = files.find(|file| file.name().ends_with("rpc/error_details.proto"));
    let messages = &file.context("the file")?.message_type;
    for name in ["ErrorInfo", "BadRequest", "ResourceInfo", "RetryInfo"] {
        let is_there = messages.iter().any(|message| message.name() == name);
        assert!(is_there, "google.rpc.{name}");
    }
    Ok(())
}

fn declared() -> anyhow::Result<BTreeSet<String>> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS)?;
    Ok(files
        .file
        .iter()
        .flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                service.method.iter().map(move |method| {
                    format!("{}.{}/{}", file.package(), service.name(), method.name())
                })
            })
        })
        .collect())
}

/// Calls one method as a user would, and checks that its answer says something.
async fn call(system: &System, method: &str) -> anyhow::Result<()> {
    let mut branches = system.broker.branches().await?;
    let mut bindings = system.broker.bindings().await?;
    let mut leases = system.broker.leases().await?;
    let mut config = system.broker.config().await?;
    let (mut users1, mut users2) = (system.users_v1().await?, system.users_v2().await?);
    let acquire = AcquireLeaseRequest {
        target: Some(Target::Binding(V1.to_owned())),
        ..Default::default()
    };
    let ok = match method {
        "broker.v1.AuditService/ListAuditEvents" => {
            leases.acquire_lease(acquire).await?;
            let request = broker::ListAuditEventsRequest {
                service: "users".to_owned(),
                page_size: 1,
                ..Default::default()
            };
            let mut audit = system.broker.audit().await?;
            let answer = audit.list_audit_events(request).await?.into_inner();
            let event = answer.events.first().context("an event")?;
            event.action() == broker::AuditAction::Acquired
                && event.binding == V1
                && event.lease.starts_with("leases/")
                && !answer.next_page_token.is_empty()
        }
        "broker.v1.BindingService/GetBinding" => {
            let request = broker::GetBindingRequest {
                name: V1.to_owned(),
            };
            let binding = bindings.get_binding(request).await?.into_inner().binding;
            let binding = binding.context("a binding")?;
            binding.state() == broker::BindingState::Ready
                && binding.branch_display_name == "api_v1_branch"
                && binding.revision == "2026-01-20-090000_lists_and_request_ids"
                && binding.generation > 0
        }
        "broker.v1.BindingService/ListBindings" => {
            let request = broker::ListBindingsRequest::default();
            bindings
                .list_bindings(request)
                .await?
                .into_inner()
                .bindings
                .len()
                == 2
        }
        "broker.v1.MigrationService/GetMigrationStatus" => {
            let request = broker::GetMigrationStatusRequest {
                binding: V1.to_owned(),
                ..Default::default()
            };
            let mut migrations = system.broker.migrations().await?;
            let status = migrations.get_migration_status(request).await?.into_inner();
            let applied = broker::RevisionState::Applied;
            status.current == status.head
                && status.branch.starts_with("branches/")
                && status
                    .revisions
                    .first()
                    .is_some_and(|one| one.state() == applied)
        }
        "broker.v1.MigrationService/Migrate" => {
            let request = broker::MigrateRequest {
                binding: V1.to_owned(),
                wish: Some(broker::migrate_request::Wish::Redo(Default::default())),
                ..Default::default()
            };
            let mut migrations = system.broker.migrations().await?;
            let mut steps = migrations.migrate(request).await?.into_inner();
            let reverted = steps.message().await?.context("a step")?;
            let ran = steps.message().await?.context("a step")?;
            reverted.step() == broker::MigrationStep::Reverted
                && ran.step() == broker::MigrationStep::Run
                && reverted.name == ran.name
                && steps.message().await?.is_none()
        }
        "broker.v1.MigrationService/GetMigrationScript"
        | "broker.v1.MigrationService/LintRevisions"
        | "broker.v1.MigrationService/VerifySchema"
        | "broker.v1.MigrationService/Autogenerate"
        | "broker.v1.MigrationService/Rehearse" => migrations(system, method).await?,
        "broker.v1.BindingService/SwitchBinding" => {
            let request = broker::SwitchBindingRequest {
                name: V1.to_owned(),
                branch: "branches/br-not-there-12345678".to_owned(),
                ..Default::default()
            };
            let answer = bindings.switch_binding(request).await;
            answer.is_err_and(|status| status.code() == tonic::Code::NotFound)
        }
        "broker.v1.BindingService/RefreshBinding" => {
            let request = broker::RefreshBindingRequest {
                name: "services/users/versions/v2".to_owned(),
                branch_display_name: method.to_owned(),
                ..Default::default()
            };
            let mut progress = bindings.refresh_binding(request).await?.into_inner();
            let mut last = broker::RefreshBindingResponse::default();
            while let Some(told) = progress.message().await? {
                last = told;
            }
            last.phase() == broker::RefreshPhase::Done
                && last.branch_display_name == method
                && last.kept_display_name == "api_v2_branch"
                && last.report.context("a report")?.message.is_empty()
        }
        "broker.v1.BindingService/RetireVersion" => {
            leases.acquire_lease(acquire).await?;
            let request = broker::RetireVersionRequest {
                name: V1.to_owned(),
                ..Default::default()
            };
            let answer = bindings.retire_version(request).await;
            answer.is_err_and(|status| status.code() == tonic::Code::FailedPrecondition)
        }
        "broker.v1.BranchService/GetBranch" => {
            let request = broker::ListBranchesRequest::default();
            let list = branches.list_branches(request).await?.into_inner().branches;
            let one = list.last().context("a branch")?.clone();
            let request = broker::GetBranchRequest {
                name: one.name.clone(),
            };
            let read = branches.get_branch(request).await?.into_inner().branch;
            read.context("a branch")?.display_name == one.display_name
        }
        "broker.v1.BranchService/ListBranches" => {
            let request = broker::ListBranchesRequest::default();
            let mut list = branches.list_branches(request).await?.into_inner().branches;
            // Others are made here, under the names of methods.
            list.retain(|branch| !branch.display_name.contains('/'));
            let names: Vec<_> = list.iter().map(|branch| &*branch.display_name).collect();
            let managed = list.iter().filter(|branch| branch.managed).count();
            names == ["api_v1_branch", "api_v2_branch", "main"]
                && managed == 2
                && list[1].parent == list[0].name
                && list[0].bindings == [V1]
        }
        method
            if method.starts_with("broker.v1.BranchService/")
                || method.starts_with("google.longrunning.Operations/") =>
        {
            branches_and_operations(system, method).await?
        }
        "broker.v1.ConfigService/Apply" => {
            let request = broker::ApplyRequest::default();
            config.apply(request).await?.into_inner().steps.is_empty()
        }
        "broker.v1.ConfigService/Plan" => {
            let request = broker::PlanRequest::default();
            config.plan(request).await?.into_inner().steps.is_empty()
        }
        "broker.v1.LeaseService/AcquireLease" => {
            let answer = leases.acquire_lease(acquire).await?.into_inner();
            let connection = answer.connection.context("a connection")?;
            connection.connection_limit > 0 && connection.schema == "users"
        }
        "broker.v1.LeaseService/RenewLease" | "broker.v1.LeaseService/ReleaseLease" => {
            let lease = leases.acquire_lease(acquire).await?.into_inner().lease;
            let name = lease.context("a lease")?.name;
            if method.ends_with("RenewLease") {
                let request = broker::RenewLeaseRequest {
                    name,
                    ttl: None,
                    ..Default::default()
                };
                leases
                    .renew_lease(request)
                    .await?
                    .into_inner()
                    .lease
                    .is_some()
            } else {
                let request = broker::ReleaseLeaseRequest {
                    name,
                    ..Default::default()
                };
                leases.release_lease(request).await?;
                true
            }
        }
        "broker.v1.LeaseService/GetLease" | "broker.v1.LeaseService/RevokeLeases" => {
            let lease = leases.acquire_lease(acquire).await?.into_inner().lease;
            let name = lease.context("a lease")?.name;
            if method.ends_with("GetLease") {
                let request = broker::GetLeaseRequest { name: name.clone() };
                let lease = leases.get_lease(request).await?.into_inner().lease;
                lease.context("a lease")?.name == name
            } else {
                let request = broker::RevokeLeasesRequest {
                    which: Some(broker::revoke_leases_request::Which::Lease(name)),
                    ..Default::default()
                };
                leases
                    .revoke_leases(request)
                    .await?
                    .into_inner()
                    .leases
                    .len()
                    == 1
            }
        }
        "broker.v1.LeaseService/ListLeases" => {
            leases.acquire_lease(acquire).await?;
            let request = broker::ListLeasesRequest::default();
            !leases
                .list_leases(request)
                .await?
                .into_inner()
                .leases
                .is_empty()
        }
        "broker.v1.BindingService/RotateCredentials" => {
            let request = broker::RotateCredentialsRequest {
                name: V1.to_owned(),
                ..Default::default()
            };
            let answer = bindings.rotate_credentials(request).await?.into_inner();
            answer.binding.context("a binding")?.generation > 1
        }
        "broker.v1.LeaseService/WatchBinding" => {
            let request = WatchBindingRequest {
                binding: V1.to_owned(),
                ..Default::default()
            };
            let mut states = leases
                .watch_binding(tokio_stream::once(request))
                .await?
                .into_inner();
            states
                .message()
                .await?
                .context("a state")?
                .current
                .is_some()
        }
        "users.v1.UserService/GetUser" => {
            let answer = users1.get_user(v1::GetUserRequest { id: 1 }).await?;
            answer.into_inner().user.context("a user")?.name == "Alice"
        }
        "users.v1.UserService/BatchGetUsers" => {
            let request = v1::BatchGetUsersRequest { ids: vec![2, 1] };
            let users = users1.batch_get_users(request).await?.into_inner().users;
            users.iter().map(|user| user.id).eq([2, 1])
        }
        "users.v1.UserService/StreamUsers" => {
            let request = v1::StreamUsersRequest::default();
            let mut answers = users1.stream_users(request).await?.into_inner();
            let answer = answers.message().await?.context("users")?;
            answer.users.len() >= 2 && answers.message().await?.is_none()
        }
        "users.v1.UserService/ListUsers" => {
            let answer = users1.list_users(v1::ListUsersRequest::default()).await?;
            answer.into_inner().users.len() >= 2
        }
        "users.v1.UserService/CreateUser"
        | "users.v1.UserService/UpdateUser"
        | "users.v1.UserService/DeleteUser" => {
            let user = v1::User {
                name: "Covered".to_owned(),
                email: format!("{}@example.com", method.replace(['/', '.'], "-")),
                ..Default::default()
            };
            let request = v1::CreateUserRequest {
                user: Some(user),
                ..Default::default()
            };
            let created = users1
                .create_user(request)
                .await?
                .into_inner()
                .user
                .context("a user")?;
            let id = created.id;
            let renamed = v1::User {
                id,
                name: "Changed".to_owned(),
                ..Default::default()
            };
            let request = v1::UpdateUserRequest {
                user: Some(renamed),
                update_mask: None,
            };
            let changed = users1.update_user(request).await?.into_inner().user;
            let request = v1::DeleteUserRequest {
                id,
                ..Default::default()
            };
            users1.delete_user(request).await?;
            let gone = users1.get_user(v1::GetUserRequest { id }).await.is_err();
            gone && changed.context("a user")?.name == "Changed"
        }
        "users.v2.UserService/GetUser" => {
            let answer = users2.get_user(v2::GetUserRequest { id: 2 }).await?;
            answer.into_inner().user.context("a user")?.age == Some(30)
        }
        "users.v2.UserService/BatchGetUsers" => {
            let request = v2::BatchGetUsersRequest { ids: vec![2, 1] };
            let users = users2.batch_get_users(request).await?.into_inner().users;
            users.iter().map(|user| user.id).eq([2, 1])
        }
        "users.v2.UserService/StreamUsers" => {
            let request = v2::StreamUsersRequest::default();
            let mut answers = users2.stream_users(request).await?.into_inner();
            let answer = answers.message().await?.context("users")?;
            answer.users.len() >= 2 && answers.message().await?.is_none()
        }
        "users.v2.UserService/ListUsers" => {
            let answer = users2.list_users(v2::ListUsersRequest::default()).await?;
            answer.into_inner().users.len() >= 2
        }
        "users.v2.UserService/CreateUser"
        | "users.v2.UserService/UpdateUser"
        | "users.v2.UserService/DeleteUser" => {
            let user = v2::User {
                name: "Covered".to_owned(),
                email: format!("{}@example.com", method.replace(['/', '.'], "-")),
                age: Some(7),
                ..Default::default()
            };
            let request = v2::CreateUserRequest {
                user: Some(user),
                ..Default::default()
            };
            let created = users2
                .create_user(request)
                .await?
                .into_inner()
                .user
                .context("a user")?;
            let id = created.id;
            let older = v2::User {
                id,
                age: Some(8),
                ..Default::default()
            };
            let request = v2::UpdateUserRequest {
                user: Some(older),
                update_mask: None,
            };
            let changed = users2.update_user(request).await?.into_inner().user;
            let request = v2::DeleteUserRequest {
                id,
                ..Default::default()
            };
            users2.delete_user(request).await?;
            let gone = users2.get_user(v2::GetUserRequest { id }).await.is_err();
            gone && changed.context("a user")?.age == Some(8)
        }
        unknown => anyhow::bail!("no test calls {unknown}: add it here"),
    };
    anyhow::ensure!(ok, "{method} did not answer as it should");
    Ok(())
}

/// What changes branches, and what follows that, on a branch of its own.
async fn branches_and_operations(system: &System, method: &str) -> anyhow::Result<bool> {
    let mut branches = system.broker.branches().await?;
    let mut operations = system.broker.operations().await?;
    let create = broker::CreateBranchRequest {
        branch: Some(broker::Branch {
            display_name: method.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let begun = branches.create_branch(create).await?.into_inner();
    let wait = |name: &str| operation::WaitOperationRequest {
        name: name.to_owned(),
        timeout: None,
    };
    let made = operations
        .wait_operation(wait(&begun.name))
        .await?
        .into_inner();
    let done = made.name.clone();
    let name = crate::broker_branches::made_by(made)?;
    let database = "neondb".to_owned();
    // What begins an operation is waited for.
    let begun = match method.split('/').next_back().unwrap_or_default() {
        "CreateBranch" | "WaitOperation" => return Ok(name.starts_with("branches/br-")),
        "DeleteBranch" => {
            let request = broker::DeleteBranchRequest {
                name,
                ..Default::default()
            };
            branches.delete_branch(request).await?
        }
        "ResetBranch" => {
            let request = broker::ResetBranchRequest {
                name,
                ..Default::default()
            };
            branches.reset_branch(request).await?
        }
        "RestoreBranch" => {
            let get = broker::GetBranchRequest { name: name.clone() };
            let branch = branches.get_branch(get).await?.into_inner().branch;
            let request = broker::RestoreBranchRequest {
                name,
                source: branch.context("a branch")?.parent,
                ..Default::default()
            };
            branches.restore_branch(request).await?
        }
        "UpdateBranch" => {
            let request = broker::UpdateBranchRequest {
                branch: Some(broker::Branch {
                    name,
                    display_name: "updated".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let answer = branches.update_branch(request).await?.into_inner();
            return Ok(answer.branch.context("a branch")?.display_name == "updated");
        }
        "SetDefaultBranch" => {
            let request = broker::SetDefaultBranchRequest {
                name,
                ..Default::default()
            };
            let answer = branches.set_default_branch(request).await?.into_inner();
            return Ok(answer.branch.context("a branch")?.default);
        }
        "GetSchema" => {
            let request = broker::GetSchemaRequest {
                name,
                database,
                ..Default::default()
            };
            let answer = branches.get_schema(request).await?.into_inner();
            return Ok(answer.schema.contains("SET "));
        }
        "CompareSchemas" => {
            let request = broker::CompareSchemasRequest {
                name,
                database,
                ..Default::default()
            };
            let answer = branches.compare_schemas(request).await?.into_inner();
            return Ok(answer.diff.is_empty());
        }
        "GetOperation" => {
            let request = operation::GetOperationRequest { name: done };
            return Ok(operations.get_operation(request).await?.into_inner().done);
        }
        "ListOperations" => {
            let request = operation::ListOperationsRequest::default();
            let answer = operations.list_operations(request).await?.into_inner();
            return Ok(answer.operations.iter().any(|found| found.name == done));
        }
        "CancelOperation" => {
            let request = operation::CancelOperationRequest { name: done };
            operations.cancel_operation(request).await?;
            return Ok(true);
        }
        "DeleteOperation" => {
            let request = operation::DeleteOperationRequest { name: done };
            operations.delete_operation(request).await?;
            return Ok(true);
        }
        unknown => anyhow::bail!("no test calls {unknown}: add it here"),
    };
    let request = wait(&begun.into_inner().name);
    let ended = operations.wait_operation(request).await?.into_inner();
    Ok(matches!(
        ended.result,
        Some(operation::operation::Result::Response(_))
    ))
}

/// What MigrationService finds without changing the branch.
async fn migrations(system: &System, method: &str) -> anyhow::Result<bool> {
    let (binding, branch) = (V1.to_owned(), String::new());
    let mut migrations = system.broker.migrations().await?;
    Ok(match method.rsplit('/').next() {
        Some("GetMigrationScript") => {
            let request = broker::GetMigrationScriptRequest {
                binding,
                branch,
                from: "base".to_owned(),
                wish: Some(broker::get_migration_script_request::Wish::To(
                    "head".to_owned(),
                )),
            };
            let answer = migrations.get_migration_script(request).await?.into_inner();
            answer.sql.contains("CREATE TABLE users") && answer.sql.ends_with("COMMIT;\n")
        }
        Some("LintRevisions") => {
            let request = broker::LintRevisionsRequest {
                binding,
                branch,
                all: true,
            };
            let answer = migrations.lint_revisions(request).await?.into_inner();
            answer.findings.iter().all(|one| !one.rule.is_empty())
        }
        Some("VerifySchema") => {
            let request = broker::VerifySchemaRequest { binding, branch };
            let answer = migrations.verify_schema(request).await?.into_inner();
            answer.drift.is_empty()
        }
        Some("Autogenerate") => {
            let wanted = broker::autogenerate_request::Wanted::SchemaSql(
                "CREATE TABLE only_this (id int);".to_owned(),
            );
            let request = broker::AutogenerateRequest {
                binding,
                branch,
                renames: Vec::new(),
                wanted: Some(wanted),
            };
            let answer = migrations.autogenerate(request).await?.into_inner();
            answer.up_sql.contains("CREATE TABLE only_this")
                && answer.up_sql.contains("-- broker: stop")
                && answer.down_sql.contains("DROP TABLE only_this")
        }
        _ => {
            let request = broker::RehearseRequest {
                binding,
                branch,
                to: String::new(),
            };
            let answer = migrations.rehearse(request).await?.into_inner();
            answer.verdict() == broker::RehearsalVerdict::Unproven && answer.revisions.is_empty()
        }
    })
}

//! Who may call the broker, and what they may do: TLS, certificates, tokens,
//! grants.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use prost_types::FileDescriptorSet;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, ApplyRequest, GetBindingRequest, ListBindingsRequest,
    ListBranchesRequest, PlanRequest, ReleaseLeaseRequest, RenewLeaseRequest, WatchBindingRequest,
    WatchBindingResponse,
};
use rpc::client::{Channel, Credentials};
use suite::{PATIENCE, Process, Secured, eventually};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::details::refused;

const V1: &str = "services/users/versions/v1";
const V2: &str = "services/users/versions/v2";
const USERS: &str = "spiffe://example.org/users";
/// As far as a reader may go; the others are whole.
const GRANTS: &str = r#"
[grants.users]
caller = "spiffe://example.org/users"
lease = [{ bindings = ["services/users/versions/*"], access = ["read_only", "read_write"] }]

[grants.twins]
caller = "spiffe://example.org/twins/*"
lease = [{ bindings = ["services/users/versions/v1"], access = ["read_write"] }]

[grants.reader]
caller = "dns:reader.example.org"
lease = [{ bindings = ["services/users/versions/v1"], access = ["read_only"] }]

[grants.people]
caller = "token:people"
read = true

[grants.operators]
caller = "token:operators"
admin = true
"#;

fn acquire(binding: &str, access: Access) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Binding(binding.to_owned())),
        access: access.into(),
        holder: "as I like".to_owned(),
        ..Default::default()
    }
}

#[track_caller]
fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Refused for want of a grant, which the message names.
#[track_caller]
fn denied<T: std::fmt::Debug>(result: Result<T, Status>, missing: &str) {
    let status = refused(result, Code::PermissionDenied, None);
    assert_eq!(reason(&status), "GRANT_MISSING", "{status:?}");
    let said = status.message();
    assert!(said.contains(missing), "{missing}: {said}");
    assert!(said.contains("[grants] in broker.toml"), "{said}");
}

/// The broker's methods, as their paths.
fn declared() -> anyhow::Result<BTreeSet<String>> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS)?;
    let files = files
        .file
        .iter()
        .filter(|file| matches!(file.package(), "broker.v1" | "google.longrunning"));
    let methods = files.flat_map(|file| {
        file.service.iter().flat_map(move |service| {
            let methods = service.method.iter();
            methods.map(move |method| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            })
        })
    });
    Ok(methods.collect())
}

/// Calls a method with an empty message.
async fn call(channel: &Channel, path: &str) -> anyhow::Result<Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = client.unary(Request::new(()), path.parse()?, codec).await;
    answer.err().with_context(|| format!("{path} answered"))
}

#[tokio::test]
async fn every_rpc_wants_to_know_who_calls_and_whether_they_may() -> anyhow::Result<()> {
    let secured = Secured::start(GRANTS).await?;
    let nobody = secured.channel(&secured.authority.nobody())?;
    let stranger = secured
        .authority
        .caller("s", "spiffe://example.org/strangers")?;
    let by_token = secured.token("strangers").await?;
    let strangers = [secured.channel(&stranger)?, secured.channel(&by_token)?];
    let methods = declared()?;
    assert!(methods.len() >= 10, "{methods:?}");
    for method in &methods {
        let status = call(&nobody, method).await?;
        assert_eq!(status.code(), Code::Unauthenticated, "{method}: {status:?}");
        assert_eq!(reason(&status), "CALLER_UNIDENTIFIED");
        for stranger in &strangers {
            let status = call(stranger, method).await?;
            // Giving back needs no grant, and gives back nothing of another's.
            let wanted = match method.ends_with("/ReleaseLease") {
                true => (Code::InvalidArgument, "INVALID_FIELDS"),
                false => (Code::PermissionDenied, "GRANT_MISSING"),
            };
            assert_eq!((status.code(), &*reason(&status)), wanted, "{method}");
        }
    }
    let status = call(&nobody, "/broker.v1.LeaseService/NoSuchMethod").await?;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    secured.finish().await
}

#[tokio::test]
async fn a_grant_allows_what_it_says_and_no_more() -> anyhow::Result<()> {
    let secured = Secured::start(GRANTS).await?;
    let caller = |stem: &str, name: &str| -> anyhow::Result<suite::Clients> {
        secured.clients(&secured.authority.caller(stem, name)?)
    };
    let mut users = caller("users", USERS)?;
    for (binding, access) in [(V1, Access::ReadWrite), (V2, Access::ReadOnly)] {
        let answer = users.leases.acquire_lease(acquire(binding, access)).await?;
        let lease = answer.into_inner().lease.context("a lease")?;
        assert_eq!(lease.holder, USERS, "the identity, not what was said");
    }
    denied(
        users
            .leases
            .acquire_lease(acquire("services/orders/versions/v1", Access::ReadOnly))
            .await,
        &format!("{USERS} has no grant to lease services/orders/versions/v1 read_only"),
    );
    denied(users.config.apply(ApplyRequest::default()).await, "admin");
    denied(
        users
            .bindings
            .list_bindings(ListBindingsRequest::default())
            .await,
        "read",
    );

    let mut reader = caller("reader", "reader.example.org")?;
    let read_only = acquire(V1, Access::ReadOnly);
    reader.leases.acquire_lease(read_only).await?;
    for access in [Access::ReadWrite, Access::Unspecified] {
        denied(
            reader.leases.acquire_lease(acquire(V1, access)).await,
            &format!("dns:reader.example.org has no grant to lease {V1} read_write"),
        );
    }
    let see = |name: &str| GetBindingRequest {
        name: name.to_owned(),
    };
    reader.bindings.get_binding(see(V1)).await?;
    denied(reader.bindings.get_binding(see(V2)).await, V2);
    let unknown = "services/none/versions/v1";
    denied(reader.bindings.get_binding(see(unknown)).await, unknown);
    let watch = tokio_stream::once(WatchBindingRequest {
        binding: V2.to_owned(),
        ..Default::default()
    });
    denied(reader.leases.watch_binding(watch).await, V2);

    let mut people = secured.clients(&secured.token("people").await?)?;
    people.bindings.get_binding(see(V2)).await?;
    people
        .branches
        .list_branches(ListBranchesRequest::default())
        .await?;
    denied(people.config.plan(PlanRequest::default()).await, "admin");
    let mut operators = secured.clients(&secured.token("operators").await?)?;
    operators.config.plan(PlanRequest::default()).await?;
    operators.config.apply(ApplyRequest::default()).await?;
    operators
        .bindings
        .list_bindings(ListBindingsRequest::default())
        .await?;
    denied(
        operators
            .leases
            .acquire_lease(acquire(V1, Access::ReadOnly))
            .await,
        "lease",
    );
    secured.finish().await
}

/// Opens a watch of a lease, and hears its first answer.
async fn follow(
    clients: &mut suite::Clients,
    lease: &str,
) -> Result<Streaming<WatchBindingResponse>, Status> {
    let request = WatchBindingRequest {
        lease: lease.to_owned(),
        ..Default::default()
    };
    let mut watch = clients
        .leases
        .watch_binding(tokio_stream::once(request))
        .await?
        .into_inner();
    watch.message().await?;
    Ok(watch)
}

#[tokio::test]
async fn a_lease_is_its_callers_and_nobody_elses() -> anyhow::Result<()> {
    let secured = Secured::start(GRANTS).await?;
    let caller = |name: &str| -> anyhow::Result<suite::Clients> {
        let id = format!("spiffe://example.org/twins/{name}");
        secured.clients(&secured.authority.caller(name, &id)?)
    };
    let (mut one, mut other) = (caller("one")?, caller("other")?);
    let request = AcquireLeaseRequest {
        request_id: "6b8b4567-327b-43c6-a43c-986966334873".to_owned(),
        ..acquire(V1, Access::ReadWrite)
    };
    let given = async |clients: &mut suite::Clients| -> anyhow::Result<String> {
        let answer = clients.leases.acquire_lease(request.clone()).await?;
        Ok(answer.into_inner().lease.context("a lease")?.name)
    };
    let name = given(&mut one).await?;
    assert_eq!(given(&mut one).await?, name, "repeated");
    assert_ne!(given(&mut other).await?, name, "another's request id");

    let renew = RenewLeaseRequest {
        name: name.clone(),
        ttl: None,
        ..Default::default()
    };
    let release = ReleaseLeaseRequest {
        name: name.clone(),
        ..Default::default()
    };
    let status = refused(
        other.leases.renew_lease(renew.clone()).await,
        Code::NotFound,
        None,
    );
    assert_eq!(reason(&status), "LEASE_NOT_FOUND");
    let status = refused(follow(&mut other, &name).await, Code::NotFound, None);
    assert_eq!(reason(&status), "LEASE_NOT_FOUND");
    other.leases.release_lease(release.clone()).await?;
    one.leases.renew_lease(renew.clone()).await?;
    follow(&mut one, &name).await?;
    one.leases.release_lease(release).await?;
    refused(one.leases.renew_lease(renew).await, Code::NotFound, None);
    secured.finish().await
}

/// How a watch ends.
async fn end(mut watch: Streaming<WatchBindingResponse>) -> anyhow::Result<Status> {
    let ending = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("the watch ended as if complete"),
                Err(status) => return Ok(status),
            }
        }
    };
    tokio::time::timeout(PATIENCE, ending).await?
}

#[tokio::test]
async fn rights_that_are_taken_back_are_gone_without_a_restart() -> anyhow::Result<()> {
    let token_grant = GRANTS.replace("token:people\"\nread = true", "token:people\"\nread = true\nlease = [{ bindings = [\"services/*/versions/*\"], access = [\"read_only\"] }]");
    assert_ne!(token_grant, GRANTS);
    let secured = Secured::start(&token_grant).await?;
    let whole = secured.config.text()?;
    let mut users = secured.clients(&secured.authority.caller("users", USERS)?)?;
    let answer = users
        .leases
        .acquire_lease(acquire(V1, Access::ReadWrite))
        .await?;
    let name = answer.into_inner().lease.context("a lease")?.name;
    let watch = follow(&mut users, &name).await?;

    // A grant, by the file alone.
    let renew = RenewLeaseRequest {
        name,
        ttl: None,
        ..Default::default()
    };
    secured
        .config
        .write(&whole.replace(USERS, "spiffe://example.org/others"))?;
    let ended = end(watch).await?;
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended:?}");
    denied(users.leases.renew_lease(renew.clone()).await, "");
    // One that is broken takes nothing away and gives nothing.
    secured
        .config
        .write(&whole.replace("[grants.users]", "[grants.users"))?;
    eventually("the log says so", async || {
        let log = secured.broker.log();
        anyhow::ensure!(
            log.contains("cannot read the grants in broker.toml again"),
            "{log}"
        );
        Ok(())
    })
    .await?;
    denied(users.leases.renew_lease(renew.clone()).await, "");
    secured.config.write(&whole)?;
    eventually("the grant is there again", async || {
        Ok(users.clone().leases.renew_lease(renew.clone()).await?)
    })
    .await?;

    // A token, by the command.
    let shown = secured.token("people").await?;
    let mut people = secured.clients(&shown)?;
    let lease = acquire(V1, Access::ReadOnly);
    let answer = people.leases.acquire_lease(lease.clone()).await?;
    let name = answer.into_inner().lease.context("a lease")?.name;
    let watch = follow(&mut people, &name).await?;
    let tokens = secured.folder().join("tokens");
    let tokens = tokens.to_str().context("UTF-8")?;
    let said = command(
        &secured,
        &["tokens", "revoke", "people", "--tokens-file", tokens],
    )
    .await?;
    assert!(said.0, "{}", said.1);
    let ended = end(watch).await?;
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
    let status = refused(
        people.leases.acquire_lease(lease).await,
        Code::Unauthenticated,
        None,
    );
    assert_eq!(reason(&status), "TOKEN_INVALID");

    // SIGHUP ends nothing, and has everything read.
    let before = secured
        .broker
        .log()
        .matches("read the tokens again")
        .count();
    kill(Pid::from_raw(secured.broker.pid()?), Signal::SIGHUP)?;
    eventually("all is read again", async || {
        let log = secured.broker.log();
        let tokens = log.matches("read the tokens again").count() > before;
        anyhow::ensure!(
            tokens && log.contains("read the grants in broker.toml again"),
            "{log}"
        );
        anyhow::ensure!(
            log.contains("read the certificates of this server again"),
            "{log}"
        );
        Ok(())
    })
    .await?;
    secured.finish().await
}

/// Runs the broker's command line; whether it worked, and what it said.
async fn command(secured: &Secured, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let log = secured.folder().join("command.log");
    let _ = std::fs::remove_file(&log);
    let mut process = Process::start("broker", arguments, &[], &log)?;
    let status = process.wait().await?;
    Ok((status.success(), process.log()))
}

#[tokio::test]
async fn the_command_line_shows_who_it_is() -> anyhow::Result<()> {
    let secured = Secured::start(GRANTS).await?;
    let (url, authority) = (secured.url(), &secured.authority);
    let shown = secured.token("operators").await?.token_file;
    let shown = shown.context("a token")?.display().to_string();
    let ca = authority.ca().display().to_string();
    let (certificate, key) = authority.issue("users", USERS)?;
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let plain = url.replace("https://", "http://");
    let trusting = ["--broker", &url, "--broker-ca-file", &ca];
    let with = |command: &[&'static str], more: &[&str]| -> Vec<String> {
        let all = command.iter().chain(trusting.iter()).chain(more);
        all.map(|text| (*text).to_owned()).collect()
    };
    for (arguments, wanted) in [
        (with(&["health"], &[]), Ok(())),
        (with(&["plan"], &["--broker-token-file", &shown]), Ok(())),
        (with(&["apply"], &["--broker-token-file", &shown]), Ok(())),
        (with(&["plan"], &[]), Err("has to know who calls")),
        (
            with(
                &["plan"],
                &[
                    "--broker-client-cert-file",
                    &certificate,
                    "--broker-client-key-file",
                    &key,
                ],
            ),
            Err("has no grant to administer"),
        ),
        (
            with(&["plan"], &["--broker-client-cert-file", &certificate]),
            Err("goes with its key"),
        ),
        (
            with(&["plan"], &["--broker-token-file", "/no/such/token"]),
            Err("/no/such/token"),
        ),
        (
            ["plan", "--broker", &plain].map(str::to_owned).to_vec(),
            Err("write https://"),
        ),
        (
            ["plan", "--broker", &url].map(str::to_owned).to_vec(),
            Err("UnknownIssuer"),
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (worked, said) = command(&secured, &arguments).await?;
        match wanted {
            Ok(()) => assert!(worked, "{arguments:?}: {said}"),
            Err(words) => {
                assert!(!worked && said.contains(words), "{arguments:?}: {said}");
                assert_eq!(said.lines().count(), 1, "one sentence: {said}");
            }
        }
    }
    secured.finish().await
}

/// Starts a user-service that serves TLS itself and shows the broker this.
async fn user_service(
    secured: &Secured,
    credentials: &Credentials,
) -> anyhow::Result<(Process, String)> {
    let (certificate, key) = secured.authority.issue("user-service", "localhost")?;
    let (ca, url) = (secured.authority.ca(), secured.url());
    let mut environment = vec![("BROKER_URL", url)];
    let text = |path: &Path| path.display().to_string();
    for (name, path) in [
        ("TLS_CERT_FILE", Some(&certificate)),
        ("TLS_KEY_FILE", Some(&key)),
        ("TLS_CLIENT_CA_FILE", Some(&ca)),
        ("BROKER_CA_FILE", credentials.ca_file.as_ref()),
        (
            "BROKER_CLIENT_CERT_FILE",
            credentials.client_cert_file.as_ref(),
        ),
        (
            "BROKER_CLIENT_KEY_FILE",
            credentials.client_key_file.as_ref(),
        ),
        ("BROKER_TOKEN_FILE", credentials.token_file.as_ref()),
    ] {
        environment.extend(path.map(|path| (name, text(path))));
    }
    let pairs: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let log = secured.folder().join("user-service.log");
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let mut process = Process::start("user-service", &arguments, &pairs, &log)?;
    let line = process.line().await?;
    let port = line.rsplit(':').next().context("a port")?.to_owned();
    Ok((process, format!("https://localhost:{port}")))
}

#[tokio::test]
async fn a_service_works_end_to_end_over_mutual_tls() -> anyhow::Result<()> {
    use proto::users::v1::{ListUsersRequest, user_service_client::UserServiceClient};
    let secured = Secured::start(GRANTS).await?;
    let shown = secured.authority.caller("users", USERS)?;
    let (service, at) = user_service(&secured, &shown).await?;
    let client = |credentials: &Credentials| -> anyhow::Result<_> {
        let target = rpc::client::Target::new(&at, credentials.clone());
        Ok(UserServiceClient::new(target.channel(|endpoint| endpoint)?))
    };
    let mut anybody = client(&secured.authority.caller("front", "front.example.org")?)?;
    let users = eventually("the service has its lease", async || {
        let listed = anybody
            .clone()
            .list_users(ListUsersRequest::default())
            .await;
        listed.with_context(|| service.log())
    })
    .await?;
    assert_eq!(users.into_inner().users[0].name, "Alice");
    let mut nobody = client(&secured.authority.nobody())?;
    let listed = nobody.list_users(ListUsersRequest::default()).await;
    let status = refused(listed, Code::Unauthenticated, None);
    assert_eq!(reason(&status), "CALLER_UNIDENTIFIED");

    let log = secured.broker.log();
    assert!(log.contains(USERS), "{log}");
    let health = rpc::health::probe(
        rpc::client::Target::new(&at, secured.authority.nobody()),
        "users.v1.UserService",
        PATIENCE,
    );
    assert_eq!(health.await?, rpc::health::Serving::Serving);
    anybody.list_users(ListUsersRequest::default()).await?;
    let ca = secured.authority.ca().display().to_string();
    let log = secured.folder().join("health.log");
    let arguments = ["health", "--address", &at, "--ca-file", &ca];
    let mut health = Process::start("user-service", &arguments, &[], &log)?;
    assert!(health.wait().await?.success(), "{}", health.log());
    service.stop().await?;

    // By a token that grants nothing it gets none, and says why.
    let (service, _) = user_service(&secured, &secured.token("strangers").await?).await?;
    eventually("it says why", async || {
        let log = service.log();
        anyhow::ensure!(log.contains("token:strangers has no grant"), "{log}");
        Ok(())
    })
    .await?;
    service.stop().await?;
    secured.finish().await
}

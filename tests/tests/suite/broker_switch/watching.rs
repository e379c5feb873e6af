//! What a watch tells, and who has a say by it.

use anyhow::Context;
use proto::broker::v1::{
    Access, RotateCredentialsRequest, SwitchPhase, WatchBindingRequest, WatchReport,
};
use tonic::Code;

use super::{Bench, Consumer, binding, current, next_branch, proceeding, switch, to};
use crate::broker_leasing::{V1, on_binding};
use crate::details::refused;

/// Gives the binding another generation.
pub(super) async fn rotate(bench: &Bench) -> anyhow::Result<i64> {
    let request = RotateCredentialsRequest {
        name: V1.to_owned(),
        ..Default::default()
    };
    let answer = bench
        .broker
        .bindings()
        .await?
        .rotate_credentials(request)
        .await?;
    let binding = answer.into_inner().binding.context("a binding")?;
    Ok(binding.generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_is_told_what_is_new_and_nothing_else() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let one = Consumer::join(&bench.broker, "one").await?;
    let lease = one.lease.clone();
    let (generation, role) = {
        let now = one.state.current.clone().context("a target")?;
        (now.generation, now.connection.context("a connection")?.role)
    };
    drop(one);
    let first = WatchBindingRequest {
        known_generation: generation,
        known_role: role,
        ..Default::default()
    };
    // Nothing is new: it is told when something is.
    let coming_back = Consumer::watch(&bench.broker, lease.clone(), first.clone());
    let mut coming_back = Box::pin(coming_back);
    let rotated = tokio::select! {
        told = &mut coming_back => anyhow::bail!("it knew: {:?}", told?.state),
        rotated = rotate(&bench) => rotated?,
    };
    let back = coming_back.await?;
    assert_eq!(current(&back.state), rotated);
    drop(back);

    // Who comes back with an old one is told at once, though by another role.
    let late = Consumer::watch(&bench.broker, lease.clone(), first).await?;
    assert_eq!(current(&late.state), rotated);
    late.session(&bench, false).await?;
    // The right number with the role of before is not enough.
    let half = WatchBindingRequest {
        known_generation: rotated,
        known_role: "lease_of_before".to_owned(),
        ..Default::default()
    };
    let told = Consumer::watch(&bench.broker, lease, half).await?;
    assert_eq!(current(&told.state), rotated);
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_half_closes_observes_and_has_no_say() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?.generation;

    // One that has acknowledged, and then says that it says no more.
    let given = bench.acquire(on_binding(V1, Access::ReadOnly)).await?;
    let requests = [
        WatchBindingRequest {
            lease: given.lease.name.clone(),
            ..Default::default()
        },
        WatchBindingRequest {
            report: WatchReport::Ack.into(),
            generation: before,
            ..Default::default()
        },
    ];
    let mut leases = bench.broker.leases().await?;
    let observing = leases.watch_binding(tokio_stream::iter(requests)).await?;
    let mut observing = observing.into_inner();
    let first = observing.message().await?.context("a state")?;
    assert_eq!(current(&first), before);
    // And one without a lease.
    let request = WatchBindingRequest {
        binding: V1.to_owned(),
        ..Default::default()
    };
    let looking = leases.watch_binding(tokio_stream::once(request)).await?;
    let mut looking = looking.into_inner();
    looking.message().await?.context("a state")?;

    let mut switching = switch(&bench.broker, proceeding(to(&next))).await?;
    let done = switching.end().await?;
    assert_eq!(done.phase(), SwitchPhase::Done);
    assert!(done.voters.is_empty(), "nobody is waited for: {done:?}");
    assert!(done.generation > before, "{done:?}");
    loop {
        let told = looking.message().await?.context("a state")?;
        for target in [&told.current, &told.pending].into_iter().flatten() {
            assert!(target.connection.is_none(), "{target:?}");
        }
        if current(&told) > before {
            break;
        }
    }
    while current(&observing.message().await?.context("a state")?) == before {}
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_has_to_be_about_something() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(on_binding(V1, Access::ReadOnly)).await?;
    let mut leases = bench.broker.leases().await?;
    let on_lease = WatchBindingRequest {
        lease: given.lease.name.clone(),
        ..Default::default()
    };
    let nothing = WatchBindingRequest {
        report: WatchReport::Ack.into(),
        ..Default::default()
    };
    let on_binding = WatchBindingRequest {
        binding: V1.to_owned(),
        ..Default::default()
    };
    let about = WatchBindingRequest {
        generation: 1,
        ..nothing.clone()
    };
    let unknown = WatchBindingRequest {
        report: 9,
        generation: 1,
        ..Default::default()
    };
    let another = WatchBindingRequest {
        binding: V1.to_owned(),
        ..Default::default()
    };
    for (first, second, field) in [
        (on_lease.clone(), nothing, "generation"),
        (on_binding, about, "report"),
        (on_lease.clone(), unknown, "report"),
        (on_lease, another, "binding"),
    ] {
        let watching = leases
            .watch_binding(tokio_stream::iter([first, second]))
            .await?;
        let mut watching = watching.into_inner();
        let ended = loop {
            match watching.message().await {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("{field}: it ends well"),
                Err(status) => break status,
            }
        };
        refused(Err::<(), _>(ended), Code::InvalidArgument, Some(field));
    }
    bench.stop().await
}

//! Random operations on leases, and a small model that says what has to come of them.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proto::broker::v1::revoke_leases_request::Which;
use proto::broker::v1::{Access, AcquireLeaseRequest, RenewLeaseRequest, RotateCredentialsRequest};
use suite::{count, eventually};

use super::{Bench, V1, V2, ephemeral, on_binding, seconds};

/// One operation. Numbers name a lease among those that were given, round and round.
#[derive(Debug, Clone)]
enum Op {
    Acquire { holder: u8, v2: bool, writes: bool },
    Ephemeral { holder: u8 },
    Again(usize),
    Renew(usize),
    Release(usize),
    Revoke(usize),
    RevokeBranch { v2: bool },
    Rotate { v2: bool },
    Wait { seconds: i64 },
}

/// What is known of a lease that was given.
#[derive(Debug, Clone)]
struct Known {
    request: AcquireLeaseRequest,
    name: String,
    branch: String,
    uri: String,
    role: String,
    /// When it ends, by the seconds that the clock was moved.
    end: i64,
    lives: bool,
}

const TTL: i64 = 100;

fn op() -> impl Strategy<Value = Op> {
    let some = 0_usize..8;
    prop_oneof![
        6 => (0_u8..3, any::<bool>(), any::<bool>())
            .prop_map(|(holder, v2, writes)| Op::Acquire { holder, v2, writes }),
        1 => (0_u8..2).prop_map(|holder| Op::Ephemeral { holder }),
        3 => some.clone().prop_map(Op::Again),
        3 => some.clone().prop_map(Op::Renew),
        3 => some.clone().prop_map(Op::Release),
        2 => some.prop_map(Op::Revoke),
        1 => any::<bool>().prop_map(|v2| Op::RevokeBranch { v2 }),
        1 => any::<bool>().prop_map(|v2| Op::Rotate { v2 }),
        3 => (1_i64..70).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

/// The model, and the broker that is held against it.
struct Run<'a> {
    bench: &'a Bench,
    now: i64,
    given: Vec<Known>,
}

impl Run<'_> {
    async fn step(&mut self, op: &Op) -> anyhow::Result<()> {
        let bench = self.bench;
        let binding = |v2: bool| if v2 { V2 } else { V1 };
        match op {
            Op::Acquire { holder, v2, writes } => {
                let access = if *writes {
                    Access::ReadWrite
                } else {
                    Access::ReadOnly
                };
                let request = on_binding(binding(*v2), access);
                self.acquire(request, *holder).await?;
            }
            Op::Ephemeral { holder } => {
                self.acquire(ephemeral(V1, Access::ReadWrite), *holder)
                    .await?;
            }
            Op::Again(index) => {
                let Some(index) = self.live(*index) else {
                    return Ok(());
                };
                let known = &self.given[index];
                let again = bench.acquire(known.request.clone()).await?;
                ensure!(again.lease.name == known.name, "another lease");
                // Its connection is good at any moment.
                let session = bench.session(&again.uri).await.context("a live lease")?;
                session.query("SELECT name FROM users", &[]).await?;
                let known = &mut self.given[index];
                (known.uri, known.role) = (again.uri, again.role);
            }
            Op::Renew(index) => {
                let Some(index) = self.any(*index) else {
                    return Ok(());
                };
                let renew = RenewLeaseRequest {
                    name: self.given[index].name.clone(),
                    ttl: Some(seconds(TTL)),
                    ..Default::default()
                };
                let renewed = bench.broker.leases().await?.renew_lease(renew).await;
                let known = &mut self.given[index];
                ensure!(renewed.is_ok() == known.lives, "{known:?}: {renewed:?}");
                if known.lives {
                    known.end = self.now + TTL;
                }
            }
            Op::Release(index) => {
                let Some(index) = self.any(*index) else {
                    return Ok(());
                };
                let name = self.given[index].name.clone();
                let lease = proto::broker::v1::Lease {
                    name,
                    ..Default::default()
                };
                bench.release(&lease).await?;
                self.given[index].lives = false;
            }
            Op::Revoke(index) => {
                let Some(index) = self.live(*index) else {
                    return Ok(());
                };
                bench
                    .revoke(Which::Lease(self.given[index].name.clone()))
                    .await?;
                self.given[index].lives = false;
            }
            Op::RevokeBranch { v2 } => {
                let name = if *v2 {
                    "api_v2_branch"
                } else {
                    "api_v1_branch"
                };
                let branch = format!("branches/{}", bench.branch_named(name).await?);
                bench.revoke(Which::Branch(branch.clone())).await?;
                let on = self.given.iter_mut().filter(|known| known.branch == branch);
                on.for_each(|known| known.lives = false);
            }
            Op::Rotate { v2 } => {
                let rotate = RotateCredentialsRequest {
                    name: binding(*v2).to_owned(),
                    ..Default::default()
                };
                bench
                    .broker
                    .bindings()
                    .await?
                    .rotate_credentials(rotate)
                    .await?;
            }
            Op::Wait { seconds } => {
                self.now += seconds;
                bench.clock.set(self.now)?;
                let over = self.given.iter_mut().filter(|known| known.end <= self.now);
                over.for_each(|known| known.lives = false);
            }
        }
        self.check().await
    }

    async fn acquire(&mut self, request: AcquireLeaseRequest, holder: u8) -> anyhow::Result<()> {
        let request = AcquireLeaseRequest {
            holder: format!("holder-{holder}"),
            ttl: Some(seconds(TTL)),
            request_id: uuid::Uuid::new_v4().to_string(),
            ..request
        };
        let given = self.bench.acquire(request.clone()).await?;
        self.given.push(Known {
            request,
            name: given.lease.name,
            branch: given.lease.branch,
            uri: given.uri,
            role: given.role,
            end: self.now + TTL,
            lives: true,
        });
        Ok(())
    }

    /// What lives, and nothing else, is in the list; a role is of one holder.
    async fn check(&self) -> anyhow::Result<()> {
        let live = self.given.iter().filter(|known| known.lives);
        let mut expected: Vec<&str> = live.map(|known| known.name.as_str()).collect();
        expected.sort_unstable();
        let listed = self.bench.list("state = ACTIVE").await?;
        let mut names: Vec<&str> = listed.iter().map(|lease| lease.name.as_str()).collect();
        names.sort_unstable();
        ensure!(names == expected, "listed {names:?}, not {expected:?}");
        let mut holders = BTreeMap::new();
        for lease in &listed {
            let whose = (&lease.holder, lease.access, &lease.branch);
            let before = holders.insert((&lease.branch, &lease.role), whose);
            ensure!(
                before.is_none_or(|before| before == whose),
                "{before:?} {whose:?}"
            );
        }
        Ok(())
    }

    /// In the end, who has no lease has no way in.
    async fn finish(self) -> anyhow::Result<()> {
        let bench = self.bench;
        // Past what roles are given to drain.
        bench.clock.set(self.now + 10_000)?;
        eventually("nothing is left", async || {
            let left = bench.list("").await?;
            ensure!(left.is_empty(), "{left:?}");
            for known in &self.given {
                let session = bench.session(&known.uri).await;
                ensure!(session.is_err(), "{} of {} logs in", known.role, known.name);
            }
            let branches = bench.branches().await?;
            let of_lease = branches.iter().filter(|one| one.name.starts_with("lease/"));
            ensure!(of_lease.count() == 0, "{branches:?}");
            Ok(())
        })
        .await
    }

    fn any(&self, index: usize) -> Option<usize> {
        (!self.given.is_empty()).then(|| index % self.given.len())
    }

    fn live(&self, index: usize) -> Option<usize> {
        let all = self.given.iter().enumerate();
        let live: Vec<usize> = all.filter(|(_, one)| one.lives).map(|(at, _)| at).collect();
        (!live.is_empty()).then(|| live[index % live.len()])
    }
}

#[test]
fn leases_are_what_a_small_model_says() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let bench = runtime.block_on(Bench::start())?;
    let cases = u32::try_from(count(2, 12))?;
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..Config::default()
    });
    // Each case begins where the one before has ended.
    let now = std::cell::Cell::new(0);
    let result = runner.run(&proptest::collection::vec(op(), 4..24), |ops| {
        let ran = runtime.block_on(async {
            let mut run = Run {
                bench: &bench,
                now: now.get(),
                given: Vec::new(),
            };
            for op in &ops {
                let step = run.step(op).await;
                now.set(run.now);
                step.with_context(|| format!("{op:?}"))?;
            }
            now.set(run.now + 10_000);
            run.finish().await
        });
        ran.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    runtime.block_on(bench.stop())?;
    result.map_err(|error| anyhow::anyhow!("{error}"))
}

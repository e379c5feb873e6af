//! The broker's state in its database: several brokers on one, and what goes wrong
//! between them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use broker::audit::{Action, Query};
use broker::config::LeaseSettings;
use broker::credentials::KeyId;
use broker::leases::{Error, Lease, Leases, Made, NewLease, Request, RequestId, RoleFor, Target};
use broker::names::{BranchName, LeaseId};
use broker::postgres::OwnerUri;
use broker::roles::Access;
use broker::state::{
    self, Database, DatabaseError, Draft, Intent, Operation, OwnBranch, RequestKey, State, Turn,
    Warm,
};
use rpc::clock::Clock;
use suite::{EmulatorProcess, Folder, Proxy, StateDatabase, eventually};

/// A lock that commits wait for, once [`Bench::hold_commits`] has made it so.
const COMMIT_LOCK: i64 = 7_001;

/// A state database, and what a broker has of it.
struct Bench {
    _folder: Folder,
    emulator: EmulatorProcess,
    database: StateDatabase,
}

struct Member {
    state: Arc<State>,
    leases: Leases,
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let database = StateDatabase::of(&emulator).await?;
        Ok(Self {
            _folder: folder,
            emulator,
            database,
        })
    }

    async fn open(&self, uri: &str) -> Result<State, DatabaseError> {
        State::open(Database {
            uri: OwnerUri::new(uri),
            clock: Clock::system(),
            clock_skew_max: Duration::from_secs(60),
        })
        .await
    }

    /// A broker, as far as leases go.
    async fn member(&self) -> anyhow::Result<Member> {
        self.member_at(self.database.uri.expose()).await
    }

    async fn member_at(&self, uri: &str) -> anyhow::Result<Member> {
        let state = Arc::new(self.open(uri).await?);
        let ttl = Duration::from_secs(600);
        let settings = LeaseSettings {
            default_ttl: ttl,
            max_ttl: ttl,
            roles_per_branch_max: 400,
            ack_grace: std::time::Duration::from_secs(10),
            ephemeral_branches_max: None,
        };
        Ok(Member {
            leases: Leases::new(Arc::clone(&state), Clock::system(), settings),
            state,
        })
    }

    async fn session(&self) -> anyhow::Result<tokio_postgres::Client> {
        self.database.session(&self.emulator).await
    }

    /// From now on a commit that gives leases waits for whoever has the lock.
    async fn hold_commits(&self, session: &tokio_postgres::Client) -> anyhow::Result<()> {
        session
            .batch_execute(&format!(
                "CREATE FUNCTION broker.wait() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN PERFORM pg_advisory_xact_lock({COMMIT_LOCK}); RETURN NULL; END $$;
                 CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON broker.leases
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION broker.wait();"
            ))
            .await?;
        Ok(())
    }
}

impl Member {
    async fn acquire(&self, id: Option<RequestId>) -> Result<Lease, Error> {
        let of = role_for();
        let role = self.leases.role_intend(of.clone()).await?;
        let new = NewLease {
            id: LeaseId::random(),
            request: request(),
            ttl: None,
            request_id: id,
            generation: 1,
            role: Made {
                role,
                key: of.key,
                valid_until: Some(self.leases.password_end()),
            },
            branch_expire_time: None,
        };
        let given = self.leases.give(new).await?;
        Ok(given.expect("its role is open"))
    }

    async fn actions(&self, query: Query) -> anyhow::Result<Vec<Action>> {
        let events = self.state.audit(query).await?;
        Ok(events.iter().map(|event| event.action).collect())
    }
}

fn request() -> Request {
    Request {
        target: Target::Binding("services/users/versions/v1".parse().expect("a binding")),
        service: "users".parse().expect("a service"),
        access: Access::ReadWrite,
        pooled: false,
        holder: "suite".to_owned(),
        owner: None,
    }
}

fn role_for() -> RoleFor {
    RoleFor {
        branch: "br-a".parse().expect("a branch"),
        service: "users".parse().expect("a service"),
        database: "neondb".to_owned(),
        access: Access::ReadWrite,
        holder: "suite".to_owned(),
        key: KeyId::from("key".to_owned()),
    }
}

fn request_id(body: &str) -> RequestId {
    let id = "0b5a1e0c-7a0e-4b0e-9d55-0d6d3a1f8a11";
    RequestId {
        key: RequestKey {
            caller: String::new(),
            method: "AcquireLease",
            id: id.parse().expect("a UUID"),
        },
        body: body.into(),
    }
}

async fn count(session: &tokio_postgres::Client, sql: &str) -> anyhow::Result<i64> {
    Ok(session.query_one(sql, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_on_one_database_know_of_each_others_leases() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let (one, other) = (bench.member().await?, bench.member().await?);
    let kept = one.acquire(Some(request_id("a"))).await?;
    let released = one.acquire(None).await?;
    eventually("the other sees both", async || {
        ensure!(other.leases.known(kept.id)? == kept, "another lease");
        Ok(other.leases.known(released.id)?)
    })
    .await?;

    // What is true is decided by the database: nobody has to have heard of it.
    let turns = one.leases.follow(released.id);
    assert!(other.leases.release(released.id, None).await?);
    let renewed = one.leases.renew(released.id, None, None).await;
    assert!(matches!(renewed, Err(Error::NotFound(_))), "{renewed:?}");
    eventually("who watches hears of it", async || {
        ensure!(*turns.borrow() == Some(Turn::Ended), "not yet");
        Ok(())
    })
    .await?;
    let again = other.acquire(Some(request_id("a"))).await?;
    assert_eq!(again, kept, "the same request gives the same lease");
    let reused = other.acquire(Some(request_id("b"))).await;
    assert!(
        matches!(reused, Err(Error::RequestIdReused(_))),
        "{reused:?}"
    );
    let renewed = other.leases.renew(kept.id, None, None).await?;
    assert!(renewed.expire_time > kept.expire_time);

    // Changes that come together, at both.
    let both = (0..100).map(|n| [&one, &other][n % 2].acquire(None));
    let given = futures_util::future::try_join_all(both).await?;
    drop((one, other));
    let next = bench.member().await?;
    assert_eq!(next.leases.known(kept.id)?, renewed);
    assert!(next.leases.known(released.id).is_err());
    for lease in given {
        assert_eq!(next.leases.known(lease.id)?, lease);
    }

    let all = Query {
        limit: 1_000,
        ..Query::default()
    };
    let acquired = next.actions(all.clone()).await?;
    let times = |action| acquired.iter().filter(|one| **one == action).count();
    assert_eq!(
        (times(Action::Acquired), times(Action::Released)),
        (102, 1),
        "what was refused or repeated is no event"
    );
    assert_eq!(acquired.len(), 103);
    for (service, wanted) in [("users", 103), ("user_", 0), ("orders", 0)] {
        let query = Query {
            service: Some(service.parse()?),
            ..all.clone()
        };
        assert_eq!(next.actions(query).await?.len(), wanted, "{service}");
    }
    drop(next);
    bench.emulator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_works_in_the_background_no_more_writes_nothing() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let one = bench.member().await?;
    let mut leads = one.state.leader();
    let epoch = *leads.wait_for(Option::is_some).await?;
    let other = bench.member().await?;
    let session = bench.session().await?;

    // As if another had taken over while this one slept.
    let raise = "UPDATE broker.head SET epoch = epoch + 1 RETURNING epoch";
    count(&session, raise).await?;
    let given = one.acquire(None).await?;
    let write = {
        let given = given.clone();
        move |draft: &mut Draft<'_>| {
            let mut moved = given.clone();
            moved.renewals = 99;
            draft.lease_put(moved);
        }
    };
    let fenced = one.state.change_in_background(write.clone()).await;
    assert!(matches!(fenced, Err(state::Error::Fenced)), "{fenced:?}");
    let refused = other.state.change_in_background(write).await;
    assert!(matches!(refused, Err(state::Error::Fenced)), "{refused:?}");
    let renewals = "SELECT max(renewals) FROM broker.leases";
    assert_eq!(count(&session, renewals).await?, 0);
    assert_eq!(one.leases.known(given.id)?, given, "in memory too");

    // One of them is elected, with an epoch of its own.
    let members = [one.state.leader(), other.state.leader()];
    eventually("one leads", async || {
        let leads: Vec<i64> = members.iter().filter_map(|one| *one.borrow()).collect();
        ensure!(leads.len() == 1 && Some(leads[0]) > epoch, "{leads:?}");
        Ok(())
    })
    .await?;
    drop(one);
    eventually("the other leads", async || {
        ensure!(other.state.leader().borrow().is_some(), "not yet");
        Ok(())
    })
    .await?;
    drop(other);
    bench.emulator.stop().await
}

/// Operations and the ledger of branches: what one broker writes down, the others
/// know, and so does the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_and_own_branches_are_written_down() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let one = bench.member().await?;
    // What ended long ago is removed.
    let time = "2999-03-01T09:00:00Z".parse()?;
    let id = request_id("").key.id;
    let begun = Operation {
        caller: "token:ci".to_owned(),
        method: "CreateBranch".to_owned(),
        request: vec![0, 1, 255],
        branch: String::new(),
        result: None,
        done: false,
        create_time: time,
        update_time: time,
        runner: Some(id),
        heartbeat_time: Some(time),
        committed: false,
        note: None,
    };
    let intended = OwnBranch {
        branch: None,
        intent: Intent::Create,
        update_time: time,
        lease: None,
        warm: None,
    };
    let name: BranchName = "preview/1".parse()?;
    let both = {
        let (begun, intended, name) = (begun.clone(), intended.clone(), name.clone());
        move |draft: &mut Draft<'_>| {
            draft.operation_put(id, begun.clone());
            draft.branch_put(name.clone(), intended.clone());
        }
    };
    one.state.change(both).await?;
    let other = bench.member().await?;
    let known = |state: &State| {
        state.read(|data| {
            (
                data.operations.get(&id).cloned(),
                data.branches.get(&name).cloned(),
            )
        })
    };
    assert_eq!(known(&other.state), (Some(begun.clone()), Some(intended)));

    let ended = Operation {
        branch: "branches/br-a".to_owned(),
        runner: None,
        heartbeat_time: None,
        committed: true,
        note: Some("{}".to_owned()),
        result: Some(vec![3]),
        done: true,
        update_time: time + jiff::SignedDuration::from_secs(1),
        ..begun
    };
    let warm = Warm {
        pool: "ci".parse()?,
        lease: LeaseId::random(),
        made_as: "as declared".to_owned(),
        fork_time: time,
        expire_time: Some(time),
        role: Some("lease_users_rw".to_owned()),
        making_until: None,
    };
    let owned = OwnBranch {
        branch: Some("br-a".parse()?),
        intent: Intent::Own,
        update_time: ended.update_time,
        lease: None,
        warm: Some(warm),
    };
    let both = {
        let (ended, owned, name) = (ended.clone(), owned.clone(), name.clone());
        move |draft: &mut Draft<'_>| {
            let was = draft.operation(id).is_some() && draft.branch(&name).is_some();
            draft.operation_put(id, ended.clone());
            draft.branch_put(name.clone(), owned.clone());
            was
        }
    };
    assert!(other.state.change(both).await?, "what the one has written");
    let now = (Some(ended), Some(owned));
    eventually("the one knows", async || {
        ensure!(known(&one.state) == now, "not yet");
        Ok(())
    })
    .await?;
    drop((one, other));
    assert_eq!(known(&bench.member().await?.state), now);
    bench.emulator.stop().await
}

/// The answer to a commit is lost: it is looked for, and the caller hears what
/// became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_looked_for() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let uri = bench.database.uri.expose();
    let server = Proxy::before(uri)?.to_owned();
    let proxy = Proxy::start(&server).await?;
    let member = bench
        .member_at(&uri.replace(&server, &proxy.address()))
        .await?;
    let session = bench.session().await?;
    bench.hold_commits(&session).await?;
    let lock = format!("SELECT pg_advisory_lock({COMMIT_LOCK})");
    let unlock = format!("SELECT pg_advisory_unlock({COMMIT_LOCK})");
    let committing = "SELECT count(*) FROM pg_locks
                      WHERE locktype = 'advisory' AND NOT granted";
    let stored = "SELECT count(*) FROM broker.leases";
    let held = async || {
        eventually("the commit waits", async || {
            ensure!(count(&session, committing).await? == 1, "not yet");
            Ok(())
        })
        .await
    };

    // It is stored after all.
    session.batch_execute(&lock).await?;
    let (given, ()) = tokio::try_join!(
        async { Ok::<_, anyhow::Error>(member.acquire(None).await?) },
        async {
            held().await?;
            proxy.cut();
            Ok(session.batch_execute(&unlock).await?)
        }
    )?;
    assert_eq!(count(&session, stored).await?, 1);
    assert_eq!(member.leases.known(given.id)?, given);

    // It is not: the same is done again, and once.
    session.batch_execute(&lock).await?;
    let (again, ()) = tokio::try_join!(
        async { Ok::<_, anyhow::Error>(member.acquire(None).await?) },
        async {
            held().await?;
            proxy.cut();
            session
                .batch_execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks
                     WHERE locktype = 'advisory' AND NOT granted",
                )
                .await?;
            Ok(session.batch_execute(&unlock).await?)
        }
    )?;
    assert_eq!(count(&session, stored).await?, 2);
    assert_eq!(member.leases.known(again.id)?, again);
    let acquired = "SELECT count(*) FROM broker.audit_events WHERE action = 'acquired'";
    assert_eq!(count(&session, acquired).await?, 2);
    drop(member);
    bench.emulator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_broker_is_refused_and_left_alone() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    drop(bench.member().await?);
    let session = bench.session().await?;
    let revision = "INSERT INTO broker.__diesel_schema_migrations (version)
                    VALUES ('29990101090000')";
    session.batch_execute(revision).await?;
    let refused = bench.open(bench.database.uri.expose()).await;
    let error = refused.err().context("it is opened")?;
    assert!(matches!(error, DatabaseError::Ahead { .. }), "{error:?}");
    assert!(error.to_string().contains("29990101090000"), "{error}");
    assert!(!error.is_transient());
    bench.emulator.stop().await
}

/// More than goes at a time goes all the same, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_is_removed_some_at_a_time() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    drop(bench.member().await?);
    let session = bench.session().await?;
    let old = "INSERT INTO broker.request_ids
                   (caller, method, id, version, body, resource, expire_time)
               SELECT '', 'RenewLease', gen_random_uuid(), 0, ''::bytea, '', until
               FROM generate_series(1, 2500), (VALUES (now() - interval '1 hour')) AS t (until)
               UNION ALL
               SELECT '', 'RenewLease', gen_random_uuid(), 0, ''::bytea, '', now() + interval '1 hour';
               INSERT INTO broker.operations
                   (id, version, caller, method, request, done, create_time, update_time)
               SELECT gen_random_uuid(), 0, '', 'CreateBranch', ''::bytea, done, ago, ago
               FROM (VALUES (true, now() - interval '25 hours'),
                            (true, now() - interval '23 hours'),
                            (false, now() - interval '25 hours')) AS t (done, ago)";
    session.batch_execute(old).await?;
    let member = bench.member().await?;
    eventually("what is old is gone", async || {
        let left = "SELECT (SELECT count(*) FROM broker.request_ids),
                           (SELECT count(*) FROM broker.operations)";
        let left = session.query_one(left, &[]).await?;
        let (requests, operations): (i64, i64) = (left.get(0), left.get(1));
        ensure!((requests, operations) == (1, 2), "{requests}, {operations}");
        Ok(())
    })
    .await?;
    drop(member);
    bench.emulator.stop().await
}

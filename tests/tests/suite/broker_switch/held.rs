//! A broker that is held up at a step, so that it is killed there and nowhere else.

use anyhow::{Context, ensure};
use proto::google::longrunning::{ListOperationsRequest, Operation};
use serde_json::json;
use suite::{Broker, Clock, Config, EmulatorProcess, Faults, Folder, StateDatabase, eventually};

use super::Bench;

/// Locked by nobody else.
const LOCK: i64 = 20_260_117;
/// It as pg_locks has it.
const OBJECT: u32 = 20_260_117;
/// More often than a broker asks again before it is killed.
const ASKS_MAX: u32 = 10_000;

/// A write of the state that waits, and with it all other writes. Kill who writes within
/// some seconds: the state database has limits of its own.
pub(super) struct Held {
    session: tokio_postgres::Client,
    table: &'static str,
}

impl Held {
    /// From now on writes of such rows wait: `NEW.phase = 'committed'`.
    pub(super) async fn on(
        bench: &Bench,
        table: &'static str,
        condition: &str,
    ) -> anyhow::Result<Held> {
        let database = StateDatabase::of(&bench.emulator).await?;
        let session = database.session(&bench.emulator).await?;
        session
            .batch_execute(&format!(
                "SELECT pg_advisory_lock({LOCK});
                 CREATE FUNCTION broker.held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     PERFORM pg_advisory_xact_lock({LOCK});
                     RETURN NEW;
                 END $$;
                 CREATE TRIGGER held BEFORE INSERT OR UPDATE ON broker.{table}
                 FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION broker.held();"
            ))
            .await?;
        Ok(Held { session, table })
    }

    /// Waits until one waits.
    pub(super) async fn is_met(&self) -> anyhow::Result<()> {
        const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted";
        eventually("a write is held up", async || {
            let row = self.session.query_one(WAITING, &[&OBJECT]).await?;
            let waiting: i64 = row.get(0);
            ensure!(waiting > 0, "none is");
            Ok(())
        })
        .await
    }

    /// Once its broker is dead: what it wrote is undone, as if the kill had come before
    /// it. Nothing is held up any more.
    pub(super) async fn undo(self) -> anyhow::Result<()> {
        const END: &str = "SELECT pg_terminate_backend(pid, 30000) FROM pg_locks \
                           WHERE locktype = 'advisory' AND objid = $1 AND NOT granted";
        for row in self.session.query(END, &[&OBJECT]).await? {
            ensure!(row.get::<_, bool>(0), "its session has ended");
        }
        let table = self.table;
        self.session
            .batch_execute(&format!(
                "DROP TRIGGER held ON broker.{table};
                 DROP FUNCTION broker.held();
                 SELECT pg_advisory_unlock({LOCK});"
            ))
            .await?;
        Ok(())
    }
}

/// Requests that Neon is too busy for, so that a broker asks again and again.
pub(super) struct Stalled {
    faults: Faults,
    method: &'static str,
    route: &'static str,
}

impl Stalled {
    /// From now on those of that route whose path has `part` in it.
    pub(super) async fn on(
        bench: &Bench,
        method: &'static str,
        route: &'static str,
        part: &str,
    ) -> anyhow::Result<Stalled> {
        let faults = Faults::of(&bench.emulator);
        let effect = json!({"fault": "locked", "count": ASKS_MAX, "path_contains": part});
        faults.on_route(method, route, effect).await?;
        Ok(Stalled {
            faults,
            method,
            route,
        })
    }

    /// Waits until a broker has asked.
    pub(super) async fn is_met(&self) -> anyhow::Result<()> {
        const LOCKED: Option<u16> = Some(423);
        eventually("Neon is asked", async || {
            let asked = self.faults.count(self.method, self.route, LOCKED).await?;
            ensure!(asked > 0, "nobody has asked");
            Ok(())
        })
        .await
    }

    /// Neon has time again.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.faults.forget().await
    }
}

/// What is left of a bench whose broker was killed.
pub(super) struct Dead {
    folder: Folder,
    pub(super) clock: Clock,
    config: Config,
    emulator: EmulatorProcess,
}

impl Dead {
    /// Kills it with SIGKILL.
    pub(super) async fn kill(bench: Bench) -> anyhow::Result<Dead> {
        bench.broker.process.kill().await?;
        Ok(Dead {
            folder: bench.folder,
            clock: bench.clock,
            config: bench.config,
            emulator: bench.emulator,
        })
    }

    /// Starts another on what it has left.
    pub(super) async fn start(self) -> anyhow::Result<Bench> {
        let Dead {
            folder,
            clock,
            config,
            emulator,
        } = self;
        let broker = Broker::start_clocked(&folder, &emulator, &config.path(), &clock).await?;
        broker.is_ready().await?;
        Ok(Bench {
            folder,
            clock,
            config,
            emulator,
            broker,
        })
    }
}

/// The newest operation of that method.
pub(super) async fn operation(broker: &Broker, method: &str) -> anyhow::Result<Operation> {
    let request = ListOperationsRequest {
        filter: format!("method = {method}"),
        ..Default::default()
    };
    let mut operations = broker.operations().await?;
    let listed = operations.list_operations(request).await?.into_inner();
    let mut listed = listed.operations.into_iter();
    listed.next().context("an operation")
}

/// The newest operation of that method, once it is done.
pub(super) async fn ended(broker: &Broker, method: &str) -> anyhow::Result<Operation> {
    eventually("the operation ends", async || {
        let found = operation(broker, method).await?;
        ensure!(found.done, "{found:?}");
        Ok(found)
    })
    .await
}

/// Waits until the broker has taken up what another has left.
pub(super) async fn takes_up(broker: &Broker) -> anyhow::Result<()> {
    eventually("the operation is taken up", async || {
        let log = broker.process.log();
        ensure!(log.contains("taken up"), "{log}");
        Ok(())
    })
    .await
}

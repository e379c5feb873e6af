//! Revisions of one service, beside another in the same database: their order, and what
//! they may do.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use neon_api::BranchId;
use proto::broker::v1::migrate_request::{Down, Up, Wish};
use proto::broker::v1::{Access, ApplyRequest, MigrateRequest, PlanRequest};
use tokio_postgres::Client;

use super::{BILLING, Bench, SERVICES, Service, V1, fork, start, ways_to};
use crate::broker_cli::migrate::diesel;
use crate::broker_leasing::{ephemeral, on_binding, on_branch};

impl Bench {
    /// Runs revisions of a binding's service on its branch, or another; or takes them back.
    async fn migrate(
        &self,
        binding: &str,
        branch: Option<&BranchId>,
        wish: Wish,
    ) -> anyhow::Result<usize> {
        let request = MigrateRequest {
            binding: binding.to_owned(),
            branch: branch.map_or_else(String::new, |id| format!("branches/{id}")),
            wish: Some(wish),
            ..Default::default()
        };
        let mut migrations = self.broker.migrations().await?;
        let mut steps = migrations.migrate(request).await?.into_inner();
        let mut done = 0;
        while steps.message().await?.is_some() {
            done += 1;
        }
        Ok(done)
    }

    /// Writes a revision of a service.
    fn revision(&self, service: &str, name: &str, up: &str, down: &str) -> anyhow::Result<PathBuf> {
        let migrations = self.config.folder().join("migrations").join(service);
        let revision = migrations.join(name);
        std::fs::create_dir_all(&revision)?;
        std::fs::write(revision.join("up.sql"), up)?;
        std::fs::write(revision.join("down.sql"), down)?;
        Ok(migrations)
    }

    /// The branch of users v1 and billing, and its owner.
    async fn shared(&self) -> anyhow::Result<(BranchId, Client)> {
        let branch = self.branch_named("api_v1_branch").await?;
        let owner = self.emulator.connect(&branch).await?;
        Ok((branch, owner))
    }

    async fn steps_left(&self) -> anyhow::Result<usize> {
        let mut config = self.broker.config().await?;
        let plan = config.plan(PlanRequest::default()).await?;
        Ok(plan.into_inner().steps.len())
    }

    async fn apply(&self) -> anyhow::Result<()> {
        let mut config = self.broker.config().await?;
        config.apply(ApplyRequest::default()).await?;
        Ok(())
    }
}

fn all_up() -> Wish {
    Wish::Up(Up::default())
}

fn down(count: i32) -> Wish {
    Wish::Down(Down { count })
}

/// The versions that a service has on a branch.
async fn history(owner: &Client, service: &str) -> anyhow::Result<Vec<String>> {
    let query = format!("SELECT version FROM {service}.__diesel_schema_migrations ORDER BY 1");
    let rows = owner.query(&query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Owners, rights and shapes of what is in the schemas of both, and whose they are.
async fn all_there(owner: &Client) -> anyhow::Result<Vec<String>> {
    const ASK: &str = "
        SELECT format('%s %s %s %s', c.oid::regclass, c.relowner::regrole, c.relacl,
                      (SELECT string_agg(a.attname, ',') FROM pg_attribute a
                       WHERE a.attrelid = c.oid AND NOT a.attisdropped))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('users', 'billing')
        UNION ALL SELECT format('%s %s', p.oid::regprocedure, p.proacl)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('users', 'billing')
        UNION ALL SELECT format('%s %s %s', nspname, nspowner::regrole, nspacl)
        FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
        UNION ALL SELECT format('%s %s', roleid::regrole, member::regrole) FROM pg_auth_members
        UNION ALL SELECT format('billing.accounts %s', to_jsonb(a)) FROM billing.accounts a
        UNION ALL SELECT format('users.users %s', to_jsonb(u)) FROM users.users u
        ORDER BY 1";
    let rows = owner.query(ASK, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Everything of the service is its migration role's.
async fn is_handed_over(owner: &Client, service: &str) -> anyhow::Result<()> {
    const ASK: &str = "
        SELECT pg_describe_object(d.classid, d.objid, 0), s.refobjid::regrole::text
        FROM pg_depend d JOIN pg_shdepend s ON s.classid = d.classid AND s.objid = d.objid
        WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = $1::text::regnamespace
          AND d.deptype = 'n' AND s.deptype = 'o'
          AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL SELECT 'schema', nspowner::regrole::text FROM pg_namespace WHERE nspname = $1";
    let rows = owner.query(ASK, &[&service]).await?;
    let role = format!("{service}_ddl");
    for row in &rows {
        let (thing, holder): (String, String) = (row.get(0), row.get(1));
        ensure!(holder == role, "{thing} is {holder}'s");
    }
    ensure!(rows.len() > 3, "{} are there", rows.len());
    Ok(())
}

/// A script that tries a statement, and ones that try it as somebody else before.
fn scripts_of(statement: &str) -> [String; 4] {
    let quoted = statement.replace('\'', "''");
    [
        statement.to_owned(),
        format!("RESET ROLE; {statement}"),
        format!("SET SESSION AUTHORIZATION DEFAULT; SET ROLE NONE; {statement}"),
        format!(
            "CREATE TABLE left_behind (id int);
             DO $do$ BEGIN
                 EXECUTE 'RESET ROLE';
                 EXECUTE 'RESET SESSION AUTHORIZATION';
                 EXECUTE '{quoted}';
             END $do$;"
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_of_one_service_has_no_way_to_the_other() -> anyhow::Result<()> {
    // Each is its service's next: the branch of users v1 does not have them all.
    const NEXT: [&str; 2] = ["2026-01-30-000000_across", "2099-01-01-000000_across"];
    let bench = start().await?;
    let (branch, owner) = bench.shared().await?;
    let before = all_there(&owner).await?;
    let [users, billing] = &SERVICES;
    for ((own, other), next) in [(users, billing), (billing, users)].into_iter().zip(NEXT) {
        let Service { name, table, .. } = other;
        let by_all_ways = [
            format!("CREATE TABLE {name}.mine (id int)"),
            format!("ALTER TABLE {name}.{table} ADD COLUMN mine int"),
            format!("DROP TABLE {name}.{table} CASCADE"),
            format!("CREATE TABLE mine AS SELECT * FROM {name}.{table}"),
            format!("CREATE TABLE mine AS SELECT * FROM {name}.__diesel_schema_migrations"),
            format!("DELETE FROM {name}.__branch_broker_revisions"),
        ];
        let as_owner = [
            "SET ROLE neondb_owner",
            "SET SESSION AUTHORIZATION neondb_owner",
        ];
        let scripts = by_all_ways.iter().flat_map(|way| scripts_of(way));
        let scripts = scripts.chain(ways_to(other));
        for up in scripts.chain(as_owner.map(str::to_owned)) {
            bench.revision(own.name, next, &up, "SELECT 1;")?;
            // Beyond what users v1 declares: v2, which is not there, has it.
            let to = Wish::To(next.to_owned());
            let binding = own
                .binding
                .replace("users/versions/v1", "users/versions/v2");
            let tried = bench.migrate(&binding, Some(&branch), to).await;
            let error = tried.err().with_context(|| format!("it may: {up}"))?;
            let said = format!("{error:#}");
            let refusals = [
                "permission denied",
                "must be owner",
                "must have admin option",
            ];
            ensure!(
                said.contains(next) && refusals.iter().any(|part| said.contains(part)),
                "{up}: {said}"
            );
        }
        let folder = bench.config.folder().join("migrations").join(own.name);
        std::fs::remove_dir_all(folder.join(next))?;
        assert_eq!(all_there(&owner).await?, before, "nothing is left");
    }
    // Nobody logs in as the role: it has no password, but while somebody does.
    let roles = "SELECT bool_or(rolcanlogin OR rolsuper OR rolcreaterole OR rolbypassrls)
                 FROM pg_roles WHERE rolname LIKE '%\\_ddl'";
    assert!(!owner.query_one(roles, &[]).await?.get::<_, bool>(0));
    assert_eq!(bench.steps_left().await?, 0);
    bench.stop().await
}

/// The owner may do everything, so what it looks up is Postgres's own, whatever is called
/// the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_runs_nothing_that_a_revision_made() -> anyhow::Result<()> {
    const NAME: &str = "2099-01-01-000000_trap";
    let bench = start().await?;
    let (branch, owner) = bench.shared().await?;
    let trap = "CREATE SCHEMA neondb_owner;
        CREATE FUNCTION neondb_owner.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM billing.invoice_lines; END $$;";
    bench.revision("users", NAME, trap, "")?;
    let to = Wish::To(NAME.to_owned());
    let v2 = "services/users/versions/v2";
    bench.migrate(v2, Some(&branch), to).await?;
    bench.apply().await.err().context("the branch is ahead")?;
    bench.revision("billing", NAME, "SELECT 1;", "")?;
    bench.migrate(BILLING, None, all_up()).await?;
    bench.acquire(on_branch_of_billing(&branch)).await?;
    let lines = "SELECT count(*) FROM billing.invoice_lines";
    let lines: i64 = owner.query_one(lines, &[]).await?.get(0);
    assert!(lines > 0, "they were deleted as the owner");
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_goes_up_and_down_alone_and_in_any_order() -> anyhow::Result<()> {
    let bench = start().await?;
    let (_, owner) = bench.shared().await?;
    let [users, billing] = &SERVICES;
    for (moving, staying) in [(users, billing), (billing, users)] {
        let lease = on_binding(staying.binding, Access::ReadWrite);
        let session = bench.session(&bench.acquire(lease).await?.uri).await?;
        let write = format!("UPDATE {} SET id = id", staying.table);
        let (went, stayed) = (history(&owner, moving.name), history(&owner, staying.name));
        let (went, stayed) = (went.await?, stayed.await?);

        let count = i32::try_from(went.len())?;
        let done = bench.migrate(moving.binding, None, down(count)).await?;
        assert_eq!(done, went.len());
        assert_eq!(history(&owner, moving.name).await?, [""; 0]);
        let table = format!("{}.{}", moving.name, moving.table);
        let there = "SELECT to_regclass($1) IS NOT NULL";
        assert!(!owner.query_one(there, &[&table]).await?.get::<_, bool>(0));
        assert_eq!(history(&owner, staying.name).await?, stayed);
        session.batch_execute(&write).await?;

        bench.migrate(moving.binding, None, all_up()).await?;
        assert_eq!(history(&owner, moving.name).await?, went);
        assert_eq!(history(&owner, staying.name).await?, stayed);
        session.batch_execute(&write).await?;
    }

    // From nothing, in either order, and both at once.
    let main = format!("branches/{}", bench.emulator.main_branch().await?);
    for (name, order) in [("one", [V1, BILLING]), ("other", [BILLING, V1])] {
        fork(&bench, name, &main).await?;
        let id = bench.branch_named(name).await?;
        for binding in order {
            bench.migrate(binding, Some(&id), all_up()).await?;
        }
    }
    fork(&bench, "both", &main).await?;
    let both = bench.branch_named("both").await?;
    let up = |binding| bench.migrate(binding, Some(&both), all_up());
    tokio::try_join!(up(V1), up(BILLING), up(V1), up(BILLING))?;
    for name in ["one", "other", "both"] {
        let owner = bench
            .emulator
            .connect(&bench.branch_named(name).await?)
            .await?;
        for service in &SERVICES {
            is_handed_over(&owner, service.name).await?;
        }
    }
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_diesel_made_is_the_services_the_next_time() -> anyhow::Result<()> {
    let bench = start().await?;
    let (branch, owner) = bench.shared().await?;
    let refunds = "CREATE TABLE refunds (id bigserial PRIMARY KEY);";
    let folder = bench.revision("billing", "2098-01-01-000000_refunds", refunds, "")?;
    let session = bench.emulator.connect(&branch).await?;
    session.batch_execute("SET search_path = billing").await?;
    let ran = diesel(session, folder, |harness, source| {
        use diesel_migrations::MigrationHarness as _;
        Ok(harness.run_pending_migrations(source)?.len())
    });
    assert_eq!(ran.await?, 1);
    let lease = bench.acquire(on_binding(BILLING, Access::ReadOnly)).await?;
    let reader = bench.session(&lease.uri).await?;
    reader.query("SELECT id FROM refunds", &[]).await?;
    assert!(is_handed_over(&owner, "billing").await.is_err());

    let reasons = "ALTER TABLE refunds ADD COLUMN reason text;";
    bench.revision("billing", "2099-01-01-000000_reasons", reasons, "")?;
    assert_eq!(bench.migrate(BILLING, None, all_up()).await?, 1);
    reader.query("SELECT reason FROM refunds", &[]).await?;
    is_handed_over(&owner, "billing").await?;
    assert_eq!(bench.steps_left().await?, 0);
    bench.stop().await
}

/// As a broker left it that ran revisions as the owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_has_is_handed_over() -> anyhow::Result<()> {
    let bench = start().await?;
    let (_, owner) = bench.shared().await?;
    let lease = bench
        .acquire(on_binding(BILLING, Access::ReadWrite))
        .await?;
    let session = bench.session(&lease.uri).await?;
    owner
        .batch_execute(
            "DO $$ DECLARE thing record; BEGIN
                 ALTER SCHEMA billing OWNER TO CURRENT_USER;
                 FOR thing IN SELECT oid::regclass AS name FROM pg_class
                              WHERE relnamespace = 'billing'::regnamespace AND relkind IN ('r', 'v')
                 LOOP EXECUTE format('ALTER TABLE %s OWNER TO CURRENT_USER', thing.name);
                 END LOOP;
             END $$;
             DROP OWNED BY billing_ddl;
             SET search_path = billing;
             CREATE TYPE mood AS ENUM ('well');
             CREATE TYPE pair AS (a int, b mood);
             CREATE TYPE span AS RANGE (subtype = int4);
             CREATE DOMAIN code AS text CHECK (VALUE <> '');
             CREATE SEQUENCE numbers;
             CREATE TABLE parted (id bigserial, mood mood, code code) PARTITION BY LIST (mood);
             CREATE TABLE part PARTITION OF parted FOR VALUES IN ('well');
             CREATE STATISTICS pairs ON id, code FROM part;
             CREATE MATERIALIZED VIEW few AS SELECT id FROM parted;
             CREATE FUNCTION \"Odd name\"(pair, VARIADIC int[]) RETURNS bool LANGUAGE sql AS 'SELECT true';
             CREATE PROCEDURE nothing() LANGUAGE sql AS '';
             CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);
             CREATE FUNCTION same(pair, pair) RETURNS bool LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR === (LEFTARG = pair, RIGHTARG = pair, FUNCTION = same);
             CREATE COLLATION plain FROM \"C\";
             CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
             CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = pg_catalog.simple);
             DROP ROLE billing_ddl;",
        )
        .await?;
    ensure!(bench.steps_left().await? > 0, "nothing is to be done");
    bench.apply().await?;
    assert_eq!(bench.steps_left().await?, 0);
    is_handed_over(&owner, "billing").await?;
    let ways = "SELECT id FROM open_invoices; SELECT id FROM few; SELECT nextval('numbers');
                INSERT INTO parted (mood) VALUES ('well'); SELECT total(1)";
    session.batch_execute(ways).await?;
    // Of what somebody else has nothing is touched.
    is_handed_over(&owner, "users").await?;
    let reset = "CREATE TABLE more (id int); DROP TABLE part, parted CASCADE;";
    bench.revision("billing", "2099-01-01-000000_more", reset, "")?;
    bench.migrate(BILLING, None, all_up()).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_may_make_schemas_and_what_is_for_the_time_being() -> anyhow::Result<()> {
    let bench = start().await?;
    let (_, owner) = bench.shared().await?;
    let trusted = "SELECT count(*) > 0 FROM pg_available_extension_versions
                   WHERE name = 'citext' AND trusted";
    let extension = match owner.query_one(trusted, &[]).await?.get(0) {
        true => "CREATE EXTENSION citext;",
        false => "",
    };
    let up = format!(
        "CREATE SCHEMA billing_archive;
         CREATE TABLE billing_archive.old (id int);
         CREATE TEMPORARY TABLE scratch (id int);
         CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
         {extension}"
    );
    let taken_back = "DROP FUNCTION one(); DROP SCHEMA billing_archive CASCADE;
                DROP EXTENSION IF EXISTS citext;";
    bench.revision("billing", "2099-01-01-000000_more", &up, taken_back)?;
    bench.migrate(BILLING, None, all_up()).await?;
    let lease = bench
        .acquire(on_binding(BILLING, Access::ReadWrite))
        .await?;
    let session = bench.session(&lease.uri).await?;
    session.query("SELECT one()", &[]).await?;
    let by_being_somebody = "SELECT has_function_privilege('users_rw', 'billing.one()', 'EXECUTE')";
    assert!(
        !owner
            .query_one(by_being_somebody, &[])
            .await?
            .get::<_, bool>(0)
    );
    bench.migrate(BILLING, None, down(1)).await?;
    bench.stop().await
}

/// What either makes on a branch of a lease's own the other can change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_change_a_branch_and_an_administrator_change_the_same() -> anyhow::Result<()> {
    let bench = start().await?;
    let given = bench.acquire(ephemeral(BILLING, Access::Ddl)).await?;
    let branch: BranchId = given.lease.branch.trim_start_matches("branches/").parse()?;
    let owner = bench.emulator.connect(&branch).await?;
    let session = bench.session(&given.uri).await?;
    session
        .batch_execute("CREATE TABLE mine (id int); CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';")
        .await?;
    is_handed_over(&owner, "billing").await?;
    bench.revision(
        "billing",
        "2098-01-01-000000_both",
        "ALTER TABLE mine ADD COLUMN theirs int; CREATE TABLE theirs (id int);
         ALTER FUNCTION one() STABLE;",
        "",
    )?;
    bench.migrate(BILLING, Some(&branch), all_up()).await?;
    session
        .batch_execute("ALTER TABLE theirs ADD COLUMN mine int; DROP FUNCTION one();")
        .await?;

    // A pool has made the session as new, and it is its own role's.
    session.batch_execute("DISCARD ALL").await?;
    session
        .batch_execute(
            "SET ROLE NONE;
             CREATE TABLE billing.own (id int); ALTER TABLE billing.mine ADD COLUMN own int;",
        )
        .await?;
    assert!(is_handed_over(&owner, "billing").await.is_err());
    let reading = bench.acquire(on_branch_of_billing(&branch)).await?;
    let reader = bench.session(&reading.uri).await?;
    reader.query("SELECT id FROM own", &[]).await?;
    let up = "ALTER TABLE own ADD COLUMN theirs int;";
    bench.revision("billing", "2099-01-01-000000_own", up, "")?;
    bench.migrate(BILLING, Some(&branch), all_up()).await?;
    is_handed_over(&owner, "billing").await?;
    session
        .batch_execute("DROP TABLE billing.own, billing.theirs")
        .await?;
    bench.stop().await
}

fn on_branch_of_billing(branch: &BranchId) -> proto::broker::v1::AcquireLeaseRequest {
    proto::broker::v1::AcquireLeaseRequest {
        service: "services/billing".to_owned(),
        ..on_branch(branch, Access::ReadOnly)
    }
}

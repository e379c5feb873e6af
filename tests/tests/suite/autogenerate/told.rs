//! What is noticed in a real catalog, and what is told about it.

use anyhow::{Context, ensure};
use broker::migrate::autogenerate::STOP;
use broker::migrate::catalog::{self, Schema};

use super::Bench;
use super::shop::{Shop, contains, no_stop};

const TOUCH: &str = "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RETURN NEW; END $$;";

const NOTICED: [&str; 14] = [
    "aggregate total(integer)",
    "composite type pair",
    "domain positive",
    "function touch()",
    "options of table users",
    "partition or child child",
    "partition or child parent",
    "partition or child part",
    "partitioned table parts",
    "policy own on users",
    "range type span",
    "rule no_delete on users",
    "statistics both_columns",
    "trigger touched on users",
];

#[tokio::test]
async fn what_a_catalog_holds_is_written_or_told() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let case = the_rest_is_noticed(&bench).await;
    case.context("what is not written is noticed")?;
    let case = in_the_way(&bench).await;
    case.context("what is in the way is told")?;
    let case = renamed_out_of_the_way(&bench).await;
    case.context("what follows a rename is not in its way")?;
    let case = validates(&bench).await;
    case.context("what was not validated is")?;
    let case = leads_elsewhere(&bench).await;
    case.context("what leads elsewhere and what excludes is written")?;
    let case = reading_changes_nothing(&bench).await;
    case.context("reading leaves the session as it was")?;
    bench.stop().await
}

async fn the_rest_is_noticed(bench: &Bench) -> anyhow::Result<()> {
    let after = "CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int);
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TYPE pair AS (a int, b text);
        CREATE TYPE span AS RANGE (SUBTYPE = int);
        CREATE TABLE users (id int PRIMARY KEY, a int, b int) WITH (fillfactor = 70);
        CREATE TRIGGER touched BEFORE UPDATE OF a ON users FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE POLICY own ON users FOR SELECT TO PUBLIC USING (id > 0);
        ALTER TABLE users ENABLE ROW LEVEL SECURITY;
        CREATE STATISTICS both_columns ON a, b FROM users;
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (10);
        CREATE TABLE parent (id int);
        CREATE TABLE child () INHERITS (parent);
        CREATE RULE no_delete AS ON DELETE TO users DO INSTEAD NOTHING;
        CREATE TABLE __branch_broker_revisions (id serial PRIMARY KEY);
        CREATE TABLE __branch_broker_batches (version text, direction text,
            PRIMARY KEY (version, direction));
        CREATE TABLE __diesel_schema_migrations (version text PRIMARY KEY);";
    let shop = Shop::begin(bench, "noticing", "", &format!("{TOUCH} {after}")).await?;
    let (_, b) = shop.schemas().await?;
    ensure!(b.tables.keys().eq(["users"]), "{b:?}");
    ensure!(b.sequences.is_empty() && b.indexes.is_empty(), "{b:?}");
    let noticed = b
        .noticed
        .keys()
        .map(|(kind, name)| format!("{kind} {name}"));
    let noticed: Vec<_> = noticed.collect();
    ensure!(noticed == NOTICED, "{noticed:#?}");
    let text = b.text();
    ensure!(!text.contains("noticing."), "{text}");
    let up = shop.write(&[]).await?.up;
    contains(&up, "ENABLE ROW LEVEL SECURITY")?;
    let stops = up.lines().filter(|line| line.starts_with(STOP));
    ensure!(stops.count() == noticed.len(), "{up}");
    Ok(())
}

const TOUCHED: &str = "CREATE TRIGGER touched BEFORE UPDATE OF a ON users FOR EACH ROW
    EXECUTE FUNCTION touch();";

async fn in_the_way(bench: &Bench) -> anyhow::Result<()> {
    let before = format!("{TOUCH} CREATE TABLE users (a int); {TOUCHED}");
    let after = format!("{TOUCH} CREATE TABLE users (a bigint); {TOUCHED}");
    let shop = Shop::begin(bench, "blocking", &before, &after).await?;
    let up = shop.write(&[]).await?.up;
    contains(&up, "may be in the way of a change to users.a")
}

async fn renamed_out_of_the_way(bench: &Bench) -> anyhow::Result<()> {
    let before = format!("{TOUCH} CREATE TABLE users (a int); {TOUCHED}");
    let touched = TOUCHED.replace("users", "people").replace("OF a", "OF b");
    let after = format!("{TOUCH} CREATE TABLE people (b int); {touched}");
    let shop = Shop::begin(bench, "following", &before, &after).await?;
    let written = shop.up(&["users=people", "users.a=b"]).await?;
    no_stop(&written.up)
}

async fn validates(bench: &Bench) -> anyhow::Result<()> {
    let table = "CREATE TABLE users (id int PRIMARY KEY, other int);";
    let key = "ALTER TABLE users ADD CONSTRAINT leads FOREIGN KEY (other) REFERENCES users (id)";
    let before = format!("{table} {key} NOT VALID;");
    let after = format!("{table} {key};");
    let shop = Shop::begin(bench, "validating", &before, &after).await?;
    let up = shop.up(&[]).await?.up;
    let expected = "ALTER TABLE users VALIDATE CONSTRAINT leads;\n";
    ensure!(up == expected, "{up}");
    Ok(())
}

async fn leads_elsewhere(bench: &Bench) -> anyhow::Result<()> {
    let outside = "CREATE TABLE IF NOT EXISTS public.countries (name text PRIMARY KEY);";
    let before = format!(
        "{outside} CREATE TABLE users (name text REFERENCES public.countries (name), span int4range,
            age varchar(10), EXCLUDE USING gist (span WITH &&) WHERE (age <> 'none'));"
    );
    let after = format!(
        "{outside} CREATE TABLE users (country text REFERENCES public.countries (name),
            span int4range, age text, EXCLUDE USING gist (span WITH &&) WHERE (age <> 'none'));"
    );
    let shop = Shop::begin(bench, "elsewhere", &before, &after).await?;
    let written = shop.up(&["users.name=country"]).await?;
    let renamed = "RENAME CONSTRAINT users_name_fkey TO users_country_fkey";
    contains(&written.up, renamed)?;
    shop.down(&written).await
}

async fn reading_changes_nothing(bench: &Bench) -> anyhow::Result<()> {
    let shop = Shop::begin(bench, "leaving", "", "").await?;
    let nothing = catalog::read(&bench.a, "not there").await?;
    ensure!(nothing == Schema::default(), "{nothing:?}");
    shop.has("SHOW search_path", &["leaving"]).await?;
    let zone = "SET TimeZone TO 'Europe/Berlin';
        CREATE TABLE t (a timestamptz DEFAULT '2020-01-01 00:00+00')";
    bench.a.batch_execute(zone).await?;
    let (a, _) = shop.schemas().await?;
    contains(&a.text(), "2020-01-01 00:00:00+00")?;
    shop.has("SHOW TimeZone", &["Europe/Berlin"]).await
}

//! What stays in tables that are altered.

use anyhow::{Context, ensure};
use suite::other_postgres;

use super::Bench;
use super::shop::{Shop, contains, no_stop};

#[tokio::test]
async fn rows_stay_in_what_is_altered() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let case = renames_keep_rows(&bench).await;
    case.context("renames keep rows and how far a sequence is")?;
    let case = widening_keeps_rows(&bench).await;
    case.context("enums and numbers that are widened keep rows")?;
    let case = a_value_is_added(&bench).await;
    case.context("a value is added in place")?;
    let case = computed_stays(&bench).await;
    case.context("what was computed stays")?;
    bench.stop().await
}

async fn renames_keep_rows(bench: &Bench) -> anyhow::Result<()> {
    let before = "CREATE TABLE users (id serial PRIMARY KEY, name text UNIQUE CHECK (name <> ''));
        CREATE INDEX users_lower ON users (lower(name)) WHERE name <> 'name';
        CREATE TABLE posts (id serial PRIMARY KEY, users int REFERENCES users (id));
        CREATE VIEW named AS SELECT id, name FROM users;
        INSERT INTO users (name) VALUES ('ada'), ('bob');";
    let after = "CREATE TABLE people (id serial PRIMARY KEY, full_name text UNIQUE
            CHECK (full_name <> ''));
        CREATE INDEX users_lower ON people (lower(full_name)) WHERE full_name <> 'name';
        CREATE TABLE posts (id serial PRIMARY KEY, author int REFERENCES people (id));
        CREATE VIEW named AS SELECT id, full_name AS name FROM people;";
    let shop = Shop::begin(bench, "renaming", before, after).await?;
    let renames = ["users=people", "users.name=full_name", "posts.users=author"];
    let written = shop.up(&renames).await?;
    no_stop(&written.up)?;
    shop.run("INSERT INTO people (full_name) VALUES ('eve');")
        .await?;
    let all = "SELECT id || full_name FROM people ORDER BY id";
    shop.has(all, &["1ada", "2bob", "3eve"]).await?;
    shop.down(&written).await?;
    let all = "SELECT id || name FROM users ORDER BY id";
    shop.has(all, &["1ada", "2bob", "3eve"]).await
}

async fn widening_keeps_rows(bench: &Bench) -> anyhow::Result<()> {
    let before = "CREATE TYPE mood AS ENUM ('sad', 'glad');
        CREATE TABLE users (id int PRIMARY KEY, mood mood NOT NULL DEFAULT 'sad', all_moods mood[],
            CHECK (mood <> 'glad' OR id > 0));
        CREATE INDEX sad ON users (id) WHERE mood = 'sad';
        CREATE VIEW glad AS SELECT * FROM users WHERE mood = 'glad';
        INSERT INTO users VALUES (1, 'sad', '{sad,glad}'), (2, 'glad', NULL);";
    let after = "CREATE TYPE mood AS ENUM ('glad', 'so so', 'sad');
        CREATE TABLE users (id bigint PRIMARY KEY, mood mood NOT NULL DEFAULT 'so so',
            all_moods mood[], CHECK (mood <> 'glad' OR id > 0));
        CREATE INDEX sad ON users (id) WHERE mood = 'sad';
        CREATE VIEW glad AS SELECT * FROM users WHERE mood = 'glad';";
    let shop = Shop::begin(bench, "widening", before, after).await?;
    let written = shop.up(&[]).await?;
    no_stop(&written.up)?;
    no_stop(&written.down)?;
    let all = "SELECT concat_ws(' ', id, mood, all_moods) FROM users ORDER BY mood, id";
    shop.has(all, &["2 glad", "1 sad {sad,glad}"]).await?;
    shop.down(&written).await?;
    shop.has(all, &["1 sad {sad,glad}", "2 glad"]).await
}

async fn a_value_is_added(bench: &Bench) -> anyhow::Result<()> {
    let before = "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE users (mood mood DEFAULT 'sad');
        INSERT INTO users DEFAULT VALUES;";
    let after =
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE users (mood mood DEFAULT 'sad');";
    let shop = Shop::begin(bench, "adding", before, after).await?;
    let written = shop.up(&[]).await?;
    ensure!(
        written.up == "ALTER TYPE mood ADD VALUE 'glad';\n",
        "{}",
        written.up
    );
    shop.has("SELECT mood::text FROM users", &["sad"]).await?;
    shop.down(&written).await?;
    shop.has("SELECT mood::text FROM users", &["sad"]).await
}

async fn computed_stays(bench: &Bench) -> anyhow::Result<()> {
    let before = "CREATE TABLE t (a int, b int, c int GENERATED ALWAYS AS (a * 2) STORED,
            d int GENERATED ALWAYS AS (b * 2) STORED); INSERT INTO t (a, b) VALUES (1, 2);";
    let after = "CREATE TABLE t (a bigint, c int DEFAULT 1, d int NOT NULL);";
    let shop = Shop::begin(bench, "computed", before, after).await?;
    let written = shop.up(&[]).await?;
    let all = "SELECT concat_ws(' ', a, c, d) FROM t";
    shop.has(all, &["1 2 4"]).await?;
    shop.run(&written.down).await
}

/// Postgres has them from 18 on.
#[tokio::test]
async fn columns_computed_when_read_are_known() -> anyhow::Result<()> {
    let bin = other_postgres(18).await?;
    let bin = bin.to_str().context("UTF-8")?;
    let bench = Bench::start_with(&["--postgres-bin", bin]).await?;
    let before = "CREATE TABLE t (a int); INSERT INTO t VALUES (1)";
    let after = "CREATE TABLE t (a bigint, b bigint GENERATED ALWAYS AS (a * 2) VIRTUAL)";
    let shop = Shop::begin(&bench, "computing", before, after).await?;
    let written = shop.up(&[]).await?;
    contains(&written.up, "GENERATED ALWAYS AS (a * 2) VIRTUAL")?;
    shop.has("SELECT concat_ws(' ', a, b) FROM t", &["1 2"])
        .await?;
    shop.down(&written).await?;
    shop.has("SELECT a::text FROM t", &["1"]).await?;
    bench.stop().await
}

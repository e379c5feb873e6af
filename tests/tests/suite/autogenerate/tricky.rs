//! Pairs that no generator comes upon.

use anyhow::ensure;

use super::{Bench, pairs};

const PAIRS: &[(&str, &str)] = &[
    // Names change hands between kinds.
    (
        "CREATE TABLE x (a int)",
        "CREATE TABLE y (a int); CREATE VIEW x AS SELECT a FROM y",
    ),
    (
        "CREATE TABLE x (a int); CREATE INDEX y ON x (a)",
        "CREATE TABLE y (a int); CREATE INDEX x ON y (a)",
    ),
    (
        "CREATE SEQUENCE x; CREATE TABLE y (a int DEFAULT nextval('x'))",
        "CREATE TABLE x (a int); CREATE SEQUENCE y",
    ),
    (
        "CREATE TYPE x AS ENUM ('a'); CREATE TABLE y (a x)",
        "CREATE TYPE z AS ENUM ('a'); CREATE TABLE x (a z)",
    ),
    (
        "CREATE MATERIALIZED VIEW x AS SELECT 1 AS a; CREATE INDEX i ON x (a)",
        "CREATE VIEW x AS SELECT 1 AS a; CREATE TABLE t (i int); CREATE INDEX i ON t (i)",
    ),
    (
        "CREATE TABLE x (a int CONSTRAINT i UNIQUE)",
        "CREATE TABLE x (a int); CREATE UNIQUE INDEX i ON x (a)",
    ),
    // A view over what another one was.
    (
        "CREATE TABLE t (a int, b int); CREATE VIEW v AS SELECT a, b FROM t; CREATE VIEW w AS SELECT a FROM v; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM w",
        "CREATE TABLE t (a int); CREATE VIEW w AS SELECT a FROM t; CREATE VIEW v AS SELECT a, a AS b FROM w; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM w",
    ),
    (
        "CREATE TABLE t (a int, b int); CREATE VIEW v AS WITH c AS (SELECT a FROM t) SELECT * FROM c UNION SELECT b FROM t",
        "CREATE TABLE t (a bigint, b bigint); CREATE VIEW v AS WITH c AS (SELECT a FROM t) SELECT * FROM c UNION SELECT b FROM t",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE VIEW v AS SELECT id, a FROM t GROUP BY id",
        "CREATE TABLE t (id int CONSTRAINT other UNIQUE NOT NULL, a int); CREATE VIEW v AS SELECT id, a FROM t GROUP BY id, a",
    ),
    // Texts that become an enum, and back.
    (
        "CREATE TYPE e AS ENUM ('a'); CREATE TABLE t (x text DEFAULT 'a' CHECK (x <> ''), y e)",
        "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (x e DEFAULT 'a', y e)",
    ),
    (
        "CREATE TYPE e AS ENUM ('a'); CREATE TABLE t (e e[] DEFAULT ARRAY['a']::e[])",
        "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (e e[] DEFAULT ARRAY['a', 'b']::e[])",
    ),
    (
        "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (x text CHECK (x::e <> 'a'::e)); CREATE INDEX ON t ((x = 'e'))",
        "CREATE TYPE e AS ENUM ('b'); CREATE TABLE t (x text CHECK (x::e <> 'b'::e)); CREATE INDEX ON t ((x = 'e'))",
    ),
    (
        "CREATE TYPE e AS ENUM ('a'); CREATE TYPE e_old AS ENUM ('x'); CREATE TABLE t (x e)",
        "CREATE TYPE e AS ENUM (); CREATE TYPE e_old AS ENUM ('y', 'x'); CREATE TABLE t (x e)",
    ),
    (
        "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (x e, CONSTRAINT u UNIQUE (x)); CREATE TABLE r (x e REFERENCES t (x))",
        "CREATE TYPE e AS ENUM ('b', 'a'); CREATE TABLE t (x e, CONSTRAINT u UNIQUE (x)); CREATE TABLE r (x e REFERENCES t (x))",
    ),
    // Keys that lead to keys that go.
    (
        "CREATE TABLE a (id int PRIMARY KEY, x int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a); ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b",
        "CREATE TABLE c (id int PRIMARY KEY)",
    ),
    (
        "CREATE TABLE a (id int PRIMARY KEY, x int, y int, UNIQUE (x, y)); CREATE TABLE b (x int, y int, FOREIGN KEY (x, y) REFERENCES a (x, y))",
        "CREATE TABLE a (id int, x int, y int, PRIMARY KEY (x, y)); CREATE TABLE b (x int, y int, FOREIGN KEY (x, y) REFERENCES a (x, y))",
    ),
    (
        "CREATE TABLE a (id int); CREATE UNIQUE INDEX i ON a (id); CREATE TABLE b (a int REFERENCES a (id))",
        "CREATE TABLE a (id bigint); CREATE UNIQUE INDEX j ON a (id) INCLUDE (id); CREATE UNIQUE INDEX k ON a (id DESC); CREATE TABLE b (a bigint REFERENCES a (id))",
    ),
    (
        "CREATE TABLE a (id uuid PRIMARY KEY); CREATE TABLE b (a uuid REFERENCES a ON DELETE CASCADE, n int)",
        "CREATE TABLE a (id text PRIMARY KEY); CREATE TABLE b (a text REFERENCES a ON DELETE SET NULL DEFERRABLE, n int)",
    ),
    (
        "CREATE UNLOGGED TABLE a (id int PRIMARY KEY); CREATE UNLOGGED TABLE b (a int REFERENCES a)",
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a)",
    ),
    // Sequences with several that draw from them.
    (
        "CREATE TABLE a (id serial); CREATE TABLE b (id int DEFAULT nextval('a_id_seq'))",
        "CREATE TABLE b (id int)",
    ),
    (
        "CREATE TABLE a (id serial); CREATE TABLE b (id int DEFAULT nextval('a_id_seq'))",
        "CREATE SEQUENCE a_id_seq AS integer; CREATE TABLE b (id int DEFAULT nextval('a_id_seq'))",
    ),
    ("CREATE TABLE a (id serial)", "CREATE TABLE a (id int)"),
    (
        "CREATE TABLE a (x int)",
        "CREATE TABLE a (x int, id serial); CREATE TABLE a_b (c smallserial, \"D e\" bigserial)",
    ),
    (
        "CREATE TABLE a (id serial, other int)",
        "CREATE TABLE a (other serial); DROP SEQUENCE IF EXISTS a_id_seq",
    ),
    (
        "CREATE TABLE a (x int, id int GENERATED ALWAYS AS (x) STORED)",
        "CREATE TABLE a (x int, id serial)",
    ),
    (
        "CREATE TABLE a (id bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE 5000000000))",
        "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY)",
    ),
    (
        "CREATE TABLE a (id bigint GENERATED ALWAYS AS IDENTITY (START WITH 4000000000 MINVALUE 4000000000))",
        "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY (MAXVALUE 9 CYCLE))",
    ),
    (
        "CREATE TABLE a (id bigint GENERATED ALWAYS AS IDENTITY (INCREMENT BY -1))",
        "CREATE TABLE a (id smallint GENERATED BY DEFAULT AS IDENTITY (CACHE 5))",
    ),
    // What texts of expressions hold.
    (
        "CREATE TABLE a (x text DEFAULT E'a\\\\b\\n-- x' CHECK (x ~ '^\\d+$'))",
        "CREATE TABLE a (x text DEFAULT ';' CHECK (x ~ '^\\w+$' AND (x <> 'a' OR (x <> 'b' AND NOT x = 'c'))))",
    ),
    (
        "CREATE TABLE a (x text)",
        "CREATE TABLE a (x text COLLATE \"C\"); CREATE INDEX ON a (x text_pattern_ops); CREATE INDEX ON a (lower(x) COLLATE \"POSIX\" DESC NULLS LAST); CREATE INDEX \"a i\" ON a USING gin (to_tsvector('simple', x)) WITH (fastupdate = off)",
    ),
    (
        "CREATE TABLE a (x int[], y int)",
        "CREATE TABLE a (x int, y int[])",
    ),
    (
        "CREATE TABLE a (x bool, y timestamptz, z jsonb)",
        "CREATE TABLE a (x int, y uuid, z text[])",
    ),
    (
        "CREATE TABLE a (x varchar(10), y char(3), z bit(4))",
        "CREATE TABLE a (x int[], y boolean, z int)",
    ),
    (
        "CREATE TABLE a ()",
        "CREATE TABLE a (\"a b\" int, \"select\" int, \"A\"\"\" int, CHECK (\"a b\" > \"select\"))",
    ),
    (
        "CREATE TABLE a (p point, x int DEFAULT 5 CHECK (x IN (1, 2)), y int CHECK (y BETWEEN 1 AND 3))",
        "CREATE TABLE a (p point, x bigint DEFAULT 6 CHECK (x IN (1, 2)), y numeric CHECK (y BETWEEN 1 AND 3)); CREATE INDEX ON a USING gist (p)",
    ),
];

const RENAMED: &[(&str, &str, &[&str])] = &[
    (
        "CREATE TABLE t (lower text CHECK (lower(lower) = lower)); CREATE INDEX i ON t (lower(lower)) INCLUDE (lower)",
        "CREATE TABLE t (upper text CHECK (lower(upper) = upper)); CREATE INDEX i ON t (lower(upper)) INCLUDE (upper)",
        &["t.lower=upper"],
    ),
    (
        "CREATE TABLE t (date date CHECK (date > '2020-01-01'::date), zone timestamptz CHECK (zone > '2020-01-01'::timestamptz))",
        "CREATE TABLE t (day date CHECK (day > '2020-01-01'::date), \"Area\" timestamptz CHECK (\"Area\" > '2020-01-01'::timestamptz))",
        &["t.date=day", "t.zone=Area"],
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, t int REFERENCES t (id), b int GENERATED ALWAYS AS (t + id) STORED)",
        "CREATE TABLE u (\"a b\" int PRIMARY KEY, v int REFERENCES u (\"a b\"), b int GENERATED ALWAYS AS (v + \"a b\") STORED)",
        &["t=u", "t.id=a b", "t.t=v"],
    ),
    (
        "CREATE TABLE t (id serial PRIMARY KEY, x int); CREATE VIEW v AS SELECT * FROM t; CREATE VIEW w AS SELECT id FROM v",
        "CREATE TABLE u (id bigserial PRIMARY KEY, y bigint); CREATE VIEW v AS SELECT * FROM u; CREATE VIEW w AS SELECT id FROM v",
        &["t=u", "t.x=y"],
    ),
    (
        "CREATE TABLE t (a int, b int, EXCLUDE USING btree (a WITH =) WHERE (b > 0))",
        "CREATE TABLE t (b2 int, a2 int, EXCLUDE USING btree (a2 WITH =) WHERE (b2 > 0), c int)",
        &["t.a=a2", "t.b=b2"],
    ),
];

#[tokio::test]
async fn tricky_pairs_lead_there_and_back() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let both_ways = PAIRS.iter().flat_map(|(one, other)| {
        let none: &[&str] = &[];
        [(*one, *other, none), (*other, *one, none)]
    });
    let mut wrong = Vec::new();
    for (at, (before, after, renames)) in both_ways.chain(RENAMED.iter().copied()).enumerate() {
        let schema = format!("tricky_{at}");
        let led = pairs::round_trip(&bench, &schema, before, after, renames).await;
        wrong.extend(led.err().map(|error| format!("{renames:?} {error:#}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n=====\n"));
    bench.stop().await
}

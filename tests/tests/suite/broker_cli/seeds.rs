//! What tutorials on migrations do to a schema, done by `broker migrate` to tables that have
//! rows: authors and books, the usual changes of a column, a blog, revisions that fail.

use anyhow::Context;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::Bench;
use super::migrate::V2;

/// The example system, and the owner of v2's branch in the schema of the service.
struct Story {
    bench: Bench,
    owner: tokio_postgres::Client,
}

impl Story {
    async fn begin() -> anyhow::Result<Self> {
        let bench = Bench::start().await?;
        let owner = bench.owner_of_v2().await?;
        owner.batch_execute("SET search_path = users").await?;
        Ok(Self { bench, owner })
    }

    /// A revision, or another text for one that was not run: its name, what takes the schema
    /// on, and after `-- down:` what takes it back.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        let (name, scripts) = text.split_once('\n').context("a name")?;
        let (up, down) = scripts.split_once("-- down: ").context("a way back")?;
        let files = [("up.sql", up), ("down.sql", down)];
        self.bench.revision(name, &files).map(drop)
    }

    /// `broker migrate` with these words, on v2.
    async fn migrate(&self, words: &str) -> anyhow::Result<String> {
        let mut words: Vec<_> = words.split(' ').collect();
        words.insert(1, V2);
        self.bench.migrate(&words).await
    }

    /// Runs the oldest that is pending, alone.
    async fn up(&self) -> anyhow::Result<()> {
        assert_eq!(self.migrate("up --count 1").await?, "1 revision\n");
        Ok(())
    }

    /// A new revision is run, taken back, and run twice more: what was before is there when
    /// it is taken back, and what it makes comes again.
    async fn there_and_back(&self, table: &str, text: &str) -> anyhow::Result<()> {
        self.write(text)?;
        let before = self.seen(&[table]).await?;
        self.up().await?;
        let after = self.seen(&[table]).await?;
        assert_ne!(after, before);
        self.migrate("down").await?;
        assert_eq!(self.seen(&[table]).await?, before);
        self.up().await?;
        assert_eq!(self.migrate("redo").await?, "1 revision\n");
        assert_eq!(self.seen(&[table]).await?, after);
        Ok(())
    }

    /// A new revision fails on this line for this reason, and leaves nothing.
    async fn fails(&self, table: &str, text: &str, line: u8, why: &str) -> anyhow::Result<String> {
        self.write(text)?;
        let before = self.seen(&[table]).await?;
        let refused = self.bench.migrate_refused(&["up", V2]).await?;
        let place = format!("{}/up.sql:{line}:9: in `", name(text));
        assert!(refused.contains(&place), "{refused}");
        assert!(refused.contains(why), "{refused}");
        assert_eq!(self.seen(&[table]).await?, before);
        assert_eq!(self.states(1).await?, "PENDING");
        Ok(refused)
    }

    /// How the newest revisions stand, oldest first.
    async fn states(&self, count: usize) -> anyhow::Result<String> {
        let all = self.bench.standings().await?;
        let states = all.iter().filter_map(|row| row.split(' ').next_back());
        let newest = states.skip(all.len().saturating_sub(count));
        Ok(newest.collect::<Vec<_>>().join(" "))
    }

    /// What a statement is refused with.
    async fn refused(&self, sql: &str) -> anyhow::Result<SqlState> {
        let refused = self.owner.batch_execute(sql).await.err();
        let code = refused.as_ref().and_then(|refused| refused.code());
        code.cloned().with_context(|| format!("it ran: {sql}"))
    }

    /// Each row as a line, its columns apart by `|`, `-` for what is NULL.
    async fn rows(&self, ask: &str) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        for message in self.owner.simple_query(ask).await? {
            if let SimpleQueryMessage::Row(row) = message {
                let columns = (0..row.len()).map(|column| row.get(column).unwrap_or("-"));
                lines.push(columns.collect::<Vec<_>>().join("|"));
            }
        }
        Ok(lines)
    }

    /// All that the schema has, and every row of these tables. Without the order of columns:
    /// one that comes again comes last.
    async fn seen(&self, tables: &[&str]) -> anyhow::Result<Vec<String>> {
        let shape = "
            SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default)
            FROM information_schema.columns WHERE table_schema = 'users'
            UNION ALL
            SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
            FROM pg_constraint WHERE connamespace = 'users'::regnamespace
            UNION ALL
            SELECT concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid)
            FROM pg_index JOIN pg_class ON oid = indrelid
            WHERE relnamespace = 'users'::regnamespace ORDER BY 1";
        let mut seen = self.rows(shape).await?;
        for table in tables {
            let ask = format!("SELECT '{table}', to_jsonb(t) FROM {table} t ORDER BY t.id");
            seen.extend(self.rows(&ask).await?);
        }
        Ok(seen)
    }
}

fn name(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[tokio::test]
async fn authors_get_a_country_and_give_it_back() -> anyhow::Result<()> {
    let story = Story::begin().await?;
    let nothing = story.seen(&["users"]).await?;
    let create = "2027-01-10-090000_create_authors_and_books
        CREATE TABLE authors (id serial PRIMARY KEY, name text NOT NULL, bio text,
            created_at timestamptz NOT NULL DEFAULT now());
        CREATE TABLE books (id serial PRIMARY KEY, title text NOT NULL, author_id integer NOT NULL
            REFERENCES authors (id), created_at timestamptz NOT NULL DEFAULT now());
        -- down: DROP TABLE books, authors;";
    story.write(create)?;
    story.up().await?;
    let rows = "INSERT INTO authors (name, bio) VALUES ('Austen', 'Novels'), ('Jansson', NULL);
        INSERT INTO books (title, author_id) VALUES ('Emma', 1), ('Persuasion', 1), ('Comet', 2);";
    story.owner.batch_execute(rows).await?;
    let add = "2027-01-11-090000_add_country
        ALTER TABLE authors ADD COLUMN country text;
        -- down: ALTER TABLE authors DROP COLUMN country;";
    story.there_and_back("authors", add).await?;
    let countries = "SELECT title, name, country
                     FROM books JOIN authors a ON a.id = author_id ORDER BY books.id";
    let unknown = ["Emma|Austen|-", "Persuasion|Austen|-", "Comet|Jansson|-"];
    assert_eq!(story.rows(countries).await?, unknown);

    // What was in the column goes with it, and does not come again. The rows stay.
    let england = "UPDATE authors SET country = 'England'";
    story.owner.batch_execute(england).await?;
    assert_eq!(story.rows(countries).await?[0], "Emma|Austen|England");
    story.migrate("down").await?;
    assert_eq!(story.refused(countries).await?, SqlState::UNDEFINED_COLUMN);
    story.up().await?;
    assert_eq!(story.rows(countries).await?, unknown);
    assert_eq!(story.migrate("to 2026-02").await?, "2 revisions\n");
    assert_eq!(story.seen(&["users"]).await?, nothing);
    story.bench.stop().await
}

#[tokio::test]
async fn the_usual_changes_of_a_column_keep_the_rows() -> anyhow::Result<()> {
    let story = Story::begin().await?;
    let create = "2027-02-01-090000_create_members
        CREATE TABLE members (id serial PRIMARY KEY, email text NOT NULL,
            is_active boolean NOT NULL DEFAULT true, first_name text, last_name text);
        -- down: DROP TABLE members;";
    story.write(create)?;
    story.up().await?;
    let rows = "INSERT INTO members (email, first_name, last_name) VALUES
        ('ada@a.org', 'Ada', 'Lovelace'), ('vincent@a.org', 'Vincent', 'van Gogh'),
        ('mary@a.org', 'Mary Ann', 'Evans'), ('plato@a.org', 'Plato', NULL),
        ('ada@a.org', 'Cher', ''), ('nobody@a.org', NULL, NULL)";
    story.owner.batch_execute(rows).await?;

    // A required column: where there are rows, only after each has a value.
    let at_once = "2027-02-02-090000_require_role
        ALTER TABLE members ADD COLUMN role text NOT NULL;
        -- down: ALTER TABLE members DROP COLUMN role;";
    let reason = r#"column "role" of relation "members" contains null values"#;
    story.fails("members", at_once, 1, reason).await?;
    let in_steps = "text;
        UPDATE members SET role = 'user' WHERE role IS NULL;
        ALTER TABLE members ALTER COLUMN role SET NOT NULL;";
    let required = at_once.replace("text NOT NULL;", in_steps);
    story.there_and_back("members", &required).await?;
    let roles = story.rows("SELECT DISTINCT role FROM members").await?;
    assert_eq!(roles, ["user"]);
    let without = "INSERT INTO members (email) VALUES ('new@a.org')";
    assert_eq!(story.refused(without).await?, SqlState::NOT_NULL_VIOLATION);

    // Two names become one. `||` would make NULL of one that has a single part. Back, the
    // first word and all that comes after it: split_part(…, 2) would leave van Gogh a van.
    let join = "2027-02-03-090000_join_names
        ALTER TABLE members ADD COLUMN full_name text;
        UPDATE members SET full_name =
            nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), '');
        ALTER TABLE members DROP COLUMN first_name, DROP COLUMN last_name;
        -- down: ALTER TABLE members ADD COLUMN first_name text, ADD COLUMN last_name text;
        UPDATE members SET first_name = split_part(full_name, ' ', 1),
            last_name = nullif(substr(full_name, strpos(full_name || ' ', ' ') + 1), '');
        ALTER TABLE members DROP COLUMN full_name;";
    story.write(join)?;
    let before = story.seen(&[]).await?;
    story.up().await?;
    let names = "SELECT full_name FROM members ORDER BY id";
    let joined = "Ada Lovelace, Vincent van Gogh, Mary Ann Evans, Plato, Cher, -";
    assert_eq!(story.rows(names).await?.join(", "), joined);
    story.migrate("down").await?;
    assert_eq!(story.seen(&[]).await?, before);
    // Where the two met is not known any more: of several words, the first is the first name.
    // Without a space there is no last name; one that was empty is NULL now.
    let halves = "SELECT first_name, last_name FROM members ORDER BY id";
    let split = "Ada|Lovelace, Vincent|van Gogh, Mary|Ann Evans, Plato|-, Cher|-, -|-";
    assert_eq!(story.rows(halves).await?.join(", "), split);
    // Joined again, nobody's name is another.
    story.there_and_back("members", join).await?;
    assert_eq!(story.rows(names).await?.join(", "), joined);

    let index = "2027-02-04-090000_index_names
        CREATE INDEX ix_members_names ON members (full_name);
        -- down: DROP INDEX ix_members_names;";
    story.there_and_back("members", index).await?;
    let rename = "2027-02-05-090000_rename_full_name
        ALTER TABLE members RENAME COLUMN full_name TO name;
        -- down: ALTER TABLE members RENAME COLUMN name TO full_name;";
    story.there_and_back("members", rename).await?;
    let names = story.rows("SELECT name FROM members ORDER BY id").await?;
    assert_eq!(names.join(", "), joined);

    // Two rows are in the way of a unique index. Whose they are is not told.
    let unique = "2027-02-06-090000_unique_emails
        CREATE UNIQUE INDEX ix_members_email ON members (email);
        -- down: DROP INDEX ix_members_email;";
    let reason = r#"could not create unique index "ix_members_email""#;
    let refused = story.fails("members", unique, 1, reason).await?;
    assert!(!refused.contains("ada@a.org"), "{refused}");
    let apart = "UPDATE members SET email = 'cher@a.org' WHERE name = 'Cher'";
    story.owner.batch_execute(apart).await?;
    story.there_and_back("members", unique).await?;
    let twice = "INSERT INTO members (email, role) VALUES ('ada@a.org', 'user')";
    assert_eq!(story.refused(twice).await?, SqlState::UNIQUE_VIOLATION);

    // One that is built while others write runs outside a transaction, in both directions.
    let concurrently = "2027-02-07-090000_index_roles
        CREATE INDEX CONCURRENTLY ix_members_role ON members (role);
        -- down: DROP INDEX CONCURRENTLY ix_members_role;";
    let reason = "cannot run inside a transaction block";
    story.fails("members", concurrently, 1, reason).await?;
    let metadata = [("metadata.toml", "run_in_transaction = false\n")];
    story.bench.revision(name(concurrently), &metadata)?;
    story.there_and_back("members", concurrently).await?;
    story.bench.stop().await
}

/// Revisions, each with the rows that come after it.
const BLOG: [[&str; 2]; 3] = [
    [
        "2027-03-01-090000_create_blog_users
        CREATE TABLE blog_users (id serial PRIMARY KEY, username text, email text UNIQUE,
            hashed_password text, is_active boolean DEFAULT true);
        CREATE UNIQUE INDEX ix_blog_users_username ON blog_users (username);
        -- down: DROP INDEX ix_blog_users_username; DROP TABLE blog_users;",
        "INSERT INTO blog_users (username, email) VALUES ('ada', 'ada@b.org'), ('bob', NULL)",
    ],
    [
        "2027-03-02-090000_create_posts
        CREATE TABLE posts (id serial PRIMARY KEY, title text, content text,
            created_at timestamp DEFAULT now(), user_id integer REFERENCES blog_users (id));
        CREATE INDEX ix_posts_title ON posts (title);
        -- down: DROP TABLE posts;",
        "INSERT INTO posts (title, user_id) VALUES ('Engines', 1), ('Notes', 1), ('Hello', 2)",
    ],
    [
        "2027-03-03-090000_create_comments
        CREATE TABLE comments (id serial PRIMARY KEY, content text,
            created_at timestamp DEFAULT now(), user_id integer REFERENCES blog_users (id),
            post_id integer REFERENCES posts (id));
        -- down: DROP TABLE comments;",
        "INSERT INTO comments (content, user_id, post_id) VALUES ('First', 2, 1), ('Yes', 1, 1)",
    ],
];

#[tokio::test]
async fn a_blog_grows_by_three_revisions_shrinks_and_grows_again() -> anyhow::Result<()> {
    let story = Story::begin().await?;
    let nothing = story.seen(&["users"]).await?;
    for [text, _] in BLOG {
        story.write(text)?;
    }
    let tables = ["blog_users", "posts", "comments"];
    let mut steps = Vec::new();
    for (done, [_, rows]) in (1..).zip(BLOG) {
        story.up().await?;
        let states = [["APPLIED"].repeat(done), ["PENDING"].repeat(3 - done)];
        assert_eq!(story.states(3).await?, states.concat().join(" "));
        story.owner.batch_execute(rows).await?;
        steps.push(story.seen(&tables[..done]).await?);
    }
    let comments =
        "SELECT title, username, c.content FROM comments c JOIN posts p ON p.id = post_id
                    JOIN blog_users u ON u.id = c.user_id ORDER BY c.id";
    let told = ["Engines|bob|First", "Engines|ada|Yes"];
    assert_eq!(story.rows(comments).await?, told);
    let lost = "INSERT INTO comments (user_id, post_id) VALUES (1, 99)";
    assert_eq!(story.refused(lost).await?, SqlState::FOREIGN_KEY_VIOLATION);

    // One step back, then two: what is left is as it was at that step.
    story.migrate("down").await?;
    assert_eq!(story.seen(&tables[..2]).await?, steps[1]);
    story.up().await?;
    assert_eq!(story.rows("TABLE comments").await?.len(), 0);
    assert_eq!(story.migrate("down 2").await?, "2 revisions\n");
    assert_eq!(story.seen(&tables[..1]).await?, steps[0]);
    // To before the blog, and up: tables are new, and ids begin anew.
    assert_eq!(story.migrate("to 2026-02").await?, "1 revision\n");
    assert_eq!(story.seen(&["users"]).await?, nothing);
    assert_eq!(story.migrate("up").await?, "3 revisions\n");
    for [_, rows] in BLOG {
        story.owner.batch_execute(rows).await?;
    }
    assert_eq!(story.rows(comments).await?, told);
    story.bench.stop().await
}

#[tokio::test]
async fn a_revision_that_fails_leaves_nothing_and_is_mended() -> anyhow::Result<()> {
    let story = Story::begin().await?;
    let import = "2027-04-01-090000_import_posts
        CREATE TABLE blog_users (id serial PRIMARY KEY, username text);
        CREATE TABLE posts (id serial PRIMARY KEY, title text, writer integer);
        -- down: DROP TABLE posts, blog_users;";
    story.write(import)?;
    story.up().await?;
    let rows = "INSERT INTO blog_users (username) VALUES ('ada'), ('bob');
        INSERT INTO posts (title, writer) VALUES ('Engines', 1), ('Hello', 2), ('Lost', 99);";
    story.owner.batch_execute(rows).await?;
    let imported = story.seen(&["posts"]).await?;

    // The post of a writer who is no user is in the way of the foreign key.
    let key = "2027-04-02-090000_posts_of_users
        ALTER TABLE posts ADD COLUMN user_id integer;
        UPDATE posts SET user_id = writer;
        ALTER TABLE posts ADD CONSTRAINT fk_posts_users
            FOREIGN KEY (user_id) REFERENCES blog_users (id);
        -- down: ALTER TABLE posts DROP CONSTRAINT fk_posts_users, DROP COLUMN user_id;";
    let reason = r#"violates foreign key constraint "fk_posts_users""#;
    story.fails("posts", key, 3, reason).await?;
    // Nothing is to be taken back: `down` would take back the one before. It is mended.
    let mended = "user_id = u.id FROM blog_users u WHERE u.id = writer;";
    let mended = key.replace("user_id = writer;", mended);
    story.there_and_back("posts", &mended).await?;
    let of_users = "SELECT title, user_id FROM posts ORDER BY id";
    let told = ["Engines|1", "Hello|2", "Lost|-"];
    assert_eq!(story.rows(of_users).await?, told);
    let held = story.refused("DELETE FROM blog_users").await?;
    assert_eq!(held, SqlState::FOREIGN_KEY_VIOLATION);

    // The second of three: the first stays, and the third is not begun.
    let first = "2027-04-03-090000_add_summary
        ALTER TABLE posts ADD COLUMN summary text;
        -- down: ALTER TABLE posts DROP COLUMN summary;";
    let second = "2027-04-04-090000_fill_summary
        ALTER TABLE posts ADD COLUMN words integer;
        UPDATE posts SET words = 1;
        UPDATE posts SET sumary = title;
        -- down: UPDATE posts SET summary = NULL; ALTER TABLE posts DROP COLUMN words;";
    let third = "2027-04-05-090000_index_summary
        CREATE INDEX ix_posts_summary ON posts (summary);
        -- down: DROP INDEX ix_posts_summary;";
    for text in [first, second, third] {
        story.write(text)?;
    }
    let refused = story.bench.migrate_refused(&["up", V2]).await?;
    let up = format!("up {} (", name(first));
    let place = format!("{}/up.sql:3:26: in `UPDATE posts", name(second));
    for part in [&up, &place, r#"column "sumary""#] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(!refused.contains(name(third)), "{refused}");
    assert_eq!(story.states(3).await?, "APPLIED PENDING PENDING");
    let undone = "SELECT words FROM posts";
    assert_eq!(story.refused(undone).await?, SqlState::UNDEFINED_COLUMN);
    story.write(&second.replace("sumary", "summary"))?;
    assert_eq!(story.migrate("up").await?, "2 revisions\n");
    let summaries = story.rows("SELECT summary, words FROM posts ORDER BY id");
    assert_eq!(summaries.await?, ["Engines|1", "Hello|1", "Lost|1"]);
    story.migrate(&format!("to {}", name(first))).await?;
    let emptied = story.rows("SELECT summary FROM posts").await?;
    assert_eq!(emptied, ["-"; 3]);
    story.migrate("to 2027-04-01").await?;
    assert_eq!(story.seen(&["posts"]).await?, imported);
    story.bench.stop().await
}

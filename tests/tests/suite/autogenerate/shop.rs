//! A schema of its own in both databases, and what is written between the two.

use anyhow::{Context, ensure};
use broker::migrate::autogenerate::{self, Rename, STOP, Written};
use broker::migrate::catalog::{self, Schema};

use super::{Bench, make, run};

pub(super) struct Shop<'b> {
    bench: &'b Bench,
    name: &'static str,
    /// What is there in the beginning.
    before: Schema,
}

impl<'b> Shop<'b> {
    pub(super) async fn begin(
        bench: &'b Bench,
        name: &'static str,
        before: &str,
        after: &str,
    ) -> anyhow::Result<Self> {
        for (client, sql) in [(&bench.a, before), (&bench.b, after)] {
            make(client, name, sql).await?;
            let path = format!("SET search_path TO {name}");
            client.batch_execute(&path).await?;
        }
        Ok(Shop {
            bench,
            name,
            before: catalog::read(&bench.a, name).await?,
        })
    }

    pub(super) async fn schemas(&self) -> anyhow::Result<(Schema, Schema)> {
        let a = catalog::read(&self.bench.a, self.name).await?;
        let b = catalog::read(&self.bench.b, self.name).await?;
        Ok((a, b))
    }

    pub(super) async fn write(&self, renames: &[&str]) -> anyhow::Result<Written> {
        let (a, b) = self.schemas().await?;
        let renames = renames.iter().map(|one| one.parse::<Rename>());
        let renames = renames.collect::<Result<Vec<_>, _>>()?;
        Ok(autogenerate::write(&a, &b, &renames)?)
    }

    /// Writes and runs up, and sees that it leads to the other.
    pub(super) async fn up(&self, renames: &[&str]) -> anyhow::Result<Written> {
        let written = self.write(renames).await?;
        self.run(&written.up).await?;
        let (a, b) = self.schemas().await?;
        let difference = Schema::difference(&a, &b);
        ensure!(difference.is_empty(), "{difference}\n{}", written.up);
        Ok(written)
    }

    /// Runs down, and sees that it leads to the beginning.
    pub(super) async fn down(&self, written: &Written) -> anyhow::Result<()> {
        self.run(&written.down).await?;
        let (a, _) = self.schemas().await?;
        let difference = Schema::difference(&a, &self.before);
        ensure!(difference.is_empty(), "{difference}\n{}", written.down);
        Ok(())
    }

    pub(super) async fn run(&self, script: &str) -> anyhow::Result<()> {
        run(&self.bench.a, self.name, script).await
    }

    /// The query's texts, in the database where scripts run, are these.
    pub(super) async fn has(&self, query: &str, expected: &[&str]) -> anyhow::Result<()> {
        let rows = self.bench.a.query(query, &[]).await;
        let rows = rows.with_context(|| query.to_owned())?;
        let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        ensure!(found == expected, "{query}: {found:?}, not {expected:?}");
        Ok(())
    }
}

/// Nothing in the script is for somebody to look at first.
pub(super) fn no_stop(script: &str) -> anyhow::Result<()> {
    ensure!(!script.contains(STOP), "{script}");
    Ok(())
}

pub(super) fn contains(text: &str, part: &str) -> anyhow::Result<()> {
    ensure!(text.contains(part), "no {part:?} in\n{text}");
    Ok(())
}

//! Schemas of branches, and how they differ.

use neon_api::BranchId;

use super::{Branches, Error, SchemaOf, diff};
use crate::names::BranchResource;
use crate::neon::Point;

impl Branches {
    /// The schema of a database.
    pub async fn schema(
        &self,
        id: &BranchId,
        point: Option<&Point>,
        database: &str,
    ) -> Result<String, Error> {
        self.get("name", id).await?;
        self.schema_of(id, point, database, "database").await
    }

    /// How the schema of a database differs from that of a base, as a unified diff.
    pub async fn compare(
        &self,
        id: &BranchId,
        point: Option<&Point>,
        base: &SchemaOf,
        database: &str,
    ) -> Result<String, Error> {
        let found = self.get("name", id).await?;
        let base_id = match &base.branch {
            Some(base) => self.get("base", base).await?.branch.id,
            None => found.branch.parent_id.ok_or(Error::NoBase {
                name: found.branch.name,
            })?,
        };
        let from = self.schema_of(&base_id, base.point.as_ref(), database, "database");
        let from = from.await.map_err(Error::of_base)?;
        let to = self.schema_of(id, point, database, "database").await?;
        Ok(diff::unified(&from, &to, database))
    }

    async fn schema_of(
        &self,
        id: &BranchId,
        point: Option<&Point>,
        database: &str,
        field: &'static str,
    ) -> Result<String, Error> {
        match self.neon().schema(id, database, point).await {
            Ok(Some(schema)) => Ok(schema),
            Ok(None) => Err(Error::NoDatabase {
                field,
                name: BranchResource(id.clone()),
                database: database.to_owned(),
            }),
            Err(error) => Err(match point {
                Some(point) if error.is_refusal_of_request() => Error::point(point, error),
                _ => error.into(),
            }),
        }
    }
}

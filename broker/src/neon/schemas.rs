//! Schemas of databases.

use neon_api::BranchId;
use neon_api::types::BranchSchemaQuery;

use super::retry::Asked;
use super::{Error, Neon, Point};

impl Neon {
    /// The schema of a database as SQL; `None`: the branch has no such database.
    pub async fn schema(
        &self,
        branch: &BranchId,
        database: &str,
        point: Option<&Point>,
    ) -> Result<Option<String>, Error> {
        let mut query = BranchSchemaQuery::database(database);
        match point {
            None => {}
            Some(Point::Lsn(lsn)) => query.lsn = Some(lsn.to_string()),
            Some(Point::Time(time)) => query.timestamp = Some(*time),
        }
        let what = format!("get the schema of {database} on the branch {branch}");
        let asked = Asked {
            route: "GET /projects/{project_id}/branches/{branch_id}/schema",
            what: &what,
        };
        let (client, project) = self.place();
        let get = || client.get_branch_schema(project, branch, &query);
        match self.read(asked, get).await {
            Ok(answer) => Ok(Some(answer.sql.unwrap_or_default())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

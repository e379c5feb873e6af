//! A point of the past, made a branch's data: an image from before it, recovered
//! up to it.

use std::path::PathBuf;

use neon_api::{BranchId, ProjectId};
use tokio_postgres::Client;

use super::{Point, archive, bases};
use crate::engine::Engine;
use crate::engine::job_error::JobError;
use crate::engine::jobs::blocking;
use crate::engine::ports::port_for_a_run;
use crate::lsn::Lsn;
use crate::postgres::{Cluster, Listen, Recovery, RecoveryTarget, Server, clone_idle};
use crate::storage::CloneMethod;

/// What was recovered.
#[derive(Debug)]
pub(in crate::engine) struct Past<T> {
    /// Where in the source's log the new data stand.
    pub(in crate::engine) lsn: Lsn,
    /// When it stood there: what was asked for, or its last commit.
    pub(in crate::engine) time: Option<jiff::Timestamp>,
    pub(in crate::engine) cloned_by: CloneMethod,
    /// What the errand found.
    pub(in crate::engine) found: T,
}

impl Engine {
    /// Makes a folder with the source's data as of a point, and runs an errand as
    /// the superuser on it, while a server is there that nobody else can reach.
    /// The caller holds the source. On failure nothing of the folder remains.
    pub(in crate::engine) async fn recover<T>(
        &self,
        project: &ProjectId,
        source: &BranchId,
        point: Point,
        to: PathBuf,
        errand: impl AsyncFnOnce(Client, u16) -> Result<T, JobError>,
    ) -> Result<Past<T>, JobError> {
        let recovered = self
            .recover_unguarded(project, source, point, to.clone(), errand)
            .await;
        if recovered.is_err() {
            // The reason that it was not made is the one to be told.
            let _ = self.remove_folder(to).await;
        }
        recovered
    }

    async fn recover_unguarded<T>(
        &self,
        project: &ProjectId,
        source: &BranchId,
        point: Point,
        to: PathBuf,
        errand: impl AsyncFnOnce(Client, u16) -> Result<T, JobError>,
    ) -> Result<Past<T>, JobError> {
        self.tick(project, source).await?;
        let _history = self.hold_history(source).await;
        let (history, data) = (self.history_folder(source), self.folder(source));
        let (base, cloned_by) = {
            let (history, to, storage) = (history.clone(), to.clone(), self.storage.clone());
            blocking(move || {
                let bases = bases::list(&history)?;
                let base = bases
                    .iter()
                    .rev()
                    .find(|base| match point {
                        Point::Lsn(lsn) => base.lsn <= lsn,
                        Point::Time(time) => base.time <= time,
                    })
                    .ok_or_else(|| {
                        JobError::History("the point is before the branch's history".to_owned())
                    })?;
                let cloned_by = clone_idle(&base.folder, &to, &storage)?;
                archive::copy_tail(&data, &history.join("wal"), &to, &storage)?;
                Ok((base.clone(), cloned_by))
            })
            .await?
        };
        let target = match point {
            Point::Lsn(lsn) => RecoveryTarget::Before(lsn),
            Point::Time(time) => RecoveryTarget::UpTo(time - base.ahead),
        };
        let cluster = Cluster {
            data: to.clone(),
            archive: None,
            recovery: Some(Recovery {
                target,
                archive: history.join("wal"),
            }),
            ..self.cluster(source)
        };
        let listen = Listen::SocketOnly(port_for_a_run()?);
        self.prepare(&cluster, listen, Default::default()).await?;
        let log = self.data.join("log").join(format!("{source}.past.log"));
        let server = Server::start(&cluster, listen, &log).await?;
        let done = self.look_at_past(&to, listen.port(), errand).await;
        server.stop().await?;
        let (found, last_commit) = done?;
        let lsn = {
            let storage = self.storage.clone();
            blocking(move || {
                let lsn = archive::switch_point(&to)?;
                storage.settle()?;
                Ok(lsn)
            })
            .await?
        };
        Ok(Past {
            lsn,
            time: match point {
                Point::Time(time) => Some(time),
                Point::Lsn(_) => last_commit.map(|time| time + base.ahead),
            },
            cloned_by,
            found,
        })
    }

    async fn look_at_past<T>(
        &self,
        data: &std::path::Path,
        port: u16,
        errand: impl AsyncFnOnce(Client, u16) -> Result<T, JobError>,
    ) -> Result<(T, Option<jiff::Timestamp>), JobError> {
        crate::postgres::forget_label(data).map_err(|source| JobError::Label {
            path: data.to_owned(),
            source,
        })?;
        let client = self.admin(port).await?;
        let last_commit = crate::postgres::admin::last_replayed_commit(&client).await?;
        Ok((errand(client, port).await?, last_commit))
    }
}

//! A database for one test: an ephemeral branch, ready migrated, gone afterwards.
//!
//! ```no_run
//! use branch_pool::Binding;
//! use branch_pool::testing::TestBranch;
//! use diesel_async::RunQueryDsl;
//!
//! #[tokio::test]
//! async fn names_are_unique() -> Result<(), Box<dyn std::error::Error>> {
//!     let branch = TestBranch::fork(Binding::new("users", "v1")).await?;
//!     let mut connection = branch.get().await?;
//!     diesel::sql_query("INSERT INTO users (name, email) VALUES ('Eve', 'eve@example.com')")
//!         .execute(&mut connection)
//!         .await?;
//!     Ok(())
//! }
//! ```

use std::env;
use std::ops::Deref;
use std::thread;

use crate::lease::Broker;
use crate::{Access, Binding, BranchPool, Error, LeaseTarget, Options};

/// Where the broker is, if not [`BROKER_DEFAULT`].
pub const BROKER_VARIABLE: &str = "BROKER_URL";

/// Where `cargo xtask up` has it.
pub const BROKER_DEFAULT: &str = "http://127.0.0.1:7431";

/// A branch of one test's own, as a [`BranchPool`]. Dropped, however the test ends, its
/// lease is released, and the branch goes with it; where even that could not be, both
/// end when the lease does.
#[derive(Debug)]
pub struct TestBranch {
    pool: BranchPool,
    url: String,
    options: Options,
}

impl TestBranch {
    /// Forks one from where a binding leads, and runs the service's newest revisions
    /// on it. The broker is the one of [`BROKER_VARIABLE`]; the connections may do
    /// what the schema's owner may.
    ///
    /// Errors: as [`BranchPool::connect`].
    ///
    /// Panics outside a Tokio runtime.
    pub async fn fork(parent: Binding) -> Result<Self, Error> {
        let url = env::var(BROKER_VARIABLE).unwrap_or_else(|_| BROKER_DEFAULT.to_owned());
        Self::fork_with(url, parent, Options::default().access(Access::Ddl)).await
    }

    /// The same with this broker and these options.
    ///
    /// Errors: as [`BranchPool::connect`].
    ///
    /// Panics outside a Tokio runtime.
    pub async fn fork_with(
        broker_url: impl Into<String>,
        parent: Binding,
        options: Options,
    ) -> Result<Self, Error> {
        let url = broker_url.into();
        let target = LeaseTarget::Ephemeral { parent };
        Ok(Self {
            pool: BranchPool::connect(&url, target, options.clone()).await?,
            url,
            options,
        })
    }

    /// The pool.
    pub fn pool(&self) -> &BranchPool {
        &self.pool
    }
}

impl Deref for TestBranch {
    type Target = BranchPool;

    fn deref(&self) -> &BranchPool {
        &self.pool
    }
}

impl Drop for TestBranch {
    fn drop(&mut self) {
        let Some(lease) = self.pool.state().borrow().lease.clone() else {
            return;
        };
        let (url, target) = (self.url.clone(), self.pool.target().clone());
        let options = self.options.clone();
        // A runtime of its own: the test's ends with the test, and cannot be waited on
        // from within.
        let released = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let broker = Broker::new(&url, target, options);
                let mut broker = broker.map_err(|error| error.to_string())?;
                let released = broker.release(&lease).await;
                released.map_err(|error| error.to_string())
            })
        });
        match released.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "left a test's branch to end by itself"),
            Err(_) => tracing::warn!("left a test's branch to end by itself"),
        }
    }
}

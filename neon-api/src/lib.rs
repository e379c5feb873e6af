//! Typed client for the Neon API.
//!
//! One method a route, the wire types of its requests and answers, identifiers
//! that check themselves, and errors that say whether a mutation may have
//! happened. There is no policy here: nothing is retried, nothing is
//! rate-limited, nothing is waited for. That is for the caller, who alone knows
//! what a repeated request would cost.
//!
//! Without the `client` feature the crate is the wire types alone. They
//! serialise and deserialise both ways, so that a server can speak them too.
//!
//! Answers tolerate what a newer Neon sends: unknown fields are ignored, and an
//! unknown enum value becomes that enum's `Unknown` variant, which writes the
//! same text again. Passwords, connection URIs and the API key are [`Secret`]s,
//! which print as `[redacted]`.
//!
//! ```no_run
//! # #[cfg(feature = "client")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use neon_api::types::{BranchCreateRequest, ConnectionUriQuery};
//! use neon_api::{NeonClient, ProjectId, Secret};
//!
//! let client = NeonClient::new(
//!     "https://console.neon.tech/api/v2".parse()?,
//!     Secret::from(std::env::var("NEON_API_KEY")?),
//! )?;
//! let project: ProjectId = "late-frost-12345678".parse()?;
//!
//! let request = BranchCreateRequest::named("api_v1_branch")
//!     .read_write_endpoint()
//!     .annotation([("made-by", "example")]);
//! let created = client.create_branch(&project, &request).await;
//! if let Err(error) = &created
//!     && error.outcome_is_unknown()
//! {
//!     eprintln!("look for the branch before trying again: {error}");
//! }
//! let created = created?;
//!
//! let query = ConnectionUriQuery::new("neondb", "neondb_owner").branch(created.branch.id);
//! let connection = client.get_connection_uri(&project, &query).await?;
//! println!("{connection:?}"); // ConnectionUriResponse { uri: [redacted] }
//! # Ok(())
//! # }
//! ```

mod ids;
mod secret;
pub mod types;

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod error;

#[cfg(feature = "client")]
pub use client::{CONNECT_TIMEOUT, NeonClient, REQUEST_TIMEOUT, Timeouts};
#[cfg(feature = "client")]
pub use error::{ClientSetupError, Error, Phase, Route};
pub use ids::{
    BranchId, EndpointId, IdError, IdProblem, OperationId, OrganizationId, ProjectId, SnapshotId,
};
pub use secret::Secret;

//! gRPC manners that every server here shares: health, reflection, deadlines,
//! status details, page tokens, a clock that tests can move, graceful stop.
//! Nothing in here knows what a branch or a user is.

pub mod clock;
pub mod health;
pub mod page;
pub mod server;
pub mod shutdown;
pub mod status;
pub mod telemetry;

mod calls;

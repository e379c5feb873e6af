//! The emulator's clock.

use jiff::Timestamp;

/// The time now. The one place that asks the system.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

//! What a project says of endpoints that do not say it themselves.

use neon_api::types::{DefaultEndpointSettings, Endpoint};

/// Gives a new endpoint, which has the settings that it was asked to have, what
/// else the project wants.
pub(crate) fn apply(endpoint: &mut Endpoint, defaults: Option<&DefaultEndpointSettings>) {
    let Some(defaults) = defaults else { return };
    let settings = &mut endpoint.settings;
    if settings.pg_settings.is_none() {
        settings.pg_settings.clone_from(&defaults.pg_settings);
    }
    if settings.pgbouncer_settings.is_none() {
        settings
            .pgbouncer_settings
            .clone_from(&defaults.pgbouncer_settings);
    }
    if let Some(seconds) = defaults.suspend_timeout_seconds {
        endpoint.suspend_timeout_seconds = seconds;
    }
    // One alone moves the other where it would be on the wrong side.
    if let Some(min) = defaults.autoscaling_limit_min_cu {
        endpoint.autoscaling_limit_min_cu = min;
        endpoint.autoscaling_limit_max_cu = endpoint.autoscaling_limit_max_cu.max(min);
    }
    if let Some(max) = defaults.autoscaling_limit_max_cu {
        endpoint.autoscaling_limit_max_cu = max;
        endpoint.autoscaling_limit_min_cu = endpoint.autoscaling_limit_min_cu.min(max);
    }
}

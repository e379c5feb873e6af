//! Which Postgres settings a caller may give an endpoint.

use std::collections::BTreeSet;

use neon_api::types::EndpointSettingsData;

use super::error::{ApiError, ApiResult};
use crate::engine::Engine;

/// Settings that change how a server works for its clients. None of them names
/// a file, a library, a command or an address: with those a caller would run
/// code as the user of Postgres, or open the server to others.
const ALLOWED: [&str; 44] = [
    "autovacuum",
    "autovacuum_analyze_scale_factor",
    "autovacuum_analyze_threshold",
    "autovacuum_max_workers",
    "autovacuum_naptime",
    "autovacuum_vacuum_cost_delay",
    "autovacuum_vacuum_cost_limit",
    "autovacuum_vacuum_scale_factor",
    "autovacuum_vacuum_threshold",
    "bytea_output",
    "datestyle",
    "deadlock_timeout",
    "default_statistics_target",
    "default_text_search_config",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "effective_io_concurrency",
    "enable_partitionwise_aggregate",
    "enable_partitionwise_join",
    "from_collapse_limit",
    "gin_fuzzy_search_limit",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "join_collapse_limit",
    "lock_timeout",
    "log_lock_waits",
    "log_temp_files",
    "maintenance_work_mem",
    "max_locks_per_transaction",
    "max_parallel_maintenance_workers",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "max_prepared_transactions",
    "random_page_cost",
    "seq_page_cost",
    "statement_timeout",
    "timezone",
    "track_io_timing",
    "vacuum_cost_limit",
    "work_mem",
];

/// Settings that take shared memory or processes: Postgres takes more than it can
/// then start with.
const CEILINGS: [(&str, f64); 3] = [
    ("autovacuum_max_workers", 50.0),
    ("max_locks_per_transaction", 10_000.0),
    ("max_prepared_transactions", 1_000.0),
];

/// Checks the settings of an endpoint; `field` is where the request has them.
pub(super) fn check(field: &str, settings: Option<&EndpointSettingsData>) -> ApiResult<()> {
    let settings = settings.and_then(|settings| settings.pg_settings.as_ref());
    let mut seen = BTreeSet::new();
    for (name, value) in settings.into_iter().flatten() {
        if !seen.insert(name.to_lowercase()) {
            return Err(ApiError::bad_request(format!(
                "{field}.pg_settings.{}: this setting is there twice",
                name.escape_debug()
            )));
        }
        if ALLOWED
            .binary_search(&name.to_lowercase().as_str())
            .is_err()
        {
            return Err(ApiError::bad_request(format!(
                "{field}.pg_settings.{}: this setting cannot be changed",
                name.escape_debug()
            )));
        }
        let max = CEILINGS
            .iter()
            .find(|(ceiled, _)| name.eq_ignore_ascii_case(ceiled));
        if let Some((_, max)) = max
            && value.trim().parse::<f64>().is_ok_and(|value| value > *max)
        {
            return Err(ApiError::bad_request(format!(
                "{field}.pg_settings.{name} may be {max} at most, not {value}"
            )));
        }
        if value.chars().any(char::is_control) {
            return Err(ApiError::bad_request(format!(
                "{field}.pg_settings.{name}: a value has no control characters"
            )));
        }
    }
    Ok(())
}

/// As [`check`], and by Postgres itself whether it takes the values: with one
/// that it does not, an endpoint could not start any more.
pub(super) async fn check_values(
    engine: &Engine,
    field: &str,
    settings: Option<&EndpointSettingsData>,
) -> ApiResult<()> {
    // First: Postgres is asked of no setting that names a file.
    check(field, settings)?;
    let settings = settings.and_then(|settings| settings.pg_settings.as_ref());
    for (name, value) in settings.into_iter().flatten() {
        let refusal = engine.refused_value(name, value).await;
        if let Some(reason) = refusal.map_err(|error| ApiError::internal(&error))? {
            return Err(ApiError::bad_request(format!(
                "{field}.pg_settings.{name}: {reason}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_list_can_be_searched() {
        assert!(ALLOWED.is_sorted());
    }

    #[test]
    fn what_would_run_code_is_refused() {
        let check = |name: &str, value: &str| {
            let settings = EndpointSettingsData {
                pg_settings: Some(BTreeMap::from([(name.to_owned(), value.to_owned())])),
                ..EndpointSettingsData::default()
            };
            check("endpoint.settings", Some(&settings))
        };
        assert!(check("work_mem", "8MB").is_ok());
        assert!(check("Work_Mem", "8MB").is_ok());
        for (name, value) in [
            ("archive_command", "id"),
            ("hba_file", "/tmp/hba"),
            ("shared_preload_libraries", "x"),
            ("session_preload_libraries", "x"),
            ("ssl", "off"),
            ("work_mem = '1MB'\nssl", "off"),
            ("work_mem", "1MB'\narchive_command = 'id"),
            ("include", "/etc/passwd"),
        ] {
            let error = check(name, value).unwrap_err();
            assert!(error.message().contains("pg_settings"), "{name}: {error:?}");
        }
    }
}

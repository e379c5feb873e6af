//! JSON as the API's reference has it: `..._least` with the required fields
//! alone, the others with every field.

use serde_json::{Value, json};

/// In the place of every password.
pub(crate) const PASSWORD: &str = "npg_Zk4mQ2vWx9Rt";

const TIME: &str = "2026-01-10T09:00:00Z";
const LATER: &str = "2026-01-10T09:00:01.25Z";

pub(crate) fn uri() -> String {
    format!(
        "postgresql://neondb_owner:{PASSWORD}@ep-little-smoke-a1b2c3d4.eu-central-1.aws.neon.tech\
         /neondb?sslmode=require&channel_binding=require"
    )
}

pub(crate) fn branch_least() -> Value {
    json!({
        "id": "br-small-term-a1b2c3d4",
        "project_id": "late-frost-12345678",
        "name": "main",
        "current_state": "ready",
        "state_changed_at": TIME,
        "creation_source": "console",
        "default": true,
        "protected": false,
        "cpu_used_sec": 0,
        "compute_time_seconds": 1,
        "active_time_seconds": 2,
        "written_data_bytes": 3,
        "data_transfer_bytes": 4,
        "created_at": TIME,
        "updated_at": LATER
    })
}

pub(crate) fn branch() -> Value {
    with(
        branch_least(),
        json!({
            "parent_id": "br-calm-sea-a1b2c3d4",
            "parent_lsn": "0/1DE2850",
            "parent_timestamp": TIME,
            "current_state": "init",
            "pending_state": "ready",
            "logical_size": 30_785_536_000_i64,
            "primary": false,
            "ttl_interval_seconds": 3600,
            "expires_at": TIME,
            "last_reset_at": TIME,
            "created_by": {"name": "Alice", "image": "https://example.com/a.png"},
            "init_source": "parent-data",
            "restore_status": "restored",
            "restored_from": "snap-one-1",
            "restored_as": "br-old-1",
            "restricted_actions": [{"name": "restore", "reason": "has children"}],
            "recovery": {
                "deleted_at": TIME,
                "recoverable_until": LATER,
                "deletion_method": "ttl"
            }
        }),
    )
}

pub(crate) fn annotation() -> Value {
    json!({
        "object": {"type": "console/branch", "id": "br-small-term-a1b2c3d4"},
        "value": {"made-by": "branch-broker", "binding": "services/users/versions/v1"},
        "created_at": TIME,
        "updated_at": LATER
    })
}

pub(crate) fn endpoint_least() -> Value {
    json!({
        "host": "ep-little-smoke-a1b2c3d4.eu-central-1.aws.neon.tech",
        "id": "ep-little-smoke-a1b2c3d4",
        "project_id": "late-frost-12345678",
        "branch_id": "br-small-term-a1b2c3d4",
        "autoscaling_limit_min_cu": 0.25,
        "autoscaling_limit_max_cu": 2.0,
        "region_id": "aws-eu-central-1",
        "type": "read_write",
        "current_state": "idle",
        "settings": {},
        "pooler_enabled": false,
        "disabled": false,
        "passwordless_access": true,
        "creation_source": "console",
        "created_at": TIME,
        "updated_at": TIME,
        "proxy_host": "eu-central-1.aws.neon.tech",
        "suspend_timeout_seconds": -1,
        "provisioner": "k8s-neonvm"
    })
}

pub(crate) fn endpoint() -> Value {
    with(
        endpoint_least(),
        json!({
            "name": "writer",
            "pending_state": "active",
            "settings": {
                "pg_settings": {"work_mem": "8MB"},
                "pgbouncer_settings": {"default_pool_size": "20"},
                "preload_libraries": {"use_defaults": true, "enabled_libraries": ["timescaledb"]}
            },
            "pooler_mode": "transaction",
            "last_active": TIME,
            "started_at": TIME,
            "suspended_at": LATER,
            "compute_release_version": "9001"
        }),
    )
}

pub(crate) fn operation_least() -> Value {
    json!({
        "id": "a07f8772-1877-4da9-a939-3a3ae62d1d8d",
        "project_id": "late-frost-12345678",
        "action": "create_branch",
        "status": "running",
        "failures_count": 0,
        "created_at": TIME,
        "updated_at": TIME,
        "total_duration_ms": 0
    })
}

pub(crate) fn operation() -> Value {
    with(
        operation_least(),
        json!({
            "branch_id": "br-small-term-a1b2c3d4",
            "endpoint_id": "ep-little-smoke-a1b2c3d4",
            "error": "no space",
            "retry_at": LATER
        }),
    )
}

pub(crate) fn role() -> Value {
    json!({
        "branch_id": "br-small-term-a1b2c3d4",
        "name": "neondb_owner",
        "password": PASSWORD,
        "protected": false,
        "authentication_method": "password",
        "created_at": TIME,
        "updated_at": TIME
    })
}

pub(crate) fn database() -> Value {
    json!({
        "id": 834_686,
        "branch_id": "br-small-term-a1b2c3d4",
        "name": "neondb",
        "owner_name": "neondb_owner",
        "created_at": TIME,
        "updated_at": TIME
    })
}

pub(crate) fn connection() -> Value {
    json!({
        "connection_uri": uri(),
        "connection_parameters": {
            "database": "neondb",
            "password": PASSWORD,
            "role": "neondb_owner",
            "host": "ep-little-smoke-a1b2c3d4.eu-central-1.aws.neon.tech",
            "pooler_host": "ep-little-smoke-a1b2c3d4-pooler.eu-central-1.aws.neon.tech"
        }
    })
}

pub(crate) fn created_branch() -> Value {
    json!({
        "branch": branch(),
        "endpoints": [endpoint()],
        "operations": [operation(), operation_least()],
        "roles": [role()],
        "databases": [database()],
        "connection_uris": [connection()]
    })
}

pub(crate) fn project_least() -> Value {
    json!({
        "data_storage_bytes_hour": 0,
        "data_transfer_bytes": 0,
        "written_data_bytes": 0,
        "compute_time_seconds": 0,
        "active_time_seconds": 0,
        "cpu_used_sec": 0,
        "id": "late-frost-12345678",
        "platform_id": "aws",
        "region_id": "aws-eu-central-1",
        "name": "example",
        "provisioner": "k8s-neonvm",
        "pg_version": 17,
        "proxy_host": "eu-central-1.aws.neon.tech",
        "branch_logical_size_limit": 512,
        "branch_logical_size_limit_bytes": 536_870_912,
        "store_passwords": true,
        "creation_source": "console",
        "history_retention_seconds": 86_400,
        "created_at": TIME,
        "updated_at": TIME,
        "consumption_period_start": TIME,
        "consumption_period_end": LATER,
        "owner_id": "org-calm-sea-12345678"
    })
}

pub(crate) fn project() -> Value {
    with(
        project_least(),
        json!({
            "default_endpoint_settings": {
                "pg_settings": {},
                "pgbouncer_settings": {},
                "autoscaling_limit_min_cu": 0.25,
                "autoscaling_limit_max_cu": 2.0,
                "suspend_timeout_seconds": 0
            },
            "settings": project_settings(),
            "maintenance_starts_at": TIME,
            "synthetic_storage_size": 31_000_000,
            "quota_reset_at": TIME,
            "owner": {
                "email": "alice@example.com",
                "name": "Alice",
                "branches_limit": 10,
                "subscription_type": "launch_v3"
            },
            "compute_last_active_at": TIME,
            "org_id": "org-calm-sea-12345678",
            "maintenance_scheduled_for": TIME,
            "hipaa_enabled_at": TIME,
            "effective_project_permission": "CAN_MANAGE"
        }),
    )
}

pub(crate) fn project_list_item() -> Value {
    json!({
        "id": "late-frost-12345678",
        "platform_id": "aws",
        "region_id": "aws-eu-central-1",
        "name": "example",
        "provisioner": "k8s-neonvm",
        "pg_version": 17,
        "proxy_host": "eu-central-1.aws.neon.tech",
        "branch_logical_size_limit": 512,
        "branch_logical_size_limit_bytes": 536_870_912,
        "store_passwords": true,
        "active_time": 0,
        "cpu_used_sec": 0,
        "creation_source": "console",
        "created_at": TIME,
        "updated_at": TIME,
        "owner_id": "org-calm-sea-12345678",
        "org_name": "Calm Sea",
        "history_retention_seconds": 86_400,
        "deleted_at": TIME,
        "recoverable_until": LATER
    })
}

pub(crate) fn created_project() -> Value {
    json!({
        "project": project(),
        "connection_uris": [connection()],
        "roles": [role()],
        "databases": [database()],
        "operations": [operation()],
        "branch": branch(),
        "endpoints": [endpoint()]
    })
}

fn project_settings() -> Value {
    json!({
        "quota": {
            "active_time_seconds": 1,
            "compute_time_seconds": 2,
            "written_data_bytes": 3,
            "data_transfer_bytes": 4,
            "logical_size_bytes": 5
        },
        "allowed_ips": {"ips": ["10.0.0.0/8"], "protected_branches_only": true},
        "enable_logical_replication": false,
        "maintenance_window": {"weekdays": [1, 7], "start_time": "01:00", "end_time": "02:00"},
        "block_public_connections": false,
        "block_vpc_connections": false,
        "audit_log_level": "base",
        "hipaa": false,
        "preload_libraries": {"use_defaults": true}
    })
}

/// `object` with the fields of `more`, which win.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
}

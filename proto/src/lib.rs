//! The gRPC APIs of this system: messages, clients and servers, generated from
//! the .proto files beside this crate by `cargo xtask codegen`.

pub mod codec;

use std::fmt;

/// The encoded `FileDescriptorSet` of every package here, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

/// The broker's API.
pub mod broker {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        include!("gen/broker.v1.rs");
    }
}

/// Google's own messages, which the broker's API uses.
pub mod google {
    /// Operations: work that goes on after a call was answered.
    #[allow(missing_docs, rustdoc::all, clippy::all)]
    pub mod longrunning {
        include!("gen/google.longrunning.rs");
    }
    /// A refusal as a message.
    #[allow(missing_docs, rustdoc::all, clippy::all)]
    pub mod rpc {
        include!("gen/google.rpc.rs");
    }
}

/// The user-service's API, one module a version.
pub mod users {
    /// Version 1: id, name, email.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        include!("gen/users.v1.rs");
    }
    /// Version 2: version 1 and age, city.
    #[allow(missing_docs, clippy::all)]
    pub mod v2 {
        include!("gen/users.v2.rs");
    }
}

/// Leaves the URIs out: they hold a password. That there is no read-only endpoint is no
/// secret.
impl fmt::Debug for broker::v1::Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replica_uri = match self.replica_uri.is_empty() {
            true => "",
            false => "[redacted]",
        };
        f.debug_struct("Connection")
            .field("uri", &"[redacted]")
            .field("database", &self.database)
            .field("schema", &self.schema)
            .field("role", &self.role)
            .field("connection_limit", &self.connection_limit)
            .field("pooled", &self.pooled)
            .field("replica_uri", &replica_uri)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_shows_no_credential() {
        let mut connection = broker::v1::Connection {
            uri: "postgresql://lease:hunter2@ep-a/neondb".to_owned(),
            role: "lease".to_owned(),
            ..Default::default()
        };
        let shown = format!("{connection:?}");
        assert!(shown.contains("replica_uri: \"\""), "{shown}");
        connection.replica_uri = "postgresql://lease:hunter2@ep-b/neondb".to_owned();
        let shown = format!("{connection:?}");
        assert!(shown.contains("replica_uri: \"[redacted]\""), "{shown}");
        for secret in ["hunter2", "postgresql:", "ep-a", "ep-b"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

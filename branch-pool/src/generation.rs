//! One generation of a pool: the deadpool of one connection URI.

use std::fmt;
use std::sync::Arc;

use deadpool::managed::Timeouts;
use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;

use crate::error::UriError;
use crate::lease::Destination;
use crate::target::Target;
use crate::{Binding, Error, Options};

/// The pool's size when neither the holder nor the broker names one.
const SIZE_DEFAULT: usize = 10;

/// One generation: its pool opens connections when they are first asked for.
pub(crate) struct Generation {
    pub(crate) number: i64,
    /// Resource name of the branch.
    pub(crate) branch: String,
    target: Arc<Target>,
    uri: SecretString,
    pub(crate) pool: Pool<AsyncPgConnection>,
}

impl Generation {
    /// Makes the pool of a destination. Failures to connect that put the lease in
    /// doubt are reported to `doubts`.
    ///
    /// Errors: a URI that cannot be used.
    pub(crate) fn open(
        destination: &Destination,
        options: &Options,
        doubts: mpsc::Sender<String>,
    ) -> Result<Self, UriError> {
        let target = Arc::new(Target::parse(&destination.uri, options)?);
        let connector = Arc::clone(&target);
        let mut config = ManagerConfig::default();
        // Fast asks the server nothing, and is enough: diesel-async 0.9 drops a
        // connection at checkout when its transaction state is broken or its
        // client is closed, which it is as soon as its driver has seen the end,
        // be it 57P01, a closed socket or a TLS close, idle or not.
        config.recycling_method = RecyclingMethod::Fast;
        config.custom_setup = Box::new(move |_| {
            let connector = Arc::clone(&connector);
            let doubts = doubts.clone();
            async move {
                connector.connect().await.map_err(|failure| {
                    if failure.doubts_lease {
                        // Full: the upkeep has one to act on already.
                        let _ = doubts.try_send(failure.reason.clone());
                    }
                    ConnectionError::BadConnection(failure.reason)
                })
            }
            .boxed()
        });
        // No URI for the manager to keep: the set-up has what it needs.
        let manager = AsyncDieselConnectionManager::new_with_config(String::new(), config);
        let timeouts = Timeouts {
            wait: Some(options.wait_timeout),
            create: Some(options.connect_timeout),
            recycle: None,
        };
        let pool = Pool::builder(manager)
            .max_size(size(destination, options))
            .timeouts(timeouts)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("deadpool refuses nothing but timeouts without a runtime");
        Ok(Self {
            number: destination.generation,
            branch: destination.branch.clone(),
            target,
            uri: destination.uri.clone(),
            pool,
        })
    }

    /// Asks Postgres to stop what the connection is busy with.
    pub(crate) async fn cancel(
        &self,
        connection: &AsyncPgConnection,
    ) -> Result<(), tokio_postgres::Error> {
        self.target.cancel(&connection.cancel_token()).await
    }

    /// True when the destination is where this generation's connections lead.
    pub(crate) fn serves(&self, destination: &Destination) -> bool {
        self.number == destination.generation
            && self.uri.expose_secret() == destination.uri.expose_secret()
    }

    /// Follows a limit that changed while the connection did not.
    pub(crate) fn resize(&self, destination: &Destination, options: &Options) {
        let size = size(destination, options);
        if self.pool.status().max_size != size {
            self.pool.resize(size);
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("uri", &"[redacted]")
            .finish_non_exhaustive()
    }
}

/// What a failed checkout is to the caller. `None`: this generation's pool was
/// closed.
pub(crate) fn checkout_error(
    error: diesel_async::pooled_connection::deadpool::PoolError,
    binding: &Binding,
    options: &Options,
) -> Option<Error> {
    use deadpool::managed::{PoolError, TimeoutType};

    let binding = binding.clone();
    Some(match error {
        PoolError::Closed => return None,
        PoolError::Timeout(TimeoutType::Wait) => Error::CheckoutTimeout {
            binding,
            waited: options.wait_timeout,
        },
        PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => Error::ConnectTimeout {
            binding,
            waited: options.connect_timeout,
        },
        PoolError::Backend(error) => Error::FailedConnect {
            binding,
            reason: error.to_string(),
        },
        error @ (PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
            Error::FailedConnect {
                binding,
                reason: error.to_string(),
            }
        }
    })
}

fn size(destination: &Destination, options: &Options) -> usize {
    let wanted = options.max_size.map(|size| size.max(1));
    match (wanted, destination.connection_limit) {
        (Some(wanted), Some(limit)) => wanted.min(limit),
        (Some(size), None) | (None, Some(size)) => size,
        (None, None) => SIZE_DEFAULT,
    }
}

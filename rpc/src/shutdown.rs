//! When a server is to stop.

use tokio::signal::unix::{Signal, SignalKind};

/// Resolves at the first SIGTERM or Ctrl-C after this call (not after the first
/// poll: a signal that comes while a server still starts counts). Needs a tokio
/// runtime.
pub fn signal() -> impl Future<Output = ()> + Send + 'static {
    let terminate = listen(SignalKind::terminate());
    let interrupt = listen(SignalKind::interrupt());
    async move {
        tokio::select! {
            () = arrives(terminate) => tracing::info!("SIGTERM: stopping"),
            () = arrives(interrupt) => tracing::info!("Ctrl-C: stopping"),
        }
    }
}

fn listen(kind: SignalKind) -> Option<Signal> {
    tokio::signal::unix::signal(kind)
        .inspect_err(|error| tracing::error!(%error, ?kind, "cannot listen for this signal"))
        .ok()
}

async fn arrives(signal: Option<Signal>) {
    match signal {
        Some(mut signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

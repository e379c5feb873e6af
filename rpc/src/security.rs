//! How a server is secured: TLS, and how it knows who calls.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    clock::Clock,
    reload::{Reloading, reload},
    tls::{Tls, TlsFiles},
    tokens::{Tokens, TokensError},
};

pub use crate::{pem::FileError, tls::TlsError};

/// The flags of every server here that secure it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SecurityArgs {
    /// PEM file of the server's certificate, intermediates after it. Read again
    /// when it changes, as are the next three, and on SIGHUP.
    #[arg(
        long,
        value_name = "FILE",
        env = "TLS_CERT_FILE",
        requires = "tls_key_file"
    )]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    #[arg(
        long,
        value_name = "FILE",
        env = "TLS_KEY_FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,
    /// PEM file of authorities: callers are who their certificates say.
    #[arg(
        long,
        value_name = "FILE",
        env = "TLS_CLIENT_CA_FILE",
        requires = "tls_cert_file"
    )]
    pub tls_client_ca_file: Option<PathBuf>,
    /// File of tokens, as `broker tokens` makes it: callers are who their tokens
    /// say.
    #[arg(long, value_name = "FILE", env = "TOKENS_FILE")]
    pub tokens_file: Option<PathBuf>,
}

impl SecurityArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn load(&self, clock: &Clock) -> Result<Security, SecurityError> {
        let tls = match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(certificate), Some(key)) => {
                let files = TlsFiles {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    client_ca: self.tls_client_ca_file.clone(),
                };
                Some(Arc::new(Tls::load(files, clock.clone())?))
            }
            // clap has seen to it that there is no half.
            _ => None,
        };
        let tokens = self
            .tokens_file
            .as_deref()
            .map(|path: &Path| Tokens::load(path, clock.clone()));
        Ok(Security {
            tls,
            tokens: tokens.transpose()?,
        })
    }
}

/// How a server is secured. By default it is not.
#[derive(Debug, Clone, Default)]
pub struct Security {
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) tokens: Option<Tokens>,
}

/// Why a server cannot be secured as asked.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

impl Security {
    /// Whether callers are known by name.
    pub fn identifies(&self) -> bool {
        let by_certificate = self.tls.as_ref().is_some_and(|tls| tls.verifies_callers());
        by_certificate || self.tokens.is_some()
    }

    /// Whether others than this machine may reach the server.
    pub(crate) fn is_for_others(&self) -> bool {
        self.tls.is_some() && self.identifies()
    }

    /// Says in the log what is missing, if something is.
    pub(crate) fn announce(&self, address: SocketAddr) {
        match (self.tls.is_some(), self.identifies()) {
            (true, true) => {}
            (true, false) => tracing::warn!(
                %address,
                "callers are not identified: whoever is on this machine has every right, and only \
                 loopback addresses are allowed; --tls-client-ca-file or --tokens-file changes that"
            ),
            (false, true) => tracing::warn!(
                %address,
                "without TLS tokens travel in the clear: only loopback addresses are allowed; \
                 --tls-cert-file and --tls-key-file change that"
            ),
            (false, false) => tracing::warn!(
                %address,
                "without TLS and caller identity: whoever is on this machine has every right, and \
                 only loopback addresses are allowed"
            ),
        }
    }

    /// Keeps up with the files for as long as what it returns is held.
    pub(crate) fn keep_up(&self) -> Vec<Reloading> {
        let tls = self.tls.clone().map(|tls| {
            let files = tls.paths();
            reload("certificates of this server", files, move || {
                tls.reload().map_err(told)
            })
        });
        let tokens = self.tokens.clone().map(|tokens| {
            let files = vec![tokens.path().to_owned()];
            reload("tokens", files, move || tokens.reload().map_err(told))
        });
        tls.into_iter().chain(tokens).collect()
    }
}

/// An error with its cause, in one text.
fn told(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

//! A server's side of TLS.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::UnixTime,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    time_provider::TimeProvider,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    pem::{self, FileError},
};

const CERTIFICATE: &str = "server certificate";
const KEY: &str = "server key";
const CLIENT_CA: &str = "client CA file";

/// Where a server's certificates are.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The authorities of callers' certificates.
    pub(crate) client_ca: Option<PathBuf>,
}

/// Why a server cannot speak TLS with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Files that do not go together, most often.
    #[error("TLS cannot be set up with the certificate {} and its key: {problem}", certificate.display())]
    FailedSetUp {
        /// The certificate's file.
        certificate: PathBuf,
        /// What rustls says.
        problem: String,
    },
}

/// What a server's files said when they were last good.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    clock: Clock,
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) config: Arc<ServerConfig>,
    /// Cancelled when callers' authorities have changed: connections whose
    /// callers were verified by the former ones end, and are verified anew.
    pub(crate) retired: CancellationToken,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    pub(crate) fn load(files: TlsFiles, clock: Clock) -> Result<Self, TlsError> {
        let current = load(&files, &clock)?;
        Ok(Self {
            files,
            clock,
            current: RwLock::new(current),
        })
    }

    /// Reads the files again. On an error nothing changes.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let mut new = load(&self.files, &self.clock)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match new.client_ca == current.client_ca {
            true => new.retired = current.retired.clone(),
            false => current.retired.cancel(),
        }
        *current = new;
        Ok(())
    }

    pub(crate) fn current(&self) -> Current {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether callers can show certificates.
    pub(crate) fn verifies_callers(&self) -> bool {
        self.files.client_ca.is_some()
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let files = self.files.clone();
        [files.certificate, files.key]
            .into_iter()
            .chain(files.client_ca)
            .collect()
    }
}

fn load(files: &TlsFiles, clock: &Clock) -> Result<Current, TlsError> {
    let failed = |problem: String| TlsError::FailedSetUp {
        certificate: files.certificate.clone(),
        problem,
    };
    let text = pem::read(CERTIFICATE, &files.certificate)?;
    let chain = pem::certificates(CERTIFICATE, &files.certificate, &text)?;
    let key = pem::private_key(KEY, &files.key)?;
    let time: Arc<dyn TimeProvider> = Arc::new(Time(clock.clone()));
    // Named here, so that no process-wide default is needed or disturbed.
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), time)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    let client_ca = match &files.client_ca {
        Some(path) => Some((path, pem::read(CLIENT_CA, path)?)),
        None => None,
    };
    let builder = match &client_ca {
        None => builder.with_no_client_auth(),
        Some((path, text)) => {
            let roots = Arc::new(pem::authorities(CLIENT_CA, path, text)?);
            // Who shows none is told so by the first call, in words, and may
            // have a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| failed(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| failed(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that is taken up again brings its certificate along unverified.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Current {
        config: Arc::new(config),
        retired: CancellationToken::new(),
        client_ca: client_ca.map(|(_, text)| text),
    })
}

/// The server's clock, for rustls.
#[derive(Debug)]
struct Time(Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

//! Sessions of a test on a branch, verified against the emulator's authority.

use std::path::Path;

use anyhow::Context;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Opens a session. The server's certificate has to be of the authority in
/// `data`, and for 127.0.0.1.
///
/// # Errors
/// When there is no session to be had; the message has the server's reason.
pub async fn connect(uri: &str, data: &Path) -> anyhow::Result<Client> {
    connect_by(uri, connector(data)?).await
}

/// As [`connect`], with what [`connector`] has made: for many sessions.
///
/// # Errors
/// When there is no session to be had; the message has the server's reason.
pub async fn connect_by(uri: &str, connector: MakeRustlsConnect) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(uri, connector)
        .await
        .context("connect to the branch")?;
    // Its end is seen by the client's next query.
    tokio::spawn(connection);
    Ok(client)
}

/// TLS as [`connect`] has it.
///
/// # Errors
/// When the authority's certificate cannot be read.
pub fn connector(data: &Path) -> anyhow::Result<MakeRustlsConnect> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(data.join("ca.crt"))? {
        roots.add(certificate?)?;
    }
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

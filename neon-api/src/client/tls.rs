//! TLS with ring, chosen here and not through the process-wide default.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, WantsClientCert};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::Verifier;
use url::Url;

/// How TLS is done with the server at `base_url`. A plain-text server needs
/// none: then no root certificates are read, and none need be there.
pub(super) fn config(base_url: &Url) -> Result<ClientConfig, rustls::Error> {
    if base_url.scheme() != "https" {
        let no_roots = Arc::new(RootCertStore::empty());
        return Ok(finish(
            builder(provider())?.with_root_certificates(no_roots),
        ));
    }
    with_verifier(Arc::new(Verifier::new(provider())?))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn with_verifier(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, rustls::Error> {
    // "Dangerous" is any verifier that rustls did not make; this one asks the
    // platform's own roots.
    let builder = builder(provider())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(finish(builder))
}

fn finish(builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> ClientConfig {
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[cfg(test)]
mod tests;

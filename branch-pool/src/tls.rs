//! rustls, verifying as much as libpq would and no more.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::verify_server_cert_signed_by_trust_anchor,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What is asked of the server's certificate.
#[derive(Debug, Clone)]
pub(crate) enum Verification {
    /// Nothing: `sslmode=require` without a root certificate, and weaker modes.
    Nothing,
    /// That it comes from one of these authorities: `verify-ca`, and weaker
    /// modes with a root certificate.
    Chain(RootCertStore),
    /// That it comes from one of these authorities and names the host:
    /// `verify-full`. Unlike OpenSSL, rustls looks for the name in the
    /// certificate's alternative names alone, never in its common name.
    ChainAndName(RootCertStore),
}

/// Makes the connector. With `alpn`, it announces the protocol `postgresql`,
/// which `sslnegotiation=direct` needs.
///
/// Errors: rustls refuses an empty store of roots.
pub(crate) fn connector(
    verification: Verification,
    alpn: bool,
) -> Result<MakeRustlsConnect, Error> {
    // Named here, so that no process-wide default is needed or disturbed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match verification {
        Verification::Nothing => Arc::new(LenientVerifier::new(None, &provider)),
        Verification::Chain(roots) => Arc::new(LenientVerifier::new(Some(roots), &provider)),
        Verification::ChainAndName(roots) => {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    if alpn {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

/// Asks less of a certificate than rustls does by itself. The handshake's
/// signature is verified all the same: whoever presents a certificate holds its
/// key, and channel binding means something.
#[derive(Debug)]
struct LenientVerifier {
    /// `None`: any certificate will do.
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl LenientVerifier {
    fn new(roots: Option<RootCertStore>, provider: &Arc<CryptoProvider>) -> Self {
        Self {
            roots,
            provider: Arc::clone(provider),
        }
    }
}

impl ServerCertVerifier for LenientVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

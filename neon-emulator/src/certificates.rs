//! The emulator's certificate authority, and the server certificate that all
//! its endpoints show.
//!
//! Stored in the data folder: `ca.crt`, for clients that verify, `ca.key`
//! (0600, the emulator's own), and below `tls/` the certificate and key of the
//! servers, which the user who runs Postgres owns. The authority lasts as long
//! as the folder; the server certificate is made anew at each start.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::postgres::ServerUser;

/// Where the servers' certificate and key are.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The same, for the gateway's own answers.
    pub(crate) tls: Arc<ServerConfig>,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub(crate) enum CertificateError {
    #[error("could not make a certificate")]
    Make(#[source] rcgen::Error),
    #[error("could not use the certificate for TLS")]
    Tls(#[source] rustls::Error),
    #[error("could not read or write {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Certificates {
    /// Makes the authority unless the folder has one, and a new server
    /// certificate.
    pub(crate) fn issue(data: &Path, user: &ServerUser) -> Result<Self, CertificateError> {
        let authority = authority(data)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "neon-emulator endpoint");
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into().map_err(CertificateError::Make)?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        let certificate = params
            .signed_by(&key, &authority)
            .map_err(CertificateError::Make)?;

        let folder = data.join("tls");
        fs::create_dir_all(&folder).map_err(file(&folder))?;
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).map_err(file(&folder))?;
        let issued = Self {
            certificate: folder.join("server.crt"),
            key: folder.join("server.key"),
            tls: Arc::new(tls(&certificate, &key)?),
        };
        write(&issued.certificate, &certificate.pem(), 0o644)?;
        write(&issued.key, &key.serialize_pem(), 0o600)?;
        user.own(&issued.key).map_err(file(&issued.key))?;
        Ok(issued)
    }
}

fn tls(certificate: &Certificate, key: &KeyPair) -> Result<ServerConfig, CertificateError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(CertificateError::Tls)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(CertificateError::Tls)?;
    // Clients that begin with TLS at once insist on it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

fn authority(data: &Path) -> Result<Issuer<'static, KeyPair>, CertificateError> {
    let (certificate, key) = (data.join("ca.crt"), data.join("ca.key"));
    if certificate.exists() && key.exists() {
        let pem = fs::read_to_string(&key).map_err(file(&key))?;
        let pair = KeyPair::from_pem(&pem).map_err(CertificateError::Make)?;
        return Ok(Issuer::new(authority_params(), pair));
    }
    let pair = KeyPair::generate().map_err(CertificateError::Make)?;
    let params = authority_params();
    let signed = params.self_signed(&pair).map_err(CertificateError::Make)?;
    // The certificate last: both are there, or they are made again.
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&certificate, &signed.pem(), 0o644)?;
    Ok(Issuer::new(params, pair))
}

/// The same at each start: a server certificate names its issuer.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "neon-emulator certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), CertificateError> {
    // Removed first: Postgres's user owns the old key.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(path)(error)),
        _ => {}
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut opened| io::Write::write_all(&mut opened, content.as_bytes()))
        .map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> CertificateError {
    let path = path.to_owned();
    |source| CertificateError::File { path, source }
}

//! Certificates for tests.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rpc::client::Credentials;

/// An authority, with the folder that its certificates are written to.
pub(crate) struct Authority {
    folder: PathBuf,
    name: &'static str,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &'static str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self {
            folder: folder.to_owned(),
            name,
            issuer,
        };
        std::fs::write(authority.ca(), authority.issuer.pem())?;
        Ok(authority)
    }

    /// Its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// Writes a certificate and its key to `stem.pem` and `stem.key`.
    pub(crate) fn issue(&self, stem: &str, names: &[SanType]) -> Result<(PathBuf, PathBuf)> {
        self.issue_for(stem, names, 3_600 * 24)
    }

    /// One that is good for some seconds more.
    pub(crate) fn issue_for(
        &self,
        stem: &str,
        names: &[SanType],
        seconds: i64,
    ) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = names.to_vec();
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::hours(1);
        params.not_after = now + time::Duration::seconds(seconds);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let paths = [format!("{stem}.pem"), format!("{stem}.key")].map(|n| self.folder.join(n));
        let [certificate_path, key_path] = paths;
        std::fs::write(&certificate_path, certificate.pem())?;
        std::fs::write(&key_path, key.serialize_pem())?;
        Ok((certificate_path, key_path))
    }

    /// What a caller with such a certificate has.
    pub(crate) fn caller(&self, stem: &str, names: &[SanType]) -> Result<Credentials> {
        let (certificate, key) = self.issue(stem, names)?;
        Ok(Credentials {
            ca_file: Some(self.ca()),
            client_cert_file: Some(certificate),
            client_key_file: Some(key),
            token_file: None,
        })
    }
}

pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("ASCII"))
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}

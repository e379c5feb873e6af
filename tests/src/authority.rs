//! Certificates of a test's own.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rpc::client::Credentials;

/// How long its certificates are good, in days.
const GOOD_DAYS: i64 = 30;

/// An authority whose certificates lie in a folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one, and writes its certificate to `name.pem`.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{name}.pem")), issuer.pem())?;
        Ok(Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            issuer,
        })
    }

    /// The file of its certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// Writes a certificate for one name, `spiffe://…` or a host's, to
    /// `stem.pem`, and its key to `stem.key`.
    ///
    /// # Errors
    /// When the name is none, or a file cannot be written.
    pub fn issue(&self, stem: &str, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(Vec::new())?;
        let san = match name.contains("://") {
            true => SanType::URI(name.try_into().context("a URI")?),
            false => SanType::DnsName(name.try_into().context("a host")?),
        };
        params.subject_alt_names = vec![san];
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(1);
        params.not_after = now + time::Duration::days(GOOD_DAYS);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let certificate_path = self.folder.join(format!("{stem}.pem"));
        let key_path = self.folder.join(format!("{stem}.key"));
        std::fs::write(&certificate_path, certificate.pem())?;
        std::fs::write(&key_path, key.serialize_pem())?;
        Ok((certificate_path, key_path))
    }

    /// What a caller of that name shows, and that it trusts this authority.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn caller(&self, stem: &str, name: &str) -> anyhow::Result<Credentials> {
        let (certificate, key) = self.issue(stem, name)?;
        Ok(Credentials {
            client_cert_file: Some(certificate),
            client_key_file: Some(key),
            ..self.nobody()
        })
    }

    /// What a caller shows that shows nothing.
    #[must_use]
    pub fn nobody(&self) -> Credentials {
        Credentials {
            ca_file: Some(self.ca()),
            ..Credentials::default()
        }
    }
}

//! A libpq URI, read as libpq reads it.
//!
//! tokio-postgres refuses `sslrootcert` and every `sslmode` but disable, prefer
//! and require, so these two parameters are taken out of the URI here; it reads
//! the rest. What libpq does beyond:
//!
//! | sslmode     | first       | then, if that fails | certificate                  |
//! |-------------|-------------|---------------------|------------------------------|
//! | disable     | no TLS      |                     |                              |
//! | allow       | no TLS      | TLS                 | chain, if sslrootcert is set |
//! | prefer      | TLS if any  | no TLS              | chain, if sslrootcert is set |
//! | require     | TLS         |                     | chain, if sslrootcert is set |
//! | verify-ca   | TLS         |                     | chain                        |
//! | verify-full | TLS         |                     | chain and host name          |
//!
//! Where it differs from libpq: a file that `sslrootcert` names has to exist
//! unless TLS is off; `~/.postgresql/root.crt` is not looked for; so `verify-ca`
//! without `sslrootcert` is refused, and `verify-full` without it trusts the
//! public authorities, as `sslrootcert=system` does.

use std::path::Path;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use tokio_postgres::config::{Config, SslMode};

use crate::Options;
use crate::error::UriError;
use crate::tls::Verification;

/// A quiet connection is probed after this long, unless the URI says otherwise:
/// well before a firewall or a balancer forgets it, unlike the kernel's 2 h.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// And again after this long without an answer …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … this many times, until it counts as dead.
pub(crate) const KEEPALIVE_RETRIES: u32 = 3;

/// What `sslmode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    pub(crate) fn of(uri: &Uri) -> Result<Self, UriError> {
        Ok(match uri.ssl_mode.as_deref() {
            // As libpq: asking for the system's authorities asks for all of it.
            None if uri.trusts_system() => Self::VerifyFull,
            None | Some("prefer") => Self::Prefer,
            Some("disable") => Self::Disable,
            Some("allow") => Self::Allow,
            Some("require") => Self::Require,
            Some("verify-ca") => Self::VerifyCa,
            Some("verify-full") => Self::VerifyFull,
            Some(value) => {
                return Err(UriError::UnknownValue {
                    parameter: "sslmode",
                    value: value.to_owned(),
                });
            }
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(crate) fn attempts(self) -> (SslMode, Option<SslMode>) {
        match self {
            Self::Disable => (SslMode::Disable, None),
            Self::Allow => (SslMode::Disable, Some(SslMode::Require)),
            Self::Prefer => (SslMode::Prefer, Some(SslMode::Disable)),
            Self::Require | Self::VerifyCa | Self::VerifyFull => (SslMode::Require, None),
        }
    }

    pub(crate) fn verification(self, uri: &Uri) -> Result<Verification, UriError> {
        if uri.trusts_system() && self != Self::VerifyFull {
            return Err(UriError::WeakSslMode {
                sslmode: self.name(),
            });
        }
        let file = uri
            .ssl_root_cert
            .as_deref()
            .filter(|_| !uri.trusts_system());
        match (self, file) {
            (Self::Disable, _) => Ok(Verification::Nothing),
            (Self::VerifyFull, Some(file)) => Ok(Verification::ChainAndName(read_roots(file)?)),
            (Self::VerifyFull, None) => Ok(Verification::ChainAndName(RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            })),
            (_, Some(file)) => Ok(Verification::Chain(read_roots(file)?)),
            (Self::VerifyCa, None) => Err(UriError::MissingRootCertificate),
            (Self::Allow | Self::Prefer | Self::Require, None) => Ok(Verification::Nothing),
        }
    }
}

/// A URI, with what tokio-postgres does not read taken out.
pub(crate) struct Uri {
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
    /// The names of the parameters that are left.
    names: Vec<String>,
    pub(crate) rest: SecretString,
}

impl Uri {
    pub(crate) fn split(uri: &str) -> Result<Self, UriError> {
        let after_scheme = ["postgresql://", "postgres://"]
            .iter()
            .find_map(|scheme| uri.strip_prefix(scheme))
            .ok_or(UriError::NotPostgres)?;
        // As libpq: user and password are all up to an `@` that comes before
        // any `/`, so a `?` among them begins no parameters.
        let credentials = match after_scheme.find(['@', '/']) {
            Some(at) if after_scheme.as_bytes()[at] == b'@' => at,
            _ => 0,
        };
        let authority = uri.len() - after_scheme.len() + credentials;
        let (base, query) = match uri[authority..].find('?') {
            Some(at) => (&uri[..authority + at], &uri[authority + at + 1..]),
            None => (uri, ""),
        };

        let mut split = Self {
            ssl_mode: None,
            ssl_root_cert: None,
            names: Vec::new(),
            rest: SecretString::default(),
        };
        let mut rest = String::from(base);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let name = percent_decode_str(name).decode_utf8_lossy().into_owned();
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name.as_str() {
                "sslmode" => split.ssl_mode = Some(value).filter(|value| !value.is_empty()),
                "sslrootcert" => {
                    split.ssl_root_cert = Some(value).filter(|value| !value.is_empty())
                }
                _ => {
                    rest.push(if split.names.is_empty() { '?' } else { '&' });
                    rest.push_str(parameter);
                    split.names.push(name);
                }
            }
        }
        split.rest = SecretString::from(rest);
        Ok(split)
    }

    fn trusts_system(&self) -> bool {
        self.ssl_root_cert.as_deref() == Some("system")
    }

    pub(crate) fn set_defaults(&self, config: &mut Config, options: &Options) {
        let sets = |name: &str| self.names.iter().any(|set| set == name);
        if !sets("connect_timeout") {
            config.connect_timeout(options.connect_timeout);
        }
        if !sets("application_name") {
            config.application_name(&options.holder);
        }
        if !sets("keepalives_idle") {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        if !sets("keepalives_interval") {
            config.keepalives_interval(KEEPALIVE_INTERVAL);
        }
        if !sets("keepalives_retries") {
            config.keepalives_retries(KEEPALIVE_RETRIES);
        }
    }
}

fn read_roots(file: &str) -> Result<RootCertStore, UriError> {
    let path = Path::new(file);
    let pem = std::fs::read(path).map_err(|source| UriError::FailedRead {
        path: path.to_owned(),
        source,
    })?;
    let invalid = |problem: String| UriError::InvalidRootCertificate {
        path: path.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("it holds none".to_owned()));
    }
    Ok(roots)
}

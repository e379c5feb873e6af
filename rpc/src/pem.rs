//! PEM files of certificates and keys.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Why a file of certificates, keys or a token cannot be used. Shows nothing of
/// what is in it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("read the {what} {}", path.display())]
    FailedRead {
        /// What it holds: "client certificate", say.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is no {what}: {problem}", path.display())]
    Malformed {
        /// What it is to hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What a file holds.
pub(crate) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::FailedRead {
        what,
        path: path.to_owned(),
        source,
    })
}

/// The certificates of a text, one at least, its own first.
pub(crate) fn certificates(
    what: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(malformed(what, path, "it holds no certificate in PEM"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(malformed(what, path, error)),
    }
}

/// The private key of a file.
pub(crate) fn private_key(
    what: &'static str,
    path: &Path,
) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read(what, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        // The error may quote what it stumbled on.
        drop(error);
        malformed(what, path, "it holds no private key in PEM")
    })
}

/// The authorities of a text, one at least.
pub(crate) fn authorities(
    what: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<RootCertStore, FileError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, path, text)? {
        store
            .add(certificate)
            .map_err(|error| malformed(what, path, error))?;
    }
    Ok(store)
}

pub(crate) fn malformed(
    what: &'static str,
    path: &Path,
    problem: impl std::fmt::Display,
) -> FileError {
    FileError::Malformed {
        what,
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

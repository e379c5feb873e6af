//! What a caller's certificate says. rustls has verified it by then.

use std::{
    io,
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// What a certificate shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Who its holder is: `spiffe://…`, or `dns:` and a name. `None`: it names
    /// nobody.
    pub(crate) name: Option<String>,
    /// Until when it is good.
    pub(crate) until: SystemTime,
}

/// Reads a certificate. Its holder is its SPIFFE id, if it has one; it may have
/// no other URI, as SPIFFE demands. Else it is its first DNS name. A name for
/// many hosts, `*.example.org`, names nobody.
pub(crate) fn read(certificate: &CertificateDer<'_>) -> io::Result<Shown> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|_| io::Error::other("the caller's certificate cannot be read"))?;
    let end = certificate.validity().not_after.timestamp();
    let until = u64::try_from(end).map_or(SystemTime::UNIX_EPOCH, |seconds| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    });
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| io::Error::other("the names in the caller's certificate cannot be read"))?;
    let names = names.map(|names| names.value.general_names.as_slice());
    Ok(Shown {
        name: holder(names.unwrap_or_default()),
        until,
    })
}

fn holder(names: &[GeneralName<'_>]) -> Option<String> {
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(id), None) if is_spiffe_id(id) => return Some(id.to_owned()),
        (None, None) => {}
        // A URI that is none, or one of several: who is meant cannot be told.
        _ => return None,
    }
    let first = names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    })?;
    (!first.contains('*') && is_plain(&first)).then(|| format!("dns:{first}"))
}

fn is_spiffe_id(uri: &str) -> bool {
    let path = uri
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'));
    path.is_some_and(|(domain, path)| !domain.is_empty() && !path.is_empty())
        && is_plain(uri)
        && !uri.contains(['?', '#', '*'])
        && !uri.split('/').any(|part| part == "." || part == "..")
}

/// Fits in a line of a log.
fn is_plain(name: &str) -> bool {
    const NAME_BYTES_MAX: usize = 2048;
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_meant_is_plain_or_nobody_is() {
        use GeneralName::{DNSName, URI};
        let spiffe = URI("spiffe://example.org/users");
        let dns = DNSName("Users.Example.org");
        let is = |names: &[GeneralName<'_>]| holder(names);
        let users = Some("spiffe://example.org/users".to_owned());
        assert_eq!(is(&[dns.clone(), spiffe.clone()]), users);
        assert_eq!(
            is(std::slice::from_ref(&dns)).as_deref(),
            Some("dns:users.example.org")
        );
        for nobody in [
            &[][..],
            &[spiffe.clone(), URI("spiffe://example.org/other")],
            &[URI("https://example.org/users"), dns.clone()],
            &[URI("spiffe://example.org")],
            &[URI("spiffe:///users")],
            &[URI("spiffe://example.org/a/../users")],
            &[URI("spiffe://example.org/*")],
            &[URI("spiffe://example.org/a b")],
            &[DNSName("*.example.org")],
            &[GeneralName::RFC822Name("users@example.org")],
        ] {
            assert_eq!(is(nobody), None, "{nobody:?}");
        }
    }
}

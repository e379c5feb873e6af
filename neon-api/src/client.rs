//! The HTTP client: how it is made. Its methods, one a route, are in the
//! modules below, by what they are about.

mod answer;
mod branches;
mod connections;
mod databases;
mod endpoints;
mod operations;
mod projects;
mod request;
mod roles;
mod scrub;
mod tls;

use std::fmt;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use url::{Host, Url};

use crate::{ClientSetupError, Secret};

/// How long making a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may take, from connecting to the answer's last byte.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an unused connection is kept. Short, because a request on a
/// connection that the server is just closing is one with an unknown outcome.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// How long the parts of a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Making a connection; [`CONNECT_TIMEOUT`] unless given.
    pub connect: Duration,
    /// The whole request; [`REQUEST_TIMEOUT`] unless given.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: CONNECT_TIMEOUT,
            request: REQUEST_TIMEOUT,
        }
    }
}

/// A client of one Neon account. Clones share their connections.
///
/// Every method sends one request, unless it says otherwise, and returns
/// [`Error`](crate::Error) when there is no answer, no success, or none that can
/// be read. Nothing is retried and no redirect is followed, so that the key goes
/// to the given server alone.
#[derive(Clone)]
pub struct NeonClient {
    http: reqwest::Client,
    /// Ends in a slash, so that paths are joined below it.
    base_url: Url,
    /// Kept to take it out of what the server writes.
    key: Secret,
    tls: rustls::ClientConfig,
    timeouts: Timeouts,
    more_headers: fn(&mut HeaderMap),
}

impl NeonClient {
    /// A client of the API at `base_url`, `https://console.neon.tech/api/v2`,
    /// with the account's key. Over `http://` the key crosses the network in
    /// clear: that is for a server on this machine.
    ///
    /// # Errors
    /// When the URL is not http or https or carries a user, a query or a
    /// fragment; when the key is empty or no header can carry it; when the
    /// machine has no root certificates (https alone).
    pub fn new(base_url: Url, key: Secret) -> Result<NeonClient, ClientSetupError> {
        let tls = tls::config(&base_url).map_err(ClientSetupError::Tls)?;
        NeonClient::with_tls(base_url, key, tls, Timeouts::default())
    }

    /// The same client with these timeouts, and with connections of its own.
    ///
    /// # Errors
    /// When the HTTP client cannot be made anew.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Result<NeonClient, ClientSetupError> {
        let more_headers = self.more_headers;
        let client = NeonClient::with_tls(self.base_url, self.key, self.tls, timeouts)?;
        Ok(client.with_headers(more_headers))
    }

    /// The same client, which has `more` add headers to each request when it is sent:
    /// the trace that it is of, for example.
    #[must_use]
    pub fn with_headers(self, more: fn(&mut HeaderMap)) -> NeonClient {
        NeonClient {
            more_headers: more,
            ..self
        }
    }

    /// The address of the API.
    #[must_use]
    pub fn base_url(&self) -> &Url {
        &self.base_url
    }

    fn with_tls(
        base_url: Url,
        key: Secret,
        tls: rustls::ClientConfig,
        timeouts: Timeouts,
    ) -> Result<NeonClient, ClientSetupError> {
        let base_url = checked(base_url)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers(&key)?)
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.request)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .https_only(base_url.scheme() == "https")
            .tls_backend_preconfigured(tls.clone());
        if is_loopback(&base_url) {
            // A proxy cannot reach this machine's own addresses, and would be
            // handed the key.
            builder = builder.no_proxy();
        }
        Ok(NeonClient {
            http: builder.build().map_err(ClientSetupError::Http)?,
            base_url,
            key,
            tls,
            timeouts,
            more_headers: |_| {},
        })
    }
}

impl fmt::Debug for NeonClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NeonClient")
            .field("base_url", &self.base_url.as_str())
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

fn checked(mut url: Url) -> Result<Url, ClientSetupError> {
    let problem = if !matches!(url.scheme(), "http" | "https") {
        Some("neither http nor https")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("a user or password does not belong into it")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("a query or fragment does not belong into it")
    } else {
        None
    };
    if let Some(problem) = problem {
        // What follows the path is left out of the error: it may be a password.
        let shown = format!(
            "{}://{}{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.path()
        );
        return Err(ClientSetupError::BaseUrl {
            url: shown,
            problem,
        });
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn headers(key: &Secret) -> Result<HeaderMap, ClientSetupError> {
    if key.expose().is_empty() {
        return Err(ClientSetupError::Key {
            problem: "is empty",
        });
    }
    let mut authorization =
        HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| {
            ClientSetupError::Key {
                problem: "holds a character that no HTTP header can carry",
            }
        })?;
    authorization.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    Ok(headers)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

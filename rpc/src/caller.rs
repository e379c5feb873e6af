//! Who calls.
//!
//! A server that identifies callers answers none whom it cannot name, but for
//! health and reflection, which are for anybody: a prober has no identity, and
//! what there is to call is no secret. A caller shows a certificate of an
//! authority that the server trusts, or a token; who does both is who the token
//! says. A token that is not good is refused, never passed over.

pub(crate) mod certificate;

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    connection::Peer,
    security::Security,
    status::{Refusal, internal},
    tokens::{TokenRefusal, Tokens},
};

/// Methods that anybody may call.
const OPEN: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody on this machine, of a server that identifies nobody.
    Local,
    /// Somebody with a name.
    Identified(Identity),
}

/// Somebody with a name, and how that is known.
#[derive(Debug, Clone)]
pub struct Identity {
    name: String,
    token: Option<(Tokens, [u8; 32])>,
}

impl Caller {
    /// Who made this call.
    ///
    /// # Errors
    /// INTERNAL when nobody has looked who it is: a call that came past
    /// [`Server`](crate::server::Server).
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let unknown = || internal("INTERNAL", "nobody has looked who calls");
        request.extensions().get().cloned().ok_or_else(unknown)
    }

    /// The caller's name: `spiffe://…`, `dns:…` or `token:…`. `None` for
    /// somebody on this machine.
    pub fn name(&self) -> Option<&str> {
        match self {
            Caller::Local => None,
            Caller::Identified(identity) => Some(&identity.name),
        }
    }

    /// Returns when what the caller showed is good no more, with UNAUTHENTICATED: for
    /// calls that last. A certificate that is not ends its connection by itself.
    pub async fn until_refused(&self) -> Status {
        match self {
            Caller::Identified(Identity {
                token: Some((tokens, hash)),
                ..
            }) => refused_token(tokens.until_refused(hash).await),
            _ => std::future::pending().await,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("a caller on this machine"))
    }
}

/// Notes who calls, or refuses.
#[derive(Debug, Clone)]
pub(crate) struct CallerLayer {
    pub(crate) security: Security,
}

impl<S> Layer<S> for CallerLayer {
    type Service = Callers<S>;

    fn layer(&self, inner: S) -> Callers<S> {
        Callers {
            inner,
            security: self.security.clone(),
        }
    }
}

/// A service whose callers are known.
#[derive(Debug, Clone)]
pub(crate) struct Callers<S> {
    inner: S,
    security: Security,
}

impl<S> Service<Request<Body>> for Callers<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match identify(&self.security, &request) {
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Box::pin(self.inner.call(request))
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

/// Whether the call may go on, and as whose.
fn identify(security: &Security, request: &Request<Body>) -> Result<Option<Caller>, Status> {
    let peer = request.extensions().get::<Peer>();
    let Some(peer) = peer else {
        return Err(internal("INTERNAL", "nobody has looked who calls"));
    };
    if matches!(peer, Peer::PlainToTls) {
        return Err(Refusal::new(
            Code::FailedPrecondition,
            "TLS_REQUIRED",
            "this server speaks TLS: write https:// (grpcurl: leave -plaintext out)",
        )
        .into());
    }
    if !security.identifies() {
        return Ok(Some(Caller::Local));
    }
    if OPEN
        .iter()
        .any(|open| request.uri().path().starts_with(open))
    {
        return Ok(None);
    }
    if let Some(value) = request.headers().get(AUTHORIZATION) {
        return by_token(security, value.as_bytes()).map(Some);
    }
    let shown = match peer {
        Peer::Tls(Some(shown)) => shown,
        _ => return Err(unidentified(security)),
    };
    match &shown.name {
        Some(name) => Ok(Some(Caller::Identified(Identity {
            name: name.clone(),
            token: None,
        }))),
        None => Err(unauthenticated(
            "CERTIFICATE_WITHOUT_NAME",
            "the certificate names nobody: it needs one SPIFFE id, or a DNS name, among its \
             alternative names",
        )),
    }
}

fn by_token(security: &Security, header: &[u8]) -> Result<Caller, Status> {
    const SCHEME: &[u8] = b"bearer ";
    let Some(tokens) = &security.tokens else {
        return Err(unauthenticated(
            "TOKEN_INVALID",
            "this server takes no tokens; it identifies callers by their certificates",
        ));
    };
    let token = header
        .split_at_checked(SCHEME.len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
        .map(|(_, token)| token.trim_ascii());
    let token = token.ok_or_else(|| {
        unauthenticated(
            "TOKEN_INVALID",
            "the header authorization is to be: Bearer TOKEN",
        )
    })?;
    let hash = crate::tokens::hash(token);
    let name = tokens.holder_of(&hash).map_err(refused_token)?;
    Ok(Caller::Identified(Identity {
        name: format!("token:{name}"),
        token: Some((tokens.clone(), hash)),
    }))
}

fn unidentified(security: &Security) -> Status {
    let certificates = security
        .tls
        .as_ref()
        .is_some_and(|tls| tls.verifies_callers());
    let how = match (certificates, security.tokens.is_some()) {
        (true, true) => "a client certificate, or a token as `authorization: Bearer …`",
        (true, false) => "a client certificate",
        (false, _) => "a token as `authorization: Bearer …`",
    };
    unauthenticated(
        "CALLER_UNIDENTIFIED",
        &format!("this server has to know who calls: show {how}"),
    )
}

fn refused_token(refusal: TokenRefusal) -> Status {
    match refusal {
        TokenRefusal::Unknown => unauthenticated(
            "TOKEN_INVALID",
            "the token is not known, or was revoked; get another",
        ),
        TokenRefusal::Expired => {
            unauthenticated("TOKEN_EXPIRED", "the token has expired; get another")
        }
    }
}

fn unauthenticated(reason: &'static str, message: &str) -> Status {
    Refusal::new(Code::Unauthenticated, reason, message).into()
}

#[cfg(test)]
mod tests {
    /// Quoted words in capitals of a source: its reasons.
    fn reasons(source: &str) -> Vec<&str> {
        let is_reason = |word: &&str| {
            word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        };
        source.split('"').filter(is_reason).collect()
    }

    #[test]
    fn every_reason_is_documented() {
        let documented = include_str!("../../docs/ERRORS.md");
        let reasons = reasons(include_str!("caller.rs"));
        assert!(reasons.contains(&"TOKEN_EXPIRED"), "{reasons:?}");
        for reason in reasons {
            assert!(documented.contains(&format!("`{reason}`")), "{reason}");
        }
    }
}

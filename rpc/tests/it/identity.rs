//! TLS, and who calls.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rpc::{
    caller::Caller,
    client::{Channel, Credentials, Target, TargetError},
    clock::Clock,
    health::{Serving, WHOLE_SERVER, probe},
    security::{Security, SecurityArgs},
    server::{BindError, Listener, ServeError, Server},
    tokens,
};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, pki_types::pem::PemObject};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle};
use tonic::{Code, Status, body::Body, codegen::Service, server::NamedService};
use tonic_types::StatusExt;

use crate::authority::{Authority, dns, uri};

const PATIENCE: Duration = Duration::from_secs(20);
const USERS: &str = "spiffe://example.org/users";

/// One service, `test.Who`, that answers each call with its caller's name.
#[derive(Clone)]
struct Who;

impl NamedService for Who {
    const NAME: &'static str = "test.Who";
}

impl Service<http::Request<Body>> for Who {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let name = match request.extensions().get::<Caller>() {
            Some(caller) => caller.to_string(),
            None => "nobody looked".to_owned(),
        };
        // OK carries no message.
        ready(Ok(Status::new(Code::AlreadyExists, name).into_http()))
    }
}

/// A server of `localhost`, its authority and its folder.
struct Bench {
    folder: TempDir,
    authority: Authority,
    arguments: SecurityArgs,
}

impl Bench {
    /// With a server certificate, and callers identified by certificates.
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new(folder.path(), "ca")?;
        let (certificate, key) = authority.issue("server", &[dns("localhost")])?;
        let arguments = SecurityArgs {
            tls_cert_file: Some(certificate),
            tls_key_file: Some(key),
            tls_client_ca_file: Some(authority.ca()),
            tokens_file: None,
        };
        Ok(Self {
            folder,
            authority,
            arguments,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Moves the server's clock.
    fn clock(&self, seconds: &str) -> Result<()> {
        std::fs::write(self.path("clock.new"), seconds)?;
        Ok(std::fs::rename(self.path("clock.new"), self.path("clock"))?)
    }

    /// A token for `name`, in a file.
    fn token(&mut self, name: &str, ttl: Option<Duration>) -> Result<(PathBuf, String)> {
        use secrecy::ExposeSecret as _;
        let file = self.path("tokens");
        let now = Clock::system().now().try_into()?;
        let created = tokens::create(&file, name, ttl, now)?;
        self.arguments.tokens_file = Some(file);
        let secret = created.secret.expose_secret().to_owned();
        let path = self.path(&format!("{name}.token"));
        std::fs::write(&path, format!("{secret}\n"))?;
        Ok((path, secret))
    }

    fn by_token(&self, file: PathBuf) -> Credentials {
        Credentials {
            ca_file: Some(self.authority.ca()),
            token_file: Some(file),
            ..Credentials::default()
        }
    }

    fn security(&self) -> Result<Security> {
        Ok(self
            .arguments
            .load(&Clock::with_offset_file(self.path("clock"))?)?)
    }

    async fn start(&self) -> Result<Running> {
        let listener = Listener::bind("127.0.0.1:0".parse()?, self.security()?).await?;
        let port = listener.address().port();
        let server = Server::new(&[]).add_service(Who).drain(PATIENCE);
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        Ok(Running {
            port,
            _stop: stop,
            _serving: serving,
        })
    }
}

struct Running {
    port: u16,
    _stop: oneshot::Sender<()>,
    _serving: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    fn target(&self, credentials: &Credentials) -> Target {
        Target::new(
            format!("https://localhost:{}", self.port),
            credentials.clone(),
        )
    }

    fn channel(&self, credentials: &Credentials) -> Result<Channel> {
        Ok(self.target(credentials).channel(|endpoint| endpoint)?)
    }

    /// What a call over a connection of its own comes to.
    async fn ask(&self, credentials: &Credentials) -> Result<Status> {
        ask(&mut self.channel(credentials)?).await
    }
}

/// Who the server takes this caller for, or why it refuses: the status.
async fn ask(channel: &mut Channel) -> Result<Status> {
    let request = http::Request::post("/test.Who/Ask")
        .header("content-type", "application/grpc")
        .body(Body::empty())?;
    let answering = async {
        std::future::poll_fn(|cx| Service::<http::Request<Body>>::poll_ready(channel, cx)).await?;
        channel.call(request).await
    };
    let response = tokio::time::timeout(PATIENCE, answering).await??;
    Status::from_header_map(response.headers()).context("a response without a status")
}

#[track_caller]
fn is(status: &Status, name: &str) {
    assert_eq!(
        (status.code(), status.message()),
        (Code::AlreadyExists, name)
    );
}

#[track_caller]
fn is_refused(status: &Status, reason: &str) {
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let info = status.get_details_error_info();
    assert_eq!(info.map(|info| info.reason).as_deref(), Some(reason));
}

/// Waits until the answer is as it has to be.
async fn until<F>(what: &str, mut look: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(true) => return Ok(()),
            other if tokio::time::Instant::now() > deadline => bail!("{what}: {other:?}"),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The error of a call that did not even get an answer.
async fn failure(running: &Running, credentials: &Credentials) -> Result<String> {
    let mut channel = running.channel(credentials)?;
    let error = ask(&mut channel).await.err().context("an answer")?;
    Ok(format!("{error:#}"))
}

#[tokio::test]
async fn a_caller_is_who_its_certificate_says() -> Result<()> {
    let bench = Bench::new()?;
    let running = bench.start().await?;
    let caller = |names: &[_]| bench.authority.caller("caller", names);
    let users = caller(&[dns("users.example.org"), uri(USERS)])?;
    is(&running.ask(&users).await?, USERS);
    let by_name = caller(&[dns("Users.example.org"), dns("other.example.org")])?;
    is(&running.ask(&by_name).await?, "dns:users.example.org");

    let nobody = Credentials {
        ca_file: Some(bench.authority.ca()),
        ..Credentials::default()
    };
    is_refused(&running.ask(&nobody).await?, "CALLER_UNIDENTIFIED");
    for nameless in [caller(&[])?, caller(&[dns("*.example.org")])?] {
        is_refused(&running.ask(&nameless).await?, "CERTIFICATE_WITHOUT_NAME");
    }
    // A server that takes no tokens does not pass over one.
    let mut with_token = users.clone();
    std::fs::write(bench.path("token"), "bbt_x")?;
    with_token.token_file = Some(bench.path("token"));
    is_refused(&running.ask(&with_token).await?, "TOKEN_INVALID");
    // For anybody.
    let health = probe(running.target(&nobody), WHOLE_SERVER, PATIENCE).await?;
    assert_eq!(health, Serving::NotServing);
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_no_connection() -> Result<()> {
    let bench = Bench::new()?;
    let running = bench.start().await?;
    let other = Authority::new(bench.folder.path(), "other")?;
    let stranger = Credentials {
        ca_file: Some(bench.authority.ca()),
        ..other.caller("stranger", &[uri(USERS)])?
    };
    let said = failure(&running, &stranger).await?;
    assert!(!said.contains(USERS), "{said}");
    // The same the other way round: a server that is not the one.
    let misled = other.caller("misled", &[uri(USERS)])?;
    let error = running.target(&misled).connect(|e| e).await.err();
    let said = error.context("connected")?.to_string();
    assert!(
        said.contains("UnknownIssuer") && said.contains("CA file"),
        "{said}"
    );
    // And a name that its certificate does not have.
    let elsewhere = Target::new(
        format!("https://127.0.0.1:{}", running.port),
        bench.authority.caller("caller", &[uri(USERS)])?,
    );
    let said = elsewhere.connect(|e| e).await.err().context("connected")?;
    assert!(said.to_string().contains("not valid for name"), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_ends_its_connection_and_a_new_one_is_taken_up() -> Result<()> {
    let bench = Bench::new()?;
    let running = bench.start().await?;
    let callers = bench.authority.caller("caller", &[uri(USERS)])?;
    bench.authority.issue_for("caller", &[uri(USERS)], 3_600)?;
    let mut channel = running.channel(&callers)?;
    is(&ask(&mut channel).await?, USERS);
    bench.clock("3700")?;
    until("the connection ends", async || {
        Ok(ask(&mut channel.clone()).await.is_err())
    })
    .await?;
    assert!(
        ask(&mut channel).await.is_err(),
        "and no other takes its place"
    );
    // The same channel, with what the files hold now.
    bench.authority.issue_for("caller", &[uri(USERS)], 7_200)?;
    until("the new certificate is used", async || {
        Ok(ask(&mut channel.clone()).await?.message() == USERS)
    })
    .await
}

#[tokio::test]
async fn a_caller_is_who_its_token_says() -> Result<()> {
    let mut bench = Bench::new()?;
    let (file, secret) = bench.token("ci", Some(Duration::from_secs(3_600)))?;
    let running = bench.start().await?;
    let ci = bench.by_token(file.clone());
    is(&running.ask(&ci).await?, "token:ci");
    // Of two, the token counts.
    let both = Credentials {
        token_file: Some(file.clone()),
        ..bench.authority.caller("caller", &[uri(USERS)])?
    };
    is(&running.ask(&both).await?, "token:ci");
    assert!(!format!("{both:?} {:?}", running.channel(&both)?).contains(&secret));

    let wrong = bench.path("wrong.token");
    for text in [
        "bbt_unknown",
        &secret[..secret.len() - 1],
        &secret.to_uppercase(),
    ] {
        std::fs::write(&wrong, text)?;
        let refused = running.ask(&bench.by_token(wrong.clone())).await?;
        is_refused(&refused, "TOKEN_INVALID");
        assert!(!refused.message().contains(text));
    }
    std::fs::write(&wrong, "bbt_unknown")?;
    let fallback = Credentials {
        token_file: Some(wrong),
        ..both
    };
    is_refused(&running.ask(&fallback).await?, "TOKEN_INVALID");
    let nobody = Credentials {
        ca_file: Some(bench.authority.ca()),
        ..Credentials::default()
    };
    is_refused(&running.ask(&nobody).await?, "CALLER_UNIDENTIFIED");

    bench.clock("3601")?;
    is_refused(&running.ask(&ci).await?, "TOKEN_EXPIRED");
    bench.clock("0")?;
    is(&running.ask(&ci).await?, "token:ci");
    // Revoked, on a connection that is open.
    let mut channel = running.channel(&ci)?;
    is(&ask(&mut channel).await?, "token:ci");
    tokens::revoke(&bench.path("tokens"), "ci", None)?;
    until("the token is taken no more", async || {
        Ok(ask(&mut channel.clone()).await?.code() == Code::Unauthenticated)
    })
    .await
}

#[tokio::test]
async fn tokens_alone_work_on_loopback_in_the_clear() -> Result<()> {
    let mut bench = Bench::new()?;
    let (file, _) = bench.token("ci", None)?;
    bench.arguments = SecurityArgs {
        tokens_file: bench.arguments.tokens_file.clone(),
        ..SecurityArgs::default()
    };
    let running = bench.start().await?;
    let at = format!("http://127.0.0.1:{}", running.port);
    let credentials = Credentials {
        token_file: Some(file),
        ..Credentials::default()
    };
    let mut channel = Target::new(&at, credentials).channel(|e| e)?;
    is(&ask(&mut channel).await?, "token:ci");
    let mut channel = Target::from(&at).channel(|e| e)?;
    is_refused(&ask(&mut channel).await?, "CALLER_UNIDENTIFIED");
    Ok(())
}

#[tokio::test]
async fn without_identity_everybody_is_local() -> Result<()> {
    let mut bench = Bench::new()?;
    bench.arguments.tls_client_ca_file = None;
    let running = bench.start().await?;
    let users = bench.authority.caller("caller", &[uri(USERS)])?;
    is(&running.ask(&users).await?, "a caller on this machine");
    Ok(())
}

#[tokio::test]
async fn tls_and_none_do_not_meet_and_say_so() -> Result<()> {
    let bench = Bench::new()?;
    let running = bench.start().await?;
    let plain = Target::from(&format!("127.0.0.1:{}", running.port));
    let status = ask(&mut plain.channel(|e| e)?).await?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let info = status.get_details_error_info().context("ErrorInfo")?;
    assert_eq!(info.reason, "TLS_REQUIRED");
    assert!(status.message().contains("https://"), "{status:?}");
    // Health too: nothing is served in the clear.
    let health = probe(&plain, WHOLE_SERVER, PATIENCE).await;
    assert!(health.is_err(), "{health:?}");

    let open = Listener::bind("127.0.0.1:0".parse()?, Security::default()).await?;
    let address = open.address();
    let (_stop, stopped) = oneshot::channel::<()>();
    let serving = Server::new(&[]).add_service(Who).serve(open, async {
        let _ = stopped.await;
    });
    tokio::spawn(serving);
    let tls = Target::new(format!("https://{address}"), Credentials::default());
    let said = tls.connect(|e| e).await.err().context("connected")?;
    assert!(said.to_string().contains("does not speak TLS"), "{said}");
    Ok(())
}

async fn handshake(
    running: &Running,
    ca: &Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<(Option<ProtocolVersion>, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(("127.0.0.1", running.port)).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into()?, socket)
        .await?;
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().context("a certificate")?;
    Ok((session.protocol_version(), chain[0].to_vec()))
}

#[tokio::test]
async fn tls_is_1_2_or_1_3() -> Result<()> {
    let bench = Bench::new()?;
    let running = bench.start().await?;
    for (version, wanted) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let (spoken, _) = handshake(&running, &bench.authority.ca(), version).await?;
        assert_eq!(spoken, Some(wanted));
    }
    Ok(())
}

#[tokio::test]
async fn certificates_are_read_again_and_broken_ones_are_not_taken() -> Result<()> {
    let bench = Bench::new()?;
    let running = bench.start().await?;
    let ca = bench.authority.ca();
    let shown = async || -> Result<Vec<u8>> {
        Ok(handshake(&running, &ca, &rustls::version::TLS13).await?.1)
    };
    let first = shown().await?;
    bench.authority.issue("server", &[dns("localhost")])?;
    until("the new certificate is shown", async || {
        Ok(shown().await? != first)
    })
    .await?;
    let second = shown().await?;
    // A key that is not the certificate's, then one that is none; and an
    // authority that is: what is read together is taken together.
    bench.authority.issue("elsewhere", &[dns("localhost")])?;
    std::fs::copy(bench.path("elsewhere.key"), bench.path("server.key"))?;
    std::fs::write(bench.path("elsewhere.pem"), "no certificate")?;
    let other = Authority::new(bench.folder.path(), "other")?;
    let users = bench.authority.caller("caller", &[uri(USERS)])?;
    let mut channel = running.channel(&users)?;
    is(&ask(&mut channel).await?, USERS);

    // The authority of callers changes, and with it the files are whole again.
    let trusted = std::fs::read(&ca)?;
    let stranger = Credentials {
        ca_file: Some(bench.path("server-ca.pem")),
        ..other.caller("stranger", &[uri("spiffe://example.org/other")])?
    };
    std::fs::write(bench.path("server-ca.pem"), &trusted)?;
    std::fs::copy(other.ca(), &ca)?;
    let ca = bench.path("server-ca.pem");
    let shown = async || -> Result<Vec<u8>> {
        Ok(handshake(&running, &ca, &rustls::version::TLS13).await?.1)
    };
    assert_eq!(shown().await?, second, "the old ones go on");
    bench.authority.issue("server", &[dns("localhost")])?;
    until("callers of the new authority are known", async || {
        Ok(running.ask(&stranger).await?.message() == "spiffe://example.org/other")
    })
    .await?;
    until(
        "those of the old one are not, connected as they are",
        async || Ok(ask(&mut channel.clone()).await.is_err()),
    )
    .await
}

#[tokio::test]
async fn only_tls_with_identity_is_for_others() -> Result<()> {
    let mut bench = Bench::new()?;
    bench.token("ci", None)?;
    let whole = bench.arguments.clone();
    let mut others = vec![whole.clone()];
    others.push(SecurityArgs {
        tls_client_ca_file: None,
        ..whole.clone()
    });
    others.push(SecurityArgs {
        tokens_file: None,
        ..whole.clone()
    });
    for arguments in others {
        let security = arguments.load(&Clock::system())?;
        let listener = Listener::bind("0.0.0.0:0".parse()?, security).await;
        ensure!(listener.is_ok(), "{arguments:?}: {listener:?}");
    }
    for arguments in [
        SecurityArgs::default(),
        SecurityArgs {
            tls_client_ca_file: None,
            tokens_file: None,
            ..whole.clone()
        },
        SecurityArgs {
            tokens_file: whole.tokens_file.clone(),
            ..SecurityArgs::default()
        },
    ] {
        let security = arguments.load(&Clock::system())?;
        let listener = Listener::bind("0.0.0.0:0".parse()?, security).await;
        let refused = matches!(listener, Err(BindError::NotLoopback { .. }));
        ensure!(refused, "{arguments:?}: {listener:?}");
    }
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() -> Result<()> {
    let bench = Bench::new()?;
    let whole = bench.arguments.clone();
    let (none, empty) = (bench.path("none.pem"), bench.path("empty.pem"));
    std::fs::write(&empty, "SECRET")?;
    let mut servers = Vec::new();
    for bad in [&none, &empty] {
        for place in 0..4 {
            let mut arguments = whole.clone();
            let file = match place {
                0 => &mut arguments.tls_cert_file,
                1 => &mut arguments.tls_key_file,
                2 => &mut arguments.tls_client_ca_file,
                _ => &mut arguments.tokens_file,
            };
            *file = Some(bad.clone());
            servers.push((arguments, bad));
        }
    }
    for (arguments, bad) in servers {
        let error = arguments.load(&Clock::system()).err().context("loaded")?;
        let said = format!("{:#}", anyhow::Error::from(error));
        let name = bad.display().to_string();
        assert!(said.contains(&name) && !said.contains("SECRET"), "{said}");
    }

    let users = bench.authority.caller("caller", &[uri(USERS)])?;
    let at = |address: &str, credentials: Credentials| {
        let made = Target::new(address, credentials).channel(|e| e);
        made.err().context("made")
    };
    let token = Credentials {
        token_file: Some(empty.clone()),
        ..Credentials::default()
    };
    assert!(matches!(
        at("http://192.0.2.1:1", token)?,
        TargetError::TokenInTheClear { .. }
    ));
    assert!(matches!(
        at("http://127.0.0.1:1", users.clone())?,
        TargetError::NotTls { .. }
    ));
    let half = Credentials {
        client_key_file: None,
        ..users.clone()
    };
    assert!(matches!(at("https://a:1", half)?, TargetError::HalfAPair));
    for bad in [&none, &empty] {
        let credentials = Credentials {
            ca_file: Some(bad.clone()),
            ..users.clone()
        };
        let said = at("https://a:1", credentials)?.to_string();
        assert!(said.contains(&bad.display().to_string()), "{said}");
    }
    let said = at("ftp://user:hunter2@a", Credentials::default())?.to_string();
    assert!(!said.contains("hunter2"), "{said}");
    Ok(())
}

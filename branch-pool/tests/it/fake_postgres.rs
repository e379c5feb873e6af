//! A Postgres that lets in or turns away, and says yes to every statement.

mod statements;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use crate::{PASSWORD, until};
use statements::{Statements, text_of};

const SSL_REQUEST: i32 = 80_877_103;
const CANCEL_REQUEST: i32 = 80_877_102;

/// What it does with who comes.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// Offers TLS with this certificate.
    pub(crate) tls: Option<TlsAcceptor>,
    /// Turns everybody away with this SQLSTATE.
    pub(crate) refuse: Option<&'static str>,
    /// Turns away, with 28000, who comes without TLS.
    pub(crate) refuse_plain: bool,
    /// Accepts the connection and says nothing.
    pub(crate) silent: bool,
    /// Keeps those who come waiting until it is [told](FakePostgres::let_in) to let them
    /// in.
    pub(crate) hesitates: bool,
    /// Does as a request to stop says, and ends sessions, but does not hang up after it
    /// until it is [told to](FakePostgres::hang_up).
    pub(crate) lingers: bool,
    /// Replays the log of a primary, all of it at once.
    pub(crate) is_replica: bool,
}

/// How a session at rest is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With this SQLSTATE.
    Fatal(&'static str),
    /// Without a word; with TLS, that ends in due form.
    Wordless,
}

/// What it has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Sessions opened so far.
    pub(crate) opened: usize,
    /// Of these, with TLS.
    pub(crate) encrypted: usize,
    /// Sessions open now.
    pub(crate) open: usize,
    /// Sessions that it has ended.
    pub(crate) ended: usize,
    /// Those who were kept waiting before they were let in.
    pub(crate) kept_waiting: usize,
    /// Whether who was kept waiting is let in.
    pub(crate) lets_in: bool,
    /// Requests to stop what a session is busy with.
    pub(crate) cancels: usize,
    /// Statements that ran on and on.
    pub(crate) endless: usize,
    /// Those who were turned away.
    pub(crate) turned_away: usize,
    /// Whether who asked for a stop is hung up on.
    pub(crate) hung_up: bool,
}

pub(crate) struct FakePostgres {
    port: u16,
    seen: watch::Sender<Seen>,
    /// How every session was ended the last time.
    ended: watch::Sender<End>,
    pub(crate) statements: Arc<AtomicUsize>,
    /// What came to be prepared, or run at once.
    texts: Arc<Mutex<Vec<String>>>,
    /// What becomes of the next statements.
    fates: Arc<Mutex<VecDeque<Fate>>>,
}

/// What becomes of a statement that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The session ends with this message (57P01).
    Ended(&'static str),
    /// It fails with this SQLSTATE and message, and the session goes on.
    Failed(&'static str, &'static str),
    /// It runs on and on, until somebody asks for its end.
    Endless,
    /// It runs on and on, whoever asks for its end.
    Deaf,
}

impl FakePostgres {
    pub(crate) async fn start(manners: Manners) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = Self {
            port: listener.local_addr()?.port(),
            seen: watch::Sender::default(),
            ended: watch::Sender::new(End::Fatal("57P01")),
            statements: Arc::default(),
            texts: Arc::default(),
            fates: Arc::default(),
        };
        let seen = server.seen.clone();
        let fates = Arc::clone(&server.fates);
        let ended = server.ended.clone();
        let statements = Arc::clone(&server.statements);
        let texts = Arc::clone(&server.texts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = Session {
                    manners: manners.clone(),
                    seen: seen.clone(),
                    ended: ended.subscribe(),
                    statements: Arc::clone(&statements),
                    texts: Arc::clone(&texts),
                    fates: Arc::clone(&fates),
                };
                tokio::spawn(session.run(stream));
            }
        });
        Ok(server)
    }

    /// A connection URI with these parameters.
    pub(crate) fn uri(&self, query: &str) -> String {
        let port = self.port;
        format!("postgresql://role:{PASSWORD}@localhost:{port}/neondb?{query}")
    }

    /// What becomes of the next statements: those that diesel-async begins each session
    /// with are answered whatever this says.
    pub(crate) fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        lock(&self.fates).extend(fates);
    }

    pub(crate) fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    pub(crate) async fn until_seen(
        &self,
        what: &str,
        condition: impl FnMut(&Seen) -> bool,
    ) -> anyhow::Result<Seen> {
        until(&mut self.seen.subscribe(), what, condition).await
    }

    /// How often a statement came with this in its text, to be prepared or run at once:
    /// to run what is prepared takes no text.
    pub(crate) fn times_sent(&self, part: &str) -> usize {
        let texts = lock(&self.texts);
        texts.iter().filter(|text| text.contains(part)).count()
    }

    /// Lets in who was kept waiting, and whoever comes from now on.
    pub(crate) fn let_in(&self) {
        self.seen.send_modify(|seen| seen.lets_in = true);
    }

    /// Hangs up on those who asked for a stop, and will at once from now on.
    pub(crate) fn hang_up(&self) {
        self.seen.send_modify(|seen| seen.hung_up = true);
    }

    /// Ends every session, all of them at rest, and returns when that is said: to hear it
    /// is left to the clients.
    pub(crate) async fn end(&self, how: End) -> anyhow::Result<()> {
        let before = self.seen();
        self.ended.send_replace(how);
        self.until_seen("all told", |seen| seen.ended == before.ended + before.open)
            .await
            .map(|_| ())
    }

    /// Ends every session as an administrator does (57P01), and waits until
    /// the clients have closed their ends.
    pub(crate) async fn end_sessions(&self) -> anyhow::Result<()> {
        self.ended.send_replace(End::Fatal("57P01"));
        self.until_seen("no open sessions", |seen| seen.open == 0)
            .await
            .map(|_| ())
    }
}

/// An authority, and what it certifies.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Its certificate in a file, for `sslrootcert`.
    pub(crate) fn file(&self) -> anyhow::Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), self.issuer.pem())?;
        Ok(file)
    }

    /// A server's side of TLS, with a certificate for `name`.
    pub(crate) fn certify(&self, name: &str) -> anyhow::Result<TlsAcceptor> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

struct Session {
    manners: Manners,
    seen: watch::Sender<Seen>,
    ended: watch::Receiver<End>,
    statements: Arc<AtomicUsize>,
    texts: Arc<Mutex<Vec<String>>>,
    fates: Arc<Mutex<VecDeque<Fate>>>,
}

impl Session {
    async fn run(self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.manners.silent {
            return std::future::pending().await;
        }
        // As Postgres has it.
        stream.set_nodelay(true)?;
        loop {
            let length = stream.read_i32().await?;
            let code = stream.read_i32().await?;
            skip(&mut stream, length - 8).await?;
            match (code, self.manners.tls.clone()) {
                (SSL_REQUEST, Some(tls)) => {
                    stream.write_u8(b'S').await?;
                    let mut stream = tls.accept(stream).await?;
                    let length = stream.read_i32().await?;
                    skip(&mut stream, length - 4).await?;
                    return self.greet(stream, true).await;
                }
                (CANCEL_REQUEST, _) => {
                    self.seen.send_modify(|seen| seen.cancels += 1);
                    self.linger().await;
                    return Ok(());
                }
                (SSL_REQUEST, None) => stream.write_u8(b'N').await?,
                _ => return self.greet(stream, false).await,
            }
        }
    }

    async fn greet<S>(mut self, mut stream: S, encrypted: bool) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let plain_refused = (self.manners.refuse_plain && !encrypted).then_some("28000");
        if let Some(code) = self.manners.refuse.or(plain_refused) {
            self.seen.send_modify(|seen| seen.turned_away += 1);
            stream
                .write_all(&failure("FATAL", code, "turned away"))
                .await?;
            return stream.shutdown().await;
        }
        if self.manners.hesitates {
            self.seen.send_modify(|seen| seen.kept_waiting += 1);
            self.until(|seen| seen.lets_in).await;
        }
        let welcome = [
            message(b'R', &0_i32.to_be_bytes()),
            message(b'K', &[0; 8]),
            message(b'Z', b"I"),
        ];
        stream.write_all(&welcome.concat()).await?;
        stream.flush().await?;
        self.seen.send_modify(|seen| {
            seen.opened += 1;
            seen.encrypted += usize::from(encrypted);
            seen.open += 1;
        });
        let outcome = self.answer(&mut stream).await;
        self.seen.send_modify(|seen| seen.open -= 1);
        self.linger().await;
        outcome
    }

    async fn answer<S>(&mut self, stream: &mut S) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut statements = Statements::default();
        // What came while a statement ran.
        let mut early = None;
        loop {
            let kind = match early.take() {
                Some(kind) => kind,
                None => tokio::select! {
                    kind = stream.read_u8() => kind?,
                    _ = self.ended.changed() => return self.end(stream).await,
                },
            };
            let length = stream.read_i32().await?;
            let body = take(stream, length - 4).await?;
            lock(&self.texts).extend(text_of(kind, &body));
            let answer = match kind {
                b'P' => statements.parse(&body, self.manners.is_replica),
                b'D' => statements.describe(&body),
                b'B' => statements.bind(&body),
                b'E' => statements.execute(),
                b'C' => message(b'3', &[]),
                b'S' => message(b'Z', b"I"),
                b'Q' => [message(b'C', b"SET\0"), message(b'Z', b"I")].concat(),
                _ => return Ok(()),
            };
            if matches!(kind, b'E' | b'Q') {
                self.statements.fetch_add(1, Ordering::SeqCst);
            }
            // Tests ask in the simple protocol, diesel-async sets up in the other.
            let fate = match kind {
                b'Q' => lock(&self.fates).pop_front(),
                _ => None,
            };
            let answer = match fate {
                None => answer,
                Some(Fate::Ended(why)) => {
                    stream.write_all(&failure("FATAL", "57P01", why)).await?;
                    return stream.shutdown().await;
                }
                Some(Fate::Failed(code, why)) => {
                    [failure("ERROR", code, why), message(b'Z', b"I")].concat()
                }
                Some(Fate::Deaf) => {
                    self.seen.send_modify(|seen| seen.endless += 1);
                    return stream.read_to_end(&mut Vec::new()).await.map(|_| ());
                }
                Some(Fate::Endless) => {
                    let before = self.seen.borrow().cancels;
                    self.seen.send_modify(|seen| seen.endless += 1);
                    let stopped = self.until(|seen| seen.cancels > before);
                    early = tokio::select! {
                        () = stopped => None,
                        kind = stream.read_u8() => Some(kind?),
                    };
                    match early {
                        Some(b'X') => return Ok(()),
                        Some(_) => self.until(|seen| seen.cancels > before).await,
                        None => {}
                    }
                    let why = "canceling statement due to user request";
                    [failure("ERROR", "57014", why), message(b'Z', b"I")].concat()
                }
            };
            stream.write_all(&answer).await?;
            stream.flush().await?;
        }
    }

    /// Ends the session, and waits until the client has closed its end.
    async fn end<S>(&mut self, stream: &mut S) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let how = *self.ended.borrow_and_update();
        if let End::Fatal(code) = how {
            stream
                .write_all(&failure("FATAL", code, "terminating connection"))
                .await?;
            stream.flush().await?;
        }
        if !self.manners.lingers {
            stream.shutdown().await?;
        }
        self.seen.send_modify(|seen| seen.ended += 1);
        stream.read_to_end(&mut Vec::new()).await.map(|_| ())
    }

    /// Where it lingers, waits until it is told to hang up.
    async fn linger(&self) {
        if self.manners.lingers {
            self.until(|seen| seen.hung_up).await;
        }
    }

    async fn until(&self, condition: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        // An error: the test is over.
        let _ = seen.wait_for(condition).await.is_ok();
    }
}

async fn skip<S: AsyncRead + Unpin>(stream: &mut S, length: i32) -> std::io::Result<()> {
    take(stream, length).await.map(|_| ())
}

async fn take<S: AsyncRead + Unpin>(stream: &mut S, length: i32) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(std::io::Error::other)?;
    let mut taken = vec![0; length];
    stream.read_exact(&mut taken).await?;
    Ok(taken)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = 4 + i32::try_from(body.len()).unwrap_or(i32::MAX - 4);
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

fn failure(severity: &str, code: &str, why: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C{code}\0M{why} ({code})\0\0");
    message(b'E', fields.as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

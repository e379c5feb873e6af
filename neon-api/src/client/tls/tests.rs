//! HTTPS against a server of the test's own, on one connection at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::types::ProjectListQuery;
use crate::{NeonClient, Phase, Secret, Timeouts};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"projects\":[]}";

#[tokio::test]
async fn a_trusted_server_is_asked_over_tls() -> Result<()> {
    let server = TlsServer::start()?;
    let verifier = Verifier::new_with_extra_roots([server.certificate.clone()], provider())?;
    let client = server.client(with_verifier(Arc::new(verifier))?)?;

    let page = client.list_projects(&ProjectListQuery::default()).await?;

    assert!(page.projects.is_empty());
    let request = server.finish()?.to_lowercase();
    assert!(
        request.contains("authorization: bearer napi_secret"),
        "{request}"
    );
    Ok(())
}

#[tokio::test]
async fn an_untrusted_server_never_sees_the_request() -> Result<()> {
    let server = TlsServer::start()?;
    let root = generate_simple_self_signed(["other.example".to_owned()])?;
    let roots = Arc::new({
        let mut roots = RootCertStore::empty();
        roots.add(root.cert.der().clone())?;
        roots
    });
    let config = finish(builder(provider())?.with_root_certificates(roots));
    let client = server.client(config)?;

    let error = client
        .list_projects(&ProjectListQuery::default())
        .await
        .err()
        .context("the server is not to be trusted")?;

    assert!(
        matches!(
            error,
            crate::Error::Transport {
                phase: Phase::Connect,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(server.finish().is_err(), "no request gets through");
    Ok(())
}

/// Takes one connection, reads one request's head, answers it, closes.
struct TlsServer {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    request: JoinHandle<Result<String>>,
}

impl TlsServer {
    fn start() -> Result<TlsServer> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()])?;
        let certificate = cert.der().clone();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(|e| anyhow!(e))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let request = std::thread::spawn(move || {
            let (socket, _) = listener.accept()?;
            let connection = ServerConnection::new(Arc::new(config))?;
            let mut stream = StreamOwned::new(connection, socket);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            stream.write_all(ANSWER)?;
            stream.conn.send_close_notify();
            stream.flush()?;
            Ok(String::from_utf8(head)?)
        });
        Ok(TlsServer {
            address,
            certificate,
            request,
        })
    }

    fn client(&self, tls: ClientConfig) -> Result<NeonClient> {
        let url = format!("https://localhost:{}/api/v2", self.address.port()).parse()?;
        let key = Secret::from("napi_secret");
        Ok(NeonClient::with_tls(url, key, tls, Timeouts::default())?)
    }

    fn finish(self) -> Result<String> {
        self.request
            .join()
            .map_err(|_| anyhow!("server panicked"))?
    }
}

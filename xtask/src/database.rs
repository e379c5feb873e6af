//! Asks an emulator how to connect to the database that it runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long the emulator may take to answer, in seconds.
const ANSWER_SECONDS_MAX: u64 = 10;

/// The owner's connection URI for the default branch of a project. It holds a
/// password, and goes to the broker's environment alone.
///
/// HTTP by hand: one question to a server of ours is not worth a client to a
/// program that everybody waits for.
pub(crate) fn connection_uri(api: &str, project: &str, key: &str) -> Result<String> {
    let asking = || ask(api, project, key);
    asking().context("ask the emulator for the connection URI of the state database")
}

fn ask(api: &str, project: &str, key: &str) -> Result<String> {
    let rest = api.strip_prefix("http://").context("an http:// address")?;
    let (address, base) = rest.split_once('/').context("an address with a path")?;
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET /{base}/projects/{project}/connection_uri\
         ?database_name=neondb&role_name=neondb_owner HTTP/1.0\r\n\
         Host: {address}\r\nAuthorization: Bearer {key}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    uri_in(&answer)
}

fn uri_in(answer: &str) -> Result<String> {
    let status = answer.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("it answers {status:?}");
    }
    let (_, rest) = answer
        .split_once("\"uri\":\"")
        .context("a URI in its answer")?;
    let (uri, _) = rest.split_once('"').context("a URI in its answer")?;
    Ok(uri.to_owned())
}

#[cfg(test)]
mod tests {
    use super::uri_in;

    #[test]
    fn the_uri_is_found_and_a_refusal_is_told_without_it() {
        let good = "HTTP/1.0 200 OK\r\n\r\n{\"uri\":\"postgresql://o:p@127.0.0.1/neondb\"}";
        let uri = uri_in(good).unwrap_or_default();
        assert_eq!(uri, "postgresql://o:p@127.0.0.1/neondb");
        let bad = "HTTP/1.0 401 Unauthorized\r\n\r\n{\"message\":\"no\"}";
        let error = uri_in(bad).map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("it answers \"HTTP/1.0 401 Unauthorized\"".to_owned())
        );
    }
}

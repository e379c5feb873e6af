//! Metrics and probes of a server under test.

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where a server tells of itself.
#[derive(Debug)]
pub struct Probes {
    address: String,
}

impl Probes {
    /// At this address: host and port.
    #[must_use]
    pub fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
        }
    }

    /// Asks for a path: the status, and the text that came with it.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.ask("GET", path).await
    }

    /// As [`Probes::get`], by another method.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn ask(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let host = &self.address;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("a whole answer")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// What one series says now: `broker_leases{state="active",target="binding"}`.
    /// `None`: there is none.
    ///
    /// # Errors
    /// When there are no metrics, or a value is no number.
    pub async fn metric(&self, series: &str) -> anyhow::Result<Option<f64>> {
        let (status, text) = self.get("/metrics").await?;
        anyhow::ensure!(status == 200, "{status}: {text}");
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?)
    }

    /// Fails unless a series says this now.
    ///
    /// # Errors
    /// When it says something else.
    pub async fn says(&self, series: &str, value: f64) -> anyhow::Result<()> {
        let found = self.metric(series).await?;
        anyhow::ensure!(found == Some(value), "{series} is {found:?}, not {value}");
        Ok(())
    }
}

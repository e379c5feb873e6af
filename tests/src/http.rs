//! Plain HTTP/1.1, to send what the typed client cannot.

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{API_KEY, EmulatorProcess};

/// An emulator's API, spoken to by hand.
#[derive(Debug)]
pub struct Http {
    host: String,
    base: &'static str,
    key: String,
}

/// A status and the JSON that came with it; null where there was none.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The value of a header; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = headers.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value)
    }

    /// What is at a JSON pointer, `/error/message`; null where nothing is.
    #[must_use]
    pub fn at(&self, pointer: &str) -> &Value {
        self.body.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The text at a JSON pointer; empty where there is none.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }
}

impl Http {
    /// Shows the right key.
    #[must_use]
    pub fn of(emulator: &EmulatorProcess) -> Self {
        let url = emulator.url();
        let host = url
            .trim_start_matches("http://")
            .trim_end_matches("/api/v2");
        Self {
            host: host.to_owned(),
            base: "/api/v2",
            key: API_KEY.to_owned(),
        }
    }

    /// The routes for tests, below /admin/v1, rather than Neon's.
    #[must_use]
    pub fn admin(self) -> Self {
        Self {
            base: "/admin/v1",
            ..self
        }
    }

    /// Shows another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            host: self.host.clone(),
            base: self.base,
            key: key.to_owned(),
        }
    }

    /// Sends a request below /api/v2, or /admin/v1; a body that is null is none.
    ///
    /// # Errors
    /// When there is no whole answer, or it is neither empty nor JSON.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Answer> {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let authorization = format!("Authorization: Bearer {}", self.key);
        let headers = [authorization.as_str(), "Content-Type: application/json"];
        self.send(method, path, &headers, &body).await
    }

    /// Sends a request with these headers and no others but Host, Connection and,
    /// where none of them says how long the body is, Content-Length. All of the
    /// body is sent before the answer is looked at.
    ///
    /// # Errors
    /// When there is no whole answer, or it is neither empty nor JSON.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> anyhow::Result<Answer> {
        let mut stream = tokio::net::TcpStream::connect(&self.host).await?;
        let mut request = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.base, self.host
        );
        let has_length = headers.iter().any(|header| {
            header.starts_with("Transfer-Encoding") || header.starts_with("Content-Length")
        });
        let length = format!("Content-Length: {}", body.len());
        let length = Some(length.as_str()).filter(|_| !has_length);
        for header in headers.iter().copied().chain(length) {
            request += header;
            request += "\r\n";
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await?;
        stream
            .write_all(body.as_bytes())
            .await
            .context("send the body")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("a whole answer")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        let body = match body {
            "" => Value::Null,
            body => serde_json::from_str(body).with_context(|| format!("JSON: {body}"))?,
        };
        Ok(Answer {
            status,
            head: head.to_owned(),
            body,
        })
    }

    /// Sends a request that must be answered with this status.
    ///
    /// # Errors
    /// When it is answered with another one.
    pub async fn expect(
        &self,
        status: u16,
        method: &str,
        path: &str,
        body: Value,
    ) -> anyhow::Result<Answer> {
        let answer = self.call(method, path, body).await?;
        anyhow::ensure!(
            answer.status == status,
            "{method} {path}: {status} expected, not {answer:?}"
        );
        Ok(answer)
    }
}

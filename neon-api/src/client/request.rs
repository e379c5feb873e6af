//! One request: its path, its query, its body, and the sending of it.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::NeonClient;
use super::answer::Answer;
use crate::{Error, Phase, Route};

/// A request in the making. A mistake made on the way is kept and comes out of
/// sending it.
pub(super) struct Request<'a> {
    client: &'a NeonClient,
    builder: Result<RequestBuilder, Error>,
    route: Route,
}

impl NeonClient {
    pub(super) fn get(&self, path: &[&str]) -> Request<'_> {
        self.request(Method::GET, "GET", path)
    }

    pub(super) fn post(&self, path: &[&str]) -> Request<'_> {
        self.request(Method::POST, "POST", path)
    }

    pub(super) fn patch(&self, path: &[&str]) -> Request<'_> {
        self.request(Method::PATCH, "PATCH", path)
    }

    pub(super) fn delete(&self, path: &[&str]) -> Request<'_> {
        self.request(Method::DELETE, "DELETE", path)
    }

    fn request(&self, method: Method, method_name: &'static str, path: &[&str]) -> Request<'_> {
        let mut url = self.base_url.clone();
        let mut bad_name = None;
        for segment in path {
            match url.path_segments_mut() {
                // These would name another route: URLs resolve dots, and an
                // empty last segment is the list itself.
                _ if matches!(*segment, "" | "." | "..") => bad_name = Some(*segment),
                Ok(mut segments) => {
                    segments.pop_if_empty().push(segment);
                }
                // Only a URL without a host has no path, and no client is made
                // with one.
                Err(()) => bad_name = Some(*segment),
            }
        }
        // The base path ends in a slash, which begins the path shown.
        let below_base = url.path().get(self.base_url.path().len() - 1..);
        let route = Route::new(method_name, below_base.unwrap_or_default().to_owned());
        let builder = match bad_name {
            None => Ok(self.http.request(method, url)),
            Some(name) => Err(Error::Name {
                route: route.clone(),
                name: name.to_owned(),
            }),
        };
        Request {
            client: self,
            builder,
            route,
        }
    }
}

impl Request<'_> {
    /// Adds what is present in `query` to the URL.
    pub(super) fn query(mut self, query: &impl Serialize) -> Self {
        self.builder = self.builder.map(|builder| builder.query(query));
        self
    }

    /// Sends `body` along.
    pub(super) fn body(mut self, body: &impl Serialize) -> Self {
        let route = &self.route;
        self.builder = self.builder.and_then(|builder| {
            let bytes = serde_json::to_vec(body).map_err(|source| Error::Encode {
                route: route.clone(),
                source,
            })?;
            let json = HeaderValue::from_static("application/json");
            Ok(builder.header(CONTENT_TYPE, json).body(bytes))
        });
        self
    }

    /// Sends it; the answer must have a body.
    pub(super) async fn send<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.exchange().await?.decode()
    }

    /// Sends it; `None` when the answer is 204, "it was not there".
    pub(super) async fn send_delete<T: DeserializeOwned>(self) -> Result<Option<T>, Error> {
        let answer = self.exchange().await?;
        match answer.is_empty() {
            true => Ok(None),
            false => answer.decode().map(Some),
        }
    }

    async fn exchange(self) -> Result<Answer, Error> {
        let route = self.route;
        let mut more = HeaderMap::new();
        (self.client.more_headers)(&mut more);
        match self.builder?.headers(more).send().await {
            Ok(response) => Answer::read(response, route, &self.client.key).await,
            Err(error) => Err(no_answer(route, error)),
        }
    }
}

/// The error for a request that got no answer, or not the whole of it.
pub(super) fn no_answer(route: Route, error: reqwest::Error) -> Error {
    let never_left = error.is_connect() || error.is_builder();
    Error::Transport {
        route,
        phase: match never_left {
            true => Phase::Connect,
            false => Phase::Exchange,
        },
        timed_out: error.is_timeout(),
        source: error.without_url(),
    }
}

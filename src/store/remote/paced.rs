//! HTTP at a pace: the body of a put leaves block by block, each when it may.
//!
//! opendal's own layer for this waits before it hands a whole body over, which then leaves as fast as the line allows,
//! and refuses a body that is larger than what may leave at once. So the pace is kept here, where the bytes go out. All
//! other requests, and every answer, take the usual way.

use std::convert::Infallible;

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, header::CONTENT_LENGTH};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, Result};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::{Body, Client};

use crate::store::pace::{Pace, blocks};

/// HTTP whose puts keep to a pace.
pub(super) struct PacedTransport {
    client: Client,
    other: ReqwestTransport,
    pace: Pace,
}

impl PacedTransport {
    pub(super) fn new(client: &Client, pace: Pace) -> Self {
        let other = ReqwestTransport::new(client.clone());
        Self { client: client.clone(), other, pace }
    }

    async fn put(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let uri = request.uri().clone();
        let failed = |error: reqwest::Error| {
            // As opendal's own transport sorts them: what broke off on the way may work the next time.
            let may_pass = error.is_request() || error.is_body() || error.is_decode();
            Error::new(ErrorKind::Unexpected, "send http request")
                .with_operation("reqwest::send")
                .with_context("url", uri.to_string())
                .with_temporary(may_pass)
                .set_source(error.without_url())
        };
        let (mut parts, body) = request.into_parts();
        // A stream does not know its length, and services refuse a body that does not tell it.
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let blocks = blocks(body.to_bytes(), Some(self.pace.clone())).map(Ok::<_, Infallible>);
        let request = Request::from_parts(parts, Body::wrap_stream(blocks));
        let answer = self.client.execute(request.try_into().map_err(failed)?).await.map_err(failed)?;
        let mut response = Response::builder().status(answer.status()).extension(uri.clone());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        // The answer to a put is short.
        let said = Buffer::from(answer.bytes().await.map_err(failed)?);
        let body = HttpBody::new(stream::iter([Ok(said)]), None);
        response
            .body(body)
            .map_err(|error| Error::new(ErrorKind::Unexpected, "the answer cannot be read").set_source(error))
    }
}

impl HttpTransport for PacedTransport {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        if request.method() == Method::PUT && !request.body().is_empty() {
            self.put(request).await
        } else {
            self.other.fetch(request).await
        }
    }
}

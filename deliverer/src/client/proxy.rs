//! The proxy that webhooks go through, where the operator has set one.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use postrider_shared::address::AddressGuard;
use postrider_shared::delivery::ErrorClass;
use url::Url;

use super::connection;
use super::deadline::Deadline;
use super::failure::Failure;
use super::watched::Stream;

/// An HTTP proxy.
pub(super) struct Proxy {
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    /// Passes every address: the proxy is wherever the operator has put it.
    pub(super) guard: AddressGuard,
}

impl Proxy {
    pub(super) fn new(url: Url) -> Result<Self, String> {
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("POSTRIDER_EGRESS_PROXY (--egress-proxy): give an http:// or https:// URL".to_owned());
        }
        let everything = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
        Ok(Self { authorization: authorization(&url), guard: AddressGuard::new(everything.to_vec()), url })
    }

    /// Has the proxy connect `stream` with the host of `url`.
    pub(super) async fn tunnel(
        &self,
        stream: Box<dyn Stream>,
        url: &Url,
        deadline: Deadline,
    ) -> Result<Box<dyn Stream>, Failure> {
        let refused =
            |reason: String| Failure::new(ErrorClass::Connect, format!("the egress proxy {reason}"));
        match deadline.cap(self.ask(stream, url)).await {
            Some(Ok(Ok(stream))) => Ok(stream),
            Some(Ok(Err(status))) => Err(refused(format!("answered {status}"))),
            Some(Err(error)) => Err(refused(format!("failed: {}", super::failure::root(&error)))),
            None => Err(refused(format!("did not answer within {deadline}"))),
        }
    }

    async fn ask(
        &self,
        stream: Box<dyn Stream>,
        url: &Url,
    ) -> Result<Result<Box<dyn Stream>, http::StatusCode>, hyper::Error> {
        let host = url.host_str().unwrap_or_default();
        let authority = format!("{host}:{}", url.port_or_known_default().unwrap_or(443));
        let mut request = Request::builder().method(Method::CONNECT).uri(&authority).header(HOST, &authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let request = request.body(Full::default()).expect("the host and port of a URL");
        let (mut sender, connection) = connection::handshake(stream, Arc::default()).await?;
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Ok(Err(response.status()));
        }
        Ok(Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?))))
    }
}

/// What `user:password@` in a URL stands for.
fn authorization(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
    let credentials = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

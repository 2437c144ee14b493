//! The egress proxy, if the operator has set one.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::header::{HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use postrider_domain::address::AddressGuard;
use postrider_domain::delivery::ErrorClass;
use url::Url;

use super::deadline::Deadline;
use super::failure::{Failure, root};
use super::watched::Stream;
use super::{ClientError, connection};

/// If a request got through the proxy within this time, a later refusal is not the proxy's fault.
const LATELY: Duration = Duration::from_secs(2);

/// An HTTP proxy.
pub(super) struct Proxy {
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    /// Allows every address: the operator decides where the proxy is.
    pub(super) guard: AddressGuard,
    /// When a request last got through.
    passed: Mutex<Option<Instant>>,
}

impl Proxy {
    pub(super) fn new(url: Url) -> Result<Self, ClientError> {
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(ClientError::Proxy);
        }
        let everything = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
        Ok(Self {
            authorization: authorization(&url),
            guard: AddressGuard::new(everything.to_vec()),
            passed: Mutex::default(),
            url,
        })
    }

    /// Asks the proxy to connect `stream` to the host of `url`.
    pub(super) async fn tunnel(
        &self,
        stream: Box<dyn Stream>,
        url: &Url,
        deadline: Deadline,
    ) -> Result<Box<dyn Stream>, Failure> {
        match deadline.cap(self.ask(stream, url)).await {
            Some(Ok(Ok(stream))) => {
                self.note_passed();
                Ok(stream)
            }
            Some(Ok(Err(refusal))) => Err(self.refused(&refusal)),
            Some(Err(error)) => Err(self.failed(format_args!("failed: {}", root(&error)))),
            // The proxy may be waiting for the receiver.
            None => Err(of_receiver(format_args!("did not answer within {deadline}"))),
        }
    }

    /// Returns the failure if this response to a request comes from the proxy itself and not from the receiver.
    pub(super) fn refusal(&self, answer: &Response<Incoming>) -> Option<Failure> {
        if answer.status() != StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            self.note_passed();
            return None;
        }
        Some(self.refused(answer)).filter(|failure| failure.fault.is_some())
    }

    /// Classifies a refusal by the proxy. Most statuses mean that it cannot or may not reach a host. Two statuses may
    /// also mean that the proxy itself fails, or that it wants other credentials.
    fn refused(&self, refusal: &Response<Incoming>) -> Failure {
        let reason = format!("answered {}", refusal.status());
        match refusal.status() {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::SERVICE_UNAVAILABLE
                if !names_receiver(refusal.headers()) =>
            {
                self.failed(reason)
            }
            _ => of_receiver(reason),
        }
    }

    /// Blames the proxy, unless other requests got through it lately.
    fn failed(&self, reason: impl Display) -> Failure {
        if self.has_passed_lately() { of_receiver(reason) } else { Failure::of_egress_proxy(reason) }
    }

    fn note_passed(&self) {
        *self.passed.lock() = Some(Instant::now());
    }

    fn has_passed_lately(&self) -> bool {
        let passed = *self.passed.lock();
        passed.is_some_and(|passed| passed.elapsed() < LATELY)
    }

    async fn ask(
        &self,
        stream: Box<dyn Stream>,
        url: &Url,
    ) -> Result<Result<Box<dyn Stream>, Response<Incoming>>, hyper::Error> {
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
            return Ok(Err(response));
        }
        Ok(Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?))))
    }
}

/// The proxy cannot or may not reach the receiver.
fn of_receiver(reason: impl Display) -> Failure {
    Failure::new(ErrorClass::Connect, format!("the egress proxy {reason}"))
}

/// Returns true if the headers say that the error concerns the host, as Squid and Smokescreen do, or by RFC 9209.
fn names_receiver(headers: &HeaderMap) -> bool {
    let says = |name: &str, signs: &[&str]| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| signs.iter().any(|sign| value.contains(sign)))
    };
    says("x-squid-error", &["ERR_DNS_FAIL", "ERR_CONNECT_FAIL"])
        || says("proxy-status", &["error=dns_", "error=destination_", "error=connection_"])
        || headers.contains_key("x-smokescreen-error")
}

/// Returns the `Proxy-Authorization` header for `user:password@` in a URL.
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

//! From a URL to a connection: name resolution, TCP, proxy, TLS.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use postrider_domain::address::AddressGuard;
use postrider_domain::delivery::ErrorClass;
use tokio::net::TcpStream;
use url::{Position, Url};

use super::connection::Connection;
use super::deadline::Deadline;
use super::dial::dial;
use super::failure::Failure;
use super::proxy::Proxy;
use super::tls::Tls;
use super::watched::Stream;
use super::{ClientError, Post};
use crate::DelivererConfig;
use crate::resolver::Resolver;

/// Timeout of connecting, within the endpoint's timeout. It limits how long an unreachable receiver holds a permit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens connections.
pub(super) struct Connector {
    resolver: Resolver,
    /// Decides which addresses of receivers may be dialled. It does not apply to the proxy, which the operator chose.
    guard: AddressGuard,
    tls: Tls,
    proxy: Option<Proxy>,
}

impl Connector {
    pub(super) fn new(config: &DelivererConfig) -> Result<Self, ClientError> {
        Ok(Self {
            resolver: Resolver::new(&config.dns_servers)?,
            guard: config.guard.clone(),
            tls: Tls::new(&config.extra_certificates)?,
            proxy: config.egress_proxy.clone().map(Proxy::new).transpose()?,
        })
    }

    /// Returns the request as written to a connection for this URL.
    pub(super) fn request(&self, post: &Post) -> Result<Request<Full<Bytes>>, Failure> {
        let unsendable = |_| Failure::new(ErrorClass::Unrenderable, "the URL cannot be sent");
        let url = &post.url;
        // A proxy gets the whole URL, unless it only tunnels TLS.
        let plain_proxy = self.plain_proxy(url.as_str());
        let from = if plain_proxy.is_some() { Position::BeforeScheme } else { Position::BeforePath };
        let uri: Uri = url[from..Position::AfterQuery].parse().map_err(|_| ()).map_err(unsendable)?;
        let host = &url[Position::BeforeHost..Position::AfterPort];
        let host = HeaderValue::from_str(host).map_err(|_| ()).map_err(unsendable)?;

        let mut request = Request::new(Full::new(post.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = post.headers.clone();
        request.headers_mut().insert(HOST, host);
        request.headers_mut().entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        if let Some(authorization) = plain_proxy.and_then(|proxy| proxy.authorization.clone()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        Ok(request)
    }

    /// Returns the proxy if requests to this URL are sent to it directly, without a tunnel.
    fn plain_proxy(&self, url: &str) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| url.starts_with("http:"))
    }

    /// Returns the failure if this response comes from the proxy instead of the receiver.
    pub(super) fn refusal(&self, url: &str, answer: &Response<Incoming>) -> Option<Failure> {
        self.plain_proxy(url)?.refusal(answer)
    }

    /// Opens a connection before `deadline`.
    pub(super) async fn connect(&self, url: &Url, deadline: Deadline) -> Result<Connection, Failure> {
        let mut stream: Box<dyn Stream> = match &self.proxy {
            None => Box::new(self.dial(url, &self.guard, deadline).await?),
            Some(proxy) => self.through(proxy, url, deadline).await?,
        };
        if url.scheme() == "https" {
            stream = self.tls.wrap(url, stream, deadline).await?;
        }
        Connection::open(stream).await.map_err(|error| Failure::of_http(&error))
    }

    async fn dial(&self, url: &Url, guard: &AddressGuard, deadline: Deadline) -> Result<TcpStream, Failure> {
        let nowhere = || Failure::new(ErrorClass::Unrenderable, "the URL names no host");
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(nowhere());
        };
        dial(self.resolver.look_up(&host), port, guard, deadline.or_after(CONNECT_TIMEOUT)).await
    }

    /// Opens a stream to the host of `url` through the proxy.
    async fn through(
        &self,
        proxy: &Proxy,
        url: &Url,
        deadline: Deadline,
    ) -> Result<Box<dyn Stream>, Failure> {
        let mut stream = self.reach(proxy, deadline).await.map_err(|failure| match failure.fault {
            Some(_) => failure,
            None => Failure::of_egress_proxy(format_args!("cannot be reached: {}", failure.message)),
        })?;
        if url.scheme() == "https" {
            stream = proxy.tunnel(stream, url, deadline).await?;
        }
        Ok(stream)
    }

    async fn reach(&self, proxy: &Proxy, deadline: Deadline) -> Result<Box<dyn Stream>, Failure> {
        let stream = Box::new(self.dial(&proxy.url, &proxy.guard, deadline).await?);
        match proxy.url.scheme() {
            "https" => self.tls.wrap(&proxy.url, stream, deadline).await,
            _ => Ok(stream),
        }
    }
}

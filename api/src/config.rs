//! The configuration of the API.

use std::net::SocketAddr;

use postrider_domain::address::AddressGuard;
use postrider_runtime::config::{self, Reader, settings};
use postrider_secrets::keyring::{self, Keyring};
use postrider_store::DatabaseConfig;

/// The configuration of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// How to connect to PostgreSQL.
    pub database: DatabaseConfig,
    /// One or two admin tokens, either of which is valid. May be empty only if `listen` is a loopback address.
    pub admin_tokens: Vec<String>,
    /// Encrypts the secrets of endpoints.
    pub keyring: Keyring,
    /// Which IP addresses an endpoint URL may contain.
    pub guard: AddressGuard,
    /// If true, endpoints must use `https://`.
    pub https_only: bool,
    /// The most endpoints that one application may have.
    pub max_endpoints: u32,
    /// The most steps that the filters of one application may take for one event.
    pub max_matching_steps: u32,
    /// How many statements that accept events may run in parallel for one application.
    pub accept_writers: usize,
    /// How many bytes of events may wait to be stored before the API responds with 503.
    pub accept_queue_bytes: usize,
}

impl ApiConfig {
    /// Reads the settings of the API. Reports a mistake if there is no admin token and the address is not a loopback
    /// address.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let listen: SocketAddr = reader.required_with(&settings::API_LISTEN, config::socket_address);
        let admin_tokens: Vec<String> = reader.list(&settings::ADMIN_TOKEN, |text| {
            if text.len() < 16 {
                return Err("each token must have at least 16 characters".to_owned());
            }
            Ok(text.to_owned())
        });
        if admin_tokens.len() > 2 {
            reader.mistake(
                &settings::ADMIN_TOKEN,
                "must not have more than two tokens, the old one and the new one",
            );
        }
        if admin_tokens.is_empty() && !listen.ip().is_loopback() {
            reader.mistake(
                &settings::ADMIN_TOKEN,
                format!("must be set, because the API listens on {listen}, which is not a loopback address"),
            );
        }
        Self {
            listen,
            database: DatabaseConfig::read(reader),
            admin_tokens,
            keyring: keyring::read(reader),
            guard: config::address_guard(reader),
            https_only: reader.required(&settings::HTTPS_ONLY),
            max_endpoints: reader.in_range(&settings::MAX_ENDPOINTS, 1, 100_000) as u32,
            max_matching_steps: reader.in_range(&settings::MAX_MATCHING_STEPS, 40_000, 100_000_000) as u32,
            accept_writers: reader.in_range(&settings::ACCEPT_WRITERS, 1, 64) as usize,
            accept_queue_bytes: reader.in_range(&settings::ACCEPT_QUEUE_BYTES, 16 << 20, 1 << 34) as usize,
        }
    }
}

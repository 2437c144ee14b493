//! The table of all settings: what `--help`, `.env.example` and the documentation say is said here.

/// The services that a setting concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The API.
    Api,
    /// The relay.
    Relay,
    /// The deliverer.
    Deliverer,
    /// `postrider migrate`.
    Migrate,
    /// `postrider rekey`.
    Rekey,
    /// `postrider up`.
    Up,
}

/// One thing that can be set.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub env: &'static str,
    /// The value where none is given; `None` means absent.
    pub default: Option<&'static str>,
    /// A name for the value in help texts.
    pub value_name: &'static str,
    /// What it does, with units and limits.
    pub help: &'static str,
    /// Who reads it. `up` takes all.
    pub services: &'static [Service],
    /// Not to be shown in help texts or logs.
    pub is_secret: bool,
}

impl Setting {
    /// The flag of the same name: `DATABASE_URL` → `database-url`, `POSTRIDER_API_LISTEN` → `api-listen`.
    #[must_use]
    pub fn flag(&self) -> String {
        let name = self.env.strip_prefix("POSTRIDER_").unwrap_or(self.env);
        name.to_ascii_lowercase().replace('_', "-")
    }
}

use Service::{Api, Deliverer, Migrate, Rekey, Relay, Up};

const ALL: &[Service] = &[Api, Relay, Deliverer, Migrate, Rekey, Up];
const EVERY_SERVICE: &[Service] = &[Api, Relay, Deliverer, Up];

macro_rules! settings {
    ($($name:ident = $env:literal $value_name:literal $default:expr, $services:expr, $help:literal $(, $secret:ident)?;)+) => {
        $(
            #[doc = $help]
            pub(crate) static $name: Setting = Setting {
                env: $env,
                default: $default,
                value_name: $value_name,
                help: $help,
                services: $services,
                is_secret: settings!(@secret $($secret)?),
            };
        )+

        /// Every setting there is.
        pub static SETTINGS: &[&Setting] = &[$(&$name),+];
    };
    (@secret) => { false };
    (@secret secret) => { true };
}

settings! {
    DATABASE_URL = "DATABASE_URL" "URL" None, ALL,
        "PostgreSQL 15 or newer, such as `postgres://user:password@host/database`, with an encoding of UTF-8. Of several hosts (`host1,host2`) the primary is used", secret;
    DATABASE_DIRECT_URL = "POSTRIDER_DATABASE_DIRECT_URL" "URL" None, ALL,
        "The same database past a connection pooler such as PgBouncer, for LISTEN and session locks. Default: DATABASE_URL", secret;
    DATABASE_POOL_SIZE = "POSTRIDER_DATABASE_POOL_SIZE" "COUNT" Some("8"), EVERY_SERVICE,
        "Connections to PostgreSQL in each pool of a service, 2 to 1000: one for commits that wait for the disk, one for those that need not, and in the API one for accepting events. `up` has three services. Each also has a session of its own or two";
    REDIS_URL = "REDIS_URL" "URL" None, &[Relay, Deliverer, Up],
        "Redis 7 or newer, or Valkey, such as `redis://:password@host/0`, `rediss://…` for TLS or `redis+unix:///path`", secret;
    REDIS_PREFIX = "POSTRIDER_REDIS_PREFIX" "TEXT" Some("postrider"), &[Relay, Deliverer, Up],
        "Begins the name of every Redis key, so that several installations can share one server";
    QUEUE_WINDOW = "POSTRIDER_QUEUE_WINDOW" "COUNT" Some("4000"), &[Relay, Deliverer, Up],
        "Deliveries of one endpoint that may wait in Redis; the rest waits in PostgreSQL";
    QUEUE_CAPACITY = "POSTRIDER_QUEUE_CAPACITY" "COUNT" Some("500000"), &[Relay, Deliverer, Up],
        "Deliveries that may wait in Redis over all endpoints; the rest waits in PostgreSQL";
    API_LISTEN = "POSTRIDER_API_LISTEN" "ADDRESS" Some("127.0.0.1:8000"), &[Api, Up],
        "Where the API listens; `:8000` means every interface, which demands an admin token";
    RELAY_LISTEN = "POSTRIDER_RELAY_LISTEN" "ADDRESS" Some("127.0.0.1:8001"), &[Relay],
        "Where the relay serves /health/live, /health/ready and /metrics";
    DELIVERER_LISTEN = "POSTRIDER_DELIVERER_LISTEN" "ADDRESS" Some("127.0.0.1:8002"), &[Deliverer],
        "Where the deliverer serves /health/live, /health/ready and /metrics";
    ADMIN_TOKEN = "POSTRIDER_ADMIN_TOKEN" "TOKEN" None, &[Api, Up],
        "The bearer token of the admin, at least 16 characters; two, separated by a comma, while it is being changed. May be absent where the API listens on loopback only", secret;
    MASTER_KEY = "POSTRIDER_MASTER_KEY" "KEY,…" None, &[Api, Deliverer, Rekey, Up],
        "Encrypts signing secrets, sensitive headers and the queries of URLs in the database: base64 of 32 bytes, such as `openssl rand -base64 32` makes. Several, separated by commas, while it is being changed: the first encrypts, all decrypt. Without it they are stored as they are", secret;
    ALLOW_NETWORKS = "POSTRIDER_ALLOW_NETWORKS" "CIDR,…" None, &[Api, Deliverer, Up],
        "Networks that webhooks may be sent to although they are not public, such as `10.1.0.0/16,127.0.0.1/32`";
    HTTPS_ONLY = "POSTRIDER_HTTPS_ONLY" "BOOL" Some("false"), &[Api, Deliverer, Up],
        "true: endpoints must be https";
    MAX_ENDPOINTS = "POSTRIDER_MAX_ENDPOINTS" "COUNT" Some("1000"), &[Api, Up],
        "Endpoints that one application may have";
    MAX_MATCHING_STEPS = "POSTRIDER_MAX_MATCHING_STEPS" "COUNT" Some("500000"), &[Api, Up],
        "Steps that it may take to match one event with the filters and event types of all endpoints of its application, at about a tenth of a microsecond each";
    ACCEPT_WRITERS = "POSTRIDER_ACCEPT_WRITERS" "COUNT" Some("2"), &[Api, Up],
        "Statements that store the accepted events of one application side by side, at most; there is one more for others. The next one goes beside another only where that takes longer than 10 ms";
    ACCEPT_QUEUE_BYTES = "POSTRIDER_ACCEPT_QUEUE_BYTES" "BYTES" Some("67108864"), &[Api, Up],
        "Bytes of events that may wait to be stored before producers are answered 503";
    RETRY_SCHEDULE = "POSTRIDER_RETRY_SCHEDULE" "SECONDS,…" Some("5,300,1800,7200,18000,36000,50400,72000,86400"), &[Relay, Deliverer, Up],
        "Seconds before each retry, for endpoints that set none; the last is repeated. ±20 % of jitter is applied";
    RETENTION_DAYS = "POSTRIDER_RETENTION_DAYS" "DAYS" Some("30"), &[Relay, Up],
        "How long events, deliveries, attempts and idempotency keys are kept at least, 1 to 3650 days; they go in pieces of a quarter of that";
    DELIVERER_CONCURRENCY = "POSTRIDER_DELIVERER_CONCURRENCY" "COUNT" Some("1024"), &[Deliverer, Up],
        "Exchanges that one deliverer has under way at once";
    DELIVERER_BODY_BYTES = "POSTRIDER_DELIVERER_BODY_BYTES" "BYTES" Some("67108864"), &[Deliverer, Up],
        "Bytes of request bodies that one deliverer holds at once";
    AUTO_DISABLE_DAYS = "POSTRIDER_AUTO_DISABLE_DAYS" "DAYS" Some("5"), &[Deliverer, Up],
        "An endpoint that has done nothing but fail for this many days, with an attempt on each, is disabled; 0: never";
    DNS_SERVERS = "POSTRIDER_DNS_SERVERS" "ADDRESS,…" None, &[Deliverer, Up],
        "Name servers to ask instead of the system's, such as `10.0.0.2:53`";
    EXTRA_CA_FILE = "POSTRIDER_EXTRA_CA_FILE" "PATH" None, ALL,
        "PEM certificates that are trusted besides the system's: those of receivers, PostgreSQL and Redis";
    EGRESS_PROXY = "POSTRIDER_EGRESS_PROXY" "URL" None, &[Deliverer, Up],
        "A proxy that all webhooks go through, such as `http://proxy:3128`. It resolves names, so it must refuse private addresses";
    STOP_GRACE_SECONDS = "POSTRIDER_STOP_GRACE_SECONDS" "SECONDS" Some("70"), &[Deliverer, Up],
        "How long webhooks under way may go on after a signal to stop; no less than the longest endpoint timeout";
    LOG = "POSTRIDER_LOG" "FILTER" Some("info"), ALL,
        "What is logged: `error`, `warn`, `info`, `debug`, or by module, such as `info,postrider_relay=debug`";
    LOG_FORMAT = "POSTRIDER_LOG_FORMAT" "FORMAT" Some("text"), ALL,
        "`text` for people or `json`, one object a line";
    DATA_DIR = "POSTRIDER_DATA_DIR" "PATH" None, &[Up],
        "Where `up` keeps its own PostgreSQL and Redis. Default: `/var/lib/postrider` for root, else `~/.local/share/postrider`";
}

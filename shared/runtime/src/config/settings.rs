//! The table of all settings. The texts in it are the ones that `--help`, `.env.example` and the documentation show.

/// The services and commands that read settings.
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

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub env: &'static str,
    /// The value if none is given. `None` means that the setting is then absent.
    pub default: Option<&'static str>,
    /// The name of the value in help texts.
    pub value_name: &'static str,
    /// What it does, with units and limits.
    pub help: &'static str,
    /// The services that read it. `up` reads all settings of the services.
    pub services: &'static [Service],
    /// True if help texts and logs must not show the value.
    pub is_secret: bool,
}

impl Setting {
    /// Returns the flag of the setting: `DATABASE_URL` → `database-url`, `POSTRIDER_API_LISTEN` → `api-listen`.
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
            pub static $name: Setting = Setting {
                env: $env,
                default: $default,
                value_name: $value_name,
                help: $help,
                services: $services,
                is_secret: settings!(@secret $($secret)?),
            };
        )+

        /// All settings.
        pub static SETTINGS: &[&Setting] = &[$(&$name),+];
    };
    (@secret) => { false };
    (@secret secret) => { true };
}

settings! {
    DATABASE_URL = "DATABASE_URL" "URL" None, ALL,
        "URL of a PostgreSQL 15 or newer, such as `postgres://user:password@host/database`. The database must use the UTF8 encoding. If several hosts are given (`host1,host2`), the primary is used", secret;
    DATABASE_DIRECT_URL = "POSTRIDER_DATABASE_DIRECT_URL" "URL" None, ALL,
        "URL of the same database without a connection pooler such as PgBouncer, for LISTEN and session locks. Default: DATABASE_URL", secret;
    DATABASE_POOL_SIZE = "POSTRIDER_DATABASE_POOL_SIZE" "COUNT" Some("8"), EVERY_SERVICE,
        "Number of PostgreSQL connections in each pool of a service, from 2 to 1000. A service has one pool for commits that wait for the disk and one for commits that do not, and the API has another one for accepting events. `up` runs three services. Each service also has one or two dedicated sessions";
    REDIS_URL = "REDIS_URL" "URL" None, &[Relay, Deliverer, Up],
        "URL of a Redis 7 or newer, or of Valkey, such as `redis://:password@host/0`, `rediss://…` for TLS or `redis+unix:///path`", secret;
    REDIS_PREFIX = "POSTRIDER_REDIS_PREFIX" "TEXT" Some("postrider"), &[Relay, Deliverer, Up],
        "Prefix of the names of all Redis keys, so that several installations can share one server";
    QUEUE_WINDOW = "POSTRIDER_QUEUE_WINDOW" "COUNT" Some("4000"), &[Relay, Deliverer, Up],
        "Maximum number of deliveries of one endpoint that wait in Redis, from 1 to 1000000. The others wait in PostgreSQL";
    QUEUE_CAPACITY = "POSTRIDER_QUEUE_CAPACITY" "COUNT" Some("500000"), &[Relay, Deliverer, Up],
        "Maximum number of deliveries of all endpoints that wait in Redis, from 1 to 100000000. The others wait in PostgreSQL";
    API_LISTEN = "POSTRIDER_API_LISTEN" "ADDRESS" Some("127.0.0.1:8000"), &[Api, Up],
        "Address that the API listens on. `:8000` means all interfaces. Any address other than loopback requires an admin token";
    RELAY_LISTEN = "POSTRIDER_RELAY_LISTEN" "ADDRESS" Some("127.0.0.1:8001"), &[Relay],
        "Address on which the relay serves /health/live, /health/ready and /metrics";
    DELIVERER_LISTEN = "POSTRIDER_DELIVERER_LISTEN" "ADDRESS" Some("127.0.0.1:8002"), &[Deliverer],
        "Address on which the deliverer serves /health/live, /health/ready and /metrics";
    ADMIN_TOKEN = "POSTRIDER_ADMIN_TOKEN" "TOKEN" None, &[Api, Up],
        "Bearer token of the admin, with at least 16 characters. While you replace it, set both tokens, separated by a comma. Not required if the API only listens on loopback", secret;
    MASTER_KEY = "POSTRIDER_MASTER_KEY" "KEY,…" None, &[Api, Deliverer, Rekey, Up],
        "Key that encrypts signing secrets, sensitive headers and URL queries in the database: the base64 of 32 bytes, for example from `openssl rand -base64 32`. While you replace it, set several keys, separated by commas: the first one encrypts, all of them decrypt. If it is not set, these values are stored unencrypted", secret;
    ALLOW_NETWORKS = "POSTRIDER_ALLOW_NETWORKS" "CIDR,…" None, &[Api, Deliverer, Up],
        "Networks that webhooks can be sent to although they are not public, such as `10.1.0.0/16,127.0.0.1/32`";
    HTTPS_ONLY = "POSTRIDER_HTTPS_ONLY" "BOOL" Some("false"), &[Api, Deliverer, Up],
        "If true, endpoints must use `https`";
    MAX_ENDPOINTS = "POSTRIDER_MAX_ENDPOINTS" "COUNT" Some("1000"), &[Api, Up],
        "Maximum number of endpoints of one application, from 1 to 100000";
    MAX_MATCHING_STEPS = "POSTRIDER_MAX_MATCHING_STEPS" "COUNT" Some("500000"), &[Api, Up],
        "Maximum number of steps to match one event with the filters and event types of all endpoints of its application, from 40000 to 100000000. A step takes about a tenth of a microsecond";
    ACCEPT_WRITERS = "POSTRIDER_ACCEPT_WRITERS" "COUNT" Some("2"), &[Api, Up],
        "Maximum number of statements that store accepted events of one application at the same time, from 1 to 64. One more is reserved for other applications. Another statement is only started while one takes longer than 10 ms";
    ACCEPT_QUEUE_BYTES = "POSTRIDER_ACCEPT_QUEUE_BYTES" "BYTES" Some("67108864"), &[Api, Up],
        "Maximum size of the events that wait to be stored, in bytes, from 16777216 to 17179869184. When it is reached, the API responds with 503";
    RETRY_SCHEDULE = "POSTRIDER_RETRY_SCHEDULE" "SECONDS,…" Some("5,300,1800,7200,18000,36000,50400,72000,86400"), &[Relay, Deliverer, Up],
        "Delay before each retry in seconds, for endpoints without a schedule of their own. The last delay is repeated. Jitter of ±20 % is applied";
    RETENTION_DAYS = "POSTRIDER_RETENTION_DAYS" "DAYS" Some("30"), &[Relay, Up],
        "Minimum number of days that events, deliveries, attempts and idempotency keys are kept, from 1 to 3650. They are removed in pieces of a quarter of this time";
    DELIVERER_CONCURRENCY = "POSTRIDER_DELIVERER_CONCURRENCY" "COUNT" Some("1024"), &[Deliverer, Up],
        "Maximum number of webhooks that one deliverer sends at the same time, from 1 to 100000";
    DELIVERER_BODY_BYTES = "POSTRIDER_DELIVERER_BODY_BYTES" "BYTES" Some("67108864"), &[Deliverer, Up],
        "Maximum size of the request bodies that one deliverer holds in memory, in bytes, from 1048576 to 17179869184";
    AUTO_DISABLE_DAYS = "POSTRIDER_AUTO_DISABLE_DAYS" "DAYS" Some("5"), &[Deliverer, Up],
        "Number of days after which an endpoint is disabled if all of its attempts have failed, from 0 to 365. Two days without an attempt restart the count. 0 turns this off";
    DNS_SERVERS = "POSTRIDER_DNS_SERVERS" "ADDRESS,…" None, &[Deliverer, Up],
        "Name servers to use instead of those of the system, such as `10.0.0.2:53`";
    EXTRA_CA_FILE = "POSTRIDER_EXTRA_CA_FILE" "PATH" None, ALL,
        "File with PEM certificates to trust in addition to those of the system, for receivers, PostgreSQL and Redis";
    EGRESS_PROXY = "POSTRIDER_EGRESS_PROXY" "URL" None, &[Deliverer, Up],
        "URL of a proxy that all webhooks are sent through, such as `http://proxy:3128`. The proxy resolves names, so it must refuse private addresses";
    STOP_GRACE_SECONDS = "POSTRIDER_STOP_GRACE_SECONDS" "SECONDS" Some("70"), &[Deliverer, Up],
        "Number of seconds that webhooks in progress may take to finish after a signal to stop, from 0 to 3600. Should not be less than the longest endpoint timeout";
    LOG = "POSTRIDER_LOG" "FILTER" Some("info"), ALL,
        "What is logged: `error`, `warn`, `info` or `debug`, also by module, such as `info,postrider_relay=debug`";
    LOG_FORMAT = "POSTRIDER_LOG_FORMAT" "FORMAT" Some("text"), ALL,
        "Format of the log: `text` for people, or `json` with one object per line";
    DATA_DIR = "POSTRIDER_DATA_DIR" "PATH" None, &[Up],
        "Directory in which `up` keeps its own PostgreSQL and Redis. Default: `/var/lib/postrider` for root, otherwise `~/.local/share/postrider`";
}

//! The bodies that create, update and show an endpoint. A table defines the fields that all three have in common. The
//! defaults and checks of these fields are in [`fields`](super::fields).

use std::collections::BTreeMap;

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined;
use postrider_domain::filter::Filter;
use postrider_secrets::endpoints;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::web::json_types::{JsonObject, Timestamp};

/// Defines the bodies from a table of the fields that they have in common. A field is written like this:
///
/// ```text
/// name: Type in requests [validator] => Type in responses = conversion from the stored value;
/// ```
///
/// The validator and the conversion can be left out. The validator only appears in the specification; requests are
/// checked in [`fields`](super::fields). The descriptions in the three bodies follow.
macro_rules! endpoint_bodies {
    ($(
        $field:ident: $given:ty $([$($validator:tt)*])? => $shown:ty $(= $convert:expr)?;
        create { $($create:tt)* }
        update { $($update:tt)* }
        show { $($show:tt)* }
    )*) => {
        /// The endpoint to create.
        #[derive(Debug, Object, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct CreateEndpointRequest {
            /// The URL to send webhooks to: an absolute `https` or `http` URL without credentials and without a fragment. The
            /// values of its query are treated as secrets and are never shown again.
            #[oai(validator(max_length = 2048))]
            pub(crate) url: String,
            $(
                $($create)*
                $(#[oai(validator($($validator)*))])?
                #[serde(default)]
                pub(crate) $field: MaybeUndefined<$given>,
            )*
            /// If false, the endpoint is disabled: new events do not match it. Default: true.
            #[serde(default)]
            pub(crate) is_active: Option<bool>,
            /// Your own signing secret: `whsec_` followed by the base64 of 24 to 64 bytes. For Ed25519: `whsk_` followed by
            /// the base64 of the private key, with or without the public key appended. If absent or null, a new secret is
            /// generated.
            #[serde(default)]
            pub(crate) secret: Option<String>,
            /// The signing algorithm: `hmac-sha256` (signatures `v1`), or `ed25519` (signatures `v1a`), for which the
            /// receiver only needs a public key. If absent or null, the algorithm of `secret`, or `hmac-sha256` if there is
            /// no `secret`.
            #[oai(validator(pattern = "^(hmac-sha256|ed25519)$"))]
            #[serde(default)]
            pub(crate) signing_algorithm: Option<String>,
        }

        /// The fields to change. Absent fields keep their value.
        #[derive(Debug, Default, Object, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct UpdateEndpointRequest {
            /// The URL to send webhooks to: an absolute `https` or `http` URL without credentials and without a fragment.
            /// Open deliveries are sent there too. To keep the values of the query, send the URL exactly as the API shows it,
            /// with `***`. If the scheme, host or port changes, you must send the values of sensitive headers again.
            #[oai(validator(max_length = 2048))]
            #[serde(default)]
            pub(crate) url: MaybeUndefined<String>,
            $(
                $($update)*
                $(#[oai(validator($($validator)*))])?
                #[serde(default)]
                pub(crate) $field: MaybeUndefined<$given>,
            )*
            /// If false, the endpoint is disabled: new events do not match it, and open deliveries wait. If true, the
            /// endpoint is enabled, and waiting deliveries are sent.
            #[serde(default)]
            pub(crate) is_active: MaybeUndefined<bool>,
            /// Why the endpoint is disabled, for people. It is removed when the endpoint is enabled.
            #[oai(validator(max_length = 500))]
            #[serde(default)]
            pub(crate) disabled_reason: MaybeUndefined<String>,
            /// What happens to the open deliveries of a disabled endpoint: `keep` (they wait until it is enabled) or
            /// `cancel`. Default: `keep`.
            #[oai(validator(pattern = "^(keep|cancel)$"))]
            #[serde(default)]
            pub(crate) open_deliveries: Option<String>,
        }

        /// A URL that webhooks are sent to, with its settings.
        #[derive(Debug, Object, Serialize)]
        pub(crate) struct Endpoint {
            /// The unique id of the endpoint.
            id: Uuid,
            /// The id of the application that the endpoint belongs to.
            application_id: Uuid,
            /// The URL that webhooks are sent to. The values of its query are shown as `***`.
            url: String,
            $(
                $($show)*
                $field: $shown,
            )*
            /// If false, the endpoint is disabled: new events do not match it, and open deliveries wait.
            is_active: bool,
            /// Why the endpoint is disabled. Null if it is active, or if no reason was given.
            disabled_reason: Option<String>,
            /// When the endpoint was created.
            created_at: Timestamp,
            /// When the endpoint was last updated.
            updated_at: Timestamp,
        }

        impl CreateEndpointRequest {
            /// Turns the request into an update of an endpoint that has the defaults.
            pub(crate) fn into_update(self) -> UpdateEndpointRequest {
                UpdateEndpointRequest {
                    url: MaybeUndefined::Value(self.url),
                    $($field: self.$field,)*
                    ..UpdateEndpointRequest::default()
                }
            }
        }

        impl From<endpoints::Endpoint> for Endpoint {
            fn from(stored: endpoints::Endpoint) -> Self {
                let settings = stored.settings;
                Self {
                    id: stored.id.0,
                    application_id: stored.application_id.0,
                    url: settings.url,
                    $($field: convert!(settings.$field $(, $convert)?),)*
                    is_active: stored.is_active,
                    disabled_reason: stored.disabled_reason,
                    created_at: stored.created_at.into(),
                    updated_at: stored.updated_at.into(),
                }
            }
        }
    };
}

macro_rules! convert {
    ($value:expr) => {
        $value
    };
    ($value:expr, $convert:expr) => {
        ($convert)($value)
    };
}

endpoint_bodies! {
    description: String [max_length = 1000] => String;
    create {
        /// A description for people. Default: empty.
    }
    update {
        /// A description for people. Null makes it empty.
    }
    show {
        /// A description for people.
    }

    metadata: JsonObject => JsonObject = JsonObject::rendered;
    create {
        /// A JSON object for your own use, up to 16 KiB. Default: empty.
    }
    update {
        /// A JSON object for your own use, up to 16 KiB. It replaces the current one. Null makes it empty.
    }
    show {
        /// A JSON object for your own use.
    }

    event_types: Vec<String> [min_items = 1, max_items = 100] => Vec<String>;
    create {
        /// The event types that the endpoint receives: exact types, `prefix.*` for all types below a prefix, or `*` for
        /// all types. Types that start with `postrider.` are operational events, which `*` does not match. Default:
        /// `["*"]`.
    }
    update {
        /// The event types that the endpoint receives from now on: exact types, `prefix.*` for all types below a prefix,
        /// or `*` for all types except those that start with `postrider.`. Null means `["*"]`.
    }
    show {
        /// The event types that the endpoint receives: exact types, `prefix.*` or `*`.
    }

    filter: JsonObject => Option<JsonObject> = filter_json;
    create {
        /// Conditions on the `data` of an event, such as `{"data.amount": {"gt": 1000}, "data.currency": {"in": ["EUR",
        /// "USD"]}}`. The endpoint receives only events that meet all of them. The total cost of all filters of an
        /// application is limited. If absent or null, the endpoint receives all events that match `event_types`.
    }
    update {
        /// Conditions that the `data` of events must meet from now on. Null removes the filter.
    }
    show {
        /// The conditions that the `data` of an event must meet. Null if there are none.
    }

    headers: BTreeMap<String, String> => BTreeMap<String, String>;
    create {
        /// Additional headers to send with every webhook, up to 20. Default: none.
    }
    update {
        /// Additional headers to send with every webhook, up to 20. They replace all current headers. The value `***`
        /// keeps the current value of a sensitive header. Null removes all headers.
    }
    show {
        /// Additional headers that are sent with every webhook, by name. Sensitive values are shown as `***`.
    }

    sensitive_headers: Vec<String> [max_items = 20] => Vec<String>;
    create {
        /// The names of the `headers` whose values are secret. These values are never shown again. Default: none.
    }
    update {
        /// The names of the `headers` whose values are secret. To make a sensitive header visible, you must send its
        /// value again. Null means none.
    }
    show {
        /// The names of the headers whose values are hidden.
    }

    rate_limit: i32 [minimum(value = "1")] => Option<i32>;
    create {
        /// Maximum number of webhooks per second. If absent, 1000. If null, there is no limit.
    }
    update {
        /// Maximum number of webhooks per second. Null removes the limit.
    }
    show {
        /// Maximum number of webhooks per second. Null if there is no limit.
    }

    concurrency_limit: i32 [minimum(value = "1"), maximum(value = "1000")] => i32;
    create {
        /// Maximum number of webhooks that are being sent at the same time, from 1 to 1,000. Default: 100.
    }
    update {
        /// Maximum number of webhooks that are being sent at the same time, from 1 to 1,000. Null means 100.
    }
    show {
        /// Maximum number of webhooks that are being sent at the same time.
    }

    max_attempts: i32 [minimum(value = "1"), maximum(value = "20")] => i32 = Into::into;
    create {
        /// Maximum number of attempts for each delivery, including the first one, from 1 to 20. Default: 10.
    }
    update {
        /// Maximum number of attempts, including the first one, for each delivery created from now on, from 1 to 20. Null
        /// means 10.
    }
    show {
        /// Maximum number of attempts for each delivery, including the first one.
    }

    retry_schedule: Vec<i32> [min_items = 1, max_items = 20] => Option<Vec<i32>>;
    create {
        /// The delay before each retry in seconds, from 0 to 2,592,000. If there are more retries than delays, the last
        /// delay is repeated. Jitter of ±20 % is applied. If absent or null, the schedule of the installation is used, by
        /// default 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
    }
    update {
        /// The delay before each retry in seconds, from 0 to 2,592,000. If there are more retries than delays, the last
        /// delay is repeated. Retries that are already scheduled keep their time. Null means the schedule of the
        /// installation.
    }
    show {
        /// The delay before each retry, in seconds. Null if the schedule of the installation is used.
    }

    permanent_statuses: Vec<i32> [max_items = 100] => Vec<i32> = widen;
    create {
        /// Response statuses from 300 to 599 after which a delivery is not retried. Default: none.
    }
    update {
        /// Response statuses from 300 to 599 after which a delivery is not retried. Null means none.
    }
    show {
        /// Response statuses after which a delivery is not retried. Independent of this list, 2xx is always a success,
        /// and 410 always disables the endpoint.
    }

    timeout_seconds: i32 [minimum(value = "1"), maximum(value = "60")] => i32 = Into::into;
    create {
        /// Timeout of a whole attempt in seconds, including reading the response, from 1 to 60. Default: 15.
    }
    update {
        /// Timeout of a whole attempt in seconds, including reading the response, from 1 to 60. Null means 15.
    }
    show {
        /// Timeout of a whole attempt in seconds, including reading the response.
    }

    ordered: bool => bool;
    create {
        /// If true, deliveries are sent one at a time, in the order in which their events were accepted. A delivery that
        /// fails blocks those behind it until it succeeds, becomes a dead letter or is cancelled. Default: false.
    }
    update {
        /// If true, deliveries of events accepted from now on are sent one at a time, in the order of acceptance.
        /// Deliveries that were accepted before keep their mode. If false or null, no order is kept, not even for waiting
        /// deliveries.
    }
    show {
        /// If true, deliveries are sent one at a time, in the order in which their events were accepted.
    }
}

fn filter_json(filter: Option<Filter>) -> Option<JsonObject> {
    filter.map(|filter| JsonObject::rendered(filter.json))
}

fn widen(statuses: Vec<i16>) -> Vec<i32> {
    statuses.into_iter().map(Into::into).collect()
}

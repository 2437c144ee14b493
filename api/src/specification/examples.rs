//! The examples of the specification: one for each schema.

use serde_json::{Value, json};

use crate::specification::problem_examples::problem;
use crate::specification::{for_each_operation, schemas_mut};

const APPLICATION_ID: &str = "0198f1a2-3b4c-7d5e-8f60-718293a4b5c6";
const API_KEY_ID: &str = "0198f1a2-4c5d-7e6f-9071-8293a4b5c6d7";
const ENDPOINT_ID: &str = "0198f1a3-5d6e-7f70-8182-93a4b5c6d7e8";
const EVENT_ID: &str = "0198f1a4-6e7f-7081-9293-a4b5c6d7e8f9";
const DELIVERY_ID: &str = "0198f1a4-6e80-7192-a3a4-b5c6d7e8f90a";
const REPLAY_ID: &str = "0198f1a5-7f91-7283-a4b5-c6d7e8f90a1b";
const EMIT_REJECTION_ID: &str = "0198f1a6-80a2-7394-b5c6-d7e8f90a1b2c";
const API_KEY: &str = "pr_u3Zk0Qw9Tn5bJxVd2LrYh8Cf6Ga1Ms4Pe7Ki-Oq_WvE";
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Adds an example to every schema, request and response.
pub(crate) fn add(document: &mut Value) {
    for (name, schema) in schemas_mut(document) {
        if let Some(example) = of(name) {
            schema["example"] = example;
        }
    }
    for_each_operation(document, |operation| {
        if let Some(body) = operation.get_mut("requestBody") {
            add_to_content(body);
        }
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
            match problem(status, &id) {
                Some(problem) => response["content"]["application/problem+json"]["example"] = problem,
                None => add_to_content(response),
            }
        }
    });
}

fn add_to_content(holder: &mut Value) {
    for (_, media) in holder.get_mut("content").and_then(Value::as_object_mut).into_iter().flatten() {
        let name = media["schema"]["$ref"].as_str().and_then(|text| text.rsplit('/').next());
        if let Some(example) = name.and_then(of) {
            media["example"] = example;
        }
    }
}

/// Returns the example of a schema.
pub(crate) fn of(schema: &str) -> Option<Value> {
    if let Some(item) = schema.strip_suffix("Page") {
        return Some(json!({ "data": [of(item)?], "next_cursor": null }));
    }
    Some(match schema {
        "Application" => application(),
        "CreatedApplication" => with(application(), "api_key", API_KEY),
        "CreateApplicationRequest" => json!({ "name": "Acme", "uid": "acme", "metadata": { "plan": "pro" } }),
        "ApiKey" => api_key(),
        "CreatedApiKey" => with(api_key(), "api_key", API_KEY),
        "CreateApiKeyRequest" => {
            json!({ "name": "billing service", "scopes": ["publish"], "expires_at": "2036-01-31T12:00:00Z" })
        }
        "Endpoint" => endpoint(),
        "CreatedEndpoint" => {
            let mut created = with(endpoint(), "secret", SECRET);
            created["public_key"] = Value::Null;
            created
        }
        "CreateEndpointRequest" => json!({
            "url": "https://example.com/webhooks",
            "description": "Acme's billing",
            "event_types": ["invoice.*"],
            "filter": filter(),
            "headers": { "x-team": "billing" },
            "rate_limit": 100,
            "max_attempts": 8,
            "timeout_seconds": 10
        }),
        "EndpointHealth" => json!({
            "state": "open",
            "reason": "the receiver answered 500",
            "failing_since": "2026-01-05T09:30:12.000000Z",
            "next_probe_at": "2026-01-05T09:31:12.000000Z",
        }),
        "UpdateApplicationRequest" => json!({ "name": "Acme Ltd", "metadata": { "plan": "free" } }),
        "UpdateEndpointRequest" => json!({
            "event_types": ["invoice.*", "refund.*"],
            "retry_schedule": null,
            "is_active": false,
            "disabled_reason": "maintenance until Monday",
            "open_deliveries": "keep"
        }),
        "EndpointSecret" => json!({
            "algorithm": "hmac-sha256",
            "secret": SECRET,
            "public_key": null,
            "created_at": "2026-01-31T12:00:00.000000Z",
            "previous": [of("PreviousSecret")?]
        }),
        "PreviousSecret" => json!({
            "algorithm": "ed25519",
            "secret": null,
            "public_key": "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
            "created_at": "2026-01-31T11:30:00.000000Z",
            "expires_at": "2026-02-01T12:00:00.000000Z"
        }),
        "RotateSecretRequest" => json!({ "algorithm": "hmac-sha256", "overlap_seconds": 3600 }),
        "SentTest" => json!({ "event_id": EVENT_ID, "delivery_id": DELIVERY_ID }),
        "EndpointStats" => json!({
            "endpoint_id": ENDPOINT_ID,
            "from": "2026-01-30T12:00:00.000000Z",
            "to": "2026-01-31T12:00:00.000000Z",
            "is_complete": true,
            "deliveries": of("DeliveryCounts")?,
            "success_rate": 0.995,
            "attempts": of("AttemptCounts")?,
            "attempt_duration_ms": of("Percentiles")?,
            "success_latency_ms": { "p50": 31.5, "p95": 220.0, "p99": 5300.4 }
        }),
        "DeliveryCounts" => json!({
            "total": 1003, "pending": 1, "in_progress": 1, "succeeded": 995, "failed": 1, "dead_letter": 5,
            "cancelled": 0
        }),
        "AttemptCounts" => json!({ "succeeded": 995, "failed": 38, "unknown": 0 }),
        "Percentiles" => json!({ "p50": 24.0, "p95": 180.5, "p99": 410.9 }),
        "AuditEntry" => json!({
            "id": "0198f1a5-7f80-7192-a3a4-b5c6d7e8f90b",
            "application_id": APPLICATION_ID,
            "actor": "api_key",
            "api_key_id": API_KEY_ID,
            "api_key_prefix": &API_KEY[..11],
            "action": "endpoint.update",
            "resource_type": "endpoint",
            "resource_id": ENDPOINT_ID,
            "before": { "max_attempts": 10 },
            "after": { "max_attempts": 8 },
            "created_at": "2026-01-31T12:00:00.000000Z"
        }),
        "PublishEventRequest" => json!({ "event_type": "invoice.paid", "data": data() }),
        "PublishedEvent" => {
            json!({ "status": "accepted", "event_id": EVENT_ID, "deliveries_queued": 1, "duplicate": false })
        }
        "PublishEventBatchRequest" => json!({ "events": [batch_event()] }),
        "BatchEvent" => batch_event(),
        "PublishedEventBatch" => json!({ "results": [batch_result()] }),
        "BatchResult" => batch_result(),
        "TestFilterRequest" => json!({ "filter": filter(), "data": data() }),
        "TestEndpointFilterRequest" => json!({ "event_id": EVENT_ID }),
        "FilterTest" => json!({ "matched": true }),
        "CreateReplayRequest" => json!({
            "mode": "redrive",
            "event_types": ["invoice.paid"],
            "created_after": "2026-01-31T00:00:00Z",
            "dry_run": true
        }),
        "Replay" => replay(),
        "EmitRejection" => emit_rejection(),
        "EmitRejectionWithData" => with(emit_rejection(), "data", "{\"amount\": 4200}"),
        "EventType" => event_type(),
        "CreateEventTypeRequest" => json!({
            "name": "invoice.paid",
            "description": "An invoice was paid in full.",
            "example": data(),
            "json_schema": json_schema()
        }),
        "UpdateEventTypeRequest" => json!({ "description": "An invoice was paid.", "json_schema": null }),
        "ReplayEventRequest" => json!({ "endpoint_ids": [ENDPOINT_ID] }),
        "ReplayedEvent" => {
            json!({ "event_id": EVENT_ID, "deliveries_queued": 1, "delivery_ids": [DELIVERY_ID] })
        }
        "Event" => json!({
            "id": EVENT_ID,
            "application_id": APPLICATION_ID,
            "event_type": "invoice.paid",
            "data": data(),
            "idempotency_key": "invoice-4711-paid",
            "created_at": "2026-01-31T12:00:00.123456Z",
            "expunged_at": null
        }),
        "Delivery" => delivery(),
        "Attempt" => attempt(),
        "Header" => json!({ "name": "content-type", "value": "text/plain" }),
        "Problem" => problem("422", "").expect("422 has an example"),
        "FieldError" => {
            json!({ "field": "url", "message": "must be an absolute URL such as \
                                                `https://example.com/webhooks`" })
        }
        _ => return None,
    })
}

fn with(mut object: Value, field: &str, value: &str) -> Value {
    object[field] = json!(value);
    object
}

fn application() -> Value {
    json!({
        "id": APPLICATION_ID,
        "uid": "acme",
        "name": "Acme",
        "metadata": { "plan": "pro" },
        "is_active": true,
        "ingest_rate_limit": null,
        "strict_event_types": false,
        "created_at": "2026-01-31T11:00:00.000000Z",
        "updated_at": "2026-01-31T11:00:00.000000Z"
    })
}

fn api_key() -> Value {
    json!({
        "id": API_KEY_ID,
        "name": "billing service",
        "prefix": &API_KEY[..11],
        "scopes": ["publish"],
        "expires_at": "2036-01-31T12:00:00.000000Z",
        "last_used_at": null,
        "created_at": "2026-01-31T11:00:00.000000Z"
    })
}

fn endpoint() -> Value {
    json!({
        "id": ENDPOINT_ID,
        "application_id": APPLICATION_ID,
        "url": "https://example.com/webhooks",
        "description": "Acme's billing",
        "metadata": {},
        "event_types": ["invoice.*"],
        "filter": filter(),
        "headers": { "x-team": "billing" },
        "sensitive_headers": [],
        "rate_limit": 100,
        "concurrency_limit": 100,
        "max_attempts": 8,
        "retry_schedule": null,
        "permanent_statuses": [],
        "timeout_seconds": 10,
        "ordered": false,
        "is_active": true,
        "disabled_reason": null,
        "created_at": "2026-01-31T11:30:00.000000Z",
        "updated_at": "2026-01-31T11:30:00.000000Z"
    })
}

fn data() -> Value {
    json!({ "invoice_id": "in_4711", "amount": 4200, "currency": "EUR" })
}

fn emit_rejection() -> Value {
    json!({
        "id": EMIT_REJECTION_ID,
        "application_id": APPLICATION_ID,
        "application": "acme",
        "event_type": "invoice.paid",
        "idempotency_key": "invoice-4711-paid",
        "code": "idempotency_key_reused",
        "detail": "This idempotency key was already used for a different event. Use a new key for each new \
                   event.",
        "errors": [],
        "emitted_at": "2026-01-31T12:00:00.000000Z",
        "created_at": "2026-01-31T12:00:00.020000Z"
    })
}

fn replay() -> Value {
    json!({
        "id": REPLAY_ID,
        "application_id": APPLICATION_ID,
        "mode": "redrive",
        "endpoint_ids": [ENDPOINT_ID],
        "event_types": null,
        "statuses": null,
        "created_after": "2026-01-31T00:00:00.000000Z",
        "created_before": "2026-01-31T12:30:00.000000Z",
        "dry_run": true,
        "status": "running",
        "scanned_count": 12000,
        "matched_count": 4711,
        "progress": 0.37,
        "rate_per_second": 4711.0,
        "last_error": null,
        "created_at": "2026-01-31T12:30:00.000000Z",
        "started_at": "2026-01-31T12:30:00.400000Z",
        "completed_at": null
    })
}

fn filter() -> Value {
    json!({ "data.amount": { "gt": 1000 }, "data.currency": { "in": ["EUR", "USD"] } })
}

fn event_type() -> Value {
    json!({
        "application_id": APPLICATION_ID,
        "name": "invoice.paid",
        "description": "An invoice was paid in full.",
        "example": data(),
        "json_schema": json_schema(),
        "is_archived": false,
        "created_at": "2026-01-31T11:00:00.000000Z",
        "updated_at": "2026-01-31T11:00:00.000000Z"
    })
}

fn json_schema() -> Value {
    json!({
        "type": "object",
        "required": ["invoice_id", "amount"],
        "properties": { "amount": { "type": "integer", "minimum": 1 } }
    })
}

fn batch_event() -> Value {
    json!({ "idempotency_key": "invoice-4711-paid", "event_type": "invoice.paid", "data": data() })
}

fn batch_result() -> Value {
    json!({
        "index": 0,
        "status": "accepted",
        "event_id": EVENT_ID,
        "deliveries_queued": 1,
        "duplicate": false,
        "error": null
    })
}

fn delivery() -> Value {
    json!({
        "id": DELIVERY_ID,
        "event_id": EVENT_ID,
        "endpoint_id": ENDPOINT_ID,
        "event_type": "invoice.paid",
        "status": "failed",
        "attempt_count": 1,
        "max_attempts": 8,
        "next_retry_at": "2026-01-31T12:00:05.500000Z",
        "last_error": "the receiver answered 503",
        "last_response_status": 503,
        "waiting_for": null,
        "created_at": "2026-01-31T12:00:00.123456Z",
        "completed_at": null
    })
}

fn attempt() -> Value {
    json!({
        "attempt_number": 1,
        "outcome": "failed",
        "error_class": "http",
        "error_message": "the receiver answered 503",
        "request_headers": [{ "name": "webhook-id", "value": EVENT_ID }],
        "response_status": 503,
        "response_headers": [{ "name": "content-type", "value": "text/plain" }],
        "response_body": "try again later",
        "response_body_encoding": "utf8",
        "response_body_truncated": false,
        "resent": false,
        "duration_ms": 42,
        "created_at": "2026-01-31T12:00:00.234567Z"
    })
}

//! The metrics of the API.

postrider_runtime::metrics! {
    counter HTTP_REQUESTS = "postrider_http_requests_total":
        "requests with a response, including those for health and metrics";
    histogram HTTP_REQUEST_SECONDS = "postrider_http_request_seconds": "duration of these requests";
    counter CONNECTIONS_PUSHED_OUT = "postrider_connections_pushed_out_total":
        "connections that were closed because a new one needed their place: idle ones, and those whose requests wait for a body, a turn or a reader";
    counter CONNECTIONS_REFUSED = "postrider_connections_refused_total":
        "connections that were refused because the API was working on a request of every other one; the log says when this begins and ends";
    counter EVENTS_ACCEPTED = "postrider_events_accepted_total":
        "events that got a 202; `true`: their key had been used before";
    histogram ACCEPT_SECONDS = "postrider_accept_seconds":
        "time to store a batch of events, including its commit";
    histogram ACCEPT_BATCH_SIZE = "postrider_accept_batch_size": "events stored by one statement";
    counter INBOX_EVENTS = "postrider_inbox_events_total":
        "events that were emitted in SQL: `accepted`, `duplicate`, `rejected` (see `/v1/emit-rejections`) or `postponed`, to be tried again";
}

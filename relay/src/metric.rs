//! The metrics of the relay.

postrider_runtime::metrics! {
    counter TAKEN = "postrider_relay_taken_total": "rows taken from the outbox";
    histogram BATCH_SIZE = "postrider_relay_batch_size": "rows of one take";
    histogram LAG = "postrider_relay_lag_seconds": "how long the oldest row of a take had been due";
    counter PARKED = "postrider_relay_parked_total": "rows parked";
    counter RECONCILIATIONS = "postrider_relay_reconciliations_total":
        "how often Redis was found to have lost its memory";
    counter SWEPT = "postrider_relay_swept_total": "deliveries whose deliverer vanished while it had them";
    counter STRANDED = "postrider_relay_stranded_total":
        "open deliveries that nobody was working on and that the audit found: 0, unless Redis has discarded ids or something is wrong";
    gauge OUTBOX_DUE = "postrider_outbox_due":
        "outbox rows that are due and not taken; at most 10,000 are counted";
    gauge OUTBOX_OLDEST_DUE = "postrider_outbox_oldest_due_seconds": "how long the oldest of them has waited";
    gauge OUTBOX_PARKED = "postrider_outbox_parked":
        "rows that wait for room in Redis or for their endpoint; PostgreSQL's estimate, as old as its last vacuum";
    gauge QUEUE_WAITING = "postrider_queue_waiting": "ids that wait in Redis";
    gauge QUEUE_ELIGIBLE_APPLICATIONS = "postrider_queue_eligible_applications":
        "applications with something that may be sent now";
    gauge QUEUE_BLOCKED_ENDPOINTS = "postrider_queue_blocked_endpoints":
        "endpoints that wait for their rate limit, or for their next probe";
    gauge QUEUE_ENDPOINTS_IN_FLIGHT = "postrider_queue_endpoints_in_flight":
        "endpoints to which webhooks are being sent";
    gauge LEASES = "postrider_leases": "batches that deliverers have claimed and not completely recorded";
    gauge OLDEST_TRANSACTION = "postrider_postgresql_oldest_transaction_seconds":
        "age of the oldest transaction that keeps dead rows from being removed";
    gauge ENDPOINTS = "postrider_endpoints":
        "endpoints: `well`, `failing` (active, and only probed), `disabled`";
    gauge INBOX_WAITING = "postrider_inbox_waiting":
        "emitted events that are not accepted yet; at most 10,000 are counted";
    gauge INBOX_OLDEST = "postrider_inbox_oldest_seconds": "how long the oldest of them has waited";
    gauge REPLAYS_OPEN = "postrider_replays_open": "bulk replays that have not ended";
    counter REPLAY_DELIVERIES = "postrider_replay_deliveries_total":
        "deliveries that bulk replays have made or reopened";
    gauge CLEANUPS_OPEN = "postrider_cleanups_open": "deletions and withdrawals that are not finished";
    counter CLEANUP_STEPS = "postrider_cleanup_steps_total": "steps taken for those";
    gauge PARTITIONS_REMAINING = "postrider_partitions_remaining_seconds":
        "how far into the future each of the three tables has partitions without a gap; a week and more, 0 if one is missing now";
    counter DELIVERIES_EXPIRED = "postrider_deliveries_expired_total":
        "open deliveries that became dead letters because their events were older than the retention";
}

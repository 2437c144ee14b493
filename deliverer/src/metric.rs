//! The metrics of the deliverer.

postrider_runtime::metrics! {
    gauge IN_FLIGHT = "postrider_deliverer_in_flight":
        "ids that this deliverer holds: being sent, or waiting to be recorded";
    gauge RECORDS_WAITING = "postrider_deliverer_records_waiting":
        "attempts that could not be recorded yet, mostly because their delivery is locked";
    gauge CLOCK_AHEAD = "postrider_deliverer_clock_ahead_seconds":
        "how far this machine's clock is ahead of PostgreSQL's; negative: behind";
    histogram CLAIM_SECONDS = "postrider_claim_seconds": "time to claim a batch";
    counter CLAIMS_GIVEN_BACK = "postrider_claims_given_back_total":
        "webhooks that could not be sent because this part of the deliverer's health is down; they use up no attempt";
    counter ATTEMPTS = "postrider_attempts_total":
        "finished attempts: `succeeded`, `retry`, `dead_letter`; and where they failed, or `none`";
    counter ATTEMPTS_LOST = "postrider_attempts_lost_total":
        "attempts that PostgreSQL refused to store; the log names their deliveries";
    histogram EXCHANGE_SECONDS = "postrider_exchange_seconds":
        "an attempt from claim to classification, including the receiver's time";
    histogram FIRST_ATTEMPT_DELAY = "postrider_first_attempt_delay_seconds":
        "from acceptance to the first attempt, for deliveries that had one";
    histogram SUCCESS_DELAY = "postrider_success_delay_seconds":
        "from acceptance to success, including all retries and waits";
    histogram RECORD_SECONDS = "postrider_record_seconds": "time to record a batch, including its commit";
    histogram RECORD_BATCH_SIZE = "postrider_record_batch_size": "attempts recorded by one statement";
}

//! Removes what was deleted and cancels what was withdrawn, step by step, so that live traffic does not feel it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_runtime::every::Next;
use postrider_store::cleanups;

use crate::{Relay, StepError, metric};

/// How often it looks while there is nothing to do.
pub(super) const CADENCE: Duration = Duration::from_millis(500);

/// Between two steps it rests as long as the first of them took, at least this long: cleanups never take more than half of
/// one connection's time.
const LEAST_REST: Duration = Duration::from_millis(5);

/// Takes one step of what is left to do.
pub(super) async fn step(relay: Arc<Relay>) -> Result<Next, StepError> {
    let began = Instant::now();
    if !cleanups::step(&relay.store).await? {
        return Ok(Next::Later);
    }
    metrics::counter!(metric::CLEANUP_STEPS).increment(1);
    Ok(Next::After(began.elapsed().max(LEAST_REST)))
}

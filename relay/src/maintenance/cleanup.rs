//! Removes what was deleted and cancels what was withdrawn, in steps small enough not to slow live traffic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_runtime::every::Next;
use postrider_store::cleanups;

use crate::{Relay, StepError, metric};

/// Poll interval while there is nothing to do.
pub(super) const CADENCE: Duration = Duration::from_millis(500);

/// A step is followed by a rest as long as the step took, and at least this long: cleanups use at most half of one
/// connection's time.
const LEAST_REST: Duration = Duration::from_millis(5);

/// Takes one step of a pending cleanup.
pub(super) async fn step(relay: Arc<Relay>) -> Result<Next, StepError> {
    let began = Instant::now();
    if !cleanups::step(&relay.store).await? {
        return Ok(Next::Later);
    }
    metrics::counter!(metric::CLEANUP_STEPS).increment(1);
    Ok(Next::After(began.elapsed().max(LEAST_REST)))
}

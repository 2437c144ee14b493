//! Causes faults in a private installation under load.

use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, Nanos};
use crate::options::{Fault, Options};
use crate::private::Private;

/// One fault, with times of the ledger's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suffered {
    pub(crate) fault: Fault,
    pub(crate) began: Nanos,
    /// When everything was ready again.
    pub(crate) ended: Nanos,
}

/// The effect of one fault.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    /// Name of the fault on the command line.
    pub fault: &'static str,
    /// Time until everything was ready again.
    pub down_seconds: f64,
    /// Time from then until every event accepted before was delivered; `None` if one never was.
    pub caught_up_seconds: Option<f64>,
}

/// Causes one fault after another until `stop`. Repairs the last one before it returns.
pub(crate) async fn inflict(
    private: &mut Private,
    options: &Options,
    ledger: &Ledger,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Suffered>> {
    let mut suffered = Vec::new();
    for fault in options.faults.iter().cycle() {
        if stop.run_until_cancelled(tokio::time::sleep(options.fault_interval)).await.is_none() {
            break;
        }
        let began = ledger.now();
        private.suffer(*fault).await.with_context(|| format!("after the fault `{}`", fault.name()))?;
        suffered.push(Suffered { fault: *fault, began, ended: ledger.now() });
    }
    Ok(suffered)
}

//! Harm that is done to a private installation while it works.

use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, Nanos};
use crate::options::{Fault, Options};
use crate::private::Private;

/// One fault, by the clock of the ledger.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suffered {
    pub(crate) fault: Fault,
    pub(crate) began: Nanos,
    /// When all was ready again.
    pub(crate) ended: Nanos,
}

/// The same, for people.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    /// As the command line names it.
    pub fault: &'static str,
    /// Until all was ready again.
    pub down_seconds: f64,
    /// From then until everything that had been accepted before was delivered; `None` where something never
    /// was.
    pub caught_up_seconds: Option<f64>,
}

/// Inflicts one after another until `stop`; the last is undone before this returns.
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

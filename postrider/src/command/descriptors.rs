//! File descriptors: every webhook under way needs some, and many systems allow a process few by default.

use postrider_deliverer::DelivererConfig;

/// What one exchange may need at its worst: its connection, one that waits to be used again, and two that are tried beside
/// it, of which one may go to a name server.
const PER_EXCHANGE: usize = 4;

/// Raises the soft limit to the hard one.
pub(super) fn raise_limit() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
}

/// Lets a deliverer have no more exchanges under way than there are descriptors for.
pub(super) fn cap_concurrency(config: &mut DelivererConfig) {
    let Ok((limit, _)) = rlimit::getrlimit(rlimit::Resource::NOFILE) else { return };
    let most = usize::try_from(limit).unwrap_or(usize::MAX) / PER_EXCHANGE;
    if config.concurrency > most {
        config.concurrency = most.max(1);
        tracing::warn!(
            limit,
            concurrency = config.concurrency,
            "the limit of open files (ulimit -n) is too low for POSTRIDER_DELIVERER_CONCURRENCY; fewer webhooks are sent at once"
        );
    }
}

//! File descriptors: each webhook in flight needs some, and on many systems the default limit for a process is low.

use postrider_deliverer::DelivererConfig;

/// Maximum descriptors of one exchange: its connection, an idle connection, and two connection attempts at once, one of
/// which may go to a name server.
const PER_EXCHANGE: usize = 4;

/// Raises the soft limit to the hard limit.
pub(super) fn raise_limit() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
}

/// Limits a deliverer's concurrency to the exchanges that it has descriptors for.
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

//! Which sessions can still be used.
//!
//! Two kinds of error leave a session open and yet are final for it. After a failover, its server may have become
//! read-only. After a change of the schema, its prepared statements may return another type. The code that meets such
//! an error records the time. Sessions of all pools in this process that were opened before then are replaced, because
//! what happened to one has happened to all.

use std::sync::LazyLock;
use std::time::Instant;

use tokio::sync::watch;
use tokio_postgres::error::SqlState;

/// When each kind of error was last met.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    read_only: Option<Instant>,
    stale_statement: Option<Instant>,
}

static MET: LazyLock<watch::Sender<Met>> = LazyLock::new(watch::Sender::default);

/// Records the time if `error` is final for its session.
pub(super) fn note(error: &tokio_postgres::Error) {
    let Some(code) = error.code() else { return };
    let now = Some(Instant::now());
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        MET.send_modify(|met| met.read_only = now);
    } else if is_stale_statement(error) {
        MET.send_modify(|met| met.stale_statement = now);
    }
}

/// Returns true if a prepared statement was made for an older schema, or no longer exists.
pub(super) fn is_stale_statement(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        // "cached plan must not change result type". Of all the errors about unsupported features, only this one
        // counts. It is recognised by the routine because the text depends on the server's language.
        *error.code() == SqlState::INVALID_SQL_STATEMENT_NAME
            || *error.code() == SqlState::FEATURE_NOT_SUPPORTED
                && error.routine() == Some("RevalidateCachedQuery")
    })
}

/// Returns true if the session was opened before an error that is final for it.
pub(super) fn is_outdated(opened: Instant) -> bool {
    let met = *MET.borrow();
    met.read_only.max(met.stale_statement).is_some_and(|at| opened <= at)
}

/// Waits until a session finds that its server has become read-only.
pub(super) async fn server_is_read_only() {
    let mut met = MET.subscribe();
    let before = met.borrow_and_update().read_only;
    // The sender is never dropped.
    let _ = met.wait_for(|met| met.read_only != before).await;
}

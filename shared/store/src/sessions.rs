//! Which sessions are still of use.
//!
//! Two kinds of error leave a session open and yet are final for it. After a failover it may be one on a server that
//! has become read-only; and after a change of the schema its prepared statements may return another type. Whoever
//! meets such an error marks the moment: sessions opened before it are replaced by new ones, those of all pools of this
//! process, because what happened to one has happened to all.

use std::sync::LazyLock;
use std::time::Instant;

use tokio::sync::watch;
use tokio_postgres::error::SqlState;

/// When each kind was last met.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    read_only: Option<Instant>,
    stale_statement: Option<Instant>,
}

static MET: LazyLock<watch::Sender<Met>> = LazyLock::new(watch::Sender::default);

/// Marks the moment where `error` is final for the session that met it.
pub(super) fn note(error: &tokio_postgres::Error) {
    let Some(code) = error.code() else { return };
    let now = Some(Instant::now());
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        MET.send_modify(|met| met.read_only = now);
    } else if is_stale_statement(error) {
        MET.send_modify(|met| met.stale_statement = now);
    }
}

/// True where a prepared statement was made for another schema, or is no longer there.
pub(super) fn is_stale_statement(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        // "cached plan must not change result type": of everything that is not supported, only this one passes. Its
        // text depends on the server's language.
        *error.code() == SqlState::INVALID_SQL_STATEMENT_NAME
            || *error.code() == SqlState::FEATURE_NOT_SUPPORTED
                && error.routine() == Some("RevalidateCachedQuery")
    })
}

/// True for a session that was opened before an error that is final for it.
pub(super) fn is_outdated(opened: Instant) -> bool {
    let met = *MET.borrow();
    met.read_only.max(met.stale_statement).is_some_and(|at| opened <= at)
}

/// Waits until a session is found to be on a server that has become read-only.
pub(super) async fn server_is_read_only() {
    let mut met = MET.subscribe();
    let before = met.borrow_and_update().read_only;
    // The sender is never dropped.
    let _ = met.wait_for(|met| met.read_only != before).await;
}

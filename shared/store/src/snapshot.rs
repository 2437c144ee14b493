//! Snapshots: which transactions are visible.

/// The transactions that had ended at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The first transaction that had not started.
    pub(super) next: i64,
    /// Earlier transactions that were still in progress.
    pub(super) open: Vec<i64>,
}

impl Snapshot {
    /// A snapshot from before the first transaction.
    pub(super) const NOTHING: Self = Self { next: 0, open: Vec::new() };

    /// Parses the format of PostgreSQL: `xmin:xmax:xip,xip,…`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':').skip(1);
        let next = parts.next()?.parse().ok()?;
        let open = parts.next()?.split(',').filter(|id| !id.is_empty());
        Some(Self { next, open: open.map(str::parse).collect::<Result<_, _>>().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_as_postgresql_writes_it() {
        let snapshot = |next, open: &[i64]| Some(Snapshot { next, open: open.to_vec() });
        assert_eq!(Snapshot::parse("10:20:10,14,15"), snapshot(20, &[10, 14, 15]));
        assert_eq!(Snapshot::parse("10:10:"), snapshot(10, &[]));
        assert_eq!(Snapshot::parse("10:ten:"), None);
        assert_eq!(Snapshot::parse("10"), None);
    }
}

//! Splits a batch to isolate the items that make its statement fail.

use crate::StoreError;

/// Items that are handled together. A part that fails is halved until the items at fault are alone.
///
/// ```text
/// let mut bisect = Bisect::of(items);
/// while let Some(part) = bisect.next() {
///     if let Err(error) = write(&part).await {
///         bisect.split(part, error)?;
///     }
/// }
/// for (item, error) in bisect.culprits { … }
/// ```
#[derive(Debug)]
pub struct Bisect<T> {
    /// The parts that are left. The last one is the next to be handled.
    parts: Vec<Vec<T>>,
    /// The items that failed alone, with their errors.
    pub culprits: Vec<(T, StoreError)>,
    /// The number of consecutive parts that met a lock.
    locked: u32,
    /// The number of such parts after which everything counts as locked.
    max_locked: u32,
    has_failed: bool,
}

/// A part that failed although none of its items is at fault: PostgreSQL is unavailable, or everything is locked.
#[derive(Debug)]
pub struct NoCulprit<T> {
    /// The part, which can be [retried](Bisect::retry).
    pub part: Vec<T>,
    /// Why it failed.
    pub error: StoreError,
}

impl<T> From<NoCulprit<T>> for StoreError {
    fn from(failed: NoCulprit<T>) -> Self {
        failed.error
    }
}

impl<T> Bisect<T> {
    /// Starts with all items in one part.
    #[must_use]
    pub fn of(items: Vec<T>) -> Self {
        Self::of_parts(vec![items])
    }

    /// Starts with parts that must not be handled together. The last one is handled first.
    #[must_use]
    pub fn of_parts(parts: Vec<Vec<T>>) -> Self {
        let items: usize = parts.iter().map(Vec::len).sum();
        // A few more than the halvings that isolate one locked item.
        let max_locked = items.max(1).ilog2() + 4;
        Self { parts, culprits: Vec::new(), locked: 0, max_locked, has_failed: false }
    }

    /// Halves a part that failed, or adds its only item to the culprits.
    ///
    /// # Errors
    /// [`NoCulprit`] in an [outage](StoreError::is_outage), or if so many consecutive parts met a lock that no item is
    /// at fault.
    pub fn split(&mut self, mut part: Vec<T>, error: StoreError) -> Result<(), NoCulprit<T>> {
        self.has_failed = true;
        self.locked = if error.is_contention() { self.locked + 1 } else { 0 };
        if error.is_outage() || self.locked >= self.max_locked {
            return Err(NoCulprit { part, error });
        }
        let second = part.split_off(part.len().div_ceil(2));
        if second.is_empty() {
            self.culprits.extend(part.pop().map(|item| (item, error)));
        } else {
            self.parts.extend([second, part]);
        }
        Ok(())
    }

    /// Handles a part again, before the others.
    pub fn retry(&mut self, part: Vec<T>) {
        self.parts.push(part);
    }
}

impl<T> Iterator for Bisect<T> {
    type Item = Vec<T>;

    /// Returns the next part. Unless the previous part was split, it counts as successful.
    fn next(&mut self) -> Option<Vec<T>> {
        if !std::mem::take(&mut self.has_failed) {
            self.locked = 0;
        }
        self.parts.pop().filter(|part| !part.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_item_that_is_to_blame_ends_up_alone() {
        let mut bisect = Bisect::of((0..100).collect());
        let mut handled = Vec::new();
        while let Some(part) = bisect.next() {
            if part.contains(&42) {
                bisect.split(part, StoreError::KeyExpired).expect("item 42 is at fault");
            } else {
                handled.extend(part);
            }
        }
        assert_eq!(bisect.culprits.iter().map(|(item, _)| *item).collect::<Vec<_>>(), [42]);
        assert_eq!(handled, (0..100).filter(|item| *item != 42).collect::<Vec<_>>());
    }

    #[test]
    fn in_an_outage_no_item_is_to_blame() {
        let mut bisect = Bisect::of_parts(vec![vec![3], vec![1, 2]]);
        let part = bisect.next().expect("a part");
        let NoCulprit { part, error } = bisect.split(part, StoreError::NoResponse).expect_err("an outage");
        assert_eq!((&part[..], error.is_outage()), (&[1, 2][..], true));
        bisect.retry(part);
        assert_eq!(bisect.collect::<Vec<_>>(), [vec![1, 2], vec![3]]);
    }
}

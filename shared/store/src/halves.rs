//! Batches of which one item spoils the statement for all.

use crate::StoreError;

/// Items that are dealt with together. Where that fails they are halved, until those that are to blame stand alone; or
/// until so many parts in a row meet a lock that no item is to blame.
///
/// ```ignore
/// let mut halves = Halves::of(&items);
/// while let Some(part) = halves.next() {
///     if let Err(error) = write(part).await {
///         halves.split(part, error)?;
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Halves<'a, T> {
    parts: Vec<&'a [T]>,
    /// Those that failed alone.
    pub failed: Vec<(&'a T, StoreError)>,
    locked: LockedInARow,
    is_split: bool,
}

/// Counts parts that meet a lock one after the other.
#[derive(Debug)]
pub struct LockedInARow {
    count: u32,
    most: u32,
}

impl LockedInARow {
    /// Several more than it takes to find one locked item among so many.
    #[must_use]
    pub fn among(items: usize) -> Self {
        Self { count: 0, most: items.max(1).ilog2() + 4 }
    }

    /// Notes how the next part fared. True: there is no use in trying smaller ones.
    pub fn note(&mut self, error: Option<&StoreError>) -> bool {
        self.count = if error.is_some_and(StoreError::is_contention) { self.count + 1 } else { 0 };
        self.count >= self.most
    }
}

impl<'a, T> Halves<'a, T> {
    /// Begins with all of them.
    #[must_use]
    pub fn of(items: &'a [T]) -> Self {
        Self {
            parts: vec![items],
            failed: Vec::new(),
            locked: LockedInARow::among(items.len()),
            is_split: false,
        }
    }

    /// Halves a part that failed.
    ///
    /// # Errors
    /// In an [outage](StoreError::is_outage), or where everything is locked: no item is to blame, and what is left need
    /// not be tried.
    pub fn split(&mut self, part: &'a [T], error: StoreError) -> Result<(), StoreError> {
        if error.is_outage() || self.locked.note(Some(&error)) {
            return Err(error);
        }
        self.is_split = true;
        match part {
            [item] => self.failed.push((item, error)),
            _ => {
                let (first, second) = part.split_at(part.len() / 2);
                self.parts.extend([second, first]);
            }
        }
        Ok(())
    }
}

impl<'a, T> Iterator for Halves<'a, T> {
    type Item = &'a [T];

    /// The next part.
    fn next(&mut self) -> Option<&'a [T]> {
        if !std::mem::take(&mut self.is_split) {
            self.locked.note(None);
        }
        self.parts.pop().filter(|part| !part.is_empty())
    }
}

//! Batches of which one item spoils the statement for all.

use super::StoreError;

/// Items that are dealt with together. Where that fails they are halved, until those that are to blame stand alone.
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
}

impl<'a, T> Halves<'a, T> {
    /// Begins with all of them.
    #[must_use]
    pub fn of(items: &'a [T]) -> Self {
        Self { parts: vec![items], failed: Vec::new() }
    }

    /// Halves a part that failed.
    ///
    /// # Errors
    /// In an [outage](StoreError::is_outage), for which no item is to blame.
    pub fn split(&mut self, part: &'a [T], error: StoreError) -> Result<(), StoreError> {
        if error.is_outage() {
            return Err(error);
        }
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
        self.parts.pop().filter(|part| !part.is_empty())
    }
}

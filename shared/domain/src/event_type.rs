//! Event types, and the patterns with which endpoints subscribe to them.

use std::fmt;

/// The maximum length of an event type, in bytes.
pub const MAX_LENGTH: usize = 255;

/// The maximum number of parts of an event type (`a.b.c` has three).
pub const MAX_PARTS: usize = 16;

/// Types with this prefix are Postrider's own operational events. Producers cannot publish them, and the pattern `*`
/// does not match them.
pub const RESERVED_PREFIX: &str = "postrider.";

/// Why a text is not a valid event type or pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// Empty, or longer than [`MAX_LENGTH`] bytes.
    #[error("must have 1 to {MAX_LENGTH} characters")]
    Length,
    /// Not the syntax of Standard Webhooks.
    #[error("must consist of parts of letters, digits and `_`, separated by periods, such as `invoice.paid`")]
    Syntax,
    /// More than [`MAX_PARTS`] parts.
    #[error("must have at most {MAX_PARTS} parts")]
    Parts,
    /// `*` elsewhere than as the whole pattern or its last part.
    #[error("can use `*` only alone or as the last part, such as `invoice.*`")]
    Wildcard,
}

/// The type of an event: parts of `[a-zA-Z0-9_]+`, joined by full stops (Standard Webhooks).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventType(String);

impl EventType {
    /// Parses a type, including reserved ones.
    ///
    /// # Errors
    /// [`EventTypeError`] if the text is not an event type.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        check(text).map(|()| Self(text.to_owned()))
    }

    /// Returns the type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true for Postrider's own operational events.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED_PREFIX)
    }

    /// Returns every pattern that matches this type: `invoice.paid` → `*`, `invoice.*`, `invoice.paid`. An endpoint
    /// gets the event if it subscribes to one of them.
    pub fn matching_patterns(&self) -> impl Iterator<Item = String> + '_ {
        let any = (!self.is_reserved()).then(|| "*".to_owned());
        let prefixes = self.0.match_indices('.').map(|(at, _)| format!("{}.*", &self.0[..at]));
        any.into_iter().chain(prefixes).chain([self.0.clone()])
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an endpoint subscribes to: an event type, `prefix.*` for all types below it, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`EventTypeError`] if the text is not an event type, a prefix followed by `.*`, or `*`.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        if text != "*" {
            let exact = text.strip_suffix(".*").unwrap_or(text);
            if exact.contains('*') {
                return Err(EventTypeError::Wildcard);
            }
            check(exact)?;
            if text.len() > MAX_LENGTH {
                return Err(EventTypeError::Length);
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the cost of comparing these patterns with an event's type, in the same steps as the cost of a filter: about
/// a tenth of a microsecond each. It includes comparing each pattern with the type and its up to sixteen prefixes, and
/// reading the patterns.
#[must_use]
pub fn pattern_steps(patterns: &[String]) -> i32 {
    const STEPS_OF_A_PATTERN: usize = 3;
    const BYTES_OF_A_STEP: usize = 64;
    let bytes: usize = patterns.iter().map(String::len).sum();
    i32::try_from(patterns.len() * STEPS_OF_A_PATTERN + bytes / BYTES_OF_A_STEP).unwrap_or(i32::MAX)
}

fn check(text: &str) -> Result<(), EventTypeError> {
    if text.is_empty() || text.len() > MAX_LENGTH {
        return Err(EventTypeError::Length);
    }
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !text.split('.').all(is_part) {
        return Err(EventTypeError::Syntax);
    }
    if text.split('.').count() > MAX_PARTS {
        return Err(EventTypeError::Parts);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns(event_type: &str) -> Vec<String> {
        EventType::parse(event_type).expect("a type").matching_patterns().collect()
    }

    #[test]
    fn a_type_expands_to_every_pattern_that_matches_it() {
        assert_eq!(patterns("ping"), ["*", "ping"]);
        assert_eq!(patterns("invoice.a.b"), ["*", "invoice.*", "invoice.a.*", "invoice.a.b"]);
    }

    #[test]
    fn the_star_does_not_match_operational_events() {
        assert_eq!(
            patterns("postrider.endpoint.disabled"),
            ["postrider.*", "postrider.endpoint.*", "postrider.endpoint.disabled"]
        );
        assert_eq!(patterns("postriders"), ["*", "postriders"]);
    }

    #[test]
    fn what_is_no_type_or_pattern_is_refused() {
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a-b", "é", "a.*.b", &"a".repeat(256)] {
            assert!(EventType::parse(text).is_err(), "{text}");
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        for text in ["**", "*.a", "a*", "a.b*", ".*"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        for text in ["*", "a.*", "a.b.*", "a.b"] {
            assert!(Pattern::parse(text).is_ok(), "{text}");
        }
    }

    proptest! {
        /// The expansion agrees with the definition of a pattern.
        #[test]
        fn expansion_agrees_with_the_definition(
            event_type in "([a-c]{1,2}|postrider)(\\.[a-c]{1,2}){0,3}",
            pattern in "(([a-c]{1,2}|postrider)(\\.[a-c]{1,2}){0,3}(\\.\\*)?|\\*)",
        ) {
            let matches = match pattern.strip_suffix('*') {
                Some("") => !event_type.starts_with("postrider."),
                Some(prefix) => event_type.starts_with(prefix),
                None => pattern == event_type,
            };
            prop_assert!(Pattern::parse(&pattern).is_ok());
            prop_assert_eq!(patterns(&event_type).contains(&pattern), matches);
        }

        /// Exactly the texts that follow the syntax are accepted as types.
        #[test]
        fn a_type_is_what_the_syntax_says(text in "[a-zA-Z0-9_.* -]{0,20}|\\PC{0,20}") {
            let is_part = |part: &str| {
                !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            let is_type = text.split('.').all(is_part) && text.split('.').count() <= MAX_PARTS;
            prop_assert_eq!(EventType::parse(&text).is_ok(), is_type);
            // Every type is also a pattern, and matches itself.
            if is_type {
                prop_assert!(Pattern::parse(&text).is_ok());
                prop_assert!(patterns(&text).contains(&text));
            }
            for pattern in EventType::parse(&text).iter().flat_map(EventType::matching_patterns) {
                prop_assert!(pattern.len() > MAX_LENGTH || Pattern::parse(&pattern).is_ok(), "{}", pattern);
            }
        }
    }
}

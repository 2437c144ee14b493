//! Lists: a page, and the cursor to the next.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem_openapi::Object;
use poem_openapi::registry::MetaSchema;
use poem_openapi::types::{ParseFromJSON, ToJSON};
use postrider_shared::store::page;
use serde::Serialize;
use uuid::Uuid;

use crate::parameter::{InQuery, Parameter};
use crate::parameter_values::Limit;

/// A page of a list.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Page<T: ParseFromJSON + ToJSON> {
    /// The items. There may be fewer than `limit`, even none, while others follow.
    pub(crate) data: Vec<T>,
    /// Give it as `cursor` to get the next page; null: this was the last one.
    pub(crate) next_cursor: Option<String>,
}

impl<T: ParseFromJSON + ToJSON> Page<T> {
    /// What was read, as it is answered.
    pub(crate) fn of<I: Into<T>>(page: page::Page<I>) -> Self {
        Self {
            data: page.items.into_iter().map(Into::into).collect(),
            next_cursor: page.next.map(|id| Cursor(id).to_string()),
        }
    }
}

/// Where a page begins: opaque to clients, the last id of the page before to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor(pub(crate) Uuid);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl Parameter for Cursor {
    fn schema() -> MetaSchema {
        MetaSchema { example: Some("AZjxoju0fV6PYHGCk6S1xg".into()), ..MetaSchema::new("string") }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
        bytes.map(Self).ok_or_else(|| "must be the `next_cursor` of the page before".to_owned())
    }
}

/// Where a page of a list in the order of names begins: the last name of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameCursor(pub(crate) String);

impl std::fmt::Display for NameCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl Parameter for NameCursor {
    fn schema() -> MetaSchema {
        MetaSchema { example: Some("aW52b2ljZS5wYWlk".into()), ..MetaSchema::new("string") }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|name| is_name(name));
        name.map(Self).ok_or_else(|| "must be the `next_cursor` of the page before".to_owned())
    }
}

/// The names of event types are ASCII without NUL, which PostgreSQL could not compare with.
fn is_name(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The `limit` that was asked for, or the default.
pub(crate) fn limit(limit: &InQuery<Limit>) -> u32 {
    limit.0.map_or(Limit::DEFAULT, |limit| limit.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = Cursor(Uuid::now_v7());
        assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        for text in ["", "x", "AZjxoju0fV6PYHGCk6S1", "\0"] {
            assert!(Cursor::parse(text).is_err(), "{text}");
        }
        let cursor = NameCursor("invoice.paid".to_owned());
        assert_eq!(NameCursor::parse(&cursor.to_string()), Ok(cursor));
        for text in ["", "=", "AA", "/w", &URL_SAFE_NO_PAD.encode("a".repeat(256))] {
            assert!(NameCursor::parse(text).is_err(), "{text}");
        }
    }
}

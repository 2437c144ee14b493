//! Pages of lists, and the cursors that lead to the next page.

use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem_openapi::Object;
use poem_openapi::registry::MetaSchema;
use poem_openapi::types::{ParseFromJSON, ToJSON};
use postrider_domain::ids::ApplicationId;
use postrider_store::event_types::Place;
use postrider_store::page;
use serde::Serialize;
use uuid::Uuid;

use crate::web::parameter::{InQuery, Parameter};
use crate::web::parameter_values::Limit;
use crate::web::value_error::ValueError;

/// One page of a list.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Page<T: ParseFromJSON + ToJSON> {
    /// The items of this page. A page can have fewer items than `limit`, or none, although more pages follow.
    pub(crate) data: Vec<T>,
    /// Pass this as `cursor` to get the next page. Null if this is the last page.
    pub(crate) next_cursor: Option<String>,
}

/// For lists whose cursor is an id.
impl<T: ParseFromJSON + ToJSON, I: Into<T>> From<page::Page<I>> for Page<T> {
    fn from(page: page::Page<I>) -> Self {
        Self::with_cursor(page, Cursor)
    }
}

impl<T: ParseFromJSON + ToJSON> Page<T> {
    /// Creates a page of a list that has its own kind of cursor.
    pub(crate) fn with_cursor<I: Into<T>, P, C: Display>(
        page: page::Page<I, P>,
        cursor: impl FnOnce(P) -> C,
    ) -> Self {
        Self {
            data: page.items.into_iter().map(Into::into).collect(),
            next_cursor: page.next.map(|place| cursor(place).to_string()),
        }
    }
}

/// The position where a page begins: the last id of the previous page. Clients treat it as opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor(pub(crate) Uuid);

impl Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl Parameter for Cursor {
    fn schema() -> MetaSchema {
        MetaSchema { example: Some("AZjxoju0fV6PYHGCk6S1xg".into()), ..MetaSchema::new("string") }
    }

    /// Some clients send the `null` of the last page as an empty cursor.
    fn is_absent(text: &str) -> bool {
        text.is_empty()
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
        bytes.map(Self).ok_or(ValueError::Cursor)
    }
}

/// The position where a page of event types begins: the application and the name of the last type on the previous
/// page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlaceCursor(pub(crate) Place);

impl Display for PlaceCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (application, name) = &self.0;
        f.write_str(&URL_SAFE_NO_PAD.encode([application.0.as_bytes(), name.as_bytes()].concat()))
    }
}

impl Parameter for PlaceCursor {
    fn schema() -> MetaSchema {
        let example = PlaceCursor((ApplicationId(Uuid::from_u128(1)), "invoice.paid".to_owned()));
        MetaSchema { example: Some(example.to_string().into()), ..MetaSchema::new("string") }
    }

    fn is_absent(text: &str) -> bool {
        Cursor::is_absent(text)
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let place = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| {
            let (application, name) = bytes.split_first_chunk::<16>()?;
            let name = std::str::from_utf8(name).ok().filter(|name| is_name(name))?;
            Some((ApplicationId(Uuid::from_bytes(*application)), name.to_owned()))
        });
        place.map(Self).ok_or(ValueError::Cursor)
    }
}

/// Returns true for what can be the name of an event type. This excludes NUL, which PostgreSQL cannot compare with.
fn is_name(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl InQuery<Cursor> {
    /// Returns the id that the previous page ended with, or `None` for the first page.
    pub(crate) fn after<I: From<Uuid>>(&self) -> Option<I> {
        self.0.map(|cursor| cursor.0.into())
    }
}

impl InQuery<Limit> {
    /// Returns the maximum number of items on the page.
    pub(crate) fn items(&self) -> u32 {
        self.0.map_or(Limit::DEFAULT, |limit| limit.0)
    }
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
        let cursor = PlaceCursor((ApplicationId(Uuid::now_v7()), "invoice.paid".to_owned()));
        assert_eq!(PlaceCursor::parse(&cursor.to_string()), Ok(cursor));
        for text in ["", "AA", "=", &URL_SAFE_NO_PAD.encode([0; 17]), &URL_SAFE_NO_PAD.encode([b'a'; 272])] {
            assert!(PlaceCursor::parse(text).is_err(), "{text}");
        }
    }
}

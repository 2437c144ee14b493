//! Whether JSON can be stored, and how large it becomes: looked at as text, without a detour over floating
//! point, so that no digit is lost.
//!
//! PostgreSQL stores numbers as exact decimals and renders them without an exponent: `1e131071` is nine
//! bytes here and 131,072 there. What cannot be stored, or swells when rendered, is refused with a reason
//! before it can harm what is stored together with it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// How deep a request body may be nested; the body itself is the first level.
pub(crate) const MAX_DEPTH: usize = 64;
/// Characters that one number may have when it is written without an exponent.
pub(crate) const MAX_NUMBER_LENGTH: usize = 1_000;
/// Bytes that an event's `data` may have as PostgreSQL renders it.
pub(crate) const MAX_RENDERED_BYTES: usize = 524_288;

/// Why JSON is refused although it is well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Defect {
    /// Deeper than [`MAX_DEPTH`].
    #[error("must not be nested deeper than {MAX_DEPTH} levels, the body included")]
    TooDeep,
    /// A key that appears twice in one object.
    #[error("has the key `{0}` twice in one object; which value is meant cannot be told")]
    DuplicateKey(String),
    /// `\u0000`, which PostgreSQL cannot hold.
    #[error("contains the character NUL (`\\u0000`), which cannot be stored; leave it out")]
    Nul,
    /// Half of a surrogate pair, which is no character.
    #[error("contains a lone surrogate (such as `\\ud800`), which is no character; send whole pairs")]
    LoneSurrogate,
    /// A number longer than [`MAX_NUMBER_LENGTH`].
    #[error(
        "contains a number of more than {MAX_NUMBER_LENGTH} characters when written without an exponent; send it as a string"
    )]
    NumberTooLong,
    /// Larger than [`MAX_RENDERED_BYTES`].
    #[error("is larger than {MAX_RENDERED_BYTES} bytes when its numbers are written without exponents")]
    TooLarge,
}

impl Defect {
    /// The stable name of it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::TooDeep => "json_too_deep",
            Self::DuplicateKey(_) => "json_duplicate_key",
            Self::Nul => "json_nul",
            Self::LoneSurrogate => "json_lone_surrogate",
            Self::NumberTooLong => "json_number_too_long",
            Self::TooLarge => "json_too_large",
        }
    }
}

/// Checks well-formed JSON and measures how many bytes PostgreSQL renders it to, at most.
///
/// # Errors
/// With what stands in the way of storing it.
pub(crate) fn check(json: &str) -> Result<usize, Defect> {
    check_depth(json)?;
    let rendered = measure(json.trim())?;
    if rendered > MAX_RENDERED_BYTES { Err(Defect::TooLarge) } else { Ok(rendered) }
}

/// Refuses what is nested too deep, in one pass: everything after it may recurse.
///
/// # Errors
/// [`Defect::TooDeep`].
pub(crate) fn check_depth(json: &str) -> Result<(), Defect> {
    let (mut depth, mut is_in_string, mut is_escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        if is_in_string {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => is_in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Defect::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The rendered length of a value. jsonb writes a space after `:` and `,`.
fn measure(json: &str) -> Result<usize, Defect> {
    match json.as_bytes().first() {
        Some(b'{') => {
            let Entries(entries) = parse(json)?;
            let mut keys = HashSet::with_capacity(entries.len());
            let mut length = 2 + 2 * entries.len().saturating_sub(1);
            for (Text(key), value) in &entries {
                length += measure_text(key)? + 2 + measure(value.get())?;
                if !keys.insert(key) {
                    return Err(Defect::DuplicateKey(key.chars().take(100).collect()));
                }
            }
            Ok(length)
        }
        Some(b'[') => {
            let Items(items) = parse(json)?;
            let separators = 2 + 2 * items.len().saturating_sub(1);
            items.iter().try_fold(separators, |length, item| Ok(length + measure(item.get())?))
        }
        Some(b'"') => measure_text(&parse::<Text<'_>>(json)?.0),
        Some(b'-' | b'0'..=b'9') => measure_number(json).ok_or(Defect::NumberTooLong),
        _ => Ok(json.len()),
    }
}

/// Well-formed JSON as values for looking at: a number that no float holds is the nearest one.
pub(crate) fn approximate(json: &str) -> Value {
    // Nearly always.
    serde_json::from_str(json).unwrap_or_else(|_| approximate_parts(json.trim()))
}

fn approximate_parts(json: &str) -> Value {
    let of = |raw: &RawValue| approximate_parts(raw.get());
    match json.as_bytes().first() {
        Some(b'{') => {
            let Entries(entries) = parse(json).unwrap_or_default();
            entries.into_iter().map(|(Text(key), value)| (key.into_owned(), of(value))).collect()
        }
        Some(b'[') => {
            let Items(items) = parse(json).unwrap_or_default();
            items.into_iter().map(of).collect()
        }
        _ => serde_json::from_str(json).unwrap_or_else(|_| {
            // Only too large a number is left.
            let largest = if json.starts_with('-') { f64::MIN } else { f64::MAX };
            largest.into()
        }),
    }
}

/// The JSON is well-formed, so that the one thing that can still be wrong is an escape that means no
/// character.
fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Defect> {
    serde_json::from_str(json).map_err(|_| Defect::LoneSurrogate)
}

fn measure_text(text: &str) -> Result<usize, Defect> {
    text.bytes().try_fold(2, |length, byte| match byte {
        0 => Err(Defect::Nul),
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => Ok(length + 2),
        0x01..0x20 => Ok(length + 6),
        _ => Ok(length + 1),
    })
}

/// The length of a number without its exponent, or a little more; `None`: more than
/// [`MAX_NUMBER_LENGTH`].
fn measure_number(number: &str) -> Option<usize> {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let length_of = |text: &str| i64::try_from(text.len()).ok();
    let whole = length_of(whole)?.checked_add(exponent)?.max(1);
    let fraction = length_of(fraction)?.checked_sub(exponent)?.max(0);
    let point = i64::from(fraction > 0);
    let sign = i64::from(number.len() > digits.len());
    let length = whole.checked_add(fraction)?.checked_add(point + sign)?;
    usize::try_from(length).ok().filter(|&length| length <= MAX_NUMBER_LENGTH)
}

/// A text, borrowed where it has no escapes.
#[derive(PartialEq, Eq, Hash)]
struct Text<'a>(Cow<'a, str>);

/// An object's entries, twice the same key included.
#[derive(Default)]
struct Entries<'a>(Vec<(Text<'a>, &'a RawValue)>);

/// An array's items.
#[derive(Default)]
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;

//! Checks whether JSON can be stored, and how large it becomes. Works on the text and never converts to floating
//! point, so that no digit is lost.
//!
//! PostgreSQL stores numbers as exact decimals and renders them without an exponent: `1e131071` is 8 bytes of JSON
//! and 131,072 bytes rendered. JSON that cannot be stored, or that becomes too large, is refused with a reason before
//! it can affect the events that are stored by the same statement.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::Value;

/// How deep a request body may be nested. The body itself is the first level.
pub(crate) const MAX_DEPTH: usize = 64;
/// The most characters of one number that is written without an exponent.
pub(crate) const MAX_NUMBER_LENGTH: usize = 1_000;
/// The largest exponent that is allowed. PostgreSQL's own limit, which it applies even to a zero, is slightly larger.
const MAX_EXPONENT: i64 = 1_000_000_000;
/// The largest `data` of an event, in bytes as PostgreSQL renders it.
pub(crate) const MAX_RENDERED_BYTES: usize = 524_288;

/// Why well-formed JSON is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Defect {
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("must not be nested deeper than {MAX_DEPTH} levels, including the body itself")]
    TooDeep,
    /// A key that appears twice in one object.
    #[error("contains an object with the duplicate key `{0}`; remove one of them")]
    DuplicateKey(String),
    /// `\u0000`, which PostgreSQL cannot store.
    #[error("contains the NUL character (`\\u0000`), which cannot be stored; remove it")]
    Nul,
    /// Half of a surrogate pair, which is not a character.
    #[error(
        "contains a lone surrogate (such as `\\ud800`), which is not a valid character; send complete pairs"
    )]
    LoneSurrogate,
    /// A number longer than [`MAX_NUMBER_LENGTH`].
    #[error(
        "contains a number that has more than {MAX_NUMBER_LENGTH} characters when it is written without an \
         exponent; send it as a string"
    )]
    NumberTooLong,
    /// Larger than [`MAX_RENDERED_BYTES`].
    #[error(
        "is larger than {MAX_RENDERED_BYTES} bytes when its numbers are written without exponents; send \
         less data"
    )]
    TooLarge,
}

impl Defect {
    /// Returns the stable error code.
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

/// Checks well-formed JSON and returns an upper bound of the bytes that PostgreSQL renders it to.
///
/// # Errors
/// The [`Defect`] that prevents it from being stored.
pub(crate) fn check(json: &str) -> Result<usize, Defect> {
    check_depth(json)?;
    let rendered = measure(json)?;
    if rendered > MAX_RENDERED_BYTES { Err(Defect::TooLarge) } else { Ok(rendered) }
}

/// Refuses JSON that is nested too deep, in one pass without recursion. Later steps may recurse.
///
/// # Errors
/// [`Defect::TooDeep`].
pub(crate) fn check_depth(json: &str) -> Result<(), Defect> {
    let mut depth = 0_usize;
    for token in Tokens::of(json) {
        match token {
            Token::Object | Token::Array => depth += 1,
            Token::End => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Defect::TooDeep);
        }
    }
    Ok(())
}

/// An object or an array that is being measured.
#[derive(Default)]
struct Container<'a> {
    /// `None` in an array.
    keys: Option<HashSet<Cow<'a, str>>>,
    /// True after a key, until its value.
    is_value_next: bool,
    items: usize,
}

/// Returns the rendered length of a value, in one pass without recursion. jsonb writes a space after `:` and `,`.
fn measure(json: &str) -> Result<usize, Defect> {
    let mut length = 0;
    let mut open: Vec<Container<'_>> = Vec::new();
    for token in Tokens::of(json) {
        if token == Token::End {
            open.pop();
            continue;
        }
        if let Some(container) = open.last_mut() {
            let is_value = std::mem::take(&mut container.is_value_next);
            if !is_value {
                length += if container.items > 0 { 2 } else { 0 };
                container.items += 1;
            }
            if let (false, Some(keys), Token::Text(key)) = (is_value, &mut container.keys, token) {
                let key = decode(key)?;
                length += measure_text(&key)? + 2;
                if let Some(key) = keys.replace(key) {
                    return Err(Defect::DuplicateKey(key.chars().take(100).collect()));
                }
                container.is_value_next = true;
                continue;
            }
        }
        length += match token {
            Token::Object | Token::Array => {
                let keys = (token == Token::Object).then(HashSet::new);
                open.push(Container { keys, ..Container::default() });
                2
            }
            Token::Text(text) => measure_text(&decode(text)?)?,
            Token::Number(number) => measure_number(number).ok_or(Defect::NumberTooLong)?,
            Token::Word(word) => word.len(),
            Token::End => 0,
        };
    }
    Ok(length)
}

/// Parses well-formed JSON into values that are good enough to examine. A number outside the range of `f64` becomes
/// the nearest one inside it.
pub(crate) fn approximate(json: &str) -> Value {
    // This succeeds unless a number is out of range.
    serde_json::from_str(json).unwrap_or_else(|_| {
        let (mut held, mut copied) = (String::with_capacity(json.len()), 0);
        let mut tokens = Tokens::of(json);
        while let Some(token) = tokens.next() {
            if let Token::Number(number) = token
                && let Ok(float) = number.parse::<f64>()
                && float.is_infinite()
            {
                held.push_str(&json[copied..tokens.at - number.len()]);
                held.push_str(&format!("{:e}", float.clamp(f64::MIN, f64::MAX)));
                copied = tokens.at;
            }
        }
        held.push_str(&json[copied..]);
        serde_json::from_str(&held).unwrap_or_default()
    })
}

/// Decodes a JSON string. The JSON is well-formed, so the only possible mistake is an escape that is not a character.
fn decode(text: &str) -> Result<Cow<'_, str>, Defect> {
    if text.contains('\\') {
        serde_json::from_str(text).map(Cow::Owned).map_err(|_| Defect::LoneSurrogate)
    } else {
        Ok(Cow::Borrowed(text.trim_matches('"')))
    }
}

fn measure_text(text: &str) -> Result<usize, Defect> {
    text.bytes().try_fold(2, |length, byte| match byte {
        0 => Err(Defect::Nul),
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => Ok(length + 2),
        0x01..0x20 => Ok(length + 6),
        _ => Ok(length + 1),
    })
}

/// Returns the length of a number without its exponent, or slightly more. Returns `None` if that exceeds
/// [`MAX_NUMBER_LENGTH`].
fn measure_number(number: &str) -> Option<usize> {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (digits, 0),
    };
    if exponent > MAX_EXPONENT {
        return None;
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let length_of = |text: &str| i64::try_from(text.len()).ok();
    // A positive exponent adds no digits to a zero. A negative one does: `0e-2` is `0.00`.
    let is_zero = mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let whole = if is_zero { 1 } else { length_of(whole)?.checked_add(exponent)?.max(1) };
    let fraction = length_of(fraction)?.checked_sub(exponent)?.max(0);
    let point = i64::from(fraction > 0);
    let sign = i64::from(number.len() > digits.len());
    let length = whole.checked_add(fraction)?.checked_add(point + sign)?;
    usize::try_from(length).ok().filter(|&length| length <= MAX_NUMBER_LENGTH)
}

/// A token of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `}` or `]`
    End,
    /// A string as written, with its quotes.
    Text(&'a str),
    /// A number as written.
    Number(&'a str),
    /// `true`, `false` or `null`.
    Word(&'a str),
}

/// Iterates over the tokens of JSON, except `:` and `,`. Malformed JSON yields some bounded sequence of tokens.
struct Tokens<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn of(json: &'a str) -> Self {
        Self { json, at: 0 }
    }

    /// Moves to the next byte for which `wanted` is true, or to the end.
    fn seek(&mut self, wanted: impl Fn(u8) -> bool) -> Option<u8> {
        let rest = &self.json.as_bytes()[self.at..];
        let found = rest.iter().position(|byte| wanted(*byte));
        self.at += found.unwrap_or(rest.len());
        found.map(|position| rest[position])
    }

    /// Moves past the end of a string whose opening quote has been read.
    fn end_text(&mut self) {
        while self.seek(|byte| matches!(byte, b'"' | b'\\')) == Some(b'\\') {
            self.at = (self.at + 2).min(self.json.len());
        }
        self.at = (self.at + 1).min(self.json.len());
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let first = self.seek(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':'))?;
        let begin = self.at;
        self.at += 1;
        match first {
            b'{' => return Some(Token::Object),
            b'[' => return Some(Token::Array),
            b'}' | b']' => return Some(Token::End),
            b'"' => self.end_text(),
            _ => {
                self.seek(|byte| byte.is_ascii_whitespace() || b",:{}[]\"".contains(&byte));
            }
        }
        let written = self.json.get(begin..self.at).unwrap_or_default();
        Some(match first {
            b'"' => Token::Text(written),
            b'-' | b'0'..=b'9' => Token::Number(written),
            _ => Token::Word(written),
        })
    }
}

#[cfg(test)]
#[path = "storable_json_tests.rs"]
mod tests;

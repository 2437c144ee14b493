//! The syntax of idempotency keys.

use crate::accept::error::InvalidEvent;

/// Checks an idempotency key: 1 to 255 visible ASCII characters.
///
/// # Errors
/// [`InvalidEvent::IdempotencyKey`].
pub(crate) fn check_idempotency_key(bytes: &[u8]) -> Result<String, InvalidEvent> {
    let is_valid = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match String::from_utf8(bytes.to_vec()) {
        Ok(key) if is_valid => Ok(key),
        _ => Err(InvalidEvent::IdempotencyKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_are_visible_ascii() {
        assert!(check_idempotency_key(b"a").is_ok() && check_idempotency_key(&[b'x'; 255]).is_ok());
        for key in [&b""[..], b"a b", b"\xff", "é".as_bytes(), &[b'x'; 256]] {
            assert!(check_idempotency_key(key).is_err());
        }
    }
}

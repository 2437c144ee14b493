//! Removes IP addresses from the error messages that tenants read. Addresses of name servers, of proxies, and those
//! that a name resolves to would reveal the network that Postrider runs in.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// Replaces an address.
const MASK: &str = "***";

/// Returns the text with every IP address replaced, with or without a port.
pub(crate) fn addresses(text: &str) -> Cow<'_, str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "[]:.%".contains(character);
    let mut told = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let begin = rest.find(is_part).unwrap_or(rest.len());
        let (between, from_word) = rest.split_at(begin);
        let end = from_word.find(|character| !is_part(character)).unwrap_or(from_word.len());
        let (word, after) = from_word.split_at(end);
        // A full stop or colon may end a sentence.
        let bare = word.trim_end_matches(['.', ':']);
        told.push_str(between);
        told.push_str(if is_address(bare) { MASK } else { bare });
        told.push_str(&word[bare.len()..]);
        rest = after;
    }
    if told == text { text.into() } else { told.into() }
}

fn is_address(word: &str) -> bool {
    let literal = word.trim_start_matches('[').trim_end_matches(']');
    let unscoped = literal.split_once('%').map_or(literal, |(address, _)| address);
    unscoped.parse::<IpAddr>().is_ok() || word.parse::<SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hidden_and_nothing_else_is() {
        for (text, told) in [
            ("10.1.2.3 is not a public address", "*** is not a public address"),
            ("refused: ::ffff:10.0.0.1.", "refused: ***."),
            ("tcp connect error: 10.0.0.5:443: refused", "tcp connect error: ***: refused"),
            ("udp to [fd00::1]:53, then (fe80::1%eth0)", "udp to ***, then (***)"),
            ("[::1] and ::", "*** and ::"),
            ("the exchange took longer than 15 s", "the exchange took longer than 15 s"),
            ("the receiver answered 503; TLS 1.2, v1.2.3", "the receiver answered 503; TLS 1.2, v1.2.3"),
            ("é 日本 10.0.0.1", "é 日本 ***"),
            ("", ""),
        ] {
            assert_eq!(addresses(text), told, "{text}");
        }
    }
}

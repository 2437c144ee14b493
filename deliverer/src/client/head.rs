//! Reads response heads before hyper does, so that no head costs more memory or time than allowed, and no response is
//! lost because of a detail that does not matter.
//!
//! - Informational responses (1xx) are counted and dropped: hyper would read them forever.
//! - Header lines are passed on while there is room for them. The headers that matter most have room of their own.
//! - The status line is rewritten: without its reason phrase, which may contain any byte, and as HTTP/1.1, which allows
//!   a chunked body.

use std::io::Write as _;

/// Maximum bytes read until the head of the response ends, including informational responses.
const MAX_HEAD: usize = 400 * 1024;

/// Maximum informational responses before the final one.
const MAX_INFORMATIONAL: usize = 64;

/// Maximum bytes of header lines that are kept.
const ROOM: usize = 16 * 1024;

/// Additional bytes for headers listed in [`FRAMING`].
const ROOM_FOR_FRAMING: usize = 2 * 1024;

/// Bytes that each line costs in addition to its text, because a parsed header takes more memory than its text.
const LINE_OVERHEAD: usize = 64;

/// Maximum number of header lines, which follows from the limits above.
pub(super) const MAX_HEADERS: usize = (ROOM + ROOM_FOR_FRAMING) / LINE_OVERHEAD;

/// Headers without which the response would have a different meaning.
const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "connection", "retry-after"];

/// Why a head is not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadError {
    #[error("the head of the answer is longer than {} KiB", MAX_HEAD / 1024)]
    TooLong,
    #[error("more than {MAX_INFORMATIONAL} informational answers (1xx) came before the one that counts")]
    TooManyInformational,
}

/// The head of one response, as far as it has been read.
#[derive(Debug)]
pub(super) struct Head {
    at: At,
    /// The beginning of a line that is not complete yet.
    line: Vec<u8>,
    read: usize,
    informational: usize,
    room: usize,
    room_for_framing: usize,
    /// Whether the latest header line was passed on, so that its continuation lines are too.
    is_passing: bool,
    status: Option<StatusLine>,
}

/// What is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    StatusLine,
    /// A line of an informational response.
    Informational,
    Header,
    /// The body, or something that is not HTTP: hyper deals with it.
    Body,
}

/// A parsed status line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StatusLine {
    pub(super) code: u16,
    /// The minor version of HTTP/1.
    pub(super) minor: u8,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            at: At::StatusLine,
            line: Vec::new(),
            read: 0,
            informational: 0,
            room: ROOM,
            room_for_framing: ROOM_FOR_FRAMING,
            is_passing: false,
            status: None,
        }
    }
}

impl Head {
    /// Returns true once the head has ended.
    pub(super) fn is_over(&self) -> bool {
        self.at == At::Body
    }

    /// Returns the status line of the final response, once it has arrived.
    pub(super) fn status(&self) -> Option<StatusLine> {
        self.status
    }

    /// Reads bytes of the response, and appends to `passed` what hyper should read.
    pub(super) fn read(&mut self, mut bytes: &[u8], passed: &mut Vec<u8>) -> Result<(), HeadError> {
        while !self.is_over() && !bytes.is_empty() {
            let end = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |newline| newline + 1);
            let (piece, rest) = bytes.split_at(end);
            bytes = rest;
            self.read += piece.len();
            if self.read > MAX_HEAD {
                return Err(HeadError::TooLong);
            }
            // A longer line would not fit anyway.
            let missing = ROOM.saturating_sub(self.line.len()).min(piece.len());
            self.line.extend_from_slice(&piece[..missing]);
            if piece.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.line);
                self.end_line(&line, passed)?;
                line.clear();
                self.line = line;
            } else if self.at == At::StatusLine && !may_be_http(&self.line) {
                self.leave_to_hyper(passed);
            }
        }
        if self.is_over() {
            passed.extend_from_slice(bytes);
            self.line = Vec::new();
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], passed: &mut Vec<u8>) -> Result<(), HeadError> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        match self.at {
            // Some servers send an empty line before a response.
            At::StatusLine if text.is_empty() => {}
            At::StatusLine => match StatusLine::parse(text) {
                None => {
                    self.line = line.to_vec();
                    self.leave_to_hyper(passed);
                }
                Some(status) if status.is_informational() => {
                    self.informational += 1;
                    if self.informational > MAX_INFORMATIONAL {
                        return Err(HeadError::TooManyInformational);
                    }
                    self.at = At::Informational;
                }
                Some(status) => {
                    write!(passed, "HTTP/1.1 {}\r\n", status.code).expect("writing to a Vec cannot fail");
                    self.status = Some(status);
                    self.at = At::Header;
                }
            },
            At::Informational if text.is_empty() => self.at = At::StatusLine,
            At::Informational | At::Body => {}
            At::Header if text.is_empty() => {
                passed.extend_from_slice(b"\r\n");
                self.at = At::Body;
            }
            At::Header => {
                self.is_passing = self.takes(line);
                if self.is_passing {
                    passed.extend_from_slice(line);
                }
            }
        }
        Ok(())
    }

    fn leave_to_hyper(&mut self, passed: &mut Vec<u8>) {
        passed.append(&mut self.line);
        self.at = At::Body;
    }

    /// Returns true if a header line is to be passed on, and reserves its room.
    fn takes(&mut self, line: &[u8]) -> bool {
        let continues = line.starts_with(b" ") || line.starts_with(b"\t");
        if (continues && !self.is_passing) || declares_more_than_there_is(line) {
            return false;
        }
        let room = if is_framing(line) { &mut self.room_for_framing } else { &mut self.room };
        let left = room.checked_sub(line.len() + LINE_OVERHEAD);
        *room = left.unwrap_or(*room);
        left.is_some()
    }
}

impl StatusLine {
    /// Parses `HTTP/1.x` and a three-digit status. Ignores the rest of the line.
    fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = text.split_at_checked(8)?;
        let minor = version.strip_prefix(b"HTTP/1.")?.first().filter(|byte| byte.is_ascii_digit())? - b'0';
        if !rest.starts_with(b" ") && !rest.starts_with(b"\t") {
            return None;
        }
        let rest = rest.trim_ascii_start();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let code = std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()?;
        (digits == 3 && code >= 100).then_some(Self { code, minor })
    }

    /// Returns true if another response follows. After 101 none does.
    fn is_informational(self) -> bool {
        self.code < 200 && self.code != 101
    }
}

fn may_be_http(line: &[u8]) -> bool {
    let begun = line.trim_ascii_start();
    b"HTTP/".iter().zip(begun).all(|(expected, byte)| expected == byte)
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
}

fn is_framing(line: &[u8]) -> bool {
    field(line)
        .is_some_and(|(name, _)| FRAMING.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())))
}

/// Returns true for a content length of more than 63 bits. It is ignored, as by curl: the body ends with the
/// connection.
fn declares_more_than_there_is(line: &[u8]) -> bool {
    field(line).is_some_and(|(name, value)| {
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().and_then(|value| value.parse::<i64>().ok());
        name.eq_ignore_ascii_case(b"content-length") && is_number && number.is_none()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns what is passed on of a response that arrives in pieces of this size.
    fn passed(answer: &[u8], piece: usize) -> Result<Vec<u8>, HeadError> {
        let (mut head, mut passed) = (Head::default(), Vec::new());
        for piece in answer.chunks(piece) {
            head.read(piece, &mut passed)?;
        }
        Ok(passed)
    }

    fn text(answer: &str) -> String {
        let whole = passed(answer.as_bytes(), answer.len()).expect("a head");
        assert_eq!(passed(answer.as_bytes(), 1), Ok(whole.clone()), "byte by byte");
        String::from_utf8(whole).expect("text")
    }

    #[test]
    fn the_status_line_is_written_anew_and_the_rest_stays_as_it_is() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\nbody\n", "HTTP/1.1 200\r\na: b\r\n\r\nbody\n"),
            ("HTTP/1.0 503 \x01\r\n\r\n", "HTTP/1.1 503\r\n\r\n"),
            ("\r\n\nHTTP/1.1 200\na: b\n c\n\nbody", "HTTP/1.1 200\r\na: b\n c\n\r\nbody"),
            (
                "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103\r\na: b\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
                "HTTP/1.1 204\r\n\r\n",
            ),
            ("HTTP/1.1 101 S\r\n\r\n", "HTTP/1.1 101\r\n\r\n"),
            ("HTTP/1.1 200\r\nContent-Length : 99999999999999999999\r\n\r\n", "HTTP/1.1 200\r\n\r\n"),
        ] {
            assert_eq!(text(answer), expected);
        }
    }

    #[test]
    fn what_is_no_http_is_left_to_hyper_at_once() {
        for answer in
            ["SSH-2.0", "HTTP/2 200\r\n\r\n", "HTTP/1.1 20\r\n", "HTTP/1.1 2000\r\n", "\x15\x03\x01"]
        {
            assert_eq!(text(answer), answer);
        }
        assert_eq!(text("HTTP/1.1 2"), "", "this may become a status line");
    }

    #[test]
    fn informational_answers_and_bytes_are_bounded() {
        let informational = b"HTTP/1.1 103 E\r\n\r\n";
        let answer = [informational.repeat(64), b"HTTP/1.1 200\r\n\r\n".to_vec()].concat();
        assert_eq!(passed(&answer, 4096), Ok(b"HTTP/1.1 200\r\n\r\n".to_vec()));
        assert_eq!(passed(&informational.repeat(65), 4096), Err(HeadError::TooManyInformational));
        let endless = [b"HTTP/1.1 103 E\r\n".to_vec(), b"a: b\r\n".repeat(100_000)].concat();
        assert_eq!(passed(&endless, 4096), Err(HeadError::TooLong));
    }

    #[test]
    fn however_large_a_head_is_little_of_it_is_kept_and_the_framing_is() {
        let lines = format!("x: {}\r\n", "v".repeat(3_900)).repeat(60);
        let long = "x".repeat(20_000);
        let answer =
            format!("HTTP/1.1 200 OK\r\n{lines}{long}: v\r\nz: {long}\r\n z\r\nContent-Length: 2\r\n\r\nok");
        let (mut head, mut passed) = (Head::default(), Vec::new());
        for piece in answer.as_bytes().chunks(1_000) {
            head.read(piece, &mut passed).expect("a head");
            assert!(head.line.capacity() <= 2 * ROOM);
        }
        assert!(passed.len() < ROOM + 100, "{}", passed.len());
        assert!(passed.ends_with(b"\r\nContent-Length: 2\r\n\r\nok"));
        assert_eq!(head.line.capacity(), 0, "the buffer is freed");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(answer in proptest::collection::vec(
            prop_oneof![
                Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 103\n"), Just("\r\n"), Just("\n"), Just("a: b\r\n"),
                Just(" c\r\n"), Just("connection: close\r\n"), Just("junk"),
            ], 0..12), piece in 1..40usize) {
            let answer = answer.concat();
            prop_assert_eq!(passed(answer.as_bytes(), piece), passed(answer.as_bytes(), answer.len().max(1)));
        }
    }
}

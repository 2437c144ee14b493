//! The cost of a pattern.
//!
//! The regex engine follows all states of a compiled pattern in parallel. It caches the sets of states that it has
//! seen, and then takes one step per byte. But a hostile pattern leads to a new set at every byte, and then the
//! engine takes one step per state and byte.

use jsonschema::PatternOptions;
use jsonschema_regex::{Search, search_form, to_rust_regex};
use regex_automata::nfa::thompson::{NFA, State, WhichCaptures};

/// The largest compiled pattern, in bytes.
const MAX_BYTES: usize = 262_144;
/// The largest cache of state sets for each thread and direction, in bytes.
const MAX_CACHE_BYTES: usize = 32_768;
/// How much more each character costs in a pattern with flags: matching without regard to case looks a class up in
/// the Unicode tables.
const FLAGGED: usize = 8;

/// Returns the options for compiling patterns.
pub(super) fn options() -> PatternOptions<jsonschema::Regex> {
    PatternOptions::regex().size_limit(MAX_BYTES).dfa_size_limit(MAX_CACHE_BYTES)
}

/// Returns the length of a pattern, weighted by what parsing a character costs.
pub(super) fn length(pattern: &str) -> usize {
    let has_flags = pattern
        .match_indices("(?")
        .any(|(at, _)| pattern[at + 2..].starts_with(|next: char| next.is_ascii_alphabetic() || next == '-'));
    pattern.len() * if has_flags { FLAGGED } else { 1 }
}

/// Returns the steps per byte of a string: the states of the compiled pattern, plus the alternatives of each.
///
/// # Errors
/// Why the pattern cannot be compiled.
pub(super) fn size(pattern: &str) -> Result<u64, &'static str> {
    const INVALID: &str = "is not a valid pattern; look-around and back-references are not supported";
    let translated = to_rust_regex(pattern).map_err(|()| INVALID)?;
    let searched = match search_form(pattern, &translated) {
        // The validator counts characters instead of matching.
        Some(Search::RepeatedClass(_)) => return Ok(1),
        Some(Search::Collapsed(simpler)) => simpler.into(),
        None => translated,
    };
    let config = NFA::config().nfa_size_limit(Some(MAX_BYTES)).which_captures(WhichCaptures::None);
    let nfa = NFA::compiler().configure(config).build(&searched).map_err(|error| {
        if error.size_limit().is_some() {
            "is a pattern that is too large when it is compiled; use fewer repetitions or smaller character \
             classes"
        } else {
            INVALID
        }
    })?;
    let alternatives = nfa.states().iter().map(|state| match state {
        State::Sparse(transitions) => transitions.transitions.len(),
        State::Union { alternates } => alternates.len(),
        State::BinaryUnion { .. } => 2,
        _ => 0,
    });
    Ok((nfa.states().len() + alternatives.sum::<usize>()) as u64)
}

//! What a pattern costs.
//!
//! The engine follows all states of a compiled pattern in parallel. It remembers which sets of states it has seen, and
//! then takes one step for each byte; but a hostile pattern leads to a new set at every byte, and then the engine takes
//! a step for each state and byte.

use jsonschema::PatternOptions;
use jsonschema_regex::{Search, search_form, to_rust_regex};
use regex_automata::nfa::thompson::{NFA, State, WhichCaptures};

/// Bytes that a compiled pattern may take.
const MAX_BYTES: usize = 262_144;
/// Bytes of the sets of states that are remembered, for each thread and direction.
const MAX_CACHE_BYTES: usize = 32_768;
/// How much more it costs to read a character of a pattern that has flags: without regard to case, a class is looked
/// up in the tables of Unicode.
const FLAGGED: usize = 8;

/// How patterns are compiled.
pub(super) fn options() -> PatternOptions<jsonschema::Regex> {
    PatternOptions::regex().size_limit(MAX_BYTES).dfa_size_limit(MAX_CACHE_BYTES)
}

/// Characters, weighted by what reading them costs.
pub(super) fn length(pattern: &str) -> usize {
    let has_flags = pattern
        .match_indices("(?")
        .any(|(at, _)| pattern[at + 2..].starts_with(|next: char| next.is_ascii_alphabetic() || next == '-'));
    pattern.len() * if has_flags { FLAGGED } else { 1 }
}

/// Steps for each byte of a text: the states of the compiled pattern, with the alternatives of each.
///
/// # Errors
/// With why it cannot be compiled.
pub(super) fn size(pattern: &str) -> Result<u64, &'static str> {
    const INVALID: &str = "is not a valid pattern; look-around and back-references are not supported";
    let translated = to_rust_regex(pattern).map_err(|()| INVALID)?;
    let searched = match search_form(pattern, &translated) {
        // Characters are counted instead.
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

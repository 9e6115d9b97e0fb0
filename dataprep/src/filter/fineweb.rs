//! FineWeb's rules, which drop lists, fragments and repeated lines, as datatrove's `fineweb_quality_filter.py` counts
//! them.

use super::config::{FineWebConfig, Limit};
use super::repetition::{HashSet64, duplicates};
use super::scores::{Scores, ratio};
use super::text::{is_space, is_terminal};
use crate::document::Dropped;

/// Holds a text of `words` words against the rules, in datatrove's order.
pub(crate) fn check(
    config: &FineWebConfig,
    text: &str,
    words: usize,
    seen: &mut HashSet64,
    scores: &mut Scores,
) -> Result<(), Dropped> {
    let lines = || text.split('\n').filter(|line| !line.chars().all(is_space));
    let (mut all, mut terminal, mut short) = (0, 0, 0);
    for line in lines() {
        all += 1;
        terminal += usize::from(line.chars().next_back().is_some_and(is_terminal));
        short += usize::from(is_short(line, config.short_line_length));
    }
    scores.at_least("fineweb.lines", Limit::At(1.0), || all as f64)?;
    scores.at_least("fineweb.min_terminal_lines", config.min_terminal_lines, || ratio(terminal, all))?;
    scores.at_most("fineweb.max_short_lines", config.max_short_lines, || ratio(short, all))?;
    let newlines = memchr::memchr_iter(b'\n', text.as_bytes()).count();
    scores.at_most("fineweb.max_dup_line_chars", config.max_dup_line_chars, || {
        ratio(duplicates(lines(), seen).chars, text.chars().count() - newlines)
    })?;
    scores.at_most("fineweb.max_newlines_per_word", config.max_newlines_per_word, || ratio(newlines, words))
}

/// Whether a line has at most `length` characters. Counts only where the number of bytes leaves it open.
fn is_short(line: &str, length: u64) -> bool {
    let bytes = line.len() as u64;
    bytes <= length || (bytes <= length.saturating_mul(4) && line.chars().count() as u64 <= length)
}

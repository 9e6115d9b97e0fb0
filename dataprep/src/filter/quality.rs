//! The Gopher quality rules over words, symbols and lines, as datatrove's `gopher_quality_filter.py` counts them.

use super::config::QualityConfig;
use super::scores::{Scores, ratio};
use super::text::{is_space, lines};
use super::words::{LETTER, SYMBOL, Word};
use crate::document::Dropped;
use memchr::memmem;

/// Holds a text against the rules, in datatrove's order.
pub(crate) fn check(config: &QualityConfig, text: &str, words: &[Word], scores: &mut Scores) -> Result<(), Dropped> {
    let (mut real, mut chars, mut lettered) = (0, 0, 0);
    for word in words {
        if !word.is(SYMBOL) {
            real += 1;
            chars += word.chars as usize;
        }
        lettered += usize::from(word.is(LETTER));
    }
    scores.at_least("gopher_quality.min_words", config.min_words.real(), || real as f64)?;
    scores.at_most("gopher_quality.max_words", config.max_words.real(), || real as f64)?;
    // Of no words there is no mean, and no rule about it.
    if real > 0 {
        let mean = ratio(chars, real);
        scores.at_least("gopher_quality.min_mean_word_length", config.min_mean_word_length, || mean)?;
        scores.at_most("gopher_quality.max_mean_word_length", config.max_mean_word_length, || mean)?;
    }
    scores.at_most("gopher_quality.max_hash_ratio", config.max_hash_ratio, || {
        ratio(memchr::memchr_iter(b'#', text.as_bytes()).count(), words.len())
    })?;
    scores.at_most("gopher_quality.max_ellipsis_ratio", config.max_ellipsis_ratio, || {
        let of = |needle: &str| memmem::find_iter(text.as_bytes(), needle).count();
        ratio(of("...") + of("…"), words.len())
    })?;
    let (mut all, mut bullets, mut ellipses) = (0, 0, 0);
    for (_, line) in lines(text) {
        all += 1;
        bullets += usize::from(line.trim_start_matches(is_space).starts_with(['•', '-']));
        let end = line.trim_end_matches(is_space);
        ellipses += usize::from(end.ends_with("...") || end.ends_with('…'));
    }
    scores.at_most("gopher_quality.max_bullet_lines", config.max_bullet_lines, || ratio(bullets, all))?;
    scores.at_most("gopher_quality.max_ellipsis_lines", config.max_ellipsis_lines, || ratio(ellipses, all))?;
    scores.at_least("gopher_quality.min_alphabetic_words", config.min_alphabetic_words, || {
        ratio(lettered, words.len())
    })?;
    scores.at_least("gopher_quality.min_stop_words", config.min_stop_words.real(), || {
        stop_words(config, text, words, config.min_stop_words.get().unwrap_or(0)) as f64
    })
}

/// How many different stop words occur, counted no further than `enough`.
fn stop_words(config: &QualityConfig, text: &str, words: &[Word], enough: u64) -> u64 {
    let longest = config.stop_words.iter().map(String::len).max().unwrap_or(0);
    let mut missing: Vec<&str> = config.stop_words.iter().map(String::as_str).collect();
    missing.sort_unstable();
    missing.dedup();
    let mut found = 0;
    for word in words {
        if found >= enough {
            break;
        }
        if (word.end - word.start) as usize > longest {
            continue;
        }
        let word = word.of(text);
        if let Some(at) = missing.iter().position(|stop| *stop == word) {
            missing.swap_remove(at);
            found += 1;
        }
    }
    found
}

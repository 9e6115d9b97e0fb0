//! One text while its endings are scored.

use crate::error::{Error, Result};
use crate::infer::distribution::{Logprobs, log_sum_exp, most_probable};
use crate::infer::request::{ScoreRequest, Scores};

/// Endings of a text, with their scores so far. Scores are kept by position, so that positions can be computed again.
pub(super) struct Scoring {
    /// Tokens of the text.
    length: usize,
    endings: Vec<(Vec<u32>, Scores)>,
    /// Tokens of each ending.
    rows: usize,
    /// The most probable tokens to report for each place.
    top: usize,
}

impl Scoring {
    /// Nothing scored yet, with `top` most probable tokens to report for each place; and the text.
    ///
    /// # Errors
    /// Endings that do not fit each other or the text.
    pub fn new(request: ScoreRequest, top: usize) -> Result<(Self, Vec<u32>)> {
        let ScoreRequest { tokens, endings } = request;
        let rows = endings.first().map_or(0, Vec::len);
        let problem = if rows == 0 {
            "there is no token to score"
        } else if rows > tokens.len() {
            "the first of the scored tokens has no token before it"
        } else if endings.iter().any(|ending| ending.len() != rows) {
            "the endings of a text differ in length"
        } else if endings.iter().any(|ending| !tokens.ends_with(&ending[..rows - 1])) {
            "the text does not end like its endings"
        } else {
            let tops = if top > 0 { vec![Vec::new(); rows] } else { Vec::new() };
            let empty = Scores { logprobs: vec![0.0; rows], greedy: vec![false; rows], top: tops };
            let endings = endings.into_iter().map(|ending| (ending, empty.clone())).collect();
            return Ok((Self { length: tokens.len(), endings, rows, top }, tokens));
        };
        Err(Error::Run(format!("{problem}: give the tokens of a text without the last one, and its endings")))
    }

    pub fn endings(&self) -> impl Iterator<Item = &[u32]> {
        self.endings.iter().map(|(ending, _)| &ending[..])
    }

    /// Tokens of the text.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Positions whose logits are needed, the last ones of the text.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the logits of a position.
    pub fn row(&mut self, position: usize, logits: &[f32]) {
        let Some(place) = (position + self.rows).checked_sub(self.length) else { return };
        let (normalizer, best) = (log_sum_exp(logits), most_probable(logits));
        let top = if self.top > 0 { Logprobs::new(logits, best, self.top).top } else { Vec::new() };
        for (ending, scores) in &mut self.endings {
            let Some(&token) = ending.get(place) else { continue };
            let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
            scores.logprobs[place] = (f64::from(logit) - normalizer) as f32;
            scores.greedy[place] = token == best;
            if let Some(place) = scores.top.get_mut(place) {
                place.clone_from(&top);
            }
        }
    }

    pub fn scores(self) -> Vec<Scores> {
        self.endings.into_iter().map(|(_, scores)| scores).collect()
    }
}

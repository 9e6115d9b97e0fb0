//! Text from a model, token by token.
//!
//! Every token runs the whole prefix again.

use fathom_core::device::Kernels;
use fathom_core::model::Model;
use fathom_core::rng;
use fathom_dataprep::Tokenizer;

use crate::error::{Error, Result};

/// Sampling parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Maximum new tokens.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 = greedy.
    pub temperature: f64,
    /// Sample among this number of most probable tokens; 0 for all.
    pub top_k: usize,
    /// Nucleus sampling: sample among the most probable tokens that together reach this probability; 1 for all.
    pub top_p: f64,
    /// Random seed: the same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { max_new_tokens: 128, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its text.
    EndOfText,
    /// As many tokens as were asked for.
    Length,
    /// The model's context is full.
    Context,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it stopped.
    pub stop: Stop,
}

impl Sampling {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Names the option that makes no sense.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::Usage(format!("--temperature {}: must be 0 (greedy) or above", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Usage(format!("--top-p {}: must be above 0 and at most 1", self.top_p)));
        }
        Ok(())
    }

    /// Samples a token from logits with the random number of that `index`.
    pub fn choose(&self, logits: &[f32], index: u64) -> u32 {
        if self.temperature == 0.0 {
            return most_probable(logits);
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        // Stable: among equal logits the lower token comes first, on every machine.
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let largest = f64::from(logits[order[0] as usize]);
        let weight = |&t: &u32| ((f64::from(logits[t as usize]) - largest) / self.temperature).exp();
        let mut weights: Vec<f64> = order.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let nucleus = weights.iter().position(|w| {
            reached += w / total;
            reached >= self.top_p
        });
        weights.truncate(nucleus.map_or(weights.len(), |last| last + 1));

        let mut left = rng::uniform(self.seed, rng::stream("sampling"), index) * weights.iter().sum::<f64>();
        for (&token, w) in order.iter().zip(&weights) {
            if left < *w {
                return token;
            }
            left -= w;
        }
        order[weights.len() - 1]
    }
}

fn most_probable(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best });
    best.unwrap_or(0) as u32
}

/// Continues a text with a model and a tokenizer. [`Session::generate`](crate::session::Session::generate) does it for
/// a loaded checkpoint.
pub(crate) fn generate<D: Kernels>(
    model: &Model<D>,
    tokenizer: &Tokenizer,
    prompt: &str,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    continue_tokens(model, tokenizer, &[], encode_prompt(tokenizer, prompt)?, sampling, on_text)
}

/// As [`generate`], after a prompt of at least one token; the tokenizer's end token and those in `ends` end the text.
pub(crate) fn continue_tokens<D: Kernels>(
    model: &Model<D>,
    tokenizer: &Tokenizer,
    ends: &[u32],
    mut tokens: Vec<u32>,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    sampling.validate()?;
    let (start, context) = (tokens.len(), model.config().max_position_embeddings);
    if start >= context {
        return Err(Error::Run(format!(
            "the prompt has {start} tokens, but the model's context (max_position_embeddings) is {context}: \
             shorten it"
        )));
    }
    let mut decoder = tokenizer.stream_decoder();
    let mut text = String::new();
    let mut stop = Stop::Length;
    for index in 0..sampling.max_new_tokens {
        if tokens.len() >= context {
            stop = Stop::Context;
            break;
        }
        let logits = model.next_token_logits(&tokens).map_err(Error::device("computing the next token"))?;
        check_finite(&logits, "the logits")?;
        let token = sampling.choose(&logits, index as u64);
        if token == tokenizer.eos_id() || ends.contains(&token) {
            stop = Stop::EndOfText;
            break;
        }
        tokens.push(token);
        let piece = decoder.push(token);
        text.push_str(&piece);
        if !piece.is_empty() && !on_text(&piece) {
            break;
        }
    }
    let rest = decoder.finish();
    text.push_str(&rest);
    if !rest.is_empty() {
        on_text(&rest);
    }
    Ok(Generated { tokens: tokens.split_off(start), text, stop })
}

/// Refuses numbers of the model that are NaN or infinite: nothing can be chosen or measured by them.
pub(crate) fn check_finite(values: &[f32], what: &str) -> Result<()> {
    let Some(at) = values.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    Err(Error::Run(format!(
        "{what} of the model are not finite ({} at position {at}): its weights have diverged or are damaged; take an \
         earlier checkpoint",
        values[at]
    )))
}

/// The token ids of a prompt; never none: an empty prompt is the token that begins a text, or that ends one.
pub(crate) fn encode_prompt(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let ids = tokenizer.encode(text)?;
    Ok(if ids.is_empty() { vec![prefix(tokenizer)] } else { ids })
}

/// The token that stands before a text without context.
pub(crate) fn prefix(tokenizer: &Tokenizer) -> u32 {
    tokenizer.bos_id().unwrap_or_else(|| tokenizer.eos_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        assert_eq!(sampling.choose(&[0.0, 3.0, -1.0, 3.0], 0), 1);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let sampling = Sampling { seed: 3, ..Sampling::default() };
        let logits = [0.0, (2.0f32).ln(), (5.0f32).ln()];
        let mut counts = [0u32; 3];
        for i in 0..8000 {
            counts[sampling.choose(&logits, i) as usize] += 1;
        }
        for (count, want) in counts.iter().zip([1000.0, 2000.0, 5000.0]) {
            assert!((f64::from(*count) - want).abs() < 4.0 * f64::sqrt(want), "{counts:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_the_tail_out() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let top_k = Sampling { top_k: 2, ..Sampling::default() };
        let top_p = Sampling { top_p: 0.6, ..Sampling::default() };
        for i in 0..500 {
            assert!(top_k.choose(&logits, i) >= 2);
            assert_eq!(top_p.choose(&logits, i), 3, "the best token alone has probability 0.64");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_choice() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32).sin()).collect();
        let a: Vec<u32> = (0..20).map(|i| Sampling { seed: 1, ..Sampling::default() }.choose(&logits, i)).collect();
        let b: Vec<u32> = (0..20).map(|i| Sampling { seed: 1, ..Sampling::default() }.choose(&logits, i)).collect();
        let c: Vec<u32> = (0..20).map(|i| Sampling { seed: 2, ..Sampling::default() }.choose(&logits, i)).collect();
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (sampling, name) in [
            (Sampling { temperature: -1.0, ..Sampling::default() }, "--temperature"),
            (Sampling { temperature: f64::NAN, ..Sampling::default() }, "--temperature"),
            (Sampling { top_p: 0.0, ..Sampling::default() }, "--top-p"),
            (Sampling { top_p: 1.5, ..Sampling::default() }, "--top-p"),
        ] {
            assert!(sampling.validate().unwrap_err().to_string().contains(name));
        }
    }
}

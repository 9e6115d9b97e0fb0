//! One request while it is computed: everything that must survive pre-emption.

use std::ops::Range;

use fathom_core::sampling::Rule;
use fathom_dataprep::Tokenizer;

use super::choose::Row;
use super::{Event, Id};
use crate::error::Result;
use crate::infer::constraint::Follower;
use crate::infer::distribution::Logprobs;
use crate::infer::request::{EndToken, Generated, Stop};
use crate::infer::sampling::{History, Sampling};
use crate::infer::speculate::{self, Drafted};
use crate::infer::stream::TextStream;

/// A request with its output so far.
pub(super) struct Live {
    pub sampling: Sampling,
    /// Prompt and output.
    tokens: Vec<u32>,
    pub generated: Vec<u32>,
    text: String,
    stream: TextStream,
    history: History,
    logprobs: Vec<Logprobs>,
    /// The token that ended the text.
    end: Option<EndToken>,
    /// The output's state within the language that it must belong to.
    constraint: Option<Box<dyn Follower>>,
    /// Drafts of the next tokens.
    pub drafts: Vec<Drafted>,
}

impl Live {
    /// A request without output. `ends` are the tokens with which the model ends texts.
    pub fn new(
        prompt: &[u32],
        sampling: Sampling,
        constraint: Option<Box<dyn Follower>>,
        tokenizer: Option<&Tokenizer>,
        ends: impl IntoIterator<Item = u32>,
    ) -> Self {
        let stream = TextStream::new(tokenizer, &sampling.stop);
        let mut history = History::new(prompt);
        if sampling.min_new_tokens > 0 {
            let own = ends.into_iter().filter(|_| !sampling.ignore_eos);
            history = history.ended_by(own.chain(sampling.stop_tokens.iter().copied()));
        }
        Self {
            sampling,
            tokens: prompt.to_vec(),
            generated: Vec::new(),
            text: String::new(),
            stream,
            history,
            logprobs: Vec::new(),
            end: None,
            constraint,
            drafts: Vec::new(),
        }
    }

    /// Tokens of prompt and output.
    pub fn length(&self) -> usize {
        self.tokens.len()
    }

    pub fn tokens_at(&self, positions: Range<usize>) -> &[u32] {
        self.tokens.get(positions).unwrap_or_default()
    }

    /// Tokens that came after prompt and output were `length` tokens long.
    pub fn generated_since(&self, length: usize) -> &[u32] {
        self.tokens.get(length..).unwrap_or_default()
    }

    /// The rule by which the device chooses the token `ahead` places after the output; none where the host needs the
    /// logits: to change them, to report their probabilities, or to compare them with a draft's.
    pub fn rule(&self, ahead: usize) -> Option<Rule> {
        let sampled_drafts = !self.sampling.is_greedy() && !self.drafts.is_empty();
        let is_read = self.constraint.is_some() || self.sampling.logprobs.is_some() || sampled_drafts;
        self.sampling.rule(self.generated.len() + ahead).filter(|_| !is_read)
    }

    /// As [`rule`](Self::rule), for the next draft: that of a sampled token is drawn from a distribution which is kept.
    pub fn draft_rule(&self) -> Option<Rule> {
        let place = self.generated.len() + self.drafts.len();
        self.sampling.rule(place).filter(|_| self.sampling.is_greedy() && self.constraint.is_none())
    }

    /// The next token, and whether it is the draft.
    ///
    /// # Errors
    /// A constraint that cannot be followed further.
    pub fn choose(&mut self, row: Row<'_>, draft: Option<&Drafted>) -> Result<(u32, bool)> {
        let logits = match row {
            Row::Token(token) => return Ok((token, draft.is_some_and(|draft| draft.token == token))),
            Row::Logits(logits) => logits,
        };
        let raw = self.sampling.logprobs.map(|n| (n, logits.to_vec()));
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits)?;
        }
        let position = self.generated.len();
        let (token, right) = match draft {
            Some(draft) => speculate::verify(&self.sampling, &self.history, logits, draft, position),
            None => (self.sampling.choose(&self.history, logits, position), false),
        };
        if let Some((n, raw)) = raw {
            self.logprobs.push(Logprobs::new(&raw, token, n));
        }
        Ok((token, right))
    }

    /// Whether the token ends the text by the request's own wish.
    pub fn ended_by(&self, token: u32) -> bool {
        self.sampling.stop_tokens.contains(&token)
    }

    /// Appends a token to the output; gives the text that can be shown, and why the output ends, if it does. `eos` says
    /// that the model ends texts with this token, `longest` how long prompt and output may become.
    ///
    /// # Errors
    /// A constraint that cannot be followed further.
    pub fn push(&mut self, token: u32, eos: bool, longest: usize) -> Result<(String, Option<Stop>)> {
        let ends = match (eos && !self.sampling.ignore_eos, self.ended_by(token)) {
            (_, true) => Some(Stop::Stop),
            (true, _) => Some(Stop::EndOfText),
            _ => None,
        };
        if ends.is_some() {
            // None where they were not asked for.
            let logprobs = if self.logprobs.len() > self.generated.len() { self.logprobs.pop() } else { None };
            self.end = Some(EndToken { token, logprobs });
            return Ok((String::new(), ends));
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.push(token)?;
        }
        self.tokens.push(token);
        self.generated.push(token);
        self.history.push(token);
        let text = self.stream.push(token);
        self.text.push_str(&text);
        let stop = if self.stream.stopped() {
            Some(Stop::Stop)
        } else if self.constraint.as_ref().is_some_and(|constraint| constraint.complete()) {
            Some(Stop::EndOfText)
        } else if self.generated.len() >= self.sampling.max_new_tokens {
            Some(Stop::Length)
        } else {
            (self.tokens.len() >= longest).then_some(Stop::Context)
        };
        Ok((text, stop))
    }

    /// Drafts a further token from the MTP module's row, whose logits are finite. `None` where the constraint allows
    /// none after the earlier drafts.
    pub fn draft(&mut self, row: Row<'_>) -> Option<u32> {
        let logits = match row {
            Row::Token(token) => {
                self.drafts.push(Drafted { token, distribution: None });
                return Some(token);
            }
            Row::Logits(logits) => logits,
        };
        self.mask_draft(logits)?;
        let position = self.generated.len() + self.drafts.len();
        // Penalties count earlier drafts of the round.
        self.drafts.iter().for_each(|earlier| self.history.push(earlier.token));
        let drafted = speculate::draft(&self.sampling, &self.history, logits, position);
        self.drafts.iter().for_each(|earlier| self.history.pop(earlier.token));
        let token = drafted.token;
        self.drafts.push(drafted);
        Some(token)
    }

    /// Masks the logits of the token after the earlier drafts, if there is a constraint.
    fn mask_draft(&mut self, logits: &mut [f32]) -> Option<()> {
        let Some(constraint) = &self.constraint else { return Some(()) };
        let mut ahead = constraint.fork();
        for draft in &self.drafts {
            ahead.push(draft.token).ok()?;
            if ahead.complete() {
                return None;
            }
        }
        ahead.mask(logits).ok()
    }

    /// The log-probabilities of the last token of the output, if they were asked for.
    pub fn last_logprobs(&self) -> Option<&Logprobs> {
        self.logprobs.last()
    }

    /// The end of the output, of whose prompt `reused` positions were found in the cache.
    pub fn finished(mut self, id: Id, stop: Stop, reused: usize) -> Event {
        let text = self.stream.finish();
        self.text.push_str(&text);
        let Self { generated: tokens, text: whole, logprobs, end, .. } = self;
        Event::Finished { id, text, generated: Generated { tokens, text: whole, logprobs, stop }, end, reused }
    }
}

//! A language that begins after a text, such as the tag that ends a model's reasoning.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::infer::{Constraint, Follower};
use crate::serve::openai::choices::Vocabulary;

/// Bytes of line ends between the mark and the text of the language, at most.
const GAP: usize = 8;

/// A language whose text comes after the first mark, and after some line ends, as models write them there. Before the
/// mark any text may come, but the output may not end.
pub(super) struct After {
    language: Arc<dyn Constraint>,
    mark: Arc<Mark>,
}

/// A mark, and what a vocabulary has to do with it.
pub(super) struct Mark {
    text: &'static str,
    vocabulary: Arc<Vocabulary>,
    /// Tokens that end a text.
    ends: Vec<u32>,
    /// Tokens with the mark's last byte before others than line ends: they may reach past the mark.
    reaching: Vec<u32>,
    /// Tokens of line ends alone.
    blank: Vec<u32>,
}

impl Mark {
    /// A mark that is not empty, in texts of a vocabulary of `size` tokens, of which `ends` end a text.
    pub fn new(text: &'static str, vocabulary: Arc<Vocabulary>, size: usize, ends: Vec<u32>) -> Self {
        let last = text.as_bytes().last().copied();
        let is_blank = |token: &u32| {
            let bytes = vocabulary.bytes(*token);
            !bytes.is_empty() && blank(&bytes)
        };
        let reaches = |token: &u32| {
            let bytes = vocabulary.bytes(*token);
            let at = bytes.iter().position(|&byte| Some(byte) == last);
            at.is_some_and(|at| !blank(&bytes[at + 1..]))
        };
        let reaching = (0..size as u32).filter(reaches).collect();
        let blank = (0..size as u32).filter(is_blank).collect();
        Self { text, vocabulary, ends, reaching, blank }
    }
}

/// Whether these are line ends alone.
fn blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| b"\n\r".contains(byte))
}

impl After {
    pub fn new(language: Arc<dyn Constraint>, mark: Arc<Mark>) -> Self {
        Self { language, mark }
    }
}

impl fmt::Debug for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "After({:?}, {:?})", self.mark.text, self.language)
    }
}

impl Constraint for After {
    fn begin(&self) -> Result<Box<dyn Follower>> {
        let (mark, inner) = (Arc::clone(&self.mark), self.language.begin()?);
        Ok(Box::new(Before { mark, inner, text: Vec::new(), end: None, begun: false }))
    }
}

/// An output, before the mark or after it.
struct Before {
    mark: Arc<Mark>,
    inner: Box<dyn Follower>,
    /// The text before the language's own.
    text: Vec<u8>,
    /// Its length with the token that ends the mark, if that has come.
    end: Option<usize>,
    /// Whether the language's own text has begun.
    begun: bool,
}

impl Before {
    /// What comes after the mark once `bytes` are appended; `None` without it.
    fn after(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mark = self.mark.text.as_bytes();
        let from = self.text.len().saturating_sub(mark.len() - 1);
        let tail = [&self.text[from..], bytes].concat();
        let at = tail.windows(mark.len()).position(|window| window == mark)?;
        Some(tail[at + mark.len()..].to_vec())
    }

    /// Whether a token ends the mark and goes on with more than line ends: that would be lost to the language.
    fn crosses(&self, bytes: &[u8]) -> bool {
        self.after(bytes).is_some_and(|rest| !blank(&rest))
    }

    /// Whether further `bytes` may lie before the language's own text.
    fn is_gap(&self, bytes: &[u8]) -> bool {
        let room = self.end.is_some_and(|end| self.text.len() + bytes.len() <= end + GAP);
        room && !self.begun && blank(bytes)
    }
}

impl Follower for Before {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.end.is_some() {
            let vocabulary = &self.mark.vocabulary;
            let gap = self.mark.blank.iter().filter(|&&token| self.is_gap(&vocabulary.bytes(token)));
            let gap: Vec<(usize, f32)> =
                gap.filter_map(|&token| Some((token as usize, *logits.get(token as usize)?))).collect();
            self.inner.mask(logits)?;
            gap.into_iter().for_each(|(token, logit)| logits[token] = logit);
            return Ok(());
        }
        let reaching = self.mark.reaching.iter().filter(|&&token| self.crosses(&self.mark.vocabulary.bytes(token)));
        for &token in self.mark.ends.iter().chain(reaching) {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn push(&mut self, token: u32) -> Result<()> {
        let bytes = self.mark.vocabulary.bytes(token);
        if self.end.is_some() && !self.is_gap(&bytes) {
            self.inner.push(token)?;
            self.begun = true;
            return Ok(());
        }
        let ends = self.end.is_none() && self.after(&bytes).is_some();
        self.text.extend(bytes);
        self.end = self.end.or(ends.then_some(self.text.len()));
        Ok(())
    }

    fn fork(&self) -> Box<dyn Follower> {
        let Self { mark, inner, text, end, begun } = self;
        let (mark, inner, text) = (Arc::clone(mark), inner.fork(), text.clone());
        Box::new(Self { mark, inner, text, end: *end, begun: *begun })
    }

    fn complete(&self) -> bool {
        self.begun && self.inner.complete()
    }
}

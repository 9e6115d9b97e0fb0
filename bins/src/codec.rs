//! A model's text as tokens.

use std::path::Path;

use fathom_core::device::Kernels;
use fathom_core::model::Model;
use fathom_dataprep::Tokenizer;

use crate::error::Result;
use crate::hf::{self, Template};
use crate::infer::{Engine, EngineOptions, single};

/// What a model folder says about prompts and ends of text, beside the tokenizer.
#[derive(Clone, Debug, Default)]
pub struct Prompts {
    /// Tokens around a prompt, as the tokenizer's template has them.
    pub template: Template,
    /// Tokens that end a text, beside the tokenizer's own.
    pub ends: Vec<u32>,
}

impl Prompts {
    /// Those of a model folder.
    ///
    /// # Errors
    /// Files of the folder that cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(Self { template: hf::read_template(folder)?, ends: hf::read_end_tokens(folder)? })
    }
}

/// How a model's text becomes tokens: its tokenizer, the tokens around a text, and the longest text.
#[derive(Clone, Copy, Debug)]
pub struct Codec<'a> {
    tokenizer: &'a Tokenizer,
    prompts: &'a Prompts,
    context: usize,
}

impl<'a> Codec<'a> {
    /// The codec of a model whose context has `context` tokens.
    pub fn new(tokenizer: &'a Tokenizer, prompts: &'a Prompts, context: usize) -> Self {
        Self { tokenizer, prompts, context }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    /// The longest sequence the model takes.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The token ids of a prompt, with the tokens that the tokenizer's template puts around a text (for example a begin
    /// token); tokens that the prompt already begins or ends with are not repeated. Never empty: an empty prompt is the
    /// token that begins a text, or that ends one.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let (mut ids, after) = (self.encode_open(text)?, &self.prompts.template.after);
        if !ids.ends_with(after) {
            ids.extend(after);
        }
        Ok(if ids.is_empty() { vec![self.prefix_token()] } else { ids })
    }

    /// The token ids of the beginning of a text: as [`encode`](Self::encode), without the tokens after a text; none for
    /// an empty text whose tokenizer puts none before.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_open(&self, text: &str) -> Result<Vec<u32>> {
        let Template { before, .. } = &self.prompts.template;
        let mut ids = self.encode_inside(text)?;
        if !ids.starts_with(before) {
            ids.splice(0..0, before.iter().copied());
        }
        Ok(ids)
    }

    /// The token ids of a piece of text, without tokens around it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_inside(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text)?)
    }

    /// The tokens that the tokenizer puts around a text.
    pub fn template(&self) -> &'a Template {
        &self.prompts.template
    }

    /// Tokens that end a text, beside the tokenizer's own.
    pub fn ends(&self) -> &'a [u32] {
        &self.prompts.ends
    }

    /// The text of the token that ends texts.
    pub fn end_text(&self) -> String {
        let id = self.tokenizer.eos_id();
        let added = self.tokenizer.added_tokens().find(|(_, other)| *other == id).map(|(text, _)| text.to_owned());
        added.unwrap_or_else(|| self.tokenizer.decode(&[id]))
    }

    /// The token that stands before a text without context: the one that begins texts, or else the one that ends them.
    pub fn prefix_token(&self) -> u32 {
        single::prefix(self.tokenizer)
    }

    /// The tokens that stand before a text without context: those of the template, or else
    /// [`prefix_token`](Self::prefix_token).
    pub fn opening(&self) -> Vec<u32> {
        let before = &self.prompts.template.before;
        if before.is_empty() { vec![self.prefix_token()] } else { before.clone() }
    }

    /// The token ids of a text that stands after the [`opening`](Self::opening), which it may have written out itself.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_opened(&self, text: &str) -> Result<Vec<u32>> {
        let (mut ids, opening) = (self.encode_inside(text)?, self.opening());
        if ids.starts_with(&opening) {
            ids.drain(..opening.len());
        }
        Ok(ids)
    }

    /// An engine over a model of this codec.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub fn engine<D: Kernels>(&self, model: &'a Model<D>, options: EngineOptions) -> Result<Engine<'a, D>> {
        Engine::new(model, Some(self.tokenizer), &self.prompts.ends, options)
    }
}

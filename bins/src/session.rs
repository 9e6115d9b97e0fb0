//! A trained model in memory: what a program embeds to generate text or to score it.

use std::path::Path;

use fathom_core::device::Kernels;
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_dataprep::Tokenizer;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::generate;
use crate::hf::{self, HfError};

/// A model with its tokenizer.
pub struct Session<D: Kernels> {
    model: Model<D>,
    tokenizer: Tokenizer,
}

/// Builds and fills the model of a folder, and gives warnings.
type Load<D> = fn(&D, &Path, Precision) -> Result<(Model<D>, Vec<String>), HfError>;

/// How probable a text is to the model, token by token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScores {
    /// Natural logarithm of the probability of each scored token.
    pub logprobs: Vec<f32>,
    /// Whether each scored token was the most probable one.
    pub greedy: Vec<bool>,
}

impl TokenScores {
    /// The logarithm of the probability of all scored tokens together.
    pub fn sum(&self) -> f64 {
        self.logprobs.iter().map(|&x| f64::from(x)).sum()
    }
}

impl<D: Kernels> Session<D> {
    /// Loads a checkpoint: a model folder in Hugging Face layout, or the output folder of a run, whose newest checkpoint
    /// is taken.
    ///
    /// # Errors
    /// Where the checkpoint or its tokenizer cannot be read, or do not fit each other.
    pub fn load(device: &D, folder: &Path) -> Result<Self> {
        Self::load_with(device, folder, hf::load_model)
    }

    /// As [`load`](Self::load), with the moving average of the weights that training kept in place of the last ones.
    ///
    /// # Errors
    /// As [`load`](Self::load), and where training kept none.
    pub fn load_average(device: &D, folder: &Path) -> Result<Self> {
        Self::load_with(device, folder, hf::load_average_model)
    }

    fn load_with(device: &D, folder: &Path, load: Load<D>) -> Result<Self> {
        let folder = checkpoint::model_folder(folder)?;
        let (model, warnings) = load(device, &folder, Precision::F32)?;
        for warning in warnings {
            eprintln!("{}: {warning}", folder.display());
        }
        let tokenizer = Tokenizer::load(&folder)?;
        Self::new(model, tokenizer)
    }

    /// Puts a model and a tokenizer together.
    ///
    /// # Errors
    /// Where the tokenizer has more tokens than the model.
    pub fn new(model: Model<D>, tokenizer: Tokenizer) -> Result<Self> {
        let (tokens, rows) = (tokenizer.vocab_size() as usize, model.config().vocab_size);
        if tokens > rows {
            return Err(Error::Run(format!(
                "the tokenizer has {tokens} tokens, but the model's vocab_size is {rows}: they belong to different \
                 models; use the tokenizer.json the model was trained with"
            )));
        }
        Ok(Self { model, tokenizer })
    }

    /// The model.
    pub fn model(&self) -> &Model<D> {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The longest sequence the model takes.
    pub fn context(&self) -> usize {
        self.model.config().max_position_embeddings
    }

    /// The token ids of a prompt; never none: an empty prompt is the token that begins a text, or that ends one.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        generate::encode_prompt(&self.tokenizer, text)
    }

    /// The model and its tokenizer.
    pub(crate) fn parts(&self) -> (&Model<D>, &Tokenizer) {
        (&self.model, &self.tokenizer)
    }

    /// Scores each token after the first.
    ///
    /// # Errors
    /// Fewer than two tokens, a token outside the vocabulary, or more tokens than the context holds.
    pub fn score_tokens(&self, tokens: &[u32]) -> Result<TokenScores> {
        let (length, context, vocabulary) = (tokens.len(), self.context(), self.model.config().vocab_size);
        if length < 2 {
            return Err(Error::Run(format!(
                "{length} tokens: scoring needs at least 2, since the first has no context"
            )));
        }
        if length - 1 > context {
            return Err(Error::Run(format!(
                "{length} tokens, but the model's context (max_position_embeddings) is {context}: shorten the text"
            )));
        }
        let batch = Batch::new(tokens, length - 1, None, vocabulary).map_err(|e| Error::Run(e.to_string()))?;
        let scores = self.model.score(&batch).map_err(Error::device("scoring"))?;
        Ok(TokenScores {
            logprobs: scores.nll.iter().map(|&x| -x).collect(),
            greedy: scores.greedy.iter().zip(&tokens[1..]).map(|(a, b)| a == b).collect(),
        })
    }

    /// Scores `continuation` after `context`, as lm-evaluation-harness does: spaces at the end of the context belong to
    /// the continuation; the two are tokenised together and split at the length of the context's own tokens; an empty
    /// context is the token that begins a text; what is too long is cut off at the left.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text, or the continuation has no tokens or more than the context holds.
    pub fn score_continuation(&self, context: &str, continuation: &str) -> Result<TokenScores> {
        let kept = context.trim_end();
        let continuation = format!("{}{continuation}", &context[kept.len()..]);
        let (tokens, start) = if kept.is_empty() {
            let mut tokens = vec![generate::prefix(&self.tokenizer)];
            tokens.extend(self.tokenizer.encode(&continuation)?);
            (tokens, 1)
        } else {
            let start = self.tokenizer.encode(kept)?.len();
            (self.tokenizer.encode(&format!("{kept}{continuation}"))?, start)
        };
        let scored = tokens.len().saturating_sub(start);
        if scored == 0 {
            return Err(Error::Run("the continuation adds no token to the context: give it some text".into()));
        }
        if scored > self.context() {
            return Err(Error::Run(format!(
                "the continuation has {scored} tokens, but the model's context is {}: shorten it",
                self.context()
            )));
        }
        let first = tokens.len().saturating_sub(self.context() + 1);
        let mut scores = self.score_tokens(&tokens[first..])?;
        let skip = scores.logprobs.len() - scored;
        scores.logprobs.drain(..skip);
        scores.greedy.drain(..skip);
        Ok(scores)
    }
}

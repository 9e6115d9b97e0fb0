//! A trained model in memory, to generate and score text from another program.

use std::path::{Path, PathBuf};

use fathom_core::cache::CacheFormat;
use fathom_core::device::Kernels;
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_dataprep::Tokenizer;
use fathom_dataprep::tokenizer::TIKTOKEN;

use crate::checkpoint;
use crate::codec::{Codec, Prompts};
use crate::counter::Counter;
use crate::error::{Error, Result};
use crate::hf;
use crate::infer::{ChatTemplate, Conversation, Engine, EngineOptions, Generated, Sampling, score::score, single};
use crate::scored::{Scored, pair};

/// A model with its tokenizer.
pub struct Session<D: Kernels> {
    model: Model<D>,
    tokenizer: Option<Tokenizer>,
    prompts: Prompts,
    checkpoint: PathBuf,
    passed_over: Vec<String>,
    scoring: Option<CacheFormat>,
}

/// How a checkpoint is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Take the moving average of the weights that training kept, in place of the last weights.
    pub average: bool,
    /// What matrices are stored in.
    pub weights: hf::Weights,
    /// What activations are.
    pub precision: Precision,
    /// Read the multi-token-prediction (MTP) modules too, where the checkpoint has them.
    pub mtp: bool,
    /// Compare every file of the model with the SHA-256 in the checkpoint's manifest, if it has one.
    pub verify: bool,
    /// Score texts as generation computes them, over a latent cache of this format; `None`: in one pass without a
    /// cache.
    pub scoring: Option<CacheFormat>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let (weights, precision) = (hf::Weights::Stored, Precision::F32);
        Self { average: false, weights, precision, mtp: false, verify: true, scoring: None }
    }
}

/// How probable a text is to the model, token by token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScores {
    /// Natural logarithm of the probability of each scored token.
    pub logprobs: Vec<f32>,
    /// Whether each scored token was the most probable one.
    pub greedy: Vec<bool>,
    /// Tokens of the context that were left out because the model's context is shorter.
    pub cut: usize,
}

impl TokenScores {
    /// The logarithm of the probability of all scored tokens together.
    pub fn sum(&self) -> f64 {
        self.logprobs.iter().map(|&x| f64::from(x)).sum()
    }
}

impl<D: Kernels> Session<D> {
    /// Loads a checkpoint: a model folder in Hugging Face layout, or the output folder of a run, whose newest complete
    /// checkpoint is taken. Prints a warning to stderr for each newer one that is damaged, and for what is unusual.
    ///
    /// # Errors
    /// Where the checkpoint or its tokenizer cannot be read, or do not fit each other.
    pub fn load(device: &D, path: &Path) -> Result<Self> {
        Self::load_with(device, path, &LoadOptions::default())
    }

    /// As [`load`](Self::load), with the moving average of the weights that training kept in place of the last ones.
    ///
    /// # Errors
    /// As [`load`](Self::load), and where training kept none.
    pub fn load_average(device: &D, path: &Path) -> Result<Self> {
        Self::load_with(device, path, &LoadOptions { average: true, ..LoadOptions::default() })
    }

    /// As [`load`](Self::load), with options.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`HfError::NoAverage`](crate::hf::HfError::NoAverage);
    /// [`CheckpointError::Changed`](checkpoint::CheckpointError::Changed).
    pub fn load_with(device: &D, path: &Path, options: &LoadOptions) -> Result<Self> {
        let located = checkpoint::locate(path)?;
        let passed_over = located.notes();
        for note in &passed_over {
            eprintln!("{note}");
        }
        if options.verify {
            located.verify(options.average)?;
        }
        let folder = located.folder;
        let (model, warnings) = load(device, &folder, options)?;
        for warning in warnings {
            eprintln!("{}: {warning}", folder.display());
        }
        let tokenizer = hf::read_tokenizer(&folder)?;
        if let Some(tokenizer) = &tokenizer {
            check_vocabulary(&model, tokenizer)?;
        }
        let Prompts { template, ends } = Prompts::read(&folder)?;
        let prompts = Prompts { template, ends: known_ends(ends, model.config().vocab_size, &folder) };
        Ok(Self { model, tokenizer, prompts, checkpoint: folder, passed_over, scoring: options.scoring })
    }

    /// Puts a model and a tokenizer together.
    ///
    /// # Errors
    /// Where the tokenizer has more tokens than the model.
    pub fn new(model: Model<D>, tokenizer: Tokenizer) -> Result<Self> {
        check_vocabulary(&model, &tokenizer)?;
        let (prompts, checkpoint) = (Prompts::default(), PathBuf::new());
        let (tokenizer, passed_over) = (Some(tokenizer), Vec::new());
        Ok(Self { model, tokenizer, prompts, checkpoint, passed_over, scoring: None })
    }

    /// The model folder that was loaded; empty for a session that was put together by [`new`](Self::new).
    pub fn checkpoint(&self) -> &Path {
        &self.checkpoint
    }

    /// One line for each newer checkpoint of the run that was passed over, with the reason.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// The model.
    pub fn model(&self) -> &Model<D> {
        &self.model
    }

    /// The tokenizer, if the folder has one that is read.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The tokenizer, for what cannot do without.
    fn text(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| no_tokenizer(&self.checkpoint))
    }

    /// The longest sequence the model takes.
    pub fn context(&self) -> usize {
        self.model.config().max_position_embeddings
    }

    /// The token ids of a prompt, with the tokens that the tokenizer's template puts around a text (for example a begin
    /// token); tokens that the prompt already begins or ends with are not repeated. Never empty: an empty prompt is the
    /// token that begins a text, or that ends one.
    ///
    /// # Errors
    /// Where there is no tokenizer, or it refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.codec()?.encode(text)
    }

    /// What the model folder says about prompts and ends of text.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// How text becomes tokens, borrowed.
    ///
    /// # Errors
    /// Where there is no tokenizer.
    pub fn codec(&self) -> Result<Codec<'_>> {
        Ok(Codec::new(self.text()?, &self.prompts, self.context()))
    }

    /// The chat template of the model folder.
    ///
    /// # Errors
    /// A folder without one, or a template that cannot be read.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::load(&self.checkpoint, None)?.ok_or_else(|| {
            let folder = self.checkpoint.display();
            Error::Run(format!(
                "{folder} has no chat template: put the chat_template.jinja there that the model was trained with, or \
                 continue a plain text with --prompt"
            ))
        })
    }

    /// The token ids of a conversation by a chat template.
    ///
    /// # Errors
    /// Where there is no tokenizer, or the template fails.
    pub fn encode_chat(&self, template: &ChatTemplate, conversation: &Conversation<'_>) -> Result<Vec<u32>> {
        template.encode(self.text()?, conversation)
    }

    /// An engine over this model: the way to run many requests at a time.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub fn engine(&self, options: EngineOptions) -> Result<Engine<'_, D>> {
        Engine::new(&self.model, self.tokenizer.as_ref(), &self.prompts.ends, options)
    }

    /// The format of the cache that texts are scored over, if not without one.
    pub(crate) fn scoring(&self) -> Option<CacheFormat> {
        self.scoring
    }

    /// The model, and its tokenizer if it has one.
    pub(crate) fn model_and_tokenizer(&self) -> (&Model<D>, Option<&Tokenizer>) {
        (&self.model, self.tokenizer.as_ref())
    }

    /// Everything that generation needs.
    pub(crate) fn parts(&self) -> Result<(&Model<D>, &Tokenizer, &[u32])> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| no_tokenizer(&self.checkpoint))?;
        Ok((&self.model, tokenizer, &self.prompts.ends))
    }

    /// Continues `prompt`, and hands every piece of text to `on_text` as soon as it is whole characters; `on_text`
    /// stops the generation by returning false.
    ///
    /// # Errors
    /// Sampling that makes no sense, a prompt that fills the context, or a failure of the device.
    pub fn generate(
        &self,
        prompt: &str,
        sampling: &Sampling,
        mut on_text: impl FnMut(&str) -> bool,
    ) -> Result<Generated> {
        let tokens = self.encode(prompt)?;
        let (model, tokenizer, ends) = self.parts()?;
        single::continue_tokens(model, tokenizer, ends, tokens, sampling, &mut on_text)
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
        let scores = score(&self.model, &batch, self.scoring)?;
        Ok(TokenScores {
            logprobs: scores.nll.iter().map(|&x| -x).collect(),
            greedy: scores.greedy.iter().zip(&tokens[1..]).map(|(a, b)| a == b).collect(),
            cut: 0,
        })
    }

    /// Scores `continuation` after `context`, as lm-evaluation-harness does: spaces at the end of the context belong to
    /// the continuation; the two are tokenised together, after the tokens that the tokenizer's template puts before a
    /// text, and split at the length of the context's own tokens; an empty context is the token that begins a text.
    /// What is longer than the model's context is cut off at the left; [`TokenScores::cut`] says how much.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text, or the continuation has no tokens or more than the context holds.
    pub fn score_continuation(&self, context: &str, continuation: &str) -> Result<TokenScores> {
        let Scored { tokens, count, cut } = pair(&self.codec()?, context, continuation)?.map_err(Error::Run)?;
        let mut scores = self.score_tokens(&tokens)?;
        let skip = scores.logprobs.len().saturating_sub(count);
        scores.logprobs.drain(..skip);
        scores.greedy.drain(..skip);
        scores.cut = cut;
        Ok(scores)
    }
}

/// The tokens that end a text, without those that the model does not have: of them there are warnings.
fn known_ends(ends: Vec<u32>, rows: usize, folder: &Path) -> Vec<u32> {
    let (known, unknown): (Vec<u32>, Vec<u32>) = ends.into_iter().partition(|&id| (id as usize) < rows);
    for id in unknown {
        let folder = folder.display();
        eprintln!("{folder}: eos_token_id {id} is not below the vocabulary size {rows}: no text ends with it");
    }
    known
}

fn check_vocabulary<D: Kernels>(model: &Model<D>, tokenizer: &Tokenizer) -> Result<()> {
    let (tokens, rows) = (tokenizer.vocab_size() as usize, model.config().vocab_size);
    if tokens > rows {
        return Err(Error::Run(format!(
            "the tokenizer has {tokens} tokens, but the model's vocab_size is {rows}: they belong to different models; \
             use the tokenizer.json the model was trained with"
        )));
    }
    Ok(())
}

/// Vocabularies that a model folder may hold and that are not read, or not of every model: the file, and what to do.
const VOCABULARIES: [(&str, &str); 3] = [
    (TIKTOKEN, "transformers.integrations.tiktoken.convert_tiktoken_to_fast makes a tokenizer.json of it"),
    ("tokenizer.model", "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) makes a tokenizer.json of it"),
    ("merges.txt", "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) makes a tokenizer.json of it"),
];

fn no_tokenizer(folder: &Path) -> Error {
    let other = VOCABULARIES.iter().find(|(file, _)| folder.join(file).is_file());
    let remedy = match other {
        Some((file, how)) => format!("its vocabulary is {file}, which is not read; {how}"),
        None => "put the tokenizer.json there that the model was trained with".into(),
    };
    Error::Run(format!("{} has no tokenizer.json, which text needs: {remedy}", folder.display()))
}

/// Reads the model, with progress where it is large.
fn load<D: Kernels>(device: &D, folder: &Path, options: &LoadOptions) -> Result<(Model<D>, Vec<String>)> {
    const LARGE: u64 = 1 << 29;
    let LoadOptions { average, weights, precision, mtp, .. } = *options;
    let inference = hf::Inference { weights, precision, average, mtp };
    let mut counter = None;
    let loaded = hf::load_for_inference(device, folder, &inference, &mut |done, total| {
        if total >= LARGE {
            counter.get_or_insert_with(|| Counter::new("loading", "MB")).show(done >> 20, total >> 20);
        }
    });
    if let Some(counter) = counter {
        counter.finish();
    }
    Ok(loaded?)
}

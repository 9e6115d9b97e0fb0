//! Names of the files in a model folder and of the tensors in those files; readers of the small files.

use super::error::HfError;
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::model::Model;
use fathom_core::weights::Parameter;
use fathom_dataprep::Tokenizer;
use fathom_dataprep::tokenizer::{TIKTOKEN, TOKENIZER};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The model's configuration.
pub const CONFIG: &str = "config.json";
/// The model's weights, where one file holds them all.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The map from tensor to file, where several files hold the weights.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Defaults for generation.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";
/// Suffix that turns a weight's name into the name of its scales.
pub(crate) const SCALES: &str = "_scale_inv";
/// The moving average of the weights in f32, where training kept one.
pub(crate) const AVERAGE: &str = "trainer/ema.safetensors";

/// Reads `config.json` of the checkpoint in `folder`.
///
/// # Errors
/// [`HfError::NoModel`], [`HfError::Json`] with the field, [`HfError::Io`].
pub fn read_config(folder: &Path) -> Result<ModelConfig, HfError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Err(HfError::no_model(folder, CONFIG));
    }
    let text = fs::read_to_string(&path).map_err(HfError::io("read", &path))?;
    serde_json::from_str(&text).map_err(|error| HfError::Json { path, problem: error.to_string() })
}

/// The tokenizer beside a model, if there is one: its `tokenizer.json`, or Moonshot's `tiktoken.model`. A vocabulary in
/// tiktoken's format that cannot be read is passed over with a message to stderr, since much needs no text.
///
/// # Errors
/// [`HfError::Tokenizer`] when `tokenizer.json` is damaged.
pub fn read_tokenizer(folder: &Path) -> Result<Option<Tokenizer>, HfError> {
    let path = folder.join(TOKENIZER);
    if path.exists() {
        return Ok(Some(Tokenizer::load(&path)?));
    }
    let path = folder.join(TIKTOKEN);
    if !path.exists() {
        return Ok(None);
    }
    let loaded = Tokenizer::load(&path);
    Ok(loaded.inspect_err(|error| eprintln!("{error}; without it token ids are read, and no text")).ok())
}

/// Tokens that a tokenizer puts around a single text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Tokens before the text.
    pub before: Vec<u32>,
    /// Tokens after it.
    pub after: Vec<u32>,
}

/// A post-processor of `tokenizer.json`, of the kinds that add tokens.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    Sequence {
        processors: Vec<PostProcessor>,
    },
    TemplateProcessing {
        single: Vec<Piece>,
        #[serde(default)]
        special_tokens: BTreeMap<String, SpecialToken>,
    },
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    RobertaProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct SpecialToken {
    ids: Vec<u32>,
}

impl PostProcessor {
    /// Adds the tokens that this processor puts around a text, or returns the name of a token that has no ids.
    fn apply(&self, template: &mut Template) -> Result<(), String> {
        match self {
            PostProcessor::Sequence { processors } => processors.iter().try_for_each(|each| each.apply(template)),
            PostProcessor::TemplateProcessing { single, special_tokens } => {
                let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
                for piece in single {
                    match piece {
                        Piece::Sequence {} => seen = true,
                        Piece::SpecialToken { id } => {
                            let ids = &special_tokens.get(id).ok_or_else(|| id.clone())?.ids;
                            (if seen { &mut after } else { &mut before }).extend(ids);
                        }
                    }
                }
                template.wrap(before, after);
                Ok(())
            }
            PostProcessor::BertProcessing { cls, sep } | PostProcessor::RobertaProcessing { cls, sep } => {
                template.wrap(vec![cls.1], vec![sep.1]);
                Ok(())
            }
            PostProcessor::Other => Ok(()),
        }
    }
}

impl Template {
    fn wrap(&mut self, before: Vec<u32>, after: Vec<u32>) {
        self.before.splice(0..0, before);
        self.after.extend(after);
    }
}

/// The tokens that the tokenizer beside a model puts around a prompt, as its post-processor says; none where there is
/// no `tokenizer.json`.
///
/// # Errors
/// [`HfError::Io`]; [`HfError::Json`] for a template that names a token without ids.
pub fn read_template(folder: &Path) -> Result<Template, HfError> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        post_processor: Option<PostProcessor>,
    }
    let path = folder.join(TOKENIZER);
    let mut template = Template::default();
    if let Some(file) = read_optional::<File>(&path)?
        && let Some(processor) = file.post_processor
    {
        processor.apply(&mut template).map_err(|token| {
            let problem = format!("post_processor: special_tokens has no ids of `{token}`");
            HfError::Json { path: path.clone(), problem }
        })?;
    }
    Ok(template)
}

/// A JSON file of a model folder, if it is there.
pub(super) fn read_optional<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, HfError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(HfError::io("read", path))?,
    };
    let json = serde_json::from_slice(&bytes);
    json.map(Some).map_err(|error| HfError::Json { path: path.into(), problem: error.to_string() })
}

/// A tensor of a checkpoint of a model.
pub(crate) struct ModelTensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) place: Place,
}

/// Where the tensor is in a model.
pub(crate) enum Place {
    Weight(Parameter),
    /// The expert bias of a router, by its number.
    Bias(usize),
    /// The multi-token-prediction modules' copies, written for other programs and shared here.
    Copy(Parameter),
}

/// Every tensor of a checkpoint of `model`, in the order of its layers.
pub(super) fn tensors<D: Kernels>(model: &Model<D>) -> Vec<ModelTensor> {
    let parameters = model.architecture().layout().parameters();
    let weight =
        |p: &Parameter| ModelTensor { name: p.name.clone(), shape: p.shape(), place: Place::Weight(p.clone()) };
    let mut all: Vec<ModelTensor> = parameters.iter().map(weight).collect();
    for (number, router) in model.routers.iter().enumerate() {
        if let Some(name) = router.bias_name.clone() {
            all.push(ModelTensor { name, shape: vec![router.bias.shape().elements()], place: Place::Bias(number) });
        }
    }
    for (name, of) in copies(model.config()) {
        if let Some(p) = parameters.iter().find(|p| p.name == of) {
            all.push(ModelTensor { name, shape: p.shape(), place: Place::Copy(p.clone()) });
        }
    }
    all
}

const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// `(copy, original)` of what published checkpoints hold twice.
pub(crate) fn copies(config: &ModelConfig) -> Vec<(String, &'static str)> {
    let head = if config.tie_word_embeddings { EMBEDDING } else { HEAD };
    let modules = config.num_hidden_layers..config.num_hidden_layers + config.num_nextn_predict_layers;
    let of_module = |index: usize| {
        let prefix = format!("model.layers.{index}");
        [(format!("{prefix}.embed_tokens.weight"), EMBEDDING), (format!("{prefix}.shared_head.head.weight"), head)]
    };
    modules.flat_map(of_module).collect()
}

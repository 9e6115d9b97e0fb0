//! Parameters that completions and chats share.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};

use serde::Deserialize;

use super::fields::Fields;
use super::format::Asked;
use crate::infer::Sampling;
use crate::serve::error::ApiError;

/// Sizes that a request is checked against.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Name of the model.
    pub model: String,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The longest sequence, prompt and output.
    pub context: usize,
    /// Choices of a request, at most.
    pub choices: usize,
    /// New tokens of a choice, at most.
    pub max_tokens: usize,
    /// Whether there is a tokenizer.
    pub text: bool,
    /// What is sampled with where a request does not say.
    pub defaults: Sampling,
}

#[cfg(test)]
impl Bounds {
    /// Those of tests.
    pub fn tiny() -> Self {
        let (model, defaults) = ("m".into(), Sampling::default());
        Self { model, vocabulary: 256, context: 64, choices: 8, max_tokens: 64, text: true, defaults }
    }
}

/// Parameters that completions and chats share.
#[derive(Clone, Debug)]
pub struct Params {
    /// Sampling parameters of the first choice.
    pub sampling: Sampling,
    /// What an answer must be, if it may not be any text.
    pub format: Option<Asked>,
    /// Choices for each prompt.
    pub n: usize,
    /// Whether the answer comes in pieces.
    pub stream: bool,
    /// Whether the last piece says how many tokens were used.
    pub include_usage: bool,
}

/// Token ids in `logit_bias` and in `stop_token_ids`, at most.
const MAX_IDS: usize = 1024;

/// Fields that would change the answer if they were understood.
const REFUSED: [(&str, &str); 5] = [
    ("guided_grammar", "grammars are not supported: ask for a schema by response_format, or use guided_regex"),
    ("grammar", "grammars are not supported: ask for a schema by response_format, or use guided_regex"),
    ("use_beam_search", "beam search is not supported"),
    ("prompt_logprobs", "is not supported; completions with echo and logprobs give those of the prompt"),
    ("functions", "is not supported; describe them in tools"),
];

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Params {
    /// Reads the shared fields. `max_tokens` are the names of the limit of new tokens, of which the first that is there
    /// counts; none of them may be below `least`, and without one it is `default_tokens`.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn take(
        fields: &mut Fields,
        bounds: &Bounds,
        max_tokens: &[&str],
        least: usize,
        default_tokens: usize,
    ) -> Result<Self, ApiError> {
        if let Some(model) = fields.take::<String>("model")?.filter(|model| *model != bounds.model) {
            return Err(ApiError::model(&model, &bounds.model));
        }
        for (name, why) in REFUSED {
            fields.refuse(name, why)?;
        }
        let format = Asked::take(fields)?;
        if let Some(asked) = format.as_ref().filter(|_| !bounds.text) {
            return Err(ApiError::field(&asked.field, "the model has no tokenizer, so it writes no text"));
        }
        let stream = fields.take::<bool>("stream")?.unwrap_or(false);
        let options =
            fields.take_object::<StreamOptions>("stream_options", "an object, with include_usage true or false")?;
        if options.is_some() && !stream {
            return Err(ApiError::field("stream_options", "belongs to \"stream\": true"));
        }
        let n = fields.take::<usize>("n")?.unwrap_or(1);
        if n == 0 || n > bounds.choices {
            return Err(ApiError::field("n", format!("{n}: must be from 1 to {}", bounds.choices)));
        }
        if let Some(best) = fields.take::<usize>("best_of")?.filter(|&best| best != n) {
            return Err(ApiError::field("best_of", format!("{best}: must be n, or left out")));
        }
        let sampling = sampling(fields, bounds, max_tokens, least, default_tokens)?;
        if let Some(asked) = format.as_ref().filter(|_| sampling.min_new_tokens > 0) {
            let problem = format!("cannot be combined with {}, which says where an answer ends", asked.field);
            return Err(ApiError::field("min_tokens", problem));
        }
        let include_usage = options.and_then(|options| options.include_usage).unwrap_or(false);
        Ok(Self { sampling, format, n, stream, include_usage })
    }

    /// The sampling parameters of choice `choice` of a prompt. They do not depend on other prompts of the request.
    pub fn of_choice(&self, choice: usize) -> Sampling {
        Sampling { request: choice as u64, ..self.sampling.clone() }
    }
}

fn sampling(
    fields: &mut Fields,
    bounds: &Bounds,
    max_tokens: &[&str],
    least: usize,
    default_tokens: usize,
) -> Result<Sampling, ApiError> {
    let defaults = &bounds.defaults;
    let mut max_new_tokens = default_tokens.min(bounds.max_tokens).min(defaults.max_new_tokens);
    for name in max_tokens.iter().rev() {
        if let Some(tokens) = fields.take::<usize>(name)? {
            if tokens < least {
                return Err(ApiError::field(name, format!("{tokens}: must be at least {least}")));
            }
            // What is beyond the context ends there; a limit of this server is said.
            if tokens > bounds.max_tokens && bounds.max_tokens < bounds.context {
                return Err(ApiError::field(name, format!("{tokens}: must be at most {}", bounds.max_tokens)));
            }
            max_new_tokens = tokens.min(bounds.context);
        }
    }
    let min_new_tokens = fields.take::<usize>("min_tokens")?.unwrap_or(0);
    if min_new_tokens > max_new_tokens {
        let problem = format!("{min_new_tokens}: must be at most max_tokens, {max_new_tokens}");
        return Err(ApiError::field("min_tokens", problem));
    }
    let stop = match fields.take_one_of("stop", "a string or a list of strings")? {
        None => Vec::new(),
        Some(OneOrMore::One(stop)) => vec![stop],
        Some(OneOrMore::More(stops)) => stops,
    };
    if !bounds.text && !stop.is_empty() {
        return Err(ApiError::field("stop", "the model has no tokenizer, so it writes no text: use stop_token_ids"));
    }
    let top_k = match fields.take::<i64>("top_k")? {
        None => Ok(defaults.top_k),
        // vLLM's -1 is all of them, too.
        Some(-1) => Ok(0),
        Some(top_k) => usize::try_from(top_k),
    };
    let top_k = top_k.map_err(|_| ApiError::field("top_k", "must be 0 or -1 (all), or above"))?;
    let seed = fields.take::<i64>("seed")?.map(i64::cast_unsigned).unwrap_or_else(random);
    let mut number = |name: &str, default: f64| fields.take::<f64>(name).map(|value| value.unwrap_or(default));
    let sampling = Sampling {
        max_new_tokens,
        min_new_tokens,
        temperature: number("temperature", defaults.temperature)?,
        top_p: number("top_p", defaults.top_p)?,
        min_p: number("min_p", defaults.min_p)?,
        repetition_penalty: number("repetition_penalty", defaults.repetition_penalty)?,
        presence_penalty: number("presence_penalty", defaults.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", defaults.frequency_penalty)?,
        top_k,
        logit_bias: fields.take::<BTreeMap<u32, f32>>("logit_bias")?.unwrap_or_default().into_iter().collect(),
        stop,
        stop_tokens: fields.take("stop_token_ids")?.unwrap_or_default(),
        ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
        logprobs: None,
        seed,
        request: 0,
    };
    // Every choice has its own copy, and every token is compared with all of them.
    for (name, n) in [("logit_bias", sampling.logit_bias.len()), ("stop_token_ids", sampling.stop_tokens.len())] {
        if n > MAX_IDS {
            return Err(ApiError::field(name, format!("has {n} token ids: must be at most {MAX_IDS}")));
        }
    }
    sampling.validate(bounds.vocabulary).map_err(|e| ApiError::field(e.name, e.problem))?;
    Ok(sampling)
}

/// A number that nobody can foresee, for seeds and names of answers.
pub fn random() -> u64 {
    // Every state is made of random keys of the system.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

//! One request on its own engine.

use fathom_core::device::Kernels;
use fathom_core::model::Model;
use fathom_dataprep::Tokenizer;

use super::engine::{Engine, EngineOptions, Event};
use super::request::{Generated, Request};
use super::sampling::Sampling;
use crate::error::Result;

/// Continues a text with a model and a tokenizer. [`Session::generate`](crate::session::Session::generate) does it for
/// a loaded checkpoint.
pub(crate) fn continue_text<D: Kernels>(
    model: &Model<D>,
    tokenizer: &Tokenizer,
    prompt: &str,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    continue_tokens(model, tokenizer, &[], encode_prompt(tokenizer, prompt)?, sampling, on_text)
}

/// The token ids of a prompt; never none: an empty prompt is the token that begins a text, or that ends one.
fn encode_prompt(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let ids = tokenizer.encode(text)?;
    Ok(if ids.is_empty() { vec![prefix(tokenizer)] } else { ids })
}

/// The token that stands before a text without context.
pub(crate) fn prefix(tokenizer: &Tokenizer) -> u32 {
    tokenizer.bos_id().unwrap_or_else(|| tokenizer.eos_id())
}

/// Continues a prompt of at least one token, and hands every piece of text to `on_text` as soon as it is whole
/// characters; `on_text` stops the generation by returning false. The tokenizer's end token and those in `ends` end the
/// text.
///
/// # Errors
/// Those of [`Engine::add`] and [`Engine::step`], and logits that are not finite.
pub fn continue_tokens<D: Kernels>(
    model: &Model<D>,
    tokenizer: &Tokenizer,
    ends: &[u32],
    tokens: Vec<u32>,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    let options = EngineOptions::default().sized(model.config(), [(tokens.len(), sampling.max_new_tokens)]);
    let mut engine = Engine::new(model, Some(tokenizer), ends, options)?;
    run(&mut engine, Request::new(tokens, sampling.clone()), on_text, &|| false)
}

/// Runs one request on an engine without others to its end. A false from `on_text` ends it, and so does
/// `interrupted`, which is asked after every step: a long prompt and text that is held back give nothing to write.
///
/// # Errors
/// Those of [`Engine::add`] and [`Engine::step`], and logits that are not finite.
pub fn run<D: Kernels>(
    engine: &mut Engine<'_, D>,
    request: Request,
    on_text: &mut dyn FnMut(&str) -> bool,
    interrupted: &dyn Fn() -> bool,
) -> Result<Generated> {
    let id = engine.add(request)?;
    let (mut open, mut result) = (true, None);
    while !engine.is_idle() {
        for event in engine.step()? {
            let (text, ended) = match event {
                Event::Token { text, .. } => (text, None),
                Event::Finished { text, generated, .. } => (text, Some(Ok(generated))),
                Event::Failed { error, .. } => (String::new(), Some(Err(error))),
                Event::Scored { .. } => continue,
            };
            open = open && (text.is_empty() || on_text(&text));
            result = ended.or(result.take());
        }
        if !open || interrupted() {
            engine.cancel(id);
        }
    }
    result.unwrap_or_else(|| unreachable!("an engine ends every request"))
}

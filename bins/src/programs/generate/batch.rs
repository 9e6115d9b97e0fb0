//! `generate --requests`: a file of requests as one batch, a file of results in the same order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use fathom_core::device::Kernels;

use super::Arguments;
use crate::error::{Error, Result};
use crate::infer::{Event, Generated, Sampling, lines};
use crate::session::Session;

pub(super) fn run<D: Kernels>(
    session: &Session<D>,
    arguments: &Arguments,
    file: &Path,
    sampling: &Sampling,
) -> Result<()> {
    let template = std::cell::OnceCell::new();
    let encoding = lines::Encoding {
        prompt: &|text| session.encode(text),
        chat: &|conversation| {
            if template.get().is_none() {
                let _ = template.set(session.chat_template()?);
            }
            let template = template.get().ok_or_else(|| Error::Run("no chat template".into()))?;
            session.encode_chat(template, conversation)
        },
    };
    let requests = lines::read(file, sampling, session.model().config().vocab_size, &encoding)?;
    let lengths: Vec<_> = requests.iter().map(|r| (r.tokens.len(), r.sampling.max_new_tokens)).collect();
    let mut engine = session.engine(arguments.engine(session, &lengths))?;
    let path = arguments.output.as_deref();
    let mut output: Box<dyn Write> = match path {
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(Error::io("create", path))?)),
        None => Box::new(std::io::stdout().lock()),
    };
    let with_text = session.tokenizer().is_some();
    let with_logprobs: Vec<bool> = requests.iter().map(|r| r.sampling.logprobs.is_some()).collect();
    let mut results: Vec<Option<Result<Generated>>> = requests.iter().map(|_| None).collect();
    let mut places = std::collections::HashMap::new();
    for (place, request) in requests.into_iter().enumerate() {
        match engine.add(request) {
            Ok(id) => {
                places.insert(id, place);
            }
            Err(error) => results[place] = Some(Err(error)),
        }
    }
    engine.run(|_, event| {
        let (id, result) = match event {
            Event::Finished { id, generated, .. } => (id, Ok(generated)),
            Event::Failed { id, error } => (id, Err(error)),
            Event::Token { .. } => return,
        };
        if let Some(&place) = places.get(&id) {
            results[place] = Some(result);
        }
    })?;
    let results: Vec<_> = results.into_iter().flatten().collect();
    let mut write = || -> std::io::Result<()> {
        for (result, &with_logprobs) in results.iter().zip(&with_logprobs) {
            writeln!(output, "{}", lines::written(result, with_text, with_logprobs))?;
        }
        output.flush()
    };
    write().map_err(Error::io("write", path.unwrap_or(Path::new("stdout"))))?;
    arguments.print_stats(&engine);
    match results.iter().filter(|result| result.is_err()).count() {
        0 => Ok(()),
        failed => Err(Error::Run(format!(
            "{failed} of {} requests failed; their lines in the output have \"error\"",
            results.len()
        ))),
    }
}

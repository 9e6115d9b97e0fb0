//! `generate --requests`: a file of requests as one batch, a file of results in the same order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use fathom_core::device::Kernels;

use super::interrupt::{AtPrompt, interrupts};
use super::{Arguments, stats};
use crate::error::{Error, Result};
use crate::infer::{Event, Generated, Request, Sampling, Stop, lines};
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
    let lengths = requests.iter().flatten().map(|r| (r.tokens.len(), r.sampling.max_new_tokens));
    let options = arguments.engine(session, &lengths.collect::<Vec<_>>());
    let mut engine = session.engine(options)?;
    let stop = interrupts(AtPrompt::End)?;
    let path = arguments.output.as_deref();
    let mut output: Box<dyn Write> = match path {
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(Error::io("create", path))?)),
        None => Box::new(std::io::stdout().lock()),
    };
    let with_text = session.tokenizer().is_some();
    let logprobs = |request: &Result<Request>| request.as_ref().is_ok_and(|r| r.sampling.logprobs.is_some());
    let with_logprobs: Vec<bool> = requests.iter().map(logprobs).collect();
    let mut again = Vec::new();
    let mut results: Vec<Option<Result<Generated>>> = requests.iter().map(|_| None).collect();
    let mut places = std::collections::HashMap::new();
    for (place, request) in requests.into_iter().enumerate() {
        let copy = request.as_ref().ok().filter(|_| arguments.compares()).cloned();
        match request.and_then(|request| engine.add(request)) {
            Ok(id) => {
                places.insert(id, place);
                again.extend(copy);
            }
            Err(error) => results[place] = Some(Err(error)),
        }
    }
    while !engine.is_idle() {
        for event in engine.step()? {
            let (id, result) = match event {
                Event::Finished { id, generated, .. } => (id, Ok(generated)),
                Event::Failed { id, error } => (id, Err(error)),
                Event::Token { .. } | Event::Scored { .. } => continue,
            };
            if let Some(&place) = places.get(&id) {
                results[place] = Some(result);
            }
        }
        // What is there is written all the same.
        if stop.load(Ordering::SeqCst) {
            places.keys().for_each(|&id| {
                engine.cancel(id);
            });
        }
    }
    let results: Vec<_> = results.into_iter().flatten().collect();
    let mut write = || -> std::io::Result<()> {
        for (result, &with_logprobs) in results.iter().zip(&with_logprobs) {
            writeln!(output, "{}", lines::written(result, with_text, with_logprobs))?;
        }
        output.flush()
    };
    write().map_err(Error::io("write", path.unwrap_or(Path::new("stdout"))))?;
    arguments.print_stats(&engine);
    let cut = results.iter().flatten().filter(|generated| generated.stop == Stop::Cancelled).count();
    if cut > 0 {
        let all = results.len();
        let cut = format!("interrupted: {cut} of {all} outputs were cut (\"stop\": \"cancelled\")");
        return Err(Error::Interrupted(cut));
    }
    if arguments.compares() {
        let tokens = results.iter().flatten().map(|generated| generated.tokens.clone()).collect();
        let speculated = engine.stats();
        drop(engine);
        eprint!("{}", stats::beside_plain(session, options, again, (speculated, tokens), &stop)?);
    }
    let mut failures = results.iter().filter_map(|result| result.as_ref().err());
    match failures.next() {
        None => Ok(()),
        Some(first) => Err(Error::Run(format!(
            "{} of {} requests failed; their lines in the output have \"error\"; the first: {first}",
            1 + failures.count(),
            results.len()
        ))),
    }
}

//! Tasks from their files to their results.

use std::path::PathBuf;
use std::time::Instant;

use fathom_core::device::Kernels;

use super::options::Options;
use super::results::Results;
use super::suite::{Keep, Suite};
use crate::checkpoint::{self, State};
use crate::error::{Error, Result};
use crate::session::Session;

/// Measures a model on tasks. `progress` is told how many of how many items are done. `None` where `go_on` was false
/// before the end; with an output folder, the answers until then are in it.
///
/// # Errors
/// Those of [`Suite::new`] and [`Suite::measure`]; results that cannot be written.
pub fn run<D: Kernels>(
    session: &Session<D>,
    options: &Options,
    go_on: &dyn Fn() -> bool,
    progress: impl FnMut(u64, u64),
) -> Result<Option<Results>> {
    let started = Instant::now();
    if let Some(folder) = &options.output {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let (codec, checkpoint) = (session.codec()?, session.checkpoint());
    // Of the training run that wrote the checkpoint, if one did.
    let state = State::read(checkpoint).ok();
    let suite = Suite::new(&codec, options)?;
    let keep = |folder: &PathBuf| -> Result<Keep> {
        let weights = checkpoint::identity(checkpoint, options.average)?;
        // What begins and ends a text may be said in other files than the weights and the tokenizer.
        let texts = format!("{:?} {:?} {:?}", codec.ends(), (codec.template(), codec.opening()), codec.end_text());
        let parts = [weights.as_str(), codec.tokenizer().fingerprint(), options.weights.as_str(), &texts];
        Ok(Keep { folder: folder.clone(), model: parts.join("\0") })
    };
    let keep = options.output.as_ref().map(keep).transpose()?;
    let measured = suite.measure((&codec, session.model()), keep.as_ref(), go_on, progress)?;
    let Some((tasks, groups)) = measured else { return Ok(None) };
    let results = Results {
        checkpoint: checkpoint.into(),
        passed_over: session.passed_over().to_vec(),
        step: state.as_ref().map(|state| state.step),
        tokens: state.as_ref().map(|state| state.tokens),
        tokenizer: format!("{} {}", codec.tokenizer().kind(), codec.tokenizer().fingerprint()),
        weights: options.weights.clone(),
        context: session.context(),
        groups,
        tasks,
        missing: suite.missing().to_vec(),
        seconds: started.elapsed().as_secs_f64(),
    };
    if let Some(folder) = &options.output {
        let path = folder.join("results.json");
        let text = serde_json::to_string_pretty(&results.json()).map_err(|e| Error::Run(e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
    }
    Ok(Some(results))
}

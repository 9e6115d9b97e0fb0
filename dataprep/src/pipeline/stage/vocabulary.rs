//! The vocabulary stage: trains the tokenizer in one task, since merges follow from one another.

use crate::error::{Error, Result};
use crate::pipeline::config::PrepConfig;
use crate::pipeline::divide::Division;
use crate::pipeline::flow::{BATCH_BYTES, BATCH_ITEMS};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::work::{Stage, Work};
use crate::shard::StageReport;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::train::WordCounter;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct VocabularyReport {
    /// Nothing where there was no text to learn from.
    fingerprint: Option<String>,
    stage: StageReport,
    /// Bytes of text on the validation side.
    held_out: u64,
}

/// What training came to.
pub(in crate::pipeline) enum Trained {
    /// A tokenizer, and the report of its stage.
    Tokenizer(Tokenizer, StageReport),
    /// There is no text on the training side; `held_out` bytes are on the other.
    NoText { held_out: u64 },
}

/// Trains on the training side alone, up to `tokenizer.train_bytes` of what `texts` gives batch by batch (an empty
/// batch is the last). `size` is its size in bytes.
pub(in crate::pipeline) fn run<T: AsRef<[u8]> + Sync>(
    work: &Work<'_>,
    config: &PrepConfig,
    division: &Division,
    size: u64,
    mut texts: impl FnMut() -> Result<Vec<T>> + Send,
) -> Result<Trained> {
    let vocab_size = config.tokenizer.vocab_size.expect("there is either a file or a size");
    // The tokenizer is saved in the stage's folder.
    let name = division.stage("tokenizer", "tokenizer-tail");
    let folder = work.folder().join(name);
    let stage = Stage { name, title: "train tokenizer", sizes: vec![size] };
    let once = std::sync::Mutex::new(&mut texts);
    let receipts = work.run(&stage, |_, _| {
        let mut texts = once.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (tokenizer, stage, held_out) = train(work, config, division, vocab_size, &mut **texts)?;
        let fingerprint = tokenizer.as_ref().map(|tokenizer| tokenizer.fingerprint().to_owned());
        if let Some(tokenizer) = tokenizer {
            tokenizer.save_on(work.files(), &folder)?;
        }
        Ok(VocabularyReport { fingerprint, stage, held_out })
    })?;
    let report = receipts.into_iter().next().expect("the stage has one task").report;
    let Some(fingerprint) = report.fingerprint else {
        return Ok(Trained::NoText { held_out: report.held_out });
    };
    let tokenizer = Tokenizer::load_with_eos(&folder, config.tokenizer.eos.as_deref())?;
    if tokenizer.fingerprint() != fingerprint {
        let what = "not the tokenizer that was trained; remove the folder and run prep again";
        return Err(Error::Tokenizer { path: folder, what: what.into() });
    }
    Ok(Trained::Tokenizer(tokenizer, report.stage))
}

fn train<T: AsRef<[u8]> + Sync>(
    work: &Work<'_>,
    config: &PrepConfig,
    division: &Division,
    vocab_size: u32,
    texts: &mut (impl FnMut() -> Result<Vec<T>> + Send),
) -> Result<(Option<Tokenizer>, StageReport, u64)> {
    let mut counter = WordCounter::new(config.tokenizer.max_words);
    if config.fim.rate > 0.0 {
        counter = counter.with_special_tokens(&[&config.fim.begin, &config.fim.hole, &config.fim.end]);
    }
    let (mut bytes, mut used, mut held_out) = (0, 0, 0);
    while bytes < config.tokenizer.train_bytes {
        let batch = texts()?;
        if batch.is_empty() {
            break;
        }
        let side = |text: &T, side: usize| division.divide(text.as_ref())[side].1.len() as u64;
        held_out += batch.iter().map(|text| side(text, 1)).sum::<u64>();
        let texts: Vec<_> = work.pool().install(|| {
            let head = |text: &'_ T| String::from_utf8_lossy(division.divide(text.as_ref())[0].1).into_owned();
            batch.par_iter().map(head).filter(|text| !text.is_empty()).collect()
        });
        bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
        used += texts.len() as u64;
        work.pool().install(|| counter.count(&texts))?;
    }
    let (forgotten, too_long) = counter.uncounted();
    let dropped = [("words forgotten", forgotten), ("words too long", too_long)];
    let stage = StageReport {
        name: "train tokenizer".into(),
        kept: used,
        dropped: dropped.into_iter().filter(|(_, n)| *n > 0).map(|(why, n)| (why.to_owned(), n)).collect(),
        ..StageReport::default()
    };
    if used == 0 {
        return Ok((None, stage, held_out));
    }
    let tokenizer = work.pool().install(|| counter.train(vocab_size))?;
    if tokenizer.vocab_size() < vocab_size {
        let found = tokenizer.vocab_size();
        work.message(&format!("the text gives only {found} of the {vocab_size} tokens asked for"));
    }
    Ok((Some(tokenizer), stage, held_out))
}

/// Batches of the text of all tasks' inputs, one after the other, at most `input.max_bytes` of it.
pub(in crate::pipeline) fn of_inputs<'a>(
    work: &'a Work<'_>,
    inputs: &'a Inputs,
    config: &'a PrepConfig,
) -> impl FnMut() -> Result<Vec<Vec<u8>>> + Send + 'a {
    let (mut task, mut left) = (0, config.input.max_bytes);
    let mut open = None;
    move || {
        while task < inputs.len() && left != Some(0) {
            let items = open.get_or_insert_with(|| inputs.open(task, &config.input, left));
            let batch = items.batch(BATCH_BYTES, BATCH_ITEMS)?;
            work.advance(items.progress(), batch.len() as u64);
            if batch.is_empty() {
                left = left.map(|left| left.saturating_sub(items.text_bytes()));
                (task, open) = (task + 1, None);
                continue;
            }
            let kept = batch.into_iter().filter(|item| item.dropped.is_none());
            let texts: Vec<_> = kept.map(|item| item.raw.unwrap_or_else(|| item.document.text.into_bytes())).collect();
            if !texts.is_empty() {
                return Ok(texts);
            }
        }
        Ok(Vec::new())
    }
}

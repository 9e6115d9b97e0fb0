//! The data of a run: training sources, the loader, the validation set, and the vocabulary they need.

use std::path::{Path, PathBuf};

use fathom_dataprep::{Evaluation, Loader, LoaderOptions, MixSource, Packing, ShardSet, Split, Tokenizer};

use crate::error::{Error, Result};
use crate::prepare;
use crate::settings::{DataSource, Settings};

/// Where the training data lies: one place, or that of each source.
pub(super) fn data_paths(settings: &Settings) -> Result<Vec<&Path>> {
    let data = &settings.data;
    let paths: Vec<&Path> = data.path.as_deref().into_iter().chain(data.sources.iter().map(|s| &*s.path)).collect();
    if paths.is_empty() {
        return Err(settings.reject("data.path", "is not set: name a folder that `prep` wrote").into());
    }
    Ok(paths)
}

/// The folder that the tokenizer comes from.
pub(super) fn folder(settings: &Settings) -> Result<&Path> {
    Ok(data_paths(settings)?[0])
}

/// The training data, at least one source of it.
pub(super) fn open(settings: &Settings) -> Result<Vec<MixSource>> {
    let whole = DataSource { name: String::new(), path: PathBuf::new(), weight: None, epochs: None };
    let sources = settings.data.sources.iter().chain(std::iter::repeat(&whole));
    let open = |(path, source): (&Path, &DataSource)| {
        let mut data = ShardSet::open(path, Split::Train)?;
        if settings.data.mmap {
            data.map()?;
        }
        Ok(MixSource { name: source.name.clone(), data, weight: source.weight, epochs: source.epochs })
    };
    data_paths(settings)?.into_iter().zip(sources).map(open).collect()
}

/// Gives the model the vocabulary of the data that the settings name, as a run would. Returns where that is, or `None`
/// where they name none.
///
/// # Errors
/// Data that is not there or cannot be read, and a vocabulary that does not fit the model.
pub fn fit_to_data(settings: &mut Settings) -> Result<Option<PathBuf>> {
    if settings.data.path.is_none() && settings.data.sources.is_empty() {
        return Ok(None);
    }
    let sources = open(settings)?;
    fit_vocabulary(settings, &sources[0].data)?;
    Ok(sources[0].data.manifest().map(|_| sources[0].data.path().into()))
}

/// Checks that the data of a run can be opened, fits the model, and can be shared by `world` ranks.
///
/// # Errors
/// As [`Run::open`](super::Run::open).
pub fn check(settings: &Settings, world: usize) -> Result<()> {
    let mut settings = settings.clone();
    let sources = open(&settings)?;
    fit_vocabulary(&mut settings, &sources[0].data)?;
    let (_, steps) = settings.budget()?;
    super::ranks::fit(&settings, &settings.schedule()?, steps, world)
}

/// The loader; says how documents were packed if `says`.
pub(super) fn loader(settings: &Settings, data: Vec<MixSource>, says: bool) -> Result<Loader> {
    let options = LoaderOptions {
        sequence_length: settings.train.sequence_length,
        shuffle: settings.data.shuffle,
        seed: settings.data.seed,
        vocab_size: u32::try_from(settings.model.vocab_size).ok(),
        packing: settings.data.packing,
    };
    let loader = match <[MixSource; 1]>::try_from(data) {
        Ok([one]) if settings.data.sources.is_empty() => Loader::new(one.data, options)?,
        Ok(one) => Loader::mixed(one.into(), options)?,
        Err(several) => Loader::mixed(several, options)?,
    };
    let (tokens, _) = settings.budget()?;
    let sequences = tokens / settings.train.sequence_length.max(1) as u64;
    if loader.total() < sequences {
        return Err(Error::Run(format!(
            "the run takes {sequences} sequences and data.sources hold {} for the epochs they are given: train for \
             fewer steps, or raise or leave out data.sources.NAME.epochs",
            loader.total()
        )));
    }
    if settings.data.packing == Packing::BestFit && says {
        for (name, report) in loader.source_names().iter().zip(loader.packing_reports()?) {
            eprintln!("packed{}{name}: {report}", if name.is_empty() { "" } else { " " });
        }
    }
    Ok(loader)
}

pub(super) fn validation(settings: &Settings) -> Result<Option<Evaluation>> {
    let mut set = match &settings.data.validation_path {
        Some(path) => prepare::validation_or_train(path)?.0,
        None => {
            let held_out = |source: &MixSource| source.data.manifest().is_some_and(|m| m.validation.is_some());
            let data = open(settings)?;
            let places = data_paths(settings)?.into_iter().zip(&data).filter(|(_, source)| held_out(source));
            let paths: Vec<&Path> = places.map(|(path, _)| path).collect();
            if paths.is_empty() {
                return Ok(None);
            }
            ShardSet::open_all(&paths, Split::Validation)?
        }
    };
    set.limit_vocabulary(u32::try_from(settings.model.vocab_size).unwrap_or(u32::MAX));
    Ok(Some(Evaluation::new(set, settings.train.sequence_length)?))
}

/// Gives the model the vocabulary of the data where the settings leave it open, and refuses one that is too small.
/// Returns the data's tokenizer, to go with the checkpoints.
pub(super) fn fit_vocabulary(settings: &mut Settings, data: &ShardSet) -> Result<Option<Tokenizer>> {
    let Some(manifest) = data.manifest() else { return Ok(None) };
    let entry = &manifest.tokenizer;
    let needed = entry.vocab_size as usize;
    if !settings.is_set("model.vocab_size") && settings.train.init.is_none() {
        settings.model.vocab_size = needed;
    }
    if needed > settings.model.vocab_size {
        return Err(settings
            .reject(
                "model.vocab_size",
                format!(
                    "is {}, but the data in {} was tokenised with {needed} tokens; raise it, or prepare the data with \
                     the model's own tokenizer",
                    settings.model.vocab_size,
                    data.path().display()
                ),
            )
            .into());
    }
    if !settings.is_set("model.eos_token_id") && settings.train.init.is_none() {
        settings.model.eos_token_id = Some(entry.eos_id);
        settings.model.bos_token_id = entry.bos_id;
    }
    let folder = folder(settings)?;
    if !folder.join("tokenizer.json").is_file() {
        return Ok(None);
    }
    let tokenizer = Tokenizer::load(folder)?;
    if tokenizer.fingerprint() != entry.fingerprint {
        return Err(Error::Run(format!(
            "{}: tokenizer.json is not the one the data was tokenised with (fingerprint {} against {} in \
             manifest.json): prepare the data again",
            folder.display(),
            tokenizer.fingerprint(),
            entry.fingerprint
        )));
    }
    Ok(Some(tokenizer))
}

/// That the samples which are asked for can be made.
pub(super) fn check_samples(settings: &Settings, tokenizer: Option<&Tokenizer>) -> Result<()> {
    let train = &settings.train;
    if train.sample_every == 0 {
        return Ok(());
    }
    let Some(tokenizer) = tokenizer else {
        let problem = "asks for samples, but the data has no tokenizer.json to turn tokens into text: set it to 0";
        return Err(settings.reject("train.sample_every", problem).into());
    };
    let (prompt, context) = (tokenizer.encode(&train.sample_prompt)?.len(), settings.model.max_position_embeddings);
    if prompt >= context {
        let problem = format!("has {prompt} tokens, but the model's context is {context}: shorten it");
        return Err(settings.reject("train.sample_prompt", problem).into());
    }
    Ok(())
}

//! A model folder as a whole: its small files, and what to do where the model is missing.

use super::error::HfError;
use super::names::{CONFIG, INDEX, SINGLE};
use fathom_core::config::ModelConfig;
use fathom_dataprep::Tokenizer;
use fathom_dataprep::tokenizer::{TIKTOKEN, TOKENIZER};
use std::fs;
use std::path::Path;

/// Reads `config.json` of the checkpoint in `folder`.
///
/// # Errors
/// [`HfError::NoModel`], [`HfError::Json`] with the field, [`HfError::Io`].
pub fn read_config(folder: &Path) -> Result<ModelConfig, HfError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Err(no_model(folder, CONFIG));
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

/// A JSON file of a model folder, if it is there.
pub(super) fn read_optional<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, HfError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(HfError::io("read", path))?,
    };
    let json = serde_json::from_slice(&bytes);
    json.map(Some).map_err(|error| HfError::Json { path: path.into(), problem: error.to_string() })
}

/// No model in `folder`, where `missing` should be; looks at what is there instead.
pub(crate) fn no_model(folder: &Path, missing: &'static str) -> HfError {
    HfError::NoModel { path: folder.into(), missing, remedy: remedy(folder) }
}

/// The names in a folder, sorted; none where it cannot be listed.
pub(super) fn file_names(folder: &Path) -> Vec<String> {
    let listing = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = listing.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What to do about a folder without a model that can be read: what it holds instead decides.
fn remedy(folder: &Path) -> String {
    if folder.is_file() {
        return "it is a file: give the folder that it is in".into();
    }
    if !folder.exists() {
        return "there is no such folder".into();
    }
    let names = file_names(folder);
    let has = |begin: &str, ends: &[&str]| {
        let fits = |name: &&String| name.starts_with(begin) && ends.iter().any(|end| name.ends_with(end));
        names.iter().find(fits)
    };
    const SAFETENSORS: &[&str] = &[".safetensors"];
    const PICKLES: &[&str] = &[".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"];
    let general = || "give a folder with config.json and safetensors files".into();
    if names.iter().any(|name| name == SINGLE || name == INDEX) {
        return general();
    }
    if let Some(name) = has("model-", SAFETENSORS) {
        return format!("{name} is there, and {INDEX}, which says where each tensor is, is not: fetch that too");
    }
    if let Some(name) = has("adapter_", &[".json", ".safetensors", ".bin"]) {
        return format!(
            "{name} belongs to an adapter (LoRA), which is the change of another model: merge it into that model \
             (PEFT's merge_and_unload), save the whole, and give that folder"
        );
    }
    if let Some(name) = has("consolidated", &[".safetensors", ".pth"]) {
        return format!(
            "{name} holds tensors under its publisher's own names, which are not read: fetch the release with {SINGLE} \
             or {INDEX}, or convert it with the publisher's script"
        );
    }
    if let Some(name) = has("", PICKLES) {
        return format!(
            "{name} is a file of PyTorch's pickles, which are not read: write safetensors with \
             AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) in Python"
        );
    }
    if let Some(name) = has("", &[".gguf", ".h5", ".msgpack", ".npz", ".onnx"]) {
        return format!("{name} is in a format that is not read: fetch the model's safetensors files");
    }
    match has("", SAFETENSORS) {
        Some(name) => format!("if {name} holds the whole model, name it {SINGLE}"),
        None => general(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_folder_is_told_from_one_that_lacks_its_model() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        fs::write(&file, "x").unwrap();
        assert!(no_model(&file, SINGLE).to_string().contains("it is a file"));
        assert!(no_model(Path::new("/nowhere/at-all"), SINGLE).to_string().contains("no such folder"));
    }
}

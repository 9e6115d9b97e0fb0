//! The files that hold a model's weights, as the index of a folder names them.

use super::error::HfError;
use super::folder::{file_names, no_model};
use super::names::{INDEX, SINGLE};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path};

/// File names, each with the tensors that the index names in it.
pub(super) type WeightFiles = BTreeMap<String, BTreeSet<String>>;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of a folder, and warnings.
///
/// # Errors
/// [`HfError::NoModel`], [`HfError::BadIndex`], [`HfError::Json`], [`HfError::Io`].
pub(super) fn weight_files(folder: &Path) -> Result<(WeightFiles, Vec<String>), HfError> {
    let (index, single) = (folder.join(INDEX), folder.join(SINGLE).exists());
    let alone = || BTreeMap::from([(SINGLE.to_string(), BTreeSet::new())]);
    if !index.exists() {
        return match single {
            true => Ok((alone(), not_read(folder, &alone(), SINGLE).into_iter().collect())),
            false => Err(no_model(folder, SINGLE)),
        };
    }
    let text = fs::read_to_string(&index).map_err(HfError::io("read", &index))?;
    let map: Index = serde_json::from_str(&text)
        .map_err(|error| HfError::Json { path: index.clone(), problem: error.to_string() })?;
    let mut files = WeightFiles::new();
    for (tensor, file) in map.weight_map {
        files.entry(file).or_default().insert(tensor);
    }
    if single && !files.contains_key(SINGLE) {
        let warning =
            format!("{SINGLE} lies beside {INDEX} of other files: it is taken, and those files are not; remove one");
        return Ok((alone(), vec![warning]));
    }
    for file in files.keys() {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let problem = match plain {
            false => "is not a plain file name",
            true if !folder.join(file).exists() => "is not there",
            true => continue,
        };
        return Err(HfError::BadIndex { path: index, file: file.clone(), problem });
    }
    let warnings = not_read(folder, &files, INDEX).into_iter().collect();
    Ok((files, warnings))
}

/// A warning of safetensors files that lie beside the model's own.
fn not_read(folder: &Path, files: &WeightFiles, by: &str) -> Option<String> {
    const NAMED: usize = 3;
    let other = |name: &String| name.ends_with(".safetensors") && !name.starts_with('.') && !files.contains_key(name);
    let others: Vec<String> = file_names(folder).into_iter().filter(other).collect();
    let more = others.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names = others.get(..others.len().min(NAMED))?.join(", ");
    (!names.is_empty()).then(|| format!("not read, since the model is in {by}: {names}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_model_says_what_it_holds_and_what_to_do() {
        for (files, words) in [
            (&["model-00001-of-00002.safetensors"][..], "model.safetensors.index.json"),
            (&["adapter_config.json", "adapter_model.safetensors"], "merge_and_unload"),
            (&["consolidated.safetensors", "params.json"], "consolidated.safetensors holds tensors under"),
            (&["config.json", "pytorch_model.bin"], "pytorch_model.bin is a file of PyTorch's pickles"),
            (&["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "save_pretrained"),
            (&["model-q4.gguf"], "model-q4.gguf is in a format"),
            (&["weights.safetensors"], "if weights.safetensors holds the whole model, name it model.safetensors"),
            (&["notes.txt"], "give a folder with config.json and safetensors files"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            files.iter().for_each(|file| fs::write(folder.path().join(file), "x").unwrap());
            let error = weight_files(folder.path()).unwrap_err().to_string();
            assert!(error.contains("model.safetensors is missing") && error.contains(words), "{files:?}: {error}");
        }
    }

    #[test]
    fn files_beside_the_model_s_own_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| fs::write(folder.path().join(name), "x").unwrap();
        touch(SINGLE);
        assert_eq!(weight_files(folder.path()).unwrap().1, [""; 0]);
        touch("z_adapter.safetensors");
        assert!(weight_files(folder.path()).unwrap().1[0].ends_with("model.safetensors: z_adapter.safetensors"));
        fs::remove_file(folder.path().join(SINGLE)).unwrap();
        let map = serde_json::json!({ "weight_map": { "a": "1.safetensors", "b": "2.safetensors" } });
        fs::write(folder.path().join(INDEX), map.to_string()).unwrap();
        (1..=5).for_each(|number| touch(&format!("{number}.safetensors")));
        let (files, warnings) = weight_files(folder.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["1.safetensors", "2.safetensors"]);
        let rest = "3.safetensors, 4.safetensors, 5.safetensors and 1 more";
        assert!(warnings.len() == 1 && warnings[0].ends_with(rest), "{warnings:?}");
        for (file, problem) in [("../1.safetensors", "plain file name"), ("6.safetensors", "is not there")] {
            let map = serde_json::json!({ "weight_map": { "a": file } });
            fs::write(folder.path().join(INDEX), map.to_string()).unwrap();
            let error = weight_files(folder.path()).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(problem), "{error}");
        }
    }
}

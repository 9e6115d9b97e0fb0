//! Chat templates of a model folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use fathom_dataprep::tokenizer::TOKENIZER_CONFIG;
use serde_json::Value;

use super::{ChatTemplate, MAX_TEMPLATE};
use crate::error::{Error, Result};

/// The template of a folder.
const TEMPLATE: &str = "chat_template.jinja";
/// Folders of further templates, one file each.
const FOLDERS: [&str; 2] = ["chat_templates", "additional_chat_templates"];
/// The template that is taken where no name is given.
const DEFAULT: &str = "default";
/// Keys of `tokenizer_config.json` that templates know by name.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// The chat template of a model folder, `None` where it has none: `chat_template.jinja`, `chat_templates/`, or
    /// `chat_template` in `tokenizer_config.json`, looked for in this order. `name` chooses among several, such as
    /// `tool_use`; the default one without.
    ///
    /// # Errors
    /// A file that cannot be read, or a template that is not Jinja; a name that is not there.
    pub fn load(folder: &Path, name: Option<&str>) -> Result<Option<Self>> {
        let config_path = folder.join(TOKENIZER_CONFIG);
        let config: Value = match read(&config_path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| Error::Run(format!("{}: {e}; repair the file", config_path.display())))?,
            None => Value::Null,
        };
        let found = match name.unwrap_or(DEFAULT) {
            DEFAULT => of_file(folder, DEFAULT)?,
            name => of_folders(folder, name)?,
        };
        let wanted = name.unwrap_or(DEFAULT);
        let found = match found {
            Some(found) => Some(found),
            None => of_config(&config["chat_template"], wanted).map(|source| (source, config_path)),
        };
        let Some((source, path)) = found else {
            return match name {
                Some(name) => {
                    let folder = folder.display();
                    Err(Error::Run(format!("{folder} has no chat template {name:?}: leave the name out")))
                }
                None => Ok(None),
            };
        };
        let special = SPECIAL.into_iter().filter_map(|key| {
            let value = &config[key];
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            Some((key.to_owned(), text.to_owned()))
        });
        let special: BTreeMap<_, _> = special.collect();
        Self::new(&source, &path.display().to_string(), special).map(Some)
    }
}

fn of_file(folder: &Path, name: &str) -> Result<Option<(String, PathBuf)>> {
    let path = folder.join(TEMPLATE);
    match read(&path)? {
        Some(source) => Ok(Some((source, path))),
        None => of_folders(folder, name),
    }
}

fn of_folders(folder: &Path, name: &str) -> Result<Option<(String, PathBuf)>> {
    // A name is the name of a file, not a way to other folders.
    if name.contains(['/', '\\']) {
        return Ok(None);
    }
    for templates in FOLDERS {
        let path = folder.join(templates).join(format!("{name}.jinja"));
        if let Some(source) = read(&path)? {
            return Ok(Some((source, path)));
        }
    }
    Ok(None)
}

/// A template in `tokenizer_config.json`: a text, or a list of objects with `name` and `template`.
fn of_config(value: &Value, name: &str) -> Option<String> {
    if let Some(source) = value.as_str() {
        return (name == DEFAULT).then(|| source.into());
    }
    let named = value.as_array()?.iter().find(|entry| entry["name"] == name)?;
    named["template"].as_str().map(Into::into)
}

fn read(path: &Path) -> Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io("read", path))?,
    };
    let mut text = String::new();
    file.take(MAX_TEMPLATE + 1).read_to_string(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > MAX_TEMPLATE {
        return Err(Error::Run(format!("{} has more than {MAX_TEMPLATE} bytes: shorten it", path.display())));
    }
    Ok(Some(text))
}

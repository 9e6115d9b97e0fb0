//! `data.sources.NAME.*`: the sources of a mix, under names of the user's choice.

use super::SettingsError;
use super::reader::Reader;
use std::path::PathBuf;
use toml::Value;

/// One source of training data.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSource {
    /// Name of the source in metrics.
    pub name: String,
    /// Prepared folder or prefix.
    pub path: PathBuf,
    /// Sampling weight, in any unit. None: its size times its epochs.
    pub weight: Option<f64>,
    /// Most passes over it. None: no limit.
    pub epochs: Option<f64>,
}

const PREFIX: &str = "data.sources.";

/// Every source that was written, in the order of their names.
pub(super) fn sources(reader: &Reader<'_>) -> Result<Vec<DataSource>, SettingsError> {
    let mut names: Vec<&str> =
        reader.source.keys().filter_map(|key| Some(key.strip_prefix(PREFIX)?.rsplit_once('.')?.0)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| read(reader, name)).collect()
}

fn read(reader: &Reader<'_>, name: &str) -> Result<DataSource, SettingsError> {
    let key = |field: &str| format!("{PREFIX}{name}.{field}");
    let value = |field: &str| reader.source.get(&key(field)).map(|entry| &entry.value);
    let number = |field: &str| match value(field) {
        None => Ok(None),
        Some(value) => match value.as_float().or_else(|| value.as_integer().map(|n| n as f64)) {
            Some(x) if x > 0.0 => Ok(Some(x)),
            _ => {
                Err(reader.reject(&key(field), format!("is {value}: it must be above 0; leave out the source instead")))
            }
        },
    };
    let (weight, epochs) = (number("weight")?, number("epochs")?);
    let Some(path) = value("path").and_then(Value::as_str).map(PathBuf::from) else {
        let written = ["weight", "epochs"].map(key).into_iter().find(|key| reader.source.get(key).is_some());
        let written = written.unwrap_or_else(|| key("path"));
        return Err(
            reader.reject(&written, format!("is set, but {} is not: name a folder that `prep` wrote", key("path")))
        );
    };
    Ok(DataSource { name: name.into(), path, weight, epochs })
}

/// The sources as they would be written.
pub(super) fn table(sources: &[DataSource]) -> toml::Table {
    let entry = |source: &DataSource| {
        let path = Value::String(source.path.to_string_lossy().into_owned());
        let mut table = toml::Table::from_iter([("path".to_owned(), path)]);
        table.extend(source.weight.map(|weight| ("weight".to_owned(), Value::Float(weight))));
        table.extend(source.epochs.map(|epochs| ("epochs".to_owned(), Value::Float(epochs))));
        (source.name.clone(), Value::Table(table))
    };
    sources.iter().map(entry).collect()
}

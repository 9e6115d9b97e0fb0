//! Converts a model folder to f32, BF16, or DeepSeek's FP8.
//!
//! Works on any folder whose tensors have the names of DeepSeek's checkpoints, of models that are computed here or not.
//! It goes tensor by tensor, a few rows at a time, so that memory does not depend on the model's size. FP8 to FP8
//! passes codes and scales on as they are; FP8 to f32 and back gives the same codes and scales
//! ([`block_scale`](fathom_core::fp8::block_scale)).

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use fathom_core::config::Quantization;
use fathom_dataprep::durable::{DISK, Files, folder_of, remove_tree};
use serde_json::Value;

use crate::checkpoint::{Draft, Keep};
use crate::error::{Error, Result};
use crate::hf::safetensors::{ElementType, TensorSpec, header};
use crate::hf::write::{Index, bad_element, divide, shard_name, write, write_json};
use crate::hf::{CONFIG, DEEPSEEK, Encoder, Folder, Format, HfError, ModelFiles, Stored};

/// Options of a conversion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The format; of FP8, blocks are the input's where it has some.
    pub format: Format,
    /// Scales are powers of two (`scale_fmt: ue8m0`); `None` leaves the input's as they are, or as DeepSeek-V3's.
    pub power_of_two_scales: Option<bool>,
    /// Most bytes in one file; `None` divides the tensors among files as the input does.
    pub shard_bytes: Option<u64>,
    /// Take the moving average of the weights that training kept.
    pub average: bool,
}

/// Result of a conversion.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Number format of the output.
    pub format: Format,
    /// Tensors of the input, scales not counted.
    pub tensors: usize,
    /// Tensors of the output in FP8.
    pub quantized: usize,
    /// Tensors whose bytes were passed on.
    pub unchanged: usize,
    /// Size of all input tensors in bytes.
    pub bytes_before: u64,
    /// Size of all output tensors in bytes.
    pub bytes_after: u64,
    /// Warnings: unusual but harmless properties of the input.
    pub warnings: Vec<String>,
    /// The tensor that changed most, and by how much: the L2 norm of the difference over that of the tensor.
    pub worst: Option<(String, f64)>,
}

/// How a tensor gets into the output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// Its bytes, and those of its scales.
    Pass,
    /// Its values, in another format.
    Store(Stored),
}

struct Item {
    name: String,
    action: Action,
    specs: Vec<TensorSpec>,
}

impl Item {
    fn bytes(&self) -> u64 {
        self.specs.iter().map(TensorSpec::bytes).sum()
    }
}

/// Writes the model folder `input` to the new folder `output` in another format, its other files with it. Nothing is at
/// `output` before all of it is. `progress` is told how many of how many bytes are written; where it returns false,
/// nothing is left. What an earlier conversion to `output` left beside it when it was killed is removed.
///
/// # Errors
/// An output that exists; an input that is damaged, holds weights in a type that is not read, or one that is NaN or
/// infinite; [`Error::Interrupted`].
pub fn convert(
    input: &Path,
    output: &Path,
    options: &Options,
    progress: impl FnMut(u64, u64) -> bool,
) -> Result<Summary> {
    convert_on(&DISK, input, output, options, progress)
}

/// As [`convert`], through the given file operations: for tests of what happens where one of them fails.
///
/// # Errors
/// As [`convert`].
pub fn convert_on(
    durable: &dyn Files,
    input: &Path,
    output: &Path,
    options: &Options,
    mut progress: impl FnMut(u64, u64) -> bool,
) -> Result<Summary> {
    if fs::symlink_metadata(output).is_ok() {
        return Err(Error::Run(format!(
            "{} exists already: name a folder that does not, or remove it",
            output.display()
        )));
    }
    let mut files = if options.average { ModelFiles::open_average(input)? } else { ModelFiles::open(input)? };
    let known = files.quantization().unwrap_or(DEEPSEEK);
    let power_of_two_scales = options.power_of_two_scales.unwrap_or(known.power_of_two_scales);
    let format = options.format.with_quantization(Quantization { power_of_two_scales, ..known });
    let plan = divided(plan(&mut files, format)?, options.shard_bytes);

    let items = || plan.iter().flat_map(|(_, items)| items);
    let mut warnings = files.warnings().to_vec();
    warnings.extend(ragged(items(), format));
    let mut summary = Summary {
        format,
        tensors: items().count(),
        quantized: items().filter(|item| item.specs[0].dtype == ElementType::E4M3).count(),
        unchanged: items().filter(|item| item.action == Action::Pass).count(),
        bytes_before: files.files().iter().flat_map(|file| file.entries()).map(|entry| entry.end - entry.begin).sum(),
        bytes_after: items().map(Item::bytes).sum(),
        warnings,
        worst: None,
    };
    let config = convert_config(input, format)?;
    summary.warnings.extend(remove_abandoned(durable, output)?);
    let mut draft = Draft::plain(durable, output)?;
    // Held until the end, so that another conversion to the same folder leaves the draft alone. Where there are no
    // locks, nobody removes a draft either.
    let _held = File::open(draft.folder()).inspect(|folder| drop(folder.try_lock()));
    write_json(&mut draft, CONFIG, &config)?;
    let (mut index, mut done, mut stopped) = (Index::default(), 0, false);
    for (name, items) in &plan {
        let specs: Vec<TensorSpec> = items.iter().flat_map(|item| &item.specs).cloned().collect();
        index.add(name, &specs);
        let written = draft.write(name, &mut |file, target| {
            write(file, target, &header(&specs))?;
            for item in items {
                if let Some(deviation) = write_item(file, target, &mut files, item)?
                    && summary.worst.as_ref().is_none_or(|(_, worst)| deviation > *worst)
                {
                    summary.worst = Some((item.name.clone(), deviation));
                }
                done += item.bytes();
                stopped = !progress(done, summary.bytes_after);
                if stopped {
                    return Err(HfError::io("write", target)(ErrorKind::Interrupted.into()));
                }
            }
            Ok(())
        });
        if stopped {
            let (total, output) = (summary.bytes_after, output.display());
            return Err(Error::Interrupted(format!(
                "interrupted after {done} of {total} bytes; {output} is not there"
            )));
        }
        written?;
    }
    if !matches!(plan.as_slice(), [(name, _)] if *name == shard_name(0, 1)) {
        index.write(&mut draft)?;
    }
    carry_over(&mut draft, input)?;
    draft.commit(Keep::default())?;
    Ok(summary)
}

/// Removes the drafts of `output` that conversions left when they were killed: those that no process holds. Says what
/// it did.
fn remove_abandoned(durable: &dyn Files, output: &Path) -> Result<Vec<String>> {
    let parent = folder_of(output);
    let ours = format!("{}.tmp-", output.file_name().unwrap_or_default().to_string_lossy());
    let is_draft = |name: &str| name.strip_prefix(&ours).is_some_and(|pid| pid.parse::<u32>().is_ok());
    let mut said = Vec::new();
    if ours.starts_with("step-") {
        return Ok(said); // a run's drafts are not held
    }
    // Where the parent cannot be listed, the draft's error says more.
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if !is_draft(&entry.file_name().to_string_lossy()) || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match File::open(&path).map(|folder| folder.try_lock()) {
            Ok(Ok(())) => {
                remove_tree(durable, &path).map_err(Error::io("remove", &path))?;
                said.push(format!("removed {}, the draft of a conversion that was killed", path.display()));
            }
            Ok(Err(TryLockError::WouldBlock)) => {}
            _ => said.push(format!("{} is the draft of another conversion; if none runs, remove it", path.display())),
        }
    }
    Ok(said)
}

/// A warning of FP8 matrices whose sides are no multiples of a block's: transformers without a GPU guesses the block's
/// size from the matrix, and takes other scales (`findings/transformers_fp8_ragged_blocks.sh`).
fn ragged<'a>(items: impl Iterator<Item = &'a Item>, format: Format) -> Option<String> {
    let block = format.quantization()?.weight_block_size;
    let whole = |shape: &[usize]| shape.iter().zip(block).all(|(side, block)| side.is_multiple_of(block));
    let specs = items.map(|item| &item.specs[0]).filter(|spec| spec.dtype == ElementType::E4M3);
    let (mut some, mut count) = (None, 0);
    for spec in specs.filter(|spec| !whole(&spec.shape)) {
        count += 1;
        some = some.or(Some(spec));
    }
    let TensorSpec { name, shape, .. } = some?;
    Some(format!(
        "{count} FP8 matrices have sides that are not multiples of {}x{}, such as {name} {shape:?}: transformers \
         without a GPU reads them with wrong scales or refuses them; for it, convert --to bf16",
        block[0], block[1]
    ))
}

/// Every tensor of the input, by file, and what is to become of it.
fn plan(files: &mut ModelFiles, format: Format) -> Result<Vec<(String, Vec<Item>)>> {
    let mut plan = Vec::new();
    for number in 0..files.files().len() {
        let file = &files.files()[number];
        let (path, mut entries) = (file.path().to_path_buf(), file.entries().to_vec());
        // In the order in which they lie in the file.
        entries.sort_by(|a, b| (a.begin, &a.name).cmp(&(b.begin, &b.name)));
        let mut items = Vec::new();
        for entry in entries {
            if files.scaled_by(&entry.name).is_none() {
                items.push(item(files, &path, &entry.name, format)?);
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !items.is_empty() {
            plan.push((name, items));
        }
    }
    Ok(plan)
}

fn item(files: &mut ModelFiles, path: &Path, name: &str, format: Format) -> Result<Item, HfError> {
    let found = files.find(name)?;
    let (shape, dtype) = (&found.entry.shape, found.entry.dtype);
    let as_it_is = || TensorSpec { name: name.into(), shape: shape.clone(), dtype };
    let stored = format.of(name, shape);
    let wrong = |remedy| {
        let (path, tensor) = (path.to_path_buf(), name.to_string());
        Err(HfError::WrongType { path, tensor, dtype: dtype.name().into(), remedy })
    };
    let (action, specs) = match dtype {
        ElementType::E4M3 if format.quantization().is_some() && format.quantization() == files.quantization() => {
            let scales = files.find(&format!("{name}_scale_inv"))?.entry;
            let scales = TensorSpec { name: scales.name, shape: scales.shape, dtype: scales.dtype };
            (Action::Pass, vec![as_it_is(), scales])
        }
        ElementType::E8M0 => return wrong("these scales belong to no tensor; remove them"),
        ElementType::Other { name, .. } if name.starts_with('F') => {
            return wrong("weights are read in F32, BF16, F16, or F8_E4M3 with scales by blocks");
        }
        // Integers are no weights.
        ElementType::Other { .. } => (Action::Pass, vec![as_it_is()]),
        _ => {
            let specs = stored.specs(name, shape);
            let same = specs.len() == 1 && specs[0].dtype == dtype;
            (if same { Action::Pass } else { Action::Store(stored) }, specs)
        }
    };
    Ok(Item { name: name.into(), action, specs })
}

/// The plan with its items divided into files of at most `limit` bytes, if there is a limit.
fn divided(plan: Vec<(String, Vec<Item>)>, limit: Option<u64>) -> Vec<(String, Vec<Item>)> {
    let Some(limit) = limit else { return plan };
    let items: Vec<Item> = plan.into_iter().flat_map(|(_, items)| items).collect();
    let shards = divide(items.iter().map(Item::bytes), limit);
    let mut items = items.into_iter();
    let part = |(number, range): (usize, &std::ops::Range<usize>)| {
        (shard_name(number, shards.len()), items.by_ref().take(range.len()).collect())
    };
    shards.iter().enumerate().map(part).collect()
}

/// Writes a tensor, and returns its relative error if it changed.
fn write_item(
    file: &mut dyn Write,
    target: &Path,
    files: &mut ModelFiles,
    item: &Item,
) -> Result<Option<f64>, HfError> {
    let found = files.find(&item.name)?;
    let Action::Store(stored) = item.action else {
        let mut bytes = Vec::new();
        for spec in &item.specs {
            let found = files.find(&spec.name)?;
            for rows in found.chunks(1) {
                files.read_stored(&found, rows.clone(), &mut bytes)?;
                files.check_stored(&found, rows.start, &bytes)?;
                write(file, target, &bytes)?;
            }
        }
        return Ok(None);
    };
    let block = if let Stored::Fp8(quantization) = stored { quantization.weight_block_size[0] } else { 1 };
    let (mut encoder, mut values) = (Encoder::new(stored, found.cols, true), Vec::new());
    for rows in found.chunks(block) {
        files.read_rows(&found, rows.clone(), &mut values)?;
        files.check_rows(&found, rows.start, &values)?;
        write(file, target, encoder.rows(&values).map_err(bad_element(target, &item.name))?)?;
    }
    write(file, target, &encoder.scales())?;
    Ok(encoder.deviation().map(|deviation| deviation.relative()).filter(|&deviation| deviation > 0.0))
}

/// `config.json` with the keys of the storage format replaced.
fn convert_config(input: &Path, format: Format) -> Result<Value> {
    let path = input.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let mut config: Value = serde_json::from_str(&text)
        .map_err(|error| HfError::Json { path: path.clone(), problem: error.to_string() })?;
    let Some(keys) = config.as_object_mut() else {
        return Err(HfError::Json { path, problem: "is no JSON object".into() }.into());
    };
    keys.remove("quantization_config");
    if let Some(Quantization { weight_block_size, power_of_two_scales }) = format.quantization() {
        let mut quantization = serde_json::json!({
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": weight_block_size,
        });
        if power_of_two_scales {
            quantization["scale_fmt"] = "ue8m0".into();
        }
        keys.insert("quantization_config".into(), quantization);
    }
    // transformers 5 writes the second.
    let key = if keys.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    keys.insert(key.into(), format.torch_dtype().into());
    Ok(config)
}

/// Copies what else is in the folder: tokenizer, generation settings, code, licence. Not what belongs to the weights as
/// they were, not the state of training, and nothing hidden.
fn carry_over(draft: &mut Draft<'_>, input: &Path) -> Result<()> {
    let mut open = vec![(input.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = open.pop() {
        let listing = fs::read_dir(&folder).map_err(Error::io("list", &folder))?;
        let paths: BTreeSet<PathBuf> = listing
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()
            .map_err(Error::io("list", &folder))?;
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let relative = format!("{prefix}{name}");
            if name.starts_with('.') || of_the_weights(&relative) {
                continue;
            }
            // A link to a file is followed, as in the cache of Hugging Face; one to a folder could lead in a circle.
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                open.push((path, format!("{relative}/")));
            } else if path.is_file() {
                copy(draft, &path, &relative)?;
            }
        }
    }
    Ok(())
}

fn of_the_weights(relative: &str) -> bool {
    let endings = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".pt", ".gguf"];
    [CONFIG, "manifest.json", "trainer"].contains(&relative) || endings.iter().any(|ending| relative.ends_with(ending))
}

fn copy(draft: &mut Draft<'_>, from: &Path, to: &str) -> Result<()> {
    let failed = |action| HfError::io(action, from);
    draft.write(to, &mut |file, target| {
        let mut source = fs::File::open(from).map_err(failed("open"))?;
        let mut bytes = vec![0; 1 << 16];
        loop {
            match source.read(&mut bytes).map_err(failed("read"))? {
                0 => return Ok(()),
                read => write(file, target, &bytes[..read])?,
            }
        }
    })?;
    Ok(())
}

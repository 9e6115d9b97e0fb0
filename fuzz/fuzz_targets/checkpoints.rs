//! The output folder of a run with damaged files: the newest checkpoint that is whole is found and loads, or the error
//! names what is wrong.
//!
//! The input lists changes to a run of two checkpoints, as a disk, a copy or a hand makes them. Where the first byte
//! says so, manifests are made right afterwards, so that what the files hold is looked at.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fathom::checkpoint::{self, Draft, Files, Keep, MANIFEST, Manifest, State};
use fathom::hf::{Format, load_model, read_config};
use fathom::infer::ChatTemplate;
use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::Host;
use fathom_core::model::Model;
use fathom_core::precision::Precision;
use fathom_core::train::{Ema, EmaMemory, Hyperparameters, Trainer};
use fathom_dataprep::durable::DISK;
use fathom_dataprep::{Cursor, Packing, Tokenizer};
use fathom_fuzz::{Result, Unstructured, catch_panics, edit, number, one, run};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The smallest model with every part: see `hugging_face` for the names of its tensors.
const CONFIG: &str = r#"{"model_type": "deepseek_v3", "vocab_size": 257, "hidden_size": 2, "intermediate_size": 2,
    "moe_intermediate_size": 2, "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 1,
    "n_shared_experts": 1, "n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1,
    "q_lora_rank": null, "kv_lora_rank": 2, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 2,
    "max_position_embeddings": 8, "num_nextn_predict_layers": 1, "bos_token_id": 0, "eos_token_id": 256}"#;
const STEPS: [&str; 2] = ["step-00000001", "step-00000002"];
const NAMES: [&str; 6] =
    ["step-00000003", "step-00000002/x", "step-00000001.tmp-1", "models--a--b", "step-99999999999999999999", "best"];

/// A run of this process: its folder, and all files by their paths in it.
struct Run {
    root: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("fathom-fuzz-{}-checkpoints", std::process::id()));
    fs::create_dir_all(&root).expect("a folder for temporary files");
    let trainer = trainer();
    let (device, weights) = (trainer.model.device(), trainer.model.weights());
    let mut average = Ema::new(device, 0.5, weights.layout(), EmaMemory::Device).expect("a small model");
    average.update(device, weights).expect("a small model");
    for (step, format) in [(1, Format::F32), (2, Format::Bf16)] {
        let mut draft = Draft::begin(&DISK, &root, step).expect("an empty folder");
        let tokenizer = Tokenizer::bytes();
        let files = Files { average: Some(&average), tokenizer: Some(&tokenizer), format, shard_bytes: 2000 };
        checkpoint::save(&mut draft, &trainer, files, &state(step)).expect("a small model");
        draft.commit(Keep::newest(2)).expect("a small model");
    }
    let mut files = BTreeMap::new();
    list(&root, &root, &mut files);
    Run { root, files }
});

fn trainer() -> Trainer<Host, Solo> {
    let config: ModelConfig = serde_json::from_str(CONFIG).expect("it is right");
    let mut model = Model::new(&Host::new(), &config, Precision::F32).expect("a small model");
    model.initialize(1).expect("a small model");
    Trainer::new(model, Solo, Hyperparameters::default()).expect("a small model")
}

fn state(step: u64) -> State {
    let (fingerprint, packing) = (Some("f".into()), Packing::Concatenate);
    let (epoch, seed, shuffle, sequence_length, tokens) = (0, 1, true, 8, 99);
    let cursor = Cursor { epoch, position: step, seed, shuffle, sequence_length, tokens, fingerprint, packing };
    State::new(step, 16 * step, 1, 0.5, cursor)
}

/// Adds the files below `folder`.
fn list(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder of our own").flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, files);
        } else if let Ok(name) = path.strip_prefix(root) {
            files.insert(name.display().to_string(), fs::read(&path).expect("a file of our own"));
        }
    }
}

fuzz_target!(init: catch_panics(), |data: &[u8]| run(|| {
    let mut u = Unstructured::new(data);
    let mut files = RUN.files.clone();
    if changed(&mut u, &mut files).is_err() {
        return;
    }
    put(&RUN.files, &files);
    look();
    put(&files, &RUN.files);
}));

/// Changes files as the bytes say.
fn changed(u: &mut Unstructured<'_>, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let repaired = u.arbitrary::<u8>()? & 1 == 1;
    while !u.is_empty() {
        let names: Vec<String> = files.keys().cloned().collect();
        let Some(name) = names.get(usize::from(u.arbitrary::<u8>()?) % names.len().max(1)) else {
            return Ok(());
        };
        let bytes = files.remove(name).unwrap_or_default();
        let mut target = name.clone();
        let bytes = match u.arbitrary::<u8>()? % 10 {
            0 => continue,
            1 => bytes[..number(u)? as usize % (bytes.len() + 1)].to_vec(),
            2 => {
                let length = usize::from(u.arbitrary::<u8>()? % 32).min(u.len());
                [&bytes[..], u.bytes(length)?].concat()
            }
            3 => with(bytes, |bytes, at| bytes[at] ^= 1 << (at % 8), u)?,
            4 => with(bytes, |bytes, at| bytes[at..].fill(0), u)?,
            5 => files.get(one(u, &names)?).cloned().unwrap_or_default(),
            6 => {
                // The same file in the other checkpoint, or a folder of another name.
                let (folder, rest) = name.split_once('/').unwrap_or(("", name));
                let other = if folder == STEPS[0] { STEPS[1] } else { STEPS[0] };
                target = format!("{}/{rest}", if u.arbitrary()? { other } else { *one(u, &NAMES)? });
                bytes
            }
            7 => header(u, bytes)?,
            _ => match serde_json::from_slice::<Value>(&bytes) {
                Ok(mut value) => {
                    edit(u, &mut value)?;
                    value.to_string().into_bytes()
                }
                Err(_) => bytes,
            },
        };
        files.insert(target, bytes);
    }
    if repaired {
        STEPS.iter().for_each(|step| repair(step, files));
    }
    Ok(())
}

fn with(mut bytes: Vec<u8>, change: impl Fn(&mut [u8], usize), u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if !bytes.is_empty() {
        let at = u.arbitrary::<u32>()? as usize % bytes.len();
        change(&mut bytes, at);
    }
    Ok(bytes)
}

/// Changes a value in the header of a file of tensors, and the length before it.
fn header(u: &mut Unstructured<'_>, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Ok(bytes);
    };
    let length = u64::from_le_bytes(*length) as usize;
    let Some((header, data)) = rest.split_at_checked(length) else {
        return Ok(bytes);
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(header) else {
        return Ok(bytes);
    };
    edit(u, &mut value)?;
    let header = value.to_string().into_bytes();
    Ok([&(header.len() as u64).to_le_bytes()[..], &header, data].concat())
}

/// Makes sizes and checksums in a manifest those of the files.
fn repair(step: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    let path = format!("{step}/{MANIFEST}");
    let Some(mut manifest) = files.get(&path).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()) else {
        return;
    };
    for entry in manifest.get_mut("files").and_then(Value::as_array_mut).into_iter().flatten() {
        let file = entry["path"].as_str().and_then(|name| files.get(&format!("{step}/{name}")));
        if let (Some(bytes), Some(entry)) = (file, entry.as_object_mut()) {
            let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            entry.extend([("bytes".to_owned(), bytes.len().into()), ("sha256".to_owned(), hash.into())]);
        }
    }
    files.insert(path, manifest.to_string().into_bytes());
}

/// Makes the folder hold `new` where it holds `old`.
fn put(old: &BTreeMap<String, Vec<u8>>, new: &BTreeMap<String, Vec<u8>>) {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        let _ = fs::remove_file(RUN.root.join(name));
    }
    for (name, bytes) in new.iter().filter(|(name, bytes)| old.get(*name) != Some(*bytes)) {
        let path = RUN.root.join(name);
        let _ = path.parent().map(fs::create_dir_all);
        let _ = fs::write(path, bytes);
    }
    // Folders that only the changes made, deepest first.
    for name in NAMES {
        if !new.keys().any(|file| file.starts_with(&format!("{name}/"))) {
            let _ = fs::remove_dir_all(RUN.root.join(name));
        }
    }
}

/// An error says what is wrong.
fn said<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.to_string().len() > 16, "{error}");
            None
        }
    }
}

/// Everything that programs do with a run that they find.
fn look() {
    let root = &RUN.root;
    let survey = checkpoint::survey(root).expect("the folder can be listed");
    assert!(survey.is_sorted_by_key(|found| std::cmp::Reverse(found.step)));
    let newest = said(checkpoint::latest(root)).flatten();
    let whole = survey.iter().find(|found| found.damage.is_none()).map(|found| (found.step, found.folder.clone()));
    assert_eq!(newest, whole);
    said(checkpoint::best(root));
    for path in [root.clone(), root.join(STEPS[0]), root.join(STEPS[1])] {
        let Some(located) = said(checkpoint::locate(&path)) else {
            continue;
        };
        let _ = located.notes();
        said(located.verify(true));
        let folder = &located.folder;
        said(read_config(folder));
        said(Tokenizer::load(folder));
        said(ChatTemplate::load(folder, None));
        if let Some((model, _)) = said(load_model(&Host::new(), folder, Precision::F32)) {
            assert_eq!(model.config().validate(), Ok(()));
        }
    }
    if let Some((_, folder)) = newest
        && let Some(state) = said(State::read(&folder))
    {
        let mut trainer = trainer();
        said(checkpoint::load_trainer(&mut trainer, &folder, &state));
        let (device, layout) = (trainer.model.device(), trainer.model.weights().layout());
        let mut average = Ema::new(device, 0.5, layout, EmaMemory::Device).expect("a small model");
        said(checkpoint::load_average(device, &mut average, &folder, &state));
        said(Manifest::read(&folder));
    }
}

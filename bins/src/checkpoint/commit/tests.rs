//! Tests of checkpoints: failures at every call, damage, resuming, and what is kept.

use super::super::load::load_trainer;
use super::super::locate::{latest, locate};
use super::super::state::State;
use super::super::together;
use super::*;
use crate::hf::{CONFIG, Format, load_weights, read_config, save_model};
use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_cpu::Cpu;
use fathom_dataprep::durable::DISK;
use fathom_dataprep::{Cursor, Packing, Tokenizer};
use std::fs;
use std::io::ErrorKind;

#[allow(dead_code, reason = "tests of whole programs use the rest")]
#[path = "../../../../tests/storage/faults.rs"]
mod faults;

use faults::{Fault, Faulty, PLAIN};

fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 257,
        hidden_size: 16,
        intermediate_size: 16,
        moe_intermediate_size: 8,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        n_routed_experts: 4,
        num_experts_per_tok: 2,
        n_group: 2,
        topk_group: 1,
        q_lora_rank: Some(8),
        kv_lora_rank: 8,
        qk_nope_head_dim: 8,
        qk_rope_head_dim: 4,
        v_head_dim: 8,
        ..ModelConfig::tiny()
    }
}

fn trainer(config: &ModelConfig, seed: u64) -> Trainer<Cpu, Solo> {
    let mut model = Model::new(&Cpu::with_threads(1), config, Precision::F32).unwrap();
    model.initialize(seed).unwrap();
    Trainer::new(model, Solo, Hyperparameters::default()).unwrap()
}

fn step(trainer: &mut Trainer<Cpu, Solo>) -> f64 {
    let tokens: Vec<u32> = (0..18).map(|i| i * 7 % 256).collect();
    let rates = Rates { lr: 1e-2, batch_size: 2, bias_speed: 0.01, mtp_weight: 0.3, balance_alpha: 1e-4 };
    let batch = Batch::new(&tokens, 8, None, 257).unwrap();
    trainer.step(&batch, 1, &rates).unwrap().loss
}

fn state(step: u64) -> State {
    let fingerprint = Some("f".into());
    let packing = Packing::Concatenate;
    let cursor = Cursor {
        epoch: 0,
        position: step,
        seed: 1,
        shuffle: true,
        sequence_length: 8,
        tokens: 99,
        fingerprint,
        packing,
    };
    State::new(step, 16 * step, 1, 0.5, cursor)
}

fn save(
    store: &dyn Files,
    root: &Path,
    trainer: &Trainer<Cpu, Solo>,
    at: u64,
    keep: usize,
) -> Result<PathBuf, CheckpointError> {
    let mut draft = Draft::begin(store, root, at)?;
    let tokenizer = Tokenizer::bytes();
    let files =
        together::Files { average: None, tokenizer: Some(&tokenizer), format: Format::F32, shard_bytes: 50_000 };
    super::super::save(&mut draft, trainer, files, &state(at))?;
    draft.commit(Keep::newest(keep))
}

#[test]
fn a_failure_at_any_call_leaves_the_old_checkpoint_or_the_new_one() {
    let mut trained = trainer(&config(), 1);
    step(&mut trained);
    // As of a full disk; or as if the process had been killed.
    for fault in [Fault::Once(ErrorKind::StorageFull), Fault::FromThenOn(ErrorKind::StorageFull)] {
        let mut saved = false;
        for fail_at in 0.. {
            let root = tempfile::tempdir().unwrap();
            save(&PLAIN, root.path(), &trained, 1, 1).unwrap();
            let store = Faulty::new(fault, fail_at);
            let result = save(&store, root.path(), &trained, 2, 1);
            if !store.met() {
                assert!(fail_at > 40, "a save makes more than {fail_at} calls");
                assert!(result.is_ok());
                break;
            }
            let (at, folder) = latest(root.path()).unwrap().expect("a checkpoint is left");
            let message = result.as_ref().err().map(ToString::to_string);
            if let Some(message) = &message {
                assert!(message.contains("no storage space; free space on that disk"), "{message}");
            }
            saved |= at == 2;
            assert!(at == 2 || message.is_some(), "call {fail_at}: neither saved nor refused");
            let mut again = trainer(&config(), 9);
            let loaded = State::read(&folder).unwrap();
            load_trainer(&mut again, &folder, &loaded).unwrap_or_else(|e| panic!("call {fail_at}: {e}"));
            clean(&DISK, root.path()).unwrap();
            let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert!(left.iter().all(|n| !n.to_string_lossy().contains("tmp")), "call {fail_at} left {left:?}");
        }
        assert!(saved, "failures after the rename keep the new checkpoint");
    }
}

#[test]
fn a_resumed_trainer_goes_on_with_the_same_bits() {
    let root = tempfile::tempdir().unwrap();
    let mut straight = trainer(&config(), 3);
    step(&mut straight);
    step(&mut straight);
    let folder = save(&DISK, root.path(), &straight, 2, 2).unwrap();
    assert!(folder.join("model-00001-of-00003.safetensors").exists(), "the model is in several files");
    let (third, fourth) = (step(&mut straight), step(&mut straight));

    let mut resumed = trainer(&config(), 4);
    load_trainer(&mut resumed, &folder, &State::read(&folder).unwrap()).unwrap();
    assert_eq!((step(&mut resumed), step(&mut resumed)), (third, fourth));
    let groups = |t: &Trainer<Cpu, Solo>| -> Vec<Vec<f32>> {
        let all = [t.model.weights(), &t.optimizer.m, &t.optimizer.v];
        all.iter().flat_map(|p| p.groups()).map(|g| g.download(t.model.device()).unwrap()).collect()
    };
    assert_eq!(groups(&straight), groups(&resumed));
}

#[test]
fn old_checkpoints_go_and_only_complete_ones_count() {
    let root = tempfile::tempdir().unwrap();
    let trained = trainer(&config(), 1);
    for at in 1..=4 {
        save(&DISK, root.path(), &trained, at, 2).unwrap();
    }
    let steps = || list(root.path()).unwrap().into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(steps(), [4, 3]);
    fs::remove_file(root.path().join("step-00000004/config.json")).unwrap();
    assert_eq!(steps(), [3], "a checkpoint that lacks a file does not count");
    fs::write(root.path().join("step-00000003").join(MANIFEST), "{").unwrap();
    assert_eq!(steps(), [0; 0]);
    let error = latest(root.path()).unwrap_err().to_string();
    assert!(error.contains("step-00000004/config.json"), "the newest damaged one is named: {error}");
    assert_eq!(latest(&root.path().join("nowhere")).unwrap(), None);
}

#[test]
fn the_best_checkpoint_and_every_nth_stay() {
    let root = tempfile::tempdir().unwrap();
    let trained = trainer(&config(), 1);
    let save = |at, best| {
        let mut draft = Draft::begin(&DISK, root.path(), at).unwrap();
        save_model(&mut draft, &trained.model, None, Format::F32, u64::MAX).unwrap();
        draft.commit(Keep { newest: 1, best, every: 4 }).unwrap();
        list(root.path()).unwrap().into_iter().map(|(at, _)| at).collect::<Vec<_>>()
    };
    assert_eq!(save(1, Some(1)), [1]);
    assert_eq!(save(2, Some(1)), [2, 1]);
    assert_eq!(save(4, Some(1)), [4, 1]);
    assert_eq!(save(5, Some(5)), [5, 4], "the one that was the best before goes");
    assert_eq!(save(8, Some(5)), [8, 5, 4]);
    assert_eq!(save(9, None), [9, 8, 4]);
}

#[test]
fn a_path_leads_to_the_newest_complete_checkpoint_and_says_what_it_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let trained = trainer(&config(), 1);
    for at in 1..=3 {
        save(&DISK, root.path(), &trained, at, 3).unwrap();
    }
    let folder = |at: u64| root.path().join(name(at));
    let located = locate(root.path()).unwrap();
    assert_eq!((located.folder.clone(), located.notes()), (folder(3), Vec::new()));
    located.verify(false).unwrap();

    let weights = folder(3).join("model-00001-of-00003.safetensors");
    let good = fs::read(&weights).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bad).unwrap();
    let error = locate(root.path()).unwrap().verify(false).unwrap_err().to_string();
    assert!(error.contains("step-00000003/model-00001-of-00003.safetensors: has SHA-256"), "{error}");

    fs::write(&weights, &good[..9]).unwrap();
    fs::remove_file(folder(2).join(MANIFEST)).unwrap();
    let located = locate(root.path()).unwrap();
    assert_eq!(located.folder, folder(1));
    let notes = located.notes();
    assert!(notes.len() == 2 && notes[0].contains("step-00000003/model-00001"), "{notes:?}");
    assert!(notes[0].contains("has 9 bytes") && notes[1].contains("step-00000002/manifest.json"), "{notes:?}");

    // A folder that is named is that folder or an error, never another step.
    let error = locate(&folder(3)).unwrap_err().to_string();
    assert!(error.contains("has 9 bytes where manifest.json says"), "{error}");
    fs::write(&weights, &good).unwrap();
    fs::remove_dir_all(folder(3).join("trainer")).unwrap();
    assert_eq!(locate(&folder(3)).unwrap().folder, folder(3), "inference does without the state of training");
    locate(&folder(3)).unwrap().verify(false).unwrap();
    fs::remove_file(folder(2).join(CONFIG)).unwrap();
    assert!(locate(&folder(2)).unwrap_err().to_string().contains("config.json is missing"));
    fs::write(folder(1).join(MANIFEST), "{").unwrap();
    let error = locate(root.path()).unwrap_err().to_string();
    assert!(error.contains("step-00000003/trainer"), "where none is complete, the newest is named: {error}");
    let foreign = root.path().join("exported");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join(CONFIG), "{}").unwrap();
    fs::write(foreign.join(MANIFEST), r#"{"files": 3}"#).unwrap();
    assert_eq!(locate(&foreign).unwrap().folder, foreign, "another program's manifest says nothing to this one");
    for nothing in [root.path().join("nowhere"), weights] {
        assert!(locate(&nothing).unwrap_err().to_string().contains("holds no model"));
    }
}

#[test]
fn a_changed_byte_is_found_when_training_resumes() {
    let root = tempfile::tempdir().unwrap();
    let folder = save(&DISK, root.path(), &trainer(&config(), 1), 1, 1).unwrap();
    let path = folder.join("trainer/v.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = load_trainer(&mut trainer(&config(), 1), &folder, &State::read(&folder).unwrap()).unwrap_err();
    assert!(error.to_string().contains("v.safetensors: has SHA-256"), "{error}");
}

#[test]
fn a_model_folder_that_does_not_fit_is_refused_by_tensor() {
    let root = tempfile::tempdir().unwrap();
    let folder = save(&DISK, root.path(), &trainer(&config(), 1), 1, 1).unwrap();
    assert_eq!(read_config(&folder).unwrap(), config());
    let refuse = |config: ModelConfig| load_weights(&mut trainer(&config, 1).model, &folder).unwrap_err().to_string();
    let cases = [
        (ModelConfig { n_routed_experts: 8, ..config() }, "has shape [4, 16] where the model needs [8, 16]"),
        (ModelConfig { n_shared_experts: 0, ..config() }, "shared_experts.down_proj.weight` has no place in the model"),
        (
            ModelConfig { vocab_size: 258, ..config() },
            "tensor `model.embed_tokens.weight` has shape [257, 16] where the model needs [258, 16]",
        ),
        (ModelConfig { q_lora_rank: None, ..config() }, "q_a_layernorm.weight` has no place in the model"),
    ];
    for (config, expected) in cases {
        let message = refuse(config);
        assert!(message.contains(expected), "said {message}, not {expected}");
    }
    let mut without = trainer(&ModelConfig { num_nextn_predict_layers: 0, ..config() }, 1);
    assert_eq!(load_weights(&mut without.model, &folder).unwrap(), Vec::<String>::new());

    let index = folder.join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    for (from, to, expected) in [
        ("model-00002-of-00003.safetensors", "../model-00002-of-00003.safetensors", "which is not a plain file name"),
        ("model-00002-of-00003.safetensors", "model-00009-of-00003.safetensors", "which is not there"),
        ("\"weight_map\"", "\"weights\"", "missing field `weight_map`"),
        ("weight_map\": {", "weight_map\": [", "line "),
        ("model.norm.weight", "model.norm.weights", "tensor `model.norm.weights` is missing"),
    ] {
        fs::write(&index, text.replace(from, to)).unwrap();
        let message = refuse(config());
        assert!(message.contains(expected), "said {message}, not {expected}");
    }
    fs::remove_file(&index).unwrap();
    assert!(refuse(config()).contains("holds no model: model.safetensors is missing"));
    fs::write(folder.join("config.json"), "{\"model_type\": 3}").unwrap();
    assert!(read_config(&folder).unwrap_err().to_string().contains("config.json: model_type"));
}

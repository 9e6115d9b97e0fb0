//! FP8 checkpoints in DeepSeek's layout equal the golden numbers, are written as published, and are refused if damaged.

use std::collections::BTreeMap;
use std::path::Path;

use fathom::checkpoint::{DISK, Draft, Keep};
use fathom::hf::{self, DEEPSEEK, Format, HfError, ModelFiles};
use fathom_core::config::ModelConfig;
use fathom_core::device::{Dry, Host, Kernels};
use fathom_core::fp8::{Code, E4M3, ue8m0};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_cpu::Cpu;
use fathom_tests::{golden_folder, tensors};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const PROJECTION: &str = "model.layers.0.self_attn.o_proj.weight";
const SCALES: &str = "model.layers.0.self_attn.o_proj.weight_scale_inv";

/// Tensors by name: type, shape, bytes.
type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn stored(path: &Path) -> Stored {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, t)| (name.to_string(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn store(tensors: &Stored, path: &Path) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).expect("bytes of that shape"))
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn logits<D: Kernels>(device: &D, folder: &Path, tokens: &(Vec<usize>, Vec<u32>)) -> Vec<f32> {
    let (model, warnings) = hf::load_model(device, folder, Precision::F32).unwrap();
    // The folder holds golden numbers too.
    assert!(warnings.iter().all(|warning| warning.starts_with("not read, since")), "{warnings:?}");
    let batch = Batch::new(&tokens.1, tokens.0[1] - 1, None, model.config().vocab_size).unwrap();
    model.logits(&batch).unwrap().download(device).unwrap()
}

fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn save(model: &Model<Cpu>, root: &Path, format: Format, shard_bytes: u64) -> std::path::PathBuf {
    let mut draft = Draft::begin(&DISK, root, 1).unwrap();
    hf::save_model(&mut draft, model, None, format, shard_bytes).unwrap();
    draft.commit(Keep::newest(1)).unwrap()
}

#[test]
fn fp8_weights_give_the_golden_logits() {
    let folder = golden_folder().join("v3_fp8");
    let (golden, tokens) = tensors(&folder.join("golden.safetensors"));
    let reference = worst(&logits(&Host::new(), &folder, &tokens["tokens"]), &golden["logits"]);
    let cpu = worst(&logits(&Cpu::with_threads(2), &folder, &tokens["tokens"]), &golden["logits"]);
    println!("v3_fp8: logits within {reference:.1e} on the reference, {cpu:.1e} on the cpu device");
    assert!(reference < 1e-4 && cpu < 1e-4, "logits differ by {reference} and {cpu}");
}

#[test]
fn scales_as_exponents_are_read_as_well() {
    let from = golden_folder().join("v3_fp8");
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    let config = config.replace("\"fmt\"", "\"scale_fmt\": \"ue8m0\", \"fmt\"");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let mut tensors = stored(&from.join("model.safetensors"));
    for (dtype, _, data) in tensors.iter_mut().filter(|(name, _)| name.ends_with("_scale_inv")).map(|(_, t)| t) {
        let exponents = floats(data).into_iter().map(|x| ue8m0::encode(x.log2().round().exp2()).unwrap());
        (*dtype, *data) = (Dtype::F8_E8M0, exponents.collect());
    }
    store(&tensors, &folder.path().join("model.safetensors"));
    let mut files = ModelFiles::open(folder.path()).unwrap();
    assert!(files.quantization().unwrap().power_of_two_scales);
    let (_, shape, codes) = &tensors[PROJECTION];
    let mut values = Vec::new();
    files.read(PROJECTION, shape, &mut values).unwrap();
    let scale = ue8m0::decode(tensors[SCALES].2[0]);
    assert_eq!(values[0], E4M3::decode(u16::from(codes[0])) * scale);
}

#[test]
fn damaged_fp8_checkpoints_are_refused_by_name() {
    let from = golden_folder().join("v3_fp8");
    let (good, config) =
        (stored(&from.join("model.safetensors")), std::fs::read_to_string(from.join("config.json")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let refuse = |tensors: &Stored, config: &str| {
        store(tensors, &folder.path().join("model.safetensors"));
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let loaded = hf::load_model(&Cpu::with_threads(1), folder.path(), Precision::F32);
        loaded.map(drop).expect_err("it is damaged")
    };
    let with = |change: &dyn Fn(&mut Stored)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        refuse(&tensors, &config)
    };
    let says = |error: HfError, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text} should say {words:?}");
    };
    says(with(&|t| drop(t.remove(SCALES))), &[PROJECTION, SCALES, "missing"]);
    says(with(&|t| t.get_mut(SCALES).unwrap().1.reverse()), &[SCALES, "[1, 2]", "[2, 1]"]);
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let put = |t: &mut Stored| t.get_mut(SCALES).unwrap().2[4..8].copy_from_slice(&bad.to_le_bytes());
        says(with(&put), &[SCALES, "row 1, column 0", "scale"]);
    }
    for bad in [0x7f, 0xff] {
        says(
            with(&|t| t.get_mut(PROJECTION).unwrap().2[128 * 140 + 3] = bad),
            &[PROJECTION, "row 140, column 3", "NaN"],
        );
    }
    says(with(&|t| t.get_mut(PROJECTION).unwrap().0 = Dtype::F8_E5M2), &["o_proj.weight", "has no place"]);
    let orphan = |t: &mut Stored| drop(t.insert("model.norm.weight_scale_inv".into(), t[SCALES].clone()));
    says(with(&orphan), &["model.norm.weight_scale_inv", "has no place"]);
    for (from, to, words) in [
        ("quantization_config", "quantization", &["self_attn", "weight_block_size"][..]),
        ("\"quant_method\": \"fp8\"", "\"quant_method\": \"awq\"", &["quant_method", "awq"]),
        ("\"fmt\": \"e4m3\"", "\"fmt\": \"e5m2\"", &["fmt", "e5m2"]),
        ("\"activation_scheme\": \"dynamic\"", "\"activation_scheme\": \"static\"", &["activation_scheme", "static"]),
        ("\"weight_block_size\"", "\"group_size\"", &["weight_block_size", "missing"]),
    ] {
        assert!(config.contains(from), "{from}");
        says(refuse(&good, &config.replace(from, to)), words);
    }
    let blocks = config.replace("128,\n      128", "64,\n      64");
    says(refuse(&good, &blocks), &["weight_scale_inv", "shape"]);
}

#[test]
fn a_model_is_written_as_published_and_read_back() {
    let config = ModelConfig { hidden_size: 160, moe_intermediate_size: 136, ..ModelConfig::tiny() };
    let device = Cpu::with_threads(2);
    let mut model = Model::new(&device, &config, Precision::F32).unwrap();
    model.initialize(3).unwrap();
    for router in &mut model.routers {
        let bias: Vec<f32> = (0..config.n_routed_experts).map(|i| 2.0 + 0.001 * (i as f32).sin()).collect();
        router.bias.upload(&device, &bias).unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    for (format, shard_bytes) in [(Format::F32, u64::MAX), (Format::Bf16, 500_000), (Format::Fp8(DEEPSEEK), 500_000)] {
        let folder = save(&model, &root.path().join(format.name()), format, shard_bytes);
        let read = hf::read_config(&folder).unwrap();
        assert_eq!(read, ModelConfig { quantization_config: format.quantization(), ..config });
        let mut again = Model::new(&device, &config, Precision::F32).unwrap();
        assert_eq!(hf::load_weights(&mut again, &folder).unwrap(), Vec::<String>::new());
        for parameter in model.architecture().layout().parameters() {
            let read = |model: &Model<Cpu>| {
                let mut bytes = vec![0; 4 * parameter.elements()];
                model.weights().read(&device, parameter, &mut bytes).unwrap();
                floats(&bytes)
            };
            let (before, after) = (read(&model), read(&again));
            let largest = before.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            // Half a unit in the last place: 16 of 448 in E4M3, eight bits in BF16.
            let bound = match format {
                Format::F32 => 0.0,
                Format::Fp8(_) if parameter.is_fp8() => 16.0 / 448.0 * largest * 1.0001,
                _ => 2f32.powi(-8) * largest,
            };
            assert!(worst(&before, &after) <= bound, "{}: {}", format.name(), parameter.name);
        }
        for (a, b) in model.routers.iter().zip(&again.routers) {
            let bits = |bias: &[f32]| bias.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let (a, b): (Vec<f32>, Vec<f32>) = (a.bias.download(&device).unwrap(), b.bias.download(&device).unwrap());
            assert_eq!(bits(&a), bits(&b), "the bias is f32 in every format");
        }
        check_types(&folder, format);
    }
}

/// Every tensor is of the type that DeepSeek publishes it in.
fn check_types(folder: &Path, format: Format) {
    let files = ModelFiles::open(folder).unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in files.files().iter().flat_map(|file| file.entries()) {
        *counts.entry(entry.dtype.name()).or_default() += 1;
        let bias = entry.name.ends_with("e_score_correction_bias") || entry.name.ends_with("_scale_inv");
        let projection = entry.name.contains("_proj") && !entry.name.contains("eh_proj") && !bias;
        let expected = match format {
            _ if bias => "F32",
            Format::F32 => "F32",
            Format::Bf16 => "BF16",
            Format::Fp8(_) if projection => "F8_E4M3",
            Format::Fp8(_) => "BF16",
        };
        assert_eq!(entry.dtype.name(), expected, "{}", entry.name);
    }
    if matches!(format, Format::Fp8(_)) {
        let scales = files.files().iter().flat_map(|f| f.entries()).filter(|e| e.name.ends_with("_scale_inv")).count();
        assert_eq!(counts["F8_E4M3"], scales);
    }
}

#[test]
fn v3_has_the_tensors_and_values_that_were_published() {
    let model = Model::new(&Dry::new(), &ModelConfig::v3_671b(), Precision::F32).unwrap();
    let specs = hf::specs(&model, Format::Fp8(DEEPSEEK));
    let scales = specs.iter().filter(|spec| spec.name.ends_with("_scale_inv")).count();
    let codes = specs.iter().filter(|spec| spec.dtype.name() == "F8_E4M3").count();
    let values = |of_scales: bool| -> u64 {
        let wanted = specs.iter().filter(|spec| spec.name.ends_with("_scale_inv") == of_scales);
        wanted.map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    };
    assert_eq!((specs.len() - scales, codes, scales), (46_183, 45_808, 45_808));
    assert_eq!(values(false), 684_489_845_504);
    let bytes: u64 = specs.iter().map(|spec| spec.bytes()).sum();
    println!("v3-671b in FP8: {} tensors, {} bytes, {} scales", specs.len(), bytes, values(true));
}

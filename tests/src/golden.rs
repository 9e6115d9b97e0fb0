//! Golden cases, and the parity with transformers that every device must reach on them.

use std::collections::BTreeMap;

use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::{Host, Kernels};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, StepReport, Trainer};

use crate::{golden_folder, tensors_of};

/// A golden case: a checkpoint, and the numbers that transformers computed from it.
pub struct Golden {
    /// The model's configuration.
    pub config: ModelConfig,
    /// The checkpoint's tensors.
    pub weights: BTreeMap<String, Vec<f32>>,
    /// Golden tensors.
    pub floats: BTreeMap<String, Vec<f32>>,
    /// Golden token ids, with their shape.
    pub tokens: BTreeMap<String, (Vec<usize>, Vec<u32>)>,
}

impl Golden {
    /// Reads `tests/golden/CASE`.
    ///
    /// # Panics
    /// A file is missing or malformed.
    pub fn load(case: &str) -> Self {
        let folder = golden_folder().join(case);
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        Self::new(&read("config.json"), &read("model.safetensors"), &read("golden.safetensors"))
    }

    /// Reads a case from the contents of `config.json`, `model.safetensors` and `golden.safetensors`.
    ///
    /// # Panics
    /// A file is malformed.
    pub fn new(config: &[u8], model: &[u8], golden: &[u8]) -> Self {
        let (weights, _) = tensors_of(model);
        let (floats, tokens) = tensors_of(golden);
        Self { config: serde_json::from_slice(config).expect("a valid configuration"), weights, floats, tokens }
    }

    /// The model of this case on `device`.
    ///
    /// # Panics
    /// A parameter is missing.
    pub fn model<D: Kernels>(&self, device: &D, precision: Precision) -> Model<D> {
        let mut model = Model::new(device, &self.config, precision).expect("a model");
        let layout = model.architecture().layout().clone();
        for parameter in layout.parameters() {
            let values = &self.weights[&parameter.name];
            let mut bytes = Vec::new();
            for &x in values {
                match precision {
                    p if p == Precision::F64 => bytes.extend(f64::from(x).to_le_bytes()),
                    _ => bytes.extend(x.to_le_bytes()),
                }
            }
            model.weights_mut().write(device, parameter, &bytes).expect("a parameter of the right size");
        }
        for router in &mut model.routers {
            if let Some(name) = &router.bias_name {
                router.bias.upload(device, &self.weights[name]).expect("a bias of the right size");
            }
        }
        model
    }
}

/// Weight λ of the MTP loss in the gradients of the MTP case.
const MTP_WEIGHT: f64 = 0.3;

fn rates() -> Rates {
    Rates { lr: 1e-3, batch_size: 2, bias_speed: 1e-3, mtp_weight: MTP_WEIGHT, balance_alpha: 0.0 }
}

/// Compares logits, losses and every gradient of a case in f32 with those of transformers.
///
/// # Panics
/// A number differs by more than its bound.
pub fn check_case<D: Kernels>(device: &D, case: &str, golden: &Golden) {
    let vocabulary = golden.config.vocab_size;
    let (shape, tokens) = &golden.tokens["tokens"];
    let batch = Batch::new(tokens, shape[1] - 1, None, vocabulary).unwrap();

    let model = golden.model(device, Precision::F32);
    let logits: Vec<f32> = model.logits(&batch).unwrap().download(device).unwrap();
    let want = &golden.floats["logits"];
    let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = logits.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
    assert_eq!(logits.len(), want.len());
    assert!(worst < 1e-4, "{case}: logits differ by {worst} of the largest");

    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
    let report = trainer.step(&batch, batch.sequences(), &rates()).unwrap();
    let error = (report.loss - f64::from(golden.floats["loss"][0])).abs();
    assert!(error < 1e-5, "{case}: loss differs by {error}");
    if let Some(want) = golden.floats.get("mtp.loss") {
        let error = (report.mtp_loss.unwrap() - f64::from(want[0])).abs();
        assert!(error < 1e-5, "{case}: prediction loss differs by {error}");
    }
    println!("{case}: logits within {worst:.1e}, loss within {error:.1e}");
    check_gradients(device, case, golden, &trainer);
}

fn check_gradients<D: Kernels>(device: &D, case: &str, golden: &Golden, trainer: &Trainer<D, Solo>) {
    let mut worst = 0.0f64;
    let mut checked = 0;
    for parameter in trainer.model.architecture().layout().parameters() {
        let want = &golden.floats[&format!("grad.{}", parameter.name)];
        let mut bytes = vec![0; 4 * parameter.elements()];
        trainer.gradients().read(device, parameter, &mut bytes).unwrap();
        let got = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (mut difference, mut norm) = (0.0f64, 0.0f64);
        for (a, &b) in got.zip(want) {
            difference += f64::from(a - b).powi(2);
            norm += f64::from(b).powi(2);
        }
        let relative = if norm > 0.0 { (difference / norm).sqrt() } else { difference.sqrt() };
        assert!(relative < 1e-3, "{case}: gradient of {} differs by {relative}", parameter.name);
        worst = worst.max(relative);
        checked += 1;
    }
    let wanted = golden.floats.keys().filter(|k| k.starts_with("grad.")).count();
    assert_eq!(checked, wanted, "{case}: a golden gradient has no parameter here");
    println!("{case}: {checked} gradients within {worst:.1e}");
}

/// A training run of twenty steps, with the expert bias at the end.
fn trajectory<D: Kernels>(device: &D, golden: &Golden) -> (Vec<StepReport>, Vec<f32>) {
    let (shape, tokens) = &golden.tokens["train.tokens"];
    let model = golden.model(device, Precision::F32);
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
    let steps = tokens.chunks_exact(shape[1] * shape[2]).map(|tokens| {
        let batch = Batch::new(tokens, shape[2] - 1, None, golden.config.vocab_size).unwrap();
        trainer.step(&batch, 1, &rates()).unwrap()
    });
    let reports = steps.collect();
    let bias = trainer.model.routers.iter().flat_map(|router| router.bias.download::<D, f32>(device).unwrap());
    (reports, bias.collect())
}

/// Compares a training trajectory with that of transformers.
///
/// The choice of an expert can depend on the last bit of a score, so a device that rounds sums differently may choose
/// another expert, after which its trajectory differs. The expert loads show this: if a few differ from those of the
/// reference device, only the steps before are compared.
///
/// # Panics
/// A number differs by more than its bound.
pub fn check_trajectory<D: Kernels>(device: &D, case: &str, golden: &Golden) {
    let (reports, bias) = trajectory(device, golden);
    let (reference, _) = trajectory(&Host::new(), golden);
    let moved = |step: usize| -> f32 {
        let loads = reports[step].load.layers.iter().flatten().zip(reference[step].load.layers.iter().flatten());
        loads.map(|(a, b)| (a - b).abs()).sum()
    };
    let same = (0..reports.len()).position(|step| moved(step) > 0.0).unwrap_or(reports.len());
    let (mut loss, mut norm) = (0.0f64, 0.0f64);
    for (step, report) in reports.iter().enumerate() {
        let off = (report.loss - f64::from(golden.floats["train.loss"][step])).abs();
        assert!(off < 2e-2, "{case}: step {step}: the loss differs by {off}");
        if step < same {
            let want = f64::from(golden.floats["train.grad_norm"][step]);
            loss = loss.max(off);
            norm = norm.max((report.grad_norm - want).abs() / want);
        }
    }
    println!("{case}: {same} steps: losses within {loss:.1e}, gradient norms within {norm:.1e} relative");
    assert!(loss < 2e-4, "{case}: a loss differs by {loss}");
    assert!(norm < 1e-3, "{case}: a gradient norm differs by {norm}");
    if same < reports.len() {
        println!("{case}: step {same}: {} choices differ from the reference device's", moved(same) / 2.0);
        assert!(same >= 10 && moved(same) <= 4.0, "{case}: step {same}: more than a tie was chosen otherwise");
    } else if let Some(want) = golden.floats.get("train.bias") {
        let worst = bias.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{case}: expert bias within {worst:.1e}");
        assert_eq!(bias.len(), want.len());
        assert!(worst < 1e-6, "{case}: the expert bias differs by {worst}");
    }
}

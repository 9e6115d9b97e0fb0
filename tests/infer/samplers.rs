//! Samplers and the rejection rule equal transformers' logits processors and a formula in PyTorch.

use fathom::infer::{Distribution, History, Sampling};
use fathom_tests::golden_folder;
use safetensors::SafeTensors;
use serde_json::Value;

const VOCABULARY: usize = 96;
const ROWS: usize = 4;

fn rows<const N: usize, T>(golden: &SafeTensors<'_>, name: &str, read: impl Fn([u8; N]) -> T) -> Vec<Vec<T>> {
    let data = golden.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let values: Vec<T> = data.data().chunks_exact(N).map(|x| read(x.try_into().unwrap())).collect();
    let width = values.len() / ROWS;
    let mut rows: Vec<Vec<T>> = Vec::new();
    for (i, value) in values.into_iter().enumerate() {
        if i % width == 0 {
            rows.push(Vec::new());
        }
        rows.last_mut().unwrap().push(value);
    }
    rows
}

fn file() -> (Vec<u8>, serde_json::Map<String, Value>) {
    let folder = golden_folder().join("samplers");
    let cases: Value = serde_json::from_slice(&std::fs::read(folder.join("samplers.json")).unwrap()).unwrap();
    let Value::Object(cases) = cases else { panic!("samplers.json is an object") };
    (std::fs::read(folder.join("samplers.safetensors")).unwrap(), cases)
}

fn dense(distribution: &Distribution) -> Vec<f64> {
    let mut all = vec![0.0; VOCABULARY];
    distribution.probabilities().for_each(|(token, p)| all[token as usize] = p);
    all
}

/// The samplers of a case one after the other, in any order.
fn in_order(case: &Value, mut sampling: Sampling, history: &History, logits: &[f32]) -> Distribution {
    let mut logits = logits.to_vec();
    let order = case["order"].as_array().unwrap();
    let temperature = std::mem::replace(&mut sampling.temperature, 1.0);
    sampling.penalize(history, &mut logits);
    let mut distribution = Distribution::new(&logits);
    for step in order {
        distribution = match step.as_str().unwrap() {
            "temperature" => distribution.temperature(temperature),
            "top_k" => distribution.top_k(sampling.top_k),
            "top_p" => distribution.top_p(sampling.top_p),
            "min_p" => distribution.min_p(sampling.min_p),
            penalty => {
                assert!(penalty.ends_with("_penalty"), "{penalty}");
                distribution
            }
        };
    }
    distribution
}

#[test]
fn samplers_equal_those_of_transformers() {
    let (bytes, cases) = file();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let logits = rows(&golden, "logits", f32::from_le_bytes);
    let history = rows(&golden, "history", i64::from_le_bytes);
    assert_eq!(cases.len(), 22);
    for (name, case) in &cases {
        let number = |key: &str, default: f64| case[key].as_f64().unwrap_or(default);
        let sampling = Sampling {
            temperature: number("temperature", 1.0),
            top_k: case["top_k"].as_u64().unwrap_or(0) as usize,
            top_p: number("top_p", 1.0),
            min_p: number("min_p", 0.0),
            repetition_penalty: number("repetition_penalty", 1.0),
            presence_penalty: number("presence_penalty", 0.0),
            frequency_penalty: number("frequency_penalty", 0.0),
            ..Sampling::default()
        };
        sampling.validate(VOCABULARY).unwrap();
        let probabilities = rows(&golden, &format!("{name}.probs"), f32::from_le_bytes);
        for row in 0..ROWS {
            let mut seen = History::new(&[]);
            history[row].iter().for_each(|&token| seen.push(token as u32));
            let got = dense(&in_order(case, sampling.clone(), &seen, &logits[row]));
            let check = |got: &[f64], how: &str| {
                for (token, (got, want)) in got.iter().zip(&probabilities[row]).enumerate() {
                    let want = f64::from(*want);
                    assert_eq!(*got == 0.0, want == 0.0, "{name}, row {row}, token {token}, {how}: {got} for {want}");
                    assert!((got - want).abs() <= 1e-6, "{name}, row {row}, token {token}, {how}: {got} for {want}");
                }
            };
            check(&got, "in the order of the case");
            let own = ["all_vllm_order", "all_llama_cpp_order", "hot_temperature_last"];
            if !own.contains(&name.as_str()) {
                check(&dense(&sampling.distribution(&seen, &mut logits[row].clone())), "in our order");
            }
        }
    }
}

#[test]
fn rejected_drafts_are_replaced_from_the_residual() {
    let (bytes, _) = file();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str| rows(&golden, name, f64::from_le_bytes);
    let (p, q, residuals) = (read("spec.p"), read("spec.q"), read("spec.residual"));
    let accept = read("spec.accept_if_drafted");
    for row in 0..ROWS {
        let (target, draft) = (Distribution::from_probabilities(&p[row]), Distribution::from_probabilities(&q[row]));
        for token in 0..VOCABULARY {
            if q[row][token] > 0.0 {
                let ratio = (target.probability(token as u32) / draft.probability(token as u32)).min(1.0);
                assert!((ratio - accept[row][token]).abs() < 1e-9, "row {row}, token {token}");
            }
        }
        match target.residual(&draft) {
            Some(residual) => {
                let got = dense(&residual);
                for (token, (got, want)) in got.iter().zip(&residuals[row]).enumerate() {
                    assert!((got - want).abs() < 1e-9, "row {row}, token {token}: {got} for {want}");
                }
            }
            None => assert_eq!(p[row], q[row], "row {row}: only equal distributions leave nothing"),
        }
    }
}

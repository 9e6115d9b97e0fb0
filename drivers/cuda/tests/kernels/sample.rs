//! Choosing tokens: those of the reference device, over a vocabulary of several pieces.

use fathom_core::device::{Device as _, Host, Kernels, NO_TOKEN, Sample};
use fathom_core::dtype::DType;
use fathom_core::rng;
use fathom_core::sampling::Rule;
use fathom_core::tensor::Tensor;

use crate::common::{self, floats, indices, suite};

#[test]
fn conformance() {
    suite(&[fathom_conformance::sample]);
}

/// Logits of a vocabulary, most of them far below the best as a model's are.
fn logit(row: usize, i: usize) -> f32 {
    let x = rng::normal(row as u64, 3, i as u64);
    match row % 4 {
        0 => 2.5 * x,
        // Many equal ones, so that top-p cuts through tokens of one weight.
        1 => (x * 2.0).round() / 4.0,
        2 => 1e-4 * x,
        _ => 30.0 * x,
    }
}

fn tokens<D: Kernels>(device: &D, rows: usize, cols: usize, rules: &[Rule]) -> Result<Vec<u32>, D::Error> {
    let logits = floats(device, DType::F32, rows, cols, |i| logit(i / cols, i % cols))?;
    let words: Vec<u32> = rules.iter().flat_map(Rule::words).collect();
    let rules = indices(device, rows, Rule::WORDS, &words)?;
    let mut tokens = Tensor::<D>::empty(device, &[rows, 1], DType::U32)?;
    device.sample(Sample::new(logits.view(), rules.view(), tokens.view_mut())?)?;
    tokens.download(device)
}

#[test]
fn vocabularies_of_several_pieces() {
    let Some(device) = common::device() else { return };
    // Rows that are read in sixteen bytes, and rows that are not.
    for (rows, cols) in [(8, 12_808), (8, 9001)] {
        for (k, p, min_p) in [(0, 1.0, 0.0), (0, 1.0, 0.1), (40, 1.0, 0.0), (0, 0.9, 0.0), (500, 0.6, 0.02)] {
            let rules: Vec<Rule> = (0..rows)
                .map(|r| {
                    let uniform = rng::uniform(9, r as u64, (k + cols) as u64);
                    Rule::new([1.0, 0.7, 1.0, 1.5][r % 4], k, p, min_p, uniform)
                })
                .collect();
            let got = tokens(&device, rows, cols, &rules).unwrap_or_else(|e| panic!("{e}"));
            let want = tokens(&Host::new(), rows, cols, &rules).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(got, want, "{cols} tokens, top-k {k}, top-p {p}, min-p {min_p}");
        }
        let greedy = vec![Rule::GREEDY; rows];
        let got = tokens(&device, rows, cols, &greedy).unwrap_or_else(|e| panic!("{e}"));
        for (row, token) in got.into_iter().enumerate() {
            let best = (0..cols).map(|i| logit(row, i)).fold(f32::MIN, f32::max);
            let first = (0..cols).position(|i| logit(row, i) == best);
            assert_eq!(Some(token as usize), first, "the first of the largest of row {row}");
        }
    }
}

#[test]
fn a_row_with_a_logit_that_is_not_finite_has_no_token_and_the_others_do() {
    let Some(device) = common::device() else { return };
    let run = || {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let logits = floats(&device, DType::F32, 4, 5000, |i| {
            let (row, col) = (i / 5000, i % 5000);
            if row < 3 && col == 4321 { bad[row] } else { logit(0, col) }
        })?;
        for rule in [Rule::GREEDY, Rule::new(1.0, 0, 1.0, 0.0, 0.5), Rule::new(1.0, 5, 0.5, 0.0, 0.5)] {
            let words: Vec<u32> = (0..4).flat_map(|_| rule.words()).collect();
            let rules = indices(&device, 4, Rule::WORDS, &words)?;
            let mut tokens = Tensor::<fathom_cuda::Cuda>::empty(&device, &[4, 1], DType::U32)?;
            device.sample(Sample::new(logits.view(), rules.view(), tokens.view_mut())?)?;
            let tokens: Vec<u32> = tokens.download(&device)?;
            assert_eq!(tokens[..3], [NO_TOKEN; 3]);
            assert!(tokens[3] < 5000);
            device.flush()?;
        }
        Ok::<_, fathom_cuda::CudaError>(())
    };
    run().unwrap_or_else(|e| panic!("{e}"));
}

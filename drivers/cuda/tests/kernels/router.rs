//! The router, its gradient, the balance loss and the bias update against the reference device.

use fathom_core::device::{Balance, Device, Host, Kernels, Route, RouteGrad, UpdateBias};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::routing::{GroupScore, RouteConfig, Score};
use fathom_core::tensor::Tensor;

use crate::common::{self, assert_near, floats, noise, read, suite};

#[test]
fn conformance() {
    suite(&[
        fathom_conformance::route,
        fathom_conformance::route_grad,
        fathom_conformance::balance,
        fathom_conformance::update_bias,
    ]);
}

const V3: RouteConfig = RouteConfig {
    experts: 256,
    top_k: 8,
    groups: 8,
    top_groups: 4,
    score: Score::Sigmoid,
    group_score: GroupScore::TopTwo,
    normalize: true,
    scale: 2.5,
};
const V2: RouteConfig = RouteConfig {
    experts: 160,
    top_k: 6,
    groups: 8,
    top_groups: 3,
    score: Score::Softmax,
    group_score: GroupScore::Max,
    normalize: false,
    scale: 16.0,
};

/// Scores, experts and weights of 37 tokens.
fn route<D: Kernels>(
    d: &D,
    config: RouteConfig,
    t: DType,
    logit: impl Fn(usize) -> f32,
) -> Result<Vec<Vec<f32>>, D::Error> {
    let (rows, n, k) = (37, config.experts, config.top_k);
    let logits = floats(d, t, rows, n, logit)?;
    let bias = floats(d, DType::F32, 1, n, |i| noise(2, i) / 50.0)?;
    let (mut scores, mut weights) =
        (floats(d, DType::F32, rows, n, |_| 0.0)?, floats(d, DType::F32, rows, k, |_| 0.0)?);
    let mut experts = Tensor::<D>::empty(d, &[rows, k], DType::U32)?;
    let results = (scores.view_mut(), experts.view_mut(), weights.view_mut());
    d.route(Route::new(config, logits.view(), Some(bias.view()), results.0, results.1, results.2)?)?;
    let experts: Vec<u32> = experts.download(d)?;
    Ok(vec![read(d, &scores)?, experts.into_iter().map(|e| e as f32).collect(), read(d, &weights)?])
}

fn rules() -> [RouteConfig; 5] {
    [
        V3,
        V2,
        RouteConfig { experts: 1024, top_k: 33, groups: 1, top_groups: 1, ..V2 },
        RouteConfig { experts: 320, top_k: 32, groups: 40, top_groups: 7, ..V3 },
        RouteConfig { experts: 6, top_k: 6, groups: 1, top_groups: 1, ..V3 },
    ]
}

#[test]
fn every_number_has_the_bits_of_the_core() {
    let Some(device) = common::device() else { return };
    for config in rules() {
        for (t, step) in [(DType::F32, 1e9), (DType::BF16, 1e9), (DType::F32, 4.0)] {
            // With a small step many logits are equal.
            let logit = |i: usize| (noise(1, i) * 3.0 * step).round() / step;
            let got = route(&device, config, t, logit).unwrap_or_else(|e| panic!("{e}"));
            let want = route(&Host::new(), config, t, logit).unwrap_or_else(|e| panic!("{e}"));
            assert_near(&got, &want, 0.0);
        }
    }
}

#[test]
fn what_is_not_finite_is_chosen_as_the_core_does() {
    let Some(device) = common::device() else { return };
    const BAD: [f32; 3] = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY];
    for config in rules() {
        for density in [1, 2, 5, 50] {
            let logit = |i: usize| {
                let bad = (noise(3, i) + 2.0) * 1e4;
                if (bad as usize).is_multiple_of(density) { BAD[i / config.experts % 4 % 3] } else { noise(1, i) }
            };
            let got = route(&device, config, DType::F32, logit).unwrap_or_else(|e| panic!("{e}"));
            let want = route(&Host::new(), config, DType::F32, logit).unwrap_or_else(|e| panic!("{e}"));
            assert_near(&got, &want, 0.0);
        }
    }
}

#[test]
fn more_experts_than_a_warp_holds_are_refused() {
    let Some(device) = common::device() else { return };
    let config = RouteConfig { experts: 1032, ..V3 };
    let error = route(&device, config, DType::F32, |_| 0.0).expect_err("1032 experts");
    assert!(error.to_string().contains("1032 experts"), "{error}");
}

/// The balance loss of `sequences` sequences, its gradient, and the logits' gradient through it.
fn balance<D: Kernels>(
    d: &D,
    config: RouteConfig,
    sequence: usize,
    sequences: usize,
) -> Result<Vec<Vec<f32>>, D::Error> {
    let (rows, n, k) = (sequence * sequences, config.experts, config.top_k);
    let scores = floats(d, DType::F32, rows, n, |i| (noise(1, i) + 2.1) / 4.2)?;
    let (mut loss, mut ds) = (floats(d, DType::F32, 1, 1, |_| 0.5)?, floats(d, DType::F32, rows, n, |_| 0.0)?);
    d.balance(Balance::new(scores.view(), sequence, k, 0.1, loss.view_mut(), ds.view_mut())?)?;
    let experts: Vec<u32> = (0..rows * k).map(|i| ((i * 31 + i / k) % n) as u32).collect();
    let experts = common::indices(d, rows, k, &experts)?;
    let dw = floats(d, DType::F32, rows, k, |i| noise(5, i))?;
    let mut dx = floats(d, DType::F32, rows, n, |_| 0.0)?;
    let (s, e) = (scores.view(), experts.view());
    d.route_grad(RouteGrad::new(config, s, e, dw.view(), Some(ds.view()), dx.view_mut())?)?;
    Ok(vec![read(d, &loss)?, read(d, &ds)?, read(d, &dx)?])
}

#[test]
fn an_expert_that_is_not_there_is_reported() {
    let Some(device) = common::device() else { return };
    let run = || {
        let config = RouteConfig { experts: 4, top_k: 2, groups: 1, top_groups: 1, ..V3 };
        let scores = floats(&device, DType::F32, 2, 4, |_| 0.5)?;
        let experts = common::indices(&device, 2, 2, &[0, 1, 3, 4])?;
        let dw = floats(&device, DType::F32, 2, 2, |i| i as f32)?;
        let mut dx = floats(&device, DType::F32, 2, 4, |_| 0.0)?;
        device.route_grad(RouteGrad::new(config, scores.view(), experts.view(), dw.view(), None, dx.view_mut())?)?;
        let error = device.flush().expect_err("expert 4 of 4");
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.to_string().contains("route_grad: index 4"), "{error}");
        Ok::<_, fathom_cuda::CudaError>(())
    };
    run().unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn sequences_of_several_parts() {
    let Some(device) = common::device() else { return };
    for (config, sequence, sequences) in [(V3, 130, 3), (V2, 64, 2), (RouteConfig { experts: 1024, ..V3 }, 70, 1)] {
        let got = balance(&device, config, sequence, sequences).unwrap_or_else(|e| panic!("{e}"));
        let want = balance(&Host::new(), config, sequence, sequences).unwrap_or_else(|e| panic!("{e}"));
        assert_near(&got, &want, 1e-5);
    }
}

#[test]
fn a_load_next_to_the_mean_moves_the_right_way() {
    let Some(device) = common::device() else { return };
    fn bias<D: Kernels>(d: &D) -> Result<Vec<f32>, D::Error> {
        // Counts whose products with their number, 300, are far above what f32 holds.
        let load = floats(d, DType::F32, 1, 300, |i| 16_000_000.0 + [0.0, 1.0, -1.0][i % 3])?;
        let mut bias = floats(d, DType::F32, 1, 300, |_| 0.0)?;
        d.update_bias(UpdateBias::new(load.view(), 1e-3, bias.view_mut())?)?;
        read(d, &bias)
    }
    let bias = bias(&device).unwrap_or_else(|e| panic!("{e}"));
    for (i, b) in bias.into_iter().enumerate() {
        assert_eq!(b, [0.0, -1e-3, 1e-3][i % 3], "expert {i}");
    }
}

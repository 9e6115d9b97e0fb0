//! Every layer's backward pass against central differences in f64, on the scalar reference device.
//!
//! A layer's output `y` is made a number by `L = Σ r·y` with random `r`. The gradient of `L` with respect to each input
//! and each parameter is then compared with `(L(x + h) − L(x − h)) / 2h` at a sample of elements.

use std::sync::Arc;

use fathom_core::DType;
use fathom_core::config::{Family, ModelConfig, ScoringFunction, TopkMethod};
use fathom_core::device::{Host, Out};
use fathom_core::layer::block::Block;
use fathom_core::layer::embedding::Embedding;
use fathom_core::layer::ffn::Ffn;
use fathom_core::layer::head::Head;
use fathom_core::layer::linear::Linear;
use fathom_core::layer::mla::Mla;
use fathom_core::layer::moe::{BalanceLoss, LoadCount, Moe, RouterState, Routers};
use fathom_core::layer::mtp::Mtp;
use fathom_core::layer::operand::Operand;
use fathom_core::layer::rmsnorm::RmsNorm;
use fathom_core::layer::{Pass, Phase, Sequences, rope};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_core::weights::{Copies, Layout, Lowest, Parameters};

const STEP: f64 = 1e-5;
/// Rows of every test: two sequences of 6 tokens, the second of two documents.
const ROWS: usize = 12;
const LENGTH: usize = 6;

type HostTensor = Tensor<Host>;

fn random(stream: u64, n: usize) -> Vec<f64> {
    (0..n as u64).map(|i| f64::from(rng::normal(7, stream, i))).collect()
}

fn tensor(device: &Host, rows: usize, values: &[f64]) -> HostTensor {
    HostTensor::from_slice(device, &[rows, values.len() / rows], DType::F64, values).unwrap()
}

fn indices(device: &Host, values: &[u32]) -> HostTensor {
    HostTensor::from_slice(device, &[values.len(), 1], DType::U32, values).unwrap()
}

/// A layer under test: weights, inputs, and how to run it.
struct Bench {
    device: Host,
    config: ModelConfig,
    weights: Parameters<Host>,
    copies: Copies<Host>,
    precision: Precision,
    sequences: Sequences<Host>,
    rope: HostTensor,
}

impl Bench {
    fn new(config: ModelConfig, layout: &Layout) -> Self {
        let device = Host::new();
        let mut weights = Parameters::zeros(&device, layout, DType::F64).unwrap();
        for (i, p) in layout.parameters().iter().enumerate() {
            let (scale, base) = if p.is_matrix() { (0.3, 0.0) } else { (0.2, 1.0) };
            let values: Vec<f64> = random(100 + i as u64, p.elements()).iter().map(|x| base + scale * x).collect();
            weights.write(&device, p, bytemuck::cast_slice(&values)).unwrap();
        }
        let positions: Vec<u32> = (0..ROWS).map(|t| (t % LENGTH) as u32).collect();
        let starts: Vec<u32> = (0..ROWS as u32)
            .map(|t| {
                if t < 6 {
                    0
                } else if t < 9 {
                    6
                } else {
                    9
                }
            })
            .collect();
        let [positions, starts] = [positions, starts].map(|rows| Arc::new(indices(&device, &rows)));
        let sequences = Sequences { length: LENGTH, positions, starts };
        let rope = rope::table(&device, &config, LENGTH, DType::F64).unwrap();
        let precision = Precision::F64;
        let copies = Copies::new(&device, layout, &precision).unwrap();
        Self { device, config, weights, copies, precision, sequences, rope }
    }

    fn pass(&self) -> Pass<'_, Host> {
        Pass {
            device: &self.device,
            weights: &self.weights,
            copies: &self.copies,
            sequences: &self.sequences,
            rope: &self.rope,
            precision: self.precision,
            training: true,
            phase: Phase::Prefill,
        }
    }

    fn zero_gradients(&self) -> Parameters<Host> {
        Parameters::zeros(&self.device, self.weights.layout(), DType::F64).unwrap()
    }

    /// Compares gradients with differences: of `inputs` (each with its gradient) and of all parameters.
    fn check(
        &mut self,
        inputs: &mut [Vec<f64>],
        dinputs: &[Vec<f64>],
        gradients: &Parameters<Host>,
        loss: impl Fn(&Self, &[Vec<f64>]) -> f64,
    ) {
        for (k, gradient) in dinputs.iter().enumerate() {
            for i in sample(gradient.len()) {
                let difference = central(|h| {
                    let mut moved = inputs.to_vec();
                    moved[k][i] += h;
                    loss(self, &moved)
                });
                assert_close(&format!("input {k}, element {i}"), gradient[i], difference);
            }
        }
        let layout = self.weights.layout().clone();
        for p in layout.parameters() {
            let mut analytic = vec![0.0f64; p.elements()];
            gradients.read(&self.device, p, bytemuck::cast_slice_mut(&mut analytic)).unwrap();
            let mut values = vec![0.0f64; p.elements()];
            self.weights.read(&self.device, p, bytemuck::cast_slice_mut(&mut values)).unwrap();
            for i in sample(p.elements()) {
                let original = values[i];
                let mut at = |h: f64| {
                    values[i] = original + h;
                    self.weights.write(&self.device.clone(), p, bytemuck::cast_slice(&values)).unwrap();
                    loss(self, inputs)
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                at(0.0);
                assert_close(&format!("{}, element {i}", p.name), analytic[i], difference);
            }
        }
    }
}

/// A few elements spread over `0..n`.
fn sample(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(1.max(n / 5))
}

fn central(mut f: impl FnMut(f64) -> f64) -> f64 {
    (f(STEP) - f(-STEP)) / (2.0 * STEP)
}

fn assert_close(what: &str, analytic: f64, difference: f64) {
    let scale = analytic.abs().max(difference.abs()).max(1e-3);
    let error = (analytic - difference).abs() / scale;
    assert!(error < 1e-5, "{what}: backward gives {analytic}, differences give {difference}");
}

fn dot(device: &Host, x: &HostTensor, r: &[f64]) -> f64 {
    x.download::<Host, f64>(device).unwrap().iter().zip(r).map(|(a, b)| a * b).sum()
}

fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 17,
        hidden_size: 8,
        intermediate_size: 10,
        moe_intermediate_size: 6,
        num_hidden_layers: 2,
        first_k_dense_replace: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        n_shared_experts: 1,
        n_routed_experts: 8,
        num_experts_per_tok: 3,
        n_group: 4,
        topk_group: 2,
        routed_scaling_factor: 2.5,
        q_lora_rank: Some(5),
        kv_lora_rank: 6,
        qk_nope_head_dim: 3,
        qk_rope_head_dim: 4,
        v_head_dim: 5,
        max_position_embeddings: 32,
        ..ModelConfig::tiny()
    }
}

fn v2(config: ModelConfig) -> ModelConfig {
    ModelConfig {
        model_type: Family::V2,
        scoring_func: ScoringFunction::Softmax,
        topk_method: TopkMethod::GroupLimitedGreedy,
        norm_topk_prob: false,
        q_lora_rank: None,
        ..config
    }
}

#[test]
fn linear() {
    let mut layout = Layout::default();
    let layer = Linear::declare(&mut layout, "l", 7, 5, true, Lowest::Fp8);
    let mut bench = Bench::new(config(), &layout);
    let (x, r) = (random(1, ROWS * 7), random(2, ROWS * 5));
    let run = |b: &Bench, x: &[Vec<f64>]| {
        let mut y = HostTensor::empty(&b.device, &[ROWS, 5], DType::F64).unwrap();
        layer
            .forward(&b.pass(), &Operand::of(tensor(&b.device, ROWS, &x[0]).view()), y.view_mut(), Out::Replace)
            .unwrap();
        dot(&b.device, &y, &r)
    };
    let mut gradients = bench.zero_gradients();
    let (dy, input) = (tensor(&bench.device, ROWS, &r), tensor(&bench.device, ROWS, &x));
    let mut dx = HostTensor::empty(&bench.device, &[ROWS, 7], DType::F64).unwrap();
    let (dy, x_operand) = (Operand::of(dy.view()), Operand::of(input.view()));
    layer.backward_input(&bench.pass(), &dy, dx.view_mut(), Out::Replace).unwrap();
    layer.backward_weight(&bench.pass(), &mut gradients, &x_operand, &dy).unwrap();
    let dx = dx.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, run);
}

#[test]
fn rmsnorm() {
    let mut layout = Layout::default();
    let layer = RmsNorm::declare(&mut layout, "norm.weight".into(), 7, 1e-6);
    let mut bench = Bench::new(config(), &layout);
    let (x, r) = (random(1, ROWS * 7), random(2, ROWS * 7));
    let run = |b: &Bench, x: &[Vec<f64>]| {
        dot(&b.device, &layer.normed(&b.pass(), tensor(&b.device, ROWS, &x[0]).view()).unwrap().0, &r)
    };
    let mut gradients = bench.zero_gradients();
    let (dy, input) = (tensor(&bench.device, ROWS, &r), tensor(&bench.device, ROWS, &x));
    let mut y = HostTensor::empty(&bench.device, &[ROWS, 7], DType::F64).unwrap();
    let saved = layer.forward(&bench.pass(), input.view(), y.view_mut()).unwrap();
    let mut dx = y;
    layer
        .backward(&bench.pass(), &mut gradients, input.view(), &saved, dy.view(), dx.view_mut(), Out::Replace)
        .unwrap();
    let dx = dx.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, run);
}

#[test]
fn embedding() {
    let mut layout = Layout::default();
    let layer = Embedding::declare(&mut layout, "e.weight".into(), 17, 8, Lowest::Master);
    let mut bench = Bench::new(config(), &layout);
    let tokens = indices(&bench.device, &[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 16]);
    let r = random(2, ROWS * 8);
    let mut gradients = bench.zero_gradients();
    let dy = tensor(&bench.device, ROWS, &r);
    layer.backward_weight(&bench.device, &mut gradients, tokens.view(), dy.view()).unwrap();
    let run = |b: &Bench, _: &[Vec<f64>]| dot(&b.device, &layer.forward(&b.pass(), tokens.view()).unwrap(), &r);
    bench.check(&mut [], &[], &gradients, run);
}

#[test]
fn head() {
    let mut layout = Layout::default();
    let layer = Head::declare(&mut layout, "h.weight".into(), 17, 8);
    let mut bench = Bench::new(config(), &layout);
    let ignored = fathom_core::device::IGNORE;
    let targets = indices(&bench.device, &[3, 1, 4, 1, 5, ignored, 2, 6, 5, 3, 5, 16]);
    let (x, scale) = (random(1, ROWS * 8), 0.37);
    let run = |b: &Bench, x: &[Vec<f64>]| {
        let mut nll = HostTensor::empty(&b.device, &[ROWS, 1], DType::F64).unwrap();
        let x = tensor(&b.device, ROWS, &x[0]);
        layer.losses(&b.pass(), x.view(), targets.view(), &mut nll, None).unwrap();
        dot(&b.device, &nll, &[scale; ROWS])
    };
    let mut gradients = bench.zero_gradients();
    let input = tensor(&bench.device, ROWS, &x);
    let mut nll = HostTensor::empty(&bench.device, &[ROWS, 1], DType::F64).unwrap();
    let mut dx = HostTensor::empty(&bench.device, &[ROWS, 8], DType::F64).unwrap();
    layer.backward(&bench.pass(), &mut gradients, input.view(), targets.view(), scale, &mut nll, &mut dx).unwrap();
    let dx = dx.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, run);
}

/// Tests a layer that adds to a residual stream: `y = y₀ + f(x)`.
fn check_mla(config: ModelConfig, precision: Precision) {
    let mut layout = Layout::default();
    let layer = Mla::declare(&mut layout, "l", &config);
    let mut bench = Bench { precision, ..Bench::new(config, &layout) };
    let d = bench.config.hidden_size;
    let (x, r) = (random(1, ROWS * d), random(2, ROWS * d));
    let run = |b: &Bench, x: &[Vec<f64>]| {
        let mut y = HostTensor::zeros(&b.device, &[ROWS, d], DType::F64).unwrap();
        layer.forward(&b.pass(), &Operand::of(tensor(&b.device, ROWS, &x[0]).view()), y.view_mut()).unwrap();
        dot(&b.device, &y, &r)
    };
    let mut gradients = bench.zero_gradients();
    let (dy, input) = (tensor(&bench.device, ROWS, &r), tensor(&bench.device, ROWS, &x));
    let mut y = HostTensor::zeros(&bench.device, &[ROWS, d], DType::F64).unwrap();
    let (dy, input) = (Operand::of(dy.view()), Operand::of(input.view()));
    let pass = bench.pass();
    let saved = layer.forward(&pass, &input, y.view_mut()).unwrap();
    let mut dx = y;
    let pending = layer.backward_input(&pass, &mut gradients, &saved, &dy, dx.view_mut()).unwrap();
    layer.backward_weight(&pass, &mut gradients, &pending, &input, &dy).unwrap();
    let dx = dx.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, run);
}

#[test]
fn mla_with_compressed_queries_and_biases() {
    check_mla(ModelConfig { attention_bias: true, ..config() }, Precision::F64);
}

/// Everything that can be is computed again.
fn recomputing() -> Precision {
    let mut precision = Precision::F64;
    (precision.recompute_norms, precision.recompute_up_projections) = (true, true);
    precision
}

/// Everything is kept.
fn keeping() -> Precision {
    let mut precision = Precision::F64;
    (precision.recompute_norms, precision.recompute_up_projections) = (false, false);
    precision
}

#[test]
fn mla_that_keeps_everything_and_nothing() {
    check_mla(config(), recomputing());
    check_mla(config(), keeping());
}

#[test]
fn mla_with_direct_queries() {
    check_mla(ModelConfig { q_lora_rank: None, ..config() }, Precision::F64);
    check_mla(ModelConfig { q_lora_rank: None, ..config() }, recomputing());
}

#[test]
fn dense_feed_forward() {
    let mut layout = Layout::default();
    let layer = Ffn::declare(&mut layout, "f", 8, 10);
    let mut bench = Bench::new(config(), &layout);
    let (x, r) = (random(1, ROWS * 8), random(2, ROWS * 8));
    let run = |b: &Bench, x: &[Vec<f64>]| {
        let mut y = HostTensor::zeros(&b.device, &[ROWS, 8], DType::F64).unwrap();
        layer.forward(&b.pass(), &Operand::of(tensor(&b.device, ROWS, &x[0]).view()), y.view_mut()).unwrap();
        dot(&b.device, &y, &r)
    };
    let mut gradients = bench.zero_gradients();
    let (dy, input) = (tensor(&bench.device, ROWS, &r), tensor(&bench.device, ROWS, &x));
    let mut y = HostTensor::zeros(&bench.device, &[ROWS, 8], DType::F64).unwrap();
    let (dy, input) = (Operand::of(dy.view()), Operand::of(input.view()));
    let pass = bench.pass();
    let saved = layer.forward(&pass, &input, y.view_mut()).unwrap();
    let mut dx = y;
    let pending = layer.backward_input(&pass, &saved, &dy, dx.view_mut(), Out::Replace).unwrap();
    layer.backward_weight(&pass, &mut gradients, &pending, &input, &dy).unwrap();
    let dx = dx.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, run);
}

fn routers(device: &Host, layers: &[&Moe], experts: usize) -> Vec<RouterState<Host>> {
    let mut routers: Vec<_> = layers.iter().map(|m| m.state(device, DType::F64).unwrap()).collect();
    for (i, router) in routers.iter_mut().enumerate() {
        let bias: Vec<f64> = random(50 + i as u64, experts).iter().map(|x| 0.2 * x).collect();
        router.bias.upload(device, &bias).unwrap();
    }
    routers
}

fn check_moe(config: ModelConfig, alpha: f64) {
    let mut layout = Layout::default();
    let layer = Moe::declare(&mut layout, "l", &config, 0);
    let mut bench = Bench::new(config, &layout);
    let (x, r) = (random(1, ROWS * 8), random(2, ROWS * 8));
    // The loss is the layer's output and the balance loss, which is known only after the backward pass.
    let both = |b: &Bench, x: &[f64], gradients: &mut Parameters<Host>| {
        let states = routers(&b.device, &[&layer], b.config.n_routed_experts);
        let zeros = HostTensor::zeros(&b.device, &[1, b.config.n_routed_experts], DType::F64).unwrap();
        let mut loads = LoadCount { layers: vec![zeros] };
        let mut routers = Routers { states: &states, loads: Some(&mut loads) };
        let pass = b.pass();
        let (input, dy) = (tensor(&b.device, ROWS, x), tensor(&b.device, ROWS, &r));
        let mut y = HostTensor::zeros(&b.device, &[ROWS, 8], DType::F64).unwrap();
        let (input, dy_operand) = (Operand::of(input.view()), Operand::of(dy.view()));
        let saved = layer.forward(&pass, &mut routers, &input, y.view_mut()).unwrap();
        let mut balance = HostTensor::zeros(&b.device, &[1, 1], DType::F64).unwrap();
        let mut dx = HostTensor::empty(&b.device, &[ROWS, 8], DType::F64).unwrap();
        let loss = (alpha != 0.0).then_some(BalanceLoss { alpha, loss: &mut balance });
        let mut pending = layer.backward_input(&pass, &saved, loss, dy.view(), dx.view_mut()).unwrap();
        layer.backward_shared(&pass, &saved, &mut pending, &dy_operand, dx.view_mut()).unwrap();
        layer.backward_weight(&pass, gradients, &saved, &pending, &input, &dy_operand).unwrap();
        let load: Vec<f64> = loads.layers[0].download(&b.device).unwrap();
        assert_eq!(load.iter().sum::<f64>(), (ROWS * b.config.num_experts_per_tok) as f64);
        (dot(&b.device, &y, &r) + dot(&b.device, &balance, &[1.0]), dx)
    };
    let mut gradients = bench.zero_gradients();
    let (_, dx) = both(&bench, &x, &mut gradients);
    let dx = dx.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, |b, x| both(b, &x[0], &mut b.zero_gradients()).0);
}

#[test]
fn experts_of_v3() {
    check_moe(config(), 0.0);
}

#[test]
fn experts_of_v3_with_balance_loss() {
    check_moe(config(), 0.7);
}

#[test]
fn experts_of_v2() {
    check_moe(v2(config()), 0.0);
}

#[test]
fn experts_of_v2_with_balance_loss() {
    check_moe(v2(config()), 0.7);
}

#[test]
fn experts_with_unnormalised_weights_and_no_shared_ones() {
    check_moe(ModelConfig { norm_topk_prob: false, n_shared_experts: 0, ..config() }, 0.0);
}

fn check_block(experts: Option<usize>, precision: Precision) {
    let mut layout = Layout::default();
    let layer = Block::declare(&mut layout, "l", &config(), experts);
    let mut bench = Bench { precision, ..Bench::new(config(), &layout) };
    let (x, r) = (random(1, ROWS * 8), random(2, ROWS * 8));
    let forward = |b: &Bench, x: &[f64]| {
        let layers: Vec<_> = layer.experts().into_iter().collect();
        let states = routers(&b.device, &layers, b.config.n_routed_experts);
        let mut routers = Routers { states: &states, loads: None };
        layer.forward(&b.pass(), &mut routers, tensor(&b.device, ROWS, x)).unwrap()
    };
    let mut gradients = bench.zero_gradients();
    let (_, saved) = forward(&bench, &x);
    let mut dy = tensor(&bench.device, ROWS, &r);
    layer.backward(&bench.pass(), &mut gradients, saved.unwrap(), None, &mut dy).unwrap();
    let dx = dy.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, |b, x| dot(&b.device, &forward(b, &x[0]).0, &r));
}

#[test]
fn dense_block() {
    check_block(None, Precision::F64);
    check_block(None, keeping());
}

#[test]
fn block_with_experts() {
    check_block(Some(0), Precision::F64);
    check_block(Some(0), keeping());
}

#[test]
fn multi_token_prediction() {
    let config = config();
    let mut layout = Layout::default();
    let embedding = Embedding::declare(&mut layout, "e.weight".into(), 17, 8, Lowest::Master);
    let layer = Mtp::declare(&mut layout, "l", &config, Some(0));
    let mut bench = Bench::new(config, &layout);
    let tokens = indices(&bench.device, &[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 16]);
    let (x, r) = (random(1, ROWS * 8), random(2, ROWS * 8));
    let forward = |b: &Bench, x: &HostTensor| {
        let layers: Vec<_> = layer.block().experts().into_iter().collect();
        let states = routers(&b.device, &layers, b.config.n_routed_experts);
        let mut routers = Routers { states: &states, loads: None };
        layer.forward(&b.pass(), &mut routers, &embedding, tokens.view(), x.view()).unwrap()
    };
    let mut gradients = bench.zero_gradients();
    let input = tensor(&bench.device, ROWS, &x);
    let (_, saved) = forward(&bench, &input);
    let dy = tensor(&bench.device, ROWS, &r);
    let mut dx = HostTensor::zeros(&bench.device, &[ROWS, 8], DType::F64).unwrap();
    layer
        .backward(
            &bench.pass(),
            &mut gradients,
            saved.unwrap(),
            None,
            &embedding,
            tokens.view(),
            input.view(),
            dy.view(),
            &mut dx,
        )
        .unwrap();
    let dx = dx.download(&bench.device).unwrap();
    bench.check(&mut [x], &[dx], &gradients, |b, x| dot(&b.device, &forward(b, &tensor(&b.device, ROWS, &x[0])).0, &r));
}

/// The harness finds a gradient that is wrong by a thousandth.
#[test]
#[should_panic(expected = "backward gives")]
fn a_wrong_gradient_is_found() {
    assert_close("planted fault", 1.001, 1.0);
}

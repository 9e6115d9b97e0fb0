//! The mixture of experts (DeepSeekMoE; V3 report §2.1.2, eq. 12–16), dropless, without auxiliary loss.
//!
//! Every token goes to `K` of `N` small experts and to the shared ones. Tokens are grouped by expert with a stable
//! counting sort, each expert multiplies its own rows (grouped products, no padding), and the rows of a token are
//! summed again. How many rows an expert has stays on the device.
//!
//! Routing weights multiply SwiGLU's output, before the down projection: `Σ w·(W_down·a) = Σ W_down·(w·a)`. The
//! gradient of a weight is then a dot product of two vectors of the expert's inner width, and the experts' outputs need
//! not be kept. The load of every expert is added up over a batch for the bias update.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Pass;
use super::ffn::{self, Ffn, activated, keep_gate_up};
use super::finite;
use super::linear::{GroupedLinear, Linear};
use super::operand::{Kept, Operand};
use crate::DType;
use crate::config::{ModelConfig, ScoringFunction, TopkMethod};
use crate::device::{
    Balance, Binary, BinaryOp, Cast, Combine, Fill, GatherRows, Kernels, Out, Route, RouteGrad, SortByKey, SwigluGrad,
};
use crate::routing::{GroupScore, RouteConfig, Score};
use crate::tensor::{Tensor, View, ViewMut};
use crate::weights::{Layout, Lowest, Parameters};

/// Router, routed experts and shared experts of one layer.
#[derive(Clone, Debug)]
pub struct Moe {
    gate: Linear,
    /// `[N·2i, d]`: gate and up of every expert.
    gate_up: GroupedLinear,
    /// `[N·d, i]`.
    down: GroupedLinear,
    shared: Option<Ffn>,
    rule: RouteConfig,
    /// Which of the model's router states is this layer's.
    index: usize,
    bias_name: Option<String>,
}

/// Router state of one MoE layer, beside its parameters.
pub struct RouterState<D: Kernels> {
    /// The checkpoint's name of the bias, where the model has one.
    pub bias_name: Option<String>,
    /// `e_score_correction_bias`, `[1, N]`, never in less than f32. Moved by the training step, not by gradients.
    pub bias: Tensor<D>,
}

/// Tokens routed to each expert since the counts were last cleared.
pub struct LoadCount<D: Kernels> {
    /// `[1, N]` for each layer with experts.
    pub layers: Vec<Tensor<D>>,
}

impl<D: Kernels> LoadCount<D> {
    /// Sets all counts to zero.
    pub fn clear(&mut self, device: &D) -> Result<(), D::Error> {
        self.layers.iter_mut().try_for_each(|load| device.fill(Fill::new(load.view_mut(), 0.0)))
    }

    /// The counts on the host, `[N]` for each layer; exact up to 2²⁴ tokens.
    ///
    /// # Errors
    /// Those of the device.
    pub fn read(&self, device: &D) -> Result<Vec<Vec<f32>>, D::Error> {
        let widths: Vec<usize> = self.layers.iter().map(|load| load.shape().elements()).collect();
        // One tensor, so that the device is waited for once.
        let mut all = Tensor::<D>::empty(device, &[1, widths.iter().sum()], DType::F32)?;
        let mut column = 0;
        for (load, width) in self.layers.iter().zip(&widths) {
            device.cast(Cast::new(load.view(), all.view_mut().columns(column..column + width)?)?)?;
            column += width;
        }
        let all: Vec<f32> = all.download(device)?;
        let mut rest = &all[..];
        let layer = |&width: &usize| {
            let (counts, after) = rest.split_at(width);
            rest = after;
            counts.to_vec()
        };
        Ok(widths.iter().map(layer).collect())
    }
}

/// What the routers of a pass read and count.
pub struct Routers<'a, D: Kernels> {
    /// The state of each layer with experts.
    pub states: &'a [RouterState<D>],
    /// Where each layer's load is added, if it is counted.
    pub loads: Option<&'a mut LoadCount<D>>,
}

/// What the backward pass needs beside the input.
pub struct Saved<D: Kernels> {
    /// `[t, N]`.
    pub scores: Tensor<D>,
    /// `[t, K]` u32.
    pub experts: Tensor<D>,
    /// `[t, K]`.
    pub weights: Tensor<D>,
    /// `[t·K, 1]` u32: the (token, choice) pair in each row.
    pub order: Tensor<D>,
    /// `[t, K]` u32: the row of each pair.
    pub inverse: Tensor<D>,
    /// `[1, N + 1]` u32.
    pub offsets: Tensor<D>,
    /// The inputs of SwiGLU, `[t·K, 2i]`.
    pub gate_up: Kept<D>,
    /// The shared experts'.
    pub shared: Option<ffn::Saved<D>>,
}

/// What the input's gradient leaves for the weights' gradients.
pub struct Pending<'a, D: Kernels> {
    /// Rows of the residual stream's gradient, `[t·K, d]`.
    dy: Operand<'a, D>,
    /// `[t·K, 2i]`.
    d_gate_up: Operand<'a, D>,
    /// `[t·K, i]`.
    activated: Operand<'a, D>,
    /// `[t, N]`.
    dlogits: Tensor<D>,
    shared: Option<ffn::Pending<'a, D>>,
}

/// The balance loss of a layer, if it is on.
pub struct BalanceLoss<'a, D: Kernels> {
    /// α over the number of sequences of the batch.
    pub alpha: f64,
    /// `[1, 1]`, added to.
    pub loss: &'a mut Tensor<D>,
}

impl Moe {
    /// Declares the experts of layer `prefix`, the `index`-th with experts.
    pub fn declare(layout: &mut Layout, prefix: &str, config: &ModelConfig, index: usize) -> Self {
        let (d, i, n) = (config.hidden_size, config.moe_intermediate_size, config.n_routed_experts);
        let name = |part: &str| format!("{prefix}.mlp.{part}");
        let expert = |e: usize, part: &str| name(&format!("experts.{e}.{part}.weight"));
        let gate = Linear::declare(layout, &name("gate"), d, n, false, Lowest::Master);
        let gate_up = (0..n).flat_map(|e| [expert(e, "gate_proj"), expert(e, "up_proj")]);
        let gate_up = GroupedLinear::over(layout.stack(n * 2 * i, d, Lowest::Fp8, gate_up), n);
        let down = (0..n).map(|e| expert(e, "down_proj"));
        let down = GroupedLinear::over(layout.stack(n * d, i, Lowest::Fp8, down), n);
        let shared = (config.n_shared_experts > 0)
            .then(|| Ffn::declare(layout, &name("shared_experts"), d, config.n_shared_experts * i));
        let bias_name = config.has_expert_bias().then(|| name("gate.e_score_correction_bias"));
        Self { gate, gate_up, down, shared, rule: rule(config), index, bias_name }
    }

    /// The state this layer needs: a bias of zeros.
    pub fn state<D: Kernels>(&self, device: &D, dtype: DType) -> Result<RouterState<D>, D::Error> {
        let bias = Tensor::<D>::zeros(device, &[1, self.rule.experts], dtype)?;
        Ok(RouterState { bias_name: self.bias_name.clone(), bias })
    }

    /// `y += moe(x)`: `x [t, d]` normed, `y [t, d]` the residual stream.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        routers: &mut Routers<'_, D>,
        x: &Operand<'_, D>,
        mut y: ViewMut<'_, D>,
    ) -> Result<Saved<D>, D::Error> {
        let (t, k, n, d) = (y.rows(), self.rule.top_k, self.rule.experts, y.cols());
        let device = pass.device;
        let [logits, scores, experts, weights] = self.route(pass, &routers.states[self.index], x, t)?;

        let mut order = pass.indices(t * k, 1)?;
        let mut inverse = pass.indices(t, k)?;
        let mut offsets = pass.indices(1, n + 1)?;
        let (o, i, f) = (order.view_mut(), inverse.view_mut(), offsets.view_mut());
        device.sort_by_key(SortByKey::new(experts.view(), n, o, i, f)?)?;
        if let Some(loads) = &mut routers.loads {
            let mut load = loads.layers[self.index].view_mut();
            add_load(pass, offsets.view(), load.reborrow())?;
            // An expert with an infinite or missing score is chosen, or not, without a trace in what follows.
            finite::spread(device, logits.view(), load)?;
        }
        drop(logits);

        let dispatched = self.dispatched(pass, x.x()?);
        let rows = dispatched.gather(pass, d, (order.view(), k), offsets.view(), (true, false))?;
        drop(dispatched);
        let mut gate_up = pass.activation(t * k, self.gate_up.outputs())?;
        self.gate_up.forward(pass, &rows, offsets.view(), gate_up.view_mut())?;
        drop(rows);

        let scale = row_weights(pass, weights.view(), order.view())?;
        let activated = activated(pass, gate_up.view(), Some(scale.view()), self.down.reads_codes(pass)?)?;
        let gate_up = keep_gate_up(pass, gate_up)?;
        let mut out = pass.activation(t * k, d)?;
        self.down.forward(pass, &activated, offsets.view(), out.view_mut())?;
        drop(activated);
        device.combine(Combine::new(out.view(), inverse.view(), y.reborrow(), Out::Add)?)?;
        drop(out);
        let shared = self.shared.as_ref().map(|s| s.forward(pass, x, y)).transpose()?;
        Ok(Saved { scores, experts, weights, order, inverse, offsets, gate_up, shared })
    }

    /// Logits and scores `[t, N]`, experts `[t, K]` and weights `[t, K]`.
    fn route<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        router: &RouterState<D>,
        x: &Operand<'_, D>,
        t: usize,
    ) -> Result<[Tensor<D>; 4], D::Error> {
        let (k, n) = (self.rule.top_k, self.rule.experts);
        let mut logits = pass.statistics(t, n)?;
        self.gate.forward(pass, x, logits.view_mut(), Out::Replace)?;
        let mut scores = pass.statistics(t, n)?;
        let mut experts = pass.indices(t, k)?;
        let mut weights = pass.statistics(t, k)?;
        let bias = self.bias_name.is_some().then(|| router.bias.view());
        let (s, e, w) = (scores.view_mut(), experts.view_mut(), weights.view_mut());
        pass.device.route(Route::new(self.rule, logits.view(), bias, s, e, w)?)?;
        Ok([logits, scores, experts, weights])
    }

    /// The tokens' activations `x [t, d]` as they are dispatched.
    fn dispatched<'a, D: Kernels>(&self, pass: &Pass<'_, D>, x: View<'a, D>) -> Operand<'a, D> {
        Operand::of(x).power_of_two(pass.precision.recipe.power_of_two_dispatch)
    }

    /// `dx = …` from the residual stream's gradient `dy [t, d]`.
    pub fn backward_input<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        saved: &'a Saved<D>,
        balance: Option<BalanceLoss<'_, D>>,
        dy: View<'_, D>,
        mut dx: ViewMut<'_, D>,
    ) -> Result<Pending<'a, D>, D::Error> {
        let (t, k, inner) = (dy.rows(), self.rule.top_k, self.down.inputs());
        let (device, offsets) = (pass.device, saved.offsets.view());
        let dispatched = Operand::of(dy).power_of_two(pass.precision.recipe.power_of_two_down_gradient);
        let (part, order) = (self.down.part(), saved.order.view());
        let dy = dispatched.gather(pass, part, (order, k), offsets, (true, true))?;
        drop(dispatched);
        let mut d_activated = pass.activation(t * k, inner)?;
        self.down.backward_input(pass, &dy, offsets, d_activated.view_mut())?;
        let dy = dy.for_weight(false);

        let scale = row_weights(pass, saved.weights.view(), saved.order.view())?;
        let mut dscale = pass.statistics(t * k, 1)?;
        let mut d_gate_up = pass.activation(t * k, 2 * inner)?;
        let mut activated = pass.activation(t * k, inner)?;
        device.swiglu_grad(SwigluGrad::new(
            saved.gate_up.restore(pass)?.view(),
            Some(scale.view()),
            d_activated.view(),
            d_gate_up.view_mut(),
            Some(dscale.view_mut()),
            activated.view_mut(),
        )?)?;
        drop(d_activated);

        let mut d_rows = pass.activation(t * k, dx.cols())?;
        let d_gate_up = Operand::owned(d_gate_up).grouped(offsets).both();
        self.gate_up.backward_input(pass, &d_gate_up, offsets, d_rows.view_mut())?;
        let d_gate_up = d_gate_up.for_weight(false);
        device.combine(Combine::new(d_rows.view(), saved.inverse.view(), dx.reborrow(), Out::Replace)?)?;
        drop(d_rows);

        let dlogits = self.route_grad(pass, saved, balance, dscale.view())?;
        self.gate.backward_input(pass, &Operand::of(dlogits.view()), dx, Out::Add)?;
        let activated = Operand::owned(activated).grouped(offsets);
        Ok(Pending { dy, d_gate_up, activated, dlogits, shared: None })
    }

    fn route_grad<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        saved: &Saved<D>,
        balance: Option<BalanceLoss<'_, D>>,
        dscale: View<'_, D>,
    ) -> Result<Tensor<D>, D::Error> {
        let (t, k, n) = (saved.weights.shape().rows(), self.rule.top_k, self.rule.experts);
        let mut dweights = pass.statistics(t * k, 1)?;
        let pairs = saved.inverse.view().reshape(t * k, 1)?;
        pass.device.gather_rows(GatherRows::new(dscale, pairs, 1, dweights.view_mut())?)?;
        let dscores = match balance {
            None => None,
            Some(b) => {
                let mut dscores = pass.statistics(t, n)?;
                let (length, loss) = (pass.sequences.length, b.loss.view_mut());
                let call = Balance::new(saved.scores.view(), length, k, b.alpha, loss, dscores.view_mut())?;
                pass.device.balance(call)?;
                Some(dscores)
            }
        };
        let mut dlogits = pass.statistics(t, n)?;
        let dweights = dweights.view().reshape(t, k)?;
        let (scores, experts, extra) = (saved.scores.view(), saved.experts.view(), dscores.as_ref().map(|d| d.view()));
        let call = RouteGrad::new(self.rule, scores, experts, dweights, extra, dlogits.view_mut())?;
        pass.device.route_grad(call)?;
        Ok(dlogits)
    }

    /// Adds the shared experts' part to `dx`, apart from the routed experts' so that the two can overlap.
    pub fn backward_shared<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        saved: &Saved<D>,
        pending: &mut Pending<'_, D>,
        dy: &Operand<'_, D>,
        dx: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        if let (Some(shared), Some(kept)) = (&self.shared, &saved.shared) {
            pending.shared = Some(shared.backward_input(pass, kept, dy, dx, Out::Add)?);
        }
        Ok(())
    }

    /// The weights' gradients, from the input `x` and the residual stream's gradient `dy`.
    pub fn backward_weight<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        saved: &Saved<D>,
        pending: &Pending<'_, D>,
        x: &Operand<'_, D>,
        dy: &Operand<'_, D>,
    ) -> Result<(), D::Error> {
        let offsets = saved.offsets.view();
        self.down.backward_weight(pass, gradients, &pending.activated, &pending.dy, offsets)?;
        let dispatched = self.dispatched(pass, x.x()?);
        let (k, order) = (self.rule.top_k, saved.order.view());
        let rows = dispatched.gather(pass, self.gate_up.inputs(), (order, k), offsets, (false, true))?;
        drop(dispatched);
        self.gate_up.backward_weight(pass, gradients, &rows, &pending.d_gate_up, offsets)?;
        drop(rows);
        self.gate.backward_weight(pass, gradients, x, &Operand::of(pending.dlogits.view()))?;
        match (&self.shared, &pending.shared) {
            (Some(shared), Some(kept)) => shared.backward_weight(pass, gradients, kept, x, dy),
            _ => Ok(()),
        }
    }
}

/// The routing rule a configuration asks for.
pub fn rule(config: &ModelConfig) -> RouteConfig {
    let limited = config.limits_groups();
    RouteConfig {
        experts: config.n_routed_experts,
        top_k: config.num_experts_per_tok,
        groups: if limited { config.n_group } else { 1 },
        top_groups: if limited { config.topk_group } else { 1 },
        score: match config.scoring_func {
            ScoringFunction::Sigmoid => Score::Sigmoid,
            ScoringFunction::Softmax => Score::Softmax,
        },
        group_score: match config.topk_method {
            TopkMethod::NoAuxTc => GroupScore::TopTwo,
            _ => GroupScore::Max,
        },
        normalize: config.norm_topk_prob,
        scale: config.routed_scaling_factor,
    }
}

/// The routing weight of every row, `[t·K, 1]`.
fn row_weights<D: Kernels>(
    pass: &Pass<'_, D>,
    weights: View<'_, D>,
    order: View<'_, D>,
) -> Result<Tensor<D>, D::Error> {
    let mut scale = pass.statistics(order.rows(), 1)?;
    let weights = weights.reshape(order.rows(), 1)?;
    pass.device.gather_rows(GatherRows::new(weights, order, 1, scale.view_mut())?)?;
    Ok(scale)
}

/// `load[e] += offsets[e + 1] − offsets[e]`.
fn add_load<D: Kernels>(pass: &Pass<'_, D>, offsets: View<'_, D>, mut load: ViewMut<'_, D>) -> Result<(), D::Error> {
    let n = load.cols();
    let mut bounds = pass.statistics(1, n + 1)?;
    pass.device.cast(Cast::new(offsets, bounds.view_mut())?)?;
    pass.device.binary(Binary::new(BinaryOp::Add, bounds.view().columns(1..n + 1)?, load.reborrow())?)?;
    pass.device.binary(Binary::new(BinaryOp::Sub, bounds.view().columns(0..n)?, load)?)
}

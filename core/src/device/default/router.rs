//! The MoE router, its gradient, the balance loss and the bias update.

use super::Work;
use crate::device::call::{
    Balance, Binary, BinaryOp, GatherColumns, Reduction, Route, RouteGrad, ScatterAddColumns, TopK, UnaryOp, UpdateBias,
};
use crate::device::primitives::Primitives;
use crate::device::tensor::Tensor;
use crate::routing::{GroupScore, RouteConfig, Score};

/// Every step rounds as [`routing::route`](crate::routing::route) does in f32, so on a device whose
/// exponential is [`math::exp`](crate::math::exp) the choices are the same bits.
pub(in crate::device) fn route<D: Primitives>(device: &D, mut call: Route<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.logits.dtype());
    let config = call.config;
    let mut scores = work.copy(call.logits)?;
    match config.score {
        Score::Sigmoid => work.map(UnaryOp::Sigmoid, &mut scores)?,
        Score::Softmax => {
            let max = work.reduce(Reduction::Max, scores.view())?;
            work.apply(BinaryOp::Sub, &mut scores, max.view())?;
            work.map(UnaryOp::Exp, &mut scores)?;
            let sum = work.ordered_sum(scores.view())?;
            work.apply(BinaryOp::Div, &mut scores, sum.view())?;
        }
    }
    let mut biased = work.copy(scores.view())?;
    if let Some(bias) = call.bias {
        work.apply(BinaryOp::Add, &mut biased, work.copy(bias)?.view())?;
    }
    if config.groups > 1 {
        mask_groups(&work, &config, &mut biased)?;
    }
    device.top_k(TopK::new(biased.view(), call.experts.reborrow())?)?;

    let mut weights = work.pick(&scores, call.experts.as_ref())?;
    if config.normalize {
        let mut sum = work.ordered_sum(weights.view())?;
        work.map(UnaryOp::Affine(1.0, 1e-20), &mut sum)?;
        work.apply(BinaryOp::Div, &mut weights, sum.view())?;
    }
    work.scale(config.scale, &mut weights)?;
    work.store(scores.view(), call.scores)?;
    work.store(weights.view(), call.weights)
}

/// Adds −∞ to the scores of every group but the best.
fn mask_groups<D: Primitives>(
    work: &Work<'_, D>,
    config: &RouteConfig,
    biased: &mut Tensor<D>,
) -> Result<(), D::Error> {
    let (tokens, groups) = (biased.shape().rows(), config.groups);
    let members = config.experts / groups;
    let rows = tokens * groups;
    let by_group = biased.part(0, rows, members)?;
    let group_scores = match config.group_score {
        GroupScore::Max => work.reduce(Reduction::Max, by_group)?,
        GroupScore::TopTwo => {
            let best = work.top_k(by_group, 2)?;
            let mut pairs = work.empty(rows, 2)?;
            let pick = GatherColumns::new(by_group, best.view(), pairs.view_mut())?;
            work.device.gather_columns(pick)?;
            work.ordered_sum(pairs.view())?
        }
    };
    let kept = work.top_k(group_scores.part(0, tokens, groups)?, config.top_groups)?;
    // ln 1 = 0 for a kept group, ln 0 = −∞ for a lost one.
    let mut mask = work.one_hot(kept.view(), groups)?;
    work.map(UnaryOp::Ln, &mut mask)?;
    let by_group = biased.part_mut(0, rows, members)?;
    work.device.binary(Binary::new(BinaryOp::Add, mask.part(0, rows, 1)?, by_group)?)
}

pub(in crate::device) fn route_grad<D: Primitives>(device: &D, call: RouteGrad<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.scores.dtype());
    let (config, scores) = (call.config, work.copy(call.scores)?);
    let mut chosen = work.pick(&scores, call.experts)?;
    let mut dw = work.copy(call.dweights)?;
    if config.normalize {
        // w = s/S: ds = (dw − Σ dw·s/S)/S
        let mut sum = work.reduce(Reduction::Sum, chosen.view())?;
        work.map(UnaryOp::Affine(1.0, 1e-20), &mut sum)?;
        work.apply(BinaryOp::Div, &mut chosen, sum.view())?;
        let mean = work.dot(dw.view(), chosen.view())?;
        work.apply(BinaryOp::Sub, &mut dw, mean.view())?;
        work.apply(BinaryOp::Div, &mut dw, sum.view())?;
    }
    work.scale(config.scale, &mut dw)?;
    let mut ds = match call.dscores {
        Some(d) => work.copy(d)?,
        None => work.zeros(call.scores.rows(), call.scores.cols())?,
    };
    let spread = ScatterAddColumns::new(dw.view(), call.experts, ds.view_mut())?;
    device.scatter_add_columns(spread)?;
    match config.score {
        Score::Sigmoid => {
            let mut slope = work.copy(scores.view())?;
            work.map(UnaryOp::Affine(-1.0, 1.0), &mut slope)?;
            work.apply(BinaryOp::Mul, &mut ds, slope.view())?;
        }
        Score::Softmax => {
            let mean = work.dot(ds.view(), scores.view())?;
            work.apply(BinaryOp::Sub, &mut ds, mean.view())?;
        }
    }
    work.apply(BinaryOp::Mul, &mut ds, scores.view())?;
    work.store(ds.view(), call.dlogits)
}

pub(in crate::device) fn balance<D: Primitives>(device: &D, mut call: Balance<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.scores.dtype());
    let (tokens, experts) = (call.sequence, call.scores.cols());
    let sequences = call.scores.rows() / tokens;
    let mut shares = work.copy(call.scores)?;
    let chosen = work.one_hot(work.top_k(shares.view(), call.top_k)?.view(), experts)?;
    let sums = work.reduce(Reduction::Sum, shares.view())?;
    work.apply(BinaryOp::Div, &mut shares, sums.view())?;

    let (mut f, mut p) = (work.zeros(sequences, experts)?, work.zeros(sequences, experts)?);
    for i in 0..sequences {
        let rows = i * tokens..(i + 1) * tokens;
        work.sum_columns(chosen.view().row_range(rows.clone())?, f.view_mut().row_range(i..i + 1)?)?;
        work.sum_columns(shares.view().row_range(rows)?, p.view_mut().row_range(i..i + 1)?)?;
    }
    work.scale(experts as f64 / (call.top_k * tokens) as f64, &mut f)?;
    work.scale(1.0 / tokens as f64, &mut p)?;
    let mut losses = work.dot(f.view(), p.view())?;
    work.scale(call.alpha, &mut losses)?;
    work.sum_columns(losses.view(), call.loss)?;

    // ∂/∂s = α/T·(f − Σ f·s/S)/S
    for i in 0..sequences {
        let rows = i * tokens..(i + 1) * tokens;
        let shares = shares.view().row_range(rows.clone())?;
        let mut ds = work.zeros(tokens, experts)?;
        work.apply(BinaryOp::Add, &mut ds, f.view().row_range(i..i + 1)?)?;
        let mean = work.dot(ds.view(), shares)?;
        work.apply(BinaryOp::Sub, &mut ds, mean.view())?;
        work.apply(BinaryOp::Div, &mut ds, sums.view().row_range(rows.clone())?)?;
        work.scale(call.alpha / tokens as f64, &mut ds)?;
        work.store(ds.view(), call.dscores.reborrow().row_range(rows)?)?;
    }
    Ok(())
}

/// `sign(Σ load − n·load)` is the sign of `mean − load` without a division that could round a balanced load off it.
pub(in crate::device) fn update_bias<D: Primitives>(
    device: &D,
    call: UpdateBias<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let work = Work::new(device, call.bias.dtype());
    let mut excess = work.copy(call.load)?;
    let total = work.reduce(Reduction::Sum, excess.view())?;
    work.scale(call.load.cols() as f64, &mut excess)?;
    work.apply(BinaryOp::Sub, &mut excess, total.view())?;
    work.map(UnaryOp::Sign, &mut excess)?;
    work.scale(-call.speed, &mut excess)?;
    let mut bias = work.copy(call.bias.as_ref())?;
    work.apply(BinaryOp::Add, &mut bias, excess.view())?;
    work.store(bias.view(), call.bias)
}

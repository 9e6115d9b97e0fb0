//! Router: the choice of experts, its gradient, the balance loss and the bias update.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Balance, Call, Route, RouteGrad, UpdateBias};
use fathom_core::routing::{GroupScore, Score};

use super::site;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::ROUTER;

/// Warps per block, one token each; fewer if they would need more than [`SHARED`] bytes of shared memory.
const WARPS: usize = 4;

/// Bytes of shared memory per block on every device.
const SHARED: usize = 48 << 10;

/// Tokens of a sequence that one block counts.
const TOKENS: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Choice {
    logits: Mat,
    bias: Mat,
    scores: Mat,
    experts: Mat,
    weights: Mat,
    scale: f32,
    top_k: i32,
    groups: i32,
    top_groups: i32,
    softmax: u32,
    top_two: u32,
    normalize: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Gradient {
    scores: Mat,
    experts: Mat,
    dweights: Mat,
    dscores: Mat,
    dlogits: Mat,
    fault: u64,
    scale: f32,
    top_k: i32,
    softmax: u32,
    normalize: u32,
    site: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Count {
    scores: Mat,
    sums: Mat,
    sequence: i32,
    tokens: i32,
    parts: i32,
    top_k: i32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Frequencies {
    sums: Mat,
    f: Mat,
    experts: i32,
    parts: i32,
    unit: f32,
    alpha: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BalanceGradient {
    scores: Mat,
    f: Mat,
    loss: Mat,
    dscores: Mat,
    sequence: i32,
    alpha: f32,
}

/// Selects the kernel for `experts` experts: a lane holds 8 or 32 of them.
fn sized(op: &'static str, names: [&'static str; 2], experts: usize) -> Result<&'static str, CudaError> {
    match experts {
        0..=256 => Ok(names[0]),
        257..=1024 => Ok(names[1]),
        _ => Err(unsupported(op, format!("does not support {experts} experts, more than 1024,"))),
    }
}

/// Warps per block if each needs `words` words of shared memory, and the bytes of all.
fn warps(words: usize) -> (usize, usize) {
    let warps = (SHARED / (4 * words + 16)).clamp(1, WARPS);
    // Up to four pieces, each of which starts on sixteen bytes.
    (warps, 4 * words * warps + 64)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Bias {
    load: Mat,
    bias: Mat,
    speed: f64,
}

impl Cuda {
    pub(super) fn route(&self, call: Route<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Route::<Buffer>::NAME;
        let config = &call.config;
        let name = sized(OP, ["route_256", "route_1024"], config.experts)?;
        let (warps, shared) = warps(2 * config.experts + config.groups + config.top_k);
        let args = Choice {
            logits: mat(OP, &call.logits)?,
            bias: call.bias.map_or(Ok(Mat::NONE), |b| mat(OP, &b))?,
            scores: mat_mut(OP, &call.scores)?,
            experts: mat_mut(OP, &call.experts)?,
            weights: mat_mut(OP, &call.weights)?,
            scale: config.scale as f32,
            // None is more than the experts.
            top_k: config.top_k as i32,
            groups: config.groups as i32,
            top_groups: config.top_groups as i32,
            softmax: (config.score == Score::Softmax).into(),
            top_two: (config.group_score == GroupScore::TopTwo).into(),
            normalize: config.normalize.into(),
            reserved: 0,
        };
        self.launch(ROUTER, name, [call.logits.rows().div_ceil(warps), 1, 1], 32 * warps as u32, shared, &args)
    }

    pub(super) fn route_grad(&self, call: RouteGrad<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = RouteGrad::<Buffer>::NAME;
        let config = &call.config;
        let (warps, shared) = warps(config.experts);
        if shared > 2 * SHARED {
            return Err(unsupported(OP, format!("does not support {} experts", config.experts)));
        }
        let args = Gradient {
            scores: mat(OP, &call.scores)?,
            experts: mat(OP, &call.experts)?,
            dweights: mat(OP, &call.dweights)?,
            dscores: call.dscores.map_or(Ok(Mat::NONE), |d| mat(OP, &d))?,
            dlogits: mat_mut(OP, &call.dlogits)?,
            fault: self.report(),
            scale: config.scale as f32,
            top_k: config.top_k as i32,
            softmax: (config.score == Score::Softmax).into(),
            normalize: config.normalize.into(),
            site: site(OP),
            reserved: 0,
        };
        let blocks = call.scores.rows().div_ceil(warps);
        self.launch(ROUTER, "route_grad", [blocks, 1, 1], 32 * warps as u32, shared, &args)
    }

    pub(super) fn balance(&self, call: Balance<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Balance::<Buffer>::NAME;
        let (rows, experts) = (call.scores.rows(), call.scores.cols());
        let (sequences, parts) = (rows / call.sequence, call.sequence.div_ceil(TOKENS));
        let name = sized(OP, ["balance_count_256", "balance_count_1024"], experts)?;
        if sequences == 0 {
            return Ok(());
        }
        let scores = mat(OP, &call.scores)?;
        let (sums, f) =
            (self.scratch(sequences * parts * 2 * experts * 4)?, self.scratch(sequences * (experts + 1) * 4)?);
        let sums = Mat::f32(OP, &sums, sequences * parts, 2 * experts)?;
        let f = Mat::f32(OP, &f, sequences, experts + 1)?;
        let (count, shared) = warps(2 * experts);
        // No count is more than the rows of the scores, which `mat` let pass.
        let [sequence, tokens, parts_i32, top_k] = [call.sequence, TOKENS, parts, call.top_k].map(|n| n as i32);
        let args = Count { scores, sums, sequence, tokens, parts: parts_i32, top_k };
        self.launch(ROUTER, name, [sequences * parts, 1, 1], 32 * count as u32, shared, &args)?;
        let unit = experts as f64 / (call.top_k as f64 * call.sequence as f64);
        let alpha = (call.alpha / call.sequence as f64) as f32;
        let args = Frequencies { sums, f, experts: experts as i32, parts: parts_i32, unit: unit as f32, alpha };
        self.launch(ROUTER, "balance_frequencies", [sequences, 1, 1], 256, 32 * 4, &args)?;
        let (loss, dscores) = (mat_mut(OP, &call.loss)?, mat_mut(OP, &call.dscores)?);
        let args = BalanceGradient { scores, f, loss, dscores, sequence, alpha };
        self.launch(ROUTER, "balance_grad", [rows.div_ceil(WARPS), 1, 1], 32 * WARPS as u32, 0, &args)
    }

    pub(super) fn update_bias(&self, call: UpdateBias<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = UpdateBias::<Buffer>::NAME;
        let args = Bias { load: mat(OP, &call.load)?, bias: mat_mut(OP, &call.bias)?, speed: call.speed };
        self.launch(ROUTER, "update_bias", [1, 1, 1], 256, 8 * 8, &args)
    }
}

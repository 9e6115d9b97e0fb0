//! `Steered`, a device wrapper whose routers choose the experts that another device chose.
//!
//! Which experts a token goes to is a comparison of scores. Devices that sum in another order give scores that differ
//! in their last bits, and in BF16 and FP8 a last bit can move a rounding, so two scores that are nearly equal may
//! stand in the other order. The token then goes elsewhere, and the loss of a small model moves by some tenths of a
//! percent: more than any fault that a comparison of two devices is meant to find. With the choices forced, all else
//! can be held to a narrow bound on every machine; the scores themselves are compared as numbers, before the choice.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fathom_core::device::{self, Attention, AttentionGrad, Cast, Device, Kernels, Primitives, Route};
use fathom_core::tensor::{MatMut, MatRef, Tensor};
use fathom_core::{DType, for_each_kernel, forward_device, rng};

/// Expert choices of one router call: one layer, one micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// Number of experts.
    pub experts: usize,
    /// Number of experts per token.
    pub top_k: usize,
    /// Scores plus bias, `[tokens, experts]`.
    pub biased: Vec<f32>,
    /// Chosen experts, `[tokens, top_k]`, best first.
    pub chosen: Vec<u32>,
}

/// Treatment of BF16 attention by a [`Steered`] device.
///
/// A device that multiplies BF16 by BF16 rounds the attention probabilities first; a device that multiplies in f32 does
/// not. Both are correct (`fathom_conformance` allows 2^-8 of the magnitude), and all later numbers differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attend {
    /// Attention of the device itself.
    AsItDoes,
    /// Attention and its gradient in f32, with results rounded to BF16: no avoidable rounding.
    InF32,
    /// As `InF32`, then each result is moved up or down, by a seed, by 2^-9 of the largest in its row: slightly more
    /// than the rounding of probabilities to BF16 can do.
    Moved(u64),
}

/// A device wrapper that records its expert choices, or follows recorded ones; clones share the list.
#[derive(Clone)]
pub struct Steered<D> {
    inner: D,
    attend: Attend,
    /// The choices to follow, if any.
    follow: Option<Arc<Vec<Choices>>>,
    /// Choices of the device itself by call, also if it follows others.
    own: Arc<Mutex<Vec<Choices>>>,
    /// Count of random numbers drawn for [`Attend::Moved`].
    drawn: Arc<AtomicU64>,
    /// The kernel of which one call is skipped: its name, and the number of calls before that one.
    left_out: Option<(&'static str, Arc<AtomicU64>)>,
}

impl<D: Kernels> Steered<D> {
    /// Records the choices of `inner`.
    pub fn recorded(inner: D, attend: Attend) -> Self {
        Self { inner, attend, follow: None, own: Arc::default(), drawn: Arc::default(), left_out: None }
    }

    /// Follows `choices`, call by call. The weights of the chosen experts come from the device's own scores and router.
    pub fn following(inner: D, attend: Attend, choices: &[Choices]) -> Self {
        Self { follow: Some(Arc::new(choices.to_vec())), ..Self::recorded(inner, attend) }
    }

    /// Skips call `number`, counted from 0, of kernel `name`: a fault that tests must find.
    pub fn leaving_out(self, name: &'static str, number: u64) -> Self {
        Self { left_out: Some((name, Arc::new(AtomicU64::new(number)))), ..self }
    }

    /// Whether the next call of a kernel is the skipped one.
    fn leaves_out(&self, name: &str) -> bool {
        match &self.left_out {
            // Counts down to the call that is left out, and stays below zero from then on.
            Some((known, before)) if *known == name => {
                let left = before.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| match n {
                    u64::MAX => None,
                    n => Some(n.wrapping_sub(1)),
                });
                left == Ok(0)
            }
            _ => false,
        }
    }

    /// Choices of the device itself so far.
    pub fn own(&self) -> Vec<Choices> {
        self.list().clone()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Choices>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floats(&self, x: MatRef<'_, D::Buffer>) -> Result<Vec<f32>, D::Error> {
        assert!(x.is_contiguous() && x.dtype() == DType::F32, "scores and biases lie in f32 without gaps");
        let mut out = vec![0.0; x.elements()];
        self.inner.download(x.buffer(), 4 * x.offset(), bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    fn route(&self, mut call: Route<'_, D::Buffer>) -> Result<(), D::Error> {
        let Route { config, logits, bias, .. } = call;
        let (scores, experts, weights) = (call.scores.reborrow(), call.experts.reborrow(), call.weights.reborrow());
        self.inner.route(Route::new(config, logits, bias, scores, experts, weights)?)?;

        let mut biased = self.floats(call.scores.as_ref())?;
        if let Some(bias) = bias {
            let bias = self.floats(bias)?;
            biased.iter_mut().zip(bias.iter().cycle()).for_each(|(s, b)| *s += b);
        }
        let mut chosen = vec![0u32; call.experts.elements()];
        let place = call.experts.as_ref();
        self.inner.download(place.buffer(), 4 * place.offset(), bytemuck::cast_slice_mut(&mut chosen))?;
        let number = {
            let mut own = self.list();
            own.push(Choices { experts: config.experts, top_k: config.top_k, biased, chosen });
            own.len() - 1
        };

        let Some(follow) = &self.follow else { return Ok(()) };
        let forced = follow.get(number).unwrap_or_else(|| panic!("call {number} of the router has nothing to follow"));
        assert_eq!(forced.chosen.len(), call.experts.elements(), "call {number} of the router");
        for (token, chosen) in forced.chosen.chunks_exact(config.top_k).enumerate() {
            // A bias takes part in the choice and not in the weights. Scores are between 0 and 1: 16 apart, nothing
            // else decides, neither in a group nor between groups.
            let mut bias = vec![0.0f32; config.experts];
            for (rank, &expert) in chosen.iter().enumerate() {
                bias[expert as usize] = 16.0 * (config.top_k - rank) as f32;
            }
            let bias = Tensor::<D>::from_slice(&self.inner, &[1, config.experts], DType::F32, &bias)?;
            let row = token..token + 1;
            let scores = call.scores.reborrow().row_range(row.clone())?;
            let experts = call.experts.reborrow().row_range(row.clone())?;
            let weights = call.weights.reborrow().row_range(row.clone())?;
            let logits = logits.row_range(row)?;
            self.inner.route(Route::new(config, logits, Some(bias.view()), scores, experts, weights)?)?;
        }
        Ok(())
    }

    fn attention(&self, call: Attention<'_, D::Buffer>) -> Result<(), D::Error> {
        if self.attend == Attend::AsItDoes || call.o.dtype() != DType::BF16 {
            return self.inner.attention(call);
        }
        let Attention { heads, starts, lse, .. } = call;
        let [q, kv, k_pe] = [call.q, call.kv, call.k_pe].map(|x| self.widened(x));
        let (q, kv, k_pe) = (q?, kv?, k_pe?);
        let mut o = self.like(call.o.as_ref())?;
        let wide = Attention::new(heads, q.view(), kv.view(), k_pe.view(), starts, o.view_mut(), lse)?;
        self.inner.attention(wide)?;
        self.narrow(o, call.o)
    }

    fn attention_grad(&self, call: AttentionGrad<'_, D::Buffer>) -> Result<(), D::Error> {
        if self.attend == Attend::AsItDoes || call.dq.dtype() != DType::BF16 {
            return self.inner.attention_grad(call);
        }
        let AttentionGrad { heads, starts, lse, .. } = call;
        let wide = [call.q, call.kv, call.k_pe, call.o, call.d_o].map(|x| self.widened(x));
        let [q, kv, k_pe, o, d_o] = wide;
        let (q, kv, k_pe, o, d_o) = (q?, kv?, k_pe?, o?, d_o?);
        let results = [call.dq.as_ref(), call.dkv.as_ref(), call.dk_pe.as_ref()].map(|x| self.like(x));
        let [dq, dkv, dk_pe] = results;
        let (mut dq, mut dkv, mut dk_pe) = (dq?, dkv?, dk_pe?);
        self.inner.attention_grad(AttentionGrad::new(
            heads,
            q.view(),
            kv.view(),
            k_pe.view(),
            starts,
            o.view(),
            lse,
            d_o.view(),
            dq.view_mut(),
            dkv.view_mut(),
            dk_pe.view_mut(),
        )?)?;
        self.narrow(dq, call.dq)?;
        self.narrow(dkv, call.dkv)?;
        self.narrow(dk_pe, call.dk_pe)
    }

    fn like(&self, x: MatRef<'_, D::Buffer>) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::empty(&self.inner, &[x.rows(), x.cols()], DType::F32)
    }

    fn widened(&self, x: MatRef<'_, D::Buffer>) -> Result<Tensor<D>, D::Error> {
        let mut wide = self.like(x)?;
        self.inner.cast(Cast::new(x, wide.view_mut())?)?;
        Ok(wide)
    }

    /// Rounds a result to BF16, after moving it if requested.
    fn narrow(&self, mut x: Tensor<D>, to: MatMut<'_, D::Buffer>) -> Result<(), D::Error> {
        if let Attend::Moved(seed) = self.attend {
            let mut values: Vec<f32> = x.download(&self.inner)?;
            for row in values.chunks_exact_mut(x.shape().cols()) {
                let step = row.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 512.0;
                for value in row {
                    let number = self.drawn.fetch_add(1, Ordering::Relaxed);
                    let up = rng::bits(seed, rng::stream("moved"), number) & 1 == 1;
                    *value += if up { step } else { -step };
                }
            }
            x.upload(&self.inner, &values)?;
        }
        self.inner.cast(Cast::new(x.view(), to)?)
    }
}

/// A token for which two devices choose different experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Differing {
    /// The router's call, counted from 0.
    pub call: usize,
    /// The token in that call.
    pub token: usize,
    /// Experts that only the first device chose, then those that only the second chose, each with both devices' scores.
    pub experts: Vec<(u32, f32, f32)>,
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}, token {}:", self.call, self.token)?;
        self.experts.iter().try_for_each(|(e, a, b)| write!(f, " expert {e} scores {a:.6} and {b:.6};"))
    }
}

/// Largest difference of the scores of two devices (NaN if one is NaN), and the choices that differ.
///
/// # Panics
/// The two devices had different calls.
pub fn compare(a: &[Choices], b: &[Choices]) -> (f32, Vec<Differing>) {
    let calls = |x: &[Choices]| x.iter().map(|c| (c.experts, c.top_k, c.chosen.len())).collect::<Vec<_>>();
    assert_eq!(calls(a), calls(b), "the routers were not called alike");
    let (mut worst, mut differing) = (0.0f32, Vec::new());
    for (call, (a, b)) in a.iter().zip(b).enumerate() {
        let apart = a.biased.iter().zip(&b.biased).map(|(x, y)| (x - y).abs());
        worst = apart.fold(worst, |m, x| if x <= m { m } else { x });
        let tokens = a.chosen.chunks_exact(a.top_k).zip(b.chosen.chunks_exact(b.top_k));
        for (token, (mine, other)) in tokens.enumerate() {
            let only = |x: &[u32], y: &[u32]| x.iter().copied().filter(|e| !y.contains(e)).collect::<Vec<_>>();
            let score = |e: u32| token * a.experts + e as usize;
            let experts = only(mine, other).into_iter().chain(only(other, mine));
            let experts: Vec<_> = experts.map(|e| (e, a.biased[score(e)], b.biased[score(e)])).collect();
            if !experts.is_empty() {
                differing.push(Differing { call, token, experts });
            }
        }
    }
    (worst, differing)
}

impl<D: Device> Device for Steered<D> {
    type Error = D::Error;
    type Buffer = D::Buffer;

    fn alloc(&self, bytes: usize) -> Result<D::Buffer, D::Error> {
        self.inner.alloc(bytes)
    }

    forward_device!();
}

macro_rules! steered {
    (@steer $name:ident $Call:ident) => {
        fn $name(&self, call: device::$Call<'_, D::Buffer>) -> Result<(), D::Error> {
            if self.leaves_out(stringify!($name)) { Ok(()) } else { Steered::$name(self, call) }
        }
    };
    (@fused route $Call:ident) => { steered!(@steer route $Call); };
    (@fused attention $Call:ident) => { steered!(@steer attention $Call); };
    (@fused attention_grad $Call:ident) => { steered!(@steer attention_grad $Call); };
    (@fused $name:ident $Call:ident) => {
        fn $name(&self, call: device::$Call<'_, D::Buffer>) -> Result<(), D::Error> {
            if self.leaves_out(stringify!($name)) { Ok(()) } else { self.inner.$name(call) }
        }
    };
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl<D: Kernels> Primitives for Steered<D> {
            $(
                fn $p(&self, call: device::$P<'_, D::Buffer>) -> Result<(), D::Error> {
                    if self.leaves_out(stringify!($p)) { Ok(()) } else { self.inner.$p(call) }
                }
            )*
        }

        impl<D: Kernels> Kernels for Steered<D> {
            $(steered!(@fused $f $F);)*
        }
    };
}
for_each_kernel!(steered);

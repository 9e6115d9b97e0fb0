//! Kernels of decoding at the shapes of DeepSeek-V3 (128 heads) and V2-Lite (16), latent 512 and key 64.
//!
//! All of them read weights or cached tokens once, so the floor is their bytes over the bandwidth of a large copy. An
//! operation counts only where the rate of f32 or of BF16 products is lower than that.

use fathom_core::DType;
use fathom_core::device::*;
use fathom_core::sampling::Rule;
use fathom_core::tensor::Tensor;

use super::{Bench, Fails};
use crate::timer::Watch;

/// Tokens of a page.
const PAGE: usize = 64;

/// All of them.
pub(super) fn all<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    attention(b)?;
    absorbed(b)?;
    few_rows(b)?;
    experts(b)?;
    choices(b)
}

/// Attention of `rows` sequences over `context` cached tokens each, in every format, and the copies into and out of the
/// cache.
fn attention<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["latent_attention", "store_latent", "load_latent"]) {
        return Ok(());
    }
    let (latent, rope) = (512, 64);
    let context = (4096 / b.arguments.shrink).max(PAGE);
    let heads = [16, 128].map(|h: usize| (h / b.arguments.shrink).max(2));
    for (rows, context) in [(1, context), (1, 8 * context), (64, context)] {
        let rows = (rows / b.arguments.shrink).max(1);
        let tokens = rows * context;
        let numbers = b.floats(tokens, latent + rope)?;
        let slots = b.indices(tokens, 1, |i| i)?;
        // Pages of the sequences by turns, as a server hands them out.
        let pages = context / PAGE;
        let tables = b.indices(rows, pages, |i| i % pages * rows + i / pages)?;
        let (sequence, keys) = (b.indices(rows, 1, |i| i)?, b.indices(rows, 1, |_| context)?);
        for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16), ("fp8", DType::E4M3)] {
            let row = LatentRow::new(dtype, latent, rope)?;
            // All of its rows are stored before they are read.
            let mut cache = Tensor::<D>::empty(&b.device, &[tokens, row.cols()], dtype)?;
            let (c, k_pe) = (numbers.view().columns(0..latent)?, numbers.view().columns(latent..latent + rope)?);
            let what = format!("{name} cache, {tokens} tokens");
            time!(b, what, store_latent: StoreLatent::new(row, c, k_pe, slots.view(), cache.view_mut()));
            let (mut to, mut pe) = (b.floats(tokens, latent)?, b.floats(tokens, rope)?);
            time!(b, what, load_latent: LoadLatent::new(row, cache.view(), slots.view(), to.view_mut(),
                pe.view_mut()));
            drop((to, pe));
            for h in heads {
                let (q, mut o) = (b.floats(rows, h * (latent + rope))?, b.floats(rows, h * latent)?);
                let what = format!("{name} cache, {rows} x {context}, {h} heads");
                time!(b, what, latent_attention: Paged::new(row, cache.view(), PAGE, tables.view()).and_then(|paged| {
                    LatentAttention::new(h, 0.072, q.view(), paged, sequence.view(), keys.view(), o.view_mut())
                }));
            }
        }
    }
    Ok(())
}

/// A weight as it is stored, beside the name of its type.
enum Stored<D: Watch> {
    Float(&'static str, Tensor<D>),
    Fp8(usize, [Tensor<D>; 2]),
}

impl<D: Watch> Stored<D> {
    /// A weight of each type, in parts of `part` rows.
    fn each(b: &mut Bench<'_, D>, part: usize, rows: usize, cols: usize) -> Result<[Self; 3], D::Error> {
        Ok([
            Self::Float("f32", b.floats(rows, cols)?),
            Self::Float("bf16", b.reals(DType::BF16, rows, cols)?),
            Self::Fp8(part, b.codes(Tiles::Block { part }, rows, cols)?),
        ])
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Float(name, _) => name,
            Self::Fp8(..) => "fp8",
        }
    }

    fn factor(&self) -> Result<Factor<'_, D::Buffer>, fathom_core::error::InvalidOp> {
        Ok(match self {
            Self::Float(_, w) => Factor::Float(w.view()),
            Self::Fp8(part, [codes, scales]) => {
                Factor::Fp8(Scaled::new(codes.view(), scales.view(), Tiles::Block { part: *part })?)
            }
        })
    }
}

fn absorbed<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["absorb_query", "absorb_output"]) {
        return Ok(());
    }
    let (latent, heads) = (512, (128 / b.arguments.shrink).max(2));
    let h = Heads { heads, nope: 128, rope: 64, value: 128, scale: 0.072, sequence: 1 };
    for weight in Stored::each(b, heads * 256, heads * 256, latent)? {
        for rows in [1, 4, 64] {
            let (q, mut y) = (b.floats(rows, heads * 192)?, b.floats(rows, heads * (latent + 64))?);
            let (x, mut o) = (b.floats(rows, heads * latent)?, b.floats(rows, heads * 128)?);
            let what = format!("{} weight, {rows} rows of {heads} heads", weight.name());
            time!(b, what, absorb_query: weight.factor().and_then(|w| AbsorbQuery::new(h, q.view(), w, y.view_mut())));
            time!(b, what, absorb_output: weight.factor()
                .and_then(|w| AbsorbOutput::new(h, x.view(), w, o.view_mut())));
        }
    }
    Ok(())
}

fn few_rows<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["gemv"]) {
        return Ok(());
    }
    let by = |n: usize| (n / b.arguments.shrink).max(128) / 128 * 128;
    // Of V3: o_proj, and gate and up of a dense layer.
    for (name, n, k) in [("o_proj", by(7168), by(16384)), ("gate_up", by(36864), by(7168))] {
        for weight in Stored::each(b, n, n, k)? {
            for rows in [1, 4, 16] {
                let (x, mut y) = (b.floats(rows, k)?, b.floats(rows, n)?);
                let what = format!("{} weight {name}, {rows} x {n} x {k}", weight.name());
                time!(b, what, gemv: weight.factor().and_then(|w| Gemv::new(x.view(), w, y.view_mut(), Out::Replace)));
            }
        }
    }
    Ok(())
}

fn experts<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["grouped_gemv"]) {
        return Ok(());
    }
    let by = |n: usize| (n / b.arguments.shrink).max(128) / 128 * 128;
    // Of V3, a quarter of the experts: gate and up of each.
    let (groups, n, k) = ((64 / b.arguments.shrink).max(2), by(4096), by(7168));
    for weight in Stored::each(b, n, groups * n, k)? {
        for rows in [2, groups] {
            // Spread evenly over the experts.
            let offsets = b.indices(1, groups + 1, |g| g * rows / groups)?;
            let (x, mut y) = (b.floats(rows, k)?, b.floats(rows, n)?);
            let what = format!("{} weights, {rows} rows of {groups} experts, {n} x {k}", weight.name());
            time!(b, what, grouped_gemv: weight.factor().and_then(|w| {
                GroupedGemv::new(groups, x.view(), w, offsets.view(), y.view_mut())
            }));
        }
    }
    Ok(())
}

/// Tokens of a vocabulary of V3, by the rules that take each way through the kernel.
fn choices<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["sample"]) {
        return Ok(());
    }
    let vocabulary = 129_280 / b.arguments.shrink;
    let ways = [
        ("greedy", Rule::GREEDY),
        ("temperature", Rule::new(0.7, 0, 1.0, 0.05, 0.5)),
        ("top-k", Rule::new(0.7, 50, 1.0, 0.0, 0.5)),
        ("top-p", Rule::new(0.7, 0, 0.95, 0.0, 0.5)),
    ];
    for rows in [1, (64 / b.arguments.shrink).max(1)] {
        let logits = b.floats(rows, vocabulary)?;
        for (name, rule) in ways {
            let words = rule.words().repeat(rows);
            let rules = Tensor::<D>::from_slice(&b.device, &[rows, Rule::WORDS], DType::U32, &words)?;
            let mut tokens = Tensor::<D>::empty(&b.device, &[rows, 1], DType::U32)?;
            let what = format!("f32 logits, {rows} x {vocabulary}, {name}");
            time!(b, what, sample: Sample::new(logits.view(), rules.view(), tokens.view_mut()));
        }
    }
    Ok(())
}

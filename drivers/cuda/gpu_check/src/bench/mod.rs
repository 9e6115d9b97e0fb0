//! `gpu_check bench`: times every kernel at the shapes of training, or of decoding, and compares it with its floor.
//!
//! The floor of a call is the larger of the bytes it must move over the bandwidth of a large copy, and the operations
//! it must do over the rate of a large product in the same type, both measured here, on this device, in this process.
//! FP8 products are held to twice the BF16 rate, which is what the hardware claims.

use argh::{ArgsInfo, FromArgs};
use fathom::cli::{Command, Program};
use fathom::device::AnyDevice;
use fathom::error::{Error, Result};
use fathom::on_device;
use fathom_core::DType;
use fathom_core::device::*;
use fathom_core::error::InvalidOp;
use fathom_core::routing::{GroupScore, RouteConfig, Score};
use fathom_core::tensor::Tensor;

use crate::timer::{Timer, Watch};
use crate::train::product_peak;

/// The command.
pub(crate) const COMMAND: Command = Command::new::<Arguments>("bench", "time every kernel against its floor");

/// time every kernel at the shapes of training a model of hidden width 2048, or those of decoding at the shapes of
/// DeepSeek-V3, and compare it with its floor
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    error_code(0, "all is well"),
    error_code(1, "a check failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// auto, cpu, cuda, cuda:N, or cuda:emulated, as in `train` (default: auto)
    #[argh(option, default = "String::from(\"auto\")")]
    device: String,
    /// only lines that contain this text
    #[argh(option, default = "String::new()")]
    only: String,
    /// divisor of all sizes, to try the program (default: 1)
    #[argh(option, default = "1")]
    shrink: usize,
    /// keep a kernel's operands in the caches between runs
    #[argh(switch)]
    warm: bool,
    /// the kernels of decoding and whole steps of it, in place of the kernels of training
    #[argh(switch)]
    decode: bool,
    /// seconds of measurement per line (default: 0.05)
    #[argh(option, default = "0.05")]
    seconds: f64,
}

/// Sizes of a step.
struct Shapes {
    tokens: usize,
    hidden: usize,
    heads: Heads,
    latent: usize,
    dense: usize,
    experts: usize,
    top_k: usize,
    inner: usize,
    vocabulary: usize,
}

impl Shapes {
    fn new(shrink: usize) -> Self {
        let by = |n: usize| (n / shrink).max(128);
        let count = |n: usize| (n / shrink).max(2);
        Self {
            tokens: by(8192),
            hidden: by(2048),
            heads: Heads { heads: count(16), nope: 128, rope: 64, value: 128, scale: 0.072, sequence: by(4096) },
            latent: by(512),
            dense: by(5632) / 128 * 128,
            experts: count(64).max(8),
            top_k: 8,
            inner: by(1408) / 128 * 128,
            vocabulary: by(32768),
        }
    }
}

struct Bench<'a, D: Watch> {
    device: D,
    arguments: &'a Arguments,
    s: Shapes,
    bandwidth: f64,
    /// Rates of a large product in F32 and BF16, in FLOP/s.
    peak: [f64; 2],
    timer: Timer<'a, D>,
    seed: u64,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.shrink == 0 {
        return Err(Error::Usage("--shrink must be at least 1".into()));
    }
    let device = AnyDevice::open(&arguments.device, 0)?;
    on_device!(&device, device => all(device, arguments).map_err(|e| Error::Run(e.to_string())))
}

type Fails<D> = std::result::Result<(), <D as Device>::Error>;

fn all<D: Watch>(device: &D, arguments: &Arguments) -> Fails<D> {
    device.warm_up()?;
    let n = (8192 / arguments.shrink).max(64);
    let bandwidth = copy_rate(device, arguments)?;
    let peak = [product_peak(device, DType::F32, n)?, product_peak(device, DType::BF16, n)?];
    say!(
        "{}: copy {:.3} TB/s, product of {n}^3 {:.1} TFLOP/s in f32, {:.1} in bf16",
        device.capabilities().name,
        bandwidth / 1e12,
        peak[0] / 1e12,
        peak[1] / 1e12
    );
    say!("{:<62} {:>10} {:>9} {:>9} {:>7}", "kernel", "us", "TB/s", "TFLOP/s", "floor");
    let timer = Timer::new(device, !arguments.warm)?;
    let s = Shapes::new(arguments.shrink);
    let mut bench = Bench { device: device.clone(), arguments, s, bandwidth, peak, timer, seed: 0 };
    if arguments.decode {
        decode::all(&mut bench)?;
        return step::all(&mut bench);
    }
    products(&mut bench)?;
    grouped(&mut bench)?;
    attention(&mut bench)?;
    layers(&mut bench)?;
    experts(&mut bench)?;
    router(&mut bench)?;
    codes(&mut bench)?;
    training(&mut bench)
}

/// Bandwidth of a copy that exceeds all caches, in bytes read and written per second.
fn copy_rate<D: Watch>(device: &D, arguments: &Arguments) -> std::result::Result<f64, D::Error> {
    let n = (256 << 20) / arguments.shrink;
    let (from, mut to) =
        (Tensor::<D>::zeros(device, &[1, n], DType::F32)?, Tensor::<D>::zeros(device, &[1, n], DType::F32)?);
    let seconds = Timer::new(device, false)?.time(0.1, || device.cast(Cast::new(from.view(), to.view_mut())?))?;
    Ok(8.0 * n as f64 / seconds)
}

impl<D: Watch> Bench<'_, D> {
    fn wanted(&self, kernels: &[&str]) -> bool {
        let only = self.arguments.only.split(' ').next().unwrap_or_default();
        only.is_empty() || kernels.iter().any(|name| name.contains(only) || only.contains(name))
    }

    fn reals(&mut self, dtype: DType, rows: usize, cols: usize) -> std::result::Result<Tensor<D>, D::Error> {
        self.seed += 1;
        let mut wide = Tensor::<D>::empty(&self.device, &[rows, cols], DType::F32)?;
        self.device.random_normal(RandomNormal::new(self.seed, 0, 1.0, wide.view_mut())?)?;
        if dtype == DType::F32 {
            return Ok(wide);
        }
        let mut x = Tensor::<D>::empty(&self.device, &[rows, cols], dtype)?;
        self.device.cast(Cast::new(wide.view(), x.view_mut())?)?;
        Ok(x)
    }

    fn floats(&mut self, rows: usize, cols: usize) -> std::result::Result<Tensor<D>, D::Error> {
        self.reals(DType::F32, rows, cols)
    }

    fn indices(
        &self,
        rows: usize,
        cols: usize,
        f: impl Fn(usize) -> usize,
    ) -> std::result::Result<Tensor<D>, D::Error> {
        let values: Vec<u32> = (0..rows * cols).map(|i| f(i) as u32).collect();
        Tensor::<D>::from_slice(&self.device, &[rows, cols], DType::U32, &values)
    }

    /// FP8 codes and scales of random numbers.
    fn codes(
        &mut self,
        tiles: Tiles<'_, D::Buffer>,
        rows: usize,
        cols: usize,
    ) -> std::result::Result<[Tensor<D>; 2], D::Error> {
        let x = self.reals(DType::BF16, rows, cols)?;
        let mut codes = Tensor::<D>::empty(&self.device, &[rows, cols], DType::E4M3)?;
        let mut scales = Tensor::<D>::zeros(&self.device, &tiles.scales(rows, cols), DType::F32)?;
        let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles)?;
        self.device.quantize(Quantize::new(x.view(), y, false)?)?;
        Ok([codes, scales])
    }

    /// Offsets of the groups in `rows` rows, which a router spreads almost evenly.
    fn offsets(&self, rows: usize) -> std::result::Result<Tensor<D>, D::Error> {
        let e = self.s.experts;
        self.indices(1, e + 1, |g| rows * g * (g + 3 * e) / (4 * e * e))
    }

    /// Prints the line of what was timed elsewhere and moves `bytes` bytes.
    fn say(&self, name: &str, seconds: f64, bytes: u64) {
        let rate = bytes as f64 / seconds;
        let share = 100.0 * rate / self.bandwidth;
        say!("{name:<62} {:>10.1} {:>9.3} {:>9} {share:>6.1}%", seconds * 1e6, rate / 1e12, "");
    }

    /// Times `run`, which makes and runs a call of cost `cost`, and prints a line, also if the kernel fails.
    fn time(&mut self, name: &str, cost: Cost, mut run: impl FnMut(&D) -> Fails<D>) {
        if !name.contains(&self.arguments.only) {
            return;
        }
        let device = self.device.clone();
        let seconds = match self.timer.time(self.arguments.seconds, || run(&device)) {
            Ok(seconds) => seconds,
            Err(error) => {
                say!("{name:<62} {error}");
                return;
            }
        };
        let peak = match name {
            _ if name.contains("fp8") => 2.0 * self.peak[1],
            _ if name.contains("f32") => self.peak[0],
            _ => self.peak[1],
        };
        let (bytes, flops) = (cost.bytes as f64, cost.flops as f64);
        let floor = (bytes / self.bandwidth).max(flops / peak);
        say!(
            "{name:<62} {:>10.1} {:>9.3} {:>9.2} {:>6.1}%",
            seconds * 1e6,
            bytes / seconds / 1e12,
            flops / seconds / 1e12,
            100.0 * floor / seconds
        );
    }
}

/// Times a kernel: `time!(bench, "what", kernel: Call::new(...))`. Each run makes the call again.
macro_rules! time {
    ($bench:expr, $what:expr, $kernel:ident: $call:expr) => {{
        let cost = Call::cost(&$call?);
        let name = format!("{} {}", stringify!($kernel), $what);
        $bench.time(&name, cost, |device| device.$kernel($call?));
    }};
}

mod decode;
mod step;

fn products<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    let (t, d, h) = (b.s.tokens, b.s.hidden, b.s.heads);
    let linears = [
        ("q_proj", d, h.heads * (h.nope + h.rope)),
        ("kv_a_proj", d, b.s.latent + h.rope),
        ("kv_b_proj", b.s.latent, h.heads * (h.nope + h.value)),
        ("o_proj", h.heads * h.value, d),
        ("gate_up", d, 2 * b.s.dense),
        ("down", b.s.dense, d),
        ("lm_head", d, b.s.vocabulary),
    ];
    for (name, k, n) in linears {
        if b.wanted(&["gemm"]) {
            let of = DType::BF16;
            let (x, w, dy) = (b.reals(of, t, k)?, b.reals(of, n, k)?, b.reals(of, t, n)?);
            let (mut y, mut dx, mut dw) = (b.reals(of, t, n)?, b.reals(of, t, k)?, b.floats(n, k)?);
            let what = |form: &str| format!("bf16 {name} {form} {t} x {n} x {k}");
            time!(b, what("fwd  "), gemm: Gemm::new(Form::Nt, x.view(), w.view(), y.view_mut()));
            time!(b, what("dgrad"), gemm: Gemm::new(Form::Nn, dy.view(), w.view(), dx.view_mut()));
            time!(b, what("wgrad"), gemm: Gemm::new(Form::Tn, dy.view(), x.view(), dw.view_mut())
                .map(|call| call.out(Out::Add)));
        }
        if name == "lm_head" || !b.wanted(&["gemm_fp8"]) {
            continue;
        }
        let what = |form: &str| format!("fp8 {name} {form} {t} x {n} x {k}");
        let [x, xs] = b.codes(Tiles::Row { part: k }, t, k)?;
        let [w, ws] = b.codes(Tiles::Block { part: n }, n, k)?;
        let [dy, dys] = b.codes(Tiles::Row { part: n }, t, n)?;
        let x = Scaled::new(x.view(), xs.view(), Tiles::Row { part: k })?;
        let w = Scaled::new(w.view(), ws.view(), Tiles::Block { part: n })?;
        let dy = Scaled::new(dy.view(), dys.view(), Tiles::Row { part: n })?;
        let (mut y, mut dx) = (b.reals(DType::BF16, t, n)?, b.reals(DType::BF16, t, k)?);
        time!(b, what("fwd  "), gemm_fp8: GemmFp8::new(Form::Nt, x, w, y.view_mut(), Out::Replace));
        time!(b, what("dgrad"), gemm_fp8: GemmFp8::new(Form::Nn, dy, w, dx.view_mut(), Out::Replace));
        let [xc, xcs] = b.codes(Tiles::Column, t, k)?;
        let [dyc, dycs] = b.codes(Tiles::Column, t, n)?;
        let x = Scaled::new(xc.view(), xcs.view(), Tiles::Column)?;
        let dy = Scaled::new(dyc.view(), dycs.view(), Tiles::Column)?;
        let mut dw = b.floats(n, k)?;
        time!(b, what("wgrad"), gemm_fp8: GemmFp8::new(Form::Tn, dy, x, dw.view_mut(), Out::Add));
    }
    Ok(())
}

fn grouped<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    let (rows, e) = (b.s.tokens * b.s.top_k, b.s.experts);
    let offsets = b.offsets(rows)?;
    for (name, k, n) in [("gate_up", b.s.hidden, 2 * b.s.inner), ("down", b.s.inner, b.s.hidden)] {
        let what = |of: &str, form: &str| format!("{of} {name} {form} {e} groups, {rows} x {n} x {k}");
        if b.wanted(&["grouped_gemm"]) {
            let of = DType::BF16;
            let (x, w, dy) = (b.reals(of, rows, k)?, b.reals(of, e * n, k)?, b.reals(of, rows, n)?);
            let (mut y, mut dx, mut dw) = (b.reals(of, rows, n)?, b.reals(of, rows, k)?, b.floats(e * n, k)?);
            time!(b, what("bf16", "fwd  "), grouped_gemm: GroupedGemm::new(Form::Nt, e, x.view(), w.view(),
                offsets.view(), y.view_mut()));
            time!(b, what("bf16", "dgrad"), grouped_gemm: GroupedGemm::new(Form::Nn, e, dy.view(), w.view(),
                offsets.view(), dx.view_mut()));
            time!(b, what("bf16", "wgrad"), grouped_gemm: GroupedGemm::new(Form::Tn, e, dy.view(), x.view(),
                offsets.view(), dw.view_mut()).map(|call| call.out(Out::Add)));
        }
        if !b.wanted(&["grouped_gemm_fp8"]) {
            continue;
        }
        let [w, ws] = b.codes(Tiles::Block { part: n }, e * n, k)?;
        let w = Scaled::new(w.view(), ws.view(), Tiles::Block { part: n })?;
        let [x, xs] = b.codes(Tiles::Row { part: k }, rows, k)?;
        let [dy, dys] = b.codes(Tiles::Row { part: n }, rows, n)?;
        let x = Scaled::new(x.view(), xs.view(), Tiles::Row { part: k })?;
        let dy = Scaled::new(dy.view(), dys.view(), Tiles::Row { part: n })?;
        let (mut y, mut dx) = (b.reals(DType::BF16, rows, n)?, b.reals(DType::BF16, rows, k)?);
        time!(b, what("fp8", "fwd  "), grouped_gemm_fp8: GroupedGemmFp8::new(Form::Nt, e, x, w, offsets.view(),
            y.view_mut()));
        time!(b, what("fp8", "dgrad"), grouped_gemm_fp8: GroupedGemmFp8::new(Form::Nn, e, dy, w, offsets.view(),
            dx.view_mut()));
        let groups = Tiles::Groups { offsets: offsets.view() };
        let ([x, xs], [dy, dys]) = (b.codes(groups, rows, k)?, b.codes(groups, rows, n)?);
        let (x, dy) = (Scaled::new(x.view(), xs.view(), groups)?, Scaled::new(dy.view(), dys.view(), groups)?);
        let mut dw = b.floats(e * n, k)?;
        time!(b, what("fp8", "wgrad"), grouped_gemm_fp8: GroupedGemmFp8::new(Form::Tn, e, dy, x, offsets.view(),
            dw.view_mut()).map(|call| call.out(Out::Add)));
    }
    Ok(())
}

fn attention<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["attention", "attention_grad"]) {
        return Ok(());
    }
    let (h, t, of) = (b.s.heads, b.s.tokens, DType::BF16);
    let (q_cols, kv_cols, o_cols) = (h.heads * (h.nope + h.rope), h.heads * (h.nope + h.value), h.heads * h.value);
    let (q, kv, k_pe) = (b.reals(of, t, q_cols)?, b.reals(of, t, kv_cols)?, b.reals(of, t, h.rope)?);
    let (mut o, mut lse, d_o) = (b.reals(of, t, o_cols)?, b.floats(t, h.heads)?, b.reals(of, t, o_cols)?);
    let (mut dq, mut dkv, mut dk) = (b.reals(of, t, q_cols)?, b.reals(of, t, kv_cols)?, b.reals(of, t, h.rope)?);
    for (documents, document) in [("one document", h.sequence), ("8 documents", h.sequence / 8)] {
        let starts = b.indices(t, 1, |r| r / document * document)?;
        let what = format!(
            "bf16 {} of {}+{}/{}, {} x {}, {documents}",
            h.heads,
            h.nope,
            h.rope,
            h.value,
            t / h.sequence,
            h.sequence
        );
        time!(b, what, attention: Attention::new(h, q.view(), kv.view(), k_pe.view(), starts.view(), o.view_mut(),
            lse.view_mut()));
        time!(b, what, attention_grad: AttentionGrad::new(h, q.view(), kv.view(), k_pe.view(), starts.view(), o.view(),
            lse.view(), d_o.view(), dq.view_mut(), dkv.view_mut(), dk.view_mut()));
    }
    Ok(())
}

fn layers<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    let (t, d, h, of) = (b.s.tokens, b.s.hidden, b.s.heads, DType::BF16);
    let (x, w, dy) = (b.reals(of, t, d)?, b.floats(1, d)?, b.reals(of, t, d)?);
    let (mut y, mut rstd) = (b.reals(of, t, d)?, b.floats(t, 1)?);
    let (mut dx, mut dw) = (b.reals(of, t, d)?, b.floats(1, d)?);
    let what = format!("bf16 {t} x {d}");
    time!(b, what, rmsnorm: RmsNorm::new(x.view(), w.view(), 1e-6, y.view_mut(), rstd.view_mut()));
    time!(b, what, rmsnorm_grad: RmsNormGrad::new(x.view(), w.view(), rstd.view(), dy.view(), dx.view_mut(), Out::Add,
        dw.view_mut()));
    time!(b, format!("Add {what}"), binary: Binary::new(BinaryOp::Add, x.view(), y.view_mut()));
    time!(b, what, sum_columns: SumColumns::new(x.view(), dw.view_mut()));
    let (head, table) = (h.nope + h.rope, b.floats(h.sequence, h.rope)?);
    let positions = b.indices(t, 1, |r| r % h.sequence)?;
    let mut q = b.reals(of, t, h.heads * head)?;
    time!(b, format!("bf16 {t} x {} heads", h.heads), rope: Rope::new(q.view_mut(), head, h.nope, table.view(),
        positions.view(), false));
    let (rows, inner) = (t * b.s.top_k, b.s.inner);
    let (x, scale, mut y) = (b.reals(of, rows, 2 * inner)?, b.floats(rows, 1)?, b.reals(of, rows, inner)?);
    let (dy, mut dx, mut ds) = (b.reals(of, rows, inner)?, b.reals(of, rows, 2 * inner)?, b.floats(rows, 1)?);
    let what = format!("bf16 {rows} x {inner}");
    time!(b, what, swiglu: Swiglu::new(x.view(), Some(scale.view()), y.view_mut()));
    time!(b, what, swiglu_grad: SwigluGrad::new(x.view(), Some(scale.view()), dy.view(), dx.view_mut(),
        Some(ds.view_mut()), y.view_mut()));
    Ok(())
}

fn experts<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    let (t, d, k, of) = (b.s.tokens, b.s.hidden, b.s.top_k, DType::BF16);
    let rows = t * k;
    // As a router that spreads tokens evenly would send them: an odd stride meets every row once.
    let order = b.indices(rows, 1, |p| p * 2053 % rows)?;
    let inverse = b.indices(t, k, |i| i * 2053 % rows)?;
    let (x, mut y, mut sum) = (b.reals(of, t, d)?, b.reals(of, rows, d)?, b.reals(of, t, d)?);
    time!(b, format!("bf16 {rows} x {d}"), gather_rows: GatherRows::new(x.view(), order.view(), k, y.view_mut()));
    let what = format!("bf16 {t} x {k} x {d}");
    time!(b, what, combine: Combine::new(y.view(), inverse.view(), sum.view_mut(), Out::Add));
    let mut table = b.floats(b.s.vocabulary, d)?;
    let index = b.indices(t, 1, |i| i * 31 % b.s.vocabulary)?;
    time!(b, format!("bf16 {t} x {d} into f32"), scatter_add_rows: ScatterAddRows::new(x.view(), index.view(),
        table.view_mut()));
    Ok(())
}

fn router<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    let (t, e, k) = (b.s.tokens, b.s.experts, b.s.top_k);
    let config = RouteConfig {
        experts: e,
        top_k: k.min(e / 2),
        groups: 4,
        top_groups: 2,
        score: Score::Sigmoid,
        group_score: GroupScore::TopTwo,
        normalize: true,
        scale: 1.0,
    };
    let k = config.top_k;
    let (logits, bias, mut scores, mut weights) = (b.floats(t, e)?, b.floats(1, e)?, b.floats(t, e)?, b.floats(t, k)?);
    let mut chosen = b.indices(t, k, |i| i % e)?;
    let (dw, mut ds, mut dx, mut loss) = (b.floats(t, k)?, b.floats(t, e)?, b.floats(t, e)?, b.floats(1, 1)?);
    let (what, sequence) = (format!("f32 {t}, {k} of {e}"), b.s.heads.sequence);
    time!(b, what, route: Route::new(config, logits.view(), Some(bias.view()), scores.view_mut(), chosen.view_mut(),
        weights.view_mut()));
    time!(b, what, route_grad: RouteGrad::new(config, scores.view(), chosen.view(), dw.view(), Some(ds.view()),
        dx.view_mut()));
    time!(b, what, balance: Balance::new(scores.view(), sequence, k, 1e-4, loss.view_mut(), ds.view_mut()));
    let rows = t * k;
    let (mut order, mut inverse) = (b.indices(rows, 1, |_| 0)?, b.indices(t, k, |_| 0)?);
    let mut offsets = b.indices(1, e + 1, |_| 0)?;
    time!(b, format!("{rows} keys of {e}"), sort_by_key: SortByKey::new(chosen.view(), e, order.view_mut(),
        inverse.view_mut(), offsets.view_mut()));
    Ok(())
}

fn codes<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["quantize", "dequantize", "requantize", "quantize_both", "swiglu_quantize", "rmsnorm_quantize"]) {
        return Ok(());
    }
    let (m, n, of) = (b.s.tokens * b.s.top_k, b.s.hidden, DType::BF16);
    let (x, mut y, offsets) = (b.reals(of, m, n)?, b.reals(of, m, n)?, b.offsets(m)?);
    let (row, block, groups) =
        (Tiles::Row { part: n }, Tiles::Block { part: m }, Tiles::Groups { offsets: offsets.view() });
    let cases = [
        ("1x128", DType::E4M3, row),
        ("1x128", DType::E5M6Pair, row),
        ("128x1", DType::E4M3, Tiles::Column),
        ("128x1 by group", DType::E4M3, groups),
        ("128x128", DType::E4M3, block),
    ];
    for (name, format, tiles) in cases {
        let what = format!("{format} bf16 {m} x {n}, {name}");
        let mut codes = Tensor::<D>::empty(&b.device, &[m, n / format.numbers()], format)?;
        let mut scales = Tensor::<D>::zeros(&b.device, &tiles.scales(m, n), DType::F32)?;
        time!(b, what, quantize: ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles)
            .and_then(|y| Quantize::new(x.view(), y, true)));
        time!(b, what, dequantize: Scaled::new(codes.view(), scales.view(), tiles)
            .and_then(|x| Dequantize::new(x, y.view_mut())));
        if format == DType::E4M3 && matches!(tiles, Tiles::Row { .. }) {
            let mut again = Tensor::<D>::empty(&b.device, &[m, n], DType::E4M3)?;
            let mut scales_again = Tensor::<D>::zeros(&b.device, &groups.scales(m, n), DType::F32)?;
            let from = || Scaled::new(codes.view(), scales.view(), tiles);
            time!(b, format!("{format} {m} x {n}, {name} to 128x1 by group"), requantize:
                ScaledMut::new(again.view_mut(), scales_again.view_mut(), groups)
                    .and_then(|y| Requantize::new(from()?, y, true)));
            time!(b, format!("{what} and 128x1 by group"), quantize_both: {
                let rows = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles);
                let columns = ScaledMut::new(again.view_mut(), scales_again.view_mut(), groups);
                rows.and_then(|rows| Encoded::new(Some(rows), Some(columns?), true))
                    .and_then(|y| QuantizeBoth::new(x.view(), y))
            });
            let (weight, mut rstd) = (b.floats(1, n)?, b.floats(m, 1)?);
            time!(b, what, rmsnorm_quantize: ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles)
                .and_then(|y| Encoded::new(Some(y), None, true))
                .and_then(|y| RmsNormQuantize::new(x.view(), weight.view(), 1e-6, y, rstd.view_mut())));
        }
    }
    let tiles = Tiles::Row { part: n / 2 };
    let mut codes = Tensor::<D>::empty(&b.device, &[m, n / 2], DType::E4M3)?;
    let mut scales = Tensor::<D>::zeros(&b.device, &tiles.scales(m, n / 2), DType::F32)?;
    time!(b, format!("F8_E4M3 bf16 {m} x {n}, 1x128"), swiglu_quantize:
        ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles)
            .and_then(|y| Encoded::new(Some(y), None, true))
            .and_then(|y| SwigluQuantize::new(x.view(), None, y)));
    Ok(())
}

fn training<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    let (t, v) = (b.s.tokens / 4, b.s.vocabulary);
    let (mut x, mut nll) = (b.floats(t, v)?, b.floats(t, 1)?);
    let targets = b.indices(t, 1, |i| i * 7 % v)?;
    time!(b, format!("f32 {t} x {v}"), cross_entropy: CrossEntropy::new(x.view_mut(), targets.view(), Some(5e-4),
        nll.view_mut()));
    let n = (128 << 20) / b.arguments.shrink;
    let of = DType::BF16;
    let (mut w, g, mut m, mut second) = (b.floats(1, n)?, b.floats(1, n)?, b.reals(of, 1, n)?, b.reals(of, 1, n)?);
    let (clip, mut norm) = (b.floats(1, 1)?, b.floats(1, 1)?);
    // Second moments are never below zero.
    b.device.fill(Fill::new(second.view_mut(), 0.01))?;
    let rates = AdamRates { lr: 1e-6, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step: 10 };
    let what = format!("{} Mi weights, bf16 moments", n >> 20);
    time!(b, what, adamw: AdamW::new(w.view_mut(), g.view(), m.view_mut(), second.view_mut(), clip.view(), rates));
    let what = format!("{} Mi", n >> 20);
    time!(b, format!("average of f32 weights {what}"), lerp: Lerp::new(w.view_mut(), g.view(), 1e-3));
    time!(b, format!("SumSquares f32 {what}"), reduce_rows: ReduceRows::new(Reduction::SumSquares, g.view(),
        norm.view_mut(), Out::Replace));
    time!(b, format!("f32 {what}"), fill: Ok::<_, InvalidOp>(Fill::new(w.view_mut(), 0.0)));
    time!(b, format!("f32 to bf16 {what}"), cast: Cast::new(g.view(), m.view_mut()));
    time!(b, format!("f32 {what}"), random_normal: RandomNormal::new(1, 2, 0.02, w.view_mut()));
    Ok(())
}

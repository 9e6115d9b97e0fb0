//! The suite finds faults: a device with one kernel that does nothing, or is off by a little, fails, and by that
//! kernel's name.

use std::cell::Cell;

use fathom_conformance::{Failure, NAMES, Options, check, check_one};
use fathom_core::device::*;
use fathom_core::error::InvalidOp;

/// The host, with a fault in one kernel.
#[derive(Clone)]
struct Planted {
    host: Host,
    kernel: &'static str,
    fault: Fault,
    /// How often the faulty kernel was called.
    calls: std::rc::Rc<Cell<u32>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The kernel leaves its results as they were.
    Idle,
    /// The kernel works with a number that is off by a little, where it takes one.
    Off,
    /// One call of the kernel fails.
    Refuses,
}

impl Device for Planted {
    type Error = HostError;
    type Buffer = HostBuffer;
    fn capabilities(&self) -> Capabilities {
        self.host.capabilities()
    }
    fn alloc(&self, bytes: usize) -> Result<HostBuffer, HostError> {
        self.host.alloc(bytes)
    }
    fn upload(&self, buffer: &mut HostBuffer, offset: usize, bytes: &[u8]) -> Result<(), HostError> {
        self.host.upload(buffer, offset, bytes)
    }
    fn download(&self, buffer: &HostBuffer, offset: usize, bytes: &mut [u8]) -> Result<(), HostError> {
        self.host.download(buffer, offset, bytes)
    }
    fn flush(&self) -> Result<(), HostError> {
        self.host.flush()
    }
    fn memory(&self) -> MemoryUse {
        self.host.memory()
    }
}

/// Puts a number of the call off a little, where it takes one.
trait Disturb {
    fn disturb(&mut self) {}
}

macro_rules! disturb {
    ($($call:ident |$c:ident| $body:expr;)*) => {
        $(impl Disturb for $call<'_, HostBuffer> {
            fn disturb(&mut self) {
                let $c = self;
                $body;
            }
        })*
    };
}
disturb! {
    Fill |c| c.value *= 1.0 + 1e-6;
    Unary |c| c.f = match c.f { UnaryOp::Affine(a, b) => UnaryOp::Affine(a * (1.0 + 1e-5), b), f => f };
    Binary |c| c.f = if c.f == BinaryOp::Sub { BinaryOp::Add } else { c.f };
    ReduceRows |c| c.out = Out::Replace;
    Gemm |c| c.alpha *= 1.0 + 1e-4;
    GatherRows |c| c.divisor += 1;
    MaskWindow |c| c.last += 1;
    RandomNormal |c| c.std *= 1.0 + 1e-4;
    RmsNorm |c| c.eps *= 1e3;
    RmsNormQuantize |c| c.eps *= 1e3;
    RmsNormGrad |c| c.out = Out::add_if(!c.out.adds());
    Rope |c| c.inverse = !c.inverse;
    Route |c| c.config.scale *= 1.0 + 1e-4;
    RouteGrad |c| c.config.scale *= 1.0 + 1e-4;
    Balance |c| c.alpha *= 1.0 + 1e-3;
    Combine |c| c.out = Out::add_if(!c.out.adds());
    Attention |c| c.heads.scale *= 1.0 + 1e-3;
    AttentionGrad |c| c.heads.scale *= 1.0 + 1e-3;
    CrossEntropy |c| c.gradient = c.gradient.map(|g| g * (1.0 + 1e-3));
    AdamW |c| c.rates.lr *= 1.0 + 1e-3;
    Lerp |c| c.weight *= 1.0 + 1e-3;
    UpdateBias |c| c.speed *= 1.0 + 1e-3;
    Quantize |c| c.power_of_two = !c.power_of_two;
    Requantize |c| c.power_of_two = !c.power_of_two;
    QuantizeBoth |c| c.y.power_of_two = !c.y.power_of_two;
    SwigluQuantize |c| c.y.power_of_two = !c.y.power_of_two;
    GatherCodes |c| c.divisor += 1;
    LatentAttention |c| c.scale *= 1.0 + 1e-3;
    ChunkAttention |c| c.heads.scale *= 1.0 + 1e-3;
    GroupedGemm |c| c.out = Out::add_if(!c.out.adds());
    GemmFp8 |c| c.out = Out::add_if(!c.out.adds());
    GroupedGemmFp8 |c| c.out = Out::add_if(!c.out.adds());
    Gemv |c| c.out = Out::add_if(!c.out.adds());
    GemmMixed |c| c.out = Out::add_if(!c.out.adds());
}
impl Disturb for Cast<'_, HostBuffer> {}
impl Disturb for SumColumns<'_, HostBuffer> {}
impl Disturb for ScatterAddRows<'_, HostBuffer> {}
impl Disturb for GatherColumns<'_, HostBuffer> {}
impl Disturb for ScatterAddColumns<'_, HostBuffer> {}
impl Disturb for TopK<'_, HostBuffer> {}
impl Disturb for SortByKey<'_, HostBuffer> {}
impl Disturb for Swiglu<'_, HostBuffer> {}
impl Disturb for SwigluGrad<'_, HostBuffer> {}
impl Disturb for Dequantize<'_, HostBuffer> {}
impl Disturb for StoreLatent<'_, HostBuffer> {}
impl Disturb for LoadLatent<'_, HostBuffer> {}
impl Disturb for AbsorbQuery<'_, HostBuffer> {}
impl Disturb for AbsorbOutput<'_, HostBuffer> {}
impl Disturb for GroupedGemv<'_, HostBuffer> {}
impl Disturb for Sample<'_, HostBuffer> {}
impl Disturb for GroupedGemmMixed<'_, HostBuffer> {}

macro_rules! plant {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl Primitives for Planted {
            $(plant!(@ $p $P);)*
        }
        impl Kernels for Planted {
            $(plant!(@ $f $F);)*
        }
        const KERNELS: &[&str] = &[$(stringify!($p),)* $(stringify!($f),)*];
    };
    (@ $k:ident $K:ident) => {
        fn $k(&self, mut call: $K<'_, HostBuffer>) -> Result<(), HostError> {
            if self.kernel != stringify!($k) {
                return self.host.$k(call);
            }
            let n = self.calls.replace(self.calls.get() + 1);
            match self.fault {
                Fault::Idle => return Ok(()),
                Fault::Off => call.disturb(),
                Fault::Refuses if n == 20 => return Err(InvalidOp::plain($K::<HostBuffer>::NAME, "is planted").into()),
                Fault::Refuses => {}
            }
            self.host.$k(call)
        }
    };
}
fathom_core::for_each_kernel!(plant);

fn planted(kernel: &'static str, fault: Fault) -> Planted {
    Planted { host: Host::new(), kernel, fault, calls: Default::default() }
}

/// What the suite finds, in its order: a part of it runs when it is asked for.
fn found(device: &Planted, names: &[&'static str]) -> impl Iterator<Item = Failure> {
    let part = |name: &&str| check_one(device, name, &Options::default()).expect("a name of the suite").err();
    names.iter().filter_map(part)
}

#[test]
fn a_kernel_that_does_nothing_is_named() {
    for kernel in KERNELS {
        let found = found(&planted(kernel, Fault::Idle), &[kernel]).next();
        assert_eq!(found.map(|f| f.name), Some(*kernel), "it does nothing");
    }
}

#[test]
fn a_kernel_that_is_off_by_a_little_is_named() {
    let without_numbers = [
        "cast",
        "sum_columns",
        "scatter_add_rows",
        "gather_columns",
        "scatter_add_columns",
        "top_k",
        "sort_by_key",
        "swiglu",
        "swiglu_grad",
        "dequantize",
        "store_latent",
        "load_latent",
        "absorb_query",
        "absorb_output",
        "grouped_gemv",
        "grouped_gemm_mixed",
        "sample",
    ];
    for kernel in KERNELS.iter().filter(|k| !without_numbers.contains(k)) {
        let found = found(&planted(kernel, Fault::Off), NAMES).next();
        assert_eq!(found.map(|f| f.name), Some(*kernel), "it is off");
    }
}

#[test]
fn a_kernel_that_refuses_a_call_is_named() {
    for kernel in ["gemm", "attention", "dequantize", "grouped_gemm_fp8"] {
        let (_, failures) = check(&planted(kernel, Fault::Refuses), &Options::default());
        assert!(failures.iter().any(|f| f.name == kernel), "{kernel} refuses a call, and the suite finds {failures:?}");
    }
}

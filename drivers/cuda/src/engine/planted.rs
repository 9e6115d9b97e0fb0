//! Tests that the emulator finds planted faults in kernels and in launches.
//!
//! `tests/planted.cu` has kernels with one fault each; real kernels are tested with a line removed.

use bytemuck::{Pod, Zeroable};
use fathom_conformance::{Failure, Options, Outcome};
use fathom_core::device::{Device, Kernels, Sample};
use fathom_core::dtype::DType;
use fathom_core::sampling::Rule;
use fathom_core::tensor::{Tensor, TensorOf};

use super::emulator::{Emulation, Emulator};
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::{MODULES, Module};

const PLANTED: Module = Module { name: "planted", text: include_str!("../../tests/planted.cu") };
const THREADS: u32 = 64;
const SHARED: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Planted {
    x: Mat,
    y: Mat,
    plant: i32,
    reserved: i32,
}

/// Orders in which sound kernels must give the same results.
const ORDERS: [Emulation; 3] = [
    Emulation { reverse: false, seed: 0, sanitize: false, shared: 0, multiprocessors: 0 },
    Emulation { reverse: true, seed: 0, sanitize: false, shared: 0, multiprocessors: 0 },
    Emulation { reverse: false, seed: 5, sanitize: false, shared: 0, multiprocessors: 0 },
];

/// An emulator, or `None` with a message on stderr if there is no compiler; under `CI` that is a failure.
fn emulated(options: Emulation) -> Option<Cuda> {
    let device = Cuda::emulated(options);
    if std::env::var_os("CI").is_some() {
        return Some(device.unwrap());
    }
    device.inspect_err(|e| eprintln!("not tested: {e}")).ok()
}

struct Bench {
    device: Cuda,
    x: TensorOf<Buffer>,
    y: TensorOf<Buffer>,
}

impl Bench {
    fn new(options: Emulation) -> Option<Self> {
        let device = emulated(options)?;
        let numbers: Vec<f32> = (0..THREADS).map(|i| i as f32).collect();
        let x = Tensor::<Cuda>::from_slice(&device, &[1, 64], DType::F32, &numbers).unwrap();
        let y = Tensor::<Cuda>::from_slice(&device, &[2, 64], DType::F32, &[-1.0f32; 128]).unwrap();
        Some(Self { device, x, y })
    }

    fn args(&mut self, plant: i32) -> Planted {
        let x = mat("x", &self.x.view()).unwrap();
        Planted { x, y: mat_mut("y", &self.y.view_mut()).unwrap(), plant, reserved: 0 }
    }

    fn run(&mut self, name: &'static str, plant: i32) -> Result<Vec<f32>, CudaError> {
        let args = self.args(plant);
        self.device.launch(PLANTED, name, [1, 1, 1], THREADS, SHARED, &args)?;
        self.y.download::<Cuda, f32>(&self.device)
    }
}

#[test]
fn planted_faults_are_found() {
    let faults = [
        ("past_the_row", 1, "thread 63: element 64 of a view of 64"),
        ("past_the_rows", 2, "row 2 of a matrix of 2 rows"),
        ("unaligned", 1, "is not aligned to 16 bytes"),
        ("past_shared", 1, "element 64 of a piece of shared memory of 64"),
        ("unwritten", 1, "thread 7: reads byte 28 of shared memory, which nothing wrote"),
        ("across_warps", 1, "without a barrier between"),
        ("within_warp", 1, "without a barrier between"),
        ("read_then_write", 1, "without a barrier between"),
        ("read_then_atomic", 1, "without a barrier between"),
        ("copies", 1, "which nothing wrote"),
        ("copies", 2, ""),
        ("copies", 3, "ends with a copy to shared memory under way"),
        ("early_leave", 1, "waits at a barrier that only 40 of 64 threads reach"),
        ("part_of_a_warp", 1, "exchanges with its warp, of which only 16 threads do"),
    ];
    for options in ORDERS {
        let Some(mut bench) = Bench::new(options) else { return };
        for (name, plant, message) in faults {
            let plain = bench.run(name, 0);
            assert!(plain.is_ok(), "{name} without its fault: {plain:?}");
            let found = bench.run(name, plant).expect_err(name).to_string();
            // The first thread to come upon it, and so the end of the message, depends on the order.
            assert!(found.contains(&format!("{name}: block (0, 0, 0), thread ")), "{found}");
            assert!(found.contains(message), "{name}: {found}");
        }
    }
}

#[test]
fn sound_kernels_give_the_same_in_any_order() {
    let names = ["across_warps", "within_warp", "read_then_write", "unaligned", "copies", "part_of_a_warp"];
    for name in names {
        let results: Vec<_> = ORDERS.iter().filter_map(|&o| Some(Bench::new(o)?.run(name, 0).unwrap())).collect();
        assert!(results.windows(2).all(|w| w[0] == w[1]), "{name}");
    }
}

#[test]
fn launches_that_are_wrong_are_refused() {
    let Some(mut bench) = Bench::new(Emulation::default()) else { return };
    let args = bench.args(0);
    let device = &bench.device;
    let refused = |grid, threads, shared, message: &str| {
        let error = device.launch(PLANTED, "across_warps", grid, threads, shared, &args).unwrap_err().to_string();
        assert!(error.contains("across_warps") && error.contains(message), "{error}");
    };
    refused([1, 65536, 1], 64, SHARED, "more than 65535 blocks along y or z");
    refused([1, 1, 65536], 64, SHARED, "more than 65535 blocks along y or z");
    refused([1, 1, 1], 96, SHARED, "more than it was compiled for");
    refused([1, 1, 1], 33, SHARED, "no whole warps");
    refused([1, 1, 1], 64, 128, "byte 131 of shared memory, of which the launch has 128");
    refused([1, 1, 1], 64, 300_000, "more shared memory than there is");
    refused([2, 1, 1], 64, 0, "of which the launch has 0");
    let error = device.launch(PLANTED, "across_warps", [1, 1, 1], 64, SHARED, &7u64).unwrap_err().to_string();
    assert!(error.contains("an argument of another size than its own (8, "), "{error}");
    let error = device.launch(PLANTED, "nowhere", [1, 1, 1], 64, SHARED, &args).unwrap_err().to_string();
    assert!(error.contains("planted.cu has no kernel nowhere"), "{error}");
    // A grid too large reaches rows that are not there; one too small leaves rows as they were.
    let error = device.launch(PLANTED, "rows", [3, 1, 1], 64, 0, &args).unwrap_err().to_string();
    assert!(error.contains("rows: block (2, 0, 0), thread 0: row 2 of a matrix of 2 rows"), "{error}");
    device.flush().unwrap();
}

/// A kernel's part of the conformance suite.
type Suite = fn(&Cuda, &Options) -> Result<Outcome, Failure>;

/// A device for each occurrence of `from` in a module's text, with that occurrence replaced.
fn spoiled(module: &'static str, from: &str, to: &str) -> Vec<Cuda> {
    let original = MODULES.iter().find(|m| m.name == module).unwrap();
    let places: Vec<_> = original.text.match_indices(from).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{module}.cu has no {from}");
    let spoil = |at: usize| {
        let text = format!("{}{to}{}", &original.text[..at], &original.text[at + from.len()..]);
        let module = Module { name: original.name, text: Box::leak(text.into_boxed_str()) };
        let mut emulator = Emulator::new(Emulation::default()).unwrap();
        emulator.replaced.push(module);
        Cuda::with(std::sync::Arc::new(emulator))
    };
    places.into_iter().map(spoil).collect()
}

/// Checks that each occurrence of `line` in a module is missed by the suite `suite`.
fn is_missed(module: &'static str, line: &str, suite: Suite) {
    for (i, device) in spoiled(module, line, ";").iter().enumerate() {
        let result = suite(device, &Options::default());
        let problem = result.err().unwrap_or_else(|| panic!("{line} number {i} of {module}.cu is not missed")).problem;
        assert!(problem.contains("without a barrier") || problem.contains("nothing wrote"), "{problem}");
    }
}

#[test]
fn real_kernels_without_a_barrier_fail() {
    if emulated(Emulation::default()).is_none() {
        return;
    }
    is_missed("norm", "sync();", fathom_conformance::rmsnorm_grad);
    is_missed("latent_attention", "sync();", fathom_conformance::latent_attention);
    is_missed("latent_attention", "copy_wait<0>();", fathom_conformance::latent_attention);
    is_missed("decode", "sync();", fathom_conformance::absorb_query);
}

/// A case of `sample` that takes every way: greedy, by temperature, and a top-p that cuts through equal logits.
fn choices(device: &Cuda, _: &Options) -> Result<Outcome, Failure> {
    let (rows, cols) = (3, 1300);
    let rules = [Rule::GREEDY, Rule::new(0.8, 0, 1.0, 0.0, 0.4), Rule::new(1.0, 900, 0.5, 0.0, 0.6)];
    let run = || {
        let logits: Vec<f32> = (0..rows * cols).map(|i| (i * 7919 % 13) as f32 / 4.0).collect();
        let logits = Tensor::<Cuda>::from_slice(device, &[rows, cols], DType::F32, &logits)?;
        let words: Vec<u32> = rules.iter().flat_map(Rule::words).collect();
        let rules = Tensor::<Cuda>::from_slice(device, &[rows, Rule::WORDS], DType::U32, &words)?;
        let mut tokens = Tensor::<Cuda>::empty(device, &[rows, 1], DType::U32)?;
        Kernels::sample(device, Sample::new(logits.view(), rules.view(), tokens.view_mut())?)?;
        device.flush()
    };
    let passed = Outcome { name: "sample", cases: 1, unsupported: 0 };
    run().map(|()| passed).map_err(|e: CudaError| Failure { name: "sample", problem: e.to_string() })
}

#[test]
fn choices_without_a_barrier_fail() {
    let Some(device) = emulated(Emulation::default()) else { return };
    choices(&device, &Options::default()).unwrap();
    is_missed("sample", "sync();", choices);
}

#[test]
fn real_kernels_with_a_grid_too_small_fail() {
    let Some(_) = emulated(Emulation::default()) else { return };
    let mut emulator = Emulator::new(Emulation::default()).unwrap();
    emulator.shrink = true;
    let device = Cuda::with(std::sync::Arc::new(emulator));
    for suite in [fathom_conformance::rmsnorm as Suite, fathom_conformance::reduce_rows] {
        suite(&device, &Options::default()).expect_err("the last block is missed");
    }
}

/// Runs the test `name` of this program once more, with AddressSanitizer's runtime; `None` where there is none.
fn again_sanitized(name: &str) -> Option<std::process::Output> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let found = std::process::Command::new(compiler).arg("-print-file-name=libasan.so").output().ok()?;
    let runtime = std::path::PathBuf::from(String::from_utf8(found.stdout).ok()?.trim());
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env("LD_PRELOAD", runtime.is_absolute().then_some(runtime)?);
    command.env("ASAN_OPTIONS", "detect_leaks=0:verify_asan_link_order=0").env("FATHOM_SANITIZED", "1");
    Some(command.output().unwrap())
}

#[test]
fn what_no_view_forbids_the_sanitizer_finds() {
    let sanitized = std::env::var_os("FATHOM_SANITIZED").is_some();
    if !sanitized {
        let Some(output) = again_sanitized("engine::planted::what_no_view_forbids_the_sanitizer_finds") else {
            assert!(std::env::var_os("CI").is_none(), "AddressSanitizer's runtime is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("sound without"), "{said}");
        assert!(said.contains("AddressSanitizer: heap-buffer-overflow") && said.contains("wrong_extent"), "{said}");
        return;
    }
    let mut bench = Bench::new(Emulation { sanitize: true, ..Emulation::default() }).unwrap();
    bench.run("wrong_extent", 0).unwrap();
    eprintln!("sound without");
    let _ = bench.run("wrong_extent", 1);
}

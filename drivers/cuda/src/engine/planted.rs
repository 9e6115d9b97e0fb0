//! Tests that the emulator finds planted faults in kernels and in launches.
//!
//! `tests/planted.cu` has kernels with one fault each; real kernels are tested with a line removed.

use bytemuck::{Pod, Zeroable};
use fathom_conformance::{Failure, Options, Outcome};
use fathom_core::device::{Device, Form, GroupedGemm, GroupedGemmFp8, Kernels, Primitives, Sample, Scaled, Tiles};
use fathom_core::dtype::DType;
use fathom_core::sampling::Rule;
use fathom_core::tensor::{Tensor, TensorOf};

use super::emulator::{Emulation, Emulator};
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::{MODULES, Module};
use crate::tensor_map::{Boxes, Swizzle, TensorMap};

const PLANTED: Module = Module { name: "planted", text: include_str!("../../tests/planted.cu") };
const ASYNC: Module = Module { name: "planted_async", text: include_str!("../../tests/planted_async.cu") };
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

/// The argument of `planted_async.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PlantedAsync {
    swizzled: TensorMap,
    plain: TensorMap,
    x: Mat,
    y: Mat,
    plant: i32,
    reserved: [i32; 15],
}

/// Orders in which sound kernels must give the same results.
const ORDERS: [Emulation; 3] = [
    Emulation { reverse: false, seed: 0, sanitize: false, shared: 0, multiprocessors: 0, hopper: false },
    Emulation { reverse: true, seed: 0, sanitize: false, shared: 0, multiprocessors: 0, hopper: false },
    Emulation { reverse: false, seed: 5, sanitize: false, shared: 0, multiprocessors: 0, hopper: false },
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

/// Bytes of shared memory and threads of a kernel of `planted_async.cu`.
fn extent(name: &str) -> (usize, u32) {
    match name {
        "registers" => (0, 384),
        "bulk" | "ring" => (512, 64),
        _ => (65 * 128 + 16, 128),
    }
}

/// Runs a kernel of `planted_async.cu` over 64 rows of 128 bytes, or over 64 numbers.
fn run_async(device: &Cuda, name: &'static str, plant: i32, x: &[u8]) -> Result<Vec<f32>, CudaError> {
    let mut buffer = device.alloc(x.len())?;
    device.upload(&mut buffer, 0, x)?;
    let (rows, cols, dtype) = match name {
        "square_bf16" => (64, 64, 1),
        "square_e4m3" => (64, 128, 4),
        _ => (1, 64, 0),
    };
    let x = Mat::of(&buffer, rows, cols, dtype);
    let map = |swizzle| match rows {
        64 => device.engine().tensor_map(&Boxes { matrix: x, rows: 64, cols: cols as u32, swizzle }),
        _ => Ok(TensorMap::zeroed()),
    };
    let mut y = Tensor::<Cuda>::from_slice(device, &[64, 64], DType::F32, &[-1.0f32; 64 * 64])?;
    let (swizzled, plain) = (map(Swizzle::Bytes128)?, map(Swizzle::None)?);
    let y_mat = mat_mut("y", &y.view_mut())?;
    let args = PlantedAsync { swizzled, plain, x, y: y_mat, plant, reserved: [0; 15] };
    let (shared, threads) = extent(name);
    device.launch(ASYNC, name, [1, 1, 1], threads, shared, &args)?;
    y.download::<Cuda, f32>(device)
}

/// 64 rows of 128 bytes: small whole numbers and halves as codes, or as bfloat16; and the numbers.
fn rows_of(name: &str) -> (Vec<u8>, Vec<f64>) {
    let number = |i: usize| f64::from((i * 7 + i / 64 * 3) as u32 % 9) / 2.0 - 2.0;
    if name == "square_bf16" {
        let numbers: Vec<f64> = (0..64 * 64).map(number).collect();
        let bytes = numbers.iter().flat_map(|&x| half::bf16::from_f64(x).to_le_bytes()).collect();
        return (bytes, numbers);
    }
    let numbers: Vec<f64> = (0..64 * 128).map(number).collect();
    let code = |x: f64| {
        let is = |c: &u16| f64::from(<fathom_core::fp8::E4M3 as fathom_core::fp8::Code>::decode(*c)) == x;
        (0..256).find(is).expect("halves up to two have codes") as u8
    };
    (numbers.iter().map(|&x| code(x)).collect(), numbers)
}

/// `x·xᵀ` with rows moved up by `down` and columns moved right by `right`, zeros in their place.
fn square(x: &[f64], down: usize, right: usize) -> Vec<f32> {
    let cols = x.len() / 64;
    let at = |r: usize, c: usize| if r + down < 64 && c >= right { x[(r + down) * cols + c - right] } else { 0.0 };
    let dot = |i: usize, j: usize| (0..cols).map(|c| at(i, c) * at(j, c)).sum::<f64>() as f32;
    (0..64 * 64).map(|i| dot(i / 64, i % 64)).collect()
}

#[test]
fn bulk_copies_and_products_of_warpgroups_compute_what_hopper_does() {
    for options in ORDERS {
        let Some(device) = emulated(options) else { return };
        let numbers: Vec<f32> = (0..64).map(|i| i as f32).collect();
        for name in ["bulk", "ring"] {
            let y = run_async(&device, name, 0, bytemuck::cast_slice(&numbers)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(y[..64], numbers, "{name}");
        }
        run_async(&device, "registers", 0, bytemuck::cast_slice(&numbers)).unwrap_or_else(|e| panic!("{e}"));
        for (name, step) in [("square_bf16", 16), ("square_e4m3", 32)] {
            let (bytes, x) = rows_of(name);
            // Brought in one box; in one that begins below or left of the matrix; and written by threads, swizzled.
            for (plant, down, right) in [(0, 0, 0), (1, 32, 0), (2, 0, step), (22, 0, 0)] {
                let y = run_async(&device, name, plant, &bytes).unwrap_or_else(|e| panic!("{name} {plant}: {e}"));
                assert!(y == square(&x, down, right), "{name} {plant}");
            }
            // Without the swizzle the product is of other numbers.
            let y = run_async(&device, name, 20, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(y != square(&x, 0, 0), "{name}");
        }
    }
}

#[test]
fn planted_faults_of_asynchronous_operations_are_found() {
    let of_copies = [
        ("bulk", 1, "wrote without a fence of the asynchronous proxy"),
        ("bulk", 2, "which nothing initialised"),
        ("bulk", 3, "was not made known to the asynchronous proxy"),
        ("bulk", 4, ": uses "),
        ("bulk", 5, "with 128 bytes under way: it expects fewer than are copied"),
        ("bulk", 6, "256 bytes that it expects do not come"),
        ("bulk", 7, "126 bytes more land than it expects"),
        ("bulk", 8, "not aligned to 16 bytes"),
        ("bulk", 9, "is under way as the block ends"),
        ("bulk", 10, "of shared memory, "),
        ("bulk", 11, "of shared memory, "),
        ("bulk", 12, "of shared memory, "),
        ("bulk", 13, "which nothing initialised"),
        ("bulk", 14, "of shared memory, "),
        ("bulk", 15, "never ends: 1 of 1 arrivals lack"),
        ("bulk", 16, "once more than its phase of 1"),
        ("bulk", 17, "where a barrier is"),
        ("ring", 1, "once more than its phase of 1"),
        ("ring", 2, "arrivals lack"),
        ("ring", 3, "arrivals lack"),
        ("ring", 4, "of shared memory, "),
        ("ring", 5, "which another thread reads without a barrier between"),
        ("ring", 6, "which another thread reads without a barrier between"),
        ("registers", 1, "threads take 80896 registers together, of which there are 65536"),
        ("registers", 2, "and others of its warpgroup have"),
        ("registers", 3, "takes 40 registers, and has 168"),
    ];
    let of_products = [
        (3, "is not aligned to 1024 bytes"),
        (4, "with a swizzle of 128 bytes, where a copy left one of 0"),
        (5, "multiplies byte "),
        (6, "without a fence of matrix products"),
        (7, "without a fence of matrix products"),
        (8, "is not aligned to 1024 bytes"),
        (9, "of which the launch has"),
        (10, "with a swizzle of 64 bytes, where a copy left one of 128"),
        (11, "than another warp of its warpgroup"),
        (12, "than another lane of its warp"),
        (13, "of a matrix product that was not waited for"),
        (14, "which a matrix product reads that was not waited for"),
        (15, "which a matrix product reads that was not waited for"),
        (16, "matrix product under way"),
        (17, "of a matrix product that was not waited for"),
        (18, "of a matrix product that was not waited for"),
        (21, "wrote without a fence of the asynchronous proxy"),
    ];
    let names = ["square_bf16", "square_e4m3"];
    let of_products = names.iter().flat_map(|&name| of_products.map(|(plant, message)| (name, plant, message)));
    let faults: Vec<_> = of_copies.into_iter().chain(of_products).collect();
    for options in ORDERS {
        let Some(device) = emulated(options) else { return };
        for &(name, plant, message) in &faults {
            let bytes = if name.starts_with("square") { rows_of(name).0 } else { vec![0; 256] };
            let found = run_async(&device, name, plant, &bytes);
            let found = found.expect_err(&format!("{name} {plant} {options:?}")).to_string();
            assert!(found.contains(&format!("{name}: block (0, 0, 0), thread ")), "{found}");
            assert!(found.contains(message), "{name} {plant} {options:?}: {found}");
            // A fault leaves nothing behind.
            let sound = run_async(&device, name, 0, &bytes);
            assert!(sound.is_ok(), "{name} after its fault: {sound:?}");
        }
    }
}

/// A kernel's part of the conformance suite.
type Suite = fn(&Cuda, &Options) -> Result<Outcome, Failure>;

/// A device for each occurrence of `from` in a module's text, with that occurrence replaced; `warpgroups.cuh` counts as
/// part of the text.
fn spoiled(module: &'static str, from: &str, to: &str, options: Emulation) -> Vec<Cuda> {
    let original = MODULES.iter().find(|m| m.name == module).unwrap();
    let text = original.text.replace("#include \"warpgroups.cuh\"", include_str!("../../kernels/warpgroups.cuh"));
    let places: Vec<_> = text.match_indices(from).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{module}.cu has no {from}");
    let spoil = |at: usize| {
        let text = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
        let module = Module { name: original.name, text: Box::leak(text.into_boxed_str()) };
        let mut emulator = Emulator::new(options).unwrap();
        emulator.replaced.push(module);
        Cuda::with(std::sync::Arc::new(emulator))
    };
    places.into_iter().map(spoil).collect()
}

/// Checks that each occurrence of `line` in a module is missed by the suite `suite`.
fn is_missed(module: &'static str, line: &str, suite: Suite) {
    for (i, device) in spoiled(module, line, ";", Emulation::default()).iter().enumerate() {
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

/// A product of codes with a longer inner dimension than the ring of the kernel of warpgroups.
fn long_product(device: &Cuda) -> Result<Vec<f32>, CudaError> {
    let (rows, n, k) = (40, 16, 1024);
    let ones = |rows: usize| Tensor::<Cuda>::from_slice(device, &[rows, k], DType::E4M3, &vec![0x38u8; rows * k]);
    let scales =
        |rows: usize| Tensor::<Cuda>::from_slice(device, &[rows, k / 128], DType::F32, &vec![1f32; rows * k / 128]);
    let (a, b, a_scales, b_scales) = (ones(rows)?, ones(n)?, scales(rows)?, scales(1)?);
    let offsets = Tensor::<Cuda>::from_slice(device, &[1, 2], DType::U32, &[0u32, rows as u32])?;
    let mut c = Tensor::<Cuda>::from_slice(device, &[rows, n], DType::F32, &vec![0f32; rows * n])?;
    let a = Scaled::new(a.view(), a_scales.view(), Tiles::Row { part: k })?;
    let b = Scaled::new(b.view(), b_scales.view(), Tiles::Block { part: n })?;
    device.grouped_gemm_fp8(GroupedGemmFp8::new(Form::Nt, 1, a, b, offsets.view(), c.view_mut())?)?;
    c.download(device)
}

/// The same of numbers in BF16.
fn long_product_bf16(device: &Cuda) -> Result<Vec<f32>, CudaError> {
    let (rows, n, k) = (40, 256, 640);
    let one = half::bf16::ONE;
    let ones = |rows: usize| Tensor::<Cuda>::from_slice(device, &[rows, k], DType::BF16, &vec![one; rows * k]);
    let offsets = Tensor::<Cuda>::from_slice(device, &[1, 2], DType::U32, &[0u32, rows as u32])?;
    let (a, b) = (ones(rows)?, ones(n)?);
    let mut c = Tensor::<Cuda>::from_slice(device, &[rows, n], DType::F32, &vec![0f32; rows * n])?;
    device.grouped_gemm(GroupedGemm::new(Form::Nt, 1, a.view(), b.view(), offsets.view(), c.view_mut())?)?;
    c.download(device)
}

#[test]
fn kernels_of_warpgroups_without_one_of_their_lines_fail() {
    let hopper = Emulation { hopper: true, ..Emulation::default() };
    let Some(sound) = emulated(hopper) else { return };
    assert_eq!(long_product(&sound).unwrap_or_else(|e| panic!("{e}")), [1024.0; 40 * 16]);
    assert_eq!(long_product_bf16(&sound).unwrap_or_else(|e| panic!("{e}")), [640.0; 40 * 256]);
    for (line, other, message) in [
        ("        ring.wait(step);", "", "multiplies byte "),
        ("if (step > 0) ring.done(step - 1);", "", "arrivals lack"),
        ("if (step > 0) ring.done(step - 1);", "ring.done(step);", "copies to byte "),
        ("        wgmma_wait<1>();", "", "copies to byte "),
        ("    wgmma_wait<0>(sums);", "", "that was not waited for"),
    ] {
        let devices = spoiled("gemm", line, other, hopper);
        assert_eq!(devices.len(), 1, "{line}");
        let found = long_product_bf16(&devices[0]).expect_err(line).to_string();
        assert!(found.contains("gemm_nt_warpgroups: block (0, 0, 0), thread "), "{line}: {found}");
        assert!(found.contains(message), "{line}: {found}");
    }
    for (line, other, message) in [
        ("            barriers_ready();", "", "was not made known to the asynchronous proxy"),
        ("barrier_wait(empty, slot, 1 - step", "barrier_wait(empty, slot, step", "arrivals lack"),
        ("barrier_wait(empty, slot, 1 - step / STAGES % 2);", "", ""),
        ("SIZE * (int)sizeof(T));", "A_SIZE);", "it expects fewer than are copied"),
        ("SIZE * (int)sizeof(T));", "2 * SIZE);", "it expects do not come"),
        ("        ring.wait(step);", "", "multiplies byte "),
        ("ring.done(step);", "", "arrivals lack"),
        ("wgmma_fence(sums);", "", "without a fence of matrix products"),
        ("wgmma_commit();", "", "that was not waited for"),
        ("wgmma_wait<0>(sums);", "", "that was not waited for"),
        ("wgmma_wait<0>(sums);", "ring.done(step);\nwgmma_wait<0>(sums);", ""),
        ("give_registers<40>();", "", "registers together, of which there are 65536"),
    ] {
        let devices = spoiled("gemm_fp8", line, other, hopper);
        assert_eq!(devices.len(), 1, "{line}");
        let found = long_product(&devices[0]).expect_err(line).to_string();
        assert!(found.contains("gemm_fp8_nt_warpgroups: block (0, 0, 0), thread "), "{line}: {found}");
        assert!(found.contains(message), "{line}: {found}");
    }
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

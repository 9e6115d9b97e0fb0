//! Compiles every kernel for three architectures with NVRTC, which needs no GPU, and prints what each takes. Fails
//! where a kernel does not compile, or spills registers or has a stack frame above a limit; and where the compiler
//! takes what it must refuse, which would mean that it checks nothing.
//!
//! ```text
//! pip install --target DIR --no-deps nvidia-cuda-nvrtc==13.0.88
//! FATHOM_CUDA_LIBRARIES=DIR/nvidia/cu13/lib cargo run --release --example compile_kernels
//! ```
//!
//! Arguments, if any, are the modules to compile. `--into-cache sm_90a` compiles all for that architecture into the
//! folder of `FATHOM_CUDA_CACHE` instead, to be taken to a machine without NVRTC.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fathom_cuda::CudaError;
use fathom_cuda::check::{KernelUse, compile_text, fill_cache, kernel_uses, modules};

/// A100, RTX 4090 and L40S, H100 and H200.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90a"];

/// Bytes of a stack frame that are no sign of trouble: exact sines and cosines reduce large arguments in an array.
const STACK: u32 = 64;

/// Bytes of spilled registers: none.
const SPILLS: u32 = 0;

/// Texts that do not compile: an instruction that `sm_90` lacks, and a matrix product of a shape there is none of.
const REFUSED: [(&str, &str, &str); 2] = [
    (
        "wgmma without the a of sm_90a",
        "sm_90",
        r#"extern "C" __global__ void k() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }"#,
    ),
    (
        "mma of a shape that does not exist",
        "sm_90a",
        r#"extern "C" __global__ void k(float* c, unsigned* a) {
            asm volatile("mma.sync.aligned.m16n8k24.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]));
        }"#,
    ),
];

/// A text that the same compiler takes, so that refusals mean something.
const TAKEN: &str = r#"extern "C" __global__ void k() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }"#;

/// Compiles on as many threads as there are processors; results in the order of `jobs`.
fn compile_all(jobs: &[(&str, &str)]) -> Vec<Result<Vec<KernelUse>, CudaError>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some((i, (module, architecture))) =
            Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, jobs.get(i)?)))
        {
            done.push((i, kernel_uses(module, architecture)));
        }
        done
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a compiling thread does not panic")).collect()
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, result)| result).collect()
}

fn main() -> ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    if let [option, architecture] = &only[..]
        && option == "--into-cache"
    {
        return match fill_cache(architecture, |done, all| eprintln!("{done} of {all}")) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut failures = 0;
    let mut fail = |what: String| {
        eprintln!("FAILED: {what}");
        failures += 1;
    };
    println!("{:<16} {:<40} {:<8} {:>9} {:>6} {:>7}", "module", "kernel", "for", "registers", "stack", "spills");
    let wanted = modules().into_iter().filter(|m| only.is_empty() || only.iter().any(|o| o == m));
    let jobs: Vec<_> = wanted.flat_map(|module| ARCHITECTURES.map(|architecture| (module, architecture))).collect();
    for ((module, architecture), result) in jobs.iter().zip(compile_all(&jobs)) {
        match result {
            Err(error) => fail(format!("{module} for {architecture}: {error}")),
            Ok(uses) => {
                for KernelUse { kernel, registers, stack, spills, .. } in uses {
                    println!("{module:<16} {kernel:<40} {architecture:<8} {registers:>9} {stack:>6} {spills:>7}");
                    if spills > SPILLS || stack > STACK {
                        fail(format!("{kernel} for {architecture}: {stack} bytes of stack, {spills} of spills"));
                    }
                }
            }
        }
    }
    if let Err(error) = compile_text(TAKEN, "sm_90a") {
        fail(format!("wgmma for sm_90a must compile: {error}"));
    }
    for (what, architecture, text) in REFUSED {
        match compile_text(text, architecture) {
            Ok(()) => fail(format!("{what} compiles, and must not")),
            Err(error) => println!("refused, as it must be: {what}: {}", error.message().lines().nth(1).unwrap_or("")),
        }
    }
    if failures == 0 {
        println!("all kernels compile for {}", ARCHITECTURES.join(", "));
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

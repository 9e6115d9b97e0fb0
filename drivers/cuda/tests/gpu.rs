//! Tests on a real GPU, and the error message without one.

use fathom_core::device::{Device as _, Kernels as _, RmsNorm};
use fathom_core::dtype::DType;
use fathom_core::error::DeviceError as _;
use fathom_core::rng::uniform;
use fathom_core::tensor::Tensor;
use fathom_cuda::{Cuda, Nccl};

#[path = "common/ranks.rs"]
mod ranks;

#[test]
fn no_gpu_is_an_error_that_says_what_to_do() {
    let count = Cuda::count();
    let Err(error) = Cuda::new(count) else { panic!("there is no GPU {count}") };
    let message = error.to_string();
    assert!(message.contains("driver") || message.contains("counted from 0"), "{message}");
    assert_eq!(error.kind(), fathom_core::error::ErrorKind::Other);
}

#[test]
fn bytes_come_back() {
    if Cuda::count() == 0 {
        eprintln!("not tested: no GPU");
        return;
    }
    for graphs in [true, false] {
        let options = fathom_cuda::Options::default().with_graphs(graphs);
        let cuda = Cuda::with_options(0, options).unwrap_or_else(|e| panic!("{e}"));
        eprintln!("{}", cuda.description());
        // One that is part of a list of commands, one that takes several pieces, and one with a ragged end.
        for size in [1, 4096, 100_000, 20 << 20, (16 << 20) + 13] {
            let sent: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let mut buffer = cuda.alloc(size + 64).unwrap_or_else(|e| panic!("{e}"));
            cuda.upload(&mut buffer, 64, &sent).unwrap_or_else(|e| panic!("{e}"));
            let mut received = vec![0; size];
            cuda.download(&buffer, 64, &mut received).unwrap_or_else(|e| panic!("{e}"));
            assert!(sent == received, "{size} bytes, graphs {graphs}");
        }
    }
}

/// A step of work: some norms, a small upload between them, and one result. `eps` changes the kernels' arguments.
fn step(cuda: &Cuda, eps: f64) -> Result<Vec<f32>, fathom_cuda::CudaError> {
    let (rows, cols) = (64, 256);
    let values =
        |seed: u64, n: usize| -> Vec<f32> { (0..n).map(|i| uniform(seed, 0, i as u64) as f32 - 0.5).collect() };
    let put =
        |seed, rows, cols| Tensor::<Cuda>::from_slice(cuda, &[rows, cols], DType::F32, &values(seed, rows * cols));
    let mut x = put(1, rows, cols)?;
    let mut rstd = Tensor::<Cuda>::empty(cuda, &[rows, 1], DType::F32)?;
    for i in 0..20 {
        let weight = put(2 + i, 1, cols)?;
        let mut y = Tensor::<Cuda>::empty(cuda, &[rows, cols], DType::F32)?;
        cuda.rmsnorm(RmsNorm::new(x.view(), weight.view(), eps, y.view_mut(), rstd.view_mut())?)?;
        x = y;
    }
    x.download(cuda)
}

#[test]
fn graphs_change_no_bit() {
    if Cuda::count() == 0 {
        eprintln!("not tested: no GPU");
        return;
    }
    let make = |graphs| {
        let options = fathom_cuda::Options::default().with_graphs(graphs);
        Cuda::with_options(0, options).unwrap_or_else(|e| panic!("{e}"))
    };
    let (replayed, plain) = (make(true), make(false));
    let mut seconds = [0.0; 2];
    for i in 0..12 {
        // Some steps with the arguments of the one before, and some with others.
        let eps = 1e-6 * f64::from(1 + i / 4);
        let results = [&replayed, &plain].map(|cuda| {
            let start = std::time::Instant::now();
            let result = step(cuda, eps).unwrap_or_else(|e| panic!("{e}"));
            (result, start.elapsed().as_secs_f64())
        });
        seconds = [results[0].1, results[1].1];
        assert!(results[0].0 == results[1].0, "step {i}");
    }
    let graphs = replayed.graph_use();
    eprintln!("the last step took {seconds:?} s with graphs and without; {graphs:?}");
    assert_eq!(graphs.refused, None);
    assert!(graphs.captured >= 1 && graphs.launches >= 8 && graphs.updated >= 20, "{graphs:?}");
    assert_eq!(plain.graph_use().launches, 0);
}

#[test]
fn time_is_measured() {
    if Cuda::count() == 0 {
        eprintln!("not tested: no GPU");
        return;
    }
    let cuda = Cuda::new(0).unwrap_or_else(|e| panic!("{e}"));
    step(&cuda, 1e-6).unwrap_or_else(|e| panic!("{e}"));
    let seconds = cuda.elapsed(|| step(&cuda, 1e-6).map(drop)).unwrap_or_else(|e| panic!("{e}"));
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
}

#[test]
fn a_step_on_the_emulator() {
    let Ok(cuda) = Cuda::emulated(fathom_cuda::Emulation::default()) else { return };
    let once = step(&cuda, 1e-6).unwrap_or_else(|e| panic!("{e}"));
    assert!(once.iter().all(|x| x.is_finite()));
    let seconds = cuda.elapsed(|| step(&cuda, 1e-6).map(drop)).unwrap_or_else(|e| panic!("{e}"));
    assert!(seconds > 0.0);
}

/// The GPUs whose collectives are tested, at least `least`, if NCCL is found too.
fn gpus(least: usize) -> Option<Vec<usize>> {
    let count = Cuda::count();
    if count < least {
        eprintln!("not tested: {count} GPUs, and {least} are needed");
        return None;
    }
    match Nccl::version() {
        Ok(version) => eprintln!("{version}, {count} GPUs"),
        Err(error) => {
            eprintln!("not tested: {error}");
            return None;
        }
    }
    Some((0..count).collect())
}

#[test]
fn nccl_of_one_rank() {
    let Some(gpus) = gpus(1) else { return };
    ranks::together(&gpus[..1], |cuda, nccl| {
        ranks::collectives(cuda, &nccl).unwrap_or_else(|e| panic!("{e}"));
        ranks::between_kernels(cuda, &nccl).unwrap_or_else(|e| panic!("{e}"));
        cuda.flush().unwrap_or_else(|e| panic!("{e}"));
    });
}

#[test]
fn nccl_of_all_gpus() {
    let Some(gpus) = gpus(2) else { return };
    for world in 2..=gpus.len() {
        let speeds = ranks::together(&gpus[..world], |cuda, nccl| {
            ranks::collectives(cuda, &nccl).unwrap_or_else(|e| panic!("{e}"));
            ranks::between_kernels(cuda, &nccl).unwrap_or_else(|e| panic!("{e}"));
            ranks::bandwidth(cuda, &nccl, 256 << 20).unwrap_or_else(|e| panic!("{e}"))
        });
        for (rank, [all_to_all, all_gather]) in speeds.iter().map(|s| s.map(|s| s / 1e9)).enumerate() {
            eprintln!("rank {rank} of {world}: all_to_all {all_to_all:.1} GB/s, all_gather {all_gather:.1} GB/s");
        }
    }
}

#[test]
fn nccl_ends_a_wait_by_abort() {
    let Some(gpus) = gpus(2) else { return };
    ranks::abort_ends_a_wait(&gpus[..2]);
}

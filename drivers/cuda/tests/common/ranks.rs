//! Ranks in threads, each with its own GPU, and what their collectives must do.

use std::time::{Duration, Instant};

use fathom_core::comm::{AllGather, AllToAll, Comm as _};
use fathom_core::device::{Device as _, Kernels as _, RmsNorm};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError as _, ErrorKind};
use fathom_core::rng::uniform;
use fathom_core::tensor::Tensor;
use fathom_cuda::{Cuda, CudaError, Nccl, Options};

/// Runs `work` as one rank for each GPU of `ordinals`; the results in the order of ranks.
pub fn together<T: Send>(ordinals: &[usize], work: impl Fn(&Cuda, Nccl) -> T + Sync) -> Vec<T> {
    let id = Nccl::unique_id().unwrap_or_else(|e| panic!("{e}"));
    std::thread::scope(|scope| {
        let start = |(rank, &ordinal): (usize, &usize)| {
            let (work, world) = (&work, ordinals.len());
            scope.spawn(move || {
                let cuda = Cuda::with_options(ordinal, Options::default()).unwrap_or_else(|e| panic!("{e}"));
                let nccl = Nccl::start(&cuda, id, rank, world).unwrap_or_else(|e| panic!("rank {rank}: {e}"));
                work(&cuda, nccl)
            })
        };
        let threads: Vec<_> = ordinals.iter().enumerate().map(start).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    })
}

/// Elements that rank `from` sends to rank `to` in round `round`; some pieces are empty, and some rounds equal.
fn length(round: u64, from: usize, to: usize) -> usize {
    match round % 4 {
        0 => 64,
        1 => [0, 1, 130, 7, 1024][(from * 3 + to * 5 + 1) % 5],
        2 => 40_000 + 1000 * from + to,
        _ => (from + to) % 3 * 33,
    }
}

/// Byte `i` of what rank `from` has for rank `to`.
fn byte(round: u64, from: usize, to: usize, i: usize) -> u8 {
    (uniform(round * 10_000 + (from * 100 + to) as u64, 0, i as u64) * 256.0) as u8
}

fn piece(round: u64, from: usize, to: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| byte(round, from, to, i)).collect()
}

/// Compares all-to-all, all-gather and tell with their definition, bit for bit.
pub fn collectives(cuda: &Cuda, nccl: &Nccl) -> Result<(), CudaError> {
    let (rank, world) = (nccl.rank(), nccl.world());
    for round in 0..8 {
        let dtype = [DType::F32, DType::BF16, DType::E4M3, DType::U32][round as usize % 4];
        let size = dtype.size();
        let sent: Vec<usize> = (0..world).map(|to| length(round, rank, to)).collect();
        let received: Vec<usize> = (0..world).map(|from| length(round, from, rank)).collect();
        let (out, back) = (sent.iter().sum(), received.iter().sum());
        // The views begin behind the start of their buffers.
        let mut from = Tensor::<Cuda>::empty(cuda, &[1, out + 8], dtype)?;
        let mut to = Tensor::<Cuda>::empty(cuda, &[1, back + 16], dtype)?;
        let mut bytes = vec![0; 8 * size];
        sent.iter().enumerate().for_each(|(to, n)| bytes.extend(piece(round, rank, to, n * size)));
        cuda.upload(from.view_mut().buffer_mut(), 0, &bytes)?;
        let call = AllToAll::new(from.part(8, 1, out)?, &sent, to.part_mut(16, 1, back)?, &received)?;
        nccl.all_to_all(cuda, call)?;
        drop(from);
        let mut got = vec![0; back * size];
        cuda.download(to.view().buffer(), 16 * size, &mut got)?;
        let want: Vec<u8> =
            received.iter().enumerate().flat_map(|(from, n)| piece(round, from, rank, n * size)).collect();
        assert!(got == want, "all_to_all, round {round}, rank {rank} of {world}");

        let parts: Vec<usize> = (0..world).map(|r| length(round, r, 0)).collect();
        let all = parts.iter().sum();
        let before: usize = parts[..rank].iter().sum();
        let mut whole = Tensor::<Cuda>::empty(cuda, &[1, all + 4], dtype)?;
        let own = piece(round, rank, 50, parts[rank] * size);
        cuda.upload(whole.view_mut().buffer_mut(), (4 + before) * size, &own)?;
        nccl.all_gather(cuda, AllGather::new(whole.part_mut(4, 1, all)?, &parts)?)?;
        let mut got = vec![0; all * size];
        cuda.download(whole.view().buffer(), 4 * size, &mut got)?;
        let want: Vec<u8> = parts.iter().enumerate().flat_map(|(r, n)| piece(round, r, 50, n * size)).collect();
        assert!(got == want, "all_gather, round {round}, rank {rank} of {world}");

        let words = |rank: usize| [rank as u64, round << 40 | 7, u64::MAX - rank as u64];
        let want: Vec<u64> = (0..world).flat_map(words).collect();
        assert_eq!(nccl.tell(&words(rank))?, want, "tell, round {round}, rank {rank} of {world}");
    }
    assert_eq!(nccl.tell(&[])?, []);
    Ok(())
}

/// Some norms of rows, one after the other.
fn norms(cuda: &Cuda, mut x: Tensor<Cuda>, weight: &Tensor<Cuda>) -> Result<Tensor<Cuda>, CudaError> {
    let (rows, cols) = (x.view().rows(), x.view().cols());
    let mut rstd = Tensor::<Cuda>::empty(cuda, &[rows, 1], DType::F32)?;
    for _ in 0..5 {
        let mut y = Tensor::<Cuda>::empty(cuda, &[rows, cols], DType::F32)?;
        cuda.rmsnorm(RmsNorm::new(x.view(), weight.view(), 1e-6, y.view_mut(), rstd.view_mut())?)?;
        x = y;
    }
    Ok(x)
}

/// Rows that kernels make, that travel, and that kernels go on with, with no wait between: the bits of one rank.
pub fn between_kernels(cuda: &Cuda, nccl: &Nccl) -> Result<(), CudaError> {
    const COLS: usize = 64;
    let (rank, world) = (nccl.rank(), nccl.world());
    let put = |seed: u64, rows: usize| {
        let values: Vec<f32> = (0..rows * COLS).map(|i| uniform(seed, 0, i as u64) as f32 - 0.5).collect();
        Tensor::<Cuda>::from_slice(cuda, &[rows, COLS], DType::F32, &values)
    };
    let weight = put(99, 1)?;
    // The same lists of commands again and again become graphs.
    for step in 0..6 {
        let y = norms(cuda, put(rank as u64 + 10 * step, world)?, &weight)?;
        let mut z = Tensor::<Cuda>::empty(cuda, &[world, COLS], DType::F32)?;
        let counts = vec![COLS; world];
        nccl.all_to_all(cuda, AllToAll::new(y.view(), &counts, z.view_mut(), &counts)?)?;
        let got: Vec<f32> = norms(cuda, z, &weight)?.download(cuda)?;
        for from in 0..world {
            let alone = norms(cuda, norms(cuda, put(from as u64 + 10 * step, world)?, &weight)?, &weight)?;
            let alone: Vec<f32> = alone.download(cuda)?;
            let (got, want) = (&got[from * COLS..][..COLS], &alone[rank * COLS..][..COLS]);
            assert!(got == want, "step {step}, row of rank {from} on rank {rank}");
        }
    }
    Ok(())
}

/// Rank 0 waits in a collective that the others do not enter, until another of its threads aborts.
pub fn abort_ends_a_wait(ordinals: &[usize]) {
    together(ordinals, |_, nccl| {
        nccl.tell(&[1]).unwrap_or_else(|e| panic!("{e}"));
        if nccl.rank() > 0 {
            std::thread::sleep(Duration::from_secs(2));
            return;
        }
        let (handle, begin) = (nccl.abort_handle(), Instant::now());
        let watchdog = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            handle.abort()
        });
        for what in ["the one that waits", "a later one"] {
            let Err(error) = nccl.tell(&[2]) else { panic!("{what}: nobody answered") };
            assert_eq!(error.kind(), ErrorKind::PeerLost, "{what}: {error}");
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        watchdog.join().expect("no panic").unwrap_or_else(|e| panic!("{e}"));
    });
}

/// Bytes a second that each rank sends in all-to-all, and receives in all-gather, of `bytes` bytes a rank.
pub fn bandwidth(cuda: &Cuda, nccl: &Nccl, bytes: usize) -> Result<[f64; 2], CudaError> {
    const TIMES: usize = 20;
    let world = nccl.world();
    let n = bytes / world / 4;
    let counts = vec![n; world];
    let from = Tensor::<Cuda>::empty(cuda, &[world, n], DType::F32)?;
    let mut to = Tensor::<Cuda>::empty(cuda, &[world, n], DType::F32)?;
    let mut all_to_all = || nccl.all_to_all(cuda, AllToAll::new(from.view(), &counts, to.view_mut(), &counts)?);
    all_to_all()?;
    let first = cuda.elapsed(|| (0..TIMES).try_for_each(|_| all_to_all()))?;
    let mut all_gather = || nccl.all_gather(cuda, AllGather::new(to.view_mut(), &counts)?);
    all_gather()?;
    let second = cuda.elapsed(|| (0..TIMES).try_for_each(|_| all_gather()))?;
    let moved = (TIMES * (world - 1) * n * 4) as f64;
    Ok([moved / first, moved / second])
}

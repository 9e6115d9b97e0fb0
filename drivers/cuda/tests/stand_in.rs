//! Tests of the GPU engine on a machine without a GPU, against a library that replaces the NVIDIA driver.
//!
//! The library runs work only when it is waited for. It cannot show what the real driver does with these calls.
#![cfg(target_os = "linux")]

use fathom_core::cache::{Cache, CacheFormat, CacheOptions};
use fathom_core::config::ModelConfig;
use fathom_core::device::{Device as _, Form, Gemm, GemmFp8, Host, Kernels, Out, RmsNorm, Sample, Scaled, Tiles};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError as _, ErrorKind};
use fathom_core::layer::Phase;
use fathom_core::model::{Chunk, Model};
use fathom_core::precision::Precision;
use fathom_core::rng::uniform;
use fathom_core::sampling::Rule;
use fathom_core::tensor::Tensor;
use fathom_cuda::{Cuda, CudaError, Options};

#[path = "common/libraries.rs"]
mod libraries;

/// Builds the libraries and runs the tests below, which are ignored otherwise, in a process that finds them.
#[test]
fn the_engine_on_a_driver_that_stands_in() {
    let folder = std::env::temp_dir().join(format!("fathom-stand-in-{}", std::process::id()));
    let outcome = std::fs::create_dir_all(&folder).map_err(|e| e.to_string()).and_then(|()| {
        let sources = [
            ("cuda.c", "libcuda.so", &[][..]),
            ("nvrtc.c", "libnvrtc.so.13", &[]),
            ("cublaslt.c", "libcublasLt.so.13", &[]),
        ];
        if !libraries::build(&folder, &sources)? {
            return Ok(());
        }
        libraries::run(libraries::program(&folder, "")?)?;
        let mut refuses = libraries::program(&folder, "a_refused_capture_is_no_harm")?;
        refuses.env("STAND_IN_REFUSES", "1");
        libraries::run(refuses)
    });
    let _ = std::fs::remove_dir_all(&folder);
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

fn device(options: Options) -> Cuda {
    Cuda::with_options(0, options.with_blas(false)).unwrap_or_else(|e| panic!("{e}"))
}

/// Norms one after the other, with small uploads between them: some of a size that every step has, if `large` one that
/// does not go through the arena.
fn step(cuda: &Cuda, norms: u64, large: bool, eps: f64) -> Result<Vec<f32>, CudaError> {
    let (rows, cols) = (3, 64);
    let values = |seed, n: usize| -> Vec<f32> { (0..n).map(|i| uniform(seed, 0, i as u64) as f32 - 0.5).collect() };
    let put =
        |seed, rows, cols| Tensor::<Cuda>::from_slice(cuda, &[rows, cols], DType::F32, &values(seed, rows * cols));
    let mut x = put(1, rows, cols)?;
    let mut rstd = Tensor::<Cuda>::empty(cuda, &[rows, 1], DType::F32)?;
    for i in 0..norms {
        let weight = put(2 + i % 7, 1, cols)?;
        if large && i % 50 == 25 {
            put(3, 1000, 1000)?;
        }
        let mut y = Tensor::<Cuda>::empty(cuda, &[rows, cols], DType::F32)?;
        cuda.rmsnorm(RmsNorm::new(x.view(), weight.view(), eps, y.view_mut(), rstd.view_mut())?)?;
        x = y;
    }
    x.download(cuda)
}

#[test]
#[ignore = "needs the library that stands in"]
fn bytes_come_back() {
    for graphs in [true, false] {
        let cuda = device(Options::default().with_graphs(graphs));
        for size in [1, 100_000, 300_000, (16 << 20) + 13, 50 << 20] {
            let sent: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let mut buffer = cuda.alloc(size + 64).unwrap_or_else(|e| panic!("{e}"));
            cuda.upload(&mut buffer, 64, &sent).unwrap_or_else(|e| panic!("{e}"));
            let mut received = vec![0; size];
            cuda.download(&buffer, 64, &mut received).unwrap_or_else(|e| panic!("{e}"));
            assert!(sent == received, "{size} bytes, graphs {graphs}");
        }
        // More small uploads than the arena holds, in between work, the last of which counts.
        let mut buffer = cuda.alloc(200_000).unwrap_or_else(|e| panic!("{e}"));
        for i in 0..100u8 {
            step(&cuda, u64::from(i % 3), false, 1e-6).unwrap_or_else(|e| panic!("{e}"));
            cuda.upload(&mut buffer, 0, &[i; 200_000]).unwrap_or_else(|e| panic!("{e}"));
        }
        let mut received = vec![0; 200_000];
        cuda.download(&buffer, 0, &mut received).unwrap_or_else(|e| panic!("{e}"));
        assert!(received == [99; 200_000]);
        // And more than two of them, each to a buffer that only it fills, with nothing that waits in between: the
        // pinned memory of one is filled again only once its copies are done.
        let buffers: Vec<_> = (0..120u8)
            .map(|i| {
                let mut buffer = cuda.alloc(200_000).unwrap_or_else(|e| panic!("{e}"));
                cuda.upload(&mut buffer, 0, &[i; 200_000]).unwrap_or_else(|e| panic!("{e}"));
                buffer
            })
            .collect();
        for (i, buffer) in (0..120u8).zip(&buffers) {
            cuda.download(buffer, 0, &mut received).unwrap_or_else(|e| panic!("{e}"));
            assert!(received == [i; 200_000], "upload {i}, graphs {graphs}");
        }
    }
}

#[test]
#[ignore = "needs the library that stands in"]
fn graphs_change_no_bit() {
    for (norms, large) in [(20, false), (400, false), (300, true)] {
        let (replayed, plain) = (device(Options::default()), device(Options::default().with_graphs(false)));
        for i in 0..12 {
            // Some steps with the arguments of the one before, and some with others.
            let eps = 1e-6 * f64::from(1 + i / 4);
            let [a, b] =
                [&replayed, &plain].map(|cuda| step(cuda, norms, large, eps).unwrap_or_else(|e| panic!("{e}")));
            assert!(a == b && a.iter().all(|x| x.is_finite()), "step {i} of {norms} norms");
        }
        let graphs = replayed.graph_use();
        assert_eq!(graphs.refused, None);
        assert!(graphs.launches >= 8 && graphs.updated >= 2 * norms && graphs.replayed > 8 * norms, "{graphs:?}");
        assert_eq!(plain.graph_use().launches, 0);
        let memory = [replayed.memory(), plain.memory()];
        assert_eq!(memory[0].in_use, 0);
        let seconds = replayed.elapsed(|| step(&replayed, 3, large, 1e-6).map(drop)).unwrap_or_else(|e| panic!("{e}"));
        assert!((seconds - 0.0005).abs() < 1e-2, "{seconds}");
    }
}

#[test]
#[ignore = "needs the library that stands in"]
fn a_refused_capture_is_no_harm() {
    let refuses = std::env::var_os("STAND_IN_REFUSES").is_some();
    let (cuda, plain) = (device(Options::default()), device(Options::default().with_graphs(false)));
    for _ in 0..4 {
        assert!(step(&cuda, 20, false, 1e-6) == step(&plain, 20, false, 1e-6));
    }
    assert_eq!(cuda.graph_use().refused.is_some(), refuses);
}

fn put<D: Kernels, T: bytemuck::Pod>(device: &D, [rows, cols]: [usize; 2], dtype: DType, x: &[T]) -> Tensor<D> {
    Tensor::<D>::from_slice(device, &[rows, cols], dtype, x).unwrap_or_else(|e| panic!("{e}"))
}

/// Numbers between -1 and 1.
fn noise(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(move |i| 2.0 * uniform(seed, 0, i as u64) as f32 - 1.0)
}

/// A product of BF16 into a part of an F32 matrix, thrice on the same device, so that the last is a graph's.
fn product<D: Kernels>(device: &D, form: Form, [m, n, k]: [usize; 3]) -> Vec<f32> {
    let bf16 = |seed, count| noise(seed, count).map(|x| (x.to_bits() >> 16) as u16).collect::<Vec<_>>();
    let (ra, rb) = match form {
        Form::Nt => ([m, k], [n, k]),
        Form::Nn => ([m, k], [k, n]),
        Form::Tn => ([k, m], [k, n]),
    };
    let a = put(device, ra, DType::BF16, &bf16(1, m * k));
    let b = put(device, rb, DType::BF16, &bf16(2, n * k));
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut c = put(device, [m + 8, n + 8], DType::F32, &noise(3, (m + 8) * (n + 8)).collect::<Vec<_>>());
        for _ in 0..4 {
            let part =
                c.view_mut().row_range(4..4 + m).and_then(|c| c.columns(8..8 + n)).unwrap_or_else(|e| panic!("{e}"));
            let call = Gemm::new(form, a.view(), b.view(), part).unwrap_or_else(|e| panic!("{e}"));
            device.gemm(call.scaled(0.25).out(Out::Add)).unwrap_or_else(|e| panic!("{e}"));
        }
        all.extend(c.download::<D, f32>(device).unwrap_or_else(|e| panic!("{e}")));
    }
    all
}

/// A product of codes, a weight of which is in parts of `part` rows, into F32.
fn product_fp8<D: Kernels>(device: &D, form: Form, [m, n, k, part]: [usize; 4], accumulate: bool) -> Vec<f32> {
    let codes = |seed, count| noise(seed, count).map(|x| (x.abs() * 80.0) as u8 | if x < 0.0 { 0x80 } else { 0 });
    let (a, b, tiles) = match form {
        Form::Nt => ([m, k], [n, k], [Tiles::Row { part: k }, Tiles::Block { part }]),
        Form::Nn => ([m, k], [k, n], [Tiles::Row { part }, Tiles::Block { part }]),
        Form::Tn => ([k, m], [k, n], [Tiles::Column, Tiles::Column]),
    };
    let factor = |seed, [rows, cols]: [usize; 2], tiles: &Tiles<'_, D::Buffer>| {
        let shape = tiles.scales(rows, cols);
        let scales: Vec<f32> = noise(seed + 1, shape[0] * shape[1]).map(|x| (1.0 + x.abs()) * 0.25).collect();
        let codes: Vec<u8> = codes(seed, rows * cols).collect();
        (put(device, [rows, cols], DType::E4M3, &codes), put(device, shape, DType::F32, &scales))
    };
    let ((a, sa), (b, sb)) = (factor(1, a, &tiles[0]), factor(3, b, &tiles[1]));
    let mut c = put(device, [m, n], DType::F32, &vec![100f32; m * n]);
    let call = Scaled::new(a.view(), sa.view(), tiles[0]).and_then(|a| {
        GemmFp8::new(form, a, Scaled::new(b.view(), sb.view(), tiles[1])?, c.view_mut(), Out::add_if(accumulate))
    });
    device.gemm_fp8(call.unwrap_or_else(|e| panic!("{e}"))).unwrap_or_else(|e| panic!("{e}"));
    c.download(device).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
#[ignore = "needs the library that stands in"]
fn products_by_the_library() {
    let near = |got: &[f32], want: &[f32], what: &str| {
        let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= 1e-5 * largest, "{what}, element {i}: {g} should be {w}");
        }
    };
    let cuda = Cuda::with_options(0, Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(cuda.blas().unwrap_or_else(|e| panic!("{e}")), "cuBLASLt 13.1.0");
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        let shape = [80, 72, 64];
        near(&product(&cuda, form, shape), &product(&Host::default(), form, shape), &format!("{form:?}"));
    }
    near(&product(&cuda, Form::Nt, [1, 64, 64]), &product(&Host::default(), Form::Nt, [1, 64, 64]), "one row");
    // Tiles of the inner dimension that are, and are not, a multiple of four; weights in one part and in parts of whole
    // tiles.
    for (form, shape, accumulate) in [
        (Form::Nt, [48, 272, 1152, 272], false),
        (Form::Nt, [16, 128, 512, 128], true),
        (Form::Nt, [16, 768, 512, 384], true),
        (Form::Nn, [48, 272, 1152, 1152], false),
        (Form::Nn, [16, 144, 512, 512], true),
        (Form::Nn, [32, 128, 768, 384], false),
        (Form::Tn, [144, 272, 640, 1], true),
        (Form::Tn, [272, 128, 512, 1], false),
    ] {
        let what = format!("codes, {form:?} {shape:?}");
        near(
            &product_fp8(&cuda, form, shape, accumulate),
            &product_fp8(&Host::default(), form, shape, accumulate),
            &what,
        );
    }
    assert!(cuda.graph_use().replayed > 0);
}

/// Graphs captured, and launched, while sequences that begin at `starts` grow by `steps` tokens, one in each step, and
/// a token is chosen for each; with one more token of each where `drafts`.
fn decode(model: &Model<Cuda>, cache: &mut Cache<Cuda>, starts: &[usize], steps: usize, drafts: bool) -> [u64; 2] {
    let cuda = model.device();
    let before = cuda.graph_use();
    let pages: Vec<Vec<u32>> = (0..starts.len() as u32).map(|i| (i * 64..i * 64 + 64).collect()).collect();
    for step in 0..steps {
        let tokens: &[u32] = if drafts { &[1, 2] } else { &[1] };
        let chunk = |(start, pages)| Chunk { tokens, start, pages, phase: Phase::Decode, logits: tokens.len() };
        let places = starts.iter().map(|start| start + step);
        let chunks: Vec<Chunk<'_>> = places.zip(&pages).map(|(start, pages)| chunk((start, &pages[..]))).collect();
        let rows = chunks.len() * tokens.len();
        let mut run = || {
            let logits = model.extend(cache, &chunks)?.logits;
            let padded = cuda.capabilities().padded(rows);
            let words = vec![step as u32; padded * Rule::WORDS];
            let rules = Tensor::<Cuda>::from_slice(cuda, &[padded, Rule::WORDS], DType::U32, &words)?;
            let rules = rules.first_rows(rows)?;
            let mut chosen = Tensor::<Cuda>::empty(cuda, &[rows, 1], DType::U32)?;
            cuda.sample(Sample::new(logits.view(), rules.view(), chosen.view_mut())?)?;
            chosen.download::<Cuda, u32>(cuda)
        };
        let chosen = run().unwrap_or_else(|e: CudaError| panic!("step {step}: {e}"));
        assert_eq!(chosen.len(), rows);
    }
    let after = cuda.graph_use();
    assert_eq!(after.refused, None);
    [after.captured - before.captured, after.launches - before.launches]
}

/// Steps of decoding are graphs that recur: one for each power of two of pages past the first split of attention,
/// whatever the lengths of the sequences are, and for each bucket of rows.
#[test]
#[ignore = "needs the library that stands in"]
fn a_step_of_decoding_is_a_graph_that_recurs() {
    let config = ModelConfig { max_position_embeddings: 4096, ..ModelConfig::tiny() };
    for format in [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Fp8] {
        let cuda = device(Options::default());
        let model = Model::new(&cuda, &config, Precision::F32).unwrap_or_else(|e| panic!("{e}"));
        let options = CacheOptions { format, page_tokens: 64, pages: 64 * 24, mtp: 0 };
        let mut cache = Cache::new(&cuda, &config, options).unwrap_or_else(|e| panic!("{e}"));
        // To 256 tokens, and to 512, 1024, 2048 and 4096.
        for (start, steps, captured) in [(0, 270, 2), (500, 20, 1), (1000, 40, 1), (2040, 20, 1)] {
            assert_eq!(decode(&model, &mut cache, &[start], steps, false)[0], captured, "{format:?}: from {start}");
        }
        // Again, now that the table of rotations has grown: nothing new, and nothing without a graph.
        for (start, steps) in [(0, 270), (500, 20), (1000, 40), (2040, 20), (4000, 20)] {
            assert_eq!(decode(&model, &mut cache, &[start], steps, false), [0, steps as u64], "{format:?}: {start}");
        }
        // Sequences that come and go are rows of one bucket.
        let mut captured = 0;
        for starts in [&[40, 3, 17][..], &[40, 3, 17, 30], &[9, 40, 33], &[40, 30, 9, 3]] {
            captured += decode(&model, &mut cache, starts, 8, false)[0];
        }
        assert_eq!(captured, 1, "{format:?}: three and four sequences of at most four pages");
        let many: Vec<usize> = (0..24).map(|i| 100 + i).collect();
        let captured: Vec<u64> = [17, 24, 20, 18].map(|n| decode(&model, &mut cache, &many[..n], 3, false)[0]).to_vec();
        assert_eq!(captured, [1, 0, 0, 0], "{format:?}: 17 to 24 sequences");
        // Two tokens of each, as drafts are verified.
        let captured = [5, 6, 8, 7].map(|n| decode(&model, &mut cache, &many[..n], 3, true)[0]);
        assert_eq!(captured, [1, 0, 0, 0], "{format:?}: ten to sixteen rows");
    }
}

#[test]
#[ignore = "needs the library that stands in"]
fn z_a_lost_device_and_one_that_is_full() {
    let cuda = device(Options::default());
    let Err(error) = cuda.alloc(1 << 40) else { panic!("there is no such memory") };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    let Err(error) = step(&cuda, 5, false, 666.0) else { panic!("the kernel fails") };
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    assert!(
        error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS") && error.to_string().contains("FATHOM_CUDA_CHECK")
    );
    let checked = device(Options::default().with_check(true));
    let Err(error) = step(&checked, 5, false, 666.0) else { panic!("the device is lost") };
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
}

//! Whole models on the CUDA emulator: parity with transformers, also when decoding with a cache, and first training
//! steps equal to the reference device.

use fathom_core::cache::CacheFormat;
use fathom_core::precision::Precision;
use fathom_cpu::Cpu;
use fathom_cuda::{Cuda, Emulation};
use fathom_tests::decode::{Engine, PLAIN, Way, check_continuations, worst};
use fathom_tests::golden::{Golden, check_case};
use fathom_tests::steps::Reference;

/// The emulator, or `None` (said on stderr) where this machine has no C++ compiler. Under `CI` that is a failure.
fn emulated() -> Option<Cuda> {
    match Cuda::emulated(Emulation::default()) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn v3_yarn() {
    let Some(device) = emulated() else { return };
    check_case(&device, "v3_yarn", &Golden::load("v3_yarn"));
}

#[test]
fn v3_mtp() {
    let Some(device) = emulated() else { return };
    check_case(&device, "v3_mtp", &Golden::load("v3_mtp"));
}

/// Tokens of a continuation: as many as time allows.
const NEW: usize = 6;

/// Decoding with each format of the cache: the continuations of transformers in f32, and in the others the logits of
/// the CPU driver, which reads the same numbers. The emulator rounds queries and probabilities to BF16, by 2⁻⁹ each;
/// the CPU driver does so only where its instructions multiply pairs.
#[test]
fn continuations_with_each_format_of_the_cache() {
    let Some(device) = emulated() else { return };
    let cpu = Cpu::with_threads(1);
    let golden = Golden::load("decode/v2_lite");
    let (model, other) = (golden.model(&device, Precision::F32), golden.model(&cpu, Precision::F32));
    let way = Way { new: NEW, page_tokens: 3, ..PLAIN };
    check_continuations(&device, "decode/v2_lite", &model, (&golden.floats, &golden.tokens), way);
    let prompts = ["1.prompt", "2.prompt"].map(|name| golden.tokens[name].1.as_slice());
    for format in [CacheFormat::Bf16, CacheFormat::Fp8] {
        let way = Way { format, chunk: 7, new: 3, ..way };
        let got = Engine::new(&device, &model, way, &prompts).finish();
        let want = Engine::new(&cpu, &other, way, &prompts).finish();
        for (got, want) in got.iter().zip(&want) {
            let (got, want) = (got.logits.concat(), want.logits.concat());
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let error = worst(&got, &want) / largest;
            println!("{format}: logits within {error:.1e} of the largest");
            assert!(error < 1.0 / 256.0, "{format}: logits differ by {error} of the largest");
        }
    }
}

fn check_steps(precision: Precision) {
    let Some(device) = emulated() else { return };
    Reference::new(precision).check("emulated", device);
}

#[test]
fn three_steps_in_f32() {
    check_steps(Precision::F32);
}

#[test]
fn three_steps_in_bf16() {
    check_steps(Precision::BF16);
}

#[test]
fn three_steps_in_fp8() {
    check_steps(Precision::FP8);
}

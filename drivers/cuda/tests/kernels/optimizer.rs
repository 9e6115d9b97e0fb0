//! AdamW and linear interpolation against the reference device.

use fathom_conformance::properties;
use fathom_core::device::{AdamRates, AdamW, Host, Kernels, Lerp};
use fathom_core::dtype::DType;
use fathom_cuda::CudaError;

use crate::common::{self, assert_near, floats, noise, read, suite};

#[test]
fn conformance() {
    suite(&[fathom_conformance::adamw, fathom_conformance::lerp, properties::nan_clip::<fathom_cuda::Cuda>]);
}

/// Three steps on `n` elements from `start` on of longer vectors.
fn steps<D: Kernels>(d: &D, moments: DType, start: usize, n: usize) -> Result<Vec<Vec<f32>>, D::Error> {
    let all = n + 9;
    let (mut w, g) = (floats(d, DType::F32, 1, all, |i| noise(1, i))?, floats(d, DType::F32, 1, all, |i| noise(2, i))?);
    let (mut m, mut v) = (floats(d, moments, 1, all, |_| 0.0)?, floats(d, moments, 1, all, |_| 0.0)?);
    let clip = floats(d, DType::F32, 1, 1, |_| 0.5)?;
    for step in 1..4 {
        let rates = AdamRates { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step };
        let (w, m, v) = (w.part_mut(start, 1, n)?, m.part_mut(start, 1, n)?, v.part_mut(start, 1, n)?);
        d.adamw(AdamW::new(w, g.part(start, 1, n)?, m, v, clip.view(), rates)?)?;
    }
    Ok(vec![read(d, &w)?, read(d, &m)?, read(d, &v)?])
}

#[test]
fn parts_of_a_vector_that_start_anywhere() {
    let Some(device) = common::device() else { return };
    for (moments, start, n) in [
        (DType::F32, 0, 5000),
        (DType::F32, 3, 4099),
        (DType::BF16, 1, 2050),
        (DType::BF16, 6, 3),
        (DType::BF16, 4, 4096),
    ] {
        let got = steps(&device, moments, start, n).unwrap_or_else(|e| panic!("{e}"));
        let want = steps(&Host::new(), moments, start, n).unwrap_or_else(|e| panic!("{e}"));
        assert_near(&got[..1], &want[..1], if moments == DType::BF16 { 4e-3 } else { 1e-6 });
        assert_near(&got[1..], &want[1..], if moments == DType::BF16 { 4e-3 } else { 1e-6 });
    }
}

#[test]
fn an_average_has_the_bits_of_plain_loops_wherever_a_part_starts() {
    let Some(device) = common::device() else { return };
    let weight = 0.1f32;
    for (dtype, start, n) in [(DType::F32, 0, 5000), (DType::F32, 3, 4099), (DType::F32, 5, 2), (DType::BF16, 1, 2050)]
    {
        let (of_y, of_x) = (|i| noise(1, i), |i| noise(2, i));
        let run = |x_start: usize| -> Result<Vec<f32>, CudaError> {
            let (mut y, x) = (floats(&device, dtype, 1, n + 9, of_y)?, floats(&device, dtype, 1, n + 9, of_x)?);
            let call = Lerp::new(y.part_mut(start, 1, n)?, x.part(x_start, 1, n)?, f64::from(weight))?;
            device.lerp(call)?;
            read(&device, &y)
        };
        // Parts that do not start alike take the other kernel.
        for x_start in [start, start + 1] {
            let got = run(x_start).unwrap_or_else(|e| panic!("{e}"));
            for (i, got) in got.into_iter().enumerate() {
                let round = |x: f32| if dtype == DType::BF16 { half::bf16::from_f32(x).to_f32() } else { x };
                let old = round(of_y(i));
                let inside = (start..start + n).contains(&i);
                let target = if inside { round(of_x(i - start + x_start)) } else { old };
                let want = round(old + weight * (target - old));
                assert_eq!(got.to_bits(), want.to_bits(), "{dtype} {start} {n}: element {i}");
            }
        }
    }
}

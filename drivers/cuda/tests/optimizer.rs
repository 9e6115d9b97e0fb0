//! AdamW against the reference device.

mod common;

use common::{assert_near, floats, noise, read, suite};
use fathom_conformance::properties;
use fathom_core::device::{AdamRates, AdamW, Host, Kernels};
use fathom_core::dtype::DType;

#[test]
fn conformance() {
    suite(&[fathom_conformance::adamw, properties::nan_clip::<fathom_cuda::Cuda>]);
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

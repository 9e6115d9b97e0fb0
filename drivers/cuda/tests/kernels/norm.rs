//! RMSNorm and its gradient against the reference device.

use fathom_core::device::{Host, Kernels, Out, RmsNorm, RmsNormGrad};
use fathom_core::dtype::DType;

use crate::common::{self, assert_near, floats, noise, read, suite};

#[test]
fn conformance() {
    suite(&[fathom_conformance::rmsnorm, fathom_conformance::rmsnorm_grad, fathom_conformance::rmsnorm_quantize]);
}

/// Both kernels on rows that begin `shift` columns into wider ones.
fn both<D: Kernels>(d: &D, t: DType, rows: usize, cols: usize, shift: usize) -> Result<Vec<Vec<f32>>, D::Error> {
    let wide = cols + 16;
    let place = |seed: u64| {
        floats(d, t, rows, wide, move |i| noise(seed, (i / wide) * cols + (i % wide + cols - shift) % cols))
    };
    let (x, dy, mut dx) = (place(1)?, place(2)?, place(3)?);
    let within = shift..shift + cols;
    let weight = floats(d, DType::F32, 1, cols, |i| noise(4, i))?;
    let mut dweight = floats(d, DType::F32, 1, cols, |i| noise(5, i))?;
    let (mut y, mut rstd) = (floats(d, t, rows, cols, |_| 0.0)?, floats(d, DType::F32, rows, 1, |_| 0.0)?);
    let x = x.view().columns(within.clone())?;
    d.rmsnorm(RmsNorm::new(x, weight.view(), 1e-6, y.view_mut(), rstd.view_mut())?)?;
    let (dy, dx_view) = (dy.view().columns(within.clone())?, dx.view_mut().columns(within.clone())?);
    d.rmsnorm_grad(RmsNormGrad::new(x, weight.view(), rstd.view(), dy, dx_view, Out::Add, dweight.view_mut())?)?;
    let dx = read(d, &dx)?.chunks(wide).flat_map(|row| row[within.clone()].to_vec()).collect();
    Ok(vec![read(d, &y)?, read(d, &rstd)?, dx, read(d, &dweight)?])
}

#[test]
fn rows_of_many_threads_and_parts_of_many_rows() {
    let Some(device) = common::device() else { return };
    // The last is wider than what shared memory sums.
    for (t, rows, cols) in [(DType::F32, 7, 1544), (DType::F32, 3, 9000), (DType::BF16, 270, 8200)] {
        let got = both(&device, t, rows, cols, 8).unwrap_or_else(|e| panic!("{e}"));
        let want = both(&Host::new(), t, rows, cols, 8).unwrap_or_else(|e| panic!("{e}"));
        // Activations are as exact as their type, statistics and the weight's gradient as f32.
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let tolerance = if t == DType::BF16 && i % 2 == 0 { 8e-3 } else { 2e-6 };
            assert_near(std::slice::from_ref(got), std::slice::from_ref(want), tolerance);
        }
    }
}

#[test]
fn alignment_does_not_show() {
    let Some(device) = common::device() else { return };
    for t in [DType::F32, DType::BF16] {
        let [aligned, odd] = [8, 3].map(|shift| both(&device, t, 5, 2056, shift).unwrap_or_else(|e| panic!("{e}")));
        assert_eq!(aligned, odd);
    }
}

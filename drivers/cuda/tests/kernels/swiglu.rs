//! SwiGLU and its gradient against the reference device.

use fathom_core::device::{Host, Kernels, Swiglu, SwigluGrad};
use fathom_core::dtype::DType;

use crate::common::{self, assert_near, floats, noise, read, suite};

#[test]
fn conformance() {
    suite(&[fathom_conformance::swiglu, fathom_conformance::swiglu_grad, fathom_conformance::swiglu_quantize]);
}

fn both<D: Kernels>(d: &D, t: DType, rows: usize, cols: usize) -> Result<Vec<Vec<f32>>, D::Error> {
    // Gates up to ±200, where the sigmoid is 0 or 1.
    let x = floats(d, t, rows, 2 * cols, |i| noise(1, i) * if i % 97 == 0 { 100.0 } else { 1.0 })?;
    let (dy, scale) = (floats(d, t, rows, cols, |i| noise(2, i))?, floats(d, DType::F32, rows, 1, |i| noise(3, i))?);
    let [mut y, mut again] = [floats(d, t, rows, cols, |_| 0.0)?, floats(d, t, rows, cols, |_| 0.0)?];
    let (mut dx, mut dscale) = (floats(d, t, rows, 2 * cols, |_| 0.0)?, floats(d, DType::F32, rows, 1, |_| 0.0)?);
    d.swiglu(Swiglu::new(x.view(), Some(scale.view()), y.view_mut())?)?;
    let outputs = (dx.view_mut(), Some(dscale.view_mut()), again.view_mut());
    d.swiglu_grad(SwigluGrad::new(x.view(), Some(scale.view()), dy.view(), outputs.0, outputs.1, outputs.2)?)?;
    assert_eq!(read(d, &y)?, read(d, &again)?, "the output again");
    Ok(vec![read(d, &y)?, read(d, &dx)?, read(d, &dscale)?])
}

#[test]
fn rows_longer_than_a_block() {
    let Some(device) = common::device() else { return };
    for (t, rows, cols) in [(DType::BF16, 9, 2560), (DType::F32, 4, 2304), (DType::F32, 3, 2049)] {
        let got = both(&device, t, rows, cols).unwrap_or_else(|e| panic!("{e}"));
        let want = both(&Host::new(), t, rows, cols).unwrap_or_else(|e| panic!("{e}"));
        assert_near(&got, &want, if t == DType::BF16 { 4e-3 } else { 1e-6 });
    }
}

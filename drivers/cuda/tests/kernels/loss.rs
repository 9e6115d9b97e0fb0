//! Softmax cross entropy against the reference device.

use fathom_core::device::{CrossEntropy, Device, Host, IGNORE, Kernels};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError, ErrorKind};

use crate::common::{self, assert_near, floats, indices, noise, read, suite};

#[test]
fn conformance() {
    suite(&[fathom_conformance::cross_entropy]);
}

fn loss<D: Kernels>(d: &D, t: DType, cols: usize) -> Result<Vec<Vec<f32>>, D::Error> {
    let rows = 4;
    // Most of row 1 is −∞, whole stretches of it.
    let value = |i: usize| if i / cols == 1 && i % cols != 100 { f32::NEG_INFINITY } else { 8.0 * noise(1, i) };
    let mut x = floats(d, t, rows, cols, value)?;
    let targets = indices(d, rows, 1, &[cols as u32 - 1, 100, IGNORE, 7])?;
    let mut nll = floats(d, DType::F32, rows, 1, |_| -1.0)?;
    d.cross_entropy(CrossEntropy::new(x.view_mut(), targets.view(), None, nll.view_mut())?)?;
    let before = read(d, &nll)?;
    d.cross_entropy(CrossEntropy::new(x.view_mut(), targets.view(), Some(0.25), nll.view_mut())?)?;
    assert_eq!(before, read(d, &nll)?, "the gradient does not change the loss");
    Ok(vec![before, read(d, &x)?])
}

#[test]
fn a_vocabulary_of_a_hundred_thousand() {
    let Some(device) = common::device() else { return };
    for (t, cols) in [(DType::BF16, 129_280), (DType::F32, 102_400), (DType::F32, 10_001)] {
        let got = loss(&device, t, cols).unwrap_or_else(|e| panic!("{e}"));
        let want = loss(&Host::new(), t, cols).unwrap_or_else(|e| panic!("{e}"));
        assert_near(&got[..1], &want[..1], 1e-6);
        assert_near(&got[1..], &want[1..], if t == DType::BF16 { 4e-3 } else { 1e-6 });
    }
}

#[test]
fn a_target_past_the_vocabulary_is_reported_and_ignored() {
    let Some(device) = common::device() else { return };
    let run = || {
        let mut x = floats(&device, DType::F32, 2, 16, |_| 1.0)?;
        let targets = indices(&device, 2, 1, &[16, 3])?;
        let mut nll = floats(&device, DType::F32, 2, 1, |_| -1.0)?;
        device.cross_entropy(CrossEntropy::new(x.view_mut(), targets.view(), Some(16.0), nll.view_mut())?)?;
        let error = device.flush().expect_err("target 16 of 16");
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.to_string().contains("cross_entropy: index 16"), "{error}");
        assert_near(&[read(&device, &nll)?], &[vec![0.0, 16f32.ln()]], 1e-6);
        let want = (0..32)
            .map(|i| {
                if i < 16 {
                    0.0
                } else if i == 19 {
                    -15.0
                } else {
                    1.0
                }
            })
            .collect();
        assert_near(&[read(&device, &x)?], &[want], 1e-6);
        Ok::<_, fathom_cuda::CudaError>(())
    };
    run().unwrap_or_else(|e| panic!("{e}"));
}

//! Rotary position embedding against the reference device.

use fathom_core::device::{Device, Host, Kernels, Rope};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError, ErrorKind};

use crate::common::{self, assert_near, floats, indices, noise, read, suite};

#[test]
fn conformance() {
    suite(&[fathom_conformance::rope]);
}

const POSITIONS: usize = 50;

/// Rotates the last 64 columns of heads of `head`.
fn rotate<D: Kernels>(d: &D, t: DType, rows: usize, heads: usize, head: usize) -> Result<Vec<Vec<f32>>, D::Error> {
    let mut x = floats(d, t, rows, heads * head, |i| noise(1, i))?;
    let table = floats(d, DType::F32, POSITIONS, 64, |i| noise(2, i) / 2.0)?;
    let positions: Vec<u32> = (0..rows).map(|r| (r * 7 % POSITIONS) as u32).collect();
    let positions = indices(d, rows, 1, &positions)?;
    d.rope(Rope::new(x.view_mut(), head, head - 64, table.view(), positions.view(), false)?)?;
    let once = read(d, &x)?;
    d.rope(Rope::new(x.view_mut(), head, head - 64, table.view(), positions.view(), true)?)?;
    Ok(vec![once, read(d, &x)?])
}

#[test]
fn heads_of_a_model_and_the_one_key_they_share() {
    let Some(device) = common::device() else { return };
    for (t, rows, heads, head) in [(DType::BF16, 33, 40, 192), (DType::BF16, 301, 1, 64), (DType::F32, 70, 3, 96)] {
        let got = rotate(&device, t, rows, heads, head).unwrap_or_else(|e| panic!("{e}"));
        let want = rotate(&Host::new(), t, rows, heads, head).unwrap_or_else(|e| panic!("{e}"));
        assert_near(&got, &want, if t == DType::BF16 { 8e-3 } else { 1e-6 });
    }
}

#[test]
fn a_row_without_a_position_is_reported_and_left_alone() {
    let Some(device) = common::device() else { return };
    let run = || {
        let mut x = floats(&device, DType::BF16, 3, 64, |_| 1.0)?;
        let table = floats(&device, DType::F32, 2, 64, |_| 0.5)?;
        let positions = indices(&device, 3, 1, &[0, 2, 1])?;
        device.rope(Rope::new(x.view_mut(), 64, 0, table.view(), positions.view(), false)?)?;
        let error = device.flush().expect_err("position 2 of 2");
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.to_string().contains("rope: index 2"), "{error}");
        let x = read(&device, &x)?;
        assert!(x[64..128].iter().all(|&v| v == 1.0) && x[..2] == [0.0, 1.0] && x[128..130] == [0.0, 1.0]);
        Ok::<_, fathom_cuda::CudaError>(())
    };
    run().unwrap_or_else(|e| panic!("{e}"));
}

//! Products of few rows with weights as they are stored, against the reference device.

use fathom_core::device::{Factor, Gemv, GroupedGemv, Kernels, Out, Scaled, Tiles};
use fathom_core::dtype::DType;
use fathom_core::tensor::Tensor;
use fathom_cuda::Cuda;

use crate::common;

#[test]
fn products_of_few_rows() {
    common::suite_with_f16(&[fathom_conformance::gemv, fathom_conformance::grouped_gemv]);
}

/// A weight of codes, and its scales.
fn codes(device: &Cuda, rows: usize, cols: usize) -> [Tensor<Cuda>; 2] {
    let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 120) as u8 | ((i % 3 == 0) as u8) << 7).collect();
    let tiles: Tiles<'_, ()> = Tiles::Block { part: rows };
    let [r, c] = tiles.scales(rows, cols);
    let scales = common::floats(device, DType::F32, r, c, |i| 0.01 * (1 + i) as f32).expect("scales");
    [Tensor::<Cuda>::from_slice(device, &[rows, cols], DType::E4M3, &codes).expect("codes"), scales]
}

/// The bits of `x[rows]·Wᵀ`.
fn product(
    device: &Cuda,
    x: &Tensor<Cuda>,
    rows: std::ops::Range<usize>,
    w: Factor<'_, fathom_cuda::Buffer>,
) -> Vec<u32> {
    let mut y = Tensor::<Cuda>::zeros(device, &[rows.len(), w.rows()], DType::F32).expect("memory");
    let x = x.view().row_range(rows).expect("rows of x");
    let call = Gemv::new(x, w, y.view_mut(), Out::Replace).expect("shapes that fit");
    device.gemv(call).and_then(|()| y.download(device)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_row_has_the_same_bits_with_any_number_of_others() {
    let Some(device) = common::device() else { return };
    // Whole pieces of sixteen bytes, and rows that begin anywhere.
    for (n, k) in [(21, 544), (5, 333)] {
        let x = common::floats(&device, DType::F32, 19, k, |i| common::noise(1, i)).expect("x");
        let w =
            [DType::F32, DType::BF16].map(|d| common::floats(&device, d, n, k, |i| common::noise(2, i)).expect("w"));
        let [codes, scales] = codes(&device, n, k);
        let scaled = Scaled::new(codes.view(), scales.view(), Tiles::Block { part: n }).expect("a weight");
        for w in [Factor::Float(w[0].view()), Factor::Float(w[1].view()), Factor::Fp8(scaled)] {
            let all = product(&device, &x, 0..19, w);
            for rows in [0..1, 18..19, 3..5, 2..7, 4..19] {
                let want = &all[rows.start * n..rows.end * n];
                assert!(product(&device, &x, rows.clone(), w) == want, "rows {rows:?} of {n} x {k}");
            }
        }
    }
}

/// Offsets are data: whatever they hold, nothing outside the operands is touched.
#[test]
fn offsets_that_make_no_sense_stay_inside() {
    let Some(device) = common::device() else { return };
    let x = common::floats(&device, DType::F32, 30, 16, |i| common::noise(1, i)).expect("x");
    let w = common::floats(&device, DType::BF16, 3 * 8, 16, |i| common::noise(2, i)).expect("w");
    for offsets in [[0, 900, 3, 7], [7, 6, 5, 4], [u32::MAX, 0, u32::MAX, 1], [0, 20, 10, 30]] {
        let offsets = common::indices(&device, 1, 4, &offsets).expect("offsets");
        let mut y = Tensor::<Cuda>::zeros(&device, &[30, 8], DType::F32).expect("memory");
        let call = GroupedGemv::new(3, x.view(), Factor::Float(w.view()), offsets.view(), y.view_mut());
        let done = device.grouped_gemv(call.expect("shapes that fit")).and_then(|()| y.download::<Cuda, f32>(&device));
        assert!(done.unwrap_or_else(|e| panic!("{e}")).iter().all(|x| x.is_finite()));
    }
}

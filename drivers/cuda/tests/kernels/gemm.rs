//! GEMM against the reference device.

use fathom_core::device::{Form, Gemm, GroupedGemm, Host, Kernels, Out, Primitives};
use fathom_core::dtype::DType;
use fathom_core::tensor::Tensor;
use fathom_cuda::{Cuda, Emulation};
use half::bf16;

use crate::common;

const FORMS: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

#[test]
fn gemm() {
    common::suite(&[fathom_conformance::gemm]);
}

#[test]
fn grouped_gemm() {
    common::suite(&[fathom_conformance::grouped_gemm]);
}

/// The kernel of warpgroups, in each order.
#[test]
fn products_by_warpgroups() {
    common::suite_by_warpgroups(&[fathom_conformance::gemm, fathom_conformance::grouped_gemm]);
}

/// Numbers that are exact in every type, so that sums of their products have one value: multiples of 1/8 from -1 to 1.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) % 17) as f32 / 8.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn tensor<D: Kernels>(device: &D, [rows, cols]: [usize; 2], dtype: DType, seed: u32) -> Tensor<D> {
    let x = numbers(rows * cols, seed);
    let made = if dtype == DType::BF16 {
        Tensor::<D>::from_slice(device, &[rows, cols], dtype, &x.into_iter().map(bf16::from_f32).collect::<Vec<_>>())
    } else {
        Tensor::<D>::from_slice(device, &[rows, cols], dtype, &x)
    };
    made.unwrap_or_else(|e| panic!("{e}"))
}

fn bits<D: Kernels>(device: &D, t: &Tensor<D>) -> Vec<u32> {
    let read = if t.dtype() == DType::BF16 {
        t.download::<D, u16>(device).map(|x| x.into_iter().map(u32::from).collect())
    } else {
        t.download::<D, u32>(device)
    };
    read.unwrap_or_else(|e| panic!("{e}"))
}

/// A plain product of which the types of a, b and c are `types`, its operands between `rim` columns on either side that
/// are not theirs; the bits of all that c lies in.
fn plain<D: Kernels>(device: &D, form: Form, [m, n, k, rim]: [usize; 4], types: [DType; 3], add: bool) -> Vec<u32> {
    let (a, b) = match form {
        Form::Nt => ([m, k], [n, k]),
        Form::Nn => ([m, k], [k, n]),
        Form::Tn => ([k, m], [k, n]),
    };
    let wide = |[rows, cols]: [usize; 2]| [rows, cols + 2 * rim];
    let inner = |[_, cols]: [usize; 2]| rim..rim + cols;
    let (x, y) = (tensor(device, wide(a), types[0], 1), tensor(device, wide(b), types[1], 2));
    let mut z = tensor(device, wide([m, n]), types[2], 3);
    let (a, b) = (x.view().columns(inner(a)).expect("inside"), y.view().columns(inner(b)).expect("inside"));
    let c = z.view_mut().columns(inner([m, n])).expect("inside");
    let call = Gemm::new(form, a, b, c).expect("fits").scaled(0.5);
    device.gemm(call.out(Out::add_if(add))).unwrap_or_else(|e| panic!("{e}"));
    bits(device, &z)
}

#[test]
fn products_of_many_tiles_are_exact_where_sums_are() {
    use DType::{BF16, F32};
    let Some(device) = common::device() else { return };
    let Some(reverse) = common::emulated(Emulation { reverse: true, ..Emulation::default() }) else { return };
    for form in FORMS {
        for (shape, types, add) in [
            ([256, 136, 160, 0], [BF16, BF16, F32], true),
            ([136, 264, 104, 8], [BF16, BF16, BF16], false),
            ([264, 520, 376, 8], [BF16, BF16, BF16], true),
            ([136, 260, 328, 0], [BF16, BF16, F32], true),
            ([264, 384, 136, 4], [BF16, BF16, F32], true),
            ([136, 384, 136, 8], [BF16, BF16, F32], true),
            ([72, 40, 88, 8], [BF16, BF16, BF16], true),
            ([67, 133, 45, 1], [BF16, BF16, F32], false),
            ([130, 70, 37, 0], [F32, F32, F32], true),
            ([65, 66, 20, 3], [BF16, F32, BF16], false),
            ([64, 8, 0, 0], [BF16, BF16, F32], true),
        ] {
            let want = plain(&Host::new(), form, shape, types, add);
            assert!(plain(&device, form, shape, types, add) == want, "{form:?} {shape:?} {types:?}");
            assert!(plain(&reverse, form, shape, types, add) == want, "{form:?} {shape:?} {types:?}, reversed");
        }
    }
}

/// Devices differ in how much shared memory a block may have: 99, 163 or 227 KiB.
#[test]
fn every_tile_fits_its_device_and_has_the_same_bits() {
    for shared in [99 << 10, 163 << 10, 227 << 10] {
        let Some(device) = common::emulated(Emulation { shared, ..Emulation::default() }) else { return };
        for form in FORMS {
            for (shape, add) in [([264, 272, 392, 0], true), ([128, 512, 64, 8], false)] {
                let types = [DType::BF16, DType::BF16, DType::F32];
                let want = plain(&Host::new(), form, shape, types, add);
                assert!(plain(&device, form, shape, types, add) == want, "{shared} {form:?} {shape:?}");
            }
        }
    }
}

/// Whatever tiles are chosen, a row is summed in the same order, alone or among others.
#[test]
fn a_row_does_not_depend_on_how_many_there_are() {
    let Some(device) = common::device() else { return };
    let (n, k) = (264, 136);
    let irrational = |rows: usize, seed: u32| -> Vec<bf16> {
        numbers(rows * k, seed).into_iter().enumerate().map(|(i, x)| bf16::from_f32(x * (i as f32).sin())).collect()
    };
    let product = |rows: usize, cols: usize| {
        let a = Tensor::<Cuda>::from_slice(&device, &[rows, k], DType::BF16, &irrational(256, 1)[..rows * k]);
        let b = Tensor::<Cuda>::from_slice(&device, &[n, k], DType::BF16, &irrational(n, 2));
        let (a, b) = (a.unwrap_or_else(|e| panic!("{e}")), b.unwrap_or_else(|e| panic!("{e}")));
        let mut c = tensor(&device, [rows, cols], DType::F32, 3);
        let b = b.view().row_range(0..cols).expect("inside");
        device.gemm(Gemm::new(Form::Nt, a.view(), b, c.view_mut()).expect("fits")).unwrap_or_else(|e| panic!("{e}"));
        bits(&device, &c)
    };
    let all = product(256, n);
    for rows in [1, 3, 70] {
        assert!(product(rows, n) == all[..rows * n], "{rows} rows");
    }
    assert!(product(1, 37) == all[..37], "fewer columns");
}

/// A grouped product with weights `[n, k]` that replaces, and one that is added; their bits.
fn grouped<D: Kernels>(
    device: &D,
    form: Form,
    offsets: &[u32],
    rows: usize,
    [n, k]: [usize; 2],
    types: [DType; 2],
) -> Vec<u32> {
    let groups = offsets.len() - 1;
    let (input, output, weights) = ([rows, k], [rows, n], [groups * n, k]);
    let (a, b, c) = match form {
        Form::Nt => (input, weights, output),
        Form::Nn => (output, weights, input),
        Form::Tn => (output, input, weights),
    };
    let (a, b) = (tensor(device, a, types[0], 1), tensor(device, b, types[0], 2));
    let offsets =
        Tensor::<D>::from_slice(device, &[1, offsets.len()], DType::U32, offsets).unwrap_or_else(|e| panic!("{e}"));
    let product = |out: Out| {
        let mut c = tensor(device, c, types[1], 3);
        let call = GroupedGemm::new(form, groups, a.view(), b.view(), offsets.view(), c.view_mut()).expect("fits");
        device.grouped_gemm(call.out(out)).unwrap_or_else(|e| panic!("{e}"));
        bits(device, &c)
    };
    [Out::Replace, Out::Add].map(product).concat()
}

#[test]
fn groups_may_be_empty_ragged_or_long() {
    use DType::{BF16, F32};
    let Some(device) = common::device() else { return };
    for form in FORMS {
        for (offsets, weight, types) in [
            (vec![0, 0, 137, 400, 400, 423], [136, 72], [BF16, BF16]),
            (vec![0, 5, 5, 70, 71], [24, 136], [BF16, F32]),
            (vec![0, 0, 140, 330, 331, 700], [264, 272], [BF16, F32]),
            (vec![0, 0, 140, 330, 331, 700], [264, 272], [BF16, BF16]),
            (vec![0, 5, 5, 70, 71], [21, 35], [BF16, F32]),
            (vec![0, 70, 70, 75], [33, 68], [F32, F32]),
            ((0..=80).map(|g| g * g / 100).collect(), [8, 16], [BF16, F32]),
            (vec![0, 0, 0], [8, 8], [BF16, BF16]),
        ] {
            let rows = offsets.last().map_or(0, |&r| r as usize);
            let got = grouped(&device, form, &offsets, rows, weight, types);
            let want = grouped(&Host::new(), form, &offsets, rows, weight, types);
            assert!(got == want, "{form:?} {offsets:?} {weight:?} {types:?}");
        }
    }
}

/// The kernel of warpgroups gives the bits of the one that it replaces, over groups and rings of any length.
#[test]
fn warpgroups_change_no_bit() {
    use DType::{BF16, F32};
    let base = Emulation::default();
    let Some(device) = common::emulated(base) else { return };
    for options in [
        Emulation { hopper: true, ..base },
        Emulation { hopper: true, reverse: true, ..base },
        Emulation { hopper: true, seed: 7, ..base },
    ] {
        let Some(hopper) = common::emulated(options) else { return };
        for (offsets, weight, types) in [
            (vec![0, 0, 137, 400, 400, 423], [136, 72], [BF16, BF16]),
            (vec![0, 5, 5, 140, 141], [512, 328], [BF16, F32]),
            (vec![0, 7, 130], [480, 64], [BF16, BF16]),
            // Shapes that the kernel declines.
            (vec![0, 5, 5, 70, 71], [264, 136], [BF16, F32]),
            (vec![0, 5, 5, 70, 71], [256, 35], [BF16, F32]),
        ] {
            let rows = offsets.last().map_or(0, |&r| r as usize);
            let got = grouped(&hopper, Form::Nt, &offsets, rows, weight, types);
            assert!(got == grouped(&device, Form::Nt, &offsets, rows, weight, types), "{offsets:?} {weight:?}");
            assert!(got == grouped(&Host::new(), Form::Nt, &offsets, rows, weight, types), "{offsets:?} {weight:?}");
        }
        let dense = |device: &Cuda| plain(device, Form::Nt, [136, 256, 160, 8], [BF16, BF16, F32], true);
        assert!(dense(&hopper) == dense(&device));
    }
}

/// Offsets are data: whatever they hold, nothing outside the operands is touched, and rows of groups that make sense
/// are what they should be.
#[test]
fn offsets_that_make_no_sense_stay_inside() {
    let Some(device) = common::device() else { return };
    let types = [DType::BF16, DType::F32];
    for form in FORMS {
        for offsets in [[0, 900, 3, 7], [7, 6, 5, 4], [u32::MAX, 0, u32::MAX, 1], [0, 20, 10, 30]] {
            let got = grouped(&device, form, &offsets, 30, [16, 24], types);
            if offsets[1] == 20 {
                // Read as 0, 20, 20, 30.
                assert!(got == grouped(&Host::new(), form, &[0, 20, 20, 30], 30, [16, 24], types));
            }
        }
    }
}

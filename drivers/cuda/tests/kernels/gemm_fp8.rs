//! FP8 GEMM against the reference device.

use fathom_core::device::{Form, GemmFp8, GroupedGemmFp8, Host, Kernels, Out, Scaled, Tiles};
use fathom_core::dtype::DType;
use fathom_core::tensor::Tensor;
use fathom_cuda::Emulation;

use crate::common;

#[test]
fn gemm_fp8() {
    common::suite(&[fathom_conformance::gemm_fp8]);
}

#[test]
fn grouped_gemm_fp8() {
    common::suite(&[fathom_conformance::grouped_gemm_fp8]);
}

/// The kernel of warpgroups, in each order.
#[test]
fn products_by_warpgroups() {
    common::suite_by_warpgroups(&[fathom_conformance::gemm_fp8, fathom_conformance::grouped_gemm_fp8]);
}

fn draws(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    move |below| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    }
}

fn tensor<D: Kernels, T: bytemuck::Pod>(device: &D, shape: [usize; 2], dtype: DType, x: &[T]) -> Tensor<D> {
    Tensor::<D>::from_slice(device, &shape, dtype, x).unwrap_or_else(|e| panic!("{e}"))
}

/// Codes of small whole numbers and halves, and scales that are powers of two: sums of products are exact.
fn factor<D: Kernels>(device: &D, shape: [usize; 2], scales: [usize; 2], seed: u32) -> (Tensor<D>, Tensor<D>) {
    let mut draw = draws(seed);
    let codes: Vec<u8> = (0..shape[0] * shape[1])
        .map(|_| [0x00, 0x30, 0x38, 0x3c, 0x40, 0x44][draw(6) as usize] | (draw(2) << 7) as u8)
        .collect();
    let scale: Vec<f32> = (0..scales[0] * scales[1]).map(|_| [0.25, 0.5, 1.0, 2.0][draw(4) as usize]).collect();
    (tensor(device, shape, DType::E4M3, &codes), tensor(device, scales, DType::F32, &scale))
}

/// A product in `form` with groups that end at `offsets`, or a plain one; weights `[n, k]` in parts of `part` rows.
struct Case<'a> {
    form: Form,
    offsets: &'a [u32],
    rows: usize,
    n: usize,
    k: usize,
    part: usize,
    grouped: bool,
    dtype: DType,
}

impl Case<'_> {
    fn run<D: Kernels>(&self, device: &D) -> Vec<u32> {
        let groups = if self.grouped { self.offsets.len() - 1 } else { 1 };
        let weights = if self.grouped { groups * self.n } else { self.n };
        let (input, output, weight) = ([self.rows, self.k], [self.rows, self.n], [weights, self.k]);
        let (a, b, c) = match self.form {
            Form::Nt => (input, weight, output),
            Form::Nn => (output, weight, input),
            Form::Tn => (output, input, weight),
        };
        let index = tensor(device, [1, self.offsets.len()], DType::U32, self.offsets);
        let (first, second) = match self.form {
            Form::Nt => (Tiles::Row { part: self.k }, Tiles::Block { part: self.part }),
            Form::Nn => (Tiles::Row { part: self.part }, Tiles::Block { part: self.part }),
            Form::Tn if self.grouped => {
                (Tiles::Groups { offsets: index.view() }, Tiles::Groups { offsets: index.view() })
            }
            Form::Tn => (Tiles::Column, Tiles::Column),
        };
        let (a, a_scales) = factor(device, a, first.scales(a[0], a[1]), 1);
        let (b, b_scales) = factor(device, b, second.scales(b[0], b[1]), 2);
        let a = Scaled::new(a.view(), a_scales.view(), first).expect("fits");
        let b = Scaled::new(b.view(), b_scales.view(), second).expect("fits");
        let product = |out: Out| {
            let mut result = match self.dtype {
                DType::BF16 => tensor(device, c, DType::BF16, &vec![0x3f80u16; c[0] * c[1]]),
                _ => tensor(device, c, DType::F32, &vec![1.0f32; c[0] * c[1]]),
            };
            let done = if self.grouped {
                let call = GroupedGemmFp8::new(self.form, groups, a, b, index.view(), result.view_mut());
                device.grouped_gemm_fp8(call.expect("fits").out(out))
            } else {
                device.gemm_fp8(GemmFp8::new(self.form, a, b, result.view_mut(), out).expect("fits"))
            };
            done.unwrap_or_else(|e| panic!("{e}"));
            let read = match self.dtype {
                DType::BF16 => result.download::<D, u16>(device).map(|x| x.into_iter().map(u32::from).collect()),
                _ => result.download::<D, u32>(device),
            };
            read.unwrap_or_else(|e| panic!("{e}"))
        };
        [Out::Replace, Out::Add].map(product).concat()
    }
}

#[test]
fn products_of_many_tiles_are_exact_where_sums_are() {
    let Some(device) = common::device() else { return };
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        for (rows, n, k, part, dtype) in [
            // Several tiles of every kind; parts of a tile and a half, and of less than one.
            (144, 192, 272, 192, DType::F32),
            (272, 288, 144, 144, DType::BF16),
            (48, 96, 160, 48, DType::F32),
            (37, 66, 131, 33, DType::BF16),
        ] {
            let case = Case { form, offsets: &[0, 0], rows, n, k, part, grouped: false, dtype };
            assert!(case.run(&device) == case.run(&Host::new()), "{form:?} {rows} {n} {k} {part} {dtype:?}");
        }
    }
}

#[test]
fn groups_may_be_empty_ragged_or_long() {
    let Some(device) = common::device() else { return };
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        for (offsets, n, k, part, dtype) in [
            (&[0, 0, 137, 400, 400, 423][..], 144, 80, 144, DType::BF16),
            (&[0, 5, 5, 140, 141], 96, 144, 48, DType::F32),
            (&[0, 5, 5, 70, 71], 39, 35, 13, DType::F32),
        ] {
            let rows = offsets.last().map_or(0, |&r| r as usize);
            let case = Case { form, offsets, rows, n, k, part, grouped: true, dtype };
            assert!(case.run(&device) == case.run(&Host::new()), "{form:?} {offsets:?} {n} {k} {part} {dtype:?}");
        }
    }
}

/// The kernel of warpgroups gives the bits of the one that it replaces, over groups and rings of any length.
#[test]
fn warpgroups_change_no_bit() {
    let plain = Emulation::default();
    let Some(device) = common::emulated(plain) else { return };
    for options in [
        Emulation { hopper: true, ..plain },
        Emulation { hopper: true, reverse: true, ..plain },
        Emulation { hopper: true, seed: 7, ..plain },
    ] {
        let Some(hopper) = common::emulated(options) else { return };
        for (offsets, n, k, part, dtype) in [
            // Groups that begin and end anywhere, one without rows, several tiles; a ring that is filled once, not
            // wholly, and more than once; a last tile of the inner dimension and of the columns that is not whole.
            (&[0, 0, 137, 400, 400, 423][..], 144, 80, 144, DType::BF16),
            (&[0, 5, 5, 140, 141], 272, 768, 272, DType::F32),
            (&[0, 300, 301], 128, 1168, 128, DType::F32),
            (&[0, 7, 130], 384, 256, 128, DType::BF16),
            // Parts that the kernel declines.
            (&[0, 5, 5, 140, 141], 96, 144, 48, DType::F32),
        ] {
            let rows = offsets.last().map_or(0, |&r| r as usize);
            let case = Case { form: Form::Nt, offsets, rows, n, k, part, grouped: true, dtype };
            let got = case.run(&hopper);
            assert!(got == case.run(&device), "{offsets:?} {n} {k} {part} {dtype:?}");
            assert!(got == case.run(&Host::new()), "{offsets:?} {n} {k} {part} {dtype:?}");
        }
        let case = Case {
            form: Form::Nt,
            offsets: &[0, 0],
            rows: 272,
            n: 288,
            k: 144,
            part: 288,
            grouped: false,
            dtype: DType::F32,
        };
        assert!(case.run(&hopper) == case.run(&device));
    }
}

/// Offsets are data: whatever they hold, nothing outside the operands is touched.
#[test]
fn offsets_that_make_no_sense_stay_inside() {
    for hopper in [false, true] {
        let Some(device) = common::emulated(Emulation { hopper, ..Emulation::default() }) else { return };
        for form in [Form::Nt, Form::Nn, Form::Tn] {
            for offsets in [[0, 900, 3, 7], [7, 6, 5, 4], [u32::MAX, 0, u32::MAX, 1], [0, 200, 100, 300]] {
                let dtype = DType::F32;
                let case = Case { form, offsets: &offsets, rows: 300, n: 16, k: 16, part: 16, grouped: true, dtype };
                case.run(&device);
            }
        }
    }
}

/// Each of the 256 codes is the number it stands for, and a product with NaN is NaN.
#[test]
fn every_code_is_its_number() {
    let Some(device) = common::device() else { return };
    let codes: Vec<u8> = (0..=255).collect();
    let result = |form, a: [usize; 2], b: [usize; 2], tiles: fn() -> [Tiles<'static, _>; 2], c: [usize; 2]| {
        let x = tensor(&device, a, DType::E4M3, &codes);
        let one = tensor(&device, b, DType::E4M3, &vec![0x38u8; b[0] * b[1]]);
        let [first, second] = tiles();
        let [sa, sb] = [first.scales(a[0], a[1]), second.scales(b[0], b[1])];
        let sa = tensor(&device, sa, DType::F32, &vec![1.0f32; sa[0] * sa[1]]);
        let sb = tensor(&device, sb, DType::F32, &vec![1.0f32; sb[0] * sb[1]]);
        let mut y = tensor(&device, c, DType::F32, &vec![0.0f32; c[0] * c[1]]);
        let a = Scaled::new(x.view(), sa.view(), first).expect("fits");
        let b = Scaled::new(one.view(), sb.view(), second).expect("fits");
        device
            .gemm_fp8(GemmFp8::new(form, a, b, y.view_mut(), Out::Replace).expect("fits"))
            .unwrap_or_else(|e| panic!("{e}"));
        y.download::<_, f32>(&device).unwrap_or_else(|e| panic!("{e}"))
    };
    let rows = result(Form::Nt, [256, 1], [1, 1], || [Tiles::Row { part: 1 }, Tiles::Block { part: 1 }], [256, 1]);
    let columns = result(Form::Tn, [1, 256], [1, 1], || [Tiles::Column, Tiles::Column], [256, 1]);
    for (code, (x, y)) in rows.into_iter().zip(columns).enumerate() {
        let want = <fathom_core::fp8::E4M3 as fathom_core::fp8::Code>::decode(code as u16);
        assert!(x == want && y == want || x.is_nan() && y.is_nan() && want.is_nan(), "{code}: {x} {y} {want}");
    }
}

//! Tests of the reference device against values computed by hand.

use std::vec;
use std::vec::Vec;

use crate::device::tensor::Tensor;
use crate::device::*;
use crate::dtype::DType;
use crate::error::{DeviceError, ErrorKind};

type T = Tensor<Host>;

fn f64s(device: &Host, rows: usize, values: &[f64]) -> T {
    T::from_slice(device, &[rows, values.len() / rows], DType::F64, values).expect("a host tensor")
}

fn u32s(device: &Host, rows: usize, values: &[u32]) -> T {
    T::from_slice(device, &[rows, values.len() / rows], DType::U32, values).expect("a host tensor")
}

fn values(device: &Host, t: &T) -> Vec<f64> {
    t.download(device).expect("a host tensor")
}

#[test]
fn freed_buffers_are_reused_and_counted() {
    let device = Host::new();
    for _ in 0..3 {
        let _a = device.alloc(100).expect("memory");
        let _b = device.alloc(7).expect("memory");
    }
    let usage = device.memory();
    assert_eq!((usage.in_use, usage.peak, usage.reserved, usage.system_allocations), (0, 107, 107, 2));
}

#[test]
fn more_memory_than_there_is_is_an_error() {
    let device = Host::new();
    let error = device.alloc(usize::MAX / 2).expect_err("no machine has this much");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(device.memory(), MemoryUse::default());
}

#[test]
fn a_transfer_past_the_end_is_an_error() {
    let device = Host::new();
    let mut b = device.alloc(10).expect("memory");
    assert_eq!(device.upload(&mut b, 9, &[1, 2]).expect_err("too long").kind(), ErrorKind::Shape);
    assert_eq!(device.download(&b, usize::MAX, &mut [0]).expect_err("too far").kind(), ErrorKind::Shape);
    device.upload(&mut b, 8, &[1, 2]).expect("fits");
}

#[test]
fn stores_round_once_to_nearest_even() {
    let device = Host::new();
    // Halfway between two bf16, and a trifle above: the trifle must decide, though an f32 cannot hold it.
    let x = f64s(&device, 1, &[1.0 + f64::powi(2.0, -8), 1.0 + f64::powi(2.0, -8) + f64::powi(2.0, -40), f64::NAN]);
    let mut y = T::empty(&device, &[1, 3], DType::BF16).expect("memory");
    device.cast(Cast::new(x.view(), y.view_mut()).expect("fits")).expect("casts");
    let y: Vec<half::bf16> = y.download(&device).expect("a host tensor");
    assert_eq!((y[0].to_f64(), y[1].to_f64()), (1.0, 1.0 + f64::powi(2.0, -7)));
    assert!(y[2].is_nan());
}

#[test]
fn products_of_every_form_agree_with_paper() {
    let device = Host::new();
    let a = f64s(&device, 2, &[1.0, 2.0, 3.0, 4.0]);
    let b = f64s(&device, 2, &[5.0, 6.0, 7.0, 8.0]);
    let cases = [
        (Form::Nt, [17.0, 23.0, 39.0, 53.0]),
        (Form::Nn, [19.0, 22.0, 43.0, 50.0]),
        (Form::Tn, [26.0, 30.0, 38.0, 44.0]),
    ];
    for (form, want) in cases {
        let mut c = f64s(&device, 2, &[1.0; 4]);
        device.gemm(Gemm::new(form, a.view(), b.view(), c.view_mut()).expect("fits")).expect("multiplies");
        assert_eq!(values(&device, &c), want, "{form:?}");
        let more = Gemm::new(form, a.view(), b.view(), c.view_mut()).expect("fits").scaled(-1.0).out(Out::Add);
        device.gemm(more).expect("multiplies");
        assert_eq!(values(&device, &c), [0.0; 4], "{form:?}");
    }
}

#[test]
fn an_index_out_of_range_names_kernel_index_and_limit() {
    let device = Host::new();
    let x = f64s(&device, 2, &[1.0, 2.0]);
    let index = u32s(&device, 1, &[2]);
    let mut y = T::zeros(&device, &[1, 1], DType::F64).expect("memory");
    let call = GatherRows::new(x.view(), index.view(), 1, y.view_mut()).expect("fits");
    let error = device.gather_rows(call).expect_err("row 2 of 2");
    assert_eq!(error.kind(), ErrorKind::Shape);
    assert_eq!(error.message, "gather_rows: index 2 is out of range (must be below 2)");
}

#[test]
fn sorting_groups_items_in_order() {
    let device = Host::new();
    let keys = u32s(&device, 2, &[2, 0, 2, 0, 1, 2]);
    let mut order = u32s(&device, 6, &[0; 6]);
    let mut inverse = u32s(&device, 2, &[0; 6]);
    let mut offsets = u32s(&device, 1, &[0; 5]);
    let call = SortByKey::new(keys.view(), 4, order.view_mut(), inverse.view_mut(), offsets.view_mut());
    device.sort_by_key(call.expect("fits")).expect("sorts");
    let ints = |t: &T| -> Vec<u32> { t.download(&device).expect("a host tensor") };
    assert_eq!(ints(&order), [1, 3, 4, 0, 2, 5]);
    assert_eq!(ints(&inverse), [3, 0, 4, 1, 2, 5]);
    assert_eq!(ints(&offsets), [0, 2, 3, 6, 6]);
}

#[test]
fn a_row_of_attention_sees_its_document_only() {
    let device = Host::new();
    let heads = Heads { heads: 1, nope: 1, rope: 0, value: 1, scale: 1.0, sequence: 3 };
    let q = f64s(&device, 3, &[0.0; 3]);
    // Key zero everywhere: the output is the mean of the values that a row sees.
    let kv = f64s(&device, 3, &[0.0, 1.0, 0.0, 2.0, 0.0, 6.0]);
    let k_pe = T::zeros(&device, &[3, 0], DType::F64).expect("memory");
    for (starts, want) in [([0, 0, 0], [1.0, 1.5, 3.0]), ([0, 0, 2], [1.0, 1.5, 6.0]), ([9, 0, 1], [1.0, 1.5, 4.0])] {
        let starts = u32s(&device, 3, &starts);
        let mut o = f64s(&device, 3, &[0.0; 3]);
        let mut lse = f64s(&device, 3, &[0.0; 3]);
        let views = (q.view(), kv.view(), k_pe.view(), starts.view());
        let call = Attention::new(heads, views.0, views.1, views.2, views.3, o.view_mut(), lse.view_mut());
        device.attention(call.expect("fits")).expect("attends");
        for (got, want) in values(&device, &o).into_iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
    }
}

#[test]
fn an_optimiser_step_moves_against_the_gradient_by_the_rate() {
    let device = Host::new();
    let rates = AdamRates { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 0.0, decay: 0.5, step: 1 };
    for (clip, want) in [(1.0, [0.85, -1.8]), (f64::NAN, [1.0, -2.0])] {
        let (mut w, g) = (f64s(&device, 1, &[1.0, -2.0]), f64s(&device, 1, &[3.0, -5.0]));
        let (mut m, mut v) = (f64s(&device, 1, &[0.0; 2]), f64s(&device, 1, &[0.0; 2]));
        let clip = f64s(&device, 1, &[clip]);
        let call = AdamW::new(w.view_mut(), g.view(), m.view_mut(), v.view_mut(), clip.view(), rates);
        device.adamw(call.expect("fits")).expect("steps");
        for (got, want) in values(&device, &w).into_iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
    }
}

#[test]
fn an_ignored_target_costs_nothing() {
    let device = Host::new();
    let mut x = f64s(&device, 2, &[0.0, 0.0, 1.0, 5.0]);
    let targets = u32s(&device, 2, &[1, IGNORE]);
    let mut nll = T::zeros(&device, &[2, 1], DType::F64).expect("memory");
    let call = CrossEntropy::new(x.view_mut(), targets.view(), Some(2.0), nll.view_mut()).expect("fits");
    device.cross_entropy(call).expect("a loss");
    assert_eq!(values(&device, &nll), vec![core::f64::consts::LN_2, 0.0]);
    assert_eq!(values(&device, &x), vec![1.0, -1.0, 0.0, 0.0]);
}

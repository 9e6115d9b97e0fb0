use fathom_core::DType;
use fathom_core::device::{Form, Gemm, GroupedGemm, Primitives};
use fathom_core::tensor::Tensor;

use crate::{Cpu, Isa};

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn tensor(cpu: &Cpu, rows: usize, cols: usize, values: &[f32]) -> Tensor<Cpu> {
    Tensor::<Cpu>::from_slice(cpu, &[rows, cols], DType::F32, values).unwrap()
}

fn shapes(form: Form, m: usize, n: usize, k: usize) -> ((usize, usize), (usize, usize)) {
    match form {
        Form::Nt => ((m, k), (n, k)),
        Form::Nn => ((m, k), (k, n)),
        Form::Tn => ((k, m), (k, n)),
    }
}

fn product(cpu: &Cpu, form: Form, [m, n, k]: [usize; 3], [a, b, c]: [&[f32]; 3]) -> Vec<f32> {
    let ((ar, ac), (br, bc)) = shapes(form, m, n, k);
    let (a, b, mut c) = (tensor(cpu, ar, ac, a), tensor(cpu, br, bc, b), tensor(cpu, m, n, c));
    let call = Gemm::new(form, a.view(), b.view(), c.view_mut()).unwrap();
    cpu.gemm(call.scaled(0.5).accumulating()).unwrap();
    c.download(cpu).unwrap()
}

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 17, 300),
    (2, 1, 40),
    (13, 33, 7),
    (100, 130, 65),
    (97, 16, 513),
    (48, 48, 1024),
    (400, 31, 12),
    (5, 4, 0),
];
const FORMS: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

#[test]
fn products_are_right_on_every_instruction_set() {
    for isa in Isa::all() {
        let cpu = Cpu::with(2, isa);
        for (form, (m, n, k)) in FORMS.into_iter().flat_map(|f| SHAPES.map(|s| (f, s))) {
            let (a, b, c) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
            let got = product(&cpu, form, [m, n, k], [&a, &b, &c]);
            for (i, &got) in got.iter().enumerate() {
                let (r, s) = (i / n, i % n);
                let at = |x: &[f32], index: usize| f64::from(x[index]);
                let sum: f64 = (0..k)
                    .map(|p| match form {
                        Form::Nt => at(&a, r * k + p) * at(&b, s * k + p),
                        Form::Nn => at(&a, r * k + p) * at(&b, p * n + s),
                        Form::Tn => at(&a, p * m + r) * at(&b, p * n + s),
                    })
                    .sum();
                let want = 0.5 * sum + f64::from(c[i]);
                let tolerance = 1e-6 * (1.0 + k as f64).sqrt() + 1e-6;
                assert!((f64::from(got) - want).abs() < tolerance, "{form:?} {m}x{n}x{k} on {isa:?}: {got} for {want}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone() {
    for isa in Isa::all() {
        let cpu = Cpu::with(2, isa);
        for form in [Form::Nt, Form::Nn] {
            for (m, n, k) in SHAPES.into_iter().chain([(300, 256, 256), (29, 4096, 64)]) {
                let (a, b, c) = (numbers(m * k, 4), numbers(n * k, 5), numbers(m * n, 6));
                let together = product(&cpu, form, [m, n, k], [&a, &b, &c]);
                for r in 0..m {
                    let alone = product(&cpu, form, [1, n, k], [&a[r * k..][..k], &b, &c[r * n..][..n]]);
                    assert_eq!(alone, together[r * n..][..n], "{form:?} row {r} of {m}x{n}x{k}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (form, (m, n, k)) in FORMS.into_iter().flat_map(|f| [(300, 256, 700), (64, 1024, 96)].map(|s| (f, s))) {
        let (a, b, c) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
        let one = product(&Cpu::with_threads(1), form, [m, n, k], [&a, &b, &c]);
        for threads in [2, 5] {
            assert_eq!(one, product(&Cpu::with_threads(threads), form, [m, n, k], [&a, &b, &c]));
        }
    }
}

fn grouped(cpu: &Cpu, form: Form, offsets: &[u32], r: usize, n: usize, k: usize) -> (Vec<f32>, [Vec<f32>; 2]) {
    let g = offsets.len() - 1;
    let (input, weights, output) = ((r, k), (g * n, k), (r, n));
    let (sa, sb, sc) = match form {
        Form::Nt => (input, weights, output),
        Form::Nn => (output, weights, input),
        Form::Tn => (output, input, weights),
    };
    let (va, vb) = (numbers(sa.0 * sa.1, 7), numbers(sb.0 * sb.1, 8));
    let (a, b) = (tensor(cpu, sa.0, sa.1, &va), tensor(cpu, sb.0, sb.1, &vb));
    let mut c = tensor(cpu, sc.0, sc.1, &vec![0.0; sc.0 * sc.1]);
    let o = Tensor::<Cpu>::from_slice(cpu, &[1, g + 1], DType::U32, offsets).unwrap();
    cpu.grouped_gemm(GroupedGemm::new(form, g, a.view(), b.view(), o.view(), c.view_mut()).unwrap()).unwrap();
    (c.download(cpu).unwrap(), [va, vb])
}

#[test]
fn a_group_is_a_product_of_its_own() {
    let cpu = Cpu::with_threads(3);
    let (offsets, n, k) = ([0u32, 5, 5, 400, 430, 1000, 1000], 40, 150);
    let r = 1000;
    for form in FORMS {
        let (got, [a, b]) = grouped(&cpu, form, &offsets, r, n, k);
        assert_eq!(got, grouped(&Cpu::with_threads(1), form, &offsets, r, n, k).0);
        for g in 0..offsets.len() - 1 {
            let (start, end) = (offsets[g] as usize, offsets[g + 1] as usize);
            let rows = |x: &[f32], cols: usize| x[start * cols..end * cols].to_vec();
            let weight = g * n * k..(g + 1) * n * k;
            let (m2, n2, k2, a, b, got) = match form {
                Form::Nt => (end - start, n, k, rows(&a, k), b[weight].to_vec(), rows(&got, n)),
                Form::Nn => (end - start, k, n, rows(&a, n), b[weight].to_vec(), rows(&got, k)),
                Form::Tn => (n, k, end - start, rows(&a, n), rows(&b, k), got[weight].to_vec()),
            };
            let want = product(&cpu, form, [m2, n2, k2], [&a, &b, &vec![0.0; m2 * n2]]);
            let got: Vec<f32> = got.iter().map(|v| 0.5 * v).collect();
            assert_eq!(got, want, "{form:?} group {g}");
        }
    }
}

#[test]
fn wild_offsets_stay_inside() {
    let cpu = Cpu::with_threads(2);
    for offsets in [[7, 3, 900, 2], [u32::MAX, 0, u32::MAX, 1], [0, 0, 0, 0]] {
        for form in FORMS {
            let (got, _) = grouped(&cpu, form, &offsets, 20, 3, 9);
            assert!(got.iter().all(|v| v.is_finite()));
        }
    }
}

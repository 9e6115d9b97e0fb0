//! Products of few rows: codes are their numbers, rows do not feel each other, and cuts cover a weight.

use super::*;
use fathom_core::fp8::{Code, E4M3};

/// Numbers from −1 to 1 that follow no pattern a wrong index would keep.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    (0..n).map(|i| 2.0 * fathom_core::rng::uniform(seed, 7, i as u64) as f32 - 1.0).collect()
}

#[test]
fn a_code_is_its_number_over_the_factor_on_every_instruction_set() {
    let codes: Vec<u8> = (0..=255).filter(|&code| E4M3::decode(u16::from(code)).is_finite()).collect();
    for isa in Isa::all() {
        for &code in &codes {
            // Alone, and at each place of a vector, the others being zero.
            for k in [1, 5, 16, 33, 64, 100] {
                for at in [0, k / 2, k - 1] {
                    let (mut w, mut sum) = (vec![0u8; k], [0.0]);
                    w[at] = code;
                    let (x, mut scratch) = (vec![256.0; k], vec![f32::NAN; pitch(k)]);
                    let x = prepare::<f32, u8>(isa, &Mat::new(&x, 1, k, k), None, &mut scratch);
                    dots(isa, &x, &Mat::new(&w, 1, k, k), &mut sum);
                    assert_eq!(sum[0], E4M3::decode(code.into()), "code {code} at {at} of {k}, {isa}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_is_multiplied_beside_it() {
    for isa in Isa::all() {
        for k in [1, 7, 16, 40, 129] {
            let (m, n) = (rows(isa), 21);
            let (x, w) = (noise(m * k, 1), noise(n * k, 2).into_iter().map(bf16::from_f32).collect::<Vec<_>>());
            let (x, w) = (Mat::new(&x, m, k, k), Mat::new(&w, n, k, k));
            let mut all = vec![0.0; m * n];
            dots(isa, &x, &w, &mut all);
            for height in 1..=m {
                for width in 1..=n {
                    let mut some = vec![0.0; height * width];
                    let x = x.block(m - height, height, 0, k);
                    dots(isa, &x, &w.block(n - width, width, 0, k), &mut some);
                    for (r, some) in some.chunks_exact(width).enumerate() {
                        let all = &all[(m - height + r) * n + n - width..][..width];
                        assert_eq!(some, all, "{height} x {width} of depth {k}, {isa}");
                    }
                }
            }
        }
    }
}

#[test]
fn mixed_activations_meet_their_codes() {
    for isa in Isa::all() {
        for k in [1, 63, 64, 65, 200] {
            // Each place of a row has another activation, and one code that is 1.
            let x: Vec<f32> = (0..k).map(|i| 1.0 + i as f32).collect();
            let mut scratch = vec![f32::NAN; pitch(k)];
            let x = prepare::<f32, u8>(isa, &Mat::new(&x, 1, k, k), None, &mut scratch);
            let mut w = vec![0u8; k * k];
            (0..k).for_each(|i| w[i * k + i] = 0x38);
            let mut sums = vec![0.0; k];
            dots(isa, &x, &Mat::new(&w, k, k, k), &mut sums);
            let expected: Vec<f32> = (0..k).map(|i| (1.0 + i as f32) / u8::FACTOR).collect();
            assert_eq!(sums, expected, "depth {k}, {isa}");
        }
    }
}

#[test]
fn sums_of_rows_are_those_of_f64_and_do_not_feel_each_other() {
    for isa in Isa::all() {
        for (n, width) in [(1, 1), (7, 15), (40, 33), (128, 200)] {
            let (x, w) =
                (noise(rows(isa) * n, 1), noise(n * width, 2).into_iter().map(bf16::from_f32).collect::<Vec<_>>());
            let w = Mat::new(&w, n, width, width);
            let sums = |first: usize, m: usize, stride: usize| {
                let mut sums = vec![f32::NAN; m * stride];
                columns::columns(isa, &Mat::new(&x[first * n..], m, n, n), &w, &mut sums, stride);
                sums
            };
            let all = sums(0, rows(isa), width + 3);
            for (r, all) in all.chunks(width + 3).enumerate() {
                assert_eq!(all[..width], sums(r, 1, width), "row {r}, {n} x {width}, {isa}");
                assert!(all[width..].iter().all(|x| x.is_nan()), "nothing beside the sums is written");
                for (c, &sum) in all[..width].iter().enumerate() {
                    let exact: f64 = (0..n).map(|i| f64::from(x[r * n + i]) * f64::from(w.row(i)[c].to_f32())).sum();
                    assert!((f64::from(sum) - exact).abs() < 1e-5, "{sum} for {exact}, {n} x {width}, {isa}");
                }
            }
        }
    }
}

fn rows(isa: Isa) -> usize {
    dots::rows(isa)
}

#[test]
fn cuts_cover_a_weight_once_and_stay_inside_its_blocks() {
    for (n, part) in [(1, 1), (300, 300), (300, 150), (512, 64), (66, 33), (1024, 512)] {
        let numbers = vec![0u8; n];
        let rows = Rows::<u8> { numbers: Mat::new(&numbers, n, 1, 1), scales: None, part };
        let mut next = 0;
        for cut in (0..rows.cuts(n)).map(|cut| rows.cut(cut)) {
            assert_eq!(cut.start, next);
            let (first, last) = (cut.start % part, (cut.end - 1) % part);
            assert!(first <= last && first / TILE == last / TILE, "{cut:?} of parts of {part}");
            next = cut.end;
        }
        assert_eq!(next, n);
    }
}

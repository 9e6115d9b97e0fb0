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
            for k in [1, 5, 16, 33] {
                for at in [0, k / 2, k - 1] {
                    let (mut w, mut sum) = (vec![0u8; k], [0.0]);
                    w[at] = code;
                    let x = vec![256.0; k];
                    dots(isa, &Mat::new(&x, 1, k, k), &Mat::new(&w, 1, k, k), &mut sum);
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

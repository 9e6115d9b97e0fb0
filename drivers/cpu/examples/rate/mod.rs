//! The rate of F32 products of the `gemm` crate, which none of this driver's own rules bind: what a machine can do.

use std::time::Instant;

/// FLOP/s of the fastest of five products of `n³`, with all instructions that the processor has.
pub fn of_gemm_crate(threads: usize, n: usize) -> f64 {
    let (a, b, mut c) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0.0f32; n * n]);
    let (one, row) = (1, n as isize);
    let parallel = if threads > 1 { gemm_common::Parallelism::Rayon(threads) } else { gemm_common::Parallelism::None };
    let product = gemm_f32::gemm::f32::get_gemm_fn();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        // SAFETY: three square matrices of n × n with these strides.
        unsafe {
            product(n, n, n, c, one, row, false, a, one, row, b, one, row, 0.0, 1.0, false, false, false, parallel)
        };
        best = best.min(start.elapsed().as_secs_f64());
        std::hint::black_box(&c);
    }
    2.0 * (n as f64).powi(3) / best
}

//! Products of the library against sums in f64, where there is a GPU and the library; its scales' order on the emulator.

use fathom_core::device::Device as _;

use super::*;
use crate::memory::Buffer;
use crate::{Emulation, Options};

/// Number `i` of a sequence between -1 and 1.
fn noise(seed: u64, i: usize) -> f32 {
    2.0 * fathom_core::rng::uniform(seed, 0, i as u64) as f32 - 1.0
}

fn put<T: Pod>(device: &Cuda, values: &[T]) -> Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let mut buffer = device.alloc(bytes.len()).unwrap_or_else(|e| panic!("{e}"));
    device.upload(&mut buffer, 0, bytes).unwrap_or_else(|e| panic!("{e}"));
    buffer
}

fn get(device: &Cuda, buffer: &Buffer, count: usize) -> Vec<f32> {
    let mut values = vec![0f32; count];
    device.download(buffer, 0, bytemuck::cast_slice_mut(&mut values)).unwrap_or_else(|e| panic!("{e}"));
    values
}

/// A GPU with the library, if there is one.
fn gpu() -> Option<Cuda> {
    if Cuda::count() == 0 {
        eprintln!("not tested: no GPU");
        return None;
    }
    let device = Cuda::with_options(0, Options::default().with_blas(true)).unwrap_or_else(|e| panic!("{e}"));
    match device.blas() {
        Ok(version) => eprintln!("{} with {version}", device.description()),
        Err(error) => {
            eprintln!("not tested: {error}");
            return None;
        }
    }
    Some(device)
}

fn bf16s(seed: u64, count: usize) -> Vec<u16> {
    (0..count).map(|i| (noise(seed, i).to_bits() >> 16) as u16).collect()
}

fn wide(x: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(x) << 16))
}

/// Indices into the first and second factor of term `l` of element `(i, j)`.
fn terms(form: Form, (m, n, k): (usize, usize, usize), i: usize, j: usize, l: usize) -> (usize, usize) {
    match form {
        Form::Nt => (i * k + l, j * k + l),
        Form::Nn => (i * k + l, l * n + j),
        Form::Tn => (l * m + i, l * n + j),
    }
}

#[test]
fn scales_are_reordered() {
    let device = match Cuda::emulated(Emulation::default()) {
        Ok(device) => device,
        Err(error) => return eprintln!("not tested: {error}"),
    };
    for (rows, cols) in [(1, 1), (33, 40), (64, 7), (100, 65)] {
        let values: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
        let from = put(&device, &values);
        let x = Mat::f32(OP, &from, rows, cols).unwrap_or_else(|e| panic!("{e}"));
        let padded = cols.next_multiple_of(4);
        let run = |name, grid, threads, shared, (r, c): (usize, usize)| {
            let to = put(&device, &vec![-1f32; r * c]);
            let y = Mat::f32(OP, &to, r, c).unwrap_or_else(|e| panic!("{e}"));
            device.launch(TRANSPOSE, name, grid, threads, shared, &Reorder { x, y }).unwrap_or_else(|e| panic!("{e}"));
            get(&device, &to, r * c)
        };
        let grid = [rows.div_ceil(32), cols.div_ceil(32), 1];
        let across = run("transpose_f32", grid, 256, 32 * 33 * 4, (cols, rows));
        let wider = run("pad_f32", [rows, 1, 1], 64, 0, (rows, padded));
        for (i, row) in values.chunks(cols).enumerate() {
            assert!(row.iter().enumerate().all(|(j, &v)| across[j * rows + i] == v), "{rows} by {cols} transposed");
            let (kept, rest) = wider[i * padded..][..padded].split_at(cols);
            assert!(kept == row && rest.iter().all(|&v| v == 0.0), "{rows} by {cols} padded");
        }
    }
}

#[test]
fn products_of_bf16() {
    let Some(device) = gpu() else { return };
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        for (m, n, k) in [(64, 128, 192), (264, 136, 520)] {
            let (a, b) = (bf16s(1, m * k), bf16s(2, n * k));
            let c: Vec<f32> = (0..m * n).map(|i| noise(3, i)).collect();
            let (da, db, dc) = (put(&device, &a), put(&device, &b), put(&device, &c));
            let (ra, rb) = match form {
                Form::Nt => ((m, k), (n, k)),
                Form::Nn => ((m, k), (k, n)),
                Form::Tn => ((k, m), (k, n)),
            };
            let product = Matmul {
                form,
                m,
                n,
                k,
                a: Mat::of(&da, ra.0, ra.1, BF16),
                b: Mat::of(&db, rb.0, rb.1, BF16),
                c: Mat::of(&dc, m, n, F32),
                alpha: 0.5,
                accumulate: true,
            };
            assert!(device.matmul(&product).unwrap_or_else(|e| panic!("{e}")), "{form:?} {m} {n} {k} is declined");
            let got = get(&device, &dc, m * n);
            for i in 0..m {
                for j in 0..n {
                    let (mut sum, mut size) = (0.0, 0.0);
                    for l in 0..k {
                        let (x, y) = terms(form, (m, n, k), i, j, l);
                        sum += wide(a[x]) * wide(b[y]);
                        size += (wide(a[x]) * wide(b[y])).abs();
                    }
                    let want = f64::from(c[i * n + j]) + 0.5 * sum;
                    let error = (f64::from(got[i * n + j]) - want).abs();
                    assert!(error <= (k + 2) as f64 * 2f64.powi(-23) * (size + 1.0), "{form:?} {m} {n} {k}: {error}");
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_how_many_there_are() {
    let Some(device) = gpu() else { return };
    let (most, n, k) = (4096, 512, 1024);
    let (a, b) = (put(&device, &bf16s(4, most * k)), put(&device, &bf16s(5, n * k)));
    let c = put(&device, &vec![0f32; most * n]);
    let mut first: Option<Vec<u32>> = None;
    for m in [most, 1000, 128, 8, 1] {
        let product = Matmul {
            form: Form::Nt,
            m,
            n,
            k,
            a: Mat::of(&a, m, k, BF16),
            b: Mat::of(&b, n, k, BF16),
            c: Mat::of(&c, m, n, F32),
            alpha: 1.0,
            accumulate: false,
        };
        assert!(device.matmul(&product).unwrap_or_else(|e| panic!("{e}")), "{m} rows are declined");
        let bits: Vec<u32> = get(&device, &c, n).into_iter().map(f32::to_bits).collect();
        assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "{m} rows");
    }
}

#[test]
fn products_of_codes() {
    let Some(device) = gpu() else { return };
    // Row counts that are no multiple of a tile, so that a wrong order of the scales shows.
    for (m, n, k) in [(144, 272, 1152), (256, 384, 2048)] {
        // Codes of numbers up to 16, and of both signs.
        let code = |seed, i| (noise(seed, i).abs() * 88.0) as u8 | if noise(seed + 1, i) < 0.0 { 0x80 } else { 0 };
        let number = |code: u8| {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
            let size = if exponent == 0 {
                mantissa / 8.0 * 2f64.powi(-6)
            } else {
                (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7)
            };
            if code & 0x80 != 0 { -size } else { size }
        };
        let a: Vec<u8> = (0..m * k).map(|i| code(1, i)).collect();
        let b: Vec<u8> = (0..n * k).map(|i| code(3, i)).collect();
        let tiles = k / TILE;
        let scale = |seed, i| 2f32.powi((noise(seed, i) * 6.0) as i32);
        let sa: Vec<f32> = (0..m * tiles).map(|i| scale(5, i)).collect();
        let sb: Vec<f32> = (0..n.div_ceil(TILE) * tiles).map(|i| scale(6, i)).collect();
        let [da, db] = [&a, &b].map(|x| put(&device, x));
        let [dsa, dsb] = [&sa, &sb].map(|x| put(&device, x));
        for accumulate in [false, true] {
            let c = put(&device, &vec![1f32; m * n]);
            let product = ScaledMatmul {
                m,
                n,
                k,
                a: Mat::of(&da, m, k, E4M3),
                a_scales: Mat::of(&dsa, m, tiles, F32),
                b: Mat::of(&db, n, k, E4M3),
                b_scales: Mat::of(&dsb, n.div_ceil(TILE), tiles, F32),
                c: Mat::of(&c, m, n, F32),
                accumulate,
            };
            if !device.matmul_fp8(&product).unwrap_or_else(|e| panic!("{e}")) {
                return eprintln!("not tested: products of codes are declined here ({m} {n} {k})");
            }
            let got = get(&device, &c, m * n);
            let mut worst = 0f64;
            for i in 0..m {
                for j in 0..n {
                    let (mut sum, mut size) = (f64::from(u8::from(accumulate)), 1.0);
                    for l in 0..k {
                        let scales = f64::from(sa[i * tiles + l / TILE]) * f64::from(sb[j / TILE * tiles + l / TILE]);
                        let term = number(a[i * k + l]) * number(b[j * k + l]) * scales;
                        sum += term;
                        size += term.abs();
                    }
                    let error = (f64::from(got[i * n + j]) - sum).abs() / size;
                    worst = worst.max(error * 2f64.powi(23) / (k + 2) as f64);
                }
            }
            eprintln!("codes, {m} {n} {k}: {worst:.3} of what is allowed");
            assert!(worst <= 1.0, "{m} {n} {k}: {worst} times what is allowed");
        }
    }
}

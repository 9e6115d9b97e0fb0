//! Products of the library against sums in f64, where there is a GPU and the library; its scales' order on the
//! emulator.

use fathom_core::device::Device as _;
use fathom_core::fp8::{Code, E4M3 as E4M3Code};

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
        let longer = rows.next_multiple_of(4);
        let across_wider = run("transpose_f32", grid, 256, 32 * 33 * 4, (cols, longer));
        for (row, wider) in across.chunks(rows).zip(across_wider.chunks(longer)) {
            assert!(wider[..rows] == *row && wider[rows..].iter().all(|&v| v == 0.0), "{rows} by {cols} with zeros");
        }
        let wider = run("pad_f32", [rows, 1, 1], 64, 0, (rows, padded));
        for (i, row) in values.chunks(cols).enumerate() {
            assert!(row.iter().enumerate().all(|(j, &v)| across[j * rows + i] == v), "{rows} by {cols} transposed");
            let (kept, rest) = wider[i * padded..][..padded].split_at(cols);
            assert!(kept == row && rest.iter().all(|&v| v == 0.0), "{rows} by {cols} padded");
        }
    }
}

#[test]
fn codes_are_transposed() {
    for emulation in [Emulation::default(), Emulation { reverse: true, ..Emulation::default() }] {
        let device = match Cuda::emulated(emulation) {
            Ok(device) => device,
            Err(error) => return eprintln!("not tested: {error}"),
        };
        for (rows, cols) in [(16, 16), (128, 128), (144, 272), (400, 48)] {
            let values: Vec<u8> = (0..rows * cols).map(|i| (noise(7, i) * 128.0) as i8 as u8).collect();
            let from = put(&device, &values);
            let turned = device.codes_transposed(&Mat::of(&from, rows, cols, E4M3)).unwrap_or_else(|e| panic!("{e}"));
            let buffer = turned.buffer.unwrap_or_else(|| panic!("it is a copy"));
            let mut got = vec![0; rows * cols];
            device.download(&buffer, 0, &mut got).unwrap_or_else(|e| panic!("{e}"));
            for (i, row) in values.chunks(cols).enumerate() {
                assert!(row.iter().enumerate().all(|(j, &v)| got[j * rows + i] == v), "{rows} by {cols}, row {i}");
            }
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

/// The number of a code.
fn number(code: u8) -> f64 {
    <E4M3Code as Code>::decode(code.into()).into()
}

/// Element `(i, j)` of a product of codes, and what a device that keeps 14 bits within a tile may be off by: four
/// instructions cut 32 products, what was there, and their sum, by less than 2⁻¹³ of the largest of those.
fn sum_of_codes(k: usize, term: impl Fn(usize) -> (f64, f64)) -> (f64, f64) {
    let (mut sum, mut error) = (0.0, 0.0);
    for tile in (0..k).step_by(TILE) {
        let (mut partial, mut largest, mut scale) = (0f64, 0f64, 0.0);
        for l in tile..tile + TILE {
            let (product, scales) = term(l);
            partial += product;
            largest = largest.max(product.abs()).max(partial.abs());
            scale = scales;
        }
        sum += scale * partial;
        error += scale.abs() * largest * (TILE + 8) as f64 * 2f64.powi(-13);
    }
    (sum, error)
}

#[test]
fn products_of_codes() {
    let Some(device) = gpu() else { return };
    // Row counts that are no multiple of a tile, so that a wrong order of the scales shows.
    for (form, m, n, k, part) in [
        (Form::Nt, 144, 272, 1152, 272),
        (Form::Nt, 256, 384, 512, 128),
        (Form::Nn, 144, 272, 1152, 1152),
        (Form::Nn, 256, 384, 512, 256),
        (Form::Tn, 144, 272, 1152, 1),
        (Form::Tn, 256, 384, 512, 1),
    ] {
        // Codes of numbers up to 16, and of both signs.
        let code = |seed, i| (noise(seed, i).abs() * 88.0) as u8 | if noise(seed + 1, i) < 0.0 { 0x80 } else { 0 };
        let scale = |seed, i| 2f32.powi((noise(seed, i) * 6.0) as i32);
        let (rows_a, cols_a) = if form == Form::Tn { (k, m) } else { (m, k) };
        let (rows_b, cols_b) = if form == Form::Nt { (n, k) } else { (k, n) };
        let tiles = |rows: usize, cols: usize, [r, c]: [usize; 2]| (rows.div_ceil(r), cols.div_ceil(c));
        let scales_a = tiles(rows_a, cols_a, if form == Form::Tn { [TILE, 1] } else { [1, TILE] });
        let scales_b = tiles(rows_b, cols_b, if form == Form::Tn { [TILE, 1] } else { [TILE, TILE] });
        let a: Vec<u8> = (0..m * k).map(|i| code(1, i)).collect();
        let b: Vec<u8> = (0..n * k).map(|i| code(3, i)).collect();
        let sa: Vec<f32> = (0..scales_a.0 * scales_a.1).map(|i| scale(5, i)).collect();
        let sb: Vec<f32> = (0..scales_b.0 * scales_b.1).map(|i| scale(6, i)).collect();
        let [da, db] = [&a, &b].map(|x| put(&device, x));
        let [dsa, dsb] = [&sa, &sb].map(|x| put(&device, x));
        for accumulate in [false, true] {
            let c = put(&device, &vec![1f32; m * n]);
            let product = ScaledMatmul {
                form,
                m,
                n,
                k,
                part,
                a: Mat::of(&da, rows_a, cols_a, E4M3),
                a_scales: Mat::of(&dsa, scales_a.0, scales_a.1, F32),
                b: Mat::of(&db, rows_b, cols_b, E4M3),
                b_scales: Mat::of(&dsb, scales_b.0, scales_b.1, F32),
                c: Mat::of(&c, m, n, F32),
                accumulate,
            };
            if !device.matmul_fp8(&product).unwrap_or_else(|e| panic!("{e}")) {
                assert!(!device.description().contains("sm_90"), "{form:?} {m} {n} {k} is declined");
                eprintln!("not tested: products of codes are declined here ({form:?} {m} {n} {k})");
                continue;
            }
            let got = get(&device, &c, m * n);
            let mut worst = 0f64;
            for i in 0..m {
                for j in 0..n {
                    let (sum, allowed) = sum_of_codes(k, |l| {
                        let (at_a, at_b) = terms(form, (m, n, k), i, j, l);
                        let scale_a = match form {
                            Form::Tn => sa[l / TILE * m + i],
                            _ => sa[i * scales_a.1 + l / TILE],
                        };
                        let scale_b = match form {
                            Form::Nt => sb[j / TILE * scales_b.1 + l / TILE],
                            Form::Nn => sb[l / TILE * scales_b.1 + j / TILE],
                            Form::Tn => sb[l / TILE * n + j],
                        };
                        (number(a[at_a]) * number(b[at_b]), f64::from(scale_a) * f64::from(scale_b))
                    });
                    let want = sum + f64::from(u8::from(accumulate));
                    worst = worst.max((f64::from(got[i * n + j]) - want).abs() / allowed);
                }
            }
            eprintln!("codes, {form:?} {m} {n} {k}: {worst:.3} of what is allowed");
            assert!(worst <= 1.0, "{form:?} {m} {n} {k}: {worst} times what is allowed");
        }
    }
}

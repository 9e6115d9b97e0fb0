//! GEMM of FP8 matrices (E4M3 codes with scales), plain and grouped.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, Form, GemmFp8, GroupedGemmFp8, Scaled, Tiles};
use fathom_core::dtype::DType;
use fathom_core::fp8::TILE;

use super::gemm::{Product, Shape, WITH_COPIER, by_form, ring};
use crate::Cuda;
use crate::blas::ScaledMatmul;
use crate::engine::Properties;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::GEMM_FP8;
use crate::tensor_map::TensorMap;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProductFp8 {
    p: Product,
    a_scales: Mat,
    b_scales: Mat,
    part: i32,
    block: i32,
}

/// The argument of the kernel of warpgroups.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Boxed {
    a: TensorMap,
    b: TensorMap,
    product: ProductFp8,
    reserved: [i32; 4],
}

/// Bytes of shared memory of the kernel of warpgroups, whose ring has six stages.
const SHARED: usize = ring([TILE, TILE], 6);

/// The operands of a product.
struct Operands {
    a: Mat,
    a_scales: Mat,
    b: Mat,
    b_scales: Mat,
    c: Mat,
    offsets: Mat,
    result: DType,
    /// Extent of a part of the inner dimension; tiles start at its parts.
    part: usize,
    /// Rows per part of `b`.
    block: usize,
}

/// The part of a row or block tiling; `whole` for other tilings.
fn part(tiles: &Tiles<'_, Buffer>, whole: usize) -> usize {
    match *tiles {
        Tiles::Row { part } | Tiles::Block { part } => part,
        _ => whole.max(1),
    }
}

/// Bytes of shared memory of `multiply<form, tile, tile>`: two pieces of both factors, and their scales.
fn shared(form: Form, tile: usize) -> usize {
    let along = tile * (TILE + 16);
    let across = TILE * (tile + 16);
    let codes = match form {
        Form::Nt => 2 * along,
        Form::Nn => along + across,
        Form::Tn => 2 * across,
    };
    2 * (codes + 2 * tile * size_of::<f32>())
}

impl Operands {
    fn new(
        op: &'static str,
        [a, b]: [&Scaled<'_, Buffer>; 2],
        c: &fathom_core::tensor::MatMut<'_, Buffer>,
    ) -> Result<Self, CudaError> {
        Ok(Self {
            a: mat(op, &a.codes)?,
            a_scales: mat(op, &a.scales)?,
            b: mat(op, &b.codes)?,
            b_scales: mat(op, &b.scales)?,
            c: mat_mut(op, c)?,
            offsets: Mat::NONE,
            result: c.dtype(),
            part: part(&a.tiles, a.rows()),
            block: part(&b.tiles, b.rows()),
        })
    }
}

impl Cuda {
    pub(super) fn gemm_fp8(&self, call: GemmFp8<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = GemmFp8::<Buffer>::NAME;
        let (m, n, k) = call.dimensions();
        let operands = Operands::new(OP, [&call.a, &call.b], &call.c)?;
        let Operands { a, a_scales, b, b_scales, c, .. } = operands;
        let (form, part, accumulate) = (call.form, operands.block, call.out.adds());
        let product = ScaledMatmul { form, m, n, k, part, a, a_scales, b, b_scales, c, accumulate };
        if self.matmul_fp8(&product)? {
            return Ok(());
        }
        self.multiply_fp8(Shape { form: call.form, m, n, k, groups: 0 }, &operands, call.out.adds())
    }

    pub(super) fn grouped_gemm_fp8(&self, call: GroupedGemmFp8<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = GroupedGemmFp8::<Buffer>::NAME;
        let shape = Shape::grouped(call.form, call.groups, call.rows(), call.weight());
        let operands = Operands { offsets: mat(OP, &call.offsets)?, ..Operands::new(OP, [&call.a, &call.b], &call.c)? };
        self.multiply_fp8(shape, &operands, call.out.adds())
    }

    /// Whether the kernel of warpgroups computes a product. The number of rows of activations must not decide: all rows
    /// are computed in the same way.
    fn fp8_by_warpgroups(&self, shape: Shape, o: &Operands) -> bool {
        let Properties { warpgroups, shared, .. } = self.engine().properties();
        let allowed = warpgroups.is_some_and(|least| shape.k >= least) && shape.form == Form::Nt && SHARED <= shared;
        let whole = |part: usize, extent: usize| part == extent || part.is_multiple_of(TILE);
        let tiled = whole(o.part, shape.k) && whole(o.block, shape.n);
        let aligned = o.a.is_aligned(16) && o.b.is_aligned(16) && shape.in_chunks(16);
        allowed && tiled && aligned && shape.m > 0 && shape.n > 0 && shape.k > 0
    }

    /// Queues a product by this driver's kernels.
    fn multiply_fp8(&self, shape: Shape, o: &Operands, accumulate: bool) -> Result<(), CudaError> {
        let form = shape.form;
        let arguments = |tile| {
            let product = shape.product([o.a, o.b, o.c, o.offsets], o.result, [tile, tile]);
            ProductFp8 {
                p: Product { accumulate: accumulate.into(), ..product },
                a_scales: o.a_scales,
                b_scales: o.b_scales,
                // Extents of views, which fit.
                part: o.part as i32,
                block: o.block as i32,
            }
        };
        if self.fp8_by_warpgroups(shape, o) {
            let (a, b) = (self.boxes(o.a, TILE)?, self.boxes(o.b, TILE)?);
            let args = Boxed { a, b, product: arguments(TILE), reserved: [0; 4] };
            let grid = shape.grid([TILE, TILE]);
            return self.launch(GEMM_FP8, "gemm_fp8_nt_warpgroups", grid, WITH_COPIER, SHARED, &args);
        }
        let in_chunks = shape.in_chunks(16) && (form == Form::Tn || o.part.is_multiple_of(16));
        let (name, tile, threads) = if !(o.a.is_aligned(16) && o.b.is_aligned(16) && in_chunks) {
            (by_form!("gemm_fp8", form, "ragged"), 64, 128)
        } else if shape.is_large(self.engine().properties().multiprocessors) {
            (by_form!("gemm_fp8", form, "large"), 128, 256)
        } else {
            (by_form!("gemm_fp8", form, "small"), 64, 128)
        };
        self.launch(GEMM_FP8, name, shape.grid([tile, tile]), threads, shared(form, tile), &arguments(tile))
    }
}

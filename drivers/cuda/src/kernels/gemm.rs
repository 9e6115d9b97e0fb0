//! GEMM of F32 and BF16 matrices, plain and grouped.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, Form, Gemm, GroupedGemm};
use fathom_core::dtype::DType;

use crate::Cuda;
use crate::blas::Matmul;
use crate::engine::Properties;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::GEMM;
use crate::tensor_map::{Boxes, Swizzle, TensorMap};

/// `Product` of `tile.cuh`: the first part of the argument of every GEMM kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Product {
    pub(super) a: Mat,
    pub(super) b: Mat,
    pub(super) c: Mat,
    pub(super) offsets: Mat,
    pub(super) m: i32,
    pub(super) n: i32,
    pub(super) k: i32,
    pub(super) groups: i32,
    pub(super) row_tiles: i32,
    pub(super) col_tiles: i32,
    pub(super) alpha: f32,
    pub(super) accumulate: i32,
    pub(super) form: i32,
    pub(super) pairs: i32,
}

/// Threads of a kernel of warpgroups: `WITH_COPIER` of `warpgroups.cuh`.
pub(super) const WITH_COPIER: u32 = 384;

/// Rows and columns of the tile of a kernel of warpgroups for BF16, and bytes of shared memory of its ring of four.
const WARPGROUP_TILE: [usize; 2] = [128, 256];
const WARPGROUP_SHARED: usize = ring(WARPGROUP_TILE, 4);

/// Bytes of shared memory of `BoxRing` of `warpgroups.cuh`: boxes of both factors and two barriers for each stage.
pub(super) const fn ring([rows, cols]: [usize; 2], stages: usize) -> usize {
    stages * ((rows + cols) * 128 + 16)
}

/// The argument of the kernel of warpgroups.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Boxed {
    a: TensorMap,
    b: TensorMap,
    product: Product,
    reserved: [i32; 22],
}

/// The shape of a GEMM, `[m, n]` with inner dimension `k`; a grouped one has `groups > 0`, and the dimension that the
/// groups divide is that of all groups together.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) form: Form,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) groups: usize,
}

impl Shape {
    /// A product per group, over `rows` rows in all groups together, with weights `[n, k]`.
    pub(super) fn grouped(form: Form, groups: usize, rows: usize, (n, k): (usize, usize)) -> Self {
        match form {
            Form::Nt => Self { form, m: rows, n, k, groups },
            Form::Nn => Self { form, m: rows, n: k, k: n, groups },
            Form::Tn => Self { form, m: n, n: k, k: rows, groups },
        }
    }

    /// The number of tiles of `[rows, cols]` elements, down and across. Groups do not start at a tile: each may add a
    /// partial one.
    fn tiles(&self, [rows, cols]: [usize; 2]) -> (usize, usize) {
        let down = match self.form {
            Form::Nt | Form::Nn if self.groups > 0 => (self.m / rows + self.groups).min(self.m),
            _ => self.m.div_ceil(rows),
        };
        (down, self.n.div_ceil(cols))
    }

    /// The grid of a launch with tiles of `tile` rows and columns.
    pub(super) fn grid(&self, tile: [usize; 2]) -> [usize; 3] {
        let (down, across) = self.tiles(tile);
        [down * across, if self.form == Form::Tn { self.groups.max(1) } else { 1 }, 1]
    }

    /// Whether tiles of 128×128 keep `multiprocessors` busy, without many more idle rows than smaller tiles.
    pub(super) fn is_large(&self, multiprocessors: usize) -> bool {
        let grid = self.grid([128, 128]);
        let enough = grid[0] * grid[1] >= multiprocessors;
        let shared = if self.form == Form::Tn { usize::MAX } else { self.m };
        enough && self.n > 64 && self.m > 64 && (self.groups == 0 || shared / self.groups >= 96)
    }

    /// Whether tiles of 128×256 keep `multiprocessors` busy too, without many more idle columns; asked only if
    /// [`is_large`](Self::is_large).
    fn is_wide(&self, multiprocessors: usize) -> bool {
        let grid = self.grid([128, 256]);
        grid[0] * grid[1] >= multiprocessors && self.fills_wide()
    }

    /// Whether tiles of 256 columns have not many more idle ones than tiles of 128.
    fn fills_wide(&self) -> bool {
        let padded = |tile: usize| self.n.next_multiple_of(tile);
        padded(256) * 8 <= padded(128) * 9
    }

    /// Whether rows of both factors may be read in chunks of `chunk` elements.
    pub(super) fn in_chunks(&self, chunk: usize) -> bool {
        let (along_a, along_b) = match self.form {
            Form::Nt => (self.k, self.k),
            Form::Nn => (self.k, self.n),
            Form::Tn => (self.m, self.n),
        };
        along_a.is_multiple_of(chunk) && along_b.is_multiple_of(chunk)
    }

    /// The argument of a kernel with tiles of `tile` rows and columns.
    pub(super) fn product(&self, [a, b, c, offsets]: [Mat; 4], result: DType, tile: [usize; 2]) -> Product {
        let (down, across) = self.tiles(tile);
        // Extents of views fit i32, and so do their tiles.
        let int = |n: usize| n as i32;
        Product {
            a,
            b,
            c,
            offsets,
            m: int(self.m),
            n: int(self.n),
            k: int(self.k),
            groups: int(self.groups),
            row_tiles: int(down),
            col_tiles: int(across),
            alpha: 1.0,
            accumulate: 0,
            form: match self.form {
                Form::Nt => 0,
                Form::Nn => 1,
                Form::Tn => 2,
            },
            pairs: if c.is_aligned(16) { 2 } else { c.is_aligned(2 * result.size() as u64).into() },
        }
    }
}

/// Selects the kernel of a form.
macro_rules! by_form {
    ($prefix:literal, $form:expr, $suffix:literal) => {
        match $form {
            fathom_core::device::Form::Nt => concat!($prefix, "_nt_", $suffix),
            fathom_core::device::Form::Nn => concat!($prefix, "_nn_", $suffix),
            fathom_core::device::Form::Tn => concat!($prefix, "_tn_", $suffix),
        }
    };
}
pub(super) use by_form;

/// Bytes of shared memory of `multiply<form, rows, cols, depth, stages>`: its ring buffer, or the sums to be stored.
fn shared(form: Form, [rows, cols]: [usize; 2], depth: usize, stages: usize) -> usize {
    let along = |outer: usize| outer * (depth + 8);
    let across = |outer: usize| depth * (outer + 8);
    let elements = match form {
        Form::Nt => along(rows) + along(cols),
        Form::Nn => along(rows) + across(cols),
        Form::Tn => across(rows) + across(cols),
    };
    (2 * stages * elements).max(4 * rows * (cols + 8))
}

impl Cuda {
    pub(super) fn gemm(&self, call: Gemm<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Gemm::<Buffer>::NAME;
        let (m, n, k) = call.dimensions();
        let (a, b, c) = (mat(OP, &call.a)?, mat(OP, &call.b)?, mat_mut(OP, &call.c)?);
        let (form, alpha, accumulate) = (call.form, call.alpha as f32, call.out.adds());
        if self.matmul(&Matmul { form, m, n, k, a, b, c, alpha, accumulate })? {
            return Ok(());
        }
        let shape = Shape { form, m, n, k, groups: 0 };
        let types = [call.a.dtype(), call.b.dtype(), call.c.dtype()];
        self.multiply(shape, [a, b, c, Mat::NONE], types, alpha, accumulate)
    }

    pub(super) fn grouped_gemm(&self, call: GroupedGemm<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = GroupedGemm::<Buffer>::NAME;
        let shape = Shape::grouped(call.form, call.groups, call.rows(), call.weight());
        let operands = [mat(OP, &call.a)?, mat(OP, &call.b)?, mat_mut(OP, &call.c)?, mat(OP, &call.offsets)?];
        let types = [call.a.dtype(), call.b.dtype(), call.c.dtype()];
        self.multiply(shape, operands, types, 1.0, call.out.adds())
    }

    /// A factor as kernels of warpgroups bring it: boxes of `rows` rows of 128 bytes.
    pub(super) fn boxes(&self, matrix: Mat, rows: usize) -> Result<TensorMap, CudaError> {
        let cols = 128 / matrix.size() as u32;
        self.engine().tensor_map(&Boxes { matrix, rows: rows as u32, cols, swizzle: Swizzle::Bytes128 })
    }

    /// Whether the kernel of warpgroups computes a product of BF16 factors that are aligned. The number of rows of
    /// activations must not decide: all rows are computed in the same way.
    fn by_warpgroups(&self, shape: Shape) -> bool {
        let Properties { warpgroups, shared, .. } = self.engine().properties();
        let allowed = warpgroups.is_some() && shape.form == Form::Nt && WARPGROUP_SHARED <= shared;
        allowed && shape.fills_wide() && shape.m > 0 && shape.n > 0 && shape.k > 0
    }

    /// Queues a product by this driver's kernels. The operands are a, b, c and offsets, the types those of a, b and c.
    fn multiply(
        &self,
        shape: Shape,
        operands: [Mat; 4],
        [a, b, c]: [DType; 3],
        alpha: f32,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let form = shape.form;
        let aligned = operands[0].is_aligned(16) && operands[1].is_aligned(16) && shape.in_chunks(8);
        if (a, b) == (DType::BF16, DType::BF16) && aligned && self.by_warpgroups(shape) {
            let [rows, cols] = WARPGROUP_TILE;
            let product = shape.product(operands, c, WARPGROUP_TILE);
            let product = Product { alpha, accumulate: accumulate.into(), ..product };
            let (a, b) = (self.boxes(operands[0], rows)?, self.boxes(operands[1], cols)?);
            let args = Boxed { a, b, product, reserved: [0; 22] };
            let grid = shape.grid(WARPGROUP_TILE);
            return self.launch(GEMM, "gemm_nt_warpgroups", grid, WITH_COPIER, WARPGROUP_SHARED, &args);
        }
        let Properties { multiprocessors, shared: most, .. } = self.engine().properties();
        let is_large = shape.is_large(multiprocessors);
        let wide = |stages| shared(form, [128, 256], 64, stages);
        let can_be_wide = is_large && shape.is_wide(multiprocessors) && wide(3) <= most;
        let (name, tile, threads, shared) = if (a, b) != (DType::BF16, DType::BF16) {
            ("gemm_f32", [64, 64], 256, 4 * 2 * 2 * 16 * (64 + 4))
        } else if !aligned {
            (by_form!("gemm", form, "ragged"), [64, 64], 128, shared(form, [64, 64], 32, 2))
        } else if can_be_wide && wide(4) <= most {
            (by_form!("gemm", form, "wide4"), [128, 256], 256, wide(4))
        } else if can_be_wide {
            (by_form!("gemm", form, "wide3"), [128, 256], 256, wide(3))
        } else if is_large {
            (by_form!("gemm", form, "large"), [128, 128], 128, shared(form, [128, 128], 32, 4))
        } else {
            (by_form!("gemm", form, "small"), [64, 64], 128, shared(form, [64, 64], 32, 4))
        };
        let args = Product { alpha, accumulate: accumulate.into(), ..shape.product(operands, c, tile) };
        self.launch(GEMM, name, shape.grid(tile), threads, shared, &args)
    }
}

//! Quantization to FP8 codes with scales, dequantization and requantization.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{
    Call, Dequantize, Encoded, GatherCodes, GatherRows, Quantize, QuantizeBoth, Requantize, Scaled, ScaledMut,
    Tiles as Tiling,
};
use fathom_core::dtype::DType;
use fathom_core::fp8::TILE;

use super::index::word;
use super::site;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::{Module, QUANTIZE};

/// Threads that share a 1×128 tile.
const ROW_THREADS: usize = 16;
/// Columns of a block's piece of 128×1 tiles.
const COLUMNS_WIDTH: usize = 64;

/// `Tiles` of `codes.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Tiles {
    offsets: u64,
    kind: i32,
    part: i32,
    per_part: i32,
    groups: i32,
    across: i32,
    reserved: i32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Encode {
    x: Mat,
    x_scales: Mat,
    codes: Mat,
    scales: Mat,
    x_tiles: Tiles,
    tiles: Tiles,
    fault: u64,
    site: u32,
    power_of_two: i32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Both {
    first: Encode,
    codes: Mat,
    scales: Mat,
    columns: Tiles,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Gather {
    encode: Encode,
    index: Mat,
    divisor: u32,
    limit: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Decode {
    x: Mat,
    x_scales: Mat,
    y: Mat,
    x_tiles: Tiles,
}

/// Arguments of an encoding and its launch, but for the kernel's name.
pub(super) struct Encoding {
    pub(super) args: Both,
    /// Whether columns come in eights, so that wide kernels may run where their sources allow it.
    pub(super) wide: bool,
    /// 1×128 tiles, 128×1 tiles, or both: the place among names.
    tilings: usize,
    /// Blocks; of 1×128 tiles alone the number of tiles.
    blocks: usize,
    threads: u32,
    shared: usize,
}

/// Names of the kernels of a source: for each tiling and both, of F32, BF16 and any type.
macro_rules! encoding_names {
    ($source:literal) => {
        [
            [concat!($source, "_rows_f32"), concat!($source, "_rows_bf16"), concat!($source, "_rows_any")],
            [concat!($source, "_columns_f32"), concat!($source, "_columns_bf16"), concat!($source, "_columns_any")],
            [concat!($source, "_both_f32"), concat!($source, "_both_bf16"), concat!($source, "_both_any")],
        ]
    };
}
pub(super) use encoding_names;

impl Tiles {
    pub(super) const NONE: Self = Self { offsets: 0, kind: 0, part: 1, per_part: 1, groups: 0, across: 1, reserved: 0 };

    /// Tiles of a matrix of `cols` columns.
    pub(super) fn new(op: &'static str, tiles: &Tiling<'_, Buffer>, cols: usize) -> Result<Self, CudaError> {
        // A part is no longer than a side, which has the range of `i32` as `mat` checks; where a side is empty it may
        // be.
        let part = |part: usize| (i32::try_from(part).unwrap_or(i32::MAX), part.div_ceil(TILE) as i32);
        let base = Self { across: tiles_across(tiles, cols).max(1) as i32, ..Self::NONE };
        Ok(match tiles {
            Tiling::Row { part: p } => Self { part: part(*p).0, per_part: part(*p).1, ..base },
            Tiling::Column => Self { kind: 1, ..base },
            Tiling::Groups { offsets } => {
                let offsets_mat = mat(op, offsets)?;
                Self { kind: 2, offsets: offsets_mat.address(), groups: offsets.elements() as i32 - 1, ..base }
            }
            Tiling::Block { part: p } => Self { kind: 3, part: part(*p).0, per_part: part(*p).1, ..base },
        })
    }

    /// Whether any eight columns from a multiple of eight on lie in one part.
    fn keeps_eights(&self) -> bool {
        self.kind != 0 || self.part % 8 == 0
    }
}

/// Alignment of the rows of a matrix of codes at which eight codes are read or written at once, in bytes.
fn code_grain(dtype: DType) -> u64 {
    if dtype == DType::E5M6Pair { 4 } else { 8 }
}

/// The grid for `tiles` 1×128 tiles, `each` per thread.
fn row_grid(op: &'static str, tiles: usize, each: usize, threads: u32) -> Result<[usize; 3], CudaError> {
    // Tiles are counted in 32 bits, with room for the block that reaches past the last.
    if tiles > (1 << 31) {
        return Err(unsupported(op, format!("has {tiles} tiles, more than 2^31, which does not work")));
    }
    Ok([tiles.div_ceil(each * threads as usize / ROW_THREADS), 1, 1])
}

/// The number of tiles of 128 columns across a matrix of `cols` columns; each part may end in a shorter one.
fn tiles_across(tiles: &Tiling<'_, Buffer>, cols: usize) -> usize {
    match *tiles {
        Tiling::Row { part } => cols / part * part.div_ceil(TILE),
        _ => cols.div_ceil(TILE),
    }
}

impl Cuda {
    fn encode(
        &self,
        op: &'static str,
        x: (Mat, DType),
        from: Option<&Scaled<'_, Buffer>>,
        y: &ScaledMut<'_, Buffer>,
        power_of_two: bool,
    ) -> Result<(), CudaError> {
        let (rows, cols) = (y.as_ref().rows(), y.as_ref().cols());
        let (x, dtype) = x;
        let args = Encode {
            x,
            x_scales: from.map_or(Ok(Mat::NONE), |from| mat(op, &from.scales))?,
            codes: mat_mut(op, &y.codes)?,
            scales: mat_mut(op, &y.scales)?,
            x_tiles: from.map_or(Ok(Tiles::NONE), |from| Tiles::new(op, &from.tiles, cols))?,
            tiles: Tiles::new(op, &y.tiles, cols)?,
            fault: self.report(),
            site: site(op),
            power_of_two: power_of_two.into(),
        };
        let wide = cols.is_multiple_of(8)
            && args.tiles.keeps_eights()
            && (from.is_none() || args.x_tiles.keeps_eights())
            && args.codes.is_aligned(code_grain(y.codes.dtype()));
        // Eight columns of the source must have one scale, if any.
        let one_scale = from.is_none_or(|from| matches!(from.tiles, Tiling::Row { .. } | Tiling::Block { .. }));
        let of_f32 = wide && dtype == DType::F32 && x.is_aligned(16);
        let of_bf16 = wide && dtype == DType::BF16 && x.is_aligned(16);
        let of_e4m3 = wide && dtype == DType::E4M3 && x.is_aligned(8) && one_scale;
        let launch = |name, grid, threads, shared| self.launch(QUANTIZE, name, grid, threads, shared, &args);
        match y.tiles {
            Tiling::Row { .. } => {
                let (name, each) = match () {
                    () if of_f32 => ("quantize_rows_f32", 2),
                    () if of_bf16 => ("quantize_rows_bf16", 4),
                    () => ("quantize_rows_any", 1),
                };
                launch(name, row_grid(op, rows * tiles_across(&y.tiles, cols), each, 256)?, 256, 0)
            }
            Tiling::Column | Tiling::Groups { .. } => {
                let name = match () {
                    () if of_f32 => "quantize_columns_f32",
                    () if of_bf16 => "quantize_columns_bf16",
                    () if of_e4m3 => "quantize_columns_e4m3",
                    () => "quantize_columns_any",
                };
                let blocks = y.scales.rows() * cols.div_ceil(COLUMNS_WIDTH);
                launch(name, [blocks, 1, 1], 256, (8 + 1) * COLUMNS_WIDTH * 4 + 4)
            }
            Tiling::Block { .. } => {
                let name = match () {
                    () if of_f32 => "quantize_blocks_f32",
                    () if of_bf16 => "quantize_blocks_bf16",
                    () => "quantize_blocks_any",
                };
                launch(name, [y.scales.rows() * y.scales.cols(), 1, 1], 512, 32 * 4)
            }
        }
    }

    /// Arguments and launch of a kernel of `encode.cuh` that encodes `x`, or what it makes of it, of `cols` columns in
    /// the tilings of `y`.
    pub(super) fn encoding(
        &self,
        op: &'static str,
        x: Mat,
        cols: usize,
        y: &Encoded<'_, Buffer>,
    ) -> Result<Encoding, CudaError> {
        let (first, second) = match (&y.rows, &y.columns) {
            (Some(rows), columns) => (rows, columns.as_ref()),
            (None, Some(columns)) => (columns, None),
            (None, None) => return Err(unsupported(op, "has no tiling")),
        };
        let args = Both {
            first: Encode {
                x,
                x_scales: Mat::NONE,
                codes: mat_mut(op, &first.codes)?,
                scales: mat_mut(op, &first.scales)?,
                x_tiles: Tiles::NONE,
                tiles: Tiles::new(op, &first.tiles, cols)?,
                fault: self.report(),
                site: site(op),
                power_of_two: y.power_of_two.into(),
            },
            codes: second.map_or(Ok(Mat::NONE), |y| mat_mut(op, &y.codes))?,
            scales: second.map_or(Ok(Mat::NONE), |y| mat_mut(op, &y.scales))?,
            columns: second.map_or(Ok(Tiles::NONE), |y| Tiles::new(op, &y.tiles, cols))?,
        };
        let grain = code_grain(DType::E4M3);
        let codes_are_wide = args.first.codes.is_aligned(grain) && (second.is_none() || args.codes.is_aligned(grain));
        let wide = cols.is_multiple_of(8) && args.first.tiles.keeps_eights() && codes_are_wide;
        let (tiles, across) = (y.shape().0 * tiles_across(&first.tiles, cols), cols.div_ceil(COLUMNS_WIDTH));
        let (tilings, blocks, threads, shared) = match second {
            Some(columns) if cols > 0 => {
                let blocks = columns.scales.rows() * tiles_across(&first.tiles, cols);
                (2, blocks, 512, (16 + 1) * TILE * 4 + 4)
            }
            Some(_) => (2, 0, 512, 0),
            None if y.rows.is_some() => (0, tiles, 256, 0),
            None => (1, first.scales.rows() * across, 256, (8 + 1) * COLUMNS_WIDTH * 4 + 4),
        };
        Ok(Encoding { args, wide, tilings, blocks, threads, shared })
    }

    /// Launches one of the kernels `names` of `module`, for rows, columns and both, of F32, BF16 and any type; `each`
    /// is how many 1×128 tiles a thread takes where it takes several. `args` begin with those of `encoding`.
    pub(super) fn launch_encoding<A: Pod>(
        &self,
        (op, module): (&'static str, Module),
        names: [[&'static str; 3]; 3],
        each: [usize; 3],
        encoding: &Encoding,
        args: &A,
    ) -> Result<(), CudaError> {
        let x = &encoding.args.first.x;
        let kind = if encoding.wide && x.is_aligned(16) && x.dtype() < 2 { x.dtype() as usize } else { 2 };
        let grid = match encoding.tilings {
            0 => row_grid(op, encoding.blocks, each[kind], encoding.threads)?,
            _ => [encoding.blocks, 1, 1],
        };
        self.launch(module, names[encoding.tilings][kind], grid, encoding.threads, encoding.shared, args)
    }

    pub(super) fn quantize_both(&self, call: QuantizeBoth<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = QuantizeBoth::<Buffer>::NAME;
        let encoding = self.encoding(OP, mat(OP, &call.x)?, call.x.cols(), &call.y)?;
        let (at, names) = ((OP, QUANTIZE), encoding_names!("quantize"));
        if call.y.rows.is_some() && call.y.columns.is_some() {
            return self.launch_encoding(at, names, [2, 4, 1], &encoding, &encoding.args);
        }
        self.launch_encoding(at, names, [2, 4, 1], &encoding, &encoding.args.first)
    }

    pub(super) fn quantize(&self, call: Quantize<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Quantize::<Buffer>::NAME;
        self.encode(OP, (mat(OP, &call.x)?, call.x.dtype()), None, &call.y, call.power_of_two)
    }

    pub(super) fn requantize(&self, call: Requantize<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Requantize::<Buffer>::NAME;
        let codes = (mat(OP, &call.x.codes)?, call.x.codes.dtype());
        self.encode(OP, codes, Some(&call.x), &call.y, call.power_of_two)
    }

    pub(super) fn gather_codes(&self, call: GatherCodes<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = GatherCodes::<Buffer>::NAME;
        let GatherCodes { x, index, divisor, y, .. } = call;
        if let Some(rows) = y.rows {
            self.gather_rows(GatherRows::new(x.codes, index, divisor, rows.codes)?)?;
            self.gather_rows(GatherRows::new(x.scales, index, divisor, rows.scales)?)?;
        }
        let Some(columns) = y.columns else { return Ok(()) };
        let cols = x.cols();
        let encode = Encode {
            x: mat(OP, &x.codes)?,
            x_scales: mat(OP, &x.scales)?,
            codes: mat_mut(OP, &columns.codes)?,
            scales: mat_mut(OP, &columns.scales)?,
            x_tiles: Tiles::new(OP, &x.tiles, cols)?,
            tiles: Tiles::new(OP, &columns.tiles, cols)?,
            fault: self.report(),
            site: site(OP),
            power_of_two: y.power_of_two.into(),
        };
        let grain = code_grain(DType::E4M3);
        let aligned = encode.x.is_aligned(grain) && encode.codes.is_aligned(grain);
        let wide = cols.is_multiple_of(8) && encode.x_tiles.keeps_eights() && aligned;
        let name = if wide { "quantize_gathered_e4m3" } else { "quantize_gathered_any" };
        let limit = word(x.rows().saturating_mul(divisor));
        let args = Gather { encode, index: mat(OP, &index)?, divisor: word(divisor), limit };
        let blocks = columns.scales.rows() * cols.div_ceil(COLUMNS_WIDTH);
        self.launch(QUANTIZE, name, [blocks, 1, 1], 256, (8 + 1) * COLUMNS_WIDTH * 4 + 4, &args)
    }

    pub(super) fn dequantize(&self, call: Dequantize<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Dequantize::<Buffer>::NAME;
        let (rows, cols) = (call.x.rows(), call.x.cols());
        let args = Decode {
            x: mat(OP, &call.x.codes)?,
            x_scales: mat(OP, &call.x.scales)?,
            y: mat_mut(OP, &call.y)?,
            x_tiles: Tiles::new(OP, &call.x.tiles, cols)?,
        };
        let wide = cols.is_multiple_of(8)
            && args.x_tiles.keeps_eights()
            && args.x.is_aligned(code_grain(call.x.codes.dtype()))
            && args.y.is_aligned(16);
        let (name, each) = match call.y.dtype() {
            DType::F32 if wide => ("dequantize_f32", 4),
            DType::BF16 if wide => ("dequantize_bf16", 4),
            _ => ("dequantize_any", 1),
        };
        let grid = row_grid(OP, rows * tiles_across(&call.x.tiles, cols), each, 256)?;
        self.launch(QUANTIZE, name, grid, 256, 0, &args)
    }
}

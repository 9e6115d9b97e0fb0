//! Rotary position embedding with interleaved pairs.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, Rope};

use super::site;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut, wide};
use crate::memory::Buffer;
use crate::source::ROPE;

const THREADS: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: Mat,
    table: Mat,
    positions: Mat,
    fault: u64,
    heads: i32,
    head: i32,
    start: i32,
    rows: i32,
    inverse: u32,
    site: u32,
}

impl Cuda {
    pub(super) fn rope(&self, call: Rope<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Rope::<Buffer>::NAME;
        let (rows, heads, rotated) = (call.x.rows(), call.heads(), call.table.cols());
        if heads * rotated == 0 {
            return Ok(());
        }
        let (x, table) = (mat_mut(OP, &call.x)?, mat(OP, &call.table)?);
        // Eights must start where wide accesses can, in every head.
        let name = match (call.head % 8, call.start % 8) {
            (0, 0) => wide!("rope", &[x], &[table]),
            _ => "rope_any",
        };
        let pieces = heads * rotated / if name == "rope_any" { 2 } else { 8 };
        let height = (THREADS as usize).div_ceil(pieces);
        // None of these is larger than the columns of `x`, or than a block has threads.
        let [heads, head, start, height_i32] = [heads, call.head, call.start, height].map(|n| n as i32);
        let args = Args {
            x,
            table,
            positions: mat(OP, &call.positions)?,
            fault: self.report(),
            heads,
            head,
            start,
            rows: height_i32,
            inverse: call.inverse.into(),
            site: site(OP),
        };
        self.launch(ROPE, name, [rows.div_ceil(height), 1, 1], THREADS, 0, &args)
    }
}

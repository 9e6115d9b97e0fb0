//! FP8 tilings on the CPU: which elements share a scale, and how a matrix is cut into tasks.

use std::ops::Range;

use fathom_core::device::Tiles;
use fathom_core::fp8::TILE;

use super::scale::Scale;
use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::par::rows_per_block;

/// Columns that a task of 128×1 tiles takes: long enough rows to be fetched ahead, few enough for the L2 cache.
pub(super) const STRIP: usize = 1024;

/// A group of rows: its first, one past its last, and the number of its first task.
pub(super) type Group = [u32; 3];

/// [`Tiles`] of a matrix, with groups that follow one another inside it whatever the offsets hold.
#[derive(Clone, Copy)]
pub(super) struct Tiling<'a> {
    kind: Kind<'a>,
    rows: usize,
    cols: usize,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Row {
        part: usize,
    },
    Block {
        part: usize,
    },
    /// 128×1 by group, and then an entry that ends the tasks. A matrix without groups is one.
    Column {
        groups: &'a [Group],
        strips: Strips,
    },
}

/// Strips of columns of the tasks of 128×1 tiles: they restart after every `unit` columns.
#[derive(Clone, Copy)]
struct Strips {
    cols: usize,
    unit: usize,
    width: usize,
}

impl Strips {
    /// Strips of a matrix whose 1×128 tiles, restarting every `part` columns, all lie in one strip.
    fn of_parts(cols: usize, part: usize) -> Self {
        let (unit, width) = if part > STRIP { (part, STRIP) } else { (cols, STRIP / part.max(1) * part) };
        Self { cols, unit, width }
    }

    /// Strips beside one another.
    fn across(&self) -> usize {
        if self.cols == 0 { 0 } else { self.cols / self.unit * self.unit.div_ceil(self.width) }
    }

    fn strip(&self, j: usize) -> Range<usize> {
        let per_unit = self.unit.div_ceil(self.width);
        let (first, start) = (j / per_unit * self.unit, j % per_unit * self.width);
        first + start..first + self.unit.min(start + self.width)
    }
}

/// What one task encodes.
pub(super) struct Block {
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    /// Row, rows, column and columns of its scales.
    pub scales: [usize; 4],
    pub shape: Shape,
}

/// How the elements of a block share its scales.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Tiles along each row, restarting at every part.
    Rows { part: usize },
    /// A scale for each column.
    Columns,
    /// One scale.
    Whole,
}

impl<'a> Tiling<'a> {
    /// Entries of scratch that [`Tiling::new`] needs.
    pub(super) fn groups(tiles: &Tiles<'_, Buffer>) -> usize {
        match tiles {
            Tiles::Groups { offsets } => offsets.elements(),
            _ => 2,
        }
    }

    /// The tiles of a matrix of `rows × cols`.
    pub(super) fn new(
        op: &'static str,
        tiles: &Tiles<'_, Buffer>,
        (rows, cols): (usize, usize),
        groups: &'a mut [Group],
    ) -> Result<Self, CpuError> {
        let kind = match *tiles {
            Tiles::Row { part } => Kind::Row { part },
            Tiles::Block { part } => Kind::Block { part },
            Tiles::Column | Tiles::Groups { .. } => return Self::columns(op, tiles, (rows, cols), cols, groups),
        };
        Ok(Self { kind, rows, cols })
    }

    /// The 128×1 tiles of `tiles`, in blocks that hold whole 1×128 tiles which restart every `part` columns.
    pub(super) fn columns(
        op: &'static str,
        tiles: &Tiles<'_, Buffer>,
        (rows, cols): (usize, usize),
        part: usize,
        groups: &'a mut [Group],
    ) -> Result<Self, CpuError> {
        let strips = Strips::of_parts(cols, part);
        let groups = match tiles {
            Tiles::Groups { offsets } => {
                follow(mat::read::<u32>(op, offsets)?.as_slice(), rows, strips.across(), groups)
            }
            _ => follow(&[0, rows as u32], rows, strips.across(), groups),
        };
        Ok(Self { kind: Kind::Column { groups, strips }, rows, cols })
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        match self.kind {
            Kind::Row { .. } => self.rows.div_ceil(rows_per_block(self.cols)),
            Kind::Block { part } => self.rows / part * part.div_ceil(TILE) * self.cols.div_ceil(TILE),
            Kind::Column { groups, .. } => groups.last().map_or(0, |end| end[2] as usize),
        }
    }

    /// Block `i`. Different blocks share neither elements nor scales.
    pub(super) fn block(&self, i: usize) -> Block {
        match self.kind {
            Kind::Row { part } => {
                let height = rows_per_block(self.cols);
                let rows = i * height..self.rows.min((i + 1) * height);
                let scales = [rows.start, rows.len(), 0, self.cols / part * part.div_ceil(TILE)];
                Block { rows, cols: 0..self.cols, scales, shape: Shape::Rows { part } }
            }
            Kind::Block { part } => {
                let (across, down) = (self.cols.div_ceil(TILE), part.div_ceil(TILE));
                let (line, j) = (i / across, i % across);
                let (first, within) = (line / down * part, line % down * TILE);
                let rows = first + within..first + part.min(within + TILE);
                let cols = j * TILE..self.cols.min((j + 1) * TILE);
                Block { rows, cols, scales: [line, 1, j, 1], shape: Shape::Whole }
            }
            Kind::Column { groups, strips } => {
                let across = strips.across();
                let group = groups.partition_point(|g| g[2] as usize <= i) - 1;
                let [start, end, first] = groups[group].map(|v| v as usize);
                let (tile, j) = ((i - first) / across, (i - first) % across);
                let rows = start + tile * TILE..end.min(start + (tile + 1) * TILE);
                let cols = strips.strip(j);
                let scales = [start / TILE + group + tile, 1, cols.start, cols.len()];
                Block { rows, cols, scales, shape: Shape::Columns }
            }
        }
    }

    /// Calls `f` with pieces of the columns `cols` of row `r`, and what their codes are multiplied with. A row of no
    /// group has none.
    pub(super) fn pieces(
        &self,
        r: usize,
        cols: Range<usize>,
        scales: &Mat<'_, f32>,
        mut f: impl FnMut(Range<usize>, Scale<'_>),
    ) {
        match self.kind {
            Kind::Row { part } => {
                let mut at = cols.start;
                while at < cols.end {
                    let (first, tile) = (at / part * part, at % part / TILE);
                    let end = cols.end.min(first + part.min((tile + 1) * TILE));
                    f(at..end, Scale::Times(scales.row(r)[at / part * part.div_ceil(TILE) + tile]));
                    at = end;
                }
            }
            Kind::Block { part } => {
                let line = r / part * part.div_ceil(TILE) + r % part / TILE;
                let mut at = cols.start;
                while at < cols.end {
                    let end = cols.end.min((at / TILE + 1) * TILE);
                    f(at..end, Scale::Times(scales.row(line)[at / TILE]));
                    at = end;
                }
            }
            Kind::Column { groups, .. } => {
                // The group that starts last at or before `r` and is not empty, if it reaches so far.
                let after = groups[..groups.len() - 1].partition_point(|g| g[0] as usize <= r);
                let Some(group) = after.checked_sub(1) else { return };
                let [start, end, _] = groups[group].map(|v| v as usize);
                if r < end {
                    f(cols.clone(), Scale::TimesEach(&scales.row(start / TILE + group + (r - start) / TILE)[cols]));
                }
            }
        }
    }
}

/// Groups that follow one another inside `0..rows`, and the tasks of each, `across` for a tile's rows.
fn follow<'g>(offsets: &[u32], rows: usize, across: usize, groups: &'g mut [Group]) -> &'g [Group] {
    let (mut end, mut tasks) = (0, 0);
    for (group, bounds) in groups.iter_mut().zip(offsets.windows(2)) {
        let start = (bounds[0] as usize).min(rows).max(end);
        end = (bounds[1] as usize).min(rows).max(start);
        *group = [start as u32, end as u32, tasks as u32];
        tasks += (end - start).div_ceil(TILE) * across;
    }
    if let Some(last) = groups.last_mut() {
        *last = [rows as u32, rows as u32, tasks as u32];
    }
    groups
}

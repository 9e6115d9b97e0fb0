//! Which parameters a model has: names, shapes, and where each lies.
//!
//! Parameters lie in one flat buffer per group: the embedding, each layer, the head, each multi-token-prediction
//! module. Gradients and both moments of the optimiser are laid out alike, so the update is one kernel per group and
//! kind, and a group is the unit that is sharded, reduced and saved. Inside a group vectors (norm weights, biases: not
//! decayed) come first, then matrices (decayed). Names are those of the published checkpoints.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::DType;
use crate::device::{Device, Fill, Out, Primitives};
use crate::error::{InvalidOp, ensure};
use crate::tensor::{Tensor, View, ViewMut};

/// Every tensor starts on a multiple of this many elements, 64 bytes in f32: cache lines, and what cuBLAS asks for.
const ALIGN: usize = 16;

/// Where a parameter, or a stack of them, lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    group: usize,
    /// From the start of the group's vectors or matrices.
    offset: usize,
    rows: usize,
    cols: usize,
    vector: bool,
    /// Rows of each of the parameters that lie one under the other here.
    part: usize,
    /// Which of the layout's [weights](Layout::weights) it is, or is a part of.
    index: usize,
    lowest: Lowest,
}

/// The narrowest type that a matrix is multiplied in, whatever the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lowest {
    /// Linear layers and experts: what the published checkpoints hold in FP8.
    Fp8,
    /// Output head and `eh_proj`.
    Bf16,
    /// As the master weights are, in inference f32: the router.
    Master,
    /// Rows are looked up and not multiplied: the embedding. As the master weights are, in inference as it is stored.
    Lookup,
}

impl Slot {
    /// Rows of the matrix; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows of each of the parameters that lie one under the other here; all rows for one.
    pub fn part(&self) -> usize {
        self.part
    }

    /// The group it lies in.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The narrowest type it is multiplied in.
    pub fn lowest(&self) -> Lowest {
        self.lowest
    }

    /// Which of the layout's [weights](Layout::weights) it is, or is a part of.
    pub fn index(&self) -> usize {
        self.index
    }

    fn elements(&self) -> usize {
        self.rows * self.cols
    }
}

/// One parameter as a checkpoint names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The published name, such as `model.layers.3.mlp.experts.7.gate_proj.weight`.
    pub name: String,
    /// Where it lies.
    pub slot: Slot,
}

impl Parameter {
    /// `[n]` for a vector, `[rows, cols]` for a matrix.
    pub fn shape(&self) -> Vec<usize> {
        if self.slot.vector { alloc::vec![self.slot.cols] } else { alloc::vec![self.slot.rows, self.slot.cols] }
    }

    /// True for matrices, which weight decay and random initialisation apply to.
    pub fn is_matrix(&self) -> bool {
        !self.slot.vector
    }

    /// True for what the published checkpoints hold in FP8.
    pub fn is_fp8(&self) -> bool {
        self.slot.lowest == Lowest::Fp8
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.slot.elements()
    }
}

/// The extent of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Elements of the vectors, gaps included.
    pub vectors: usize,
    /// Elements of the matrices, gaps included.
    pub matrices: usize,
}

impl Group {
    /// Elements of the group's buffer.
    pub fn elements(&self) -> usize {
        self.vectors + self.matrices
    }
}

/// All parameters of a model, in the order of their groups.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    groups: Vec<Group>,
    parameters: Vec<Parameter>,
    weights: Vec<Slot>,
}

impl Layout {
    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The matrix that a parameter is or is a part of, and the row of it at which the parameter starts.
    pub fn place(&self, parameter: &Parameter) -> (Slot, usize) {
        let (slot, stack) = (parameter.slot, self.weights[parameter.slot.index]);
        (stack, (slot.offset - stack.offset) / slot.cols.max(1))
    }

    /// The matrices as products see them: parameters that lie one under the other are one.
    pub fn weights(&self) -> &[Slot] {
        &self.weights
    }

    /// Starts a group: what is declared next lies in it.
    pub(crate) fn open_group(&mut self) {
        self.groups.push(Group::default());
    }

    /// Declares a vector of `cols` elements.
    pub(crate) fn vector(&mut self, name: String, cols: usize) -> Slot {
        let slot = self.claim(1, cols, true, Lowest::Master);
        self.parameters.push(Parameter { name, slot });
        slot
    }

    /// Declares a matrix `[rows, cols]`.
    pub(crate) fn matrix(&mut self, name: String, rows: usize, cols: usize, lowest: Lowest) -> Slot {
        self.stack(rows, cols, lowest, [name])
    }

    /// Declares matrices of `cols` columns and of equally many rows that lie one under the other without gaps, as one
    /// slot of `rows` rows.
    pub(crate) fn stack(
        &mut self,
        rows: usize,
        cols: usize,
        lowest: Lowest,
        names: impl IntoIterator<Item = String>,
    ) -> Slot {
        let mut slot = self.claim(rows, cols, false, lowest);
        let first = self.parameters.len();
        self.parameters.extend(names.into_iter().map(|name| Parameter { name, slot }));
        let parts = &mut self.parameters[first..];
        slot.part = rows / parts.len().max(1);
        debug_assert_eq!(slot.part * parts.len(), rows, "the parts fill the stack");
        for (i, parameter) in parts.iter_mut().enumerate() {
            let offset = slot.offset + i * slot.part * cols;
            parameter.slot = Slot { offset, rows: slot.part, ..slot };
        }
        self.weights.push(slot);
        slot
    }

    fn claim(&mut self, rows: usize, cols: usize, vector: bool, lowest: Lowest) -> Slot {
        if self.groups.is_empty() {
            self.open_group();
        }
        let group = self.groups.len() - 1;
        let extent = &mut self.groups[group];
        let end = if vector { &mut extent.vectors } else { &mut extent.matrices };
        let slot = Slot { group, offset: *end, rows, cols, vector, part: rows, index: self.weights.len(), lowest };
        *end += slot.elements().next_multiple_of(ALIGN);
        slot
    }

    /// Which elements of a parameter lie in `range`, elements of its group.
    pub fn within(&self, parameter: &Parameter, range: &Range<usize>) -> Range<usize> {
        let (_, whole) = self.extent(&parameter.slot);
        let start = range.start.clamp(whole.start, whole.end);
        start - whole.start..range.end.clamp(start, whole.end) - whole.start
    }

    /// The group of a slot, and its elements from the start of the group's buffer.
    pub(crate) fn extent(&self, slot: &Slot) -> (usize, Range<usize>) {
        let start = self.start(slot);
        (slot.group, start..start + slot.elements())
    }

    /// Elements from the start of the group's buffer.
    fn start(&self, slot: &Slot) -> usize {
        slot.offset + if slot.vector { 0 } else { self.groups[slot.group].vectors }
    }
}

/// One value per parameter: weights, gradients, or moments. Of each group a range of elements is held here: all of it,
/// its vectors, the part of one rank, or nothing.
pub struct Parameters<D: Device> {
    layout: Layout,
    groups: Vec<Tensor<D>>,
    /// What of each group its tensor holds, in elements of the group.
    held: Vec<Range<usize>>,
    /// Of each of the layout's weights whether it counts as zero, whatever lies there, until something is written.
    unwritten: Vec<bool>,
    dtype: DType,
    /// Why a parameter may be missing, for errors.
    missing: &'static str,
}

impl<D: Primitives> Parameters<D> {
    /// All zeros.
    pub fn zeros(device: &D, layout: &Layout, dtype: DType) -> Result<Self, D::Error> {
        let whole = layout.groups.iter().map(|group| 0..group.elements()).collect();
        Self::part(device, layout, dtype, whole)
    }

    /// All zeros, without the matrices: those of an inference model.
    pub fn vectors(device: &D, layout: &Layout, dtype: DType) -> Result<Self, D::Error> {
        let vectors = layout.groups.iter().map(|group| 0..group.vectors).collect();
        let missing = "a model for inference has no master matrices";
        Ok(Self { missing, ..Self::part(device, layout, dtype, vectors)? })
    }

    /// All zeros, of each group only the elements `held`.
    pub fn part(device: &D, layout: &Layout, dtype: DType, held: Vec<Range<usize>>) -> Result<Self, D::Error> {
        crate::error::same("weights", "parts of the groups", layout.groups.len(), held.len())?;
        let zeros = |held: &Range<usize>| Tensor::<D>::zeros(device, &[held.len()], dtype);
        let groups = held.iter().map(zeros).collect::<Result<_, _>>()?;
        let missing = "a parameter that is asked for lies on another rank";
        let unwritten = alloc::vec![false; layout.weights.len()];
        Ok(Self { layout: layout.clone(), groups, held, unwritten, dtype, missing })
    }

    /// No group yet, to be [opened](Self::open) one by one.
    pub fn closed(device: &D, layout: &Layout, dtype: DType) -> Result<Self, D::Error> {
        let missing = "a parameter that is asked for lies in a group that is not open";
        Ok(Self { missing, ..Self::part(device, layout, dtype, alloc::vec![0..0; layout.groups.len()])? })
    }

    /// Makes room for the whole of a group, [cleared](Self::clear).
    pub fn open(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        let elements = self.layout.groups[group].elements();
        self.groups[group] = Tensor::<D>::empty(device, &[elements], self.dtype)?;
        self.held[group] = 0..elements;
        self.clear(device, group)?;
        let Self { layout, groups, .. } = self;
        // Sums go over whole groups, so what lies between weights must be zero.
        for slot in layout.weights.iter().filter(|slot| slot.group == group) {
            let end = layout.start(slot) + slot.elements();
            let gap = end..end.next_multiple_of(ALIGN);
            if !gap.is_empty() {
                device.fill(Fill::new(groups[group].part_mut(gap.start, 1, gap.len())?, 0.0))?;
            }
        }
        Ok(())
    }

    /// Makes a group that is held whole count as zero. Its vectors are filled, for they are only ever added to. Its
    /// matrices are much larger, and most of their gradients can be written where they would be added to zeros: until
    /// [`accumulator`](Self::accumulator), [`added_to`](Self::added_to) or [`settle`](Self::settle) is called, what is
    /// in them has no meaning.
    pub fn clear(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        let Group { vectors, .. } = self.layout.groups[group];
        ensure("weights", "a group that is cleared is held whole", self.holds_all(group))?;
        if vectors > 0 {
            device.fill(Fill::new(self.range_mut(group, 0..vectors)?, 0.0))?;
        }
        for slot in self.layout.weights.iter().filter(|slot| slot.group == group) {
            self.unwritten[slot.index] = true;
        }
        Ok(())
    }

    /// Whether all of a group is held here.
    fn holds_all(&self, group: usize) -> bool {
        self.held[group] == (0..self.layout.groups[group].elements())
    }

    /// Where a kernel that can do either adds to a weight, and whether it must replace what lies there, as it must if
    /// it is the first since the group was [cleared](Self::clear).
    pub fn accumulator(&mut self, slot: &Slot) -> Result<(ViewMut<'_, D>, Out), InvalidOp> {
        let whole = slot.vector || self.layout.weights.get(slot.index) == Some(slot);
        ensure("weights", "gradients are added to a weight with all its parts", whole)?;
        let first = !slot.vector && core::mem::take(&mut self.unwritten[slot.index]);
        Ok((self.view_mut(slot)?, Out::add_if(!first)))
    }

    /// Where a kernel that can only add does so.
    pub fn added_to(&mut self, device: &D, slot: &Slot) -> Result<ViewMut<'_, D>, D::Error> {
        let (mut view, out) = self.accumulator(slot)?;
        if !out.adds() {
            device.fill(Fill::new(view.reborrow(), 0.0))?;
        }
        Ok(view)
    }

    /// Writes the zeros of a group's weights that nothing was added to since it was [cleared](Self::clear).
    pub fn settle(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        for i in 0..self.unwritten.len() {
            if self.unwritten[i] && self.layout.weights[i].group == group {
                let slot = self.layout.weights[i];
                self.added_to(device, &slot)?;
            }
        }
        Ok(())
    }

    /// Makes room for the vectors of a group, undefined.
    pub fn open_vectors(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        let elements = self.layout.groups[group].vectors;
        self.groups[group] = Tensor::<D>::empty(device, &[elements], self.dtype)?;
        self.held[group] = 0..elements;
        Ok(())
    }

    /// Takes a group out, [settled](Self::settle); it is then closed.
    pub fn close(&mut self, device: &D, group: usize) -> Result<Tensor<D>, D::Error> {
        self.settle(device, group)?;
        self.held[group] = 0..0;
        Ok(core::mem::replace(&mut self.groups[group], Tensor::<D>::empty(device, &[0], self.dtype)?))
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The buffers of all groups, of each what is [held](Self::held).
    pub fn groups(&self) -> &[Tensor<D>] {
        &self.groups
    }

    /// The buffers of all groups, to write.
    pub fn groups_mut(&mut self) -> &mut [Tensor<D>] {
        &mut self.groups
    }

    /// What of each group is held here, in elements of the group.
    pub fn held(&self) -> &[Range<usize>] {
        &self.held
    }

    /// Elements `range` of a group, as one row.
    ///
    /// # Errors
    /// Where they are not all held here.
    pub fn range(&self, group: usize, range: Range<usize>) -> Result<View<'_, D>, InvalidOp> {
        self.groups[group].part(self.place(group, &range)?, 1, range.len())
    }

    /// As [`range`](Self::range), to write.
    pub fn range_mut(&mut self, group: usize, range: Range<usize>) -> Result<ViewMut<'_, D>, InvalidOp> {
        let place = self.place(group, &range)?;
        self.groups[group].part_mut(place, 1, range.len())
    }

    /// Where elements of a group begin in its tensor.
    fn place(&self, group: usize, range: &Range<usize>) -> Result<usize, InvalidOp> {
        let held = &self.held[group];
        let inside = held.start <= range.start && range.end <= held.end;
        ensure("weights", self.missing, inside || range.is_empty())?;
        Ok(if range.is_empty() { 0 } else { range.start - held.start })
    }

    /// The vector or matrix in `slot`.
    ///
    /// # Errors
    /// Where it is not held here: a matrix of an inference model, which has no master weights; another rank's. Where it
    /// was [cleared](Self::clear), and nothing was written since.
    pub fn view(&self, slot: &Slot) -> Result<View<'_, D>, InvalidOp> {
        self.ensure_written(slot)?;
        let (group, range) = self.layout.extent(slot);
        self.range(group, range)?.reshape(slot.rows, slot.cols)
    }

    /// As [`view`](Self::view), to write.
    pub fn view_mut(&mut self, slot: &Slot) -> Result<ViewMut<'_, D>, InvalidOp> {
        self.ensure_written(slot)?;
        let (group, range) = self.layout.extent(slot);
        self.range_mut(group, range)?.reshape(slot.rows, slot.cols)
    }

    fn ensure_written(&self, slot: &Slot) -> Result<(), InvalidOp> {
        let written = slot.vector || !self.unwritten[slot.index];
        ensure("weights", "a gradient that was cleared is written by `accumulator` or `added_to` first", written)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(Tensor::<D>::bytes).sum()
    }

    /// Which elements of a parameter are held here.
    pub fn held_of(&self, parameter: &Parameter) -> Range<usize> {
        self.layout.within(parameter, &self.held[parameter.slot.group])
    }

    /// Copies a parameter out, as it is stored. Waits for the device.
    pub fn read(&self, device: &D, parameter: &Parameter, bytes: &mut [u8]) -> Result<(), D::Error> {
        self.read_range(device, parameter, 0..parameter.elements(), bytes)
    }

    /// Copies elements `range` of a parameter out, as they are stored. Waits for the device.
    pub fn read_range(
        &self,
        device: &D,
        parameter: &Parameter,
        range: Range<usize>,
        bytes: &mut [u8],
    ) -> Result<(), D::Error> {
        let (group, whole) = self.layout.extent(&parameter.slot);
        let view = self.range(group, whole.start + range.start..whole.start + range.end)?;
        crate::error::same("read", "bytes of the parameter", view.elements() * view.dtype().size(), bytes.len())?;
        device.download(view.buffer(), view.offset() * view.dtype().size(), bytes)
    }

    /// Replaces a parameter by bytes as they are stored.
    pub fn write(&mut self, device: &D, parameter: &Parameter, bytes: &[u8]) -> Result<(), D::Error> {
        self.write_range(device, parameter, 0..parameter.elements(), bytes)
    }

    /// Replaces elements `range` of a parameter by bytes as they are stored.
    pub fn write_range(
        &mut self,
        device: &D,
        parameter: &Parameter,
        range: Range<usize>,
        bytes: &[u8],
    ) -> Result<(), D::Error> {
        let (group, whole) = self.layout.extent(&parameter.slot);
        let mut view = self.range_mut(group, whole.start + range.start..whole.start + range.end)?;
        crate::error::same("write", "bytes of the parameter", view.elements() * view.dtype().size(), bytes.len())?;
        let offset = view.offset() * view.dtype().size();
        device.upload(view.buffer_mut(), offset, bytes)
    }
}

/// The published prefix of layer `index`, `model.layers.N`.
pub(crate) fn layer_prefix(index: usize) -> String {
    format!("model.layers.{index}")
}

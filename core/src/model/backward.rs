//! The loss of a batch and the gradients of all parameters.

use alloc::vec::Vec;

use super::{Inputs, Kept, Model, Sink, Store};
use crate::device::{Kernels, Out, ReduceRows, Reduction, ScatterAddRows};
use crate::layer::moe::BalanceLoss;
use crate::tensor::Tensor;

/// What each part of the loss is multiplied by, so that micro-batches of a batch add up to its mean.
#[derive(Clone, Debug, PartialEq)]
pub struct LossScales {
    /// One over the targets of the main model in the whole batch.
    pub main: f64,
    /// For each MTP module: λ over the number of modules and over the module's targets, which are fewer by its
    /// depth in every sequence.
    pub mtp: Vec<f64>,
    /// α over the sequences of the whole batch; 0 turns the balance loss off.
    pub balance: f64,
}

/// Sums over a batch, on the device.
pub struct Losses<D: Kernels> {
    /// `[1, depths + 1]`: Σ nll of the main model and of each module, not yet divided.
    pub nll: Tensor<D>,
    /// `[1, 1]`: the balance loss, scaled.
    pub balance: Tensor<D>,
    /// `[sources, 1]`: Σ nll of the main model over the sequences of each source; none where they are not told apart.
    pub by_source: Option<Tensor<D>>,
}

impl<D: Kernels> Model<D> {
    /// Adds the gradients of the batch's scaled loss to `gradients`, and the losses to `losses`.
    ///
    /// The loss is `main·Σ nll + Σ_k mtp[k]·Σ nll_k + balance` (V3 report eq. 17, 25).
    pub fn backward(
        &self,
        inputs: &Inputs<D>,
        kept: Kept<D>,
        scales: &LossScales,
        gradients: &mut impl Sink<D>,
        losses: &mut Losses<D>,
    ) -> Result<(), D::Error> {
        self.backward_with(&mut self.whole()?, inputs, kept, scales, gradients, losses)
    }

    /// As [`backward`](Self::backward), with weights that come out of `store`.
    pub fn backward_with(
        &self,
        store: &mut impl Store<D>,
        inputs: &Inputs<D>,
        kept: Kept<D>,
        scales: &LossScales,
        sink: &mut impl Sink<D>,
        losses: &mut Losses<D>,
    ) -> Result<(), D::Error> {
        let (a, device) = (&self.architecture, &self.device);
        let (embedding, head) = (a.embedding_group(), a.head_group());
        let Kept { blocks, output, norm, hidden, mtp } = kept;
        let (t, d) = (output.shape().rows(), output.shape().cols());
        // Several prediction depths contribute to the embedding, which a tied head shares, so it is open throughout.
        sink.open(device, embedding)?;
        sink.open(device, head)?;
        store.fetch(device, embedding)?;
        store.fetch(device, head)?;
        let pass = self.pass(inputs, store, true);
        let mut dhidden = Vec::with_capacity(hidden.len());
        for (k, x) in hidden.iter().enumerate() {
            let scale = if k == 0 { scales.main } else { scales.mtp[k - 1] };
            let mut dx = pass.activation(t, d)?;
            let mut nll = pass.statistics(t, 1)?;
            let gradients = sink.gradients();
            a.head.backward(&pass, gradients, x.view(), inputs.targets[k].view(), scale, &mut nll, &mut dx)?;
            let total = losses.nll.view_mut().columns(k..k + 1)?;
            let row = nll.view().reshape(1, t)?;
            device.reduce_rows(ReduceRows::new(Reduction::Sum, row, total, Out::Add)?)?;
            if let (0, Some(of), Some(sums)) = (k, &inputs.sources, &mut losses.by_source) {
                self.add_by_source(&nll, of, sums)?;
            }
            dhidden.push(dx);
        }
        for (k, (module, saved)) in a.mtp.iter().zip(mtp).enumerate().rev() {
            let group = a.mtp_group(k);
            sink.open(device, group)?;
            store.fetch(device, group)?;
            let pass = self.pass(inputs, store, true);
            let dy = dhidden.pop().expect("one gradient per depth");
            let before = dhidden.last_mut().expect("the main model comes first");
            let (tokens, x) = (inputs.tokens[k + 1].view(), hidden[k].view());
            let (balance, gradients) = (balance_loss(scales, losses), sink.gradients());
            module.backward(&pass, gradients, saved, balance, &a.embedding, tokens, x, dy.view(), before)?;
            store.release(device, group)?;
            sink.close(device, group)?;
        }
        drop(hidden);
        let dy = dhidden.pop().expect("the main model comes first");
        let pass = self.pass(inputs, store, true);
        let mut dx = pass.activation(t, d)?;
        a.norm.backward(&pass, sink.gradients(), output.view(), &norm, dy.view(), dx.view_mut(), Out::Replace)?;
        drop((dy, output));
        store.release(device, head)?;
        store.release(device, embedding)?;
        sink.close(device, head)?;
        for (index, (block, saved)) in a.blocks.iter().zip(blocks).enumerate().rev() {
            let group = a.block_group(index);
            sink.open(device, group)?;
            store.fetch(device, group)?;
            let pass = self.pass(inputs, store, true);
            block.backward(&pass, sink.gradients(), saved, balance_loss(scales, losses), &mut dx)?;
            store.release(device, group)?;
            sink.close(device, group)?;
        }
        a.embedding.backward_weight(device, sink.gradients(), inputs.tokens[0].view(), dx.view())?;
        sink.close(device, embedding)
    }

    /// Adds the loss of every row, `nll [t, 1]`, to the sum of its sequence's source, `[sources, 1]`.
    fn add_by_source(&self, nll: &Tensor<D>, of: &Tensor<D>, sums: &mut Tensor<D>) -> Result<(), D::Error> {
        let (t, n) = (nll.shape().rows(), of.shape().rows());
        let mut sequences = Tensor::<D>::empty(&self.device, &[n, 1], nll.dtype())?;
        let rows = nll.view().reshape(n, t / n)?;
        self.device.reduce_rows(ReduceRows::new(Reduction::Sum, rows, sequences.view_mut(), Out::Replace)?)?;
        self.device.scatter_add_rows(ScatterAddRows::new(sequences.view(), of.view(), sums.view_mut())?)
    }

    /// Empty sums for `depths` MTP modules, and for `sources` sources if there are any to tell apart.
    pub fn losses(&self, depths: usize, sources: usize) -> Result<Losses<D>, D::Error> {
        let dtype = self.precision.statistics();
        let apart = (sources > 0).then(|| Tensor::<D>::zeros(&self.device, &[sources, 1], dtype));
        Ok(Losses {
            by_source: apart.transpose()?,
            nll: Tensor::<D>::zeros(&self.device, &[1, depths + 1], dtype)?,
            balance: Tensor::<D>::zeros(&self.device, &[1, 1], dtype)?,
        })
    }
}

fn balance_loss<'a, D: Kernels>(scales: &LossScales, losses: &'a mut Losses<D>) -> Option<BalanceLoss<'a, D>> {
    (scales.balance != 0.0).then_some(BalanceLoss { alpha: scales.balance, loss: &mut losses.balance })
}

//! The loss of a batch and the gradients of all parameters.

use alloc::vec::Vec;

use super::{Inputs, Kept, Model};
use crate::device::{Kernels, Out, ReduceRows, Reduction, ScatterAddRows};
use crate::layer::moe::BalanceLoss;
use crate::tensor::Tensor;
use crate::weights::Parameters;

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
        gradients: &mut Parameters<D>,
        losses: &mut Losses<D>,
    ) -> Result<(), D::Error> {
        let a = &self.architecture;
        let copies = self.copies()?;
        let pass = self.pass(inputs, &copies, true);
        let Kept { blocks, output, norm, hidden, mtp } = kept;
        let (t, d) = (output.shape().rows(), output.shape().cols());
        let mut dhidden = Vec::with_capacity(hidden.len());
        for (k, x) in hidden.iter().enumerate() {
            let scale = if k == 0 { scales.main } else { scales.mtp[k - 1] };
            let mut dx = pass.activation(t, d)?;
            let mut nll = pass.statistics(t, 1)?;
            a.head.backward(&pass, gradients, x.view(), inputs.targets[k].view(), scale, &mut nll, &mut dx)?;
            let total = losses.nll.view_mut().columns(k..k + 1)?;
            let row = nll.view().reshape(1, t)?;
            self.device.reduce_rows(ReduceRows::new(Reduction::Sum, row, total, Out::Add)?)?;
            if let (0, Some(of), Some(sums)) = (k, &inputs.sources, &mut losses.by_source) {
                self.add_by_source(&nll, of, sums)?;
            }
            dhidden.push(dx);
        }
        for (k, (module, saved)) in a.mtp.iter().zip(mtp).enumerate().rev() {
            let dy = dhidden.pop().expect("one gradient per depth");
            let before = dhidden.last_mut().expect("the main model comes first");
            let (tokens, x) = (inputs.tokens[k + 1].view(), hidden[k].view());
            let balance = balance_loss(scales, losses);
            module.backward(&pass, gradients, saved, balance, &a.embedding, tokens, x, dy.view(), before)?;
        }
        drop(hidden);
        let dy = dhidden.pop().expect("the main model comes first");
        let mut dx = pass.activation(t, d)?;
        a.norm.backward(&pass, gradients, output.view(), &norm, dy.view(), dx.view_mut(), Out::Replace)?;
        drop((dy, output));
        for (block, saved) in a.blocks.iter().zip(blocks).rev() {
            block.backward(&pass, gradients, saved, balance_loss(scales, losses), &mut dx)?;
        }
        a.embedding.backward_weight(&self.device, gradients, inputs.tokens[0].view(), dx.view())
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

//! Exponential moving average (EMA) of the weights, in host memory (V3 report §3.2.3): an early estimate of the model
//! after the learning rate has decayed.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::DType;
use crate::device::Kernels;
use crate::error::{ensure, same};
use crate::weights::{Layout, Parameter, Parameters};

/// How much smaller than the device's own [`chunk`](crate::device::Capabilities::chunk) is what comes from it at a
/// time: the weights and their average then stay in a CPU's nearest cache, and a wait for a GPU brings megabytes.
const SHARE: usize = 32;

/// The exponential moving average of a model's weights in f32, in memory of the host.
///
/// After `n` updates it is `Σ dⁿ⁻ⁱ·wᵢ / Σ dⁿ⁻ⁱ` over the weights `wᵢ` after each: a mean whose shares fade by the decay
/// `d` and sum to one from the first update on, so the random weights of the start do not linger in it.
pub struct Ema {
    decay: f64,
    updates: u64,
    layout: Layout,
    /// What of each group is averaged here, in elements of the group.
    held: Vec<Range<usize>>,
    /// Averages of what is held, in the groups of [`Parameters`].
    groups: Vec<Vec<f32>>,
    chunk: Vec<f32>,
}

impl Ema {
    /// An average of nothing yet. `decay` is at least 0 and below 1; 0.999 looks back a thousand steps.
    pub fn new(decay: f64, layout: &Layout) -> Self {
        Self::part(decay, layout, layout.groups().iter().map(|group| 0..group.elements()).collect())
    }

    /// As [`new`](Self::new), of the elements `held` of each group: one rank's part.
    pub fn part(decay: f64, layout: &Layout, held: Vec<Range<usize>>) -> Self {
        let groups = held.iter().map(|held| vec![0.0; held.len()]).collect();
        Self { decay, updates: 0, layout: layout.clone(), held, groups, chunk: Vec::new() }
    }

    /// Host memory in bytes of an average of such parameters.
    pub fn bytes(layout: &Layout) -> u64 {
        layout.groups().iter().map(|group| 4 * group.elements() as u64).sum()
    }

    /// Takes the weights as they are now into the average. Waits for the device.
    ///
    /// # Errors
    /// Weights of another layout, or that are not f32.
    pub fn update<D: Kernels>(&mut self, device: &D, weights: &Parameters<D>) -> Result<(), D::Error> {
        ensure("ema", "averages f32 weights", weights.dtype() == DType::F32)?;
        same("ema", "groups of the weights", self.groups.len(), weights.groups().len())?;
        self.updates += 1;
        let piece = (device.capabilities().chunk / SHARE).max(1);
        self.chunk.resize(piece, 0.0);
        // Shares sum to (1 − dⁿ)/(1 − d); the newest has one of them.
        let rate = ((1.0 - self.decay) / (1.0 - libm::pow(self.decay, self.updates as f64))) as f32;
        for (number, average) in self.groups.iter_mut().enumerate() {
            let view = weights.range(number, self.held[number].clone())?;
            for (number, part) in average.chunks_mut(piece).enumerate() {
                let chunk = &mut self.chunk[..part.len()];
                let offset = (view.offset() + number * piece) * size_of::<f32>();
                device.download(view.buffer(), offset, bytemuck::cast_slice_mut(chunk))?;
                for (average, &weight) in part.iter_mut().zip(&*chunk) {
                    *average += rate * (weight - *average);
                }
            }
        }
        Ok(())
    }

    /// Number of updates in the average.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The parameters it averages.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What of each group is averaged here, in elements of the group.
    pub fn held(&self) -> &[Range<usize>] {
        &self.held
    }

    /// The average of a parameter of its [layout](Self::layout), row by row, as far as it is [held](Self::held) here.
    pub fn parameter(&self, parameter: &Parameter) -> &[f32] {
        let (group, range) = self.place(parameter);
        &self.groups[group][range]
    }

    /// The group of a parameter, and where in it lies what is held of the parameter.
    fn place(&self, parameter: &Parameter) -> (usize, Range<usize>) {
        let (group, whole) = self.layout.extent(&parameter.slot);
        let held = &self.held[group];
        let start = whole.start.clamp(held.start, held.end);
        (group, start - held.start..whole.end.clamp(start, held.end) - held.start)
    }

    /// Takes up an average that was saved after `updates`: `fill` is given every parameter, to write the values that
    /// are held of it.
    ///
    /// # Errors
    /// Those of `fill`; the average is then not to be used.
    pub fn restore<E>(
        &mut self,
        updates: u64,
        mut fill: impl FnMut(&Parameter, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let layout = self.layout.clone();
        for parameter in layout.parameters() {
            let (group, range) = self.place(parameter);
            fill(parameter, &mut self.groups[group][range])?;
        }
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::device::Host;
    use crate::model::Architecture;

    #[test]
    fn it_is_the_mean_that_its_description_says() {
        let device = Host::new();
        let config = ModelConfig { vocab_size: 300, hidden_size: 16, ..ModelConfig::tiny() };
        let layout = Architecture::new(&config).layout().clone();
        let mut weights = Parameters::zeros(&device, &layout, DType::F32).expect("memory");
        let decay = 0.75;
        let mut ema = Ema::new(decay, &layout);
        let parameters = layout.parameters();
        let some = [&parameters[0], &parameters[parameters.len() / 2], &parameters[parameters.len() - 1]];
        let value = |step: usize, which: usize, i: usize| libm::sin((step * 37 + which * 11 + i) as f64) as f32;
        for step in 0..5 {
            for (which, parameter) in some.iter().enumerate() {
                let values: Vec<f32> = (0..parameter.elements()).map(|i| value(step, which, i)).collect();
                weights.write(&device, parameter, bytemuck::cast_slice(&values)).expect("room");
            }
            ema.update(&device, &weights).expect("f32 weights");
            for (which, parameter) in some.iter().enumerate() {
                for (i, &got) in ema.parameter(parameter).iter().enumerate().step_by(7) {
                    let share = |s: usize| libm::pow(decay, (step - s) as f64);
                    let total: f64 = (0..=step).map(share).sum();
                    let want: f64 = (0..=step).map(|s| share(s) * f64::from(value(s, which, i))).sum::<f64>() / total;
                    assert!((f64::from(got) - want).abs() < 1e-6, "step {step}: {got} for {want}");
                }
            }
        }
        assert_eq!(ema.updates(), 5);
        assert_eq!(Ema::bytes(&layout), weights.bytes() as u64);

        let mut again = Ema::new(decay, &layout);
        let copied: Result<(), ()> = again.restore(5, |parameter, to| {
            to.copy_from_slice(ema.parameter(parameter));
            Ok(())
        });
        copied.expect("cannot fail");
        ema.update(&device, &weights).expect("f32 weights");
        again.update(&device, &weights).expect("f32 weights");
        assert!(parameters.iter().all(|p| ema.parameter(p) == again.parameter(p)), "it goes on as it was");
    }

    #[test]
    fn weights_it_cannot_average_are_refused() {
        let device = Host::new();
        let layout = Architecture::new(&ModelConfig::tiny()).layout().clone();
        let weights = Parameters::zeros(&device, &layout, DType::F64).expect("memory");
        assert!(Ema::new(0.9, &layout).update(&device, &weights).is_err());
    }
}

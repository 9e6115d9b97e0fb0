//! Exponential moving average (EMA) of the weights (V3 report §3.2.3): an early estimate of the model after the
//! learning rate has decayed.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::DType;
use crate::device::{Fill, Kernels, Lerp};
use crate::error::{ensure, same};
use crate::weights::{Layout, Parameter, Parameters};

/// How much smaller than the device's own [`chunk`](crate::device::Capabilities::chunk) is what comes from it at a
/// time: the weights and their average then stay in a CPU's nearest cache, and a wait for a GPU brings megabytes.
const SHARE: usize = 32;

/// Where an average of the weights is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmaMemory {
    /// Memory of the device, 4 bytes an element; an update is a kernel that waits for nothing.
    #[default]
    Device,
    /// Memory of the host, 4 bytes an element; an update downloads all weights.
    Host,
}

/// The exponential moving average of a model's weights in f32.
///
/// After `n` updates it is `Σ dⁿ⁻ⁱ·wᵢ / Σ dⁿ⁻ⁱ` over the weights `wᵢ` after each: a mean whose shares fade by the decay
/// `d` and sum to one from the first update on, so the random weights of the start do not linger in it. It has the same
/// bits in either [memory](EmaMemory) on a device that computes in f32.
pub struct Ema<D: Kernels> {
    decay: f64,
    updates: u64,
    layout: Layout,
    /// What of each group is averaged here, in elements of the group.
    held: Vec<Range<usize>>,
    averages: Averages<D>,
}

/// Averages of what is held, in the groups of [`Parameters`].
enum Averages<D: Kernels> {
    Device(Parameters<D>),
    Host { groups: Vec<Vec<f32>>, chunk: Vec<f32> },
}

impl<D: Kernels> Ema<D> {
    /// An average of nothing yet. `decay` is at least 0 and below 1; 0.999 looks back a thousand steps.
    ///
    /// # Errors
    /// Of kind [`OutOfMemory`](crate::error::ErrorKind::OutOfMemory) where the device has no room.
    pub fn new(device: &D, decay: f64, layout: &Layout, memory: EmaMemory) -> Result<Self, D::Error> {
        let whole = layout.groups().iter().map(|group| 0..group.elements()).collect();
        Self::part(device, decay, layout, whole, memory)
    }

    /// As [`new`](Self::new), of the elements `held` of each group: one rank's part.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn part(
        device: &D,
        decay: f64,
        layout: &Layout,
        held: Vec<Range<usize>>,
        memory: EmaMemory,
    ) -> Result<Self, D::Error> {
        let averages = match memory {
            EmaMemory::Device => Averages::Device(Parameters::part(device, layout, DType::F32, held.clone())?),
            EmaMemory::Host => {
                Averages::Host { groups: held.iter().map(|held| vec![0.0; held.len()]).collect(), chunk: Vec::new() }
            }
        };
        Ok(Self { decay, updates: 0, layout: layout.clone(), held, averages })
    }

    /// Bytes of an average of the elements `held` of each group.
    pub fn bytes(held: &[Range<usize>]) -> u64 {
        held.iter().fold(0, |sum: u64, held| sum.saturating_add((held.len() as u64).saturating_mul(4)))
    }

    /// Takes the weights as they are now into the average. Waits for the device only where the average is the host's.
    ///
    /// # Errors
    /// Weights of another layout, or that are not f32.
    pub fn update(&mut self, device: &D, weights: &Parameters<D>) -> Result<(), D::Error> {
        ensure("ema", "averages f32 weights", weights.dtype() == DType::F32)?;
        same("ema", "groups of the weights", self.held.len(), weights.groups().len())?;
        self.updates += 1;
        // Shares sum to (1 − dⁿ)/(1 − d); the newest has one of them.
        let rate = (1.0 - self.decay) / (1.0 - libm::pow(self.decay, self.updates as f64));
        match &mut self.averages {
            Averages::Device(averages) => {
                for (number, held) in self.held.iter().enumerate().filter(|(_, held)| !held.is_empty()) {
                    let average = averages.range_mut(number, held.clone())?;
                    device.lerp(Lerp::new(average, weights.range(number, held.clone())?, rate)?)?;
                }
                Ok(())
            }
            Averages::Host { groups, chunk } => {
                let (piece, rate) = ((device.capabilities().chunk / SHARE).max(1), rate as f32);
                chunk.resize(piece, 0.0);
                for (number, average) in groups.iter_mut().enumerate() {
                    let view = weights.range(number, self.held[number].clone())?;
                    for (number, part) in average.chunks_mut(piece).enumerate() {
                        let chunk = &mut chunk[..part.len()];
                        let offset = (view.offset() + number * piece) * size_of::<f32>();
                        device.download(view.buffer(), offset, bytemuck::cast_slice_mut(chunk))?;
                        for (average, &weight) in part.iter_mut().zip(&*chunk) {
                            *average += rate * (weight - *average);
                        }
                    }
                }
                Ok(())
            }
        }
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

    /// Copies out the average of a parameter of its [layout](Self::layout), row by row, as far as it is
    /// [held](Self::held) here: f32 as bytes. Waits for the device.
    ///
    /// # Errors
    /// Where `bytes` are not as many as are held.
    pub fn read(&self, device: &D, parameter: &Parameter, bytes: &mut [u8]) -> Result<(), D::Error> {
        match &self.averages {
            Averages::Device(averages) => averages.read_range(device, parameter, averages.held_of(parameter), bytes),
            Averages::Host { groups, .. } => {
                let (group, range) = self.place(parameter);
                same("read", "bytes of the parameter", range.len() * size_of::<f32>(), bytes.len())?;
                bytes.copy_from_slice(bytemuck::cast_slice(&groups[group][range]));
                Ok(())
            }
        }
    }

    /// The group of a parameter, and where in it lies what is held of the parameter.
    fn place(&self, parameter: &Parameter) -> (usize, Range<usize>) {
        let (group, whole) = self.layout.extent(&parameter.slot);
        let held = &self.held[group];
        let start = whole.start.clamp(held.start, held.end);
        (group, start - held.start..whole.end.clamp(start, held.end) - held.start)
    }

    /// Forgets all updates.
    ///
    /// # Errors
    /// Those of the device.
    pub fn clear(&mut self, device: &D) -> Result<(), D::Error> {
        self.updates = 0;
        match &mut self.averages {
            Averages::Device(averages) => {
                averages.groups_mut().iter_mut().try_for_each(|group| device.fill(Fill::new(group.view_mut(), 0.0)))
            }
            Averages::Host { groups, .. } => {
                groups.iter_mut().for_each(|group| group.fill(0.0));
                Ok(())
            }
        }
    }

    /// Takes up an average that was saved after `updates`: `fill` is given every parameter, to write the values that
    /// are held of it.
    ///
    /// # Errors
    /// Those of `fill` and of the device, given to `fail` with the parameter; the average is then not to be used.
    pub fn restore<E>(
        &mut self,
        device: &D,
        updates: u64,
        mut fill: impl FnMut(&Parameter, &mut [f32]) -> Result<(), E>,
        fail: impl Fn(&Parameter, D::Error) -> E,
    ) -> Result<(), E> {
        let layout = self.layout.clone();
        let mut values = Vec::new();
        for parameter in layout.parameters() {
            let (group, range) = self.place(parameter);
            match &mut self.averages {
                Averages::Host { groups, .. } => fill(parameter, &mut groups[group][range])?,
                Averages::Device(averages) => {
                    values.resize(range.len(), 0.0);
                    fill(parameter, &mut values)?;
                    let (held, bytes) = (averages.held_of(parameter), bytemuck::cast_slice(&values));
                    averages.write_range(device, parameter, held, bytes).map_err(|error| fail(parameter, error))?;
                }
            }
        }
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::device::{Dry, Host, HostError};
    use crate::model::Architecture;

    fn layout() -> Layout {
        let config = ModelConfig { vocab_size: 300, hidden_size: 16, ..ModelConfig::tiny() };
        Architecture::new(&config).layout().clone()
    }

    fn value(step: usize, which: usize, i: usize) -> f32 {
        libm::sin((step * 37 + which * 11 + i) as f64) as f32
    }

    fn read<D: Kernels>(ema: &Ema<D>, device: &D, parameter: &Parameter) -> Vec<f32> {
        let mut values = vec![0.0; ema.layout().within(parameter, &ema.held()[parameter.slot.group()]).len()];
        ema.read(device, parameter, bytemuck::cast_slice_mut(&mut values)).expect("as many bytes");
        values
    }

    fn write<D: Kernels>(weights: &mut Parameters<D>, device: &D, step: usize) {
        for (which, parameter) in weights.layout().clone().parameters().iter().enumerate() {
            let values: Vec<f32> = (0..parameter.elements()).map(|i| value(step, which, i)).collect();
            weights.write(device, parameter, bytemuck::cast_slice(&values)).expect("room");
        }
    }

    #[test]
    fn it_is_the_mean_that_its_description_says() {
        let (device, layout, decay) = (Host::new(), layout(), 0.75);
        for memory in [EmaMemory::Device, EmaMemory::Host] {
            let mut weights = Parameters::zeros(&device, &layout, DType::F32).expect("memory");
            let mut ema = Ema::new(&device, decay, &layout, memory).expect("memory");
            let parameters = layout.parameters();
            for step in 0..5 {
                write(&mut weights, &device, step);
                ema.update(&device, &weights).expect("f32 weights");
                for which in [0, parameters.len() / 2, parameters.len() - 1] {
                    for (i, got) in read(&ema, &device, &parameters[which]).into_iter().enumerate().step_by(7) {
                        let share = |s: usize| libm::pow(decay, (step - s) as f64);
                        let total: f64 = (0..=step).map(share).sum();
                        let sum: f64 = (0..=step).map(|s| share(s) * f64::from(value(s, which, i))).sum();
                        let want = sum / total;
                        assert!((f64::from(got) - want).abs() < 1e-6, "{memory:?}, step {step}: {got} for {want}");
                    }
                }
            }
            assert_eq!(ema.updates(), 5);
            assert_eq!(Ema::<Host>::bytes(ema.held()), weights.bytes() as u64);

            let mut again = Ema::new(&device, decay, &layout, memory).expect("memory");
            let copied: Result<(), HostError> = again.restore(
                &device,
                5,
                |parameter, to| {
                    to.copy_from_slice(&read(&ema, &device, parameter));
                    Ok(())
                },
                |_, error| error,
            );
            copied.expect("room");
            ema.update(&device, &weights).expect("f32 weights");
            again.update(&device, &weights).expect("f32 weights");
            let same = |p: &Parameter| read(&ema, &device, p) == read(&again, &device, p);
            assert!(parameters.iter().all(same), "it goes on as it was");

            // Cleared, it begins again: the first update is the weights themselves.
            ema.clear(&device).expect("zeros");
            ema.update(&device, &weights).expect("f32 weights");
            for (which, parameter) in parameters.iter().enumerate() {
                let want: Vec<f32> = (0..parameter.elements()).map(|i| value(4, which, i)).collect();
                assert_eq!(read(&ema, &device, parameter), want, "{memory:?}");
            }
        }
    }

    #[test]
    fn a_part_is_that_of_the_whole() {
        let (device, layout) = (Host::new(), layout());
        let mut weights = Parameters::zeros(&device, &layout, DType::F32).expect("memory");
        let held: Vec<_> = layout.groups().iter().map(|g| g.elements() / 3..g.elements() / 2).collect();
        for memory in [EmaMemory::Device, EmaMemory::Host] {
            let mut whole = Ema::new(&device, 0.9, &layout, memory).expect("memory");
            let mut part = Ema::part(&device, 0.9, &layout, held.clone(), memory).expect("memory");
            for step in 0..3 {
                write(&mut weights, &device, step);
                whole.update(&device, &weights).expect("f32 weights");
                part.update(&device, &weights).expect("f32 weights");
            }
            for parameter in layout.parameters() {
                let range = layout.within(parameter, &held[parameter.slot.group()]);
                assert_eq!(read(&part, &device, parameter), read(&whole, &device, parameter)[range], "{memory:?}");
            }
        }
    }

    #[test]
    fn on_the_device_nothing_is_downloaded() {
        let (device, layout) = (Dry::new(), layout());
        let weights = Parameters::zeros(&device, &layout, DType::F32).expect("counts");
        let mut ema = Ema::new(&device, 0.9, &layout, EmaMemory::Device).expect("counts");
        device.reset();
        ema.update(&device, &weights).expect("f32 weights");
        let tally = device.tally();
        assert_eq!((tally.uploaded, tally.downloaded), (0, 0));
        let (calls, groups) = (tally.kernel("lerp").map(|k| k.calls), layout.groups().len() as u64);
        assert_eq!((calls, tally.calls()), (Some(groups), groups));
    }

    #[test]
    fn weights_it_cannot_average_are_refused() {
        let (device, layout) = (Host::new(), Architecture::new(&ModelConfig::tiny()).layout().clone());
        let weights = Parameters::zeros(&device, &layout, DType::F64).expect("memory");
        for memory in [EmaMemory::Device, EmaMemory::Host] {
            let mut ema = Ema::new(&device, 0.9, &layout, memory).expect("memory");
            assert!(ema.update(&device, &weights).is_err());
        }
    }
}

//! Timers for work on a device that returns before the work is done.

use std::time::Instant;

use fathom_core::DType;
use fathom_core::device::{Device as _, Fill, Kernels};
use fathom_core::tensor::Tensor;
use fathom_cpu::Cpu;
use fathom_cuda::Cuda;

/// Operations of a device that timing needs beside its kernels.
pub(crate) trait Watch: Kernels {
    /// Seconds that the device takes for `work`, from idle to idle.
    fn elapsed(&self, work: &mut dyn FnMut() -> Result<(), Self::Error>) -> Result<f64, Self::Error> {
        self.flush()?;
        let start = Instant::now();
        work()?;
        self.flush()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Whether the device is a GPU, whose calls return before the work is done.
    fn is_gpu(&self) -> bool {
        false
    }

    /// Prepares everything that is otherwise made on first use.
    fn warm_up(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A remark on the work done so far, such as the use of CUDA graphs.
    fn remark(&self) -> Option<String> {
        None
    }
}

impl Watch for Cpu {}

impl Watch for Cuda {
    fn elapsed(&self, work: &mut dyn FnMut() -> Result<(), Self::Error>) -> Result<f64, Self::Error> {
        Cuda::elapsed(self, work)
    }

    fn is_gpu(&self) -> bool {
        !self.capabilities().name.contains("emulated")
    }

    fn warm_up(&self) -> Result<(), Self::Error> {
        let start = Instant::now();
        Cuda::warm_up(self, |_, _| ())?;
        say!("{}; kernels ready after {:.1} s", self.description(), start.elapsed().as_secs_f64());
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        let graphs = self.graph_use();
        let refused = graphs.refused.map_or(String::new(), |why| format!("; refused: {why}"));
        Some(format!(
            "graphs: {} commands issued one by one, {} in {} launches of {} graphs, {} arguments changed{refused}",
            graphs.issued, graphs.replayed, graphs.launches, graphs.captured, graphs.updated
        ))
    }
}

/// More bytes than fit into the caches of a GPU.
const EVICT: usize = 128 << 20;

/// Times work on a device, with cold caches if requested.
pub(crate) struct Timer<'a, D: Watch> {
    device: &'a D,
    /// Memory that is written between runs, to evict the caches.
    other: Option<Tensor<D>>,
}

impl<'a, D: Watch> Timer<'a, D> {
    /// Creates a timer; with `cold`, the caches of a GPU hold none of the operands when a run begins.
    pub(crate) fn new(device: &'a D, cold: bool) -> Result<Self, D::Error> {
        let other =
            (cold && device.is_gpu()).then(|| Tensor::<D>::zeros(device, &[1, EVICT / 4], DType::F32)).transpose()?;
        Ok(Self { device, other })
    }

    /// Mean seconds of a run of `work`, over runs that take about `budget` seconds together. The time of evicting the
    /// caches between runs is measured separately and subtracted.
    pub(crate) fn time(
        &mut self,
        budget: f64,
        mut work: impl FnMut() -> Result<(), D::Error>,
    ) -> Result<f64, D::Error> {
        work()?;
        let once = self.runs(1, &mut work)?;
        let each = once.max(1e-6);
        let count = ((budget / each) as usize).clamp(1, 200);
        // The smaller of two: whatever else runs on the machine makes it longer, not shorter.
        let (all, between) = (self.runs(count, &mut work)?.min(self.runs(count, &mut work)?), self.between(count)?);
        Ok(((all - between) / count as f64).max(1e-9))
    }

    fn runs(&mut self, count: usize, work: &mut impl FnMut() -> Result<(), D::Error>) -> Result<f64, D::Error> {
        let device = self.device;
        device.elapsed(&mut || {
            for _ in 0..count {
                self.evict()?;
                work()?;
            }
            Ok(())
        })
    }

    fn between(&mut self, count: usize) -> Result<f64, D::Error> {
        if self.other.is_none() { Ok(0.0) } else { self.runs(count, &mut || Ok(())) }
    }

    fn evict(&mut self) -> Result<(), D::Error> {
        match &mut self.other {
            Some(other) => self.device.fill(Fill::new(other.view_mut(), 0.0)),
            None => Ok(()),
        }
    }
}

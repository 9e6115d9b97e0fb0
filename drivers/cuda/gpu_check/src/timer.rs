//! Timers for work on a device that returns before the work is done.

use std::time::Instant;

use fathom_core::DType;
use fathom_core::device::{Device as _, Fill, Kernels};
use fathom_core::tensor::Tensor;
use fathom_cpu::Cpu;
use fathom_cuda::Cuda;

/// What is asked of a device beside its kernels.
pub(crate) trait Watch: Kernels {
    /// Seconds the device takes for `work`, from idle to idle.
    fn elapsed(&self, work: &mut dyn FnMut() -> Result<(), Self::Error>) -> Result<f64, Self::Error> {
        self.flush()?;
        let start = Instant::now();
        work()?;
        self.flush()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Whether it is a GPU, whose work is only asked for by the calls that ask for it.
    fn is_gpu(&self) -> bool {
        false
    }

    /// Gets everything ready that is otherwise made when it is first needed.
    fn warm_up(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// How work was done so far, where there is something to say.
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

/// More bytes than the caches of a GPU hold.
const EVICT: usize = 128 << 20;

/// Times work on a device, with its caches full of something else where that is asked for.
pub(crate) struct Timer<'a, D: Watch> {
    device: &'a D,
    /// Written between runs.
    other: Option<Tensor<D>>,
}

impl<'a, D: Watch> Timer<'a, D> {
    /// `cold`: caches hold nothing of the work's when it begins; of a GPU only.
    pub(crate) fn new(device: &'a D, cold: bool) -> Result<Self, D::Error> {
        let other =
            (cold && device.is_gpu()).then(|| Tensor::<D>::zeros(device, &[1, EVICT / 4], DType::F32)).transpose()?;
        Ok(Self { device, other })
    }

    /// Seconds that `work` takes, the mean over runs that take about `budget` seconds together. What comes between runs
    /// to make them cold is timed apart and taken off.
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

//! The host's wait for the GPU, which ends early where work there has failed without an end.

use std::sync::Weak;
use std::thread;
use std::time::Duration;

use super::driver::Pending;
use crate::engine::Watch;
use crate::error::CudaError;

/// Questions to the GPU that follow each other without a pause: a short wait costs no sleep.
const QUICK: u32 = 2000;
/// The pause between later questions.
const PAUSE: Duration = Duration::from_micros(50);
/// Questions to the GPU for each one after errors.
const RARE: u32 = 100;

/// What is asked for errors while the host waits.
#[derive(Default)]
pub(super) struct Watches(Vec<Weak<dyn Watch>>);

impl Watches {
    pub(super) fn add(&mut self, watch: Weak<dyn Watch>) {
        self.0.retain(|watch| watch.strong_count() > 0);
        self.0.push(watch);
    }

    /// Waits until `work` is done. The context must be current.
    pub(super) fn wait(&self, work: &impl Pending) -> Result<(), CudaError> {
        let watches: Vec<_> = self.0.iter().filter_map(Weak::upgrade).collect();
        if watches.is_empty() {
            return work.wait();
        }
        let mut questions = 0u32;
        loop {
            let done = work.is_done()?;
            // A collective that was aborted ends too, so errors are asked for after the end.
            if done || questions.is_multiple_of(RARE) {
                watches.iter().try_for_each(|watch| watch.check())?;
            }
            if done {
                return Ok(());
            }
            questions = questions.wrapping_add(1);
            if questions < QUICK {
                thread::yield_now();
            } else {
                thread::sleep(PAUSE);
            }
        }
    }
}

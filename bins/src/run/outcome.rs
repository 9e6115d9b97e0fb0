//! The result of a run, and its lines for the user.

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, Best, BestCheckpoint};
use crate::evaluate::Evaluated;

/// Result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps taken in all, earlier sessions included.
    pub step: u64,
    /// Tokens trained on in all.
    pub tokens: u64,
    /// True when the run was asked to stop before its end.
    pub interrupted: bool,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// The whole validation set at the end, where there is one and the end was reached.
    pub validation: Option<Evaluated>,
    /// The lowest validation loss that was measured on the way, where there is a validation set.
    pub best: Option<Best>,
    /// The checkpoint with the lowest validation loss, where it is still there.
    pub best_checkpoint: Option<BestCheckpoint>,
}

impl Outcome {
    /// Lines for the user that name the best checkpoint in `output` and the lowest validation loss; empty without a
    /// validation set.
    pub fn best_lines(&self, output: &Path) -> String {
        let at = |measured: u64, step: u64| match measured == step {
            true => String::new(),
            false => format!(", measured at step {measured}"),
        };
        let mut lines = self.best_checkpoint.map_or(String::new(), |best| {
            let folder = output.join(checkpoint::commit::name(best.step));
            let at = at(best.measured_at, best.step);
            format!("best checkpoint: {}, validation loss {:.4}{at}\n", folder.display(), best.validation_loss)
        });
        let saved = self.best_checkpoint.map(|best| best.measured_at);
        if let Some(best) = self.best.filter(|best| saved != Some(best.step)) {
            let Best { step, validation_loss } = best;
            lines += &format!(
                "lowest validation loss: {validation_loss:.4} at step {step} (no checkpoint there; \
                 checkpoint.keep_best=always keeps one)\n"
            );
        }
        lines
    }
}

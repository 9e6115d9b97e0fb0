//! Ctrl-C while `generate` runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::signals::{self, Ask};
use crate::error::{INTERRUPTED, Result};

/// What a Ctrl-C does where the one before it has not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtPrompt {
    /// Ends the program at once: a step may take long.
    End,
    /// Nothing but a line that says how to leave: the program waits for a message. SIGTERM ends it.
    Explain,
}

/// A flag that Ctrl-C raises; who acts on it takes it down.
///
/// # Errors
/// A system that does not take the handler.
pub(super) fn interrupts(again: AtPrompt) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    signals::handle(move |ask| match (raised.swap(true, Ordering::SeqCst), again) {
        (_, AtPrompt::Explain) if ask == Ask::End => std::process::exit(INTERRUPTED.into()),
        (false, _) => {}
        (true, AtPrompt::End) => std::process::exit(INTERRUPTED.into()),
        (true, AtPrompt::Explain) => eprint!("\n(Ctrl-D ends the conversation)\n> "),
    })?;
    Ok(flag)
}

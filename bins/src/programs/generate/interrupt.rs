//! Ctrl-C while `generate` runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// What a Ctrl-C does where the one before it has not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtPrompt {
    /// Ends the program at once: a step may take long.
    End,
    /// Nothing but a line that says how to leave: the program waits for a message.
    Explain,
}

/// A flag that Ctrl-C raises; who acts on it takes it down.
///
/// # Errors
/// A system that does not take the handler.
pub(super) fn interrupts(again: AtPrompt) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || match (raised.swap(true, Ordering::SeqCst), again) {
        (false, _) => {}
        (true, AtPrompt::End) => std::process::exit(130),
        (true, AtPrompt::Explain) => eprint!("\n(Ctrl-D ends the conversation)\n> "),
    })
    .map_err(|e| Error::Run(format!("cannot handle Ctrl-C: {e}")))?;
    Ok(flag)
}

//! Signals that ask a program to stop: Ctrl-C (SIGINT), SIGTERM, and SIGHUP of a terminal that goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, INTERRUPTED, Result};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Ctrl-C: what runs is to stop.
    Interrupt,
    /// SIGTERM or SIGHUP: the program is to end.
    End,
}

/// Calls `told` for each signal, on a separate thread. A SIGHUP that this program was started to ignore, as by `nohup`,
/// stays ignored.
///
/// # Errors
/// Where the system does not let signals be handled.
#[cfg(unix)]
pub fn handle(mut told: impl FnMut(Ask) + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut wanted = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let refused = |error| Error::Run(format!("cannot handle Ctrl-C: {error}"));
    let mut signals = signal_hook::iterator::Signals::new(wanted).map_err(refused)?;
    let ask = |signal| if signal == SIGINT { Ask::Interrupt } else { Ask::End };
    let listen = move || signals.forever().for_each(|signal| told(ask(signal)));
    std::thread::Builder::new().name("signals".into()).spawn(listen).map(drop).map_err(refused)
}

/// Calls `told` for each Ctrl-C, on a separate thread.
///
/// # Errors
/// Where the system does not let it be handled.
#[cfg(not(unix))]
pub fn handle(mut told: impl FnMut(Ask) + Send + 'static) -> Result<()> {
    ctrlc::set_handler(move || told(Ask::Interrupt))
        .map_err(|error| Error::Run(format!("cannot handle Ctrl-C: {error}")))
}

/// Whether this process ignores a signal, as far as the system says so.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, signal)
}

/// Whether a signal is in the mask `SigIgn` of a process's `status`.
#[cfg(unix)]
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1)
}

/// A flag that the first signal raises, so that work can be finished and saved. The second ends the program at once,
/// with exit code [`INTERRUPTED`].
///
/// # Errors
/// Where the system does not let signals be handled.
pub fn interrupts() -> Result<Arc<AtomicBool>> {
    interrupts_of(0, 1)
}

/// As [`interrupts`], for rank `rank` of `world`: rank 0 says what happens, and as launchers tell ranks twice at times,
/// the second signal counts only where it comes a second after the first.
///
/// # Errors
/// Where the system does not let signals be handled.
pub fn interrupts_of(rank: usize, world: usize) -> Result<Arc<AtomicBool>> {
    let together = if world > 1 { Duration::from_secs(1) } else { Duration::ZERO };
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let mut first: Option<Instant> = None;
    handle(move |_| {
        let since = *first.get_or_insert_with(Instant::now);
        if !raised.swap(true, Ordering::SeqCst) {
            // An engine that ends the ranks after an error tells them so, and kills them soon after.
            if world > 1 {
                std::thread::sleep(Duration::from_secs(2));
            }
            if rank == 0 {
                eprintln!("\nfinishing the step and saving; press Ctrl-C again to leave at once");
            }
        } else if since.elapsed() >= together {
            std::process::exit(INTERRUPTED.into());
        }
    })?;
    // Launchers that kill at SIGTERM hand this one on.
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&flag))
        .map_err(|e| Error::Run(format!("cannot handle SIGUSR1: {e}")))?;
    Ok(flag)
}

/// A flag that the first signal raises: the work under way is broken off, and its results so far are told or removed.
/// The second ends the program at once, with exit code [`INTERRUPTED`].
///
/// # Errors
/// Where the system does not let signals be handled.
pub fn breaks() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    handle(move |_| {
        if raised.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED.into());
        }
    })?;
    Ok(flag)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_found_in_the_status() {
        let status = "Name:\ttrain\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000180004442\n";
        assert!(ignores(status, 1) && ignores(status, 13));
        assert!(!ignores(status, 2) && !ignores(status, 15) && !ignores(status, 0) && !ignores("", 1));
        assert!(!ignores("SigIgn:\tnothing\n", 1));
    }
}

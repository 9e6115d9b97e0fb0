//! The time that this process has run.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since the first call; programs call it when they begin.
pub(crate) fn elapsed() -> Duration {
    STARTED.elapsed()
}

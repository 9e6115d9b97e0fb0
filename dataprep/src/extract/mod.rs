//! Main text of web pages, by trafilatura's method (how well, and beside what: `EXTRACTION.md`).
//!
//! Pages come from strangers, so an [`Extractor`] works on a separate thread with a deep stack: what takes too long
//! is abandoned, a panic is caught, and a page whose tree is too deep or too large is refused before anything walks it.
//! Each of these is a rule with a name, and a page that falls to one is dropped, never the run.
//!
//! The result depends on the page alone, with one exception: the time limit. It is meant for what hangs, not for what
//! is slow, so that it does not matter how busy the machine is; a page takes about 1 ms.

mod charset;
mod content;
mod density;
mod fallback;
mod marks;
mod page;
mod parse;
mod text;
mod tree;

pub use charset::decode;

use crate::document::Dropped;
use crate::error::{Error, Result};
use parse::{TooLarge, parse};
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Rule: extraction took longer than [`ExtractConfig::seconds`].
pub const TIME_LIMIT: &str = "extract.seconds";
/// Rule: the page is larger than [`ExtractConfig::max_page_bytes`].
pub const PAGE_BYTES: &str = "extract.max_page_bytes";
/// Rule: elements are nested deeper than [`ExtractConfig::max_depth`].
pub const DEPTH: &str = "extract.max_depth";
/// Rule: the page has more elements than [`ExtractConfig::max_elements`].
pub const ELEMENTS: &str = "extract.max_elements";
/// Rule: no main text was found.
pub const NO_TEXT: &str = "extract.no_text";
/// Rule: the extractor panicked.
pub const PANICKED: &str = "extract.panicked";

/// Stack of an extraction thread: 128 KiB for each level of the deepest page by default.
const STACK: usize = 64 << 20;
/// Abandoned pages that may still be worked on, in the whole program, before it gives up: each takes a core.
const MAX_ABANDONED: usize = 64;
/// Pages that were abandoned and are still being worked on.
static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Limits of extraction: size, depth and time of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExtractConfig {
    /// Time for a page. Generous: whether a page falls to it is the one thing that the machine has a say in.
    pub seconds: u64,
    /// Maximum bytes of a page, decoded.
    pub max_page_bytes: u64,
    /// Levels of nested elements. Browsers build 512.
    pub max_depth: u32,
    /// Elements of a page.
    pub max_elements: u32,
}

impl Default for ExtractConfig {
    fn default() -> Self {
        Self { seconds: 60, max_page_bytes: 10 << 20, max_depth: 512, max_elements: 500_000 }
    }
}

/// An extractor of main text, page by page.
#[derive(Debug)]
pub struct Extractor {
    config: ExtractConfig,
    worker: Option<Worker>,
}

impl Extractor {
    /// An extractor with these limits. Its thread starts with the first page.
    pub fn new(config: ExtractConfig) -> Self {
        Self { config, worker: None }
    }

    /// The main text of a page: lines of text, one a paragraph. Or the rule that the page fell to.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives no thread, [`Error::ExtractionStuck`] when too many pages are past their
    /// time and still worked on.
    pub fn extract(&mut self, page: &Arc<str>) -> Result<std::result::Result<String, Dropped>> {
        let config = self.config.clone();
        self.run(page, move |page| main_text(page, &config))
    }

    /// Runs `work` on the thread, within the time limit.
    fn run(&mut self, page: &Arc<str>, work: impl FnOnce(&str) -> Outcome + Send + 'static) -> Result<Outcome> {
        let worker = match &mut self.worker {
            Some(worker) => worker,
            none => none.insert(Worker::start()?),
        };
        let sent = worker.jobs.send(Job { page: page.clone(), work: Box::new(work) });
        let limit = Duration::from_secs(self.config.seconds);
        let outcome = match sent {
            Ok(()) => worker.outcomes.recv_timeout(limit),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        outcome.or_else(|e| {
            let late = self.worker.take().map_or(0, Worker::abandon);
            if late > MAX_ABANDONED {
                return Err(Error::ExtractionStuck { pages: late });
            }
            let seconds = self.config.seconds as f64;
            let rule = if e == RecvTimeoutError::Timeout { TIME_LIMIT } else { PANICKED };
            Ok(Err(Dropped { rule, value: seconds, threshold: seconds }))
        })
    }
}

/// The text, or the rule that the page fell to.
type Outcome = std::result::Result<String, Dropped>;

struct Job {
    page: Arc<str>,
    work: Box<dyn FnOnce(&str) -> Outcome + Send>,
}

/// A thread that extracts.
#[derive(Debug)]
struct Worker {
    jobs: mpsc::Sender<Job>,
    outcomes: mpsc::Receiver<Outcome>,
    fate: Arc<AtomicU8>,
}

/// The fates of a worker: at work, gone, or given up while at work.
const WORKING: u8 = 0;
const GONE: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Worker {
    fn start() -> Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let (send, outcomes) = mpsc::channel();
        let fate = Arc::new(AtomicU8::new(WORKING));
        let own_fate = fate.clone();
        let work = move || {
            while let Ok(Job { page, work }) = received.recv() {
                let outcome = catch_unwind(AssertUnwindSafe(|| work(&page)));
                let panicked = |_| Err(Dropped { rule: PANICKED, value: 1.0, threshold: 0.0 });
                if send.send(outcome.unwrap_or_else(panicked)).is_err() {
                    break;
                }
            }
            if own_fate.swap(GONE, Ordering::AcqRel) == GIVEN_UP {
                ABANDONED.fetch_sub(1, Ordering::AcqRel);
            }
        };
        thread::Builder::new()
            .name("extract".into())
            .stack_size(STACK)
            .spawn(work)
            .map_err(Error::io("start a thread for", "extraction".as_ref()))?;
        Ok(Self { jobs, outcomes, fate })
    }

    /// Lets the thread finish on its own; says how many are so in the whole program.
    fn abandon(self) -> usize {
        let before = ABANDONED.fetch_add(1, Ordering::AcqRel);
        if self.fate.swap(GIVEN_UP, Ordering::AcqRel) == GONE {
            return ABANDONED.fetch_sub(1, Ordering::AcqRel).saturating_sub(1);
        }
        before + 1
    }
}

/// The main text of a page, on this thread, with no time limit and no protection against panics.
///
/// # Errors
/// The rule that the page falls to.
pub fn main_text(page: &str, config: &ExtractConfig) -> std::result::Result<String, Dropped> {
    let over = |rule, value: u64, limit: u64| Err(Dropped { rule, value: value as f64, threshold: limit as f64 });
    // Places in a page have 32 bits, whatever the limit.
    let most = config.max_page_bytes.min(u32::MAX.into());
    if page.len() as u64 > most {
        return over(PAGE_BYTES, page.len() as u64, most);
    }
    let mut tree = match parse(page, config.max_depth, config.max_elements) {
        Ok(tree) => tree,
        Err(TooLarge::Elements(elements)) => return over(ELEMENTS, elements.into(), config.max_elements.into()),
        Err(TooLarge::Depth(depth)) => return over(DEPTH, depth.into(), config.max_depth.into()),
    };
    let found = content::find(&mut tree);
    let text = text::of(&tree, found);
    if text.is_empty() { over(NO_TEXT, 0, 1) } else { Ok(text) }
}

#[cfg(test)]
mod tests;

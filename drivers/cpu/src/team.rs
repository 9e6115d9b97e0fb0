//! The threads that help with a call: they stay awake for a moment after it, since another call follows.
//!
//! A step of decoding is hundreds of calls of some ten microseconds each. Waking a thread of the pool takes about as
//! long, so threads that helped look for the next call before they go back to the pool ([`PATIENCE`]). The thread that
//! calls works too; it never waits for a thread that has not begun.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rayon::ThreadPool;

/// How long a thread looks for more to do.
const PATIENCE: Duration = Duration::from_micros(200);

/// Looks at the shared state between two looks at the clock.
const LOOKS: usize = 64;

/// What the threads of a call run, each with its own number. The lifetime is that of the call.
type Work = *const (dyn Fn(usize) + Sync);

/// State that a caller and its helpers share.
struct Shared {
    /// What to run. The caller writes it while no call is open.
    work: UnsafeCell<Option<Work>>,
    /// The number of the call: odd while it is open.
    call: AtomicUsize,
    /// The number that the call's next helper gets.
    next: AtomicUsize,
    /// Helpers that the call may have.
    most: AtomicUsize,
    /// Helpers that are about to run `work`, or do.
    inside: AtomicUsize,
    /// Threads of the pool that look for calls.
    awake: AtomicUsize,
    /// No more calls will come.
    over: AtomicBool,
    /// What a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written by the one thread that holds the team's lock, and only between calls; helpers read it after
// they are counted as `inside` and have seen the call open, and the caller closes the call and waits for them before it
// goes on. What it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    /// Runs the work of call `call`, unless it is closed or has helpers enough.
    fn help(&self, call: usize) {
        // Counted first, then looked: either this thread sees that the call is closed, or its caller sees this thread.
        self.inside.fetch_add(1, Ordering::SeqCst);
        if self.call.load(Ordering::SeqCst) == call {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number <= self.most.load(Ordering::SeqCst) {
                // SAFETY: the call was open after this thread was counted, so its caller waits for this thread before
                // the work goes out of scope or another is written.
                let run = || unsafe { (*self.work.get()).map(|work| (*work)(number)) };
                if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                }
            }
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    /// Helps with calls until there was none for [`PATIENCE`].
    fn watch(&self) {
        let (mut seen, mut looks, mut since) = (0, 0usize, Instant::now());
        while !self.over.load(Ordering::Relaxed) {
            let call = self.call.load(Ordering::SeqCst);
            if call % 2 == 1 && call != seen {
                (seen, looks) = (call, 0);
                self.help(call);
                since = Instant::now();
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                if since.elapsed() > PATIENCE {
                    break;
                }
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        self.awake.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A call that is open: closed, and left by its helpers, when this goes.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.call.fetch_add(1, Ordering::SeqCst);
        let mut looks = 0usize;
        while self.0.inside.load(Ordering::SeqCst) > 0 {
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// The threads of a device.
pub(crate) struct Team {
    pool: ThreadPool,
    shared: Arc<Shared>,
    /// Held during a call.
    calling: Mutex<()>,
}

impl Team {
    pub(crate) fn new(pool: ThreadPool) -> Self {
        let shared = Shared {
            work: UnsafeCell::new(None),
            call: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            awake: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            panic: Mutex::new(None),
        };
        Self { pool, shared: Arc::new(shared), calling: Mutex::new(()) }
    }

    /// Number of threads, that of a caller among them.
    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Calls `work(i)` with different numbers `i` below `workers`, at the same time: 0 on this thread, others on
    /// threads that are free. One call must be enough to do everything.
    ///
    /// # Panics
    /// If `work` does.
    pub(crate) fn run(&self, workers: usize, work: &(dyn Fn(usize) + Sync)) {
        let lock = match self.calling.try_lock() {
            Ok(lock) => lock,
            Err(TryLockError::Poisoned(lock)) => lock.into_inner(),
            // Another call has the helpers.
            Err(TryLockError::WouldBlock) => return work(0),
        };
        let shared = &self.shared;
        let helpers = workers.min(self.threads()).saturating_sub(1);
        for _ in shared.awake.load(Ordering::SeqCst)..helpers {
            shared.awake.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(shared);
            self.pool.spawn(move || shared.watch());
        }
        // Left where a caller panicked too.
        *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        shared.next.store(1, Ordering::SeqCst);
        shared.most.store(helpers, Ordering::SeqCst);
        // SAFETY: only the lifetime changes. Helpers use the pointer while the call is open and they are counted, and
        // `Open` waits for that to end before this returns or unwinds.
        let work_of_helpers =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        // SAFETY: no call is open, and the lock keeps other callers away, so nothing reads this.
        unsafe { *shared.work.get() = Some(work_of_helpers) };
        shared.call.fetch_add(1, Ordering::SeqCst);
        let open = Open(shared);
        work(0);
        drop(open);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(lock);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::ThreadPoolBuilder;

    /// Calls of a test; few where every instruction is interpreted.
    const ROUNDS: usize = if cfg!(miri) { 25 } else { 500 };

    fn team(threads: usize) -> Team {
        Team::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
    }

    /// Takes numbers below `tasks` from `next` and counts each.
    fn count(next: &AtomicUsize, seen: &[AtomicUsize]) {
        while let Some(seen) = seen.get(next.fetch_add(1, Ordering::Relaxed)) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_task_is_done_once_and_worker_numbers_differ() {
        for threads in [1, 2, 5] {
            let team = team(threads);
            for round in 0..ROUNDS {
                let (next, tasks) = (AtomicUsize::new(0), 1 + round % 17);
                let seen: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let workers: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                team.run(threads, &|worker| {
                    workers[worker].fetch_add(1, Ordering::Relaxed);
                    count(&next, &seen);
                });
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "round {round}");
                assert!(workers.iter().all(|n| n.load(Ordering::Relaxed) <= 1), "round {round}");
                if round % 100 == 0 {
                    // Helpers have gone back to the pool.
                    std::thread::sleep(2 * PATIENCE);
                }
            }
        }
    }

    #[test]
    fn callers_at_the_same_time_and_calls_within_calls_do_not_wait_for_each_other() {
        let team = team(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS / 5 {
                        let done = AtomicUsize::new(0);
                        let (outer, seen) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 8]);
                        team.run(3, &|_| {
                            count(&outer, &seen);
                            let (inner, seen) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 8]);
                            team.run(3, &|_| count(&inner, &seen));
                            done.fetch_add(
                                usize::from(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1)),
                                Ordering::Relaxed,
                            );
                        });
                        assert!(done.into_inner() >= 1);
                        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    /// What a call panics with in which workers `who` do, once both take part: a helper that goes back to the pool just
    /// then does not.
    fn panics(team: &Team, who: [bool; 2]) -> String {
        let attempt = || {
            let (started, left, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(2, &|worker| {
                    started.fetch_add(1, Ordering::SeqCst);
                    while started.load(Ordering::SeqCst) < 2 && begun.elapsed() < Duration::from_secs(1) {
                        std::thread::yield_now();
                    }
                    left.fetch_add(1, Ordering::SeqCst);
                    assert!(!who[worker] || started.load(Ordering::SeqCst) < 2, "worker {worker}");
                });
            }));
            assert_eq!(left.into_inner(), started.into_inner(), "the call waits for the other thread");
            result.err()
        };
        let payload = std::iter::repeat_with(attempt).take(60).flatten().next().expect("a helper takes part");
        payload.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn a_panic_of_any_thread_reaches_the_caller_and_leaves_the_team_usable() {
        let team = team(2);
        for (who, expected) in [([true, false], 0), ([false, true], 1), ([true, true], 0)] {
            assert_eq!(panics(&team, who), format!("worker {expected}"));
            let (next, seen) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 9]);
            team.run(2, &|_| count(&next, &seen));
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }
}

//! One rank's end of a group of GPUs: its state, its errors, and its end, from any thread.
//!
//! The library never blocks its caller here, so a lock around each call is held for a moment only, and another thread
//! can abort the group while its owner waits.

use std::ffi::{c_int, c_void};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fathom_core::error::{DeviceError as _, ErrorKind};

use super::api::{Api, Calls, Handle, IN_PROGRESS, SUCCESS};
use crate::error::CudaError;

/// The longest time that the end of a group takes.
const BOUND: Duration = Duration::from_secs(5);

/// The call that a group's start is named by in errors.
const START: &str = "the start of NCCL";

/// A communicator, shared by its owner, its engine and those who may abort it.
pub(super) struct Communicator {
    api: &'static Api,
    state: Mutex<State>,
    /// The longest time that a collective takes until it is on the stream.
    limit: Duration,
}

struct State {
    life: Life,
    /// The last collective that was queued.
    last: &'static str,
}

enum Life {
    Open(Handle),
    /// The library reported an error.
    Failed(Handle, CudaError),
    /// Aborted or destroyed; the error is that of all later calls.
    Ended(CudaError),
}

impl State {
    /// The handle, or the error because of which there is none.
    fn handle(&self) -> Result<Handle, CudaError> {
        match &self.life {
            Life::Open(handle) => Ok(*handle),
            Life::Failed(_, error) | Life::Ended(error) => Err(error.clone()),
        }
    }

    /// Makes `error` that of all later calls, unless there is one.
    fn fail(&mut self, error: &CudaError) {
        if let Life::Open(handle) = self.life {
            self.life = Life::Failed(handle, error.clone());
        }
    }

    /// Takes the handle, if it was not yet, and leaves `reason` or the earlier error.
    fn take(&mut self, reason: CudaError) -> Option<Handle> {
        match std::mem::replace(&mut self.life, Life::Ended(reason)) {
            Life::Open(handle) => Some(handle),
            Life::Failed(handle, error) => {
                self.life = Life::Ended(error);
                Some(handle)
            }
            Life::Ended(error) => {
                self.life = Life::Ended(error);
                None
            }
        }
    }
}

/// The error of a collective whose other ranks are gone, with what is known about it.
fn peer_lost(op: &'static str, why: &str) -> CudaError {
    CudaError::new(ErrorKind::PeerLost, format!("{}: {why}", CudaError::peer_lost(op)))
}

impl Communicator {
    /// Starts a communicator on the GPU whose context is current, once all ranks have come, within `limit`.
    pub(super) fn start(
        api: &'static Api,
        id: [u8; 128],
        [rank, world]: [c_int; 2],
        limit: Duration,
    ) -> Result<Arc<Self>, CudaError> {
        let (handle, code) = api.start(id, rank, world);
        let wrong = |code| {
            // 6 and 8: errors of another rank. Others may be this rank's, such as a missing GPU.
            let text = api.text(code);
            match code {
                6 | 8 => peer_lost(START, &text),
                _ => CudaError::new(ErrorKind::Other, format!("{START}: {text}")),
            }
        };
        if handle.0.is_null() {
            return Err(wrong(code));
        }
        let state = Mutex::new(State { life: Life::Open(handle), last: "a collective" });
        let own = Arc::new(Self { api, state, limit });
        let begin = Instant::now();
        let mut state = code;
        let error = loop {
            match state {
                SUCCESS if own.api.state(handle) == SUCCESS => return Ok(own),
                SUCCESS | IN_PROGRESS => {}
                code => break wrong(code),
            }
            if begin.elapsed() > limit {
                let seconds = limit.as_secs_f64();
                break peer_lost(START, &format!("not all {world} ranks came within {seconds} s"));
            }
            thread::sleep(Duration::from_millis(1));
            state = own.api.state(handle);
        };
        own.lock().fail(&error);
        own.close(true);
        Err(error)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, so a panic of another thread does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of code `code`, which is that of all later calls too.
    fn fail(&self, state: &mut State, op: &'static str, code: c_int) -> CudaError {
        let text = format!("NCCL says: {}", self.api.text(code));
        let error = match code {
            // Errors of the system, of the library, of another rank, and a time-out.
            2 | 3 | 6 | 8 => peer_lost(op, &text),
            // An error of this rank's GPU.
            1 => CudaError::new(ErrorKind::DeviceLost, format!("{op}: {text}")),
            _ => CudaError::new(ErrorKind::Other, format!("{op}: {text}")),
        };
        state.fail(&error);
        error
    }

    /// Puts the collectives of `calls` on a stream as one group, and waits until they are there.
    pub(super) fn group(
        &self,
        op: &'static str,
        stream: *mut c_void,
        calls: impl FnOnce(&Calls<'_>) -> c_int,
    ) -> Result<(), CudaError> {
        {
            let state = &mut *self.lock();
            state.last = op;
            let calling = Calls { api: self.api, handle: state.handle()?, stream };
            match self.api.group(|| calls(&calling)) {
                SUCCESS | IN_PROGRESS => {}
                code => return Err(self.fail(state, op, code)),
            }
        }
        // Nothing may join the stream, nor use the communicator, before the group is on it. The first transfer between
        // two ranks needs both.
        let begin = Instant::now();
        let mut polls = 0u32;
        while !self.poll(op)? {
            if begin.elapsed() > self.limit {
                let error = peer_lost(op, &format!("it did not begin within {} s", self.limit.as_secs_f64()));
                self.lock().fail(&error);
                return Err(error);
            }
            polls += 1;
            if polls < 100 {
                thread::yield_now();
            } else {
                thread::sleep(Duration::from_micros(50));
            }
        }
        Ok(())
    }

    /// Whether nothing is in progress; an error that the library found meanwhile.
    fn poll(&self, op: &'static str) -> Result<bool, CudaError> {
        let state = &mut *self.lock();
        match self.api.state(state.handle()?) {
            SUCCESS => Ok(true),
            IN_PROGRESS => Ok(false),
            code => Err(self.fail(state, op, code)),
        }
    }

    /// An error that the library found by now, named by the last collective.
    pub(super) fn check(&self) -> Result<(), CudaError> {
        let op = self.lock().last;
        self.poll(op).map(drop)
    }

    /// Ends the collectives under way, those on the GPU too, in [`BOUND`]. Later calls fail as those of a lost rank.
    pub(super) fn abort(self: &Arc<Self>) -> Result<(), CudaError> {
        let own = Arc::clone(self);
        bounded("ncclCommAbort", move || {
            let mut state = own.lock();
            let reason = peer_lost(state.last, "this rank ended what was under way");
            let handle = state.take(reason);
            drop(state);
            handle.map_or(Ok(()), |handle| own.done("ncclCommAbort", own.api.abort(handle)))
        })
    }

    /// Ends the communicator, which nobody uses any more: in order if `hurry` is false and nothing failed. Errors have
    /// no one to go to.
    pub(super) fn close(self: &Arc<Self>, hurry: bool) {
        if matches!(self.lock().life, Life::Ended(_)) {
            return;
        }
        if hurry || !self.finalize() {
            let _ = self.abort();
            return;
        }
        let reason = CudaError::new(ErrorKind::Other, "NCCL was ended");
        let Some(handle) = self.lock().take(reason) else { return };
        let own = Arc::clone(self);
        let _ = bounded("ncclCommDestroy", move || own.done("ncclCommDestroy", own.api.destroy(handle)));
    }

    /// Finishes all collectives; false if one failed or the time was too short.
    fn finalize(&self) -> bool {
        let begun = self.lock().handle().map(|handle| self.api.finalize(handle));
        if !matches!(begun, Ok(SUCCESS | IN_PROGRESS)) {
            return false;
        }
        let begin = Instant::now();
        while begin.elapsed() < BOUND {
            match self.poll("ncclCommFinalize") {
                Ok(true) => return true,
                Ok(false) => thread::sleep(Duration::from_micros(200)),
                Err(_) => return false,
            }
        }
        false
    }

    fn done(&self, call: &str, code: c_int) -> Result<(), CudaError> {
        match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => Err(CudaError::new(ErrorKind::Other, format!("{call}: {}", self.api.text(code)))),
        }
    }
}

/// Runs `work` in a thread and waits [`BOUND`] for it; the thread is left behind if that is too short.
fn bounded(call: &str, work: impl FnOnce() -> Result<(), CudaError> + Send + 'static) -> Result<(), CudaError> {
    let (done, ended) = channel();
    let other = |message| Err(CudaError::new(ErrorKind::Other, message));
    let started = thread::Builder::new().name("nccl-end".into()).spawn(move || {
        // Nobody waits any more after the time is over.
        let _ = done.send(work());
    });
    if let Err(error) = started {
        return other(format!("{call}: no thread for it: {error}"));
    }
    match ended.recv_timeout(BOUND) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            other(format!("{call} did not end within {} s; only the end of the process helps", BOUND.as_secs()))
        }
        Err(RecvTimeoutError::Disconnected) => other(format!("{call}: its thread ended without a result")),
    }
}

//! The thread that owns the engine: it takes jobs between steps, and hands the news to their receivers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use fathom_core::device::Kernels;
use tokio::sync::mpsc::error::TrySendError;

use super::job::{Command, Ended, Job, JobId, News};
use super::metrics::Metrics;
use crate::error::{Error, Result};
use crate::infer::engine::Id;
use crate::infer::{Engine, Event, Request};

/// How long the receiver of a job may take no news before the job is given up.
const STALL: Duration = Duration::from_secs(10);
/// How often the counts are published.
const PUBLISH: Duration = Duration::from_millis(100);
/// How long it waits for a command where only receivers are waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs jobs until the command to stop, or until nobody can send commands; finishes what runs then, for at most
/// `patience`.
///
/// # Errors
/// A failure of the device. Every job is told.
pub(super) fn run<D: Kernels>(
    engine: &mut Engine<'_, D>,
    commands: &Receiver<Command>,
    metrics: &Metrics,
    patience: Duration,
) -> Result<()> {
    let mut worker = Worker { jobs: BTreeMap::new(), running: HashMap::new(), metrics, stop: None };
    publish(engine, metrics);
    let mut published = Instant::now();
    loop {
        worker.wait(engine, commands, patience);
        if worker.stop.is_some_and(|until| worker.jobs.is_empty() || Instant::now() >= until) {
            worker.end_all(engine, &Ended::Stopping);
            return Ok(());
        }
        match engine.step() {
            Ok(events) => events.into_iter().for_each(|event| worker.take_event(engine, event)),
            Err(error) => {
                worker.end_all(engine, &Ended::Failed(error.to_string()));
                return Err(error);
            }
        }
        worker.hand_over(engine);
        if published.elapsed() >= PUBLISH || engine.is_idle() {
            publish(engine, metrics);
            published = Instant::now();
        }
    }
}

/// Hands the engine's counts to those who ask for them.
fn publish<D: Kernels>(engine: &Engine<'_, D>, metrics: &Metrics) {
    let (load, stats, experts) = (engine.occupancy(), engine.stats(), engine.load().cloned());
    let mut counts = metrics.engine();
    (counts.load, counts.stats, counts.experts) = (load, stats, experts);
}

/// Tells jobs that nobody takes any more.
pub(super) fn refuse(commands: &Receiver<Command>, reason: &Ended) {
    while let Ok(command) = commands.try_recv() {
        if let Command::Start(job) = command {
            // A receiver that is gone need not know.
            let _ = job.news.try_send(News::Ended(reason.clone()));
        }
    }
}

/// A job that runs.
struct Running {
    job: Job,
    /// News that its receiver has not taken yet.
    backlog: VecDeque<News>,
    /// Since when its receiver has taken nothing.
    stalled: Option<Instant>,
    /// Sequences in the engine.
    open: usize,
    /// When each choice had its last token.
    last: HashMap<usize, Instant>,
}

/// What a sequence of the engine is for.
#[derive(Clone, Copy)]
enum Purpose {
    /// The scores of a prompt.
    Score(usize),
    /// A choice.
    Choice(usize),
}

struct Worker<'a> {
    jobs: BTreeMap<JobId, Running>,
    running: HashMap<Id, (JobId, Purpose)>,
    metrics: &'a Metrics,
    /// Until when jobs are finished.
    stop: Option<Instant>,
}

impl Worker<'_> {
    /// Takes the commands that have come; waits for one where there is nothing to compute.
    fn wait<D: Kernels>(&mut self, engine: &mut Engine<'_, D>, commands: &Receiver<Command>, patience: Duration) {
        let stop = || Some(Instant::now() + patience);
        if engine.is_idle() && self.stop.is_none() {
            // Jobs whose sequences have ended wait for their receivers.
            let command = match self.jobs.is_empty() {
                true => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => commands.recv_timeout(PAUSE),
            };
            match command {
                Ok(command) => self.obey(engine, command, patience),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stop = stop(),
            }
        } else if engine.is_idle() {
            std::thread::sleep(PAUSE);
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(engine, command, patience),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.stop = self.stop.or_else(stop);
                    return;
                }
            }
        }
    }

    fn obey<D: Kernels>(&mut self, engine: &mut Engine<'_, D>, command: Command, patience: Duration) {
        match command {
            Command::Start(job) => self.start(engine, *job),
            Command::Cancel(id) => self.end(engine, id, None),
            Command::Stop => self.stop = self.stop.or_else(|| Some(Instant::now() + patience)),
        }
    }

    fn start<D: Kernels>(&mut self, engine: &mut Engine<'_, D>, mut job: Job) {
        let (id, top) = (job.id, job.top);
        let scores = std::mem::take(&mut job.scores);
        let waits = |prompt: usize| scores.iter().any(|(scored, _)| *scored == prompt);
        let (later, now) = job.choices.into_iter().partition(|(prompt, ..)| waits(*prompt));
        job.choices = later;
        let running = Running { job, backlog: VecDeque::new(), stalled: None, open: 0, last: HashMap::new() };
        self.jobs.insert(id, running);
        if self.stop.is_some() {
            return self.end(engine, id, Some(Ended::Stopping));
        }
        for (prompt, request) in scores {
            let added = engine.add_scoring_with_top(request, top);
            if !self.added(engine, id, Purpose::Score(prompt), added) {
                return;
            }
        }
        self.add_choices(engine, id, now);
    }

    fn add_choices<D: Kernels>(
        &mut self,
        engine: &mut Engine<'_, D>,
        id: JobId,
        choices: Vec<(usize, usize, Request)>,
    ) {
        for (_, choice, request) in choices {
            let added = engine.add(request);
            if !self.added(engine, id, Purpose::Choice(choice), added) {
                return;
            }
        }
    }

    /// Notes a sequence that the engine took; a job of which it refuses one ends. Whether it took it.
    fn added<D: Kernels>(
        &mut self,
        engine: &mut Engine<'_, D>,
        id: JobId,
        purpose: Purpose,
        added: Result<Id>,
    ) -> bool {
        match added {
            Ok(sequence) => {
                self.running.insert(sequence, (id, purpose));
                self.jobs.get_mut(&id).into_iter().for_each(|running| running.open += 1);
                true
            }
            Err(error) => {
                self.end(engine, id, Some(Ended::of(&error)));
                false
            }
        }
    }

    fn take_event<D: Kernels>(&mut self, engine: &mut Engine<'_, D>, event: Event) {
        let (sequence, ended) = match &event {
            Event::Token { id, .. } => (*id, false),
            Event::Finished { id, .. } | Event::Scored { id, .. } | Event::Failed { id, .. } => (*id, true),
        };
        let known = if ended { self.running.remove(&sequence) } else { self.running.get(&sequence).copied() };
        let Some((id, purpose)) = known else { return };
        let Some(running) = self.jobs.get_mut(&id) else { return };
        running.open -= usize::from(ended);
        let news = match (event, purpose) {
            (Event::Token { token, text, logprobs, .. }, Purpose::Choice(choice)) => {
                running.time(choice, self.metrics);
                News::Token { choice, token, text, logprobs }
            }
            (Event::Finished { text, generated, end, reused, .. }, Purpose::Choice(choice)) => {
                if end.is_some() {
                    running.time(choice, self.metrics);
                }
                News::Finished { choice, text, end, stop: generated.stop, reused }
            }
            (Event::Scored { scores, .. }, Purpose::Score(prompt)) => {
                let taken = std::mem::take(&mut running.job.choices);
                let (now, later) = taken.into_iter().partition(|(of, ..)| *of == prompt);
                running.job.choices = later;
                let scores = scores.into_iter().next().unwrap_or_default();
                running.backlog.push_back(News::Scored { prompt, scores });
                return self.add_choices(engine, id, now);
            }
            (Event::Failed { error, .. }, _) => return self.end(engine, id, Some(Ended::of(&error))),
            _ => return,
        };
        running.backlog.push_back(news);
    }

    /// Hands news over, and gives up jobs that nobody waits for, whose receivers are too slow, or whose time is up.
    fn hand_over<D: Kernels>(&mut self, engine: &mut Engine<'_, D>) {
        let now = Instant::now();
        let mut ended = Vec::new();
        for (&id, running) in &mut self.jobs {
            let end = running.hand_over(now);
            let computed = running.open == 0 && running.job.choices.is_empty();
            if computed {
                // Others may be computed while its receiver takes the rest.
                running.job.places = None;
            }
            let complete = computed && running.backlog.is_empty();
            if end.is_some() || complete {
                ended.push((id, end.flatten(), complete));
            }
        }
        for (id, end, complete) in ended {
            if complete {
                self.jobs.remove(&id);
            } else {
                self.end(engine, id, end);
            }
        }
    }

    /// Ends a job: its sequences give their pages back. The reason, if there is one, goes to the receiver.
    fn end<D: Kernels>(&mut self, engine: &mut Engine<'_, D>, id: JobId, reason: Option<Ended>) {
        let Some(mut running) = self.jobs.remove(&id) else { return };
        let own: Vec<Id> = self.running.iter().filter(|(_, (job, _))| *job == id).map(|(&own, _)| own).collect();
        for sequence in own {
            self.running.remove(&sequence);
            engine.cancel(sequence);
        }
        self.metrics.engine().cancelled();
        if let Some(reason) = reason {
            running.hand_over(Instant::now());
            // A receiver that takes nothing learns it by the end of its channel.
            let _ = running.job.news.try_send(News::Ended(reason));
        }
    }

    fn end_all<D: Kernels>(&mut self, engine: &mut Engine<'_, D>, reason: &Ended) {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.end(engine, id, Some(reason.clone()));
        }
    }
}

impl Ended {
    /// Why a job ends of which the engine gives up a sequence.
    fn of(error: &Error) -> Self {
        match error {
            Error::Constraint(problem) => Self::Constraint(problem.clone()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl Running {
    /// Times a token of a choice.
    fn time(&mut self, choice: usize, metrics: &Metrics) {
        let now = Instant::now();
        match self.last.insert(choice, now) {
            Some(last) => metrics.engine().next_token(now - last),
            None => metrics.engine().first_token(now - self.job.arrived),
        }
    }

    /// Hands over the news that the receiver takes. The inner reason, if any, is told to the receiver.
    fn hand_over(&mut self, now: Instant) -> Option<Option<Ended>> {
        while let Some(news) = self.backlog.pop_front() {
            match self.job.news.try_send(news) {
                Ok(()) => self.stalled = None,
                Err(TrySendError::Closed(_)) => return Some(None),
                Err(TrySendError::Full(news)) => {
                    self.backlog.push_front(news);
                    let since = *self.stalled.get_or_insert(now);
                    // What waits has an end: all tokens of the job's choices.
                    if now - since >= STALL {
                        return Some(None);
                    }
                    break;
                }
            }
        }
        if self.job.news.is_closed() {
            return Some(None);
        }
        (now >= self.job.deadline).then_some(Some(Ended::Deadline))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    fn running(room: usize) -> (Running, mpsc::Receiver<News>) {
        let (news, receiver) = mpsc::channel(room);
        let now = Instant::now();
        let places = Arc::new(Semaphore::new(1)).try_acquire_many_owned(1).unwrap();
        let deadline = now + Duration::from_secs(100);
        let places = Some(places);
        let job = Job { id: 0, scores: vec![], top: 0, choices: vec![], news, arrived: now, deadline, places };
        let backlog = VecDeque::new();
        (Running { job, backlog, stalled: None, open: 1, last: HashMap::new() }, receiver)
    }

    fn token(token: u32) -> News {
        News::Token { choice: 0, token, text: String::new(), logprobs: None }
    }

    #[test]
    fn a_receiver_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (mut slow, mut receiver) = running(2);
        let start = Instant::now();
        slow.backlog.extend((0..9).map(token));
        assert_eq!(slow.hand_over(start), None);
        for second in 1..30 {
            let now = start + Duration::from_secs(second);
            if second % 7 == 0 {
                assert!(receiver.try_recv().is_ok());
            }
            assert_eq!(slow.hand_over(now), None, "{second}");
        }
        // The rest comes in order.
        let rest: Vec<u32> = std::iter::from_fn(|| {
            let news = receiver.try_recv().ok();
            slow.hand_over(start + Duration::from_secs(30));
            news.map(|news| if let News::Token { token, .. } = news { token } else { 99 })
        })
        .collect();
        assert_eq!(rest, [4, 5, 6, 7, 8]);
        slow.backlog.extend((0..9).map(token));
        assert_eq!(slow.hand_over(start + Duration::from_secs(31)), None);
        assert_eq!(slow.hand_over(start + Duration::from_secs(40)), None);
        assert_eq!(slow.hand_over(start + Duration::from_secs(41)), Some(None), "nothing was taken for ten seconds");
    }

    #[test]
    fn a_receiver_that_is_gone_or_late_ends_the_job() {
        let (mut job, receiver) = running(2);
        assert_eq!(job.hand_over(job.job.deadline), Some(Some(Ended::Deadline)));
        drop(receiver);
        assert_eq!(job.hand_over(Instant::now()), Some(None));
    }
}

//! A checkpoint that all ranks of a run write together, and read.
//!
//! Files do not show how many ranks there were: each is a whole file of named tensors. The files with tensors are dealt
//! to the ranks, file `k` to rank `k mod W`, and `W` of them are written at a time. The rank that writes a file is
//! sent, tensor by tensor, what other ranks hold of it. Rank 0 writes everything else, and the manifest last.

use std::ops::Range;
use std::path::Path;

use fathom_core::DType;
use fathom_core::comm::{AllToAll, Comm};
use fathom_core::device::{Device, Kernels};
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::model::Model;
use fathom_core::tensor::Tensor;
use fathom_core::train::{Ema, Optimizer, Shards, Trainer};
use fathom_core::weights::{Layout, Parameter, Parameters};
use fathom_dataprep::Tokenizer;

use super::commit::Draft;
use super::error::CheckpointError;
use super::manifest::{FileEntry, Manifest};
use super::state::{FIRST_MOMENTS, SECOND_MOMENTS, STATE, State, WEIGHTS};
use crate::hf::names::{AVERAGE, Place};
use crate::hf::safetensors::{ElementType, TensorSpec};
use crate::hf::write::{ModelWriter, read_place, specs, write_json, write_tensors};
use crate::hf::{Format, HfError};

/// Bytes of a tensor in a file's header, with a long name; and of configuration, state and manifest.
const HEADER: u64 = 160;
const DESCRIPTION: u64 = 64 << 10;

/// What is written beside the state: settings of the checkpoint's files.
pub struct Files<'a, D: Kernels> {
    /// The moving average of the weights, where one is kept.
    pub average: Option<&'a Ema<D>>,
    /// The tokenizer of the data.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Number format of the model's own files.
    pub format: Format,
    /// Most bytes of a file of the model.
    pub shard_bytes: u64,
}

/// Writes a whole checkpoint into a draft of which every rank has one: rank 0 began it, the others
/// [joined](Draft::join). On rank 0 it may then be committed.
///
/// # Errors
/// [`HfError::Io`], [`HfError::BadElement`]; [`CheckpointError::OnRank`] where another rank failed: all ranks then
/// fail. [`CheckpointError::Exchange`] where the ranks are no longer in step, so that this one must leave.
pub fn save<D: Kernels, C: Comm<D>>(
    draft: &mut Draft<'_>,
    trainer: &Trainer<D, C>,
    files: Files<'_, D>,
    state: &State,
) -> Result<(), CheckpointError> {
    let (comm, shards) = (trainer.comm(), trainer.shards());
    save_from(draft, Source { comm, shards, model: &trainer.model, optimizer: &trainer.optimizer }, files, state)
}

/// The tensors of a checkpoint: a trainer's, or copies of them.
pub(super) struct Source<'a, D: Kernels, C: Comm<D>> {
    pub comm: &'a C,
    pub shards: &'a Shards,
    pub model: &'a Model<D>,
    pub optimizer: &'a Optimizer<D>,
}

impl<D: Kernels, C: Comm<D>> Clone for Source<'_, D, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Kernels, C: Comm<D>> Copy for Source<'_, D, C> {}

/// As [`save`], of tensors that need not be a trainer's.
pub(super) fn save_from<D: Kernels, C: Comm<D>>(
    draft: &mut Draft<'_>,
    source: Source<'_, D, C>,
    files: Files<'_, D>,
    state: &State,
) -> Result<(), CheckpointError> {
    let Source { comm, model, .. } = source;
    let leads = comm.rank() == 0;
    let average = files.average.filter(|average| average.updates() > 0);
    let writer = ModelWriter::new(model, files.format, files.shard_bytes);
    let jobs = jobs(source, &writer, files.format, average.is_some());

    let mut done = match leads {
        true => writer.write_description(draft, model.config(), files.tokenizer).map_err(CheckpointError::from),
        false => Ok(()),
    };
    for round in jobs.chunks(comm.world()) {
        let mut pieces = Pieces { source, average, jobs: round, next: 0, broken: None };
        if let (Ok(()), Some(job)) = (&done, round.get(comm.rank())) {
            done = job.write(draft, &writer, &mut pieces).map_err(CheckpointError::from);
        }
        pieces.finish();
        if let Some(problem) = pieces.broken {
            return Err(problem);
        }
        // Every rank learns of every failure, so that none waits for one that gave up.
        done = exchange(comm, draft, round, done)?;
        if done.is_err() {
            break;
        }
    }
    done?;
    if leads {
        let mut state = state.clone();
        (state.optimizer_step, state.ema_updates) = (source.optimizer.step, average.map_or(0, Ema::updates));
        write_json(draft, STATE, &state)?;
    }
    Ok(())
}

/// Bytes of a checkpoint of `trainer` on the disk: its tensors exactly, and about what describes them. A tokenizer
/// counts with its file of `tokenizer` bytes.
pub fn bytes<D: Kernels, C: Comm<D>>(trainer: &Trainer<D, C>, format: Format, average: bool, tokenizer: u64) -> u64 {
    let layout = trainer.model.architecture().layout();
    let elements: u64 = layout.parameters().iter().map(|parameter| parameter.elements() as u64).sum();
    let of = |dtype: DType| elements.saturating_mul(dtype.size() as u64);
    let specs = specs(&trainer.model, format);
    let model: u64 = specs.iter().map(TensorSpec::bytes).sum();
    let exact = if format == Format::F32 { 0 } else { of(trainer.model.weights().dtype()) };
    let moments = of(trainer.optimizer.m.dtype()).saturating_add(of(trainer.optimizer.v.dtype()));
    let average = if average { of(DType::F32) } else { 0 };
    // Each tensor has an entry in the header of each file that holds it.
    let names = HEADER.saturating_mul((specs.len() + 4 * layout.parameters().len()) as u64);
    [model, exact, moments, average, names, tokenizer, DESCRIPTION].into_iter().fold(0, u64::saturating_add)
}

/// Tells all ranks how the files of a round went, and rank 0 what is in them.
fn exchange<D: Device, C: Comm<D>>(
    comm: &C,
    draft: &mut Draft<'_>,
    round: &[Job],
    done: Result<(), CheckpointError>,
) -> Result<Result<(), CheckpointError>, CheckpointError> {
    let mut words = [0u64; 1 + FileEntry::WORDS];
    words[0] = u64::from(done.is_err());
    if let (true, Ok(()), Some(_)) = (comm.rank() > 0, &done, round.get(comm.rank()))
        && let Some(entry) = draft.take()
    {
        words[1..].copy_from_slice(&entry.words());
    }
    let told = comm.tell(&words).map_err(CheckpointError::exchange("writing"))?;
    let told: Vec<&[u64]> = told.chunks_exact(words.len()).collect();
    if done.is_err() {
        return Ok(done);
    }
    if let Some(rank) = told.iter().position(|words| words[0] != 0) {
        return Ok(Err(CheckpointError::OnRank { rank, doing: "write its files of the checkpoint" }));
    }
    if comm.rank() == 0 {
        for (job, words) in round.iter().zip(&told).skip(1) {
            draft.add(FileEntry::from_words(job.path.clone(), &words[1..]));
        }
    }
    Ok(Ok(()))
}

/// A file with tensors.
struct Job {
    path: String,
    kind: Kind,
    items: Vec<Item>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// The model's file of that number.
    Model(usize),
    /// Tensors of these values, as they are stored.
    Plain(Values),
}

/// Values of all parameters that a trainer has.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    Weights,
    FirstMoments,
    SecondMoments,
    Average,
}

/// A tensor of a file.
enum Item {
    /// A parameter, of which other ranks may hold parts.
    Parameter(Values, Parameter),
    /// The expert bias of a router, by its number; every rank has it.
    Bias(usize),
}

fn jobs<D: Kernels, C: Comm<D>>(
    source: Source<'_, D, C>,
    writer: &ModelWriter,
    format: Format,
    average: bool,
) -> Vec<Job> {
    let item = |place: &Place| match place {
        Place::Weight(parameter) | Place::Copy(parameter) => Item::Parameter(Values::Weights, parameter.clone()),
        Place::Bias(number) => Item::Bias(*number),
    };
    let model = (0..writer.count()).map(|number| Job {
        path: writer.name(number),
        kind: Kind::Model(number),
        items: writer.places(number).map(item).collect(),
    });
    let parameters = source.model.architecture().layout().parameters();
    let plain = |(path, values): (&str, Values)| Job {
        path: path.into(),
        kind: Kind::Plain(values),
        items: parameters.iter().map(|p| Item::Parameter(values, p.clone())).collect(),
    };
    let exact = (format != Format::F32).then_some((WEIGHTS, Values::Weights));
    let moments = [(FIRST_MOMENTS, Values::FirstMoments), (SECOND_MOMENTS, Values::SecondMoments)];
    let average = average.then_some((AVERAGE, Values::Average));
    model.chain(exact.into_iter().chain(moments).chain(average).map(plain)).collect()
}

impl Job {
    fn write<D: Kernels, C: Comm<D>>(
        &self,
        draft: &mut Draft<'_>,
        writer: &ModelWriter,
        pieces: &mut Pieces<'_, D, C>,
    ) -> Result<(), HfError> {
        match self.kind {
            Kind::Model(number) => writer.write_weights(draft, number, &mut |_, bytes| pieces.read(bytes)),
            Kind::Plain(values) => {
                let parameters = pieces.source.model.architecture().layout().parameters();
                let dtype = ElementType::of(pieces.dtype(values));
                let spec = |p: &Parameter| TensorSpec { name: p.name.clone(), shape: p.shape(), dtype };
                let specs: Vec<TensorSpec> = parameters.iter().map(spec).collect();
                write_tensors(draft, &self.path, &specs, |_, bytes| pieces.read(bytes))
            }
        }
    }
}

/// The tensors of the files of a round, one of each file at a time: all ranks ask for them in step.
struct Pieces<'a, D: Kernels, C: Comm<D>> {
    source: Source<'a, D, C>,
    average: Option<&'a Ema<D>>,
    /// The files of the round, by the rank that writes each.
    jobs: &'a [Job],
    /// The tensor that comes next, of every file.
    next: usize,
    /// Why an exchange failed, after which this rank is not in step with the others.
    broken: Option<CheckpointError>,
}

impl<D: Kernels, C: Comm<D>> Pieces<'_, D, C> {
    /// Reads the next tensor of the file that this rank writes.
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), D::Error> {
        let rank = self.source.comm.rank();
        let jobs = self.jobs;
        match jobs.get(rank).and_then(|job| job.items.get(self.next)) {
            Some(Item::Bias(number)) => {
                self.step(None)?;
                read_place(self.source.model, &Place::Bias(*number), bytes)
            }
            Some(Item::Parameter(values, parameter)) if self.is_whole(*values) => {
                self.step(None)?;
                self.read_range(*values, parameter, 0..parameter.elements(), bytes)
            }
            _ => self.step(Some(bytes)),
        }
    }

    /// Takes part in what is left of the round.
    fn finish(&mut self) {
        let longest = self.jobs.iter().map(|job| job.items.len()).max().unwrap_or(0);
        while self.next < longest && self.step(None).is_ok() {}
    }

    /// Exchanges the next tensors of the round's files, unless an exchange failed before.
    fn step(&mut self, into: Option<&mut [u8]>) -> Result<(), D::Error> {
        self.exchange(into).inspect_err(|error| {
            let (kind, problem) = (error.kind(), error.to_string());
            self.broken.get_or_insert_with(|| match kind {
                ErrorKind::PeerLost => CheckpointError::PeerLost { doing: "writing", problem },
                _ => CheckpointError::Exchange(problem),
            });
            // Nothing more of the round is exchanged.
            self.next = usize::MAX;
        })
    }

    /// Sends the ranks that write what this rank holds of the next tensors of their files, and receives the next tensor
    /// of the file that it writes itself.
    fn exchange(&mut self, into: Option<&mut [u8]>) -> Result<(), D::Error> {
        let (comm, device) = (self.source.comm, self.source.model.device());
        let (world, rank, index, jobs) = (comm.world(), comm.rank(), self.next, self.jobs);
        self.next = self.next.saturating_add(1);
        let wanted = |writer: usize| match jobs.get(writer).and_then(|job| job.items.get(index)) {
            Some(Item::Parameter(values, parameter)) if !self.is_whole(*values) => Some((*values, parameter)),
            _ => None,
        };
        if (0..world).all(|writer| wanted(writer).is_none()) {
            return Ok(());
        }
        let layout = self.source.model.architecture().layout();
        let held = |parameter: &Parameter, rank: usize| of_rank(layout, self.source.shards, parameter, rank);
        let (mut sent, mut lengths) = (Vec::new(), vec![0; world]);
        for (writer, length) in lengths.iter_mut().enumerate() {
            let Some((values, parameter)) = wanted(writer) else { continue };
            let (range, start) = (held(parameter, rank), sent.len());
            *length = range.len() * self.dtype(values).size();
            sent.resize(start + *length, 0);
            self.read_range(values, parameter, range, &mut sent[start..])?;
        }
        let received: Vec<usize> = match wanted(rank) {
            None => vec![0; world],
            Some((values, parameter)) => {
                let size = self.dtype(values).size();
                (0..world).map(|from| held(parameter, from).len() * size).collect()
            }
        };
        // A type of one byte: nothing computes with it.
        let from = Tensor::<D>::from_slice(device, &[1, sent.len()], DType::E4M3, &sent)?;
        let mut to = Tensor::<D>::empty(device, &[1, received.iter().sum()], DType::E4M3)?;
        comm.all_to_all(device, AllToAll::new(from.view(), &lengths, to.view_mut(), &received)?)?;
        if let Some(bytes) = into {
            // Parts of a parameter come in the order of ranks, which is that of its rows.
            let view = to.view();
            device.download(view.buffer(), view.offset(), bytes)?;
        }
        Ok(())
    }

    /// Whether every rank has all of these values.
    fn is_whole(&self, values: Values) -> bool {
        match values {
            Values::Average => self.source.comm.world() == 1,
            _ => self.parameters(values).is_none_or(|p| p.held() == whole(p.layout())),
        }
    }

    fn parameters(&self, values: Values) -> Option<&Parameters<D>> {
        match values {
            Values::Weights => Some(self.source.model.weights()),
            Values::FirstMoments => Some(&self.source.optimizer.m),
            Values::SecondMoments => Some(&self.source.optimizer.v),
            Values::Average => None,
        }
    }

    fn dtype(&self, values: Values) -> DType {
        self.parameters(values).map_or(DType::F32, Parameters::dtype)
    }

    /// Reads elements `range` of a parameter, which are held here.
    fn read_range(
        &self,
        values: Values,
        parameter: &Parameter,
        range: Range<usize>,
        bytes: &mut [u8],
    ) -> Result<(), D::Error> {
        match (self.parameters(values), self.average) {
            (Some(parameters), _) => parameters.read_range(self.source.model.device(), parameter, range, bytes),
            (None, Some(average)) => average.read(self.source.model.device(), parameter, bytes),
            (None, None) => Ok(()),
        }
    }
}

/// All elements of every group.
fn whole(layout: &Layout) -> Vec<Range<usize>> {
    layout.groups().iter().map(|group| 0..group.elements()).collect()
}

/// Which elements of a parameter `rank` owns.
fn of_rank(layout: &Layout, shards: &Shards, parameter: &Parameter, rank: usize) -> Range<usize> {
    layout.within(parameter, &shards.of(parameter.slot.group(), rank))
}

/// Checks that every file of the checkpoint in `folder` has its contents, each on one of the ranks.
///
/// # Errors
/// [`CheckpointError::Changed`] on the rank that found it, [`CheckpointError::OnRank`] on the others.
pub fn verify<D: Device, C: Comm<D>>(comm: &C, folder: &Path) -> Result<(), CheckpointError> {
    let manifest = Manifest::read(folder)?;
    let check = || -> Result<(), CheckpointError> {
        manifest.check_sizes(folder)?;
        let mine = manifest.files.iter().skip(comm.rank()).step_by(comm.world());
        mine.into_iter().try_for_each(|file| file.check(folder))
    };
    agree(comm, check(), "find the checkpoint as it was written")
}

/// Fails on every rank where one did: with this rank's own error, or [`CheckpointError::OnRank`].
fn agree<D: Device, C: Comm<D>>(
    comm: &C,
    done: Result<(), CheckpointError>,
    doing: &'static str,
) -> Result<(), CheckpointError> {
    let told = comm.tell(&[u64::from(done.is_err())]).map_err(CheckpointError::exchange("reading"))?;
    done?;
    match told.iter().position(|&word| word != 0) {
        None => Ok(()),
        Some(rank) => Err(CheckpointError::OnRank { rank, doing }),
    }
}

//! A number that is not finite, in whatever a step computes, ends the step: nothing that training keeps has changed.
//! Every result of every kernel is corrupted in turn. Only −∞ among the head's logits passes: softmax makes it 0.

use std::collections::BTreeMap;

use fathom_conformance::ranks;
use fathom_core::DType;
use fathom_core::comm::{Comm, Solo};
use fathom_core::config::ModelConfig;
use fathom_core::device::{Corruption, Fault};
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::model::{Architecture, Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Limits, Parallel, Shards, StepReport, Trainer, Withheld, Zero};
use fathom_core::weights::Parameters;
use fathom_cpu::{Cpu, CpuError};

type Device = Fault<Cpu>;

const POLICIES: [Precision; 3] = [Precision::F32, Precision::BF16, Precision::FP8];
const VALUES: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
const MICRO_BATCHES: usize = 2;
const SEQUENCES: usize = 2;
const LENGTH: usize = 24;
const VOCABULARY: usize = 100;
/// Kernels that change what training keeps: what they leave is seen before the next update.
const UPDATES: [&str; 2] = ["\"adamw\"", "\"update_bias\""];

fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 64,
        intermediate_size: 96,
        moe_intermediate_size: 32,
        num_hidden_layers: 2,
        n_routed_experts: 16,
        n_group: 4,
        topk_group: 2,
        num_experts_per_tok: 4,
        initializer_range: 0.05,
        ..ModelConfig::tiny()
    }
}

fn trainer<C: Comm<Device>>(comm: C, precision: Precision, parallel: Parallel) -> Trainer<Device, C> {
    let device = Fault::calm(Cpu::with_threads(1));
    let shards = Shards::new(Architecture::new(&config()).layout(), comm.rank(), comm.world());
    let model = match parallel.zero {
        Zero::Weights => Model::part(&device, &config(), precision, shards.all_own()),
        _ => Model::new(&device, &config(), precision),
    };
    let mut model = model.unwrap();
    model.initialize(5).unwrap();
    let hyper = Hyperparameters { clip_norm: 0.05, ..Hyperparameters::default() };
    Trainer::sharing(model, comm, hyper, parallel).unwrap()
}

fn step<C: Comm<Device>>(trainer: &mut Trainer<Device, C>, number: u64) -> Result<StepReport, CpuError> {
    step_within(trainer, number, &Limits::NONE).and_then(|report| match report.withheld {
        None => Ok(report),
        Some(why) => Err(CpuError::non_finite(why.problem())),
    })
}

fn step_within<C: Comm<Device>>(
    trainer: &mut Trainer<Device, C>,
    number: u64,
    limits: &Limits,
) -> Result<StepReport, CpuError> {
    let (rank, world) = (trainer.comm().rank(), trainer.comm().world());
    let count = (SEQUENCES * (LENGTH + 1)) as u64;
    let token = |j: usize, i: u64| (rng::bits(3, number * 64 + j as u64, i) % VOCABULARY as u64) as u32;
    let tokens: Vec<u32> =
        (rank..MICRO_BATCHES * world).step_by(world).flat_map(|j| (0..count).map(move |i| token(j, i))).collect();
    let batch_size = MICRO_BATCHES * SEQUENCES * world;
    let rates = Rates { lr: 1e-3, batch_size, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-3 };
    let batch = Batch::new(&tokens, LENGTH, None, VOCABULARY).unwrap();
    trainer.step_within(&batch, SEQUENCES, &rates, limits)
}

/// The bits of everything that training keeps on a rank.
#[derive(Clone, PartialEq)]
struct State {
    tensors: Vec<Vec<u32>>,
    step: u64,
}

fn state<C: Comm<Device>>(trainer: &Trainer<Device, C>) -> State {
    let device = trainer.model.device();
    let bits = |tensor: &Tensor<Device>| -> Vec<u32> {
        match tensor.dtype() {
            DType::BF16 => tensor.download::<Device, u16>(device).unwrap().into_iter().map(u32::from).collect(),
            _ => tensor.download(device).unwrap(),
        }
    };
    let parts: [&Parameters<Device>; 3] = [trainer.model.weights(), &trainer.optimizer.m, &trainer.optimizer.v];
    let parameters = parts.into_iter().flat_map(|p| p.groups()).map(bits);
    let biases = trainer.model.routers.iter().map(|router| bits(&router.bias));
    State { tensors: parameters.chain(biases).collect(), step: trainer.optimizer.step }
}

/// How a corruption ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The kernel has no floating-point result, or was called less often.
    NotThere,
    /// The step failed.
    Caught,
    /// The step failed, and said that the update had begun.
    CaughtLate,
    /// What was corrupted is read by nothing: all results have the bits that they have without.
    Unread,
    /// The update itself was corrupted, and the next step failed.
    CaughtNext,
    /// A logit of the head became −∞: a probability of 0, and all that follows from it is finite.
    Improbable,
    /// The step went on with other results.
    Passed,
}

/// Corrupts a call of the second step on one rank. `want` is what that step leaves undisturbed.
fn corrupt<C: Comm<Device>>(
    mut trainer: Trainer<Device, C>,
    what: Corruption,
    here: bool,
    want: &(StepReport, State),
) -> (End, String) {
    let before = state(&trainer);
    let device = trainer.model.device().clone();
    if here {
        device.corrupt(what);
    }
    let done = step(&mut trainer, 2);
    let corrupted = device.corrupted();
    let what = format!("{what:?} {corrupted:?}");
    let as_wanted = |trainer: &Trainer<Device, C>, report: &StepReport| *report == want.0 && state(trainer) == want.1;
    let mine = match &done {
        Ok(report) if as_wanted(&trainer, report) => 0,
        Ok(_) => 1,
        Err(error) if error.to_string().contains("of the update") => 3,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NonFinite, "{what}: {error}");
            assert!(state(&trainer) == before, "{what}: {error}, and the state has changed");
            2
        }
    };
    // What comes next, all ranks do together.
    let told = trainer.comm().tell(&[mine]).unwrap();
    if told.contains(&3) {
        return (End::CaughtLate, what);
    }
    if told.contains(&2) {
        if told.iter().any(|&word| word != 2) {
            return (End::Passed, format!("{what} {told:?}"));
        }
        // What was corrupted is gone, and training can go on.
        let report = step(&mut trainer, 2).unwrap_or_else(|error| panic!("{what}: {error} in the next step"));
        assert!(as_wanted(&trainer, &report), "{what}: the next step is another");
        return (End::Caught, what);
    }
    if told.contains(&1) {
        let after = state(&trainer);
        let next = step(&mut trainer, 3);
        let caught = next.is_err_and(|error| error.kind() == ErrorKind::NonFinite) && state(&trainer) == after;
        return (if caught { End::CaughtNext } else { End::Passed }, what);
    }
    (if here && corrupted.is_none() { End::NotThere } else { End::Unread }, what)
}

fn prepared<C: Comm<Device>>(comm: C, precision: Precision, parallel: Parallel) -> Trainer<Device, C> {
    let mut trainer = trainer(comm, precision, parallel);
    step(&mut trainer, 1).unwrap();
    trainer
}

fn undisturbed<C: Comm<Device>>(mut trainer: Trainer<Device, C>) -> ((StepReport, State), BTreeMap<&'static str, u64>) {
    let device = trainer.model.device().clone();
    device.corrupt(Corruption { kernel: "none", call: 0, result: 0, element: 0, value: 0.0 });
    let report = step(&mut trainer, 2).unwrap();
    let calls = device.kernel_calls();
    ((report, state(&trainer)), calls)
}

/// Corruptions at the first, the last and other calls of every kernel.
fn corruptions(calls: &BTreeMap<&'static str, u64>, each: u64) -> Vec<Corruption> {
    let mut all = Vec::new();
    for (number, (&kernel, &count)) in calls.iter().enumerate() {
        let draw = |i: u64| rng::bits(11, number as u64, i);
        let others = (0..each.min(count)).map(|i| draw(i) % count);
        let some: std::collections::BTreeSet<u64> = [0, count - 1].into_iter().chain(others).collect();
        all.extend(some.into_iter().enumerate().map(|(i, call)| {
            let value = VALUES[(number + i) % VALUES.len()];
            Corruption { kernel, call, result: i as u64, element: draw(1000 + i as u64), value }
        }));
    }
    all
}

fn count(ends: &mut BTreeMap<End, usize>, (end, what): (End, String), passed: &mut Vec<String>) {
    *ends.entry(end).or_default() += 1;
    let late = end == End::CaughtNext && !UPDATES.iter().any(|kernel| what.contains(kernel));
    if end == End::Passed || late {
        passed.push(format!("{end:?} {what}"));
    }
}

#[test]
fn a_number_that_is_not_finite_ends_the_step_wherever_it_comes_up() {
    let (mut ends, mut passed) = (BTreeMap::new(), Vec::new());
    for precision in POLICIES {
        let parallel = Parallel::default();
        let (want, calls) = undisturbed(prepared(Solo, precision, parallel));
        for what in corruptions(&calls, 8) {
            let corrupt = |what| corrupt(prepared(Solo, precision, parallel), what, true, &want);
            let (mut end, said) = corrupt(what);
            // The product of the head: its logits are not added up, since a loss shows NaN and +∞ among them.
            if end == End::Passed && what.kernel == "gemm" && what.value == f64::NEG_INFINITY {
                let others = [f64::NAN, f64::INFINITY].map(|value| corrupt(Corruption { value, ..what }).0);
                if others == [End::Caught; 2] {
                    end = End::Improbable;
                }
            }
            count(&mut ends, (end, format!("{} {said}", precision.name())), &mut passed);
        }
    }
    println!("one rank: {ends:?}");
    assert!(passed.is_empty(), "{} passed:\n{}", passed.len(), passed.join("\n"));
    assert!(ends[&End::Caught] >= 300, "{ends:?}");
    assert!(ends.get(&End::CaughtLate).is_none_or(|&late| late <= 12), "{ends:?}");
}

#[test]
fn several_ranks_refuse_a_step_of_which_one_has_a_number_that_is_not_finite() {
    let (mut ends, mut passed, mut cases) = (BTreeMap::new(), Vec::new(), 0);
    for (number, precision) in POLICIES.into_iter().enumerate() {
        for zero in [Zero::Nothing, Zero::Moments, Zero::Gradients, Zero::Weights] {
            let parallel = Parallel { zero, ..Parallel::default() };
            let prepare = |comm| prepared(comm, precision, parallel);
            let want = ranks::run(2, |comm| undisturbed(prepare(comm)));
            let every = corruptions(&want[0].1, 2).into_iter().enumerate();
            for (i, what) in every.filter(|(i, _)| (i + number + zero as usize).is_multiple_of(4)) {
                let culprit = i % 2;
                let got = ranks::run(2, |comm| {
                    let rank = Comm::<Device>::rank(&comm);
                    corrupt(prepare(comm), what, rank == culprit, &want[rank].0)
                });
                let [first, second] = [got[0].0, got[1].0];
                // The rank that was spared sees the same end as the other.
                let same = first == second || got[culprit].0 == End::NotThere;
                if !same {
                    passed.push(format!("{first:?} {second:?} {} {zero:?} {}", precision.name(), got[culprit].1));
                }
                let (end, what) = got.into_iter().nth(culprit).unwrap();
                count(&mut ends, (end, format!("{} {zero:?} {what}", precision.name())), &mut passed);
                cases += 1;
            }
        }
    }
    println!("two ranks: {cases} corruptions on one of them, {ends:?}");
    assert!(passed.is_empty(), "{} passed:\n{}", passed.len(), passed.join("\n"));
    assert!(ends[&End::Caught] >= 100, "{ends:?}");
}

#[test]
fn a_state_that_is_broken_before_the_step_is_refused() {
    let mut refused = 0;
    for precision in POLICIES {
        for value in VALUES {
            for part in 0..4 {
                let mut trainer = prepared(Solo, precision, Parallel::default());
                let device = trainer.model.device().clone();
                let groups = trainer.model.weights().groups().len();
                for group in 0..if part == 3 { trainer.model.routers.len() } else { groups } {
                    let tensor = match part {
                        0 => &mut trainer.model.weights_mut().groups_mut()[group],
                        1 => &mut trainer.optimizer.m.groups_mut()[group],
                        2 => &mut trainer.optimizer.v.groups_mut()[group],
                        _ => &mut trainer.model.routers[group].bias,
                    };
                    let (n, width) = (tensor.shape().elements(), tensor.dtype().size());
                    let at = (rng::bits(5, group as u64, part as u64) % n as u64) as usize;
                    let whole: Vec<u8> = match width {
                        2 => tensor
                            .download::<Device, u16>(&device)
                            .unwrap()
                            .iter()
                            .flat_map(|x| x.to_le_bytes())
                            .collect(),
                        _ => tensor
                            .download::<Device, u32>(&device)
                            .unwrap()
                            .iter()
                            .flat_map(|x| x.to_le_bytes())
                            .collect(),
                    };
                    let bits = (value as f32).to_bits().to_le_bytes();
                    tensor.write_elements(&device, at, &bits[4 - width..]).unwrap();
                    let before = state(&trainer);
                    assert_eq!(trainer.ensure_finite().unwrap_err().kind(), ErrorKind::NonFinite);
                    let report = step_within(&mut trainer, 2, &Limits::NONE).unwrap();
                    assert_eq!(report.withheld, Some(Withheld::State), "part {part} of group {group}");
                    assert!(state(&trainer) == before, "part {part} of group {group}");
                    refused += 1;
                    let tensor = match part {
                        0 => &mut trainer.model.weights_mut().groups_mut()[group],
                        1 => &mut trainer.optimizer.m.groups_mut()[group],
                        2 => &mut trainer.optimizer.v.groups_mut()[group],
                        _ => &mut trainer.model.routers[group].bias,
                    };
                    tensor.write_elements(&device, 0, &whole).unwrap();
                }
                trainer.ensure_finite().unwrap();
                step(&mut trainer, 2).unwrap();
            }
        }
    }
    println!("{refused} broken states refused");
    assert!(refused >= 100);
}

#[test]
fn limits_are_decided_on_alike_by_all_ranks_and_change_nothing_below_them() {
    let mut withheld = 0;
    for precision in POLICIES {
        let want = {
            let mut trainer = prepared(Solo, precision, Parallel::default());
            (step(&mut trainer, 2).unwrap(), state(&trainer))
        };
        let (norm, loss) = (want.0.grad_norm, want.0.loss);
        for i in 0..12 {
            // On both sides of the number, close to it and far from it.
            let factor = [0.0, 0.5, 0.99, 0.9999, 1.0001, 1.01, 2.0, f64::INFINITY][i % 8];
            let limits = match i % 2 {
                0 => Limits { grad_norm: norm * factor, ..Limits::NONE },
                _ => Limits { loss: loss * factor, ..Limits::NONE },
            };
            let mut trainer = prepared(Solo, precision, Parallel::default());
            let before = state(&trainer);
            let report = step_within(&mut trainer, 2, &limits).unwrap();
            let expected = (factor < 1.0).then_some([Withheld::NormLimit, Withheld::LossLimit][i % 2]);
            assert_eq!(report.withheld, expected, "{limits:?}");
            let unchanged = state(&trainer) == before;
            assert!(if expected.is_some() { unchanged } else { state(&trainer) == want.1 }, "{limits:?}");
            assert_eq!(report.loss, loss);
            withheld += usize::from(expected.is_some());
            for zero in [Zero::Moments, Zero::Weights] {
                let parallel = Parallel { zero, ..Parallel::default() };
                let both = ranks::run(2, |comm| {
                    let mut trainer = prepared(comm, precision, parallel);
                    let before = state(&trainer);
                    let report = step_within(&mut trainer, 2, &limits).unwrap();
                    let unchanged = state(&trainer) == before;
                    assert_eq!(report.withheld.is_some(), unchanged);
                    report
                });
                assert_eq!(both[0], both[1]);
            }
        }
    }
    println!("{withheld} steps above a limit");
    assert!(withheld >= 15);
}

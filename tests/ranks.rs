//! Several ranks that train together have the bits of one, whatever of the state they divide.

use fathom::run::watch::{Progress, Watched};
use fathom_conformance::ranks;
use fathom_core::DType;
use fathom_core::comm::{Comm, Solo};
use fathom_core::config::ModelConfig;
use fathom_core::device::Device;
use fathom_core::model::{Architecture, Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::train::plan::{Plan, Share};
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Parallel, Shards, StepReport, Sum, Trainer, Zero};
use fathom_core::weights::Parameters;
use fathom_cpu::Cpu;
use fathom_tests::golden::Golden;
use fathom_tests::golden_folder;

const POLICIES: [Precision; 3] = [Precision::F32, Precision::BF16, Precision::FP8];
const STAGES: [Zero; 4] = [Zero::Nothing, Zero::Moments, Zero::Gradients, Zero::Weights];

/// Micro-batches of a step, of `SEQUENCES` sequences of `LENGTH` tokens. More than 512 rows: a product adds up its
/// inner dimension in pieces of 512, so sums in place would differ from sums of whole gradients.
const MICRO_BATCHES: usize = 8;
const SEQUENCES: usize = 2;
const LENGTH: usize = 260;
const STEPS: usize = 2;
const VOCABULARY: usize = 300;

fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 64,
        intermediate_size: 144,
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

/// Rows `[sequence, LENGTH + 1]` of micro-batch `j` of a step.
fn micro_batch(step: usize, j: usize) -> impl Iterator<Item = u32> {
    let count = (SEQUENCES * (LENGTH + 1)) as u64;
    (0..count).map(move |i| (rng::bits(3, (step * MICRO_BATCHES + j) as u64, i) % VOCABULARY as u64) as u32)
}

/// What a run leaves: the reports of its steps, what its model scores, and the bits of all state.
#[derive(PartialEq)]
struct Left {
    reports: Vec<StepReport>,
    scores: Vec<f32>,
    biases: Vec<Vec<u32>>,
    /// Of each group.
    weights: Vec<Vec<u32>>,
    /// First and second moments of each group.
    moments: Vec<Vec<u32>>,
}

fn rates(batch_size: usize) -> Rates {
    Rates { lr: 1e-3, batch_size, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-3 }
}

/// A trainer of a random model, on one of the ranks of `comm`.
fn trainer<C: Comm<Cpu>>(
    device: &Cpu,
    comm: C,
    config: &ModelConfig,
    precision: Precision,
    parallel: Parallel,
) -> Trainer<Cpu, C> {
    let shards = Shards::new(Architecture::new(config).layout(), comm.rank(), comm.world());
    let model = match parallel.zero {
        Zero::Weights => Model::part(device, config, precision, shards.all_own()),
        _ => Model::new(device, config, precision),
    };
    let mut model = model.unwrap();
    model.initialize(5).unwrap();
    // Every gradient is clipped, so that its norm counts.
    let hyper = Hyperparameters { clip_norm: 0.05, ..Hyperparameters::default() };
    Trainer::sharing(model, comm, hyper, parallel).unwrap()
}

/// Trains as one of the ranks of `comm`. Weights and moments are those that this rank keeps.
fn train<C: Comm<Cpu>>(comm: C, precision: Precision, parallel: Parallel) -> Left {
    let device = Cpu::with_threads(1);
    let (rank, world) = (comm.rank(), comm.world());
    let mut trainer = trainer(&device, comm, &config(), precision, parallel);
    let rates = rates(MICRO_BATCHES * SEQUENCES);
    let step = |step| {
        let mine = || (rank..MICRO_BATCHES).step_by(world);
        let tokens: Vec<u32> = mine().flat_map(|j| micro_batch(step, j)).collect();
        let sources: Vec<u32> = mine().flat_map(|j| [(j % 2) as u32; SEQUENCES]).collect();
        let batch = Batch::new(&tokens, LENGTH, None, VOCABULARY).unwrap().with_sources(&sources, 2).unwrap();
        trainer.step(&batch, SEQUENCES, &rates).unwrap()
    };
    let reports = (0..STEPS).map(step).collect();
    let bits = |tensor: &fathom_core::tensor::Tensor<Cpu>| -> Vec<u32> {
        match tensor.dtype() {
            DType::BF16 => tensor.download::<Cpu, u16>(&device).unwrap().into_iter().map(u32::from).collect(),
            _ => tensor.download(&device).unwrap(),
        }
    };
    let held = |p: &Parameters<Cpu>| -> Vec<Vec<u32>> { p.groups().iter().map(bits).collect() };
    let text: Vec<u32> = micro_batch(STEPS, 0).collect();
    let scores = trainer.score(&Batch::new(&text, LENGTH, None, VOCABULARY).unwrap()).unwrap().nll;
    Left {
        reports,
        scores,
        biases: trainer.model.routers.iter().map(|router| bits(&router.bias)).collect(),
        weights: held(trainer.model.weights()),
        moments: [held(&trainer.optimizer.m), held(&trainer.optimizer.v)].concat(),
    }
}

/// What several ranks leave, put together; they must agree in what all have.
fn train_on(world: usize, precision: Precision, parallel: Parallel) -> Left {
    let mut all = ranks::run(world, |comm| train(comm, precision, parallel)).into_iter();
    let mut first = all.next().unwrap();
    let gather = |whole: &mut Vec<Vec<u32>>, other: Vec<Vec<u32>>, divided: bool| match divided {
        true => whole.iter_mut().zip(other).for_each(|(whole, part)| whole.extend(part)),
        false => assert!(*whole == other, "{world} ranks disagree"),
    };
    for other in all {
        assert!(other.reports == first.reports && other.scores == first.scores && other.biases == first.biases);
        gather(&mut first.moments, other.moments, parallel.zero >= Zero::Moments);
        gather(&mut first.weights, other.weights, parallel.zero == Zero::Weights);
    }
    first
}

fn check(worlds: &[usize], precision: Precision, parallel: Parallel, want: &Left) {
    for &world in worlds {
        let got = train_on(world, precision, parallel);
        let case = format!("{} on {world} ranks, {parallel:?}", precision.name());
        for (got, want) in got.reports.iter().zip(&want.reports) {
            assert_eq!(got, want, "{case}");
        }
        assert!(got.scores == want.scores, "{case}: scores differ");
        assert!(got.biases == want.biases, "{case}: biases differ");
        assert!(got.weights == want.weights, "{case}: weights differ");
        assert!(got.moments == want.moments, "{case}: moments differ");
    }
}

#[test]
fn exact_sums_have_the_same_bits_for_any_number_of_ranks() {
    for precision in POLICIES {
        let want = train(Solo, precision, Parallel::default());
        assert!(want.reports[0].grad_norm > 0.05 && want.reports[0].mtp_loss.is_some());
        for zero in STAGES {
            let worlds: &[usize] = if zero == Zero::Moments { &[1, 2, 4, 8] } else { &[4] };
            check(worlds, precision, Parallel { sum: Sum::Exact, zero }, &want);
        }
    }
}

#[test]
fn fast_sums_are_the_same_for_any_division_and_close_to_exact_ones() {
    let exact = train(Solo, Precision::F32, Parallel::default());
    let want = train_on(4, Precision::F32, Parallel { sum: Sum::Fast, zero: Zero::Nothing });
    check(&[4], Precision::F32, Parallel { sum: Sum::Fast, zero: Zero::Moments }, &want);
    check(&[4], Precision::F32, Parallel { sum: Sum::Fast, zero: Zero::Gradients }, &exact);
    assert!(want.weights != exact.weights, "the two ways of adding up are the same here, so the test shows nothing");
    for (fast, exact) in want.reports.iter().zip(&exact.reports) {
        assert!((fast.loss - exact.loss).abs() < 1e-5, "{} for {}", fast.loss, exact.loss);
        assert!((fast.grad_norm / exact.grad_norm - 1.0).abs() < 1e-5);
    }
}

#[test]
fn three_ranks_are_no_special_case() {
    let run = |comm: &dyn Comm<Cpu>, zero| {
        let (rank, world) = (comm.rank(), comm.world());
        let device = Cpu::with_threads(1);
        let mut trainer = trainer(&device, comm, &config(), Precision::F32, Parallel { sum: Sum::Exact, zero });
        let tokens: Vec<u32> = (rank..6).step_by(world).flat_map(|j| micro_batch(0, j)).collect();
        let batch = Batch::new(&tokens, LENGTH, None, VOCABULARY).unwrap();
        (0..2).map(|_| trainer.step(&batch, SEQUENCES, &rates(6 * SEQUENCES)).unwrap()).collect::<Vec<_>>()
    };
    let want = run(&Solo, Zero::Moments);
    for (world, zero) in [(2, Zero::Weights), (3, Zero::Moments), (3, Zero::Weights), (6, Zero::Gradients)] {
        for got in ranks::run(world, |comm| run(&comm, zero)) {
            assert_eq!(got, want, "{world} ranks, {zero:?}");
        }
    }
}

/// PyTorch FSDP2 trained the same checkpoint on two gloo ranks (tests/python/fsdp_trajectory.py).
#[test]
fn losses_and_norms_are_those_of_pytorch_fsdp2() {
    const BATCH: usize = 8;
    const LENGTH: usize = 64;
    let golden = TrajectoryOfRanks::load();
    let run = |comm: &dyn Comm<Cpu>, zero| {
        let (rank, world) = (comm.rank(), comm.world());
        let device = Cpu::with_threads(1);
        let model = golden.model(&device, zero, rank, world);
        let hyper = Hyperparameters { clip_norm: 0.05, ..Hyperparameters::default() };
        let parallel = Parallel { sum: Sum::Exact, zero };
        let mut trainer = Trainer::sharing(model, comm, hyper, parallel).unwrap();
        let rates = Rates { lr: 2e-3, batch_size: BATCH, bias_speed: 0.0, mtp_weight: 0.0, balance_alpha: 0.0 };
        let step = |step: usize| {
            let mine = (0..BATCH / 2).filter(|j| j % world == rank).flat_map(|j| [2 * j, 2 * j + 1]);
            let sequence = |i: usize| &golden.tokens[(step * BATCH + i) * LENGTH..][..LENGTH + 1];
            let tokens: Vec<u32> = mine.flat_map(|i| sequence(i).iter().copied()).collect();
            let batch = Batch::new(&tokens, LENGTH, None, golden.vocabulary()).unwrap();
            let report = trainer.step(&batch, 2, &rates).unwrap();
            (report.loss, report.grad_norm)
        };
        (0..golden.loss.len()).map(step).collect::<Vec<_>>()
    };
    let one = run(&Solo, Zero::Moments);
    let (mut loss, mut norm) = (0.0f64, 0.0f64);
    for (step, got) in one.iter().enumerate() {
        loss = loss.max((got.0 - golden.loss[step]).abs());
        norm = norm.max((got.1 / golden.grad_norm[step] - 1.0).abs());
    }
    println!("{} steps: losses within {loss:.1e}, norms within {norm:.1e} relative", one.len());
    assert!(one.len() == 20 && loss < 5e-5 && norm < 1e-4, "{loss} {norm}");
    for (world, zero) in [(2, Zero::Nothing), (2, Zero::Weights), (4, Zero::Gradients), (4, Zero::Weights)] {
        assert!(ranks::run(world, |comm| run(&comm, zero)).iter().all(|got| *got == one), "{world} ranks, {zero:?}");
    }
}

/// A larger model than the others here: its state outweighs the room for one group that is under way.
#[test]
fn memory_and_traffic_of_a_rank_are_as_planned() {
    const WORLD: usize = 4;
    /// What the CPU driver lays out factors of products in, which no plan knows.
    const SCRATCH: f64 = 3e6;
    let config = ModelConfig { hidden_size: 128, num_hidden_layers: 8, n_routed_experts: 32, ..config() };
    let rounds = MICRO_BATCHES / WORLD;
    for precision in POLICIES {
        for zero in STAGES {
            let parallel = Parallel { sum: Sum::Exact, zero };
            let share = Share { sequences: SEQUENCES, length: LENGTH, rounds, world: WORLD, parallel, average: false };
            let plan = Plan::of(&config, precision, share).unwrap();
            let state = plan.memory.weights + plan.memory.copies + plan.memory.gradients + plan.memory.moments;
            let got = ranks::run(WORLD, |comm| {
                let rank = Comm::<Cpu>::rank(&comm);
                let device = Cpu::with_threads(1);
                let comm = Watched::new(comm, Progress::default());
                let meter = comm.meter();
                let mut trainer = trainer(&device, comm, &config, precision, parallel);
                let tokens: Vec<u32> = (rank..MICRO_BATCHES).step_by(WORLD).flat_map(|j| micro_batch(0, j)).collect();
                let batch = Batch::new(&tokens, LENGTH, None, VOCABULARY).unwrap();
                let kept = trainer.model.weights().bytes()
                    + trainer.model.copied_bytes()
                    + trainer.gradient_bytes()
                    + trainer.optimizer.m.bytes()
                    + trainer.optimizer.v.bytes();
                meter.take();
                trainer.step(&batch, SEQUENCES, &rates(MICRO_BATCHES * SEQUENCES)).unwrap();
                (kept as f64, meter.take().bytes_sent as f64, device.memory().reserved as f64)
            });
            let case = format!("{} {zero:?}", precision.name());
            // The plan is rank 0's; parts differ in size, as blocks are not cut.
            for (rank, (kept, sent, reserved)) in got.into_iter().enumerate() {
                let close = |got: f64, planned: u64, bound: f64| (got / planned as f64 - 1.0).abs() < bound;
                assert!(close(kept, state, 0.05), "{case}: {kept} bytes of state, planned {state}");
                assert!(
                    close(sent, plan.sent, if rank == 0 { 1e-3 } else { 0.1 }),
                    "{case}: {sent} bytes sent, planned {}",
                    plan.sent
                );
                let total = plan.memory.total();
                let bound = 0.05 + SCRATCH / total as f64;
                assert!(close(reserved, total, bound), "{case}: {reserved} bytes in all, planned {total}");
            }
            if zero == Zero::Weights {
                let alone = Plan::of(&config, precision, Share { world: 1, rounds: MICRO_BATCHES, ..share }).unwrap();
                let of_one = (alone.memory.weights + alone.memory.gradients + alone.memory.moments) as f64;
                assert!((state as f64) < 1.1 * of_one / WORLD as f64, "{case}: {state} of {of_one}");
            }
        }
    }
}

/// The numbers of a run of PyTorch FSDP2, and what it began with.
struct TrajectoryOfRanks {
    golden: Golden,
    tokens: Vec<u32>,
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

impl TrajectoryOfRanks {
    fn load() -> Self {
        let folder = golden_folder().join("v3_fsdp2");
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&read("trajectory.json")).unwrap();
        let numbers = |key: &str| -> Vec<f64> {
            json["fsdp2"][key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let model = read("model.safetensors");
        Self {
            golden: Golden::new(&read("config.json"), &model, &model),
            tokens: read("tokens.bin").chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
            loss: numbers("loss"),
            grad_norm: numbers("grad_norm"),
        }
    }

    fn vocabulary(&self) -> usize {
        self.golden.config.vocab_size
    }

    fn model(&self, device: &Cpu, zero: Zero, rank: usize, world: usize) -> Model<Cpu> {
        let whole = self.golden.model(device, Precision::F32);
        if zero != Zero::Weights {
            return whole;
        }
        let layout = whole.architecture().layout();
        let held = Shards::new(layout, rank, world).all_own();
        let mut part = Model::part(device, &self.golden.config, Precision::F32, held).unwrap();
        for parameter in layout.parameters() {
            let range = part.weights().held_of(parameter);
            let mut bytes = vec![0; 4 * range.len()];
            whole.weights().read_range(device, parameter, range.clone(), &mut bytes).unwrap();
            part.weights_mut().write_range(device, parameter, range, &bytes).unwrap();
        }
        for (router, from) in part.routers.iter_mut().zip(&whole.routers) {
            router.bias.upload(device, &from.bias.download::<Cpu, f32>(device).unwrap()).unwrap();
        }
        part
    }
}

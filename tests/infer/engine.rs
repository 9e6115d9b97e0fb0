//! The engine: golden continuations, and random schedules of requests whose outputs equal each request alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use fathom::error::Error;
use fathom::hf;
use fathom::infer::{
    Constraint, Engine, EngineOptions, Event, Follower, Generated, Request, Sampling, ScoreRequest, Scores, Stop,
};
use fathom_core::cache::CacheFormat;
use fathom_core::config::ModelConfig;
use fathom_core::device::Device;
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_cpu::Cpu;
use fathom_dataprep::Tokenizer;
use fathom_tests::{golden_folder, tensors};

/// Schedules of a normal run; `FATHOM_SCHEDULES` asks for another number.
const SCHEDULES: u64 = 60;
const MTP: &str = "decode/v3_mtp";

fn model(device: &Cpu, case: &str) -> Model<Cpu> {
    let folder = golden_folder().join(case);
    let config = ModelConfig { quantization_config: None, ..hf::read_config(&folder).unwrap() };
    let mut model = Model::new(device, &config, Precision::F32).unwrap();
    hf::load_weights(&mut model, &folder).unwrap();
    model
}

/// Outputs of requests that are added at once, and the share of accepted drafts as (accepted, drafted).
fn outputs(model: &Model<Cpu>, options: EngineOptions, requests: &[Request]) -> (Vec<Generated>, (usize, usize)) {
    let mut engine = Engine::new(model, None, &[], options).unwrap();
    requests.iter().for_each(|request| {
        engine.add(request.clone()).unwrap();
    });
    let mut finished = BTreeMap::new();
    engine
        .run(|_, event| match event {
            Event::Finished { id, generated, .. } => {
                finished.insert(id, generated);
            }
            Event::Failed { error, .. } => panic!("{error}"),
            Event::Token { .. } | Event::Scored { .. } => {}
        })
        .unwrap();
    (finished.into_values().collect(), (engine.stats().accepted, engine.stats().drafted))
}

fn greedy(tokens: &[u32]) -> Request {
    let sampling =
        Sampling { temperature: 0.0, max_new_tokens: 64, ignore_eos: true, logprobs: Some(5), ..Sampling::default() };
    Request::new(tokens.to_vec(), sampling)
}

/// Three prompts, alone and together, in pages and chunks of any size, with and without drafts.
#[test]
fn continuations_are_those_of_transformers() {
    let device = Cpu::new();
    for case in ["decode/v3_yarn", "decode/v2_lite", "decode/v3_fp8", MTP] {
        let model = model(&device, case);
        let (floats, tokens) = tensors(&golden_folder().join(case).join("golden.safetensors"));
        let requests: Vec<Request> = (0..3).map(|i| greedy(&tokens[&format!("{i}.prompt")].1)).collect();
        let drafts = if case == MTP { &[0, 1, 2][..] } else { &[0][..] };
        for (page_tokens, step_tokens, sequences) in [(64, 512, 1), (16, 7, 3), (3, 40, 2)] {
            for &drafts in drafts {
                let options = EngineOptions { page_tokens, step_tokens, sequences, drafts, ..EngineOptions::default() };
                let (outputs, _) = outputs(&model, options, &requests);
                for (i, output) in outputs.iter().enumerate() {
                    assert_eq!(output.tokens, tokens[&format!("{i}.tokens")].1, "{case}, prompt {i}, {options:?}");
                    assert_eq!((output.stop, output.logprobs.len()), (Stop::Length, 64));
                    let ids = output.logprobs.iter().flat_map(|place| place.top.iter().map(|top| top.0));
                    assert_eq!(ids.collect::<Vec<_>>(), tokens[&format!("{i}.top5_ids")].1, "{case}, prompt {i}");
                    let got = output.logprobs.iter().flat_map(|place| place.top.iter().map(|top| top.1));
                    for (got, want) in got.zip(&floats[&format!("{i}.top5_logprobs")]) {
                        assert!((got - want).abs() < 2e-4, "{case}, prompt {i}: {got} for {want}");
                    }
                    assert!(output.logprobs.iter().all(|place| place.chosen == place.top[0].1));
                }
            }
        }
    }
}

/// The load is that of the experts that the routers chose, of prompts and of generated tokens, and counting changes no
/// bit of the outputs.
#[test]
fn the_load_of_experts_is_what_the_routers_chose() {
    let device = Cpu::new();
    for case in ["decode/v3_yarn", "decode/v2_lite", MTP] {
        let model = model(&device, case);
        let (_, tokens) = tensors(&golden_folder().join(case).join("golden.safetensors"));
        let requests: Vec<Request> = (0..3).map(|i| greedy(&tokens[&format!("{i}.prompt")].1)).collect();
        // Pages of which none is shared, and steps that cut prompts and mix them with generated tokens.
        let options = EngineOptions { page_tokens: 512, cache_tokens: 4096, step_tokens: 7, ..Default::default() };
        let mut engine = Engine::new(&model, None, &[], options).unwrap();
        assert!(engine.load().is_none(), "nothing is counted unless it is asked for");
        engine.count_load().unwrap();
        let mut finished = BTreeMap::new();
        for request in &requests {
            engine.add(request.clone()).unwrap();
        }
        let mut keep = |event| {
            if let Event::Finished { id, generated, .. } = event {
                finished.insert(id, generated);
            }
        };
        engine.run(|_, event| keep(event)).unwrap();
        let load = engine.load().unwrap().clone();
        let finished: Vec<Generated> = finished.into_values().collect();
        assert_eq!(finished, outputs(&model, options, &requests).0, "{case}");

        let config = model.config();
        let layers = (0..config.num_hidden_layers).filter(|&layer| config.is_moe_layer(layer));
        let mut want: BTreeMap<usize, Vec<u64>> =
            layers.map(|layer| (layer, vec![0; config.n_routed_experts])).collect();
        let mut computed = 0;
        for (request, generated) in requests.iter().zip(&finished) {
            // The last token is not read by the model.
            let text = [&request.tokens[..], &generated.tokens].concat();
            let batch = Batch::new(&text, text.len() - 1, None, config.vocab_size).unwrap();
            computed += text.len() as u64 - 1;
            let inputs = model.inputs(&batch, 0).unwrap();
            let kept = model.forward(&inputs, &mut model.load_count().unwrap()).unwrap();
            for (layer, block) in kept.blocks().iter().enumerate() {
                let Some(experts) = block.experts() else { continue };
                let mut bytes = vec![0; 4 * experts.elements()];
                device.download(experts.buffer(), 4 * experts.offset(), &mut bytes).unwrap();
                let chosen = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                chosen.for_each(|expert| want.get_mut(&layer).unwrap()[expert as usize] += 1);
            }
        }
        assert_eq!(load.layers, want, "{case}");
        assert_eq!(load.tokens, computed, "{case}");
        let chosen = computed * config.num_experts_per_tok as u64;
        assert!(!want.is_empty() && load.layers.values().all(|counts| counts.iter().sum::<u64>() == chosen), "{case}");
    }
}

/// The scores of texts that are added at once.
fn scores(model: &Model<Cpu>, options: EngineOptions, requests: &[ScoreRequest]) -> (Vec<Vec<Scores>>, usize) {
    let mut engine = Engine::new(model, None, &[], options).unwrap();
    let mut scored = BTreeMap::new();
    // In two parts, so that the second finds pages of the first.
    for some in requests.chunks(requests.len().div_ceil(2)) {
        for request in some {
            engine.add_scoring(request.clone()).unwrap();
        }
        let take = |_: &mut Engine<'_, Cpu>, event| match event {
            Event::Scored { id, scores } => assert!(scored.insert(id, scores).is_none()),
            other => panic!("{other:?}"),
        };
        engine.run(take).unwrap();
    }
    (scored.into_values().collect(), engine.stats().reused)
}

/// Scores are those of the pass without a cache, and the same bits for any chunks, pages, neighbors and sharing.
#[test]
fn the_endings_of_a_text_are_scored() {
    let device = Cpu::new();
    let model = model(&device, "decode/v3_yarn");
    let mut random = Random(3, 0);
    let vocabulary = model.config().vocab_size as u64;
    let start: Vec<u32> = (0..20).map(|_| random.below(vocabulary) as u32).collect();
    let mut requests = Vec::new();
    for i in 0..16 {
        let mut tokens = start[..random.below(21) as usize].to_vec();
        tokens.extend((0..2 + random.below(20)).map(|_| random.below(vocabulary) as u32));
        let rows = 1 + random.below(tokens.len() as u64) as usize;
        let last = |k: u32| [&tokens[tokens.len() + 1 - rows..], &[(i + k) % vocabulary as u32]].concat();
        requests.push(ScoreRequest { endings: (0..1 + i % 3).map(last).collect(), tokens: tokens.clone() });
    }
    let (want, _) = scores(&model, EngineOptions::default(), &requests);
    for (request, scores) in requests.iter().zip(&want) {
        for (ending, scores) in request.endings.iter().zip(scores) {
            let whole = [&request.tokens[..], &ending[ending.len() - 1..]].concat();
            let batch = Batch::new(&whole, whole.len() - 1, None, vocabulary as usize).unwrap();
            let plain = model.score(&batch).unwrap();
            let first = request.tokens.len() - ending.len();
            assert_eq!(scores.logprobs.len(), ending.len());
            for (i, (got, nll)) in scores.logprobs.iter().zip(&plain.nll[first..]).enumerate() {
                assert!((got + nll).abs() < 1e-4, "{got} for {}", -nll);
                assert_eq!(scores.greedy[i], plain.greedy[first + i] == ending[i]);
            }
        }
    }
    let mut all_reused = 0;
    for (page_tokens, step_tokens, sequences) in [(64, 512, 1), (4, 7, 3), (1, 40, 16), (3, 5, 2)] {
        for share_prefixes in [true, false] {
            let cache_tokens = if sequences == 3 { 44 } else { 400 };
            let options = EngineOptions {
                page_tokens,
                step_tokens,
                sequences,
                cache_tokens,
                share_prefixes,
                ..EngineOptions::default()
            };
            let (got, reused) = scores(&model, options, &requests);
            assert_eq!(got, want, "{options:?}");
            assert!(share_prefixes || reused == 0);
            all_reused += reused;
        }
    }
    assert!(all_reused > 100, "{all_reused} positions were found in the cache");
}

#[test]
fn drafts_are_accepted_as_often_as_in_transformers() {
    let device = Cpu::new();
    let model = model(&device, MTP);
    let (_, tokens) = tensors(&golden_folder().join(MTP).join("golden.safetensors"));
    for i in 0..3 {
        let options = EngineOptions { drafts: 1, ..EngineOptions::default() };
        let (_, (accepted, drafted)) = outputs(&model, options, &[greedy(&tokens[&format!("{i}.prompt")].1)]);
        let rounds = &tokens[&format!("{i}.accepted")].1;
        // Where one token is left there is nothing to draft.
        let (mut at, mut want) = (1, (0, 0));
        for &right in rounds.iter() {
            if at < 63 {
                want = (want.0 + right as usize, want.1 + 1);
            }
            at += 1 + right;
        }
        assert_eq!((accepted, drafted), want, "prompt {i}");
        assert!(accepted > 10, "the module was trained");
    }
}

/// Outputs whose neighboring tokens have no sum that 3 divides, and that end after 2, 4, 6 or 8 tokens.
#[derive(Debug)]
struct Neighbors {
    ends: Vec<u32>,
}

struct Placed {
    ends: Vec<u32>,
    tokens: Vec<u32>,
}

impl Placed {
    fn allows(&self, token: u32) -> bool {
        match self.ends.contains(&token) {
            true => !self.tokens.is_empty() && self.tokens.len().is_multiple_of(2),
            false => self.tokens.last().is_none_or(|last| !(last + token).is_multiple_of(3)),
        }
    }
}

impl Constraint for Neighbors {
    fn begin(&self) -> Result<Box<dyn Follower>, Error> {
        Ok(Box::new(Placed { ends: self.ends.clone(), tokens: Vec::new() }))
    }
}

impl Follower for Placed {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), Error> {
        let barred = (0u32..).zip(logits).filter(|(token, _)| !self.allows(*token));
        barred.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
        Ok(())
    }

    fn push(&mut self, token: u32) -> Result<(), Error> {
        assert!(self.allows(token) && !self.complete(), "{token} after {:?}", self.tokens);
        self.tokens.push(token);
        Ok(())
    }

    fn fork(&self) -> Box<dyn Follower> {
        Box::new(Self { ends: self.ends.clone(), tokens: self.tokens.clone() })
    }

    fn complete(&self) -> bool {
        self.tokens.len() == 8
    }
}

/// A constraint holds with any sampler and any number of drafts, and drafts of a greedy output change no token.
#[test]
fn outputs_belong_to_their_language() {
    let device = Cpu::new();
    let model = model(&device, MTP);
    let (_, tokens) = tensors(&golden_folder().join(MTP).join("golden.safetensors"));
    let ends = vec![1, 2];
    let mut requests = Vec::new();
    for (i, temperature) in [0.0, 0.0, 0.0, 1.0, 2.0, 5.0].into_iter().enumerate() {
        let mut request = greedy(&tokens[&format!("{}.prompt", i % 3)].1);
        request.sampling = Sampling { temperature, ignore_eos: false, ..request.sampling };
        request.constraint = Some(Arc::new(Neighbors { ends: ends.clone() }));
        requests.push(request);
    }
    let all = [0, 1, 2, 3].map(|drafts| {
        let mut engine = Engine::new(&model, None, &ends, EngineOptions { drafts, ..Default::default() }).unwrap();
        requests.iter().for_each(|request| assert!(engine.add(request.clone()).is_ok()));
        let mut finished = BTreeMap::new();
        engine
            .run(|_, event| match event {
                Event::Finished { id, generated, .. } => assert!(finished.insert(id, generated).is_none()),
                Event::Token { logprobs, .. } => {
                    // Those of the raw logits, of tokens that may not come, too.
                    assert!(logprobs.unwrap().top.iter().all(|(_, logprob)| logprob.is_finite()));
                }
                other => panic!("{other:?}"),
            })
            .unwrap();
        assert!(drafts == 0 || engine.stats().accepted > 0);
        finished.into_values().collect::<Vec<Generated>>()
    });
    for outputs in &all {
        assert_eq!(outputs[..3], all[0][..3]);
        for output in outputs {
            let tokens = &output.tokens;
            assert!(tokens.windows(2).all(|pair| !(pair[0] + pair[1]).is_multiple_of(3)), "{tokens:?}");
            assert!([2, 4, 6, 8].contains(&tokens.len()) && output.stop == Stop::EndOfText, "{output:?}");
        }
    }
    let free = outputs(&model, EngineOptions::default(), &[Request { constraint: None, ..requests[0].clone() }]).0;
    assert_ne!(free[0].tokens[..8], all[0][0].tokens, "the constraint has something to forbid");
}

/// Random numbers of one schedule.
struct Random(u64, u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.1 += 1;
        rng::bits(self.0, rng::stream("request schedules"), self.1) % n.max(1)
    }

    fn sampling(&mut self) -> Sampling {
        let mut sampling = Sampling {
            max_new_tokens: 1 + self.below(14) as usize,
            temperature: [0.0, 0.7, 1.0, 1.5][self.below(4) as usize],
            top_k: self.below(3) as usize * 7,
            top_p: [1.0, 0.9][self.below(2) as usize],
            min_p: [0.0, 0.02][self.below(2) as usize],
            seed: self.below(1 << 40),
            request: self.below(3),
            ..Sampling::default()
        };
        if self.below(3) == 0 {
            sampling.repetition_penalty = 1.3;
            sampling.presence_penalty = 0.4;
            sampling.frequency_penalty = 0.3;
        }
        if self.below(3) == 0 {
            sampling.logprobs = Some(self.below(3) as usize);
        }
        if self.below(3) == 0 {
            sampling.stop_tokens = vec![self.below(64) as u32, self.below(64) as u32];
            sampling.min_new_tokens = self.below(sampling.max_new_tokens as u64 + 1) as usize;
        }
        if self.below(3) == 0 {
            sampling.stop = vec![char::from(self.below(64) as u8).into()];
        }
        sampling
    }
}

struct Seen {
    finished: usize,
    cancelled: usize,
    preempted: usize,
    reused: usize,
    accepted: usize,
}

fn schedule(model: &Model<Cpu>, tokenizer: &Tokenizer, seed: u64, seen: &mut Seen) {
    let mut random = Random(seed, 0);
    let formats = [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Fp8];
    let options = EngineOptions {
        format: formats[random.below(3) as usize],
        page_tokens: 1 + random.below(6) as usize,
        cache_tokens: 36 + random.below(60) as usize,
        step_tokens: 1 + random.below(24) as usize,
        sequences: 1 + random.below(6) as usize,
        drafts: random.below(4).saturating_sub(1) as usize,
        share_prefixes: random.below(3) > 0,
    };
    let ends = [random.below(64) as u32];
    let mut engine = Engine::new(model, Some(tokenizer), &ends, options).unwrap();
    let common: Vec<u32> = (0..20).map(|_| random.below(64) as u32).collect();
    let mut left = 2 + random.below(7);
    let (mut requests, mut cancelled) = (BTreeMap::new(), Vec::new());
    let (mut results, mut texts): (BTreeMap<u64, Generated>, BTreeMap<u64, String>) = Default::default();
    while left > 0 || !engine.is_idle() {
        while left > 0 && (engine.is_idle() || random.below(3) == 0) {
            let mut tokens = common[..random.below(20) as usize].to_vec();
            tokens.extend((0..1 + random.below(12)).map(|_| random.below(64) as u32));
            let mut request = Request::new(tokens, random.sampling());
            if random.below(4) == 0 {
                request.constraint = Some(Arc::new(Neighbors { ends: ends.to_vec() }));
                request.sampling.min_new_tokens = 0;
            }
            requests.insert(engine.add(request.clone()).unwrap(), request);
            left -= 1;
        }
        if random.below(20) == 0 {
            let id = random.below(requests.len() as u64);
            if engine.cancel(id) {
                cancelled.push(id);
            }
        }
        for event in engine.step().unwrap() {
            match event {
                Event::Token { id, text, .. } => texts.entry(id).or_default().push_str(&text),
                Event::Finished { id, text, generated, .. } => {
                    texts.entry(id).or_default().push_str(&text);
                    assert!(results.insert(id, generated).is_none());
                }
                Event::Failed { error, .. } => panic!("{error}"),
                Event::Scored { .. } => {}
            }
        }
    }
    assert_eq!(results.len(), requests.len(), "nothing is lost");
    let stats = engine.stats();
    seen.preempted += stats.preempted;
    seen.reused += stats.reused;
    seen.accepted += stats.accepted;
    for (id, request) in requests {
        let got = &results[&id];
        assert_eq!(texts[&id], got.text, "the pieces are the text");
        let longest = options.cache_tokens.div_ceil(options.page_tokens) * options.page_tokens;
        let alone = EngineOptions {
            page_tokens: longest,
            cache_tokens: longest,
            step_tokens: 4096,
            share_prefixes: false,
            ..options
        };
        let mut alone = Engine::new(model, Some(tokenizer), &ends, alone).unwrap();
        let want = fathom::infer::single::run(&mut alone, request, &mut |_| true, &|| false).unwrap();
        if cancelled.contains(&id) {
            assert!(want.tokens.starts_with(&got.tokens) && got.stop == Stop::Cancelled, "seed {seed}, request {id}");
            seen.cancelled += 1;
        } else {
            assert_eq!(got, &want, "seed {seed}, request {id}");
            seen.finished += 1;
        }
    }
}

#[test]
fn every_output_of_a_random_schedule_equals_the_request_alone() {
    let schedules = std::env::var("FATHOM_SCHEDULES").ok().map_or(SCHEDULES, |n| n.parse().unwrap());
    let run = |part: u64| {
        let device = Cpu::with_threads(1);
        let (model, tokenizer) = (model(&device, MTP), Tokenizer::bytes());
        let mut seen = Seen { finished: 0, cancelled: 0, preempted: 0, reused: 0, accepted: 0 };
        (part..schedules).step_by(2).for_each(|seed| schedule(&model, &tokenizer, seed, &mut seen));
        seen
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(1));
        (run(0), other.join().unwrap())
    });
    let all = [
        a.finished + b.finished,
        a.cancelled + b.cancelled,
        a.preempted + b.preempted,
        a.reused + b.reused,
        a.accepted + b.accepted,
    ];
    println!("{schedules} schedules: finished, cancelled, pre-empted, reused positions, accepted drafts: {all:?}");
    assert!(all.iter().all(|&n| n > 0), "every case occurs: {all:?}");
}

/// A token whose embedding is NaN spoils its own sequence, with every format of the cache.
#[test]
fn a_request_that_is_not_finite_ends_alone() {
    let device = Cpu::new();
    let mut model = model(&device, MTP);
    let (weights, _) = tensors(&golden_folder().join(MTP).join("model.safetensors"));
    let name = "model.embed_tokens.weight";
    let mut embedding = weights[name].clone();
    let width = model.config().hidden_size;
    embedding[5 * width..6 * width].fill(f32::NAN);
    let parameter = model.architecture().layout().parameters().iter().find(|p| p.name == name).unwrap().clone();
    let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
    model.weights_mut().write(&device, &parameter, &bytes).unwrap();
    let bias = vec![(5, -1000.0)];
    let request = |tokens: &[u32]| {
        let mut request = greedy(tokens);
        (request.sampling.max_new_tokens, request.sampling.logit_bias) = (8, bias.clone());
        request
    };
    let (good, bad) = (request(&[1, 2, 3]), request(&[1, 5, 3]));
    for format in CacheFormat::ALL {
        for drafts in [0, 1] {
            let options = EngineOptions { format, drafts, page_tokens: 2, ..EngineOptions::default() };
            let (alone, _) = outputs(&model, options, std::slice::from_ref(&good));
            let mut engine = Engine::new(&model, None, &[], options).unwrap();
            for request in [&good, &bad, &good] {
                engine.add(request.clone()).unwrap();
            }
            let (mut failed, mut finished) = (Vec::new(), Vec::new());
            engine
                .run(|_, event| match event {
                    Event::Failed { id, error } => failed.push((id, error.to_string())),
                    Event::Finished { id, generated, .. } => finished.push((id, generated)),
                    Event::Token { .. } | Event::Scored { .. } => {}
                })
                .unwrap();
            assert_eq!(failed.len(), 1);
            let words =
                if format == CacheFormat::Fp8 { "NaN or infinity" } else { "logits of the model are not finite" };
            assert!(failed[0].0 == 1 && failed[0].1.contains(words), "{failed:?}");
            finished.sort_by_key(|(id, _)| *id);
            assert_eq!(finished, [(0, alone[0].clone()), (2, alone[0].clone())], "{format}, {drafts} drafts");
        }
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let device = Cpu::new();
    let model = model(&device, MTP);
    let options = EngineOptions { cache_tokens: 20, page_tokens: 4, ..EngineOptions::default() };
    let mut engine = Engine::new(&model, None, &[], options).unwrap();
    for (tokens, words) in [
        (vec![], "no tokens"),
        (vec![1, 64], "64"),
        (vec![1; 300], "max_position_embeddings"),
        (vec![1; 20], "the cache holds 20"),
    ] {
        let error = engine.add(greedy(&tokens)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let mut request = greedy(&[1, 2]);
    request.sampling.top_p = 2.0;
    assert!(engine.add(request).unwrap_err().to_string().contains("top-p"));
    assert!(engine.is_idle());
    // A full cache ends the output.
    let (outputs, _) = outputs(&model, options, &[greedy(&[1, 2, 3])]);
    assert_eq!((outputs[0].tokens.len(), outputs[0].stop), (17, Stop::Context));
    // Nothing to generate is no work.
    let mut request = greedy(&[1, 2]);
    request.sampling.max_new_tokens = 0;
    engine.add(request).unwrap();
    let events = engine.step().unwrap();
    assert!(matches!(&events[..], [Event::Finished { generated, .. }] if generated.tokens.is_empty()));
    for (tokens, endings, words) in [
        (vec![1, 2], vec![], "no token to score"),
        (vec![1, 2], vec![vec![1, 2, 3]], "no token before it"),
        (vec![1, 2], vec![vec![2, 3], vec![3]], "differ in length"),
        (vec![1, 2], vec![vec![1, 3]], "does not end like"),
        (vec![1, 2], vec![vec![64]], "64"),
        (vec![1; 21], vec![vec![2]], "the cache holds 20"),
    ] {
        let error = engine.add_scoring(ScoreRequest { tokens, endings }).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let id = engine.add_scoring(ScoreRequest { tokens: vec![1; 20], endings: vec![vec![2]] }).unwrap();
    assert!(engine.cancel(id) && engine.is_idle());
    let drafting = EngineOptions { drafts: 1, ..options };
    let mut drafting = Engine::new(&model, None, &[], drafting).unwrap();
    let error = drafting.add_scoring(ScoreRequest { tokens: vec![1], endings: vec![vec![2]] }).unwrap_err();
    assert!(error.to_string().contains("--speculate"), "{error}");
    let config = ModelConfig { num_nextn_predict_layers: 0, ..*model.config() };
    let plain = Model::new(&device, &config, Precision::F32).unwrap();
    let options = EngineOptions { drafts: 1, ..EngineOptions::default() };
    let error = Engine::new(&plain, None, &[], options).err().unwrap().to_string();
    assert!(error.contains("no MTP module"), "{error}");
}

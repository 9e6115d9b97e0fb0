//! Decoding with a cache: the numbers of the pass without one, the greedy continuations and drafts of transformers, and
//! the same bits however a sequence is cut, batched and paged.

use fathom::hf;
use fathom_core::cache::{Cache, CacheFormat, CacheOptions};
use fathom_core::config::ModelConfig;
use fathom_core::device::{Host, Kernels};
use fathom_core::layer::Phase;
use fathom_core::model::{Batch, Chunk, Draft, Model};
use fathom_core::precision::Precision;
use fathom_core::tensor::Tensor;
use fathom_cpu::Cpu;
use fathom_tests::decode::{Engine, NEW, PLAIN, Sequence, Way, argmax, check_continuations, rows, worst};
use fathom_tests::{Floats, Tokens, golden_folder, tensors};

/// A model of a golden folder in f32, MTP modules included.
fn model<D: Kernels>(device: &D, case: &str) -> Model<D> {
    model_in(Precision::F32, device, case)
}

fn model_in<D: Kernels>(precision: Precision, device: &D, case: &str) -> Model<D> {
    let folder = golden_folder().join(case);
    let config = ModelConfig { quantization_config: None, ..hf::read_config(&folder).unwrap() };
    let mut model = Model::new(device, &config, precision).unwrap();
    hf::load_weights(&mut model, &folder).unwrap();
    model
}

fn golden(case: &str) -> (Floats, Tokens) {
    tensors(&golden_folder().join(case).join("golden.safetensors"))
}

/// Logits of whole sequences with a cache, against those of the pass without one: the first `prompt` tokens in one
/// call, the others one by one.
fn against_the_pass_without<D: Kernels>(device: &D, case: &str, prompt: usize) -> f32 {
    let model = model(device, case);
    let (_, tokens) = golden(case);
    let (shape, tokens) = &tokens["tokens"];
    let length = shape[1] - 1;
    let batch = Batch::new(tokens, length, None, model.config().vocab_size).unwrap();
    let want = rows(device, &model.logits(&batch).unwrap());
    farthest(&with_a_cache(device, &model, case, prompt), &want)
}

/// Logits of whole sequences with a cache: the first `prompt` tokens in one call, the others one by one.
fn with_a_cache<D: Kernels>(device: &D, model: &Model<D>, case: &str, prompt: usize) -> Vec<Vec<f32>> {
    let (_, tokens) = golden(case);
    let (shape, tokens) = &tokens["tokens"];
    let length = shape[1] - 1;
    let prompts: Vec<&[u32]> = tokens.chunks(length + 1).map(|row| &row[..length]).collect();
    let mut engine = Engine::new(device, model, Way { chunk: prompt, ..PLAIN }, &prompts);
    engine.sequences.iter_mut().for_each(|s| s.prompt = prompt.min(length));
    while engine.sequences.iter().any(|s| s.done < length) {
        engine.step();
    }
    engine.sequences.iter().flat_map(|s| s.logits[..length].to_vec()).collect()
}

/// The largest difference of two lists of rows, as a share of the largest number.
fn farthest(got: &[Vec<f32>], want: &[Vec<f32>]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().flatten().fold(0.0f32, |m, x| m.max(x.abs()));
    got.iter().zip(want).map(|(got, want)| worst(got, want)).fold(0.0, f32::max) / largest
}

#[test]
fn prefill_and_decode_give_the_logits_of_the_pass_without_a_cache() {
    for case in ["v3_yarn", "v3_no_q_lora", "v3_tied_bias", "v2_lite", "v3_mtp", "v3_fp8"] {
        for prompt in [usize::MAX, 5, 1] {
            let reference = if prompt == 5 { against_the_pass_without(&Host::new(), case, prompt) } else { 0.0 };
            let cpu = against_the_pass_without(&Cpu::with_threads(2), case, prompt);
            println!(
                "{case}, {prompt} tokens prefilled: within {reference:.1e} on the reference, {cpu:.1e} on the CPU"
            );
            assert!(reference < 1e-4 && cpu < 1e-4, "{case}: logits differ by {reference} and {cpu} of the largest");
        }
    }
}

/// As samples are written during training: with the trainer's own model, in its precision. Decoding rounds no
/// activations, so a router that hesitates may choose other experts: that is most of what is allowed for.
#[test]
fn a_model_in_training_decodes_in_its_precision() {
    let device = Cpu::with_threads(2);
    for (precision, most) in [(Precision::BF16, 0.1), (Precision::FP8, 0.3)] {
        for case in ["v3_mtp", "v2_lite"] {
            let model = model_in(precision, &device, case);
            let [prefilled, decoded] = [usize::MAX, 5].map(|prompt| with_a_cache(&device, &model, case, prompt));
            let far = farthest(&decoded, &prefilled);
            println!("{case} in {}: within {far:.1e} of the largest logit", precision.name());
            assert!(far < most, "{case} in {}: logits differ by {far} of the largest", precision.name());
        }
    }
}

/// Checks greedy continuations of the three prompts of a case.
fn continuations(case: &str) {
    let case = format!("decode/{case}");
    let device = Cpu::with_threads(2);
    let (model, (floats, tokens)) = (model(&device, &case), golden(&case));
    check_continuations(&device, &case, &model, (&floats, &tokens), PLAIN);
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    ["v3_yarn", "v2_lite", "v3_fp8", "v3_mtp"].into_iter().for_each(continuations);
}

#[test]
fn a_sequence_has_the_same_bits_alone_or_batched_in_any_chunks_and_pages() {
    let device = Cpu::with_threads(2);
    for case in ["decode/v3_yarn", "decode/v2_lite"] {
        let (model, (_, tokens)) = (model(&device, case), golden(case));
        let prompts: Vec<&[u32]> = (0..3).map(|i| tokens[&format!("{i}.prompt")].1.as_slice()).collect();
        for format in CacheFormat::ALL {
            let bits = |sequences: &[Sequence]| -> Vec<Vec<u32>> {
                let logits = |s: &Sequence| s.logits.iter().flatten().map(|x| x.to_bits()).collect();
                sequences.iter().map(logits).collect()
            };
            let want = bits(&Engine::new(&device, &model, Way { format, ..PLAIN }, &prompts).finish());
            for page_tokens in [1, 3, 64] {
                for chunk in [1, 7, usize::MAX] {
                    let way = Way { format, page_tokens, chunk, ..PLAIN };
                    let together = bits(&Engine::new(&device, &model, way, &prompts).finish());
                    assert!(together == want, "{case}: {way:?}");
                }
            }
            for (prompt, want) in prompts.iter().zip(&want) {
                let way = Way { format, page_tokens: 3, chunk: 7, ..PLAIN };
                let alone = bits(&Engine::new(&device, &model, way, &[prompt]).finish());
                assert!(&alone[0] == want, "{case}: {format}, alone");
            }
        }
    }
}

/// The drafts of the module for generated tokens from 1 on, given the right tokens before, and their logits.
fn drafts<D: Kernels>(engine: &mut Engine<'_, D>, i: usize) -> (Vec<u32>, Vec<Vec<f32>>) {
    let Sequence { tokens, prompt, pages, hidden, .. } = &engine.sequences[i];
    let d = engine.model.config().hidden_size;
    let mut logits = Vec::new();
    // The prompt at once, then a token at a time, as in speculative decoding.
    let cuts: Vec<usize> = std::iter::once(0).chain(*prompt..tokens.len() - 1).collect();
    for ends in cuts.windows(2) {
        let (start, end) = (ends[0], ends[1]);
        let before = Tensor::<D>::from_slice(
            engine.device,
            &[end - start, d],
            fathom_core::DType::F32,
            &hidden[start..end].concat(),
        );
        let before = before.unwrap();
        let draft = Draft {
            tokens: &tokens[start + 1..end + 1],
            first: 0,
            start,
            pages,
            phase: if start < *prompt { Phase::Prefill } else { Phase::Decode },
            logits: 1,
        };
        let out = engine.model.draft(&mut engine.cache, 0, before.view(), &[draft]).unwrap();
        logits.extend(rows(engine.device, &out.logits));
    }
    (logits.iter().map(|row| argmax(row)).collect(), logits)
}

#[test]
fn the_module_drafts_what_it_drafts_in_transformers() {
    let (case, device) = ("decode/v3_mtp", Cpu::with_threads(2));
    let (model, (floats, tokens)) = (model(&device, case), golden(case));
    let prompts: Vec<&[u32]> = (0..3).map(|i| tokens[&format!("{i}.prompt")].1.as_slice()).collect();
    let mut engine = Engine::new(&device, &model, Way { page_tokens: 3, ..PLAIN }, &prompts);
    while engine.sequences.iter().any(|s| s.tokens.len() < s.prompt + NEW) {
        engine.step();
    }
    for i in 0..3 {
        let (drafted, logits) = drafts(&mut engine, i);
        assert_eq!(drafted, tokens[&format!("{i}.draft_tokens")].1, "prompt {i}");
        if i == 0 {
            let error = worst(&logits.concat(), &floats["0.draft_logits"]);
            println!("drafts: logits within {error:.1e}");
            assert!(error < 2e-4, "logits of drafts differ by {error}");
        }
        // One draft a round: a round yields one token, or two where the draft was right.
        let (right, mut at, mut accepted) = (engine.sequences[i].generated(), 1, Vec::new());
        while at < NEW {
            let hit = drafted[at - 1] == right[at];
            accepted.push(u32::from(hit));
            at += 1 + usize::from(hit);
        }
        assert_eq!(accepted, tokens[&format!("{i}.accepted")].1, "prompt {i}");
    }
}

#[test]
fn one_module_drafts_several_tokens_as_one_pass_over_its_own_states_does() {
    let (case, device) = ("decode/v3_mtp", Cpu::with_threads(2));
    let (model, (_, tokens)) = (model(&device, case), golden(case));
    let prompt = tokens["0.prompt"].1.as_slice();
    let mut engine = Engine::new(&device, &model, Way { page_tokens: 3, ..PLAIN }, &[prompt]);
    while engine.sequences[0].tokens.len() < prompt.len() + NEW {
        engine.step();
    }
    // Of the golden continuation: what the module drafts for the token after `known`, from the main model's states.
    let (golden, known) = (&tokens["0.draft_tokens"].1, prompt.len() + 20);
    let Engine { mut cache, sequences, .. } = engine;
    let sequence = &sequences[0];
    let d = model.config().hidden_size;
    let mut pass = |tokens: &[u32], hidden: &[Vec<f32>], start: usize| {
        let shape = [tokens.len(), d];
        let hidden = Tensor::<Cpu>::from_slice(&device, &shape, fathom_core::DType::F32, &hidden.concat()).unwrap();
        let (pages, phase) = (&sequence.pages, Phase::Decode);
        let draft = Draft { tokens, first: 0, start, pages, phase, logits: 1 };
        let out = model.draft(&mut cache, 0, hidden.view(), &[draft]).unwrap();
        (rows(&device, &out.logits).remove(0), rows(&device, &out.hidden))
    };
    // Drafts one after the other: each from the module's own state at the position before, and the draft before.
    let (mut logits, mut own) = pass(&sequence.tokens[1..known], &sequence.hidden[..known - 1], 0);
    let (mut drafted, mut states, mut all) = (vec![argmax(&logits)], Vec::new(), vec![logits]);
    assert_eq!(drafted[0], golden[known - 1 - prompt.len()]);
    for at in known - 1..known + 2 {
        states.push(own.pop().unwrap());
        let last = *drafted.last().unwrap();
        (logits, own) = pass(&[last], &states[states.len() - 1..], at);
        drafted.push(argmax(&logits));
        all.push(logits);
    }
    // The same in one pass, which also replaces what the drafts left in the cache.
    let ahead = |n: usize| -> (Vec<u32>, Vec<Vec<f32>>) {
        let tokens = sequence.tokens[1..known].iter().chain(&drafted[..n]).copied().collect();
        let hidden = sequence.hidden[..known - 1].iter().chain(&states[..n]).cloned().collect();
        (tokens, hidden)
    };
    for (n, want) in all.iter().enumerate() {
        let (tokens, hidden) = ahead(n);
        assert!(pass(&tokens, &hidden, 0).0 == *want, "draft {n}");
    }
    // After the round the right tokens take the drafts' places.
    let next = pass(&sequence.tokens[known..known + 3], &sequence.hidden[known - 1..known + 2], known - 1).0;
    assert_eq!(argmax(&next), golden[known + 2 - prompt.len()]);
}

#[test]
fn a_verification_of_several_tokens_has_the_bits_of_one_by_one() {
    let device = Cpu::with_threads(2);
    let (model, (_, tokens)) = (model(&device, "decode/v3_mtp"), golden("decode/v3_mtp"));
    let prompt = tokens["0.prompt"].1.as_slice();
    let mut engine = Engine::new(&device, &model, Way { page_tokens: 5, ..PLAIN }, &[prompt]);
    while engine.sequences[0].tokens.len() < prompt.len() + NEW {
        engine.step();
    }
    let Engine { mut cache, sequences, .. } = engine;
    let sequence = &sequences[0];
    // Wrong drafts first: what they leave in the cache is replaced by the next call.
    let start = prompt.len() + 10;
    for (tokens, right) in [(&[1, 2, 3, 4, 5][..], false), (&sequence.tokens[start..start + 5], true)] {
        let chunk = Chunk { tokens, start, pages: &sequence.pages, phase: Phase::Decode, logits: 5 };
        let out = model.extend(&mut cache, &[chunk]).unwrap();
        let bits = |x: &[Vec<f32>]| x.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let same = bits(&rows(&device, &out.logits)) == bits(&sequence.logits[start..start + 5]);
        assert_eq!(same, right, "{tokens:?}");
    }
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    let device = Host::new();
    let config = ModelConfig { max_position_embeddings: 8, ..ModelConfig::tiny() };
    let model = Model::new(&device, &config, Precision::F32).unwrap();
    let options = CacheOptions { page_tokens: 3, ..CacheOptions::new(4) };
    let mut cache = Cache::new(&device, &config, options).unwrap();
    let good = Chunk { tokens: &[1, 2], start: 0, pages: &[0, 1, 2], phase: Phase::Prefill, logits: 1 };
    assert!(model.extend(&mut cache, &[good]).is_ok());
    assert_eq!(model.extend(&mut cache, &[]).unwrap().logits.shape().rows(), 0);
    let vocabulary = config.vocab_size as u32;
    let cases: [(Chunk<'_>, &str); 7] = [
        (Chunk { tokens: &[], ..good }, "a chunk needs at least one token"),
        (Chunk { tokens: &[1, vocabulary], ..good }, "is not below the vocabulary size"),
        (Chunk { start: 7, ..good }, "the length of a sequence 9 is above max_position_embeddings 8"),
        (Chunk { start: usize::MAX, ..good }, "is above max_position_embeddings 8"),
        (Chunk { pages: &[], ..good }, "the length of a sequence 2 is above the tokens of its pages, 0"),
        (Chunk { pages: &[4], ..good }, "page 4 is not below the number of pages 4"),
        (Chunk { logits: 3, ..good }, "the number of logits 3 is above the tokens of the chunk, 2"),
    ];
    for (chunk, message) in cases {
        let error = model.extend(&mut cache, &[good, chunk]).map(drop).expect_err(message).to_string();
        assert!(error.contains(message), "{error:?} does not say {message:?}");
    }
    let other = ModelConfig { kv_lora_rank: config.kv_lora_rank + 1, ..config };
    let mut cache = Cache::new(&device, &other, options).unwrap();
    let error = model.extend(&mut cache, &[good]).map(drop).expect_err("another model's cache").to_string();
    assert!(error.contains("columns of the cache's latents"), "{error}");
}

//! `train --plan` over settings of any size: a plan without overflow, or an error, and soon.
#![no_main]

use std::path::Path;

use fathom::plan::{self, Request};
use fathom::settings::{Settings, Source};
use fathom_core::config::ParameterCount;
use fathom_core::device::Capabilities;
use fathom_fuzz::{Result, Unstructured, number, one};
use libfuzzer_sys::fuzz_target;

/// Most tensors of a model that is planned: about those of DeepSeek-V3.
const MAX_TENSORS: usize = 50_000;
/// Most numbers of a rotary table that is computed, and the most that a plan accepts.
const MAX_ROTARY: usize = 1 << 22;
const REFUSED_ROTARY: usize = (1 << 26) + 1;
/// Most parameters of a model that several ranks share.
const MAX_SHARED: u64 = 1 << 36;
/// Keys that sizes and times of a plan depend on.
const KEYS: [&str; 38] = [
    "model.vocab_size",
    "model.hidden_size",
    "model.intermediate_size",
    "model.moe_intermediate_size",
    "model.num_hidden_layers",
    "model.num_attention_heads",
    "model.num_key_value_heads",
    "model.n_shared_experts",
    "model.n_routed_experts",
    "model.num_experts_per_tok",
    "model.n_group",
    "model.topk_group",
    "model.q_lora_rank",
    "model.kv_lora_rank",
    "model.qk_rope_head_dim",
    "model.qk_nope_head_dim",
    "model.v_head_dim",
    "model.first_k_dense_replace",
    "model.moe_layer_freq",
    "model.max_position_embeddings",
    "model.num_nextn_predict_layers",
    "train.batch_size",
    "train.micro_batch_size",
    "train.sequence_length",
    "train.steps",
    "train.tokens",
    "train.ema_decay",
    "schedule.batch_start",
    "schedule.batch_ramp_tokens",
    "schedule.batch_multiple",
    "schedule.warmup_tokens",
    "schedule.decay_tokens",
    "schedule.bias_freeze_tokens",
    "schedule.mtp_late_tokens",
    "parallel.zero",
    "schedule.lr",
    "model.rope_theta",
    "checkpoint.shard_bytes",
];
const WORDS: [&str; 10] = [
    "train.precision=bf16",
    "train.precision=fp8",
    "train.precision=f32",
    "schedule.decay=cosine",
    "schedule.decay=v3",
    "schedule.decay=step",
    "model.scoring_func=softmax",
    "model.tie_word_embeddings=true",
    "parallel.zero=3",
    "train.sum=fast",
];
const PRESETS: [&str; 6] = ["tiny", "small", "v2-lite", "v2-236b", "moonlight-16b", "v3-671b"];

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let Ok((settings, ranks, as_json)) = settings(&mut u) else {
        return;
    };
    let Some(settings) = settings else {
        return;
    };
    // A plan takes time in proportion to tensors, to the rotary table, and with several ranks to rows.
    let model = &settings.model;
    let layers = model.num_hidden_layers + model.num_nextn_predict_layers;
    let parameters = ParameterCount::of(model).parameters_with_mtp();
    let rotary = settings.train.sequence_length * model.qk_rope_head_dim;
    let long = layers * (3 * model.n_routed_experts + 16) > MAX_TENSORS || ranks > 1 && parameters > MAX_SHARED;
    if long || (MAX_ROTARY..REFUSED_ROTARY).contains(&rotary) {
        return;
    }
    let (tokens, steps) = settings.budget().expect("it was checked");
    let schedule = settings.schedule().expect("it was checked");
    let mut device = Capabilities::new("cpu");
    device.memory = Some(1 << 34);
    let request = Request {
        model: &settings.model,
        schedule: &schedule,
        tokens,
        steps,
        micro_batch: settings.train.micro_batch_size,
        length: settings.train.sequence_length,
        ranks,
        parallel: settings.parallel.how,
        precision: settings.train.precision,
        average: settings.train.ema(),
        snapshot: settings.checkpoint.asynchronous,
        device,
        data: Some(Path::new("data")),
        tasks: None,
    };
    match plan::report(&request, as_json) {
        Ok(report) => assert!(report.len() > 100),
        Err(error) => assert!(error.to_string().len() > 8),
    }
});

/// Settings if they are accepted, a number of ranks, and whether JSON is asked for.
fn settings(u: &mut Unstructured<'_>) -> Result<(Option<Settings>, usize, bool)> {
    let ranks = usize::from(u.arbitrary::<u8>()? % 64) + 1;
    let as_json = u.arbitrary()?;
    let mut source = Source::default();
    let preset = format!("model.preset={}", one(u, &PRESETS)?);
    let mut fits = source.add_set(&preset).is_ok();
    while !u.is_empty() {
        let set = match u.arbitrary::<u8>()? {
            0..32 => (*one(u, &WORDS)?).to_owned(),
            _ => format!("{}={}", one(u, &KEYS)?, number(u)?),
        };
        fits &= source.add_set(&set).is_ok();
    }
    let settings = if fits { Settings::new(source).ok() } else { None };
    Ok((settings, ranks, as_json))
}

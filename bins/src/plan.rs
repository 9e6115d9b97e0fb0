//! `train --plan`: parameters, memory and work of a run that is not started.

use std::fmt::Write;
use std::path::Path;

use fathom_core::cache::{CacheFormat, SCRATCH, bytes_per_token};
use fathom_core::config::{KvCache, ModelConfig, ParameterCount};
use fathom_core::device::Capabilities;
use fathom_core::layer::mla::scratch_numbers;
use fathom_core::precision::Precision;
use fathom_core::train::plan::{MemoryPlan, Plan, Share};
use fathom_core::train::schedule::Schedule;
use fathom_core::train::{EmaMemory, Parallel, Zero};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::tasks::suite::Cost;
use crate::units::size;

/// Kernels shown in the table of costs.
const KERNELS: usize = 8;

/// The run that is planned.
pub struct Request<'a> {
    /// The model.
    pub model: &'a ModelConfig,
    /// Its rates by tokens.
    pub schedule: &'a Schedule,
    /// Tokens of the whole run.
    pub tokens: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Micro-batch size in sequences.
    pub micro_batch: usize,
    /// Sequence length in tokens.
    pub length: usize,
    /// Number of ranks.
    pub ranks: usize,
    /// How they share work and state.
    pub parallel: Parallel,
    /// The precision policy.
    pub precision: Precision,
    /// Where a moving average of the weights is kept, if one is.
    pub average: Option<EmaMemory>,
    /// Whether checkpoints are written in the background, from a copy of the state on the host.
    pub snapshot: bool,
    /// The device that would train; its memory where that is known.
    pub device: Capabilities,
    /// Data folder that the vocabulary comes from, if any: shown beside the parameters.
    pub data: Option<&'a Path>,
    /// What measuring the benchmark tasks once costs, and how often that is done, where there are any.
    pub tasks: Option<(Cost, u64)>,
}

impl Request<'_> {
    /// Bytes that training takes on the device, and whether they fit.
    fn fits(&self, memory: &MemoryPlan) -> Option<(u64, bool)> {
        let needed = self.needed(memory);
        Some((needed, needed <= self.device.memory?))
    }

    /// Bytes that training takes on the device.
    fn needed(&self, memory: &MemoryPlan) -> u64 {
        // The CPU's memory is the host's.
        let host = host_average(self, memory).saturating_add(snapshot(self, memory));
        memory.total().saturating_add(if self.device.name.as_str() == "cpu" { host } else { 0 })
    }
}

/// Bytes that the run takes on its device.
///
/// # Errors
/// As [`report`].
pub(crate) fn needed(request: &Request<'_>) -> Result<u64> {
    Ok(request.needed(&plan(request)?.memory))
}

/// The plan as a text for people, or as one JSON object.
///
/// The step itself is run on a device that counts and computes nothing, so memory and operations are those of the real
/// code, for a model of any size in seconds.
///
/// # Errors
/// Where a step of these sizes cannot be made.
pub fn report(request: &Request<'_>, as_json: bool) -> Result<String> {
    let plan = plan(request)?;
    if as_json { Ok(json(request, &plan).to_string()) } else { Ok(text(request, &plan)) }
}

fn plan(request: &Request<'_>) -> Result<Plan> {
    let batch = request.schedule.table().map(|(_, rates)| rates.batch_size).max().unwrap_or(request.micro_batch);
    let share = Share {
        sequences: request.micro_batch,
        length: request.length,
        rounds: (batch / request.micro_batch.max(1) / request.ranks.max(1)).max(1),
        world: request.ranks,
        parallel: request.parallel,
        average: request.average == Some(EmaMemory::Device),
    };
    Plan::on(request.device, request.model, request.precision, share).map_err(Error::device("planning a step"))
}

fn json(request: &Request<'_>, plan: &Plan) -> Value {
    let (count, kv, memory) = (&plan.parameters, &plan.kv_cache, &plan.memory);
    let comparison = |(from, to, ratio): (u64, u64, f64)| json!({ "from": from, "to": to, "ratio": ratio });
    let rates = request.schedule.table().take_while(|(at, _)| *at <= request.tokens).map(|(at, r)| {
        json!({
            "tokens": at, "lr": r.lr, "batch_size": r.batch_size, "bias_speed": r.bias_speed,
            "mtp_weight": r.mtp_weight, "balance_alpha": r.balance_alpha,
        })
    });
    let kinds = by_kind(count).into_iter().map(|(kind, n)| (kind.to_string(), json!(n)));
    json!({
        "parameters": count.parameters(),
        "parameters_with_mtp": count.parameters_with_mtp(),
        "parameters_in_training": count.parameters_in_training(),
        "active_parameters": count.active_parameters(),
        "parameters_by_kind": kinds.collect::<serde_json::Map<_, _>>(),
        "flops_per_token": operations_needed(request),
        "flops_per_token_counted": plan.flops_per_token,
        "kv_cache_bytes_per_token": kv.latent,
        "kv_cache_bytes_per_token_fp8": fp8_latent(request.model),
        "kv_cache": {
            "context": KvCache::PUBLISHED_CONTEXT,
            "bytes_at_context": kv.latent * KvCache::PUBLISHED_CONTEXT,
            "published": comparison(kv.published_comparison()),
            "with_rope_key": comparison(kv.comparison_with_rope_key()),
            "multi_head": comparison(kv.comparison_with_multi_head()),
        },
        "memory": {
            "weights": memory.weights,
            "copies": memory.copies,
            "gradients": memory.gradients,
            "moments": memory.moments,
            "ema": memory.average,
            "activations": memory.activations,
            "total": memory.total(),
        },
        "ranks": request.ranks,
        "zero": request.parallel.zero as u8,
        "bytes_sent_per_step": plan.sent,
        "host_memory": { "ema": host_average(request, memory), "snapshot": snapshot(request, memory) },
        "device": { "name": request.device.name.as_str(), "memory": request.device.memory },
        "fits": request.fits(memory).map(|(_, fits)| fits),
        "vocab_size": request.model.vocab_size,
        "vocabulary_of": request.data,
        "flops_of_run": operations_needed(request) as f64 * request.tokens as f64,
        "tokens": request.tokens,
        "steps": request.steps,
        "sequence_length": request.length,
        "micro_batch_size": request.micro_batch,
        "schedule": rates.collect::<Vec<_>>(),
        "tasks": request.tasks.map(|(cost, times)| json!({
            "times": times, "items": cost.items, "texts": cost.texts, "tokens": cost.tokens,
            "cache_bytes": cost.cache_bytes, "share_of_run": task_share(request, cost, times),
        })),
    })
}

/// Operations that training needs for a token.
fn operations_needed(request: &Request<'_>) -> u64 {
    request.model.flops_per_token(request.length) + request.model.mtp_flops_per_token(request.length)
}

/// Work of all measurements of the tasks over that of training: a forward pass is a third of a step.
fn task_share(request: &Request<'_>, cost: Cost, times: u64) -> f64 {
    cost.tokens as f64 * times as f64 / (3.0 * request.tokens.max(1) as f64)
}

/// The moving average of the weights where the host keeps it: as large as the master weights, f32 like them, and
/// divided among the ranks.
fn host_average(request: &Request<'_>, plan: &MemoryPlan) -> u64 {
    let divided = if request.parallel.zero == Zero::Weights { 1 } else { request.ranks as u64 };
    if request.average == Some(EmaMemory::Host) { plan.weights / divided } else { 0 }
}

/// The copy of the state on the host that checkpoints are written from in the background.
fn snapshot(request: &Request<'_>, plan: &MemoryPlan) -> u64 {
    let average = if request.average.is_some() { plan.weights } else { 0 };
    if request.snapshot { plan.weights.saturating_add(plan.moments).saturating_add(average) } else { 0 }
}

fn by_kind(count: &ParameterCount) -> [(&'static str, u64); 10] {
    [
        ("embedding", count.embedding),
        ("attention", count.attention),
        ("dense_ffn", count.dense_ffn),
        ("routed_experts", count.routed_experts),
        ("shared_experts", count.shared_experts),
        ("router", count.router),
        ("expert_bias", count.expert_bias),
        ("norms", count.norms),
        ("head", count.head),
        ("mtp", count.mtp),
    ]
}

fn text(request: &Request<'_>, plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = parameters(&mut out, request, &plan.parameters);
    let _ = memory(&mut out, request, &plan.memory, plan.sent);
    let _ = cache(&mut out, request.model, &plan.kv_cache);
    let _ = work(&mut out, request, plan);
    let _ = schedule(&mut out, request);
    out
}

fn parameters(out: &mut String, request: &Request<'_>, count: &ParameterCount) -> std::fmt::Result {
    let total = count.parameters();
    writeln!(out, "Parameters")?;
    writeln!(out, "  {:<28}{:>22}", "main model", grouped(total))?;
    if request.model.num_nextn_predict_layers > 0 {
        let with = count.parameters_with_mtp();
        writeln!(out, "  {:<28}{:>22}  with the MTP modules, as a checkpoint holds them", "", grouped(with))?;
    }
    let active = count.active_parameters();
    let share = 100.0 * active as f64 / total as f64;
    writeln!(out, "  {:<28}{:>22}  {share:.1} %", "active a token", grouped(active))?;
    for (kind, n) in by_kind(count).into_iter().filter(|(_, n)| *n > 0) {
        writeln!(out, "    {:<26}{:>22}", kind.replace('_', " "), grouped(n))?;
    }
    let from =
        request.data.map_or("of the preset or of model.vocab_size".into(), |data| format!("of {}", data.display()));
    writeln!(out, "  {:<28}{:>22}  {from}", "vocabulary", grouped(request.model.vocab_size as u64))?;
    writeln!(out)
}

fn memory(out: &mut String, request: &Request<'_>, plan: &MemoryPlan, sent: u64) -> std::fmt::Result {
    let (micro, length) = (request.micro_batch, request.length);
    let device = request.device.name;
    let on = match request.ranks {
        1 => format!("on {device}"),
        ranks => format!("of one rank of {ranks}, on {device}, {}", request.parallel),
    };
    writeln!(out, "Memory of training in {} {on}, micro-batch {micro} x {length} tokens", request.precision.name())?;
    let rows = [
        ("master weights", plan.weights),
        ("low-precision copies", plan.copies),
        ("gradients", plan.gradients),
        ("moments of AdamW", plan.moments),
        ("moving average of weights", plan.average),
        ("activations", plan.activations),
        ("total", plan.total()),
    ];
    for (kind, bytes) in rows.into_iter().filter(|(_, bytes)| *bytes > 0) {
        writeln!(out, "  {kind:<28}{:>22}", size(bytes))?;
    }
    if request.average == Some(EmaMemory::Host) {
        let average = size(host_average(request, plan));
        writeln!(out, "  {:<28}{average:>22}  moving average of the weights", "and on the host")?;
    }
    if request.snapshot {
        let bytes = size(snapshot(request, plan));
        writeln!(out, "  {:<28}{bytes:>22}  copy of the state, for checkpoint.async", "and on the host")?;
    }
    if request.ranks > 1 {
        writeln!(out, "  {:<28}{:>22}  by each rank, to the others", "sent in a step", size(sent))?;
    }
    match (request.device.memory, request.fits(plan)) {
        (Some(limit), Some((needed, fits))) => {
            let verdict = if fits { "fits here" } else { "does not fit here" };
            writeln!(out, "  {verdict}: {} needed, {device} has {}", size(needed), size(limit))?;
        }
        _ => writeln!(out, "  {device} is not here, or does not say how much memory it has")?,
    }
    writeln!(out)
}

/// Bytes of a token in an FP8 cache.
fn fp8_latent(model: &ModelConfig) -> u64 {
    bytes_per_token(model, CacheFormat::Fp8, 0) as u64
}

fn cache(out: &mut String, model: &ModelConfig, kv: &KvCache) -> std::fmt::Result {
    writeln!(out, "Latent cache of inference, BF16")?;
    writeln!(out, "  {:<28}{:>22}  latent and rotary key", "bytes a token", grouped(kv.latent))?;
    writeln!(out, "  {:<28}{:>22}", "at 128K tokens", size(kv.latent * KvCache::PUBLISHED_CONTEXT))?;
    let fp8 = fp8_latent(model);
    writeln!(out, "  {:<28}{:>22}  latent in FP8, rotary key in BF16", "bytes a token in FP8", grouped(fp8))?;
    writeln!(out, "  {:<28}{:>22}", "at 128K tokens in FP8", size(fp8 * KvCache::PUBLISHED_CONTEXT))?;
    let context = (KvCache::PUBLISHED_CONTEXT as usize).min(model.max_position_embeddings);
    let scratch = 4 * scratch_numbers(model, context, SCRATCH) as u64;
    let what = format!("keys and values of a prompt of {} tokens, some heads at a time", grouped(context as u64));
    writeln!(out, "  {:<28}{:>22}  {what}", "scratch in f32", size(scratch))?;
    let rows = [
        ("published comparison", kv.published_comparison(), "keys and values of hidden width -> latent alone"),
        ("with the rotary key", kv.comparison_with_rope_key(), "keys and values of hidden width -> what is cached"),
        ("against its own heads", kv.comparison_with_multi_head(), "all heads uncompressed -> what is cached"),
    ];
    for (name, (from, to, ratio), what) in rows {
        let line = format!("{} -> {}", size(from), size(to));
        writeln!(out, "  {name:<22}{line:>28}  {ratio:.1}x smaller: {what}")?;
    }
    writeln!(out)
}

fn work(out: &mut String, request: &Request<'_>, plan: &Plan) -> std::fmt::Result {
    let needed = operations_needed(request);
    writeln!(out, "Work of training, forward and backward")?;
    let per_token = operations(needed);
    writeln!(out, "  {:<28}{per_token:>22}  6 x active matrix parameters, and attention", "needed per token")?;
    let counted = operations(plan.flops_per_token);
    writeln!(out, "  {:<28}{counted:>22}  every kernel of the real step", "counted per token")?;
    let mut kernels = plan.tally.kernels.clone();
    kernels.sort_by_key(|k| std::cmp::Reverse(k.cost.flops));
    let all = plan.tally.cost().flops.max(1) as f64;
    for k in kernels.iter().take(KERNELS).filter(|k| k.cost.flops > 0) {
        let share = 100.0 * k.cost.flops as f64 / all;
        writeln!(out, "    {:<26}{share:>20.1} %  {} calls", k.name, k.calls)?;
    }
    let (total, tokens) = (needed as f64 * request.tokens as f64, grouped(request.tokens));
    writeln!(out, "  {:<28}{:>22}  {tokens} tokens", "needed for the whole run", format!("{total:.3e} FLOP"))?;
    if let Some((cost, times)) = request.tasks {
        let share = 100.0 * task_share(request, cost, times);
        let (items, tokens) = (grouped(cost.items), grouped(cost.tokens));
        let what = format!("{times} times {items} items, at most {tokens} tokens; cache {}", size(cost.cache_bytes));
        writeln!(out, "  {:<28}{:>22}  {what}", "benchmark tasks, about", format!("{share:.1} % of that"))?;
    }
    writeln!(out)
}

fn schedule(out: &mut String, request: &Request<'_>) -> std::fmt::Result {
    let (steps, tokens) = (request.steps, request.tokens);
    writeln!(out, "Schedule: {} steps, {} tokens", grouped(steps), grouped(tokens))?;
    writeln!(out, "  {:>22} {:>11} {:>7} {:>9} {:>7} {:>9}", "from token", "lr", "batch", "gamma", "lambda", "alpha")?;
    for (at, r) in request.schedule.table().take_while(|(at, _)| *at <= tokens) {
        writeln!(
            out,
            "  {:>22} {:>11.3e} {:>7} {:>9} {:>7} {:>9}",
            grouped(at),
            r.lr,
            r.batch_size,
            r.bias_speed,
            r.mtp_weight,
            r.balance_alpha
        )?;
    }
    Ok(())
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn operations(flops: u64) -> String {
    let units = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"];
    let mut value = flops as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_memory(name: &str, memory: Option<u64>) -> Capabilities {
        let mut capabilities = Capabilities::new(name);
        capabilities.memory = memory;
        capabilities
    }

    fn request<'a>(model: &'a ModelConfig, schedule: &'a Schedule) -> Request<'a> {
        Request {
            average: Some(EmaMemory::Device),
            snapshot: false,
            model,
            schedule,
            tokens: 14_800_000_000_000,
            steps: 1,
            micro_batch: 1,
            length: 4096,
            ranks: 1,
            parallel: Parallel::default(),
            precision: Precision::F32,
            device: with_memory("cpu", Some(16 << 30)),
            data: None,
            tasks: None,
        }
    }

    #[test]
    fn v3_says_what_is_published() {
        let (model, schedule) = (ModelConfig::v3_671b(), Schedule::v3());
        let value: Value = serde_json::from_str(&report(&request(&model, &schedule), true).unwrap()).unwrap();
        assert_eq!(value["parameters"], 671_026_419_200u64);
        assert_eq!(value["parameters_with_mtp"], 684_489_845_504u64);
        assert_eq!(value["kv_cache_bytes_per_token"], 70_272);
        assert_eq!(value["kv_cache_bytes_per_token_fp8"], 40_016);
        assert_eq!(value["kv_cache"]["published"]["ratio"], 28.0);
        assert_eq!((&value["memory"]["ema"], &value["host_memory"]["ema"]), (&value["memory"]["weights"], &json!(0)));
        assert!(value["memory"]["weights"].as_u64() >= Some(4 * 671_000_000_000));
        assert!(value["active_parameters"].as_u64().is_some() && value["flops_per_token"].as_u64().is_some());
    }

    #[test]
    fn the_text_holds_the_published_comparison() {
        let (model, schedule) = (ModelConfig::v3_671b(), Schedule::v3());
        let text = report(&request(&model, &schedule), false).unwrap();
        for needed in [
            "671,026,419,200",
            "684,489,845,504",
            "70,272",
            "40,016",
            "4.88 GiB",
            "213.50 GiB -> 7.62 GiB",
            "28.0x smaller",
            "moving average",
            "does not fit here: ",
            "cpu has 16.00 GiB",
            "14,800,000,000,000 tokens",
        ] {
            assert!(text.contains(needed), "{needed} is missing from:\n{text}");
        }
    }

    #[test]
    fn what_fits_is_said_to_fit() {
        let (model, schedule) = (ModelConfig::tiny(), Schedule::v3());
        let host = Some(EmaMemory::Host);
        let device = with_memory("cpu", Some(1 << 30));
        let small = Request { length: 64, device, average: host, ..request(&model, &schedule) };
        assert!(report(&small, false).unwrap().contains("\n  fits here: "));
        let value: Value = serde_json::from_str(&report(&small, true).unwrap()).unwrap();
        assert_eq!((&value["fits"], &value["device"]["memory"]), (&json!(true), &json!(1 << 30)));
        let (needed, average) =
            (value["memory"]["total"].as_u64().unwrap(), value["host_memory"]["ema"].as_u64().unwrap());
        assert!(average > 0);
        // The host's memory is the CPU's, and not a GPU's.
        let fits = |average, device: &str, bytes| {
            let device = with_memory(device, Some(bytes));
            let request = Request { device, average, length: 64, ..request(&model, &schedule) };
            serde_json::from_str::<Value>(&report(&request, true).unwrap()).unwrap()["fits"] == true
        };
        assert!(fits(host, "cpu", needed + average) && !fits(host, "cpu", needed + average - 1));
        assert!(fits(host, "cuda:0", needed) && !fits(host, "cuda:0", needed - 1));
        let on_device = Some(EmaMemory::Device);
        assert!(fits(on_device, "cuda:0", needed + average) && !fits(on_device, "cuda:0", needed + average - 1));
        // A copy of weights, moments and average for checkpoints in the background.
        let behind = Request { snapshot: true, ..small };
        let value: Value = serde_json::from_str(&report(&behind, true).unwrap()).unwrap();
        let copy = 2 * value["memory"]["weights"].as_u64().unwrap() + value["memory"]["moments"].as_u64().unwrap();
        assert_eq!(value["host_memory"]["snapshot"], copy);
        assert_eq!(super::needed(&behind).unwrap(), needed + average + copy);
        let unknown = Request { device: with_memory("cuda:0", None), snapshot: false, ..behind };
        assert!(!report(&unknown, false).unwrap().contains("fit here"));
    }

    #[test]
    fn benchmark_tasks_are_part_of_the_work() {
        let (model, schedule) = (ModelConfig::tiny(), Schedule::v3());
        let cost = Cost { items: 570, texts: 2280, tokens: 30_000, cache_bytes: 1 << 20 };
        let request = Request { length: 64, tokens: 1_000_000, tasks: Some((cost, 2)), ..request(&model, &schedule) };
        let text = report(&request, false).unwrap();
        assert!(text.contains("2.0 % of that  2 times 570 items, at most 30,000 tokens; cache 1.00 MiB"), "{text}");
        let value: Value = serde_json::from_str(&report(&request, true).unwrap()).unwrap();
        assert_eq!((&value["tasks"]["share_of_run"], &value["tasks"]["texts"]), (&json!(0.02), &json!(2280)));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            (grouped(0).as_str(), grouped(999).as_str(), grouped(1_234_567).as_str()),
            ("0", "999", "1,234,567")
        );
    }
}

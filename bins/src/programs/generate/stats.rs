//! `generate --stats`: the cache's size, rates, and accepted drafts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use fathom_core::cache::{bytes_per_token, full_bytes_per_token};
use fathom_core::config::KvCache;
use fathom_core::device::Kernels;

use crate::error::Result;
use crate::infer::{Engine, EngineOptions, Event, Request, Stats};
use crate::session::Session;

/// The lines of `--stats`.
pub(super) fn text<D: Kernels>(engine: &Engine<'_, D>) -> String {
    let (cache, stats, config) = (engine.cache(), engine.stats(), engine.model().config());
    let options = cache.options();
    let element = if options.format.name() == "f32" { 4 } else { 2 };
    let measured = cache.bytes_per_token();
    let formula = bytes_per_token(config, options.format, options.mtp);
    let full = full_bytes_per_token(config, options.mtp, element);
    let at = |bytes: usize| bytes as f64 * KvCache::PUBLISHED_CONTEXT as f64 / (1u64 << 30) as f64;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "cache: {}, {measured} bytes a token (by formula {formula}), {} tokens in pages of {}; 128K tokens {:.2} GiB",
        options.format,
        options.pages * options.page_tokens,
        options.page_tokens,
        at(measured)
    );
    let _ = writeln!(
        out,
        "full keys and values: {full} bytes a token, {:.1}x as large; at 128K tokens {:.2} GiB",
        full as f64 / measured as f64,
        at(full)
    );
    let _ = writeln!(
        out,
        "prompt: {} tokens, {} of them found in the cache, {:.1} tokens/s",
        stats.prompt_tokens,
        stats.reused,
        stats.prefill_rate()
    );
    let _ = writeln!(
        out,
        "generated: {} tokens of {} requests in {} steps, {:.1} tokens/s; {} pre-emptions",
        stats.generated,
        stats.requests,
        stats.steps,
        stats.decode_rate(),
        stats.preempted
    );
    if options.mtp > 0 {
        let _ = writeln!(
            out,
            "drafts: {} of {} accepted ({:.1} %), {:.2} tokens a step of a request",
            stats.accepted,
            stats.drafted,
            100.0 * stats.acceptance(),
            stats.tokens_per_round()
        );
    }
    out
}

/// A line about what drafts gain: the requests once more without them, beside the rate and the tokens that they gave
/// with them. Nothing where `stop` is raised before the end.
///
/// # Errors
/// Those of the engine.
pub(super) fn beside_plain<D: Kernels>(
    session: &Session<D>,
    options: EngineOptions,
    requests: Vec<Request>,
    (speculated, tokens): (Stats, Vec<Vec<u32>>),
    stop: &AtomicBool,
) -> Result<String> {
    let greedy = requests.iter().all(|request| request.sampling.temperature == 0.0);
    let mut engine = session.engine(EngineOptions { drafts: 0, ..options })?;
    for request in requests {
        engine.add(request)?;
    }
    let mut outputs = BTreeMap::new();
    while !engine.is_idle() {
        for event in engine.step()? {
            if let Event::Finished { id, generated, .. } = event {
                outputs.insert(id, generated.tokens);
            }
        }
        if stop.load(Ordering::SeqCst) {
            return Ok(String::new());
        }
    }
    let (with, without) = (speculated.decode_rate(), engine.stats().decode_rate());
    let same = match (greedy, outputs.into_values().eq(tokens)) {
        (true, true) => "the same tokens",
        (true, false) => "OTHER TOKENS, which is an error of this program",
        (false, _) => "sampled: other tokens of the same distribution",
    };
    Ok(format!("without drafts: {without:.1} tokens/s; with them {with:.1}, {:.2}x as fast; {same}\n", with / without))
}

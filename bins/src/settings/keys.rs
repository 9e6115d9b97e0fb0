//! Every key of the configuration: its type, its default and what it means. The only place that says so.
//!
//! `model.*` is not listed here but in [`fathom_core::config::FIELDS`], under the names of DeepSeek's `config.json`.

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number that is not negative.
    Count,
    /// A finite number that is not negative.
    Number,
    /// Any text.
    Text,
    /// A path, taken relative to the working directory.
    Path,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A list of texts; a single text is a list of one.
    List,
}

impl Kind {
    /// The kind in words, as an error or a help text says it.
    pub fn describe(self) -> String {
        match self {
            Kind::Flag => "true or false".into(),
            Kind::Count => "a whole number, 0 or more".into(),
            Kind::Number => "a number, 0 or more".into(),
            Kind::Text => "a text".into(),
            Kind::Path => "a path".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::List => "a list of texts".into(),
        }
    }
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The dotted name, the same in a file and in `--set`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The default as it would be written, or in words where it depends on something; empty where there is none.
    pub default: &'static str,
    /// What it means, with its unit.
    pub about: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

use Kind::{Choice, Count, Flag, List, Number, Path, Text};

/// Every key but `model.*`'s fields, in the order they are written.
pub const KEYS: &[Key] = &[
    key("model.preset", Text, "tiny", "the model to start from: tiny, small, v2-lite, v2-236b, moonlight-16b, v3-671b"),
    // prep
    key("input.paths", List, "", "files and folders to read; --input adds to them"),
    key("input.text_field", Text, "text", "the field of a .jsonl record that holds the text"),
    key("input.max_bad_records", Count, "100", ".jsonl lines without such a text to pass over before giving up"),
    key("input.max_document_bytes", Count, "268435456", "larger documents are left out"),
    key("input.max_bytes", Count, "", "stop after about this much text"),
    key("tokenizer.path", Path, "bytes", "a Hugging Face tokenizer.json, or `bytes`"),
    key("tokenizer.vocab_size", Count, "", "train a BPE tokenizer of so many tokens, in place of tokenizer.path"),
    key("tokenizer.eos", Text, "", "the token that ends a document, where the tokenizer's files do not say"),
    key("tokenizer.max_words", Count, "4194304", "training: distinct words in memory, about 100 bytes each"),
    key("tokenizer.train_bytes", Count, "1073741824", "training: text to learn from, from the start of the corpus"),
    key("output.validation_fraction", Number, "0.01", "share of the documents held out for validation; 0 for none"),
    key("output.validation_tail", Number, "0.0", "if above 0, hold out this last share of every document instead"),
    key("output.shard_bytes", Count, "536870912", "most bytes of tokens in one shard"),
    key("output.overwrite", Flag, "false", "replace what an earlier run left in the output folder"),
    key("prep.threads", Count, "0", "threads to prepare with; 0 for every core"),
    key("prep.seed", Count, "0", "chooses, with its content, which side a document falls on"),
    // data
    key("data.path", Path, "", "a folder that prep wrote, or the prefix of one .bin/.idx pair"),
    key("data.sources.NAME.path", Path, "", "in place of data.path: one of several sources, by a name of your choice"),
    key(
        "data.sources.NAME.weight",
        Number,
        "its size times its epochs",
        "the source's share of the sequences, in any unit; for all sources or none",
    ),
    key(
        "data.sources.NAME.epochs",
        Number,
        "for ever",
        "times the source may be gone through at most; may be a fraction",
    ),
    key(
        "data.packing",
        Choice(&["concatenate", "best_fit"]),
        "concatenate",
        "best_fit: documents whole where they fit",
    ),
    key("data.validation_path", Path, "data.path's own validation split", "data to measure the validation loss on"),
    key("data.shuffle", Flag, "true", "false: take the sequences in order"),
    key("data.seed", Count, "train.seed", "chooses the order of the sequences"),
    key("data.document_mask", Flag, "true", "attention does not look across the beginning of a document"),
    // train
    key("train.init", Path, "", "a checkpoint to start the weights from"),
    key("train.steps", Count, "1000", "steps to train for"),
    key("train.tokens", Count, "", "tokens to train for, in place of train.steps"),
    key("train.batch_size", Count, "32", "sequences a step"),
    key(
        "train.micro_batch_size",
        Count,
        "the largest divisor of train.batch_size up to 8",
        "sequences computed at once",
    ),
    key("train.sequence_length", Count, "256, or the model's context if that is shorter", "tokens a sequence"),
    key("train.precision", Choice(&["f32", "bf16", "fp8"]), "f32", "what the matrix products compute in"),
    key("train.seed", Count, "0", "chooses the initial weights"),
    key("train.clip_norm", Number, "1.0", "longest gradient, as an L2 norm; 0 does not clip"),
    key("train.weight_decay", Number, "0.1", "AdamW's decay of matrices"),
    key("train.beta1", Number, "0.9", "AdamW's memory of gradients"),
    key("train.beta2", Number, "0.95", "AdamW's memory of squared gradients"),
    key("train.eps", Number, "1e-8", "AdamW's guard against division by zero"),
    key("train.eval_every", Count, "100", "steps between measurements of the validation loss; 0 for none"),
    key("train.eval_tokens", Count, "65536", "tokens such a measurement reads; 0 for the whole validation set"),
    key("train.threads", Count, "0", "threads to compute with; 0 for every core"),
    key("train.report_seconds", Number, "10", "seconds between lines of progress where there is no terminal"),
    // precision
    key("precision.bf16_moments", Flag, "true for bf16 and fp8", "AdamW's moments in BF16"),
    key("precision.recompute_norms", Flag, "true", "compute RMSNorm again in the backward pass"),
    key(
        "precision.recompute_up_projections",
        Flag,
        "true for fp8",
        "compute the up-projections of latent attention again in the backward pass",
    ),
    key("precision.power_of_two", Flag, "false", "fp8: scales are powers of two everywhere, as in V3.1"),
    key(
        "precision.power_of_two_attention_output",
        Flag,
        "true",
        "fp8: ... for the input of the projection after attention",
    ),
    key("precision.power_of_two_dispatch", Flag, "true", "fp8: ... for what is dispatched to the experts"),
    key(
        "precision.power_of_two_down_gradient",
        Flag,
        "true",
        "fp8: ... for the gradient before the experts' down projections",
    ),
    key("precision.fp8_dispatch", Flag, "true", "fp8: rows go to the experts as codes"),
    key("precision.e5m6_attention_output", Flag, "true", "fp8: keep the output of attention as E5M6"),
    key("precision.fp8_swiglu_input", Flag, "true", "fp8: keep the inputs of SwiGLU as codes"),
    // schedule
    key("schedule.lr", Number, "4.2e-4", "peak learning rate"),
    key("schedule.warmup_tokens", Count, "0", "tokens over which the learning rate rises from 0"),
    key("schedule.decay", Choice(&["constant", "cosine", "v3", "step"]), "constant", "what it does afterwards"),
    key("schedule.lr_min", Number, "a tenth of schedule.lr", "what cosine comes down to"),
    key("schedule.decay_tokens", Count, "the length of the run", "tokens after which the decay has ended"),
    key("schedule.batch_start", Count, "train.batch_size", "sequences a step at first; grows to train.batch_size"),
    key("schedule.batch_ramp_tokens", Count, "0", "tokens over which the batch grows"),
    key("schedule.bias_speed", Number, "0.001", "step of the expert bias (γ)"),
    key("schedule.bias_freeze_tokens", Count, "never", "tokens after which γ is 0"),
    key("schedule.mtp_weight", Number, "0.3", "weight of the multi-token-prediction loss (λ)"),
    key("schedule.mtp_weight_late", Number, "schedule.mtp_weight", "λ from schedule.mtp_late_tokens on"),
    key("schedule.mtp_late_tokens", Count, "never", "tokens after which λ changes"),
    key("schedule.balance_alpha", Number, "1e-4", "weight of the sequence-wise balance loss (α); 0 turns it off"),
    // checkpoint
    key("checkpoint.every_steps", Count, "500", "steps between checkpoints; 0 writes only the last"),
    key("checkpoint.keep", Count, "2", "checkpoints kept, the newest; at least 1"),
    key("checkpoint.shard_bytes", Count, "5000000000", "most bytes in one model file before it is split"),
];

/// The key of that name. `NAME` in a key stands for any word.
pub fn find(name: &str) -> Option<&'static Key> {
    let fits = |(known, word): (&str, &str)| known == word || (known == "NAME" && !word.is_empty());
    let same = |key: &&Key| {
        key.name.split('.').count() == name.split('.').count() && key.name.split('.').zip(name.split('.')).all(fits)
    };
    KEYS.iter().find(same)
}

/// Every name that can be written: [`KEYS`] and the model's fields.
pub fn names() -> impl Iterator<Item = String> {
    let fields = fathom_core::config::FIELDS.iter().map(|field| format!("model.{field}"));
    KEYS.iter().map(|key| key.name.to_string()).chain(fields)
}

/// The known name with the smallest edit distance to `name`.
pub fn nearest(name: &str) -> String {
    names().min_by_key(|known| strsim::damerau_levenshtein(known, name)).unwrap_or_default()
}

/// The keys of some sections as the table a `--help` prints.
pub fn table(sections: &[&str]) -> String {
    let shown = |key: &&Key| key.name.split('.').next().is_some_and(|section| sections.contains(&section));
    let mut text = String::new();
    for key in KEYS.iter().filter(shown) {
        let default = if key.default.is_empty() { String::new() } else { format!(" [{}]", key.default) };
        text += &format!("  {:<28} {}{default}\n", key.name, key.about);
    }
    text
}

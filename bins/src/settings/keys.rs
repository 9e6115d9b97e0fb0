//! Every key of the configuration: its type, its default and what it means.
//!
//! Training reads its defaults from this table. Preparation has its own in
//! [`PrepConfig`](fathom_dataprep::PrepConfig), which a test holds equal to these. The fields of `model.*` are not
//! listed here but in [`fathom_core::config::FIELDS`], under the names of DeepSeek's `config.json`.

use toml::Value;

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
    /// One of a few words. `false` stands for the first, `true` for the last.
    Switch(&'static [&'static str]),
    /// A list of texts; a single text is a list of one.
    List,
    /// A finite number that is not negative, or `false`.
    Limit,
    /// A whole number that is not negative, or `false`.
    CountLimit,
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
            Kind::Choice(words) | Kind::Switch(words) => format!("one of {}", words.join(", ")),
            Kind::List => "a list of texts".into(),
            Kind::Limit => "a number, 0 or more, or false to turn the rule off".into(),
            Kind::CountLimit => "a whole number, 0 or more, or false to turn the rule off".into(),
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
    /// The default as it would be written, or in words where it is [`derived`](Self::derived); empty where there is
    /// none.
    pub default: &'static str,
    /// Whether the default depends on other settings.
    pub derived: bool,
    /// What it means, with its unit.
    pub about: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, derived: false, about }
}

/// A key whose default depends on other settings, as `default` says in words.
const fn derived(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, derived: true, about }
}

impl Key {
    /// The default in force where nothing is written; `None` where there is none or it is derived.
    pub fn stated(&self) -> Option<Value> {
        if self.derived || self.default.is_empty() {
            return None;
        }
        match self.kind {
            Kind::Text | Kind::Path | Kind::Choice(_) | Kind::Switch(_) => Some(Value::String(self.default.into())),
            kind => {
                let value = toml::from_str::<toml::Table>(&format!("v = {}", self.default)).ok()?.remove("v")?;
                match (kind, value) {
                    (Kind::Number, Value::Integer(n)) => Some(Value::Float(n as f64)),
                    (_, value) => Some(value),
                }
            }
        }
    }
}

use Kind::{Choice, Count, CountLimit, Flag, Limit, List, Number, Path, Switch, Text};

/// Every key but `model.*`'s fields, in the order they are written.
pub const KEYS: &[Key] = &[
    key("model.preset", Text, "tiny", "the model to start from: tiny, small, v2-lite, v2-236b, moonlight-16b, v3-671b"),
    // prep
    key("input.paths", List, "", "files, folders and globs to read; --input adds to them"),
    key(
        "input.format",
        Choice(&["suffix", "text", "lines", "html", "jsonlines", "json", "csv", "tsv", "warc", "parquet", "arrow"]),
        "suffix",
        "what every file is, whatever its suffix",
    ),
    key("input.text_field", Text, "text", "the field or column of a record that holds the text; JSON keys by dots"),
    key("input.id_field", Text, "id", "the field that holds its identifier"),
    key("input.url_field", Text, "url", "the field that holds its address"),
    key(
        "input.max_bad_records",
        Count,
        "",
        "most bad records before prep fails (default: 1 % of the records, at least 100)",
    ),
    key("input.max_document_bytes", Count, "268435456", "larger documents are left out"),
    key("input.max_bytes", Count, "", "stop after about this much text"),
    key("extract.enabled", Flag, "true", "find the main text of web pages; false keeps their markup"),
    key("extract.seconds", Count, "60", "time limit a page, for what hangs"),
    key("extract.max_page_bytes", Count, "10485760", "larger pages are dropped"),
    key("extract.max_depth", Count, "512", "pages with deeper nesting are dropped"),
    key("extract.max_elements", Count, "500000", "pages with more elements are dropped"),
    // prep: what is kept
    key(
        "filter.preset",
        Choice(&["off", "fineweb"]),
        "off",
        "fineweb turns every group of rules on, with its thresholds",
    ),
    derived("filter.max_bytes", CountLimit, "as filter.preset", "most bytes of a document; 16 MiB with fineweb"),
    derived("filter.url.enabled", Flag, "as filter.preset", "drop documents by their address"),
    key("filter.url.domains", List, "", "files of hosts and domains to drop, one a line"),
    key("filter.url.urls", List, "", "files of addresses to drop"),
    key("filter.url.words", List, "", "files of words that no address may hold"),
    key("filter.url.soft_words", List, "", "files of words of which an address may hold a few"),
    key("filter.url.subwords", List, "", "files of strings that no address may hold anywhere"),
    key("filter.url.max_soft_words", CountLimit, "2", "this many soft words drop a document"),
    derived("filter.language.enabled", Flag, "as filter.preset", "identify languages"),
    derived("filter.language.keep", List, "eng", "ISO 639-3 codes of languages to keep; an empty list keeps all"),
    key("filter.language.min_confidence", Limit, "0.65", "least certainty of the language"),
    key("filter.language.sample_chars", Count, "900", "characters of a document that are looked at"),
    derived("filter.gopher_repetition.enabled", Flag, "as filter.preset", "drop documents that repeat themselves"),
    key("filter.gopher_repetition.dup_paragraph_fraction", Limit, "0.3", "most paragraphs that occurred before"),
    key("filter.gopher_repetition.dup_paragraph_char_fraction", Limit, "0.2", "most characters in such paragraphs"),
    key("filter.gopher_repetition.dup_line_fraction", Limit, "0.3", "most lines that occurred before"),
    key("filter.gopher_repetition.dup_line_char_fraction", Limit, "0.2", "most characters in such lines"),
    key("filter.gopher_repetition.top_2_gram", Limit, "0.2", "most characters in the most frequent word pair"),
    key("filter.gopher_repetition.top_3_gram", Limit, "0.18", "the same of three words"),
    key("filter.gopher_repetition.top_4_gram", Limit, "0.16", "the same of four words"),
    key("filter.gopher_repetition.dup_5_gram", Limit, "0.15", "most characters in repeated sequences of five words"),
    key("filter.gopher_repetition.dup_6_gram", Limit, "0.14", "the same of six words"),
    key("filter.gopher_repetition.dup_7_gram", Limit, "0.13", "the same of seven words"),
    key("filter.gopher_repetition.dup_8_gram", Limit, "0.12", "the same of eight words"),
    key("filter.gopher_repetition.dup_9_gram", Limit, "0.11", "the same of nine words"),
    key("filter.gopher_repetition.dup_10_gram", Limit, "0.1", "the same of ten words"),
    derived(
        "filter.gopher_quality.enabled",
        Flag,
        "as filter.preset",
        "drop documents by their words, symbols and lines",
    ),
    key("filter.gopher_quality.min_words", CountLimit, "50", "fewest words"),
    key("filter.gopher_quality.max_words", CountLimit, "100000", "most words"),
    key("filter.gopher_quality.min_mean_word_length", Limit, "3.0", "least mean length of a word in characters"),
    key("filter.gopher_quality.max_mean_word_length", Limit, "10.0", "greatest"),
    key("filter.gopher_quality.max_hash_ratio", Limit, "0.1", "most # a word"),
    key("filter.gopher_quality.max_ellipsis_ratio", Limit, "0.1", "most ellipses a word"),
    key("filter.gopher_quality.max_bullet_lines", Limit, "0.9", "most lines that begin with a bullet"),
    key("filter.gopher_quality.max_ellipsis_lines", Limit, "0.3", "most lines that end in an ellipsis"),
    key("filter.gopher_quality.min_alphabetic_words", Limit, "0.8", "fewest words with a letter"),
    key("filter.gopher_quality.min_stop_words", CountLimit, "2", "fewest different stop words"),
    derived("filter.gopher_quality.stop_words", List, "the be to of and that have with", "words that prose contains"),
    derived("filter.c4.enabled", Flag, "as filter.preset", "remove lines that are not prose"),
    key("filter.c4.max_word_length", CountLimit, "1000", "remove lines with a longer word"),
    key("filter.c4.remove_citations", Flag, "true", "remove citation marks"),
    key("filter.c4.terminal_punctuation", Flag, "false", "remove lines that do not end as sentences do"),
    key("filter.c4.min_words_per_line", CountLimit, "3", "remove lines of fewer words"),
    key("filter.c4.javascript", Flag, "true", "remove lines that mention JavaScript"),
    key("filter.c4.policy", Flag, "true", "remove lines that mention terms of use or cookies"),
    key("filter.c4.lorem_ipsum", Flag, "true", "drop documents with filler text"),
    key("filter.c4.curly_bracket", Flag, "true", "drop documents with a {"),
    key("filter.c4.min_sentences", CountLimit, "5", "fewest sentences that are left"),
    key("filter.c4.min_paragraphs", CountLimit, "false", "fewest long lines, before any is removed"),
    key("filter.c4.paragraph_length", Count, "200", "characters of a long line"),
    derived("filter.fineweb.enabled", Flag, "as filter.preset", "drop lists, fragments and repeated lines"),
    key("filter.fineweb.min_terminal_lines", Limit, "0.12", "fewest lines that end in terminal punctuation"),
    key("filter.fineweb.max_short_lines", Limit, "0.67", "most short lines"),
    key("filter.fineweb.short_line_length", Count, "30", "characters of a short line, at most"),
    key("filter.fineweb.max_dup_line_chars", Limit, "0.01", "most characters in lines that occurred before"),
    key("filter.fineweb.max_newlines_per_word", Limit, "0.3", "most line ends a word"),
    derived("filter.pii.enabled", Flag, "as filter.preset", "mask personal data"),
    key("filter.pii.emails", Flag, "true", "mask e-mail addresses"),
    key("filter.pii.ips", Flag, "true", "mask IPv4 addresses"),
    key("filter.pii.public_ips_only", Flag, "true", "leave private IPv4 addresses as they are"),
    derived(
        "filter.pii.email_replacements",
        List,
        "two addresses of example.com",
        "what stands in for e-mail addresses",
    ),
    derived("filter.pii.ip_replacements", List, "datatrove's six", "what stands in for IP addresses"),
    key("dedup.urls", Flag, "false", "keep the first document of each address"),
    key("dedup.exact", Flag, "false", "keep the first document of each text"),
    key("dedup.near", Flag, "false", "keep one document of each cluster of near-duplicates"),
    key("dedup.minhash.ngram", Count, "5", "words of a sequence"),
    key("dedup.minhash.buckets", Count, "14", "bands of a signature"),
    key("dedup.minhash.hashes_per_bucket", Count, "8", "hash functions of a band"),
    key("dedup.minhash.seed", Count, "1", "chooses the hash functions"),
    key("dedup.keep", Choice(&["first", "longest"]), "first", "which document of a cluster is kept"),
    key("dedup.memory_bytes", Count, "1073741824", "bytes of memory that sorting may take"),
    key("decontaminate.files", List, "", "evaluation files: .jsonl, .csv, or an item a line"),
    key("decontaminate.fields", List, "", "fields of their records to look at; an empty list looks at all"),
    key("decontaminate.ngram", Count, "13", "words of a sequence"),
    key("decontaminate.min_words", Count, "13", "shorter items are looked for as a whole if they have this many words"),
    key("decontaminate.min_matches", Count, "1", "different sequences an item and a document must share"),
    key("decontaminate.drop", Flag, "true", "false: only report such documents"),
    key("tokenizer.path", Path, "bytes", "a Hugging Face tokenizer.json, or `bytes`"),
    key("tokenizer.vocab_size", Count, "", "vocabulary size of a BPE tokenizer to train, in place of tokenizer.path"),
    key("tokenizer.eos", Text, "", "the token that ends a document, where the tokenizer's files do not say"),
    key(
        "tokenizer.parse_added",
        Flag,
        "false",
        "turn added tokens written out in documents (<｜User｜>) into ids: for chat corpora",
    ),
    key("tokenizer.max_words", Count, "4194304", "training: distinct words in memory, about 100 bytes each"),
    key("tokenizer.train_bytes", Count, "1073741824", "training: text to learn from, from the start of the corpus"),
    key(
        "fim.rate",
        Number,
        "0.0",
        "share of the training documents rearranged to fill in the middle; DeepSeek has 0.1",
    ),
    key("fim.begin", Text, "<｜fim▁begin｜>", "token before the prefix"),
    key("fim.hole", Text, "<｜fim▁hole｜>", "token before the suffix"),
    key("fim.end", Text, "<｜fim▁end｜>", "token before the middle"),
    key("output.validation_fraction", Number, "0.01", "share of the documents held out for validation; 0 for none"),
    key(
        "output.validation_tail",
        Number,
        "",
        "hold out this last share of every document instead (default: only where no document is held out; 0 = never)",
    ),
    key("output.shard_bytes", Count, "536870912", "most bytes of tokens in one shard"),
    key("output.dropped", Flag, "false", "write documents that are dropped, and why, into dropped/"),
    key("output.overwrite", Flag, "false", "replace what an earlier run left in the output folder"),
    key("prep.threads", Count, "0", "threads to prepare with; 0 for every core"),
    key("prep.seed", Count, "0", "chooses, with its content, which side a document falls on"),
    key("prep.split_bytes", Count, "67108864", "bytes of input that one task reads, about"),
    key("prep.wait_seconds", Count, "3600", "how long to wait for other processes' tasks while none gets done"),
    // data
    key("data.path", Path, "", "training data: a folder that prep wrote, or the prefix of one Megatron .bin/.idx pair"),
    key(
        "data.sources.NAME.path",
        Path,
        "",
        "one of several sources, under a name of your choice, in place of data.path",
    ),
    derived(
        "data.sources.NAME.weight",
        Number,
        "its size times its epochs",
        "sampling weight of the source, in any unit; give it for all sources or none",
    ),
    derived("data.sources.NAME.epochs", Number, "no limit", "most passes over the source; may be a fraction"),
    key(
        "data.packing",
        Choice(&["concatenate", "best_fit"]),
        "concatenate",
        "how documents fill sequences: one long stream, or whole where they fit (best-fit packing)",
    ),
    derived("data.validation_path", Path, "the validation split of the training data", "data for the validation loss"),
    key("data.shuffle", Flag, "true", "shuffle sequences, in a new order every epoch; false reads them in order"),
    derived("data.seed", Count, "train.seed", "random seed of the shuffle"),
    key("data.document_mask", Flag, "true", "mask attention across document boundaries"),
    // train
    key("train.init", Path, "", "checkpoint to take the initial weights from (fine-tuning, continued pretraining)"),
    key("train.steps", Count, "1000", "optimizer steps"),
    key("train.tokens", Count, "", "training tokens, in place of train.steps"),
    key("train.batch_size", Count, "32", "global batch size: sequences per optimizer step"),
    derived(
        "train.micro_batch_size",
        Count,
        "the largest divisor of train.batch_size up to 8",
        "micro-batch size: sequences per forward and backward pass; gradients accumulate over the batch",
    ),
    derived(
        "train.sequence_length",
        Count,
        "256, or the model's context if that is shorter",
        "sequence length (block size) in tokens",
    ),
    key(
        "train.precision",
        Choice(&["f32", "bf16", "fp8"]),
        "f32",
        "precision of the matrix products (mixed precision)",
    ),
    key("train.seed", Count, "0", "random seed of the initial weights"),
    key("train.clip_norm", Number, "1.0", "maximum gradient L2 norm (gradient clipping); 0 = no clipping"),
    key("train.weight_decay", Number, "0.1", "AdamW weight decay, on matrices only"),
    key("train.beta1", Number, "0.9", "AdamW β₁: decay of the first moment"),
    key("train.beta2", Number, "0.95", "AdamW β₂: decay of the second moment"),
    key("train.eps", Number, "1e-8", "AdamW ε: added to the denominator"),
    derived(
        "train.ema_decay",
        Number,
        "0.999 for train.precision = \"fp8\", else 0",
        "decay of the exponential moving average (EMA) of the weights, in host memory; 0 = no EMA",
    ),
    key("train.eval_every", Count, "100", "steps between validation losses; 0 = none"),
    key("train.eval_tokens", Count, "65536", "tokens per validation loss; 0 = the whole validation split"),
    key(
        "train.expert_load_every",
        Count,
        "50",
        "steps between records of each expert's load in metrics.jsonl; 0 = none",
    ),
    key("train.sample_every", Count, "0", "steps between generated samples; 0 = none"),
    key("train.sample_prompt", Text, "", "prompt of the samples; empty = the start of a document"),
    key("train.sample_tokens", Count, "100", "maximum new tokens per sample"),
    key("train.threads", Count, "0", "threads of the CPU device; 0 = every core"),
    key("train.report_seconds", Number, "10", "seconds between progress lines where stderr is not a terminal"),
    key("train.tensorboard", Flag, "true", "also write the metrics to a TensorBoard event file in the run's folder"),
    // precision
    derived("precision.bf16_moments", Flag, "true for bf16 and fp8", "store AdamW's moments in BF16"),
    derived(
        "precision.recompute_norms",
        Flag,
        "true",
        "recompute RMSNorm in the backward pass (activation checkpointing)",
    ),
    derived(
        "precision.recompute_up_projections",
        Flag,
        "true for fp8",
        "recompute MLA's up-projections in the backward pass",
    ),
    derived("precision.power_of_two", Flag, "false", "fp8: power-of-two (UE8M0) scales everywhere, as in V3.1"),
    derived(
        "precision.power_of_two_attention_output",
        Flag,
        "true",
        "fp8: power-of-two scales for the input of the attention output projection",
    ),
    derived(
        "precision.power_of_two_dispatch",
        Flag,
        "true",
        "fp8: power-of-two scales for tokens dispatched to experts",
    ),
    derived(
        "precision.power_of_two_down_gradient",
        Flag,
        "true",
        "fp8: power-of-two scales for the gradient of the experts' down projection",
    ),
    derived("precision.fp8_dispatch", Flag, "true", "fp8: dispatch tokens to the experts in FP8"),
    derived("precision.e5m6_attention_output", Flag, "true", "fp8: save the attention output in E5M6"),
    derived("precision.fp8_swiglu_input", Flag, "true", "fp8: save the inputs of SwiGLU in FP8"),
    // schedule
    key("schedule.lr", Number, "4.2e-4", "peak learning rate"),
    key("schedule.warmup_tokens", Count, "0", "linear warm-up of the learning rate, in tokens"),
    key(
        "schedule.decay",
        Choice(&["constant", "cosine", "v3", "step"]),
        "constant",
        "learning-rate schedule after the warm-up",
    ),
    derived("schedule.lr_min", Number, "a tenth of schedule.lr", "final learning rate of the cosine"),
    derived("schedule.decay_tokens", Count, "the length of the run", "tokens after which the decay has ended"),
    derived("schedule.batch_start", Count, "train.batch_size", "initial batch size; it grows to train.batch_size"),
    key("schedule.batch_ramp_tokens", Count, "0", "batch-size ramp, in tokens"),
    key("schedule.bias_speed", Number, "0.001", "bias update speed γ of auxiliary-loss-free load balancing"),
    derived("schedule.bias_freeze_tokens", Count, "never", "tokens after which γ is 0"),
    key("schedule.mtp_weight", Number, "0.3", "weight λ of the multi-token-prediction (MTP) loss"),
    derived("schedule.mtp_weight_late", Number, "schedule.mtp_weight", "λ from schedule.mtp_late_tokens on"),
    derived("schedule.mtp_late_tokens", Count, "never", "tokens after which λ changes"),
    key("schedule.balance_alpha", Number, "1e-4", "weight α of the sequence-wise balance loss; 0 = off"),
    // checkpoint
    key("checkpoint.every_steps", Count, "500", "steps between checkpoints; 0 = only the last"),
    key("checkpoint.keep", Count, "2", "newest checkpoints to keep, at least 1"),
    key(
        "checkpoint.keep_best",
        Switch(&["none", "saved", "always"]),
        "saved",
        "keep the checkpoint with the lowest validation loss; always (or true) also writes one at each improvement, \
         none (or false) keeps none",
    ),
    key("checkpoint.keep_every", Count, "0", "steps between checkpoints that are kept for good; 0 = none"),
    key("checkpoint.format", Choice(&["f32", "bf16", "fp8"]), "f32", "number format of the model's own files"),
    key("checkpoint.shard_bytes", Count, "5000000000", "maximum bytes per model file"),
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

/// Names that other training programs give to a key of this one.
const ALIASES: [(&str, &str); 22] = [
    ("adam_beta1", "train.beta1"),
    ("adam_beta2", "train.beta2"),
    ("adam_epsilon", "train.eps"),
    ("block_size", "train.sequence_length"),
    ("context_length", "model.max_position_embeddings"),
    ("eval_interval", "train.eval_every"),
    ("eval_steps", "train.eval_every"),
    ("global_batch_size", "train.batch_size"),
    ("grad_clip", "train.clip_norm"),
    ("gradient_accumulation_steps", "train.micro_batch_size"),
    ("learning_rate", "schedule.lr"),
    ("max_grad_norm", "train.clip_norm"),
    ("max_iters", "train.steps"),
    ("max_steps", "train.steps"),
    ("min_lr", "schedule.lr_min"),
    ("n_embd", "model.hidden_size"),
    ("n_experts", "model.n_routed_experts"),
    ("n_layer", "model.num_hidden_layers"),
    ("num_experts", "model.n_routed_experts"),
    ("per_device_train_batch_size", "train.micro_batch_size"),
    ("save_steps", "checkpoint.every_steps"),
    ("seq_len", "train.sequence_length"),
];

/// The known name that a wrong one most likely stands for.
///
/// The first of these that there is: the key that other programs call so; a key of the same section whose name differs
/// by two letters at most; a key of another section with the same last part; the name with the smallest edit distance,
/// in the same section if there is such a section, where each whole word in common counts for three letters.
pub fn nearest(name: &str) -> String {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    if let Some((_, key)) = ALIASES.iter().find(|(alias, _)| *alias == leaf) {
        return (*key).into();
    }
    let section = |name: &str| name.split_once('.').map(|(section, _)| section.to_owned());
    let here = section(name).filter(|here| names().any(|known| section(&known).as_ref() == Some(here)));
    let fits = |known: &String| here.is_none() || section(known) == here;
    let distance = |known: &String| strsim::damerau_levenshtein(known, name);
    if let Some(close) = names().filter(fits).min_by_key(distance).filter(|close| distance(close) <= 2) {
        return close;
    }
    let same = names().filter(|known| known.split_once('.').is_some_and(|(_, rest)| rest == leaf));
    if let Some(same) = same.min_by_key(distance) {
        return same;
    }
    let words = |name: &str| name.split(['.', '_']).map(str::to_owned).collect::<Vec<_>>();
    let written = words(name);
    let cost = |known: &String| {
        let common = words(known).iter().filter(|word| written.contains(word)).count();
        distance(known) as i64 - 3 * common as i64
    };
    names().filter(fits).min_by_key(cost).unwrap_or_default()
}

/// The keys of some sections as the table that `--keys` prints, a line each: name, meaning, choices, default. The
/// fields of the model follow where `model` is among the sections.
pub fn table(sections: &[&str]) -> String {
    let shown = |key: &&Key| key.name.split('.').next().is_some_and(|section| sections.contains(&section));
    let width = KEYS.iter().filter(shown).map(|key| key.name.len()).max().unwrap_or(0).max(28);
    let line = |key: &Key| {
        let choices = match key.kind {
            Kind::Choice(words) | Kind::Switch(words) => format!(": {}", words.join(", ")),
            _ => String::new(),
        };
        let default = if key.default.is_empty() { String::new() } else { format!(" [{}]", key.default) };
        format!("  {:<width$} {}{choices}{default}\n", key.name, key.about)
    };
    let mut table: String = KEYS.iter().filter(shown).map(line).collect();
    if sections.contains(&"model") {
        let fields = wrapped(fathom_core::config::FIELDS, 100);
        table += &format!("  {:<width$} any field of DeepSeek's config.json, over the preset:\n", "model.FIELD");
        fields.iter().for_each(|line| table += &format!("      {line}\n"));
    }
    table
}

/// Words with commas in lines of at most `width` characters.
fn wrapped(words: &[&str], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (number, word) in words.iter().enumerate() {
        let word = format!("{word}{}", if number + 1 < words.len() { "," } else { "" });
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => *line += &format!(" {word}"),
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_leads_to_the_key_that_was_meant() {
        for (written, meant) in [
            ("train.stepz", "train.steps"),
            ("model.n_experts", "model.n_routed_experts"),
            ("model.hiden_size", "model.hidden_size"),
            ("train.lr", "schedule.lr"),
            ("train.learning_rate", "schedule.lr"),
            ("train.max_grad_norm", "train.clip_norm"),
            ("model.n_layer", "model.num_hidden_layers"),
            ("schedule.warmup", "schedule.warmup_tokens"),
            ("data.sources.web.wieght", "data.sources.NAME.weight"),
            ("checkpoint.best", "checkpoint.keep_best"),
            ("lr", "schedule.lr"),
            ("traim.steps", "train.steps"),
            ("filter.gopher_qualty.max_words", "filter.gopher_quality.max_words"),
            ("model.routed_experts", "model.n_routed_experts"),
        ] {
            assert_eq!(nearest(written), meant, "{written}");
        }
        for written in ["precision.foo", "precision.moments"] {
            assert!(nearest(written).starts_with("precision."), "{written}: {}", nearest(written));
        }
    }

    #[test]
    fn every_default_that_is_stated_is_a_value_of_its_kind() {
        for key in KEYS.iter().filter(|key| !key.derived && !key.default.is_empty()) {
            let value = key.stated().unwrap_or_else(|| panic!("{}: `{}` is no value", key.name, key.default));
            let fits = match key.kind {
                Kind::Flag => value.is_bool(),
                Kind::Count => value.is_integer(),
                Kind::Number => value.is_float(),
                Kind::Limit | Kind::CountLimit => {
                    value.is_integer() || value.is_float() || value == Value::Boolean(false)
                }
                Kind::Choice(words) | Kind::Switch(words) => value.as_str().is_some_and(|word| words.contains(&word)),
                Kind::Text | Kind::Path => value.is_str(),
                Kind::List => false,
            };
            assert!(fits, "{}: {value}", key.name);
        }
    }

    #[test]
    fn the_table_has_every_key_its_choices_and_the_models_fields() {
        let sections = ["model", "data", "train", "precision", "schedule", "checkpoint"];
        let table = table(&sections);
        for key in KEYS.iter().filter(|key| sections.contains(&key.name.split('.').next().unwrap())) {
            assert!(table.contains(&format!("\n  {} ", key.name)) || table.starts_with(&format!("  {} ", key.name)));
        }
        for part in [
            "precision.fp8_dispatch ",
            "(mixed precision): f32, bf16, fp8 [f32]",
            "after the warm-up: constant, cosine, v3, step [constant]",
            "n_routed_experts,",
            "quantization_config\n",
        ] {
            assert!(table.contains(part), "{part} is missing from\n{table}");
        }
    }
}

//! Every key of the configuration: its type, its default and what it means.
//!
//! Training reads its defaults from this table. Preparation has its own in
//! [`PrepConfig`](fathom_dataprep::PrepConfig), which a test holds equal to these. The fields of `model.*` are not
//! listed here but in [`fathom_core::config::FIELDS`], under the names of DeepSeek's `config.json`.

use toml::Value;

/// Kind of a key: the values that it takes.
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
    /// Kind of its values.
    pub kind: Kind,
    /// The default as it would be written, or in words where it is [`derived`](Self::derived); empty where there is
    /// none.
    pub default: &'static str,
    /// Whether the default depends on other settings.
    pub derived: bool,
    /// Description, with the unit.
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

/// Every key but `model.*`'s fields, in the order in which they are written.
pub const KEYS: &[Key] = &[
    key(
        "model.preset",
        Text,
        "tiny",
        "model preset that the fields of model.* start from: tiny, small, v2-lite, v2-236b, moonlight-16b, v3-671b",
    ),
    // prep
    key("input.paths", List, "", "files, folders and globs to read; --input adds to them"),
    key(
        "input.format",
        Choice(&["suffix", "text", "lines", "html", "jsonlines", "json", "csv", "tsv", "warc", "parquet", "arrow"]),
        "suffix",
        "input format of all files; suffix tells each file's by its name and content",
    ),
    key("input.text_field", Text, "text", "text field: name of the column, or path of JSON keys with dots"),
    key("input.id_field", Text, "id", "identifier field of a record"),
    key("input.url_field", Text, "url", "URL field of a record"),
    key(
        "input.max_bad_fraction",
        Number,
        "",
        "maximum share of bad records; more fail prep when all is read (default: 0.01, and 100 records in any corpus)",
    ),
    key("input.max_bad_records", Count, "", "maximum number of bad records, likewise (default: no number)"),
    key("input.max_document_bytes", Count, "268435456", "maximum bytes of a document; larger ones are skipped"),
    key(
        "input.max_growth",
        Count,
        "40000",
        "maximum decompressed bytes per compressed byte of a file beyond 256 MiB; the rest of such a file is bad",
    ),
    key("input.max_bytes", Count, "", "bytes of text after which reading stops (default: no limit)"),
    key("extract.enabled", Flag, "true", "extract the main text of web pages; false keeps their markup"),
    key("extract.seconds", Count, "60", "time limit of one page's extraction, in seconds"),
    key("extract.max_page_bytes", Count, "10485760", "maximum bytes of a page; larger ones are dropped"),
    key("extract.max_depth", Count, "512", "maximum nesting depth of a page; deeper ones are dropped"),
    key(
        "extract.max_elements",
        Count,
        "500000",
        "maximum number of HTML elements of a page; pages with more are dropped",
    ),
    // prep: what is kept
    key(
        "filter.preset",
        Choice(&["off", "fineweb"]),
        "off",
        "filter preset; fineweb turns every group of rules on, with FineWeb's thresholds",
    ),
    derived("filter.max_bytes", CountLimit, "as filter.preset", "maximum bytes of a document; 16 MiB with fineweb"),
    derived("filter.url.enabled", Flag, "as filter.preset", "drop documents by URL"),
    key("filter.url.domains", List, "", "files of hosts and domains to drop, one per line"),
    key("filter.url.urls", List, "", "files of URLs to drop, one per line"),
    key("filter.url.words", List, "", "files of words; a URL with one of them is dropped"),
    key(
        "filter.url.soft_words",
        List,
        "",
        "files of soft words; a URL with filter.url.max_soft_words of them is dropped",
    ),
    key("filter.url.subwords", List, "", "files of strings; a URL that contains one anywhere is dropped"),
    key("filter.url.max_soft_words", CountLimit, "2", "number of soft words in a URL that drops a document"),
    derived("filter.language.enabled", Flag, "as filter.preset", "identify the language of each document"),
    derived("filter.language.keep", List, "eng", "languages to keep, as ISO 639-3 codes; an empty list keeps all"),
    key("filter.language.min_confidence", Limit, "0.65", "minimum confidence of the identified language, 0 to 1"),
    key("filter.language.sample_chars", Count, "900", "characters of a document that the identification reads"),
    derived(
        "filter.gopher_repetition.enabled",
        Flag,
        "as filter.preset",
        "drop repetitive documents (Gopher's repetition rules)",
    ),
    key("filter.gopher_repetition.dup_paragraph_fraction", Limit, "0.3", "maximum fraction of duplicate paragraphs"),
    key(
        "filter.gopher_repetition.dup_paragraph_char_fraction",
        Limit,
        "0.2",
        "maximum fraction of characters in duplicate paragraphs",
    ),
    key("filter.gopher_repetition.dup_line_fraction", Limit, "0.3", "maximum fraction of duplicate lines"),
    key(
        "filter.gopher_repetition.dup_line_char_fraction",
        Limit,
        "0.2",
        "maximum fraction of characters in duplicate lines",
    ),
    key(
        "filter.gopher_repetition.top_2_gram",
        Limit,
        "0.2",
        "maximum fraction of characters in the most frequent 2-gram of words",
    ),
    key(
        "filter.gopher_repetition.top_3_gram",
        Limit,
        "0.18",
        "maximum fraction of characters in the most frequent 3-gram",
    ),
    key(
        "filter.gopher_repetition.top_4_gram",
        Limit,
        "0.16",
        "maximum fraction of characters in the most frequent 4-gram",
    ),
    key(
        "filter.gopher_repetition.dup_5_gram",
        Limit,
        "0.15",
        "maximum fraction of characters in duplicate 5-grams of words",
    ),
    key("filter.gopher_repetition.dup_6_gram", Limit, "0.14", "maximum fraction of characters in duplicate 6-grams"),
    key("filter.gopher_repetition.dup_7_gram", Limit, "0.13", "maximum fraction of characters in duplicate 7-grams"),
    key("filter.gopher_repetition.dup_8_gram", Limit, "0.12", "maximum fraction of characters in duplicate 8-grams"),
    key("filter.gopher_repetition.dup_9_gram", Limit, "0.11", "maximum fraction of characters in duplicate 9-grams"),
    key("filter.gopher_repetition.dup_10_gram", Limit, "0.1", "maximum fraction of characters in duplicate 10-grams"),
    derived(
        "filter.gopher_quality.enabled",
        Flag,
        "as filter.preset",
        "drop documents by statistics of words, symbols and lines (Gopher's quality rules)",
    ),
    key("filter.gopher_quality.min_words", CountLimit, "50", "minimum number of words"),
    key("filter.gopher_quality.max_words", CountLimit, "100000", "maximum number of words"),
    key("filter.gopher_quality.min_mean_word_length", Limit, "3.0", "minimum mean word length, in characters"),
    key("filter.gopher_quality.max_mean_word_length", Limit, "10.0", "maximum mean word length, in characters"),
    key("filter.gopher_quality.max_hash_ratio", Limit, "0.1", "maximum ratio of # symbols to words"),
    key("filter.gopher_quality.max_ellipsis_ratio", Limit, "0.1", "maximum ratio of ellipses to words"),
    key("filter.gopher_quality.max_bullet_lines", Limit, "0.9", "maximum fraction of lines that begin with a bullet"),
    key("filter.gopher_quality.max_ellipsis_lines", Limit, "0.3", "maximum fraction of lines that end in an ellipsis"),
    key("filter.gopher_quality.min_alphabetic_words", Limit, "0.8", "minimum fraction of words with a letter"),
    key("filter.gopher_quality.min_stop_words", CountLimit, "2", "minimum number of different stop words"),
    derived("filter.gopher_quality.stop_words", List, "the be to of and that have with", "stop words to count"),
    derived("filter.c4.enabled", Flag, "as filter.preset", "remove lines that are not prose (C4's rules)"),
    key(
        "filter.c4.max_word_length",
        CountLimit,
        "1000",
        "maximum characters of a word; lines with a longer one are removed",
    ),
    key("filter.c4.remove_citations", Flag, "true", "remove citation marks"),
    key("filter.c4.terminal_punctuation", Flag, "false", "remove lines without terminal punctuation"),
    key("filter.c4.min_words_per_line", CountLimit, "3", "minimum words of a line; shorter lines are removed"),
    key("filter.c4.javascript", Flag, "true", "remove lines that mention JavaScript"),
    key("filter.c4.policy", Flag, "true", "remove lines about terms of use, privacy or cookies"),
    key("filter.c4.lorem_ipsum", Flag, "true", "drop documents with lorem ipsum"),
    key("filter.c4.curly_bracket", Flag, "true", "drop documents that contain {"),
    key("filter.c4.min_sentences", CountLimit, "5", "minimum number of sentences that remain"),
    key("filter.c4.min_paragraphs", CountLimit, "false", "minimum number of long lines, counted before any is removed"),
    key("filter.c4.paragraph_length", Count, "200", "minimum characters of a long line"),
    derived(
        "filter.fineweb.enabled",
        Flag,
        "as filter.preset",
        "drop lists, fragments and repeated lines (FineWeb's rules)",
    ),
    key(
        "filter.fineweb.min_terminal_lines",
        Limit,
        "0.12",
        "minimum fraction of lines that end in terminal punctuation",
    ),
    key("filter.fineweb.max_short_lines", Limit, "0.67", "maximum fraction of short lines"),
    key("filter.fineweb.short_line_length", Count, "30", "maximum characters of a short line"),
    key("filter.fineweb.max_dup_line_chars", Limit, "0.01", "maximum fraction of characters in duplicate lines"),
    key("filter.fineweb.max_newlines_per_word", Limit, "0.3", "maximum ratio of line breaks to words"),
    derived("filter.pii.enabled", Flag, "as filter.preset", "mask personal data (PII)"),
    key("filter.pii.emails", Flag, "true", "mask e-mail addresses"),
    key("filter.pii.ips", Flag, "true", "mask IPv4 addresses"),
    key("filter.pii.public_ips_only", Flag, "true", "mask public IPv4 addresses only"),
    derived("filter.pii.email_replacements", List, "two addresses of example.com", "replacements for e-mail addresses"),
    derived("filter.pii.ip_replacements", List, "datatrove's six", "replacements for IP addresses"),
    key("dedup.urls", Flag, "false", "deduplicate by URL: keep the first document of each"),
    key("dedup.exact", Flag, "false", "deduplicate by exact text: keep the first document of each"),
    key("dedup.near", Flag, "false", "deduplicate by MinHash: keep one document of each cluster of near-duplicates"),
    key("dedup.minhash.ngram", Count, "5", "n-gram size, in words"),
    key("dedup.minhash.buckets", Count, "14", "number of bands (buckets) of a signature"),
    key("dedup.minhash.hashes_per_bucket", Count, "8", "number of hash functions per band"),
    key("dedup.minhash.seed", Count, "1", "random seed of the hash functions"),
    key("dedup.keep", Choice(&["first", "longest"]), "first", "document of a cluster to keep"),
    key("dedup.memory_bytes", Count, "1073741824", "memory limit of sorting, in bytes"),
    key("decontaminate.files", List, "", "evaluation files: .jsonl, .csv, or one item per line"),
    key("decontaminate.fields", List, "", "fields of evaluation records to compare; an empty list compares all"),
    key("decontaminate.ngram", Count, "13", "n-gram size, in words"),
    key(
        "decontaminate.min_words",
        Count,
        "13",
        "minimum words of an item shorter than an n-gram, which is compared as a whole",
    ),
    key(
        "decontaminate.min_matches",
        Count,
        "1",
        "minimum number of different n-grams that a contaminated document shares with an item",
    ),
    key("decontaminate.drop", Flag, "true", "drop contaminated documents; false only reports them"),
    key("tokenizer.path", Path, "bytes", "a Hugging Face tokenizer.json, or `bytes`"),
    key("tokenizer.vocab_size", Count, "", "vocabulary size of a BPE tokenizer to train, in place of tokenizer.path"),
    key("tokenizer.eos", Text, "", "end-of-document token, if the tokenizer's files do not name it"),
    key(
        "tokenizer.parse_added",
        Flag,
        "false",
        "parse added tokens written out in documents (<｜User｜>) as special tokens: for chat corpora",
    ),
    key(
        "tokenizer.max_words",
        Count,
        "4194304",
        "tokenizer training: maximum distinct words in memory, about 100 bytes each",
    ),
    key(
        "tokenizer.train_bytes",
        Count,
        "1073741824",
        "tokenizer training: bytes of text to learn from, from the start of the corpus",
    ),
    key(
        "fim.rate",
        Number,
        "0.0",
        "fill-in-the-middle (FIM) rate: fraction of training documents rearranged; DeepSeek uses 0.1",
    ),
    key("fim.begin", Text, "<｜fim▁begin｜>", "FIM token before the prefix"),
    key("fim.hole", Text, "<｜fim▁hole｜>", "FIM token before the suffix"),
    key("fim.end", Text, "<｜fim▁end｜>", "FIM token before the middle"),
    key("output.validation_fraction", Number, "0.01", "fraction of documents in the validation split; 0 = none"),
    key(
        "output.validation_tail",
        Number,
        "",
        "fraction at the end of every document to hold out for validation instead (default: only if no document is \
         held out; 0 = never)",
    ),
    key("output.shard_bytes", Count, "536870912", "maximum bytes of a shard's tokens"),
    key("output.dropped", Flag, "false", "write dropped documents, with the reason, into dropped/"),
    key("output.overwrite", Flag, "false", "replace the output folder of an earlier run"),
    key("prep.threads", Count, "0", "number of threads; 0 = every core"),
    key("prep.seed", Count, "0", "random seed of the validation split"),
    key("prep.split_bytes", Count, "67108864", "input bytes per task, about"),
    key("prep.wait_seconds", Count, "3600", "seconds to wait for other processes' tasks while none is completed"),
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
    key(
        "data.mmap",
        Flag,
        "false",
        "map token shards into memory instead of reading them; a shard that is truncated meanwhile may end the process \
         with SIGBUS",
    ),
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
    key(
        "train.sum",
        Choice(&["exact", "fast"]),
        "exact",
        "how gradients are added up: exact = micro-batch after micro-batch, the same bits for any number of ranks; \
         fast = in place on each rank, and over ranks once a step",
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
    key(
        "train.spike",
        Choice(&["off", "skip", "rollback", "stop"]),
        "off",
        "what a spike of the loss or of the gradient norm does, NaN and infinity included: off = nothing, NaN ends the \
         run; skip = its update is left out; rollback = return to the newest checkpoint and go on behind its data; stop \
         = save the state before it and end",
    ),
    key(
        "train.spike_threshold",
        Number,
        "6.0",
        "standard deviations above the mean of the last train.spike_window steps from which a value is a spike",
    ),
    key(
        "train.spike_window",
        Count,
        "128",
        "steps over which mean and deviation are taken; half of them to begin with",
    ),
    key("train.spike_limit", Count, "10", "spikes in a row (rollbacks to one checkpoint) after which the run ends"),
    key("train.weight_decay", Number, "0.1", "AdamW weight decay, on matrices only"),
    key("train.beta1", Number, "0.9", "AdamW β₁: decay of the first moment"),
    key("train.beta2", Number, "0.95", "AdamW β₂: decay of the second moment"),
    key("train.eps", Number, "1e-8", "AdamW ε: added to the denominator"),
    derived(
        "train.ema_decay",
        Number,
        "0.999 for train.precision = \"fp8\", else 0",
        "decay of the exponential moving average (EMA) of the weights; 0 = no EMA",
    ),
    key(
        "train.ema_memory",
        Choice(&["device", "host"]),
        "device",
        "memory of the EMA, 4 bytes a weight: host = where a GPU's is short; each step then waits for a download",
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
    key(
        "train.max_hours",
        Number,
        "0",
        "hours from the start of the program within which the run stops with a checkpoint; 0 = no limit",
    ),
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
    derived(
        "schedule.batch_multiple",
        Count,
        "train.micro_batch_size",
        "batch sizes of the ramp are multiples of it: on several ranks, of ranks x train.micro_batch_size",
    ),
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
    key(
        "checkpoint.async",
        Flag,
        "false",
        "write checkpoints while training goes on (async save), from a copy of the state in host memory; one rank",
    ),
    // parallel
    key(
        "parallel.zero",
        Count,
        "1",
        "what is divided among the ranks (ZeRO stage): 0 = nothing (DDP), 1 = optimizer state, 2 = and gradients, 3 = \
         and weights (FSDP)",
    ),
    key(
        "parallel.timeout_seconds",
        Number,
        "30",
        "seconds after which a rank that does not answer is named and the run ends",
    ),
    key(
        "parallel.init_timeout_seconds",
        Number,
        "300",
        "the same while ranks start, and while a checkpoint is written, a loss validated or a task measured",
    ),
    // eval
    key(
        "eval.tasks",
        List,
        "",
        "benchmark tasks to measure during training: names such as hellaswag, or task files that end with .toml",
    ),
    derived(
        "eval.every_steps",
        Count,
        "checkpoint.every_steps",
        "steps between measurements of the tasks; 0 = at the end only",
    ),
    key("eval.task_data", List, "", "data of the tasks: folders in which their files are looked for, or TASK=FILE"),
    key("eval.fewshot_data", List, "", "files of few-shot examples, TASK=FILE"),
    key("eval.num_fewshot", Count, "", "few-shot examples before each item (default: each task's own number)"),
    key("eval.limit", Count, "0", "items of each task; 0 = all"),
    key(
        "eval.confirm_run_unsafe_code",
        Flag,
        "false",
        "run the programs that the model writes for tasks such as humaneval",
    ),
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
const ALIASES: [(&str, &str); 24] = [
    ("adam_beta1", "train.beta1"),
    ("adam_beta2", "train.beta2"),
    ("adam_epsilon", "train.eps"),
    ("block_size", "train.sequence_length"),
    ("context_length", "model.max_position_embeddings"),
    ("eval_interval", "train.eval_every"),
    ("eval_steps", "train.eval_every"),
    ("global_batch_size", "train.batch_size"),
    ("fsdp", "parallel.zero"),
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
    ("zero_stage", "parallel.zero"),
];

/// The known name that a mistyped one most likely means.
///
/// The first of these that exists: the key that other programs call so; a key of the same section whose name differs by
/// two letters at most; a key of the same section that begins with it; a key of another section with the same last
/// part; the name with the smallest edit distance, in the same section if that exists, where each whole word in common
/// counts for three letters.
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
    let begins = |known: &String| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
    if let Some(longer) = names().filter(begins).min_by_key(distance) {
        return longer;
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
            ("checkpoint.every", "checkpoint.every_steps"),
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
        let sections = ["model", "data", "train", "precision", "schedule", "checkpoint", "parallel", "eval"];
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

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
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
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
    /// The default as it would be written, or in words where it depends on something; empty where there is none.
    pub default: &'static str,
    /// What it means, with its unit.
    pub about: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

use Kind::{Choice, Count, CountLimit, Flag, Limit, List, Number, Path, Text};

/// Every key but `model.*`'s fields, in the order they are written.
pub const KEYS: &[Key] = &[
    key("model.preset", Text, "tiny", "the model to start from: tiny, small, v2-lite, v2-236b, moonlight-16b, v3-671b"),
    // prep
    key("input.paths", List, "", "files, folders and globs to read; --input adds to them"),
    key(
        "input.format",
        Choice(&["suffix", "text", "lines", "html", "jsonlines", "csv", "tsv", "warc", "parquet", "arrow"]),
        "suffix",
        "what every file is, whatever its suffix",
    ),
    key("input.text_field", Text, "text", "the field or column of a record that holds the text; JSON keys by dots"),
    key("input.id_field", Text, "id", "the field that holds its identifier"),
    key("input.url_field", Text, "url", "the field that holds its address"),
    key("input.max_bad_records", Count, "100", "records that cannot be read to pass over before giving up"),
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
    key("filter.max_bytes", CountLimit, "as filter.preset", "most bytes of a document; 16 MiB with fineweb"),
    key("filter.url.enabled", Flag, "as filter.preset", "drop documents by their address"),
    key("filter.url.domains", List, "", "files of hosts and domains to drop, one a line"),
    key("filter.url.urls", List, "", "files of addresses to drop"),
    key("filter.url.words", List, "", "files of words that no address may hold"),
    key("filter.url.soft_words", List, "", "files of words of which an address may hold a few"),
    key("filter.url.subwords", List, "", "files of strings that no address may hold anywhere"),
    key("filter.url.max_soft_words", CountLimit, "2", "this many soft words drop a document"),
    key("filter.language.enabled", Flag, "as filter.preset", "identify languages"),
    key("filter.language.keep", List, "eng", "ISO 639-3 codes of languages to keep; an empty list keeps all"),
    key("filter.language.min_confidence", Limit, "0.65", "least certainty of the language"),
    key("filter.language.sample_chars", Count, "900", "characters of a document that are looked at"),
    key("filter.gopher_repetition.enabled", Flag, "as filter.preset", "drop documents that repeat themselves"),
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
    key("filter.gopher_quality.enabled", Flag, "as filter.preset", "drop documents by their words, symbols and lines"),
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
    key("filter.gopher_quality.stop_words", List, "the be to of and that have with", "words that prose contains"),
    key("filter.c4.enabled", Flag, "as filter.preset", "remove lines that are not prose"),
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
    key("filter.fineweb.enabled", Flag, "as filter.preset", "drop lists, fragments and repeated lines"),
    key("filter.fineweb.min_terminal_lines", Limit, "0.12", "fewest lines that end in terminal punctuation"),
    key("filter.fineweb.max_short_lines", Limit, "0.67", "most short lines"),
    key("filter.fineweb.short_line_length", Count, "30", "characters of a short line, at most"),
    key("filter.fineweb.max_dup_line_chars", Limit, "0.01", "most characters in lines that occurred before"),
    key("filter.fineweb.max_newlines_per_word", Limit, "0.3", "most line ends a word"),
    key("filter.pii.enabled", Flag, "as filter.preset", "mask personal data"),
    key("filter.pii.emails", Flag, "true", "mask e-mail addresses"),
    key("filter.pii.ips", Flag, "true", "mask IPv4 addresses"),
    key("filter.pii.public_ips_only", Flag, "true", "leave private IPv4 addresses as they are"),
    key("filter.pii.email_replacements", List, "two addresses of example.com", "what stands in for e-mail addresses"),
    key("filter.pii.ip_replacements", List, "datatrove's six", "what stands in for IP addresses"),
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
    key("tokenizer.vocab_size", Count, "", "train a BPE tokenizer of so many tokens, in place of tokenizer.path"),
    key("tokenizer.eos", Text, "", "the token that ends a document, where the tokenizer's files do not say"),
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
    key("output.validation_tail", Number, "0.0", "if above 0, hold out this last share of every document instead"),
    key("output.shard_bytes", Count, "536870912", "most bytes of tokens in one shard"),
    key("output.dropped", Flag, "false", "write documents that are dropped, and why, into dropped/"),
    key("output.overwrite", Flag, "false", "replace what an earlier run left in the output folder"),
    key("prep.threads", Count, "0", "threads to prepare with; 0 for every core"),
    key("prep.seed", Count, "0", "chooses, with its content, which side a document falls on"),
    key("prep.split_bytes", Count, "67108864", "bytes of input that one task reads, about"),
    key("prep.wait_seconds", Count, "3600", "how long to wait for other processes' tasks while none gets done"),
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
    key(
        "train.ema_decay",
        Number,
        "0.999 for train.precision = \"fp8\", else 0",
        "decay of a moving average of the weights, kept in memory of the host; 0 keeps none",
    ),
    key("train.eval_every", Count, "100", "steps between measurements of the validation loss; 0 for none"),
    key("train.eval_tokens", Count, "65536", "tokens such a measurement reads; 0 for the whole validation set"),
    key(
        "train.expert_load_every",
        Count,
        "50",
        "steps between records of every expert's load in metrics.jsonl; 0 records none",
    ),
    key("train.sample_every", Count, "0", "steps between sample texts that the model writes; 0 for none"),
    key("train.sample_prompt", Text, "", "what the model continues for a sample; empty: it starts a document"),
    key("train.sample_tokens", Count, "100", "tokens of a sample, at most"),
    key("train.threads", Count, "0", "threads that the CPU device computes with; 0 for every core"),
    key("train.report_seconds", Number, "10", "seconds between lines of progress where there is no terminal"),
    key("train.tensorboard", Flag, "true", "write the metrics to a TensorBoard event file in the run's folder as well"),
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
    key("checkpoint.format", Choice(&["f32", "bf16", "fp8"]), "f32", "what the model's own files are stored in"),
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
    let width = KEYS.iter().filter(shown).map(|key| key.name.len()).max().unwrap_or(0).max(28);
    let line = |key: &Key| {
        let default = if key.default.is_empty() { String::new() } else { format!(" [{}]", key.default) };
        format!("  {:<width$} {}{default}\n", key.name, key.about)
    };
    KEYS.iter().filter(shown).map(line).collect()
}

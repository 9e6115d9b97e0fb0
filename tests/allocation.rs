//! A file takes memory in proportion to its own length, whatever numbers, counts and nesting it names.
//!
//! Every parser reads inputs made to name more than there is. An allocator counts: the peak over a read is at most the
//! bytes of the file times the factor of its parser, and a MiB. The factor is what a table of the smallest items costs
//! in memory; a size that is trusted costs gigabytes.

use std::fs;
use std::path::Path;

use fathom::checkpoint::{Manifest, State};
use fathom::hf::safetensors::TensorFile;
use fathom::hf::{GenerationConfig, ModelFiles, read_config, read_end_tokens, read_template};
use fathom::infer::{ChatTemplate, Conversation, Json};
use fathom::settings::{Settings, Source};
use fathom::tasks::Task;
use fathom_dataprep::shard::{MANIFEST, ShardFile};
use fathom_dataprep::{Tokenizer, read::ItemFile};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Bytes that a read may take beside those in proportion to the file.
const FIXED: usize = 1 << 20;
/// Bytes that a tree of JSON or TOML takes for one of the text: 32 for the value of `0,`, as much again while a list
/// grows, and some for who holds it.
const TREE: usize = 100;
/// Bytes of the inputs that are long.
const LONG: usize = 200_000;

/// A parser: its name, the file it reads in a folder, the bytes in memory for one of the file, how it reads.
struct Parser {
    name: &'static str,
    file: &'static str,
    factor: usize,
    /// Bytes beside those.
    fixed: usize,
    /// Reads the file in a folder. An error is as good as a result.
    read: fn(&Path),
    /// Something that it accepts, or nearly.
    good: &'static [u8],
    /// Inputs that name more than they hold.
    bad: fn() -> Vec<Vec<u8>>,
}

/// Peak of a read above what was in use before.
fn peak(read: impl FnOnce()) -> usize {
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    read();
    ALLOCATED.peak_usage().saturating_sub(before)
}

/// Deep and wide JSON, and numbers and texts without end, each as the whole file and as the value of a field.
fn json(fields: &[&str]) -> Vec<Vec<u8>> {
    let values = [
        "[".repeat(LONG),
        format!("{}{}", "[".repeat(LONG / 2), "]".repeat(LONG / 2)),
        "{\"a\":".repeat(LONG / 5),
        format!("[{}0]", "0,".repeat(LONG / 2)),
        format!("[{}{{}}]", "{},".repeat(LONG / 3)),
        format!("{{{}\"b\":1}}", "\"a\":1,".repeat(LONG / 6)),
        format!("\"{}\"", "\\u0041".repeat(LONG / 6)),
        format!("\"{}", "a".repeat(LONG)),
        "9".repeat(LONG),
        format!("1e{}", "9".repeat(LONG)),
        "18446744073709551615".into(),
        "9223372036854775807".into(),
        "4294967295".into(),
        "16777215".into(),
        "1e308".into(),
        "-1".into(),
        "null".into(),
    ];
    let whole = values.iter().map(|value| value.clone().into_bytes());
    let inside =
        fields.iter().flat_map(|field| values.iter().map(move |value| field.replacen('@', value, 1).into_bytes()));
    whole.chain(inside).collect()
}

fn header(text: &str, length: u64) -> Vec<u8> {
    [&length.to_le_bytes()[..], text.as_bytes()].concat()
}

fn headers() -> Vec<Vec<u8>> {
    let entry = |shape: &str, offsets: &str| {
        let text = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
        header(&text, text.len() as u64)
    };
    let mut all: Vec<Vec<u8>> = [0, 1, 8, 100_000_000, 100_000_001, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX]
        .map(|n| header("{}", n))
        .into();
    for shape in ["[18446744073709551615]", "[4294967296,4294967296]", "[0,18446744073709551615]", "[1099511627776]"] {
        for offsets in
            ["[0,0]", "[0,18446744073709551615]", "[18446744073709551615,0]", "[0,4]", "[9223372036854775807,8]"]
        {
            all.push(entry(shape, offsets));
        }
    }
    all.push(entry(&format!("[{}1]", "1,".repeat(LONG / 2)), "[0,4]"));
    all.extend(
        json(&[r#"{"a":@}"#, r#"{"__metadata__":@}"#])
            .into_iter()
            .map(|text| header(&String::from_utf8_lossy(&text), text.len() as u64)),
    );
    all
}

/// A fused tensor of experts appears as one tensor for each: a small file must not name millions.
fn experts() -> Vec<Vec<u8>> {
    let one = |experts: u64, cols: u64| {
        let bytes = experts.wrapping_mul(2 * 2).wrapping_mul(cols).min(4096);
        let text = format!(
            r#"{{"model.layers.0.mlp.experts.gate_up_proj":{{"dtype":"BF16","shape":[{experts},2,{cols}],"data_offsets":[0,{bytes}]}}}}"#
        );
        let mut file = header(&text, text.len() as u64);
        file.resize(file.len() + bytes as usize, 0);
        file
    };
    vec![one(1024, 1), one(1 << 62, 0), one(0, 1 << 62), one(1 << 32, 1 << 32), one(64, 32)]
}

fn indices() -> Vec<Vec<u8>> {
    let index = |code: u8, sequences: u64, documents: u64, rest: usize| {
        let mut file = [&b"MMIDIDX\0\0"[..], &1u64.to_le_bytes(), &[code]].concat();
        file.extend(sequences.to_le_bytes());
        file.extend(documents.to_le_bytes());
        file.resize(file.len() + rest, 0);
        file
    };
    let mut all = Vec::new();
    for sequences in [0, 1, 1 << 32, i64::MAX as u64, u64::MAX, u64::MAX / 12] {
        for documents in [0, 1, 2, 1 << 61, u64::MAX] {
            all.push(index(8, sequences, documents, 64));
        }
    }
    all
}

/// A small tokenizer with one number of the caller's.
fn tokenizers() -> Vec<Vec<u8>> {
    let file = |vocabulary: &str, added: &str| {
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{added}],"normalizer":null,
            "pre_tokenizer":null,"post_processor":null,"decoder":{{"type":"ByteLevel","add_prefix_space":true,
            "trim_offsets":true,"use_regex":true}},"model":{{"type":"BPE","dropout":null,"unk_token":null,
            "continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
            "vocab":{vocabulary},"merges":[]}}}}"#
        )
    };
    let end = |id: &str| {
        format!(
            r#"{{"id":{id},"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}"#
        )
    };
    let mut all = Vec::new();
    for id in [
        "0",
        "65535",
        "1048576",
        "16777214",
        "16777215",
        "16777216",
        "4294967294",
        "4294967295",
        "18446744073709551615",
    ] {
        all.push(file(&format!(r#"{{"a":0,"</s>":{id}}}"#), "").into_bytes());
        all.push(file(&format!(r#"{{"a":{id}}}"#), &end(id)).into_bytes());
        let cut = format!(
            r#""truncation":{{"max_length":{id},"strategy":"LongestFirst","stride":0,"direction":"Right"}},"padding":null"#
        );
        let padded = file(r#"{"a":0,"</s>":1}"#, "").replace(r#""truncation":null,"padding":null"#, &cut);
        all.push(padded.into_bytes());
    }
    all.extend(json(&[r#"{"model":@}"#, r#"{"model":{"type":"BPE","vocab":@,"merges":[]}}"#, r#"{"added_tokens":@}"#]));
    all
}

fn tomls() -> Vec<Vec<u8>> {
    let texts = [
        format!("a = {}", "[".repeat(LONG)),
        format!("a = {}1", "{a=".repeat(LONG / 3)),
        format!("a{} = 1", ".a".repeat(LONG / 2)),
        format!("[a{}]", ".a".repeat(LONG / 2)),
        "[[a]]\n".repeat(LONG / 6),
        format!("name = \"{}\"", "\\u0041".repeat(LONG / 6)),
        format!("[train]\nsteps = {}", "9".repeat(LONG)),
        "train.steps = 9223372036854775807\ntrain.batch_size = 268435456\n".into(),
        "model.n_routed_experts = 16777216\nmodel.num_hidden_layers = 65536\n".into(),
        "train.tokens = 9223372036854775807\nschedule.batch_start = 1\nschedule.batch_ramp_tokens = 9223372036854775807\n"
            .into(),
    ];
    texts.map(String::into_bytes).into()
}

fn templates() -> Vec<Vec<u8>> {
    let texts = [
        format!("{{{{ {}", "(".repeat(LONG)),
        format!("{{{{ {}", "[".repeat(LONG)),
        "{% if a %}".repeat(LONG / 10),
        "{{ a }}".repeat(LONG / 7),
        "{{ 'x' * 9223372036854775807 }}".into(),
        "{{ 'x' * 1000000000 }}".into(),
        "{{ range(9223372036854775807) | list }}".into(),
        "{% for i in range(100000) %}{{ '' }}{% endfor %}".into(),
    ];
    texts.map(String::into_bytes).into()
}

const PARSERS: &[Parser] = &[
    Parser {
        name: "safetensors",
        file: "model.safetensors",
        factor: 16,
        fixed: FIXED,
        read: |folder| drop(TensorFile::open(&folder.join("model.safetensors"))),
        good: b"\x02\0\0\0\0\0\0\0{}",
        bad: headers,
    },
    Parser {
        name: "fused experts",
        file: "model.safetensors",
        factor: 16,
        fixed: FIXED,
        read: |folder| drop(ModelFiles::open(folder)),
        good: b"\x02\0\0\0\0\0\0\0{}",
        bad: experts,
    },
    Parser {
        name: "index of weights",
        file: "model.safetensors.index.json",
        factor: 16,
        fixed: FIXED,
        read: |folder| drop(ModelFiles::open(folder)),
        good: br#"{"weight_map":{"a":"b.safetensors"}}"#,
        bad: || json(&[r#"{"weight_map":@}"#, r#"{"metadata":@,"weight_map":{}}"#]),
    },
    Parser {
        name: "configuration of a model",
        file: "config.json",
        factor: TREE,
        fixed: FIXED,
        read: |folder| drop((read_config(folder), read_end_tokens(folder))),
        good: br#"{"model_type":"deepseek_v3","eos_token_id":1}"#,
        bad: || {
            json(&[
                r#"{"model_type":"deepseek_v3","vocab_size":@}"#,
                r#"{"model_type":"deepseek_v3","num_hidden_layers":@}"#,
                r#"{"model_type":"deepseek_v3","n_routed_experts":@}"#,
                r#"{"model_type":"deepseek_v3","eos_token_id":@}"#,
                r#"{"model_type":"deepseek_v3","rope_scaling":@}"#,
                r#"{"model_type":@}"#,
            ])
        },
    },
    Parser {
        name: "what to sample with",
        file: "generation_config.json",
        factor: TREE,
        fixed: FIXED,
        read: |folder| drop((GenerationConfig::read(folder), read_end_tokens(folder))),
        good: br#"{"eos_token_id":[1,2],"top_k":5}"#,
        bad: || json(&[r#"{"max_new_tokens":@}"#, r#"{"eos_token_id":@}"#]),
    },
    Parser {
        name: "tokenizer",
        file: "tokenizer.json",
        factor: 2 * TREE,
        fixed: FIXED,
        read: |folder| drop((Tokenizer::load(folder), read_template(folder))),
        good: br#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
        bad: tokenizers,
    },
    Parser {
        name: "beside a tokenizer",
        file: "tokenizer_config.json",
        factor: TREE,
        fixed: FIXED,
        read: |folder| drop(ChatTemplate::load(folder, None)),
        good: br#"{"chat_template":"{{ a }}"}"#,
        bad: || json(&[r#"{"chat_template":@}"#, r#"{"chat_template":[{"name":"default","template":@}]}"#]),
    },
    Parser {
        name: "chat template",
        file: "chat_template.jinja",
        factor: TREE,
        // What a template makes is paid for by its fuel.
        fixed: 512 << 20,
        read: |folder| {
            let template = ChatTemplate::load(folder, None);
            let messages = Json::conversation([("user", "a")]);
            if let Ok(Some(template)) = template {
                drop(template.render(&Conversation::new(&messages)));
            }
        },
        good: b"{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        bad: templates,
    },
    Parser {
        name: "manifest of a checkpoint",
        file: "manifest.json",
        factor: 16,
        fixed: FIXED,
        read: |folder| drop(Manifest::read(folder)),
        good: br#"{"format":"fathom-checkpoint","version":1,"step":1,"files":[]}"#,
        bad: || {
            json(&[
                r#"{"format":"fathom-checkpoint","version":1,"step":@,"files":[]}"#,
                r#"{"format":"fathom-checkpoint","version":1,"step":1,"files":@}"#,
            ])
        },
    },
    Parser {
        name: "state of training",
        file: "trainer/state.json",
        factor: TREE,
        fixed: FIXED,
        read: |folder| drop(State::read(folder)),
        good: br#"{"version":1}"#,
        bad: || json(&[r#"{"version":1,"settings":@}"#, r#"{"version":1,"cursor":@}"#, r#"{"version":@}"#]),
    },
    Parser {
        name: "index of a shard",
        file: "a.idx",
        factor: 4,
        fixed: FIXED,
        read: |folder| drop(ShardFile::open(&folder.join("a"))),
        good: b"MMIDIDX\0\0",
        bad: indices,
    },
    Parser {
        name: "manifest of shards",
        file: MANIFEST,
        factor: TREE,
        fixed: FIXED,
        read: |folder| drop(fathom_dataprep::Manifest::read(folder)),
        good: br#"{"format":"fathom-shards","version":1}"#,
        bad: || json(&[r#"{"format":"fathom-shards","version":1,"train":@}"#, r#"{"format":@}"#]),
    },
    Parser {
        name: "settings",
        file: "run.toml",
        factor: TREE,
        fixed: FIXED,
        read: |folder| drop(Source::read(Some(&folder.join("run.toml")), &[]).and_then(Settings::new)),
        good: b"[train]\nsteps = 3\n",
        bad: tomls,
    },
    Parser {
        name: "task file",
        file: "task.toml",
        factor: TREE,
        fixed: FIXED,
        read: |folder| drop(Task::load(&folder.join("task.toml"))),
        good: b"name = 'a'\nkind = 'text'\ndata = []\nprompt = '{{ a }}'\ntarget = 't'\nmetrics = ['acc']\n",
        bad: tomls,
    },
    Parser {
        name: "items of a task",
        file: "items.jsonl",
        factor: TREE,
        fixed: FIXED,
        read: |folder| {
            if let Ok(file) = ItemFile::open(&folder.join("items.jsonl")) {
                drop(file.items(None));
            }
        },
        good: br#"{"a":1}"#,
        bad: || json(&[r#"{"a":@}"#]),
    },
];

/// One test, since the allocator counts the whole process.
#[test]
fn memory_is_in_proportion_to_the_file() {
    let mut failures = Vec::new();
    for parser in PARSERS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(parser.file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if parser.file == "a.idx" {
            fs::write(folder.path().join("a.bin"), [0; 64]).unwrap();
        }
        // Tables that are made once are not part of a file's cost.
        fs::write(&path, parser.good).unwrap();
        (parser.read)(folder.path());
        let (mut worst, mut inputs) = ((0.0, 0, 0), 0);
        for input in (parser.bad)() {
            fs::write(&path, &input).unwrap();
            let start = std::time::Instant::now();
            let peak = peak(|| (parser.read)(folder.path()));
            inputs += 1;
            let above = peak.saturating_sub(FIXED) as f64 / input.len() as f64;
            if above > worst.0 || peak > worst.1 {
                worst = (above.max(worst.0), peak.max(worst.1), input.len());
            }
            let begin = String::from_utf8_lossy(&input[..input.len().min(80)]).into_owned();
            if peak > input.len() * parser.factor + parser.fixed {
                failures.push(format!("{}: {peak} bytes for {} of {begin:?}", parser.name, input.len()));
            }
            if start.elapsed().as_secs() >= 5 {
                failures.push(format!("{}: {:?} for {begin:?}", parser.name, start.elapsed()));
            }
        }
        println!(
            "{}: {inputs} inputs, at most {} bytes, {:.1} a byte above the first MiB",
            parser.name, worst.1, worst.0
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

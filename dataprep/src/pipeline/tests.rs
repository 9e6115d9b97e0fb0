//! Tests of whole preparations.

use super::*;
use crate::hash;
use crate::shard::{MANIFEST, ShardSet, Split};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Three hundred documents of differing length in a `.jsonl`, and a few files.
fn corpus() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..300)
        .map(|i| {
            json!({ "text": format!("document {i} {}", "the quick brown fox 今天 ".repeat(i % 17)) }).to_string() + "\n"
        })
        .collect();
    fs::write(dir.path().join("a.jsonl"), lines).unwrap();
    fs::write(dir.path().join("b.txt"), "To be, or not to be, that is the question.\n".repeat(50)).unwrap();
    fs::write(dir.path().join("c.rs"), b"fn main() {}\n// \xff\xfe not UTF-8\n").unwrap();
    fs::write(dir.path().join("d.md"), "").unwrap();
    dir
}

fn config(input: &Path, output: &Path) -> PrepConfig {
    PrepConfig {
        input: InputConfig { paths: vec![input.into()], ..InputConfig::default() },
        output: OutputConfig {
            dir: output.into(),
            validation_fraction: 0.1,
            shard_bytes: 4000,
            ..OutputConfig::default()
        },
        threads: 2,
        ..PrepConfig::default()
    }
}

/// Every file of an output folder; a folder in it is one that should have gone.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

fn text(dir: &Path, split: Split) -> Vec<u8> {
    let set = ShardSet::open(dir, split).unwrap();
    let mut tokens = vec![0; set.tokens() as usize];
    set.read(0, &mut tokens).unwrap();
    tokens.iter().filter(|&&t| t < 256).map(|&t| t as u8).collect()
}

#[derive(Default)]
struct Notes(Vec<String>);

impl Progress for Notes {
    fn stage(&mut self, name: &str, _total: u64) {
        self.0.push(name.into());
    }
    fn advance(&mut self, _done: u64, _documents: u64) {}
    fn message(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

#[test]
fn output_is_the_same_for_any_number_of_threads() {
    let input = corpus();
    for tokenizer in
        [TokenizerConfig::default(), TokenizerConfig { vocab_size: Some(400), ..TokenizerConfig::default() }]
    {
        let make = |threads| {
            let output = tempfile::tempdir().unwrap();
            let config = PrepConfig { threads, tokenizer: tokenizer.clone(), ..config(input.path(), output.path()) };
            let summary = run(&config, &mut Silent).unwrap();
            assert!(!summary.reused && summary.manifest.train.shards.len() > 2);
            for split in [Split::Train, Split::Validation] {
                ShardSet::open(output.path(), split).unwrap().verify().unwrap();
            }
            contents(output.path())
        };
        let one = make(1);
        assert!(
            one.contains_key(MANIFEST)
                && one.contains_key("tokenizer.json")
                && one.contains_key("validation-00000.idx")
        );
        assert!(!one.keys().any(|name| name.ends_with(".tmp")));
        assert_eq!(one, make(2));
        assert_eq!(one, make(5));
    }
}

#[test]
fn output_is_the_same_for_any_number_of_processes_and_the_same_as_in_one_task() {
    let input = corpus();
    for tokenizer in
        [TokenizerConfig::default(), TokenizerConfig { vocab_size: Some(400), ..TokenizerConfig::default() }]
    {
        let make = |world: usize, max_bytes| {
            let output = tempfile::tempdir().unwrap();
            let mut config = PrepConfig { tokenizer: tokenizer.clone(), ..config(input.path(), output.path()) };
            (config.split_bytes, config.input.max_bytes) = (1, max_bytes);
            // Where one rank fails the others are not to wait for it for long.
            config.wait_seconds = 30;
            let rank = |index| {
                let config = PrepConfig { rank: Rank::new(index, world).unwrap(), ..config.clone() };
                run(&config, &mut Silent).unwrap()
            };
            std::thread::scope(|scope| {
                let ranks: Vec<_> = (0..world).map(|index| scope.spawn(move || rank(index))).collect();
                ranks.into_iter().for_each(|rank| drop(rank.join().unwrap()));
            });
            contents(output.path())
        };
        for max_bytes in [None, Some(30_000), Some(40)] {
            let one = make(1, max_bytes);
            assert_eq!(one, make(3, max_bytes), "{max_bytes:?}");
        }
        let tokens = |files: &BTreeMap<String, Vec<u8>>| {
            let of = |(name, bytes): (&String, &Vec<u8>)| name.ends_with(".bin").then(|| (name.clone(), bytes.clone()));
            files.iter().filter_map(of).collect::<Vec<_>>()
        };
        let output = tempfile::tempdir().unwrap();
        let config = PrepConfig { tokenizer: tokenizer.clone(), ..config(input.path(), output.path()) };
        run(&config, &mut Silent).unwrap();
        assert_eq!(tokens(&contents(output.path())), tokens(&make(2, None)));
    }
}

#[test]
fn at_most_so_much_text_is_read() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let mut config = config(input.path(), output.path());
    for split_bytes in [1, 1 << 20] {
        (config.split_bytes, config.input.max_bytes, config.output.overwrite) = (split_bytes, Some(50_000), true);
        let manifest = run(&config, &mut Silent).unwrap().manifest;
        let bytes = manifest.train.text_bytes + manifest.validation.unwrap().text_bytes;
        assert!((50_000..50_600).contains(&bytes), "{bytes}");
        assert!(run(&config, &mut Silent).unwrap().reused);
    }
}

#[test]
fn every_document_has_its_line() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let manifest = run(&config(input.path(), output.path()), &mut Silent).unwrap().manifest;
    let sources = fs::read_to_string(output.path().join("sources.jsonl")).unwrap();
    assert_eq!(sources.lines().count(), 4);
    assert!(sources.lines().nth(1).unwrap().contains("b.txt"));
    let mut places = Vec::new();
    for shard in manifest.train.shards.iter().chain(manifest.validation.iter().flat_map(|side| &side.shards)) {
        let path = output.path().join(format!("{}.docs.jsonl.zst", shard.name));
        let lines = String::from_utf8(zstd::decode_all(fs::File::open(&path).unwrap()).unwrap()).unwrap();
        assert_eq!(lines.lines().count() as u64, shard.documents);
        assert_eq!(hash::of_file(&path).unwrap(), shard.docs.as_ref().unwrap().sha256);
        places.extend(lines.lines().map(|line| {
            let one: Provenance<'_> = serde_json::from_str(line).unwrap();
            (one.file, one.bytes)
        }));
    }
    places.sort();
    let lines = fs::read(input.path().join("a.jsonl")).unwrap();
    for (i, line) in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let [from, to] = places[i].1;
        assert_eq!((places[i].0, &lines[from as usize..to as usize]), (0, line));
    }
    assert_eq!(&places[300..], [(1, [0, 2150]), (2, [0, 29])]);
}

#[test]
fn what_a_killed_process_left_is_taken_away() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let config = config(input.path(), output.path());
    // Killed in its first moments, and while it removed its work folder.
    fs::write(output.path().join("probe.tmp"), "").unwrap();
    run(&config, &mut Silent).unwrap();
    let whole = all_contents(output.path());
    assert!(!whole.contains_key("probe.tmp"));
    fs::create_dir_all(output.path().join("work/0123/tokens")).unwrap();
    fs::write(output.path().join("work/0123/tokens/00001.receipt"), "{}").unwrap();
    run(&config, &mut Silent).unwrap();
    assert!(!output.path().join("work").exists());
    assert!(all_contents(output.path()) == whole);
}

#[test]
fn counts_add_up() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let manifest = run(&config(input.path(), output.path()), &mut Silent).unwrap().manifest;
    let validation = manifest.validation.unwrap();
    assert_eq!(manifest.train.documents + validation.documents, 302);
    let bytes = manifest.train.text_bytes + validation.text_bytes;
    // With bytes as tokens, the only other tokens are the ends of documents.
    assert_eq!(manifest.train.tokens + validation.tokens, bytes + 302);
    assert_eq!(manifest.stages[0].dropped["input.empty"], 1);
    assert!(text(output.path(), Split::Train).len() as u64 == manifest.train.text_bytes);
    let all = [text(output.path(), Split::Train), text(output.path(), Split::Validation)].concat();
    assert!(all.windows(2).any(|pair| pair == b"\xff\xfe"), "bytes stay as they are");
}

#[test]
fn invalid_text_is_replaced_and_counted_for_other_tokenizers() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let tokenizer = TokenizerConfig { vocab_size: Some(400), ..TokenizerConfig::default() };
    let config = PrepConfig { tokenizer, ..config(input.path(), output.path()) };
    let summary = run(&config, &mut Silent).unwrap();
    let tokenize = summary.manifest.stages.iter().find(|stage| stage.name == "tokenize").unwrap();
    assert_eq!(tokenize.changed["invalid UTF-8 replaced"], 1);
    let set = ShardSet::open(output.path(), Split::Train).unwrap();
    let mut tokens = vec![0; set.tokens() as usize];
    set.read(0, &mut tokens).unwrap();
    assert_eq!(summary.tokenizer.byte_len(&tokens), summary.manifest.train.text_bytes);
    let reloaded = Tokenizer::load(output.path()).unwrap();
    assert_eq!(reloaded.fingerprint(), summary.manifest.tokenizer.fingerprint);
}

#[test]
fn the_tail_of_one_document_can_be_held_out() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let play = "0123456789".repeat(1000);
    let path = input.path().join("play.txt");
    fs::write(&path, &play).unwrap();
    let mut config = config(&path, output.path());
    config.output.validation_tail = Some(0.1);
    config.output.shard_bytes = 1 << 20;
    let manifest = run(&config, &mut Silent).unwrap().manifest;
    assert_eq!((manifest.train.text_bytes, manifest.train.tokens), (9000, 9001));
    assert_eq!(text(output.path(), Split::Validation), &play.as_bytes()[9000..]);
}

#[test]
fn no_validation_set_when_none_is_asked_for() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let mut config = config(input.path(), output.path());
    config.output.validation_fraction = 0.0;
    let summary = run(&config, &mut Silent).unwrap();
    assert!(summary.manifest.validation.is_none());
    assert!(!contents(output.path()).keys().any(|name| name.starts_with("validation")));
    let error = ShardSet::open(output.path(), Split::Validation).unwrap_err();
    assert!(error.to_string().contains("output.validation_fraction"), "{error}");
}

#[test]
fn a_complete_output_is_reused_and_another_is_protected() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let config = config(input.path(), output.path());
    run(&config, &mut Silent).unwrap();
    let before = contents(output.path());
    let again = PrepConfig { threads: 5, ..config.clone() };
    assert!(run(&again, &mut Silent).unwrap().reused);
    assert_eq!(contents(output.path()), before);

    let elsewhere = tempfile::tempdir().unwrap();
    for file in contents(input.path()).keys() {
        fs::copy(input.path().join(file), elsewhere.path().join(file)).unwrap();
    }
    let mut moved = config.clone();
    moved.input.paths = vec![elsewhere.path().into()];
    assert!(run(&moved, &mut Silent).unwrap().reused, "the same text in another place");

    let other = PrepConfig { seed: 9, ..config.clone() };
    let error = run(&other, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    assert!(error.to_string().contains("seed was 0 and is 9") && error.to_string().contains("overwrite"), "{error}");
    assert_eq!(contents(output.path()), before);

    fs::write(input.path().join("b.txt"), "changed").unwrap();
    let error = run(&config, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("the inputs changed"), "{error}");
    let mut replace = config.clone();
    replace.output.overwrite = true;
    replace.output.validation_fraction = 0.0;
    assert!(!run(&replace, &mut Silent).unwrap().reused);
    assert!(!contents(output.path()).keys().any(|name| name.starts_with("validation")), "old shards are gone");
}

#[test]
fn an_interrupted_run_is_started_over_and_a_damaged_one_reported() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let config = config(input.path(), output.path());
    run(&config, &mut Silent).unwrap();
    let before = contents(output.path());
    fs::remove_file(output.path().join(MANIFEST)).unwrap();
    fs::write(output.path().join("train-00009.bin.tmp"), "left over").unwrap();
    assert!(!run(&config, &mut Silent).unwrap().reused);
    assert_eq!(contents(output.path()), before);
    fs::write(output.path().join("train-00000.bin"), "short").unwrap();
    let error = run(&config, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    fs::write(output.path().join(MANIFEST), "{").unwrap();
    let error = run(&config, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("cannot be reused"), "{error}");
}

#[test]
fn shards_of_others_are_not_touched() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    fs::write(output.path().join("train-00000.bin"), "someone's").unwrap();
    let error = run(&config(input.path(), output.path()), &mut Silent).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    assert_eq!(fs::read(output.path().join("train-00000.bin")).unwrap(), b"someone's");
}

#[test]
fn settings_that_cannot_be_are_named() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let good = config(input.path(), output.path());
    let error = |change: fn(&mut PrepConfig)| {
        let mut config = good.clone();
        change(&mut config);
        run(&config, &mut Silent).unwrap_err().to_string()
    };
    assert!(error(|c| c.input.paths.clear()).contains("input.paths"));
    assert!(error(|c| c.output.dir = PathBuf::new()).contains("output.dir"));
    assert!(error(|c| c.output.validation_fraction = 1.0).contains("output.validation_fraction"));
    assert!(error(|c| c.output.validation_tail = Some(f64::NAN)).contains("output.validation_tail"));
    assert!(error(|c| c.output.shard_bytes = 0).contains("output.shard_bytes"));
    assert!(error(|c| c.tokenizer.vocab_size = Some(10)).contains("tokenizer.vocab_size"));
    assert!(
        error(|c| (c.tokenizer.vocab_size, c.tokenizer.path) = (Some(300), Some("bytes".into()))).contains("not both")
    );
    assert!(error(|c| c.tokenizer.path = Some("/no/such/tokenizer".into())).contains("/no/such/tokenizer"));
    assert!(error(|c| c.input.paths = vec!["/no/such/input".into()]).contains("/no/such/input"));
    assert!(error(|c| c.output.dir = "/dev/null/x".into()).contains("/dev/null/x"));
    assert!(error(|c| c.input.max_document_bytes = 0).contains("input.max_document_bytes"));
    assert!(error(|c| c.output.validation_fraction = 0.999_999).contains("fell on the validation side"));
    let unknown = serde_json::from_value::<PrepConfig>(json!({ "output": { "validation_fractoin": 0.1 } }));
    assert!(unknown.unwrap_err().to_string().contains("validation_fractoin"));
    let empty = tempfile::tempdir().unwrap();
    let error = run(&config(empty.path(), output.path()), &mut Silent).unwrap_err();
    assert!(matches!(error, Error::EmptyCorpus { .. }), "{error}");
}

#[test]
fn what_is_left_out_is_reported() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    fs::write(input.path().join("e.jsonl"), "{\"text\": \"fine\"}\nbroken\n").unwrap();
    let mut notes = Notes::default();
    let summary = run(&config(input.path(), output.path()), &mut notes).unwrap();
    assert!(notes.0.iter().any(|note| note.contains("e.jsonl: byte 17")), "{:?}", notes.0);
    assert_eq!(summary.manifest.stages[0].dropped["bad record"], 1);
}

/// English words in a different order for every document.
fn prose(document: usize) -> String {
    const WORDS: &str = "the of and to that have with people river mountain winter morning children answer question light \
        between nothing something another against thought through country letter window because without garden \
        remember strange village silence evening captain island weather journey beautiful believe yesterday together \
        across always friend brother mother father water paper kitchen company history language machine music night \
        picture power reason road school season secret shadow shoulder simple sister street summer teacher";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut state = document as u64 + 1;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(state >> 40) as usize % words.len()]
    };
    let mut sentence = || format!("The {}.", (0..14).map(|_| word()).collect::<Vec<_>>().join(" "));
    (0..12).map(|_| sentence()).collect::<Vec<_>>().join("\n")
}

/// Forty good documents, and some of each kind that a rule should find.
fn web_corpus() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let record = |id: &str, url: String, text: String| json!({ "id": id, "url": url, "text": text }).to_string();
    let address = |i: usize| format!("https://example.org/{i}");
    let mut records: Vec<_> = (0..40).map(|i| record("good", address(i), prose(i))).collect();
    records.push(record("same address", "http://Example.org/3#top".into(), prose(50)));
    records.push(record("same text", address(51), prose(4)));
    records.push(record("near", address(52), prose(5).replacen("The ", "Some ", 1)));
    records.push(record("near", address(53), prose(5) + "\nThis is the end of all that we have to say here."));
    records.push(record("short", address(54), "The end of the story.".into()));
    records.push(record("not prose", address(55), "{}\n".repeat(80)));
    records.push(record(
        "leaked",
        address(56),
        prose(60) + "\nHow many of the nine brave sailors came home that night with a golden fish in hand?",
    ));
    records.push(record(
        "mail",
        address(57),
        prose(61) + "\nPlease write to someone@university.edu with all that you have to say.",
    ));
    // Several files, so that the originals and their duplicates are in different tasks.
    for (i, part) in records.chunks(7).enumerate() {
        fs::write(dir.path().join(format!("{i}.jsonl")), part.join("\n")).unwrap();
    }
    let evaluation = dir.path().join("evaluation");
    let question = "How many of the nine brave sailors came home that night with a golden fish in hand?";
    fs::write(&evaluation, format!("an item that is not in it\n{question}\n")).unwrap();
    (dir, evaluation)
}

fn web_config(input: &Path, evaluation: &Path, output: &Path) -> PrepConfig {
    let mut config = config(input, output);
    config.filter = crate::filter::FilterConfig::default();
    config.dedup = crate::dedup::DedupConfig::default();
    config.decontaminate.files = vec![evaluation.into()];
    config.output.dropped = true;
    config.split_bytes = 4000;
    config.dedup.memory_bytes = 1 << 20;
    config
}

/// Everything below a folder.
fn all_contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        match entry.is_dir() {
            true => files.extend(all_contents(&entry).into_iter().map(|(below, b)| (format!("{name}/{below}"), b))),
            false => drop(files.insert(name, fs::read(&entry).unwrap())),
        }
    }
    files
}

#[test]
fn every_rule_finds_its_document_whoever_does_the_work() {
    let (input, evaluation) = web_corpus();
    let output = tempfile::tempdir().unwrap();
    let make = |name: &str, tokenizer: &TokenizerConfig, threads, world: usize| {
        let dir = output.path().join(name);
        let rank = |index| {
            let base = web_config(input.path(), &evaluation, &dir);
            let rank = Rank::new(index, world).unwrap();
            run(&PrepConfig { tokenizer: tokenizer.clone(), threads, rank, ..base }, &mut Silent).unwrap()
        };
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..world).map(|index| scope.spawn(move || rank(index))).collect();
            let summaries: Vec<Summary> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
            (all_contents(&dir), summaries[0].manifest.clone())
        })
    };
    let trained = TokenizerConfig { vocab_size: Some(400), ..TokenizerConfig::default() };
    for (name, tokenizer) in [("bytes", TokenizerConfig::default()), ("trained", trained)] {
        let (files, manifest) = make(&format!("{name}-1"), &tokenizer, 1, 1);
        assert_eq!(files, make(&format!("{name}-5"), &tokenizer, 5, 1).0);
        assert_eq!(files, make(&format!("{name}-ranks"), &tokenizer, 2, 3).0);

        let stage = |name: &str| manifest.stages.iter().find(|stage| stage.name == name).unwrap();
        let dropped = |name: &str| stage(name).dropped.iter().map(|(r, n)| (r.as_str(), *n)).collect::<Vec<_>>();
        assert_eq!((stage("read").kept, dropped("read")), (48, vec![]));
        assert_eq!(stage("filter").dropped.values().sum::<u64>(), 2, "{:?}", stage("filter"));
        assert_eq!(stage("filter").changed["e-mail addresses masked"], 1);
        assert_eq!(dropped("decontaminate"), [("decontaminate.min_matches", 1)]);
        assert_eq!(dropped("deduplicate"), [("dedup.exact", 1), ("dedup.near", 2), ("dedup.urls", 1)]);
        assert_eq!(stage("deduplicate").kept, 41);
        assert_eq!(manifest.contaminated.len(), 1);
        assert_eq!((manifest.contaminated[0].record, manifest.contaminated[0].documents), (2, 1));
        assert_eq!(manifest.languages["eng"], 45);
        let entry = manifest.dedup.as_ref().unwrap();
        assert_eq!((entry.urls, entry.exact, entry.near, entry.clusters, entry.largest_cluster), (1, 1, 2, 1, 3));
    }

    let dir = output.path().join("bytes-1");
    let aside = all_contents(&dir.join("dropped"));
    let lines: String =
        aside.values().map(|file| String::from_utf8(zstd::decode_all(&file[..]).unwrap()).unwrap()).collect();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 7);
    let same = lines.iter().find(|line| line["rule"] == "dedup.exact").unwrap();
    assert_eq!((&same["id"], &same["text"]), (&json!("same text"), &json!(prose(4))));
    let kept: String = all_contents(&dir)
        .iter()
        .filter(|(name, _)| name.ends_with(".docs.jsonl.zst"))
        .map(|(_, file)| String::from_utf8(zstd::decode_all(&file[..]).unwrap()).unwrap())
        .collect();
    let fourth = kept.lines().find(|line| line.contains("https://example.org/4\"")).unwrap();
    let fourth: Provenance<'_> = serde_json::from_str(fourth).unwrap();
    assert_eq!(same["duplicate_of"].as_u64(), fourth.document);
    let short = lines.iter().find(|line| line["id"] == "short").unwrap();
    assert!(short["value"].is_number() && short["threshold"].is_number() && short["stage"] == "filter", "{short}");

    let text = all_contents(&dir);
    assert!(!text["train-00000.bin"].windows(19).any(|window| window == b"someone@university"));
    let found = trace(&dir, Split::Train, 5000, 20).unwrap();
    let number: usize = found.provenance.url.as_deref().unwrap().rsplit('/').next().unwrap().parse().unwrap();
    let whole = prose(number);
    let expected = whole.as_bytes()[found.place as usize];
    assert_eq!((found.id, found.text.as_str()), (u32::from(expected), char::from(expected).to_string().as_str()));
    assert!(whole.contains(&format!("{}{}{}", found.before, found.text, found.after)));
    assert!(found.source.path.ends_with(".jsonl") && found.provenance.scores.len() > 10);
    assert_eq!(found.provenance.language.as_deref(), Some("eng"));
    assert!(trace(&dir, Split::Train, 1 << 40, 0).unwrap_err().to_string().contains("--token"));
    let inspection = crate::inspect::inspect(&dir).unwrap();
    assert!(inspection.dropped.len() >= 5 && inspection.scores.contains_key("gopher_quality.min_words"));
    assert!(inspection.text().contains("eng") && inspection.html().contains("dedup.near"));
}

#[test]
fn lists_are_part_of_the_settings() {
    let (input, evaluation) = web_corpus();
    let output = tempfile::tempdir().unwrap();
    let config = web_config(input.path(), &evaluation, output.path());
    run(&config, &mut Silent).unwrap();
    assert!(run(&config, &mut Silent).unwrap().reused);
    fs::write(&evaluation, "another question altogether that no one has ever put to any of the sailors of this town\n")
        .unwrap();
    let error = run(&config, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
}

#[test]
fn a_commit_that_was_cut_short_is_taken_up_again() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    let config = config(input.path(), output.path());
    run(&config, &mut Silent).unwrap();
    let whole = contents(output.path());

    // Everything but the commit: a second process that stands for the first waits for its manifest in vain.
    let other = tempfile::tempdir().unwrap();
    let mut again = config.clone();
    (again.output.dir, again.wait_seconds, again.rank) = (other.path().into(), 0, Rank::new(0, 1).unwrap());
    fs::create_dir(other.path().join("manifest.json.tmp")).unwrap();
    run(&again, &mut Silent).unwrap_err();
    assert!(other.path().join("train-00000.bin").exists() && !other.path().join(MANIFEST).exists());
    fs::remove_dir(other.path().join("manifest.json.tmp")).unwrap();
    // Some files have their names already, one is still where it was made.
    let work = fs::read_dir(other.path().join("work")).unwrap().next().unwrap().unwrap().path();
    fs::rename(other.path().join("train-00000.bin"), work.join("shards/00000.bin")).unwrap();
    run(&again, &mut Silent).unwrap();
    assert_eq!(contents(other.path()), whole);
}

#[test]
fn the_last_part_of_one_document_is_held_out_without_being_asked_for() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let play = "To be, or not to be, that is the question. ".repeat(400);
    let path = input.path().join("play.txt");
    fs::write(&path, &play).unwrap();
    let mut config = PrepConfig::default();
    (config.input.paths, config.output.dir) = (vec![path.clone()], output.path().into());
    let cut = play.len() - play.len() / 10;
    for (vocab_size, fraction) in [(None, 0.01), (Some(300), 0.01), (None, 0.999)] {
        config.tokenizer.vocab_size = vocab_size;
        config.output.validation_fraction = fraction;
        config.output.overwrite = true;
        let (mut said, tail) = (Said::default(), fraction.max(0.1));
        let manifest = run(&config, &mut said).unwrap().manifest;
        assert!(said.0.iter().any(|text| text.contains("validation split: ")), "{:?}", said.0);
        let split = manifest.stages.iter().find(|stage| stage.name == "split").unwrap();
        assert_eq!(split.changed[&format!("last {:.2} % held out", 100.0 * tail)], 1);
        if fraction < 0.1 {
            let tokenizer = Tokenizer::load(output.path()).unwrap();
            for (split, expected) in [(Split::Train, &play[..cut]), (Split::Validation, &play[cut..])] {
                let set = ShardSet::open(output.path(), split).unwrap();
                let mut tokens = vec![0; set.tokens() as usize];
                set.read(0, &mut tokens).unwrap();
                assert_eq!(tokenizer.decode(&tokens), expected);
            }
            assert_eq!(manifest.pipeline["output"]["validation_fraction"], fraction, "what was asked for");
        }
        config.output.overwrite = false;
        assert!(run(&config, &mut Silent).unwrap().reused);
    }
    // Nothing is cut where that is turned off, or the text is too short, which is said.
    (config.output.overwrite, config.output.validation_fraction, config.output.validation_tail) =
        (true, 0.01, Some(0.0));
    assert!(run(&config, &mut Silent).unwrap().manifest.validation.is_none());
    config.output.validation_tail = None;
    fs::write(&path, "short").unwrap();
    let mut said = Said::default();
    assert!(run(&config, &mut said).unwrap().manifest.validation.is_none());
    assert!(said.0.iter().any(|text| text.contains("no validation split")), "{:?}", said.0);
}

/// What was said.
#[derive(Default)]
struct Said(Vec<String>);

impl Progress for Said {
    fn stage(&mut self, _name: &str, _total: u64) {}
    fn advance(&mut self, _done: u64, _documents: u64) {}
    fn message(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

#[test]
fn a_tokenizer_that_has_no_text_says_why() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lines: String = (0..5).map(|i| json!({ "text": format!("ein kurzer Text {i}") }).to_string() + "\n").collect();
    fs::write(input.path().join("a.jsonl"), lines).unwrap();
    let mut config = PrepConfig::default();
    (config.input.paths, config.output.dir) = (vec![input.path().into()], output.path().into());
    config.tokenizer.vocab_size = Some(300);
    config.filter.language.enabled = true;
    let error = run(&config, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("every document was dropped: 5 language."), "{error}");
    config.filter.language.enabled = false;
    config.input.text_field = "body".into();
    let error = run(&config, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("every document was dropped: 5 bad record"), "{error}");
    config.input.text_field = "text".into();
    config.output.validation_fraction = 0.9999;
    let error = run(&config, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("all 5 documents fell on the validation side"), "{error}");
}

/// A file of which the first `bad` lines are no JSON.
fn with_bad_lines(path: &Path, good: usize, bad: usize) {
    let lines = (0..good).map(|i| json!({ "text": format!("text {i}") }).to_string() + "\n");
    fs::write(path, "not JSON\n".repeat(bad) + &lines.collect::<String>()).unwrap();
}

#[test]
fn bad_records_are_a_share_of_the_corpus() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = input.path().join("a.jsonl");
    let mut config = config(&path, output.path());
    config.output.overwrite = true;
    let mut bad = |good, bad, records, fraction| {
        with_bad_lines(&path, good, bad);
        (config.input.max_bad_records, config.input.max_bad_fraction) = (records, fraction);
        match run(&config, &mut Silent) {
            Ok(summary) => Ok(summary.manifest.stages[0].dropped["bad record"]),
            Err(e @ Error::BadRecords { .. }) => Err(e.to_string()),
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(bad(20, 100, None, None), Ok(100), "few are passed over in a small corpus");
    let error = bad(20, 101, None, None).unwrap_err();
    for words in [
        "101 of 121 records are bad (83.471 %)",
        "max_bad_fraction allows by default: 0.01",
        "a.jsonl: byte 9: not a JSON",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(bad(20_000, 200, None, None), Ok(200));
    assert!(bad(20_000, 300, None, None).is_err());
    assert_eq!(bad(98, 2, None, Some(0.02)), Ok(2), "a share that is set holds for any corpus");
    assert!(bad(98, 2, None, Some(0.019)).unwrap_err().contains("input.max_bad_fraction = 0.019"));
    assert!(bad(98, 1, None, Some(0.0)).is_err());
    assert_eq!(bad(20, 300, None, Some(1.0)), Ok(300));
    assert!(bad(20_000, 2, Some(1), None).unwrap_err().contains("input.max_bad_records = 1"));
    assert_eq!(bad(20, 101, Some(101), None), Ok(101), "a number that is set replaces the share");
    assert!(bad(20, 101, Some(101), Some(0.5)).is_err(), "of both, both hold");
}

#[test]
fn what_lies_behind_damage_counts_by_its_bytes() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    with_bad_lines(&input.path().join("a.jsonl"), 1000, 0);
    let mut frame = zstd::encode_all(fs::read(input.path().join("a.jsonl")).unwrap().as_slice(), 3).unwrap();
    // Damage in the header of the first block, and 20 MiB behind it.
    frame[6..12].fill(0xff);
    frame.resize(20 << 20, 1);
    fs::write(input.path().join("b.jsonl.zst"), frame).unwrap();
    let mut config = config(input.path(), output.path());
    let error = run(&config, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("bytes of the files lie behind damage") && error.contains("b.jsonl.zst: decomp"), "{error}");
    config.input.max_bad_fraction = Some(1.0);
    assert_eq!(run(&config, &mut Silent).unwrap().manifest.stages[0].dropped["bad record"], 1);
}

#[test]
fn bad_records_at_the_start_of_a_corpus_do_not_end_it() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Eighteen megabytes of nothing but bad records, and then enough good ones.
    let lines = "no JSON, and long enough to make the file large ".repeat(850) + "\n";
    fs::write(input.path().join("a.jsonl"), lines.repeat(450)).unwrap();
    with_bad_lines(&input.path().join("b.jsonl"), 46_000, 0);
    for threads in [1, 4] {
        let config = PrepConfig { threads, split_bytes: 1 << 20, ..config(input.path(), output.path()) };
        let summary = run(&config, &mut Silent).unwrap();
        assert_eq!(summary.manifest.stages[0].dropped["bad record"], 450);
    }
}

#[test]
fn too_many_bad_records_are_the_same_for_any_number_of_threads_and_ranks_and_a_higher_limit_goes_on() {
    let input = tempfile::tempdir().unwrap();
    for i in 0..10 {
        with_bad_lines(&input.path().join(format!("{i}.jsonl")), 300, 30 * (i % 3));
    }
    let mut errors = Vec::new();
    for (threads, world) in [(1, 1), (3, 1), (2, 3)] {
        let output = tempfile::tempdir().unwrap();
        let of = |index| PrepConfig {
            threads,
            split_bytes: 2000,
            rank: Rank::new(index, world).unwrap(),
            ..config(input.path(), output.path())
        };
        let found: Vec<_> = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..world).map(|i| scope.spawn(move || run(&of(i), &mut Silent))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap().map(drop).unwrap_err().to_string()).collect()
        });
        errors.extend(found);
        // What was read is not read again: the folder of intermediate results is the same.
        let tasks = |dir: &Path| -> Vec<_> {
            let runs = fs::read_dir(dir.join("work")).unwrap().map(|run| run.unwrap().path());
            let tasks = runs.flat_map(|run| fs::read_dir(run.join("tokens")).unwrap());
            let mut times: Vec<_> = tasks.map(|task| task.unwrap().metadata().unwrap().modified().unwrap()).collect();
            times.sort();
            times
        };
        let before = tasks(output.path());
        let mut config = of(0);
        (config.rank, config.input.max_bad_fraction) = (Rank::default(), Some(0.05));
        assert!(run(&config, &mut Silent).is_err());
        assert_eq!(tasks(output.path()), before);
        config.input.max_bad_fraction = Some(0.1);
        assert_eq!(run(&config, &mut Silent).unwrap().manifest.stages[0].dropped["bad record"], 270);
        // A complete folder is held to the limit, too.
        config.input.max_bad_fraction = Some(0.05);
        let error = run(&config, &mut Silent).unwrap_err().to_string();
        assert!(error.contains("270 of 3270 records are bad"), "{error}");
        config.input.max_bad_fraction = Some(0.1);
        assert!(run(&config, &mut Silent).unwrap().reused);
    }
    assert!(errors.iter().all(|error| *error == errors[0]) && errors.len() == 5, "{errors:?}");
}

#[test]
fn what_is_not_read_is_told_counted_and_listed() {
    let (input, output) = (corpus(), tempfile::tempdir().unwrap());
    for (name, bytes) in [("x.png", "x"), ("y.png", "y"), ("z.jsonl.xz", "\u{fd}"), (".hidden", "")] {
        fs::write(input.path().join(name), bytes).unwrap();
    }
    fs::write(input.path().join("z.jsonl.xz"), b"\xfd7zXZ\0\0\x04").unwrap();
    fs::write(input.path().join("lines.txt"), "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
    let mut notes = Notes::default();
    let summary = run(&config(input.path(), output.path()), &mut notes).unwrap();
    let told = notes.0.join("\n");
    for words in ["2 not read (unknown suffix .png): ", "z.jsonl.xz", "xz -d", ".hidden", "lines.txt"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let passed_over = &summary.manifest.passed_over;
    assert_eq!((passed_over.len(), passed_over["unknown suffix .png"]), (3, 2), "{passed_over:?}");
    let listing = fs::read_to_string(output.path().join(output::PASSED_OVER)).unwrap();
    let names: Vec<_> =
        listing.lines().map(|line| line.split(input.path().to_str().unwrap()).nth(1).unwrap()).collect();
    let order = ["/.hidden", "/x.png", "/y.png", "/z.jsonl.xz"];
    assert!(names.iter().zip(order).all(|(found, name)| found.starts_with(name)) && names.len() == 4, "{names:?}");
    // The list goes with what it was of.
    for name in ["x.png", "y.png", "z.jsonl.xz", ".hidden"] {
        fs::remove_file(input.path().join(name)).unwrap();
    }
    let mut config = config(input.path(), output.path());
    (config.output.overwrite, config.seed) = (true, 1);
    assert!(run(&config, &mut Silent).unwrap().manifest.passed_over.is_empty());
    assert!(!output.path().join(output::PASSED_OVER).exists());
}

#[test]
fn files_that_change_while_they_are_read_are_named() {
    /// Changes a file when the first stage begins.
    struct Changes<F: FnMut()>(F);
    impl<F: FnMut() + Send> Progress for Changes<F> {
        fn stage(&mut self, _: &str, _: u64) {
            (self.0)();
        }
        fn advance(&mut self, _: u64, _: u64) {}
        fn message(&mut self, _: &str) {}
    }
    for (change, now) in [("{\"text\": \"more\"}\n", 1), ("", -1)] {
        let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = input.path().join("a.jsonl");
        with_bad_lines(&path, 300, 0);
        let before = fs::metadata(&path).unwrap().len();
        let mut text = fs::read_to_string(&path).unwrap();
        text.truncate(if now < 0 { 1000 } else { text.len() });
        text += change;
        let mut changes = Changes(|| fs::write(&path, &text).unwrap());
        let error = run(&config(&path, output.path()), &mut changes).unwrap_err().to_string();
        let expected = format!("a.jsonl changed while it was read: it had {before} bytes and has {}", text.len());
        assert!(error.contains(&expected), "{error}");
        assert!(!output.path().join(MANIFEST).exists());
    }
}

/// A `response` record of a page.
fn page(headers: &str, body: &[u8]) -> Vec<u8> {
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n", headers.as_bytes(), b"\r\n", body].concat();
    let head = format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nContent-Type: application/http\r\n\
         Content-Length: {}\r\n\r\n",
        answer.len()
    );
    [head.as_bytes(), &answer, b"\r\n\r\n"].concat()
}

#[test]
fn pages_that_cannot_be_read_never_end_a_run_and_parts_of_pages_are_counted() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, "a sentence of a page. ".repeat(100).as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let encoded = "Content-Encoding: gzip\r\n";
    let mut crawl = [page(encoded, &gzip), page(encoded, &gzip[..gzip.len() - 4]), page("", b"plain")].concat();
    for _ in 0..150 {
        crawl.extend(page("Content-Encoding: br\r\n", &[0x8b, 1, 2, 3].repeat(10)));
        crawl.extend(page(encoded, &gzip[..9]));
        crawl.extend(page("", b"\x89PNG\r\n\x1a\n"));
    }
    fs::write(input.path().join("a.warc"), crawl).unwrap();
    let mut config = config(input.path(), output.path());
    config.output.validation_fraction = 0.0;
    let manifest = run(&config, &mut Silent).unwrap().manifest;
    let read = &manifest.stages[0];
    assert_eq!((read.kept, read.changed["pages that break off"]), (3, 1));
    let dropped = [("warc.content_encoding".to_owned(), 300), ("warc.media_type".to_owned(), 150)];
    assert_eq!(read.dropped, dropped.into());
}

#[test]
fn the_manifest_says_whether_added_tokens_were_made() {
    let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(input.path().join("a.txt"), "one<|endoftext|>two").unwrap();
    let mut config = config(input.path(), output.path());
    (config.output.validation_fraction, config.output.overwrite) = (0.0, true);
    let mut run = |parse_added| {
        config.tokenizer.parse_added = parse_added;
        let manifest = run(&config, &mut Silent).unwrap().manifest;
        assert_eq!(manifest.pipeline["tokenizer"]["parse_added"], parse_added);
        (manifest.fingerprint, manifest.train.tokens)
    };
    let (plain, chat) = (run(false), run(true));
    assert_eq!((plain.1, chat.1), (20, 8));
    assert_ne!(plain.0, chat.0);
}

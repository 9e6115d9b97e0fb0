//! `prep` writes the same bytes for any number of threads and processes, and after any number of kills.
//!
//! Tested on plain text, and on web pages with every stage on.

mod corpora;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corpora::{numbers, sentences, web_page};

/// What to prepare, and how.
struct Case {
    input: PathBuf,
    arguments: Vec<String>,
}

/// Documents that differ, some of them often repeated words, in `.jsonl` files and plain ones; with all stages that a
/// plain run has, in small tasks and small shards.
fn plain(folder: &Path) -> Case {
    let text = folder.join("text");
    std::fs::create_dir(&text).unwrap();
    let mut random = numbers(1);
    for file in 0..8 {
        let mut lines = String::new();
        for document in 0..200 {
            let words: Vec<String> = (0..20 + random(150)).map(|_| format!("w{}", random(40) * random(40))).collect();
            let record = serde_json::json!({ "id": format!("{file}-{document}"), "text": words.join(" ") });
            lines += &format!("{record}\n");
        }
        std::fs::write(text.join(format!("{file}.jsonl")), lines).unwrap();
        std::fs::write(
            text.join(format!("{file}.txt")),
            format!("file number {file}, a document of its own. ").repeat(50),
        )
        .unwrap();
    }
    let arguments = ["--vocab-size", "600", "--set", "prep.split_bytes=60000", "--set", "output.shard_bytes=100000"];
    Case { input: text, arguments: arguments.map(str::to_owned).to_vec() }
}

/// Web pages in WARC files and documents in `.jsonl` files, among them what each stage is there to find: bad records,
/// pages without main text, documents that are too short or in no language, addresses of people, one address or text
/// twice, near-duplicates, and items of an evaluation. The settings are those of `configs/web.toml`.
fn web(folder: &Path) -> Case {
    let (input, evaluation) = (folder.join("web"), folder.join("evaluation.jsonl"));
    std::fs::create_dir(&input).unwrap();
    let mut random = numbers(7);
    let items: Vec<String> = (0..8).map(|_| sentences(&mut random, 2).join(" ")).collect();
    let records = items.iter().map(|item| serde_json::json!({ "question": item }).to_string() + "\n");
    std::fs::write(&evaluation, records.collect::<String>()).unwrap();
    let mut earlier: Vec<(String, Vec<String>)> = Vec::new();
    for file in 0..4 {
        let (mut warc, mut lines) = (String::new(), String::new());
        for document in 0..36 {
            let (mut url, mut text) = (format!("http://host{file}.com/{document}"), sentences(&mut random, 16));
            let before = random(earlier.len().max(1) as u64) as usize;
            match (random(12), earlier.get(before)) {
                (0, Some((known, _))) => url.clone_from(known),
                (1, Some((_, known))) => text.clone_from(known),
                (2, Some((_, known))) => {
                    text.clone_from(known);
                    text[7] = sentences(&mut random, 1).remove(0);
                }
                (3, _) => text[5].clone_from(&items[document % items.len()]),
                (4, _) => text.truncate(3),
                (5, _) => text = (0..60).map(|i| format!("zq{i}x vw{i}k.")).collect(),
                (6, _) => text[9] = format!("Write to somebody{document}@example.com of it at once."),
                _ => earlier.push((url.clone(), text.clone())),
            }
            if document % 3 > 0 {
                let record = serde_json::json!({ "id": document, "url": url, "text": text.join("\n") });
                lines += &format!("{record}\n");
                continue;
            }
            warc += &web_page(&url, &text);
        }
        lines += "{no record\n";
        std::fs::write(input.join(format!("{file}.warc")), warc).unwrap();
        std::fs::write(input.join(format!("{file}.jsonl")), lines).unwrap();
    }
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/web.toml");
    let files = format!("decontaminate.files=[{:?}]", evaluation.to_str().unwrap());
    let mut arguments = vec!["--config".to_owned(), config.to_str().unwrap().to_owned()];
    for set in
        [&files, "dedup.urls=true", "tokenizer.vocab_size=600", "prep.split_bytes=20000", "output.shard_bytes=10000"]
    {
        arguments.extend(["--set".to_owned(), set.to_owned()]);
    }
    Case { input, arguments }
}

/// The program, as one process of some.
fn prep(case: &Case, output: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prep"));
    command.args(&case.arguments).arg("--input").arg(&case.input).arg("--output").arg(output);
    command.args(["--set", "output.validation_fraction=0.1"]);
    for launcher in ["SLURM_PROCID", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]
    {
        command.env_remove(launcher);
    }
    command.args(more).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every file below a folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// The output of one thread, which that of more threads and more processes is equal to.
fn same_for_all(folder: &Path, case: &Case) -> BTreeMap<PathBuf, Vec<u8>> {
    let make = |name: &str, threads: &str, world: usize| {
        let output = folder.join(name);
        let (threads, world_text) = (format!("prep.threads={threads}"), world.to_string());
        let children: Vec<Child> = (0..world)
            .map(|rank| {
                let rank = rank.to_string();
                let ranks = ["--rank", &rank, "--world", &world_text];
                let ranks = if world == 1 { &ranks[..0] } else { &ranks[..] };
                prep(case, &output, &[&["--set", threads.as_str()], ranks].concat()).spawn().unwrap()
            })
            .collect();
        children.into_iter().for_each(finish);
        contents(&output)
    };
    let one = make("one", "1", 1);
    assert!(one.contains_key(Path::new("train-00002.bin")) && one.contains_key(Path::new("manifest.json")));
    for (name, threads, world) in [("two", "2", 1), ("five", "5", 1), ("ranks", "1", 3)] {
        assert!(one == make(name, threads, world), "{threads} threads, {world} ranks");
    }
    one
}

#[test]
fn threads_and_ranks_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    same_for_all(folder.path(), &plain(folder.path()));
}

#[test]
fn threads_and_ranks_change_nothing_of_web_pages() {
    let folder = tempfile::tempdir().unwrap();
    let files = same_for_all(folder.path(), &web(folder.path()));
    let manifest: serde_json::Value = serde_json::from_slice(&files[Path::new("manifest.json")]).unwrap();
    let stages = manifest["stages"].as_array().unwrap();
    let counted = |stage: &str, what: &str, rules: &str| {
        let stage = stages.iter().find(|it| it["name"] == stage).unwrap_or_else(|| panic!("{stage} in {stages:#?}"));
        let mut counts = stage[what].as_object().into_iter().flatten();
        assert!(counts.any(|(rule, n)| rule.starts_with(rules) && n.as_u64() > Some(0)), "{rules} in {stage:#}");
    };
    counted("read", "dropped", "bad record");
    ["language.", "gopher_quality.min_words"].iter().for_each(|rules| counted("filter", "dropped", rules));
    counted("filter", "changed", "e-mail addresses masked");
    counted("decontaminate", "dropped", "decontaminate.");
    ["dedup.urls", "dedup.exact", "dedup.near"].iter().for_each(|rule| counted("deduplicate", "dropped", rule));
    assert!(manifest["contaminated"].as_array().is_some_and(|items| items.len() > 1), "{manifest:#}");
}

#[test]
fn kills_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    survives_kills(folder.path(), &plain(folder.path()));
}

#[test]
fn kills_change_nothing_of_web_pages() {
    let folder = tempfile::tempdir().unwrap();
    survives_kills(folder.path(), &web(folder.path()));
}

/// Kills the program at twenty random moments; restarts from nothing if it finished before.
fn survives_kills(folder: &Path, case: &Case) {
    let (whole, output) = (folder.join("whole"), folder.join("killed"));
    let start = Instant::now();
    finish(prep(case, &whole, &[]).spawn().unwrap());
    let (whole, length) = (contents(&whole), start.elapsed());

    // A run that comes to its end is compared and another begun, until twenty were killed.
    let (mut kills, mut ends, mut state) = (0, 0, 88_172_645_463_325_252u64);
    while kills < 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let share = (state >> 11) as f64 / (1u64 << 53) as f64;
        let mut child = prep(case, &output, &[]).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(length.as_secs_f64() * share * 0.7));
        if child.try_wait().unwrap().is_some() {
            finish(child);
            assert!(contents(&output) == whole, "after {kills} kills");
            std::fs::remove_dir_all(&output).unwrap();
            ends += 1;
            assert!(ends < 200, "hardly a run could be killed");
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    finish(prep(case, &output, &[]).spawn().unwrap());
    assert!(contents(&output) == whole, "after {kills} kills");
}

/// More processes than tasks: some find the work of the others done, or the work folder gone, at every point of the
/// way.
#[test]
fn processes_that_are_late_end_with_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (input, mut random) = (folder.path().join("notes.txt"), numbers(11));
    std::fs::write(&input, sentences(&mut random, 200).join("\n")).unwrap();
    let arguments = ["--vocab-size", "400", "--set", "prep.threads=1", "--set", "prep.wait_seconds=20"];
    let case = Case { input, arguments: arguments.map(str::to_owned).to_vec() };
    let mut first = None;
    for round in 0..12 {
        let output = folder.path().join(format!("out-{round}"));
        let begin = |rank: usize| prep(&case, &output, &["--rank", &rank.to_string(), "--world", "8"]).spawn().unwrap();
        let children: Vec<Child> = (0..8).map(begin).collect();
        children.into_iter().for_each(finish);
        let made = contents(&output);
        assert!(!output.join("work").exists(), "nobody leaves work behind");
        assert!(*first.get_or_insert_with(|| made.clone()) == made, "round {round}");
    }
}

#[test]
fn ranks_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let case = plain(folder.path());
    let refused = |arguments: &[&str], environment: &[(&str, &str)], code: i32, words: &[&str]| {
        let mut command = prep(&case, &folder.path().join("out"), arguments);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    refused(&["--rank", "2", "--world", "2"], &[], 2, &["--rank", "below"]);
    refused(&["--rank", "0"], &[], 2, &["--world"]);
    refused(&["--world", "2"], &[], 2, &["--rank"]);
    refused(&[], &[("JOB_COMPLETION_INDEX", "1")], 2, &["--world"]);
    refused(&["--world", "3"], &[("PMI_RANK", "1"), ("PMI_SIZE", "2")], 2, &["--world 3", "MPI says 2"]);
    let alone = ["--rank", "1", "--world", "2", "--set", "prep.wait_seconds=0"];
    refused(&alone, &[], 1, &["rank 0", "not done"]);
}

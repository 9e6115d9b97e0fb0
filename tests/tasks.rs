//! Benchmark tasks: every metric, log-likelihood and answer of lm-evaluation-harness on a small checkpoint.

use std::path::{Path, PathBuf};

use fathom::session::Session;
use fathom::tasks::data::{Places, Pool};
use fathom::tasks::question::{Asked, ask};
use fathom::tasks::{Options, Wording, builtin, run};
use fathom_cpu::Cpu;
use fathom_tests::golden_folder;
use serde_json::Value as Json;

/// Resamples of the golden numbers.
const RESAMPLES: usize = 1000;

fn folder() -> PathBuf {
    golden_folder().join("tasks")
}

fn data(name: &str) -> String {
    folder().join("data").join(name).display().to_string()
}

fn session(device: &Cpu) -> Session<Cpu> {
    Session::load(device, &folder().join("checkpoint")).unwrap()
}

/// A copy of the checkpoint.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder().join("checkpoint")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn golden() -> Json {
    serde_json::from_str(&std::fs::read_to_string(folder().join("golden.json")).unwrap()).unwrap()
}

fn lines(folder: &Path, task: &str) -> Vec<Json> {
    let text = std::fs::read_to_string(folder.join(format!("samples_{task}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is measured: the task, files of its items, and the numbers of examples and items.
struct Case<'a> {
    task: &'a str,
    files: &'a [String],
    shots: usize,
    limit: usize,
}

/// The results of a case, and the answers to its items.
fn measured(session: &Session<Cpu>, case: &Case<'_>) -> (Json, tempfile::TempDir) {
    let output = tempfile::tempdir().unwrap();
    let options = Options {
        tasks: vec![case.task.into()],
        places: Places::new(&[&[data("")], case.files].concat(), &[], Wording::Options).unwrap(),
        shots: Some(case.shots),
        limit: case.limit,
        output: Some(output.path().into()),
        resamples: RESAMPLES,
        ..Options::default()
    };
    (run(session, &options, &|| true, |_, _| {}).unwrap().unwrap().json(), output)
}

#[track_caller]
fn close(got: &Json, want: &Json, tolerance: f64, what: &str) {
    let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
    assert!((got - want).abs() <= tolerance, "{what}: {got} for {want}");
}

fn items<'a>(golden: &'a Json, name: &str) -> &'a Vec<Json> {
    golden["tasks"][name]["items"].as_array().unwrap()
}

/// Compares what was measured with the golden numbers of a task.
fn compare(golden: &Json, name: &str, result: &Json, lines: &[Json]) {
    let want = &golden["tasks"][name];
    if let Some(metrics) = want["metrics"].as_object() {
        for (metric, value) in metrics {
            // Of a perplexity in the thousands as many digits as f32 sums of log-likelihoods have.
            let tolerance = 5e-5f64.max(value.as_f64().unwrap().abs() * 2e-6);
            close(&result[metric], value, tolerance, &format!("{name}, {metric}"));
        }
    }
    let wanted = items(golden, name);
    let mut right = [0usize; 2];
    for item in wanted {
        let place = item["doc"].as_u64().unwrap();
        let of: Vec<&Json> = lines.iter().filter(|line| line["doc_id"] == place).collect();
        let what = format!("{name}, item {place}");
        let line = of[0];
        if let Some(logs) = item["loglikelihood"].as_array() {
            for (i, log) in logs.iter().enumerate() {
                close(&line["resps"][i][0][0], log, 1e-3, &what);
                assert_eq!(line["resps"][i][0][1], item["is_greedy"][i], "{what}");
            }
            for (at, (metric, predictions)) in
                [("acc", "predictions"), ("acc_norm", "predictions_norm")].iter().enumerate()
            {
                let is = want[*predictions][place as usize] == item["gold"];
                if !line[*metric].is_null() {
                    assert_eq!(line[*metric], f64::from(u8::from(is)), "{what}, {metric}");
                    right[at] += usize::from(is);
                }
            }
        } else if let Some(log) = item["loglikelihood"].as_f64() {
            let got = &line["resps"][0][0];
            // A continuation has a pair of numbers, a whole text one.
            let got = if got.is_array() { &got[0] } else { got };
            close(got, &log.into(), 1e-3, &what);
        } else {
            assert_eq!(line["resps"][0][0], item["generated"], "{what}");
            assert_eq!(of.len(), item["filters"].as_object().unwrap().len(), "{what}");
            for line in of {
                let filter = &item["filters"][line["filter"].as_str().unwrap()];
                assert_eq!(
                    (&line["filtered_resps"][0], &line["exact_match"]),
                    (&filter["answer"], &filter["exact_match"])
                );
            }
        }
    }
    if want["metrics"].is_null() && wanted[0]["loglikelihood"].is_array() {
        for (metric, right) in ["acc", "acc_norm"].iter().zip(right) {
            if let Some(value) = result[format!("{metric},none")].as_f64() {
                assert_eq!(value, right as f64 / wanted.len() as f64, "{name}, {metric}");
            }
        }
    }
    for request in want["requests"].as_array().unwrap() {
        let line = lines.iter().find(|line| line["doc_id"] == request["doc"]).unwrap();
        for (got, want) in line["arguments"].as_array().unwrap().iter().zip(request["arguments"].as_array().unwrap()) {
            assert_eq!(got[0], want[0], "{name}: the context");
            if want[1].is_string() {
                assert_eq!(got[1], want[1], "{name}: the continuation");
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_harness() {
    let device = Cpu::new();
    let (session, golden) = (session(&device), golden());
    let file = |task: &str, name: &str| vec![format!("{task}={}", data(name))];
    let none: Vec<String> = Vec::new();
    let (wikitext, lambada) = (file("wikitext", "wikitext_like.jsonl"), file("lambada_openai", "lambada_like.jsonl"));
    for (name, task, files, shots) in [
        ("arc_easy", "arc_easy", &none, 0),
        ("arc_easy_5shot", "arc_easy", &none, 5),
        ("hellaswag", "hellaswag", &none, 0),
        ("winogrande", "winogrande", &none, 0),
        ("winogrande_5shot", "winogrande", &none, 5),
        ("wikitext_like", "wikitext", &wikitext, 0),
        ("lambada_like", "lambada_openai", &lambada, 0),
    ] {
        let limit = items(&golden, name).len();
        // Numbers of single items end at 50; metrics are over all.
        let limit = if golden["tasks"][name]["metrics"].is_null() { limit } else { 0 };
        let (results, output) = measured(&session, &Case { task, files, shots, limit });
        compare(&golden, name, &results["results"][task], &lines(output.path(), task));
    }
}

#[test]
fn mmlu_has_the_harness_s_scores_and_groups() {
    let device = Cpu::new();
    let (session, golden) = (session(&device), golden());
    for (shots, suffix) in [(0, ""), (5, "_5shot")] {
        let (results, output) = measured(&session, &Case { task: "mmlu", files: &[], shots, limit: 0 });
        let mut seen = 0;
        for (name, _) in golden["tasks"].as_object().unwrap() {
            let Some(task) = name.strip_suffix(suffix).filter(|task| task.starts_with("mmlu_")) else { continue };
            if task.ends_with("_5shot") {
                continue;
            }
            compare(&golden, name, &results["results"][task], &lines(output.path(), task));
            seen += 1;
        }
        assert_eq!(seen, 6);
        let group = &golden["groups"][format!("mmlu{suffix}")];
        close(&results["groups"]["mmlu"]["acc,none"], &group["acc"], 1e-9, "mmlu");
        close(&results["groups"]["mmlu"]["acc_stderr,none"], &group["acc_stderr"], 1e-9, "mmlu, pooled error");
        assert_eq!(results["source"]["missing_tasks"].as_array().unwrap().len(), 51);
        assert_eq!(results["groups"]["mmlu_stem"]["sample_len"], 44);
        assert_eq!((&results["versions"]["mmlu"], &results["versions"]["mmlu_philosophy"]), (&2.0.into(), &1.0.into()));
    }
}

#[test]
fn generated_answers_are_those_of_the_harness() {
    let device = Cpu::new();
    let (session, golden) = (session(&device), golden());
    let matched = [format!("gsm8k={}", data("gsm8k_matched.jsonl"))];
    // The golden examples are the first ones.
    let source = builtin::TASKS.iter().find(|(name, _)| *name == "gsm8k").unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("first.toml");
    let first = source.replace("count = 5", "sampler = \"first\"").replace("gsm8k_train.jsonl", "gsm8k_first.jsonl");
    std::fs::write(&path, first).unwrap();
    let first = path.display().to_string();
    for (name, task, files, shots) in [
        ("gsm8k_matched", "gsm8k", &matched[..], 0),
        ("gsm8k", "gsm8k", &[], 0),
        ("gsm8k_5shot", first.as_str(), &[], 5),
    ] {
        let limit = items(&golden, name).len();
        let (results, output) = measured(&session, &Case { task, files, shots, limit });
        compare(&golden, name, &results["results"]["gsm8k"], &lines(output.path(), "gsm8k"));
    }
}

/// The requests of single items are the strings that the harness sends, also for tasks without golden numbers.
#[test]
fn prompts_are_those_of_the_harness() {
    let text = std::fs::read_to_string(folder().join("prompts.json")).unwrap();
    let all: Json = serde_json::from_str(&text).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    for (name, want) in all.as_object().unwrap() {
        let (task, _) = builtin::find(name, Wording::Options).unwrap();
        let path = temporary.path().join(format!("{name}.jsonl"));
        std::fs::write(&path, want["item"].to_string() + "\n").unwrap();
        let items = Pool::read(&path, &task, "").unwrap();
        let asked = ask(&task, &items, &items, 0, 0, Wording::Options).unwrap().remove(0).asked;
        let requests = want["requests"].as_array().unwrap();
        match asked {
            Asked::Choice { pairs, gold, .. } => {
                let pairs: Vec<Json> = pairs.iter().map(|(a, b)| serde_json::json!([&**a, b])).collect();
                assert_eq!((&pairs, &serde_json::json!(gold)), (requests, &want["target"]), "{name}");
            }
            Asked::Generate { prompt, target } => {
                let settings = &requests[0][1];
                let ours = (task.generate.until.clone(), task.generate.max_tokens, task.generate.temperature);
                let theirs = serde_json::from_value(settings["until"].clone()).unwrap();
                assert_eq!(ours, (theirs, settings["max_gen_toks"].as_u64().unwrap() as usize, 0.0), "{name}");
                assert_eq!(settings["do_sample"], false, "{name}");
                assert_eq!(
                    (&prompt[..], &target[..]),
                    (requests[0][0].as_str().unwrap(), want["target"].as_str().unwrap())
                );
            }
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(task.version.parse::<f64>().unwrap(), want["version"].as_f64().unwrap(), "{name}");
    }
    assert_eq!(all.as_object().unwrap().len(), 5);
}

/// A group that was not asked for has no result.
#[test]
fn a_part_of_mmlu_is_not_mmlu() {
    let device = Cpu::new();
    let session = session(&device);
    let (results, _output) = measured(&session, &Case { task: "mmlu_humanities", files: &[], shots: 0, limit: 2 });
    let groups: Vec<&String> = results["groups"].as_object().unwrap().keys().collect();
    assert_eq!(groups, ["mmlu_humanities"]);
    let one = measured(&session, &Case { task: "mmlu_philosophy", files: &[], shots: 0, limit: 2 }).0;
    assert!(one["groups"].as_object().unwrap().is_empty() && one["results"]["mmlu_philosophy"]["sample_len"] == 2);
}

/// The answers of a run that was killed, in the middle of a line too, are not computed again, and the results are the
/// same.
#[test]
fn a_killed_run_goes_on() {
    let device = Cpu::new();
    let session = session(&device);
    let case = Case { task: "arc_easy", files: &[], shots: 1, limit: 12 };
    let (mut whole, output) = measured(&session, &case);
    let path = output.path().join("samples_arc_easy.jsonl");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() * 2 / 3]).unwrap();
    let options = Options {
        tasks: vec![case.task.into()],
        places: Places::new(&[data("")], &[], Wording::Options).unwrap(),
        shots: Some(case.shots),
        limit: case.limit,
        output: Some(output.path().into()),
        ..Options::default()
    };
    let mut told = Vec::new();
    let mut again = run(&session, &options, &|| true, |done, total| told.push((done, total))).unwrap().unwrap().json();
    assert!(told[0].0 >= 7 && told.last() == Some(&(12, 12)), "what is known is not computed again: {told:?}");
    for results in [&mut whole, &mut again] {
        results["total_evaluation_time_seconds"] = 0.into();
    }
    assert_eq!(again, whole);
    assert_eq!(std::fs::read(&path).unwrap(), text, "the file is the same");
    // The same weights in another place are the same model; other weights in the same place are another.
    let copy = copy();
    let moved = Session::load(&device, &copy.path().join(".")).unwrap();
    let mut told = Vec::new();
    run(&moved, &options, &|| true, |done, total| told.push((done, total))).unwrap();
    assert_eq!(told, [(12, 12)], "nothing is computed again");
    let path_of = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path_of).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(&path_of, bytes).unwrap();
    let other = Session::load(&device, copy.path()).unwrap();
    let error = run(&other, &options, &|| true, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("samples_arc_easy.jsonl:1: is of another checkpoint"), "{error}");
    // Another number of examples is another run.
    let error = run(&session, &Options { shots: Some(2), ..options }, &|| true, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("samples_arc_easy.jsonl:1: is of another checkpoint"), "{error}");
}

/// An item that the model fails at is named with its file and line.
#[test]
fn an_item_whose_scores_are_not_finite_is_named() {
    let copy = copy();
    let path = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Json = serde_json::from_slice(&bytes[8..header]).unwrap();
    let offsets = &tensors["model.norm.weight"]["data_offsets"];
    let place = |i: usize| header + offsets[i].as_u64().unwrap() as usize;
    // Each number is finite, and logits are not.
    for number in bytes[place(0)..place(1)].chunks_exact_mut(4) {
        number.copy_from_slice(&3e38f32.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let device = Cpu::new();
    let session = Session::load(&device, copy.path()).unwrap();
    let places = Places::new(&[data("")], &[], Wording::Options).unwrap();
    let options = Options { tasks: vec!["arc_easy".into()], places, limit: 1, ..Options::default() };
    let error = run(&session, &options, &|| true, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("arc_easy_val.jsonl:1: ") && error.contains("not finite"), "{error}");
}

//! Scores, losses and generated text.

use std::path::Path;

use crate::World;

#[test]
fn scores_come_line_by_line() {
    let w = World::new();
    let lines = "{\"tokens\": [116, 104, 101]}\n\n{\"context\": \"the quick \", \"continuation\": \"brown\"}\n";
    std::fs::write(w.root.join("in.jsonl"), lines).unwrap();
    w.ok("eval", &["--checkpoint", "run", "--score", "in.jsonl", "--output", "out.jsonl"]);
    let out = std::fs::read_to_string(w.root.join("out.jsonl")).unwrap();
    let scores: Vec<serde_json::Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let counts: Vec<usize> = scores.iter().map(|s| s["logprobs"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [2, 6], "one for each token after the first; the context's last space is the continuation's");
    for s in &scores {
        let sum: f64 = s["logprobs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum();
        assert!((sum - s["sum_logprob"].as_f64().unwrap()).abs() < 1e-4);
        assert_eq!(s["greedy"].as_array().unwrap().len(), s["logprobs"].as_array().unwrap().len());
    }
    for (line, words) in [
        ("{\"tokens\": [1]}", "at least 2"),
        ("{\"tokens\": [1, 999]}", "999"),
        ("{}", "must be"),
        ("nonsense", "is not"),
    ] {
        std::fs::write(w.root.join("bad.jsonl"), format!("{{\"tokens\": [1, 2]}}\n{line}\n")).unwrap();
        w.fails("eval", &["--checkpoint", "run", "--score", "bad.jsonl"], 1, &["bad.jsonl:2", words]);
    }
}

#[test]
fn generation_is_repeatable_and_evaluation_is_json() {
    let w = World::new();
    let arguments = ["--checkpoint", "run", "--prompt", "the ", "--max-new-tokens", "12", "--seed", "5"];
    assert_eq!(w.ok("generate", &arguments), w.ok("generate", &arguments));
    let long = "x".repeat(70);
    w.fails("generate", &["--checkpoint", "run", "--prompt", &long], 1, &["70", "64"]);
    let result: serde_json::Value =
        serde_json::from_str(&w.ok("eval", &["--checkpoint", "run", "--data", "data", "--json"])).unwrap();
    let (loss, bits) = (result["loss"].as_f64().unwrap(), result["bits_per_byte"].as_f64().unwrap());
    assert!((loss / std::f64::consts::LN_2 - bits).abs() < 0.05 * bits, "a byte a token: {result}");
    let plan = w.ok("train", &["--plan", "--json", "--set", "model.preset=v3-671b"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["parameters"], 671_026_419_200u64);
    assert_eq!(plan["parameters_with_mtp"], 684_489_845_504u64);
    let said = w
        .run(
            "prep",
            &["--tokenizer", "bytes", "--input", "text.txt", "--output", "data", "--set", "output.validation_tail=0.2"],
        )
        .2;
    assert!(said.contains("already"), "{said}");
    assert!(Path::new(&w.root.join("run/config.resolved.toml")).is_file());
}

#[test]
fn a_model_is_measured_as_it_generates() {
    let w = World::new();
    // Documents and windows end in the middle of pages.
    let window = ["--checkpoint", "run", "--data", "data", "--sequence-length", "50"];
    let loss = |more: &[&str]| {
        let (result, _) = w.eval(&[&window[..], more].concat());
        (result["loss"].as_f64().unwrap(), result["cache"].clone())
    };
    for mask in [&[][..], &["--no-document-mask"]] {
        let (plain, cache) = loss(mask);
        assert!(cache.is_null());
        for (format, bound) in [("f32", 1e-5), ("bf16", 5e-3), ("fp8", 2e-2)] {
            let (cached, named) = loss(&[&["--cache", format], mask].concat());
            assert!((cached - plain).abs() < bound && named == format, "{format}: {cached} for {plain}");
            assert!(format == "f32" || cached != plain, "{format}: the cache is used");
        }
    }
    let text = w.ok("eval", &[&window[..], &["--cache", "fp8"]].concat());
    assert!(text.contains("cache          fp8, decoded token by token"), "{text}");
    w.fails("eval", &[&window[..], &["--cache", "int8"]].concat(), 2, &["int8", "f32, bf16 or fp8"]);
    // Scores too.
    let lines =
        "{\"tokens\": [116, 104, 101, 32, 113, 117]}\n{\"context\": \"the quick \", \"continuation\": \"brown\"}\n";
    std::fs::write(w.root.join("in.jsonl"), lines).unwrap();
    let score = |more: &[&str]| -> Vec<serde_json::Value> {
        let out = w.ok("eval", &[&["--checkpoint", "run", "--score", "in.jsonl"], more].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (plain, cached) in score(&[]).iter().zip(&score(&["--cache", "f32"])) {
        assert_eq!(plain["greedy"], cached["greedy"]);
        let (plain, cached) = (plain["sum_logprob"].as_f64().unwrap(), cached["sum_logprob"].as_f64().unwrap());
        assert!((plain - cached).abs() < 1e-4, "{plain}, {cached}");
    }
}

#[test]
fn weights_are_stored_as_asked_for() {
    let w = World::new();
    std::fs::write(w.root.join("in.jsonl"), "{\"tokens\": [116, 104, 101, 32, 113, 117, 105]}\n").unwrap();
    for format in ["f32", "bf16", "fp8"] {
        w.ok("convert", &["--checkpoint", "run", "--output", format, "--to", format]);
    }
    let sum = |folder: &str, weights: &str| {
        let out = w.ok("eval", &["--checkpoint", folder, "--score", "in.jsonl", "--weights", weights]);
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        line["sum_logprob"].as_f64().unwrap()
    };
    let text = |folder: &str, weights: &str| {
        let arguments = ["--checkpoint", folder, "--prompt", "the ", "--max-new-tokens", "8", "--temperature", "0"];
        w.ok("generate", &[&arguments[..], &["--weights", weights]].concat())
    };
    // As the files have them, or in another type: the numbers of the file of that type, vectors and routers aside.
    let wide = sum("run", "f32");
    assert_eq!(sum("run", "stored"), wide, "training saves f32");
    assert_eq!(text("run", "stored"), text("run", "f32"));
    for (format, near) in [("bf16", 0.1), ("fp8", 1.0)] {
        let (quantized, stored) = (sum("run", format), sum(format, "stored"));
        assert!((quantized - stored).abs() < 0.02 * wide.abs(), "{format}: {quantized} for {stored}");
        assert!(quantized != wide && (quantized - wide).abs() < near, "{format}: {quantized} for {wide}");
        assert!(text(format, "stored").len() > 1 && text("run", format).len() > 1);
    }
    // The numbers of an FP8 file, decoded, are those of the converted file.
    w.ok("convert", &["--checkpoint", "fp8", "--output", "decoded", "--to", "f32"]);
    assert_eq!(sum("fp8", "f32"), sum("decoded", "stored"));
    for program in ["eval", "generate"] {
        let arguments = ["--checkpoint", "run", "--weights", "int4"];
        let more: &[&str] = if program == "eval" { &["--score", "in.jsonl"] } else { &[] };
        w.fails(program, &[&arguments[..], more].concat(), 2, &["--weights int4", "stored, bf16, fp8, f32"]);
    }
}

impl World {
    /// `eval --json` with `arguments`, and what was said on stderr.
    pub fn eval(&self, arguments: &[&str]) -> (serde_json::Value, String) {
        let (code, out, said) = self.run("eval", &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{said}");
        (serde_json::from_str(&out).unwrap(), said)
    }
}

#[test]
fn a_measurement_says_of_what_and_agrees_with_training() {
    let w = World::new();
    let (code, _, said) = w.run("train", &w.training("v", &["--set", "train.eval_tokens=0"]));
    assert!(code == 0 && !said.contains("no validation split"), "{said}");
    let (result, _) = w.eval(&["--checkpoint", "v", "--data", "data"]);
    assert_eq!((&result["split"], &result["window"]), (&"validation".into(), &32.into()));
    let at_the_end = format!("validation: loss {:.4}, perplexity", result["loss"].as_f64().unwrap());
    assert!(said.contains(&at_the_end), "{at_the_end}\n{said}");
    let text = w.ok("eval", &["--checkpoint", "v", "--data", "data"]);
    for line in ["checkpoint     v/step-00000002", "split          validation", "window         32 tokens"] {
        assert!(text.contains(line), "{text}");
    }
    // Without the mask in training, none in the measurement.
    w.ok("train", &w.training("unmasked", &["--set", "data.document_mask=false"]));
    assert_eq!(w.eval(&["--checkpoint", "unmasked", "--data", "data"]).0["document_mask"], false);

    w.ok(
        "prep",
        &["--tokenizer", "bytes", "--input", "text.txt", "--output", "whole", "--set", "output.validation_fraction=0"],
    );
    let more = ["--set", "data.path=whole"];
    let (code, _, said) = w.run("train", &w.training("nv", &more));
    assert!(code == 0 && said.contains("no validation split"), "{said}");
    let (code, _, said) = w.run("train", &w.training("nv2", &[&more[..], &["--set", "train.eval_every=0"]].concat()));
    assert!(code == 0 && !said.contains("no validation split"), "{said}");
    let (result, _) = w.eval(&["--checkpoint", "nv", "--data", "whole"]);
    assert_eq!(result["split"], "train (no validation split)");
    assert_eq!(w.eval(&["--checkpoint", "nv", "--data", "whole", "--split", "train"]).0["split"], "train");
    w.fails("eval", &["--checkpoint", "nv", "--data", "whole", "--split", "validation"], 1, &["whole"]);
}

#[test]
fn a_context_that_was_cut_is_said_to_be() {
    let w = World::new();
    let long = "the quick brown fox ".repeat(10);
    let line = serde_json::json!({ "context": long, "continuation": " jumps" });
    std::fs::write(w.root.join("in.jsonl"), format!("{line}\n")).unwrap();
    let (code, out, said) = w.run("eval", &["--checkpoint", "run", "--score", "in.jsonl"]);
    let score: serde_json::Value = serde_json::from_str(&out).unwrap();
    // 199 bytes of context without its last space, which goes to the continuation, and 7 of that; 65 tokens fit.
    assert_eq!((code, &score["cut"]), (0, &(199 + 7 - 65).into()), "{said}");
    assert!(said.contains("1 lines are longer than the model's context of 64 tokens"), "{said}");
}

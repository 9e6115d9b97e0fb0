//! `generate`: requests from a file, stop strings, statistics, and chats.

use std::process::Command;

use crate::World;

#[test]
fn requests_from_a_file_run_as_one_batch() {
    let w = World::new();
    let alone = |prompt: &str, more: &[&str]| {
        let arguments = ["--checkpoint", "run", "--prompt", prompt, "--max-new-tokens", "9"];
        w.ok("generate", &[&arguments[..], more].concat())
    };
    let lines = concat!(
        "{\"prompt\": \"the \", \"temperature\": 0, \"logprobs\": 2}\n",
        "{\"tokens\": [97, 98], \"seed\": 3, \"max_new_tokens\": 5, \"ignore_eos\": true}\n",
        "{\"prompt\": \"the other\", \"seed\": 4}\n",
    );
    std::fs::write(w.root.join("requests.jsonl"), lines).unwrap();
    let run = |more: &[&str]| {
        let arguments = ["--checkpoint", "run", "--requests", "requests.jsonl", "--max-new-tokens", "9"];
        w.ok("generate", &[&arguments[..], more].concat())
    };
    let out = run(&[]);
    let results: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 3);
    let text = |i: usize| format!("{}\n", results[i]["text"].as_str().unwrap());
    assert_eq!(text(0), alone("the ", &["--temperature", "0"]));
    assert_eq!(text(2), alone("the other", &["--seed", "4"]));
    let first = results[0]["tokens"].as_array().unwrap();
    assert_eq!(results[0]["top_logprobs"][0][0][0], first[0], "greedy takes the most probable token");
    assert_eq!(results[0]["top_logprobs"][0][0][1], results[0]["logprobs"][0]);
    assert_eq!(results[0]["top_logprobs"].as_array().unwrap().len(), first.len());
    assert_eq!((results[1]["tokens"].as_array().unwrap().len(), &results[1]["stop"]), (5, &"length".into()));
    assert!(results[1].get("logprobs").is_none());

    // Fewer pages than the requests need, and any other way to run them, give the same results.
    for more in [&["--cache-tokens", "64", "--step-tokens", "3"][..], &["--output", "results.jsonl", "--stats"]] {
        let out = run(more);
        let file = w.root.join("results.jsonl");
        let out = if out.is_empty() { std::fs::read_to_string(file).unwrap() } else { out };
        let again: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(again, results, "{more:?}");
    }

    // A request that fails does not end the others.
    let long = format!("{{\"prompt\": \"{}\"}}\n{lines}", "x".repeat(70));
    std::fs::write(w.root.join("long.jsonl"), long).unwrap();
    let arguments = ["--checkpoint", "run", "--requests", "long.jsonl", "--max-new-tokens", "9"];
    let (code, out, said) = w.run("generate", &arguments);
    assert!(code == 1 && said.contains("1 of 4 requests failed"), "{said}");
    let failed: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert!(failed["error"].as_str().unwrap().contains("70 tokens"), "{failed}");
    let second: serde_json::Value = serde_json::from_str(out.lines().nth(1).unwrap()).unwrap();
    assert_eq!(second, results[0]);

    // Without a tokenizer token ids work, and there is no text.
    w.ok("convert", &["--checkpoint", "run", "--output", "mute", "--to", "f32"]);
    std::fs::remove_file(w.root.join("mute/tokenizer.json")).unwrap();
    std::fs::write(w.root.join("ids.jsonl"), lines.lines().nth(1).unwrap()).unwrap();
    let out = w.ok("generate", &["--checkpoint", "mute", "--requests", "ids.jsonl"]);
    let ids: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&ids["tokens"], ids.get("text")), (&results[1]["tokens"], None));

    let generate = |more: &[&'static str]| [&["--checkpoint", "run"][..], more].concat();
    for (more, code, words) in [
        (&["--requests", "missing.jsonl"][..], 1, &["missing.jsonl"][..]),
        (&["--requests", "x", "--chat"], 2, &["exclude each other"]),
        (&["--output", "x"], 2, &["--output belongs to --requests"]),
        (&["--cache", "int8"], 2, &["int8", "f32, bf16 or fp8"]),
        (&["--logit-bias", "x"], 2, &["42=-1.5"]),
        (&["--logit-bias", "9999=1"], 2, &["--logit-bias", "9999"]),
        (&["--min-p", "2"], 2, &["--min-p"]),
        (&["--stop", ""], 2, &["--stop"]),
        (&["--chat"], 1, &["no chat template", "chat_template.jinja"]),
    ] {
        w.fails("generate", &generate(more), code, words);
    }
    std::fs::write(w.root.join("bad.jsonl"), "{\"prompt\": \"a\"}\n{\"promt\": 1}\n").unwrap();
    w.fails("generate", &generate(&["--requests", "bad.jsonl"]), 1, &["bad.jsonl:2", "promt"]);
}

#[test]
fn stop_strings_end_a_text_and_stats_are_printed() {
    let w = World::new();
    let arguments = ["--checkpoint", "run", "--prompt", "the ", "--max-new-tokens", "20", "--temperature", "0"];
    let text = w.ok("generate", &arguments);
    let stop: String = text.trim_end_matches('\n').chars().skip(3).take(2).collect();
    if stop.chars().count() == 2 && !stop.contains('\u{fffd}') {
        let cut = w.ok("generate", &[&arguments[..], &["--stop", &stop]].concat());
        assert_eq!(cut.trim_end_matches('\n'), text.split(stop.as_str()).next().unwrap());
    }
    // Drafts of the MTP module do not change greedy text.
    let (code, drafted, said) = w.run("generate", &[&arguments[..], &["--stats", "--speculate", "2"]].concat());
    assert!(code == 0 && drafted == text && said.contains("drafts: "), "{said}");
    for format in ["f32", "bf16", "fp8"] {
        let (code, _, said) = w.run("generate", &[&arguments[..], &["--stats", "--cache", format]].concat());
        assert_eq!(code, 0, "{said}");
        for words in [&format!("cache: {format}, ")[..], "by formula", "full keys and values", "tokens/s"] {
            assert!(said.contains(words), "{words} in {said}");
        }
        let number = |before: &str| {
            let rest = said.split(before).nth(1).unwrap();
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(number(&format!("cache: {format}, ")), number("by formula "), "{said}");
    }
}

#[test]
fn a_chat_keeps_its_history() {
    use std::io::Write;
    let w = World::new();
    w.ok("convert", &["--checkpoint", "run", "--output", "chat", "--to", "f32"]);
    let template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    std::fs::write(w.root.join("chat/chat_template.jinja"), template).unwrap();
    let more = ["--max-new-tokens", "4", "--temperature", "0"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_generate"));
    command.args([&["--checkpoint", "chat", "--chat", "--system", "s"], &more[..]].concat()).current_dir(&w.root);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let too_long = "x".repeat(80);
    child.stdin.take().unwrap().write_all(format!("ab\n\n{too_long}\ncd\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("error: the prompt has") && !said.contains("panicked"), "{said}");
    // The same by hand: prompts as the template writes them.
    let hand = |prompt: &str| {
        let text = w.ok("generate", &[&["--checkpoint", "chat", "--prompt", prompt], &more[..]].concat());
        text.strip_suffix('\n').unwrap().to_owned()
    };
    let first = hand("[system]s[user]ab");
    let second = hand(&format!("[system]s[user]ab[assistant]{first}[user]cd"));
    if !first.contains('\u{fffd}') {
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{first}\n{second}\n"));
    }
}

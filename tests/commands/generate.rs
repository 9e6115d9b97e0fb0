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
    // Drafts of the MTP module do not change greedy text, and what they gain is measured.
    let (code, drafted, said) = w.run("generate", &[&arguments[..], &["--stats", "--speculate", "2"]].concat());
    assert!(code == 0 && drafted == text && said.contains("drafts: "), "{said}");
    assert!(said.contains("without drafts: ") && said.contains("x as fast; the same tokens"), "{said}");
    let sampled = ["--checkpoint", "run", "--max-new-tokens", "9", "--stats", "--speculate", "1"];
    let (code, _, said) = w.run("generate", &sampled);
    assert!(code == 0 && said.contains("x as fast; sampled"), "{said}");
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

/// A copy of the model that may write tens of thousands of tokens, with a template that refuses a word.
fn talkative(w: &World) {
    w.ok("convert", &["--checkpoint", "run", "--output", "long", "--to", "f32"]);
    let path = w.root.join("long/config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let longer = config.replace("\"max_position_embeddings\": 64", "\"max_position_embeddings\": 40000");
    assert_ne!(config, longer);
    std::fs::write(path, longer).unwrap();
    let template = "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('never no') }}{% endif %}\
                    [{{ m.role }}]{{ m.content }}{% endfor %}";
    std::fs::write(w.root.join("long/chat_template.jinja"), template).unwrap();
}

#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_an_answer_and_the_conversation_goes_on() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::Stdio;
    let w = World::new();
    talkative(&w);
    let mut command = Command::new(env!("CARGO_BIN_EXE_generate"));
    command.args(["--checkpoint", "long", "--chat", "--ignore-eos", "--max-new-tokens", "39000"]).current_dir(&w.root);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    for message in ["ab\n", "cd\n"] {
        input.write_all(message.as_bytes()).unwrap();
        let mut some = [0; 20];
        output.read_exact(&mut some).unwrap();
        interrupt(&child);
        // A full pipe would keep the answer from ending.
        let mut rest = output;
        let drain = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The rest of the answer is short: the pipe is read until the line that ends it.
            loop {
                let n = rest.read(&mut bytes).unwrap();
                if n == 0 || bytes[..n].ends_with(b"\n") {
                    return rest;
                }
            }
        });
        assert!(said.any(|line| line == "(stopped)"));
        output = drain.join().unwrap();
    }
    // A message that is no text, and one that the template refuses.
    input.write_all(b"\xff\nno\n").unwrap();
    assert!(said.any(|line| line.contains("error: the message is not UTF-8")));
    assert!(said.any(|line| line.contains("error: the chat template") && line.contains("never no")));
    drop(input);
    assert!(said.all(|line| !line.contains("panicked")));
    assert!(child.wait().unwrap().success());
}

#[cfg(unix)]
#[test]
fn an_interrupted_batch_writes_what_there_is() {
    let w = World::new();
    talkative(&w);
    let short = "{\"prompt\": \"a\", \"max_new_tokens\": 2}\n";
    let long = "{\"prompt\": \"b\", \"max_new_tokens\": 39000, \"ignore_eos\": true}\n";
    let refused = "{\"messages\": [{\"role\": \"user\", \"content\": \"no\"}]}\n";
    std::fs::write(w.root.join("requests.jsonl"), [refused, long, short].concat()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_generate"));
    command.args(["--checkpoint", "long", "--requests", "requests.jsonl", "--output", "out.jsonl"]);
    let mut child = command.current_dir(&w.root).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !w.root.join("out.jsonl").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted: ") && said.contains("\"stop\": \"cancelled\""), "{said}");
    let out = std::fs::read_to_string(w.root.join("out.jsonl")).unwrap();
    let results: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 3);
    assert!(results[0]["error"].as_str().unwrap().contains("never no"), "{}", results[0]);
    assert_eq!(results[1]["stop"], "cancelled");
    assert!(results[1]["tokens"].as_array().unwrap().len() < 39000);
    assert_eq!(results[2].get("error"), None);

    // A template that refuses a conversation does not keep the others from their answers.
    std::fs::write(w.root.join("two.jsonl"), [refused, short].concat()).unwrap();
    let (code, out, said) = w.run("generate", &["--checkpoint", "long", "--requests", "two.jsonl"]);
    assert!(code == 1 && said.contains("1 of 2 requests failed") && said.contains("never no"), "{said}");
    let second: serde_json::Value = serde_json::from_str(out.lines().nth(1).unwrap()).unwrap();
    assert_eq!(second["stop"], "length");
}

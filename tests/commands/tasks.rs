//! Benchmark tasks from the command line.

use crate::World;

/// The task and the items of docs/tasks.md.
fn example() -> (String, String) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tasks.md")).unwrap();
    let block = |language: &str, first: &str| {
        let start = page.find(&format!("```{language}\n{first}")).unwrap() + 4 + language.len();
        page[start..start + page[start..].find("```").unwrap()].to_owned()
    };
    (block("toml", "name ="), block("json", "{\"country\""))
}

#[test]
fn a_task_by_hand_is_measured() {
    let w = World::new();
    let (task, items) = example();
    std::fs::write(w.root.join("capitals.toml"), task).unwrap();
    // Short names, since the model's context is short.
    std::fs::write(w.root.join("capitals.jsonl"), &items).unwrap();
    let arguments = ["--checkpoint", "run", "--tasks", "capitals.toml", "--task-data", ".", "--output", "out"];
    let text = w.ok("eval", &arguments);
    for words in ["run/step-00000002", "step           2", "2 of 2 items of ./capitals.jsonl", "|capitals|", "acc_norm"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&w.ok("eval", &[&arguments[..], &["--json"]].concat())).unwrap();
    let acc = json["results"]["capitals"]["acc,none"].as_f64().unwrap();
    assert!([0.0, 0.5, 1.0].contains(&acc) && json["results"]["capitals"]["acc_stderr,none"].is_number(), "{json}");
    assert_eq!(json["source"]["step"], 2);
    let samples = std::fs::read_to_string(w.root.join("out/samples_capitals.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 2);
    let file: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(w.root.join("out/results.json")).unwrap()).unwrap();
    assert_eq!(file["results"], json["results"]);
}

/// A page needs nothing but itself, and holds every task that it is of.
fn page(w: &World, path: &str) -> String {
    let html = std::fs::read_to_string(w.root.join(path)).unwrap();
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "<link"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(!w.root.join(path).with_extension("tmp").exists());
    html
}

#[test]
fn a_report_shows_the_tasks_and_their_answers() {
    let w = World::new();
    let hostile = "</pre><script>alert(1)</script>\u{1b}[2J<img onerror=x>";
    let item = |i: usize, name: &str| {
        serde_json::json!({"country": name, "answers": ["a", "b", "c"], "right": i % 3}).to_string() + "\n"
    };
    let items: String = (0..6).map(|i| item(i, if i == 1 { "</pre><script>" } else { "X" })).collect();
    std::fs::write(w.root.join("capitals.jsonl"), items).unwrap();
    let (task, _) = example();
    std::fs::write(w.root.join("capitals.toml"), task.replace("What is the capital of", "?")).unwrap();
    let written = "name = 'written'\nkind = 'generate'\ndata = ['written.jsonl']\nprompt = '{{ text }}'\n\
                   target = 'x'\nmetrics = ['exact_match']\ngenerate = { max_tokens = 2 }";
    std::fs::write(w.root.join("written.toml"), written).unwrap();
    std::fs::write(w.root.join("written.jsonl"), serde_json::json!({"text": hostile}).to_string() + "\n").unwrap();
    let tasks = ["--checkpoint", "run", "--tasks", "capitals.toml,written.toml", "--task-data", "."];
    let plain = w.ok("eval", &tasks);
    let more = ["--output", "out", "--report", "pages/tasks.html"];
    let (code, out, said) = w.run("eval", &[&tasks[..], &more].concat());
    assert!(code == 0 && said.contains("report: pages/tasks.html"), "{said}");
    assert_eq!(out, plain, "counting the load changes no number");
    let html = page(&w, "pages/tasks.html");
    for part in [
        "run/step-00000002",
        "capitals · acc_norm",
        "written · exact_match",
        "<td class=\"number\">0.3333</td>",
        "95 % intervals",
        "ECE 0.",
        "Expert load",
        "layer 1</text>",
        "6 items",
        "capitals by acc",
        "&lt;/pre&gt;&lt;script&gt;",
        "alert(1)&lt;/script&gt;\\u{1b}[2J&lt;img onerror=x&gt;",
        "log-likelihood",
    ] {
        assert!(html.contains(part), "{part}");
    }
    // The load that is kept: in a layer with experts every token goes to some of them.
    let read = |path: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(w.root.join(path)).unwrap()).unwrap()
    };
    let load = read("out/load_capitals.json");
    let chosen = read("run/step-00000002/config.json")["num_experts_per_tok"].as_u64().unwrap();
    let counted = &load["counted"];
    let sum: u64 = counted["load"]["layers"]["1"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(sum, chosen * counted["load"]["tokens"].as_u64().unwrap(), "{load}");
    assert_eq!(counted["items"].as_array().unwrap().len(), 6);
    // Everything is known, and the page is the same but for its date and time.
    let body = |html: &str| html[html.find("<h2>Scores").unwrap()..].to_owned();
    w.ok("eval", &[&tasks[..], &more].concat());
    assert_eq!(body(&page(&w, "pages/tasks.html")), body(&html));
    // Without the load of earlier answers the page says of which items it is.
    std::fs::remove_file(w.root.join("out/load_capitals.json")).unwrap();
    w.ok("eval", &[&tasks[..], &more].concat());
    let html = page(&w, "pages/tasks.html");
    assert!(html.contains("<b>capitals</b>: the load of 6 items is not counted"), "nothing is silently left out");
}

#[test]
fn all_checkpoints_of_a_run_are_measured() {
    let w = World::new();
    let (task, items) = example();
    std::fs::write(w.root.join("capitals.toml"), task).unwrap();
    std::fs::write(w.root.join("capitals.jsonl"), &items).unwrap();
    let more = ["--set", "train.steps=6", "--set", "checkpoint.every_steps=2", "--set", "checkpoint.keep=9"];
    w.ok("train", &w.training("long", &more));
    std::fs::create_dir(w.root.join("long/step-00000009")).unwrap();
    let own = ["--tasks", "capitals.toml", "--task-data", ".", "--limit", "1"];
    let all = ["--checkpoint", "long", "--all-checkpoints", "--output", "out", "--report", "page.html", "--json"];
    let (code, out, said) = w.run("eval", &[&own[..], &all].concat());
    assert!(code == 1 && said.contains("passing over long/step-00000009"), "{said}");
    assert!(said.contains("1 of 4 checkpoints of long are damaged and were not measured"), "{said}");
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["source"]["passed_over"], serde_json::json!([]));
    let newest = ["--checkpoint", "long", "--json"];
    let newest: serde_json::Value = serde_json::from_str(&w.ok("eval", &[&own[..], &newest].concat())).unwrap();
    assert!(newest["source"]["passed_over"][0].as_str().unwrap().contains("long/step-00000009"), "{newest}");
    let steps: Vec<u64> = lines.iter().filter_map(|line| line["source"]["step"].as_u64()).collect();
    assert_eq!(steps, [2, 4, 6]);
    assert_eq!(lines[3]["checkpoint"], "long/step-00000009");
    assert!(lines[3]["error"].as_str().unwrap().contains("manifest.json"), "{out}");
    for step in steps {
        assert!(w.root.join(format!("out/step-{step:08}/results.json")).is_file());
    }
    let html = page(&w, "page.html");
    for part in
        ["Over the run", "capitals: acc, acc_norm over tokens", "<td class=\"number\">768</td>", "long/step-00000006"]
    {
        assert!(html.contains(part), "{part}");
    }
    // One whose sizes are right and whose bytes are not; without damaged ones there is nothing to complain of.
    std::fs::remove_dir(w.root.join("long/step-00000009")).unwrap();
    let every = ["--checkpoint", "long", "--all-checkpoints", "--json"];
    w.ok("eval", &[&own[..], &every].concat());
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    w.damaged("long/step-00000004/model.safetensors", flip, || {
        let (code, out, said) = w.run("eval", &[&own[..], &every].concat());
        assert!(code == 1 && out.lines().count() == 3 && said.contains("long/step-00000004"), "{out}{said}");
        let damaged: serde_json::Value = serde_json::from_str(out.lines().nth(1).unwrap()).unwrap();
        assert!(damaged["error"].as_str().unwrap().contains("long/step-00000004/model.safetensors"), "{damaged}");
    });
    let fails = |more: &[&str], code: i32, words: &[&str]| w.fails("eval", &[&own[..], more].concat(), code, words);
    fails(&["--checkpoint", "long/step-00000002", "--all-checkpoints"], 1, &["holds no checkpoint"]);
    fails(&["--checkpoint", "long", "--all-checkpoints", "--data", "data"], 2, &["--tasks alone"]);
    for option in [&["--all-checkpoints"][..], &["--report", "x.html"]] {
        w.fails("eval", &[&["--checkpoint", "run", "--data", "data"], option].concat(), 2, &["need --tasks"]);
    }
    // What is wrong with the page is said before anything is read.
    fails(&["--checkpoint", "gone", "--report", "data"], 2, &["--report data: is a folder"]);
    fails(&["--checkpoint", "gone", "--report", "text.txt/page.html"], 1, &["text.txt"]);
}

/// Programs run only with leave, and where the system has what their limits need.
#[test]
fn programs_are_run_with_limits() {
    let w = World::new();
    let items =
        [("right", "return a + b"), ("wrong", "return a - b"), ("raises", "raise ValueError"), ("exits", "exit()")];
    let line = |(name, body): (&str, &str)| {
        let test = "def check(f):\n    assert f(2, 3) == 5";
        serde_json::json!({"name": name, "prompt": "def add(a, b):\n    ", "body": body, "test": test}).to_string()
            + "\n"
    };
    std::fs::write(w.root.join("add.jsonl"), items.map(line).concat()).unwrap();
    let task = "name = 'add'\nkind = 'generate'\ndata = ['add.jsonl']\nprompt = '{{ prompt }}'\ntarget = ''\n\
                program = \"{{ prompt }}{{ body }}\\n{{ test }}\\ncheck(add)\"\nmetrics = ['pass@1', 'pass@2']\n\
                generate = { max_tokens = 2, samples = 2 }";
    std::fs::write(w.root.join("add.toml"), task).unwrap();
    let arguments = ["--checkpoint", "run", "--tasks", "add.toml", "--task-data", ".", "--json"];
    w.fails("eval", &arguments, 2, &["--confirm-run-unsafe-code"]);
    let allowed = [&arguments[..], &["--confirm-run-unsafe-code"]].concat();
    let (code, out, err) = w.run("eval", &allowed);
    if code == 1 && err.contains("cannot be run with limits") {
        println!("passed over: {err}");
        return;
    }
    let read = |out: &str| serde_json::from_str::<serde_json::Value>(out).unwrap()["results"]["add"].clone();
    // Seconds pass also while a machine does something else: a program that was ended for that gets another run.
    let result = if read(&out)["pass@1,none"] == 0.25 { read(&out) } else { read(&w.ok("eval", &allowed)) };
    assert_eq!((&result["pass@1,none"], &result["pass@2,none"]), (&0.25.into(), &0.25.into()), "{result}");
}

#[test]
fn what_does_not_fit_a_task_is_named() {
    let w = World::new();
    let (task, items) = example();
    std::fs::write(w.root.join("capitals.toml"), &task).unwrap();
    std::fs::write(w.root.join("capitals.jsonl"), &items).unwrap();
    let fails = |more: &[&str], code: i32, words: &[&str]| {
        w.fails("eval", &[&["--checkpoint", "run"], more].concat(), code, words);
    };
    let own = ["--tasks", "capitals.toml", "--task-data", "."];
    fails(&["--tasks", "capitols"], 2, &["no such task", "hellaswag"]);
    fails(&["--tasks", "piqa"], 2, &["--task-data", "piqa_val.jsonl"]);
    fails(&["--tasks", "piqa", "--task-data", "."], 2, &["no file of items", "piqa_val.jsonl", "piqa=FILE"]);
    fails(&["--tasks", "piqa", "--task-data", "piqa=no.jsonl"], 2, &["no.jsonl"]);
    fails(&["--task-data", "."], 2, &["nothing to do"]);
    fails(&["--tasks", "piqa", "--cache", "fp8"], 2, &["--cache: is for --data and --score"]);
    fails(&["--data", "data", "--num-fewshot", "1"], 2, &["need --tasks"]);
    fails(&[&own[..], &["--num-fewshot", "2"]].concat(), 2, &["capitals.jsonl has only 2 examples"]);
    for (line, words) in [
        (r#"{"answers": ["a"], "right": 0}"#, "no field country"),
        (r#"{"country": "X", "answers": [], "right": 0}"#, "list of choices is empty"),
        (r#"{"country": "X", "answers": ["a"], "right": 1}"#, "the label \"1\""),
        ("{", "not a JSON object"),
    ] {
        std::fs::write(w.root.join("capitals.jsonl"), format!("{items}{line}\n")).unwrap();
        fails(&own, 1, &["capitals.jsonl:3: ", words]);
    }
    // What a second task stumbles over is said before the first is computed.
    std::fs::write(w.root.join("capitals.jsonl"), &items).unwrap();
    std::fs::write(w.root.join("long.jsonl"), format!("{{\"prompt\": \"p\", \"target\": \"{}\"}}\n", "y".repeat(80)))
        .unwrap();
    let text = "name = 'long'\nkind = 'text'\ndata = ['long.jsonl']\nprompt = '{{ prompt }}'\n\
                target = '{{ target }}'\nmetrics = ['acc']\n";
    std::fs::write(w.root.join("long.toml"), text).unwrap();
    let both = ["--tasks", "capitals.toml,long.toml", "--task-data", ".", "--output", "both"];
    fails(&both, 1, &["long.jsonl:1: ", "80 tokens", "context is 64"]);
    assert!(!w.root.join("both/samples_capitals.jsonl").exists());
    let programs = text.replace("'text'", "'generate'").replace("'acc'", "'pass@1'")
        + "program = '{{ answer }}{{ tests }}'\ngenerate = { max_tokens = 2 }\n";
    std::fs::write(w.root.join("long.toml"), programs).unwrap();
    let allowed = [&both[..], &["--confirm-run-unsafe-code"]].concat();
    fails(&allowed, 1, &["long.jsonl:1: ", "no field tests"]);
    fails(&[&own[..], &["--tasks", ","]].concat()[2..], 2, &["--tasks: names no task"]);
    fails(&[&own[..], &["--task-data", "capitols=x"]].concat(), 2, &["no task capitols is measured", "is capitals"]);
    fails(&[&own[..], &["--fewshot-data", "x=y"]].concat(), 2, &["--fewshot-data x=y: no task x is measured"]);
    let long = format!("{{\"country\": \"X\", \"answers\": [\"{}\"], \"right\": 0}}\n", "y".repeat(80));
    std::fs::write(w.root.join("capitals.jsonl"), long).unwrap();
    fails(&own, 1, &["capitals.jsonl:1: ", "81 tokens", "context is 64"]);
    std::fs::write(w.root.join("bad.toml"), task.replace("target", "targets")).unwrap();
    fails(&["--tasks", "bad.toml", "--task-data", "."], 2, &["bad.toml", "targets"]);
    std::fs::write(w.root.join("HumanEval.jsonl"), "{}\n").unwrap();
    fails(&["--tasks", "humaneval", "--task-data", "."], 2, &["--confirm-run-unsafe-code"]);
}

/// The scores in `metrics.jsonl` are those that `eval` gives of the checkpoint.
#[test]
fn training_measures_what_eval_measures() {
    let w = World::new();
    let (task, items) = example();
    std::fs::write(w.root.join("capitals.toml"), task).unwrap();
    std::fs::write(w.root.join("capitals.jsonl"), items.repeat(3)).unwrap();
    let of = ["--set", "eval.tasks=capitals.toml", "--set", "eval.task_data=[\".\"]", "--set", "eval.num_fewshot=1"];
    w.ok("train", &w.training("with", &of));
    let row = std::fs::read_to_string(w.root.join("with/metrics.jsonl")).unwrap();
    let row: serde_json::Value = serde_json::from_str(row.lines().last().unwrap()).unwrap();
    let arguments = ["--checkpoint", "with", "--tasks", "capitals.toml", "--task-data", ".", "--num-fewshot", "1"];
    let results = w.ok("eval", &[&arguments[..], &["--json"]].concat());
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let scores = row["tasks"]["capitals"].as_object().unwrap();
    assert_eq!(scores.len(), 4, "{scores:?}");
    for (key, score) in scores {
        assert_eq!(*score, results["results"]["capitals"][key], "{key}");
    }
    // Another folder to work in changes nothing.
    let text = std::fs::read_to_string(w.root.join("with/config.resolved.toml")).unwrap();
    assert!(text.contains(&format!("[\"{}\"]", w.root.join("capitals.toml").display())), "{text}");
    let plan = w.ok("train", &[&["--plan"], &w.training("with", &of)[2..]].concat());
    assert!(plan.contains("% of that  1 times 6 items, at most "), "{plan}");
    let compared = w.ok("fathom", &["compare", "run", "with"]);
    assert!(compared.contains("capitals acc, last"), "{compared}");
}

/// What is wrong with tasks is said before the first step.
#[test]
fn training_checks_its_tasks_first() {
    let w = World::new();
    let (task, items) = example();
    std::fs::write(w.root.join("capitals.toml"), &task).unwrap();
    std::fs::write(w.root.join("capitals.jsonl"), format!("{items}{{\"country\": \"X\"}}\n")).unwrap();
    std::fs::write(w.root.join("bad.toml"), task.replace("target", "targets")).unwrap();
    std::fs::write(w.root.join("HumanEval.jsonl"), "{}\n").unwrap();
    let here = "eval.task_data=.";
    for (sets, code, words) in [
        (&["eval.tasks=capitols"][..], 2, &["eval.tasks capitols: no such task"][..]),
        (&["eval.task=piqa"], 2, &["did you mean `eval.tasks`?"]),
        (&["eval.tasks=piqa"], 2, &["eval.task_data=[\"FOLDER\"]"]),
        (&["eval.tasks=piqa", here], 2, &["no file of items", "eval.task_data=[\"piqa=FILE\"]"]),
        (&["eval.tasks=piqa", "eval.task_data=piqa=no.jsonl"], 2, &["no.jsonl"]),
        (&["eval.tasks=bad.toml", here], 2, &["bad.toml", "targets"]),
        (&["eval.tasks=capitals.toml", here], 1, &["capitals.jsonl:3: "]),
        (&["eval.tasks=capitals.toml", here, "eval.limit=2", "eval.num_fewshot=3"], 2, &["eval.num_fewshot 3: "]),
        (&["eval.tasks=humaneval", here], 2, &["eval.confirm_run_unsafe_code=true"]),
        (&["eval.fewshot_data=x"], 2, &["`eval.fewshot_data` is \"x\": it must be TASK=FILE"]),
    ] {
        let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        w.fails("train", &w.training("new", &more), code, words);
    }
    assert!(!w.root.join("new/metrics.jsonl").exists());
}

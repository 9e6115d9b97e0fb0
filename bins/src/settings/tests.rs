//! Tests of the settings: errors with their places, defaults, and the resolved configuration.

use super::*;

fn parse(text: &str, sets: &[&str]) -> Result<Settings, SettingsError> {
    let mut source = Source::default();
    source.add_file(Path::new("run.toml"), text)?;
    for set in sets {
        source.add_set(set)?;
    }
    Settings::new(source)
}

fn fails(text: &str, sets: &[&str]) -> String {
    parse(text, sets).expect_err("the settings are wrong").to_string()
}

#[test]
fn every_mistake_is_named_with_its_place_and_what_belongs_there() {
    let table: &[(&str, &[&str], &str)] = &[
        ("[train]\nstep = 5\n", &[], "run.toml:2: unknown key `train.step`; did you mean `train.steps`?"),
        ("train.steps = 5\n\nfoo.bar = 1\n", &[], "run.toml:3: unknown key `foo.bar`"),
        ("[nothing]\n", &[], "run.toml:1: unknown key `nothing`"),
        ("", &["schedule.warmup=3"], "--set schedule.warmup=3: unknown key `schedule.warmup`"),
        (
            "",
            &["model.hiden_size=3"],
            "--set model.hiden_size=3: unknown key `model.hiden_size`; did you mean `model.hidden_size`?",
        ),
        (
            "[input]\ntext_feild = \"t\"\n",
            &[],
            "run.toml:2: unknown key `input.text_feild`; did you mean `input.text_field`?",
        ),
        (
            "[train]\n\nsteps = \"many\"\n",
            &[],
            "run.toml:3: `train.steps` must be a whole number, 0 or more, found \"many\" (string)",
        ),
        ("", &["train.steps=-1"], "`train.steps` must be a whole number, 0 or more, found -1 (integer)"),
        ("", &["train.beta1=nan"], "`train.beta1` must be a number, 0 or more"),
        ("", &["train.beta1=1.0"], "`train.beta1` is 1: it must be below 1"),
        ("", &["data.shuffle=yes"], "`data.shuffle` must be true or false, found \"yes\" (string)"),
        ("", &["train.precision=f8"], "`train.precision` must be one of f32, bf16, fp8, found \"f8\" (string)"),
        ("", &["schedule.decay=linear"], "`schedule.decay` must be one of constant, cosine, v3, step"),
        ("train = 3\n", &[], "run.toml:1: unknown key `train`"),
        ("[train\nsteps = 1\n", &[], "run.toml:1: not valid TOML"),
        ("a = 1\n[train]\nsteps = = 1\n", &[], "run.toml:3: not valid TOML"),
        ("", &["train.steps"], "--set train.steps: expected key=value"),
        ("", &["=3"], "--set =3: expected key=value"),
        ("", &["eval.task=piqa"], "--set eval.task=piqa: unknown key `eval.task`; did you mean `eval.tasks`?"),
        ("", &["eval.tasks=[1]"], "`eval.tasks` must be a list of texts"),
        ("[eval]\n\nfewshot_data = \"x\"\n", &[], "run.toml:3: `eval.fewshot_data` is \"x\": it must be TASK=FILE"),
        ("", &["train.steps=0"], "`train.steps` is 0: it must be at least 1"),
        ("", &["train.batch_size=0"], "`train.batch_size` is 0: it must be between 1 and"),
        (
            "[train]\nbatch_size = 12\nmicro_batch_size = 5\n",
            &[],
            "run.toml:3: `train.micro_batch_size` is 5, which does not divide train.batch_size = 12",
        ),
        (
            "",
            &["train.sequence_length=513"],
            "`train.sequence_length` is 513, longer than the model's context, model.max_position_embeddings = 512",
        ),
        ("train.steps = 1\ntrain.tokens = 1\n", &[], "run.toml:2: `train.tokens` and train.steps are both given"),
        ("", &["model.preset=huge"], "`model.preset` is `huge`, which is no preset; use one of tiny, small"),
        (
            "[model]\nhidden_size = 128\nn_group = 3\n",
            &[],
            "run.toml:3: model.n_routed_experts = 16: must be a multiple of n_group = 3",
        ),
        ("", &["model.hidden_size=wide"], "--set model.hidden_size=wide: model.hidden_size"),
        ("", &["train.init=/nowhere/at/all"], "--set train.init=/nowhere/at/all: `train.init` cannot be used"),
        (
            "",
            &["schedule.warmup_tokens=100000000000", "schedule.decay=cosine"],
            "`schedule.warmup_tokens` does not fit",
        ),
        ("", &["schedule.batch_start=33"], "`schedule.batch_start` is 33: it must be at most train.batch_size = 32"),
        ("", &["output.validation_fraction=1"], "`output.validation_fraction` is 1: it must be below 1"),
        (
            "",
            &["tokenizer.path=bytes", "tokenizer.vocab_size=300"],
            "`tokenizer.vocab_size` and tokenizer.path are both given",
        ),
        (
            "[data.sources.web]\npath = \"a\"\nwieght = 2\n",
            &[],
            "run.toml:3: unknown key `data.sources.web.wieght`; did you mean `data.sources.NAME.weight`?",
        ),
        (
            "[data.sources.web]\nweight = 2\n",
            &[],
            "run.toml:2: `data.sources.web.weight` is set, but data.sources.web.path",
        ),
        (
            "",
            &["data.sources.web.path=a", "data.sources.web.epochs=0"],
            "`data.sources.web.epochs` is 0: it must be above",
        ),
        ("", &["data.sources.web.path=3"], "`data.sources.web.path` must be a path, found 3 (integer)"),
        ("[data]\npath = \"a\"\n", &["data.sources.web.path=b"], "`data.path` and data.sources are both given"),
        ("", &["data.packing=tight"], "`data.packing` must be one of concatenate, best_fit"),
        ("", &["checkpoint.keep=0"], "`checkpoint.keep` is 0: it must be between 1"),
        ("", &["checkpoint.keep_best=best"], "`checkpoint.keep_best` must be one of none, saved, always"),
        ("", &["checkpoint.keep_best=always", "train.eval_every=0"], "needs a validation loss to compare"),
    ];
    for (text, sets, expected) in table {
        let message = fails(text, sets);
        assert!(message.contains(expected), "{text:?} {sets:?}\n  said {message}\n  not  {expected}");
    }
}

#[test]
fn a_later_set_wins_and_text_needs_no_quotes() {
    let text = "[train]\nsteps = 5\n[data]\npath = \"a\"\n";
    let settings =
        parse(text, &["train.steps=6", "train.steps = 7", "data.path=some/where else", "schedule.lr=1"]).unwrap();
    assert_eq!(settings.train.length, Length::Steps(7));
    assert_eq!(settings.data.path.as_deref(), Some(Path::new("some/where else")));
    assert_eq!(settings.schedule().unwrap().at(0).lr, 1.0);
}

#[test]
fn a_switch_takes_a_word_or_a_flag_and_is_written_as_a_word() {
    let keep = |set: &str| {
        let settings = parse("", &[set]).unwrap();
        (settings.checkpoint.keep_best, settings.resolved("checkpoint.keep_best").unwrap().as_str().unwrap().to_owned())
    };
    assert_eq!(keep("train.seed=1"), (KeepBest::Saved, "saved".into()));
    for (set, mode, word) in [
        ("true", KeepBest::Always, "always"),
        ("false", KeepBest::None, "none"),
        ("none", KeepBest::None, "none"),
        ("saved", KeepBest::Saved, "saved"),
    ] {
        assert_eq!(keep(&format!("checkpoint.keep_best={set}")), (mode, word.into()), "{set}");
    }
}

#[test]
fn a_set_takes_the_place_of_the_other_way_to_say_it_in_a_file() {
    let text = "[train]\ntokens = 5\n[tokenizer]\npath = \"bytes\"\n";
    let settings = parse(text, &["train.steps=7", "tokenizer.vocab_size=300"]).unwrap();
    assert_eq!(settings.train.length, Length::Steps(7));
    assert_eq!((settings.prep.tokenizer.path, settings.prep.tokenizer.vocab_size), (None, Some(300)));
    assert!(fails("", &["train.steps=7", "train.tokens=5"]).contains("are both given"));
}

#[test]
fn a_set_cannot_smuggle_in_a_second_key() {
    let settings = parse("", &["data.path=1\nvalue2 = 3"]).expect("a text with a line break is a text");
    assert_eq!(settings.data.path.as_deref(), Some(Path::new("1\nvalue2 = 3")));
}

#[test]
fn fields_of_the_model_are_laid_over_a_preset_and_heads_have_one_number() {
    let sets =
        ["model.preset=tiny", "model.num_attention_heads=2", "model.hidden_size=64", "model.rope_scaling.factor=4"];
    let text = "[model.rope_scaling]\ntype = \"yarn\"\noriginal_max_position_embeddings = 128\n";
    let model = parse(text, &sets).unwrap().model;
    assert_eq!((model.num_attention_heads, model.num_key_value_heads, model.hidden_size), (2, 2, 64));
    let yarn = model.rope_scaling.expect("yarn is on");
    assert_eq!((yarn.factor, yarn.original_max_position_embeddings), (4.0, 128));
    let without = parse("", &["model.preset=v3-671b", "model.rope_scaling=none"]).unwrap().model;
    assert_eq!(without.rope_scaling, None);
}

#[test]
fn the_resolved_configuration_resolves_to_itself() {
    for sets in [
        &["train.tokens=100000", "schedule.decay=cosine", "model.preset=v3-671b"][..],
        &[
            "train.steps=3",
            "data.path=x",
            "train.batch_size=12",
            "schedule.batch_start=6",
            "schedule.batch_ramp_tokens=9000",
        ],
        &["model.q_lora_rank=0", "schedule.mtp_late_tokens=5", "schedule.mtp_weight_late=0.1"],
        &["data.packing=best_fit", "data.sources.web.path=a", "data.sources.web.weight=3", "data.sources.Code.path=b"],
    ] {
        let first = parse("", sets).unwrap();
        let text = first.to_toml();
        let second = parse(&text, &[]).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(second.to_toml(), text);
        assert_eq!(second.model, first.model);
        assert_eq!(second.schedule().unwrap(), first.schedule().unwrap());
        assert_eq!(second.budget().unwrap(), first.budget().unwrap());
    }
}

#[test]
fn sources_have_names_of_the_users_choice() {
    let text =
        "[data.sources.web]\npath = \"a\"\nweight = 3\n[data.sources.code]\npath = \"b\"\nweight = 1.5\nepochs = 2\n";
    let data = parse(text, &["data.sources.web.weight=4"]).unwrap().data;
    let source = |name: &str, path: &str, weight, epochs| DataSource {
        name: name.into(),
        path: path.into(),
        weight: Some(weight),
        epochs,
    };
    assert_eq!(data.sources, [source("code", "b", 1.5, Some(2.0)), source("web", "a", 4.0, None)]);
    assert!(parse("", &["data.sources.a.b.path=x"]).is_err(), "a name has no dots");
}

#[test]
fn where_the_decay_ends_is_part_of_what_a_run_resolved_to() {
    let falling = parse("", &["schedule.decay=cosine", "train.steps=10"]).unwrap();
    let longer = parse(&falling.to_toml(), &["train.steps=20"]).unwrap();
    assert_eq!(longer.schedule().unwrap(), falling.schedule().unwrap());
    let even = parse("", &["train.steps=10"]).unwrap();
    assert!(even.resolved("schedule.decay_tokens").is_none(), "a constant rate has no end");
}

#[test]
fn the_micro_batch_is_the_largest_divisor_up_to_eight() {
    for (batch, micro) in [(32, 8), (12, 6), (7, 7), (11, 1), (1, 1), (9, 3)] {
        let settings = parse("", &[&format!("train.batch_size={batch}")]).unwrap();
        assert_eq!(settings.train.micro_batch_size, micro, "batch {batch}");
    }
}

#[test]
fn a_growing_batch_takes_more_steps_for_the_same_tokens() {
    let base = ["train.batch_size=8", "train.micro_batch_size=2", "train.sequence_length=10", "train.tokens=8000"];
    let even = parse("", &base).unwrap();
    assert_eq!(even.budget().unwrap(), (8000, 100));
    let mut growing = base.to_vec();
    growing.extend(["schedule.batch_start=2", "schedule.batch_ramp_tokens=400"]);
    let growing = parse("", &growing).unwrap();
    let (tokens, steps) = growing.budget().unwrap();
    assert!((8000..8080).contains(&tokens) && steps > 100, "{tokens} tokens in {steps} steps");
    let schedule = growing.schedule().unwrap();
    let mut seen = 0;
    for _ in 0..steps {
        seen += schedule.step_tokens(seen);
    }
    assert_eq!(seen, tokens, "the budget is what the schedule adds up to");
}

#[test]
fn a_batch_that_grows_for_longer_than_can_be_counted_is_refused_soon() {
    let sets = ["train.batch_size=2", "schedule.batch_start=1", "train.sequence_length=1", "train.micro_batch_size=1"];
    let ramp = |tokens: u64| format!("schedule.batch_ramp_tokens={tokens}");
    let with = |tokens: u64| {
        let ramp = ramp(tokens);
        let sets: Vec<&str> = sets.into_iter().chain(["train.tokens=9223372036854775807", &ramp]).collect();
        parse("", &sets).map(|settings| settings.budget().unwrap())
    };
    let error = with(i64::MAX as u64).unwrap_err().to_string();
    assert!(error.contains("batch_ramp_tokens") && error.contains("shorten its growth"), "{error}");
    assert!(with(1 << 20).unwrap().1 > 1 << 19);
}

#[test]
fn every_default_in_the_table_is_the_default_in_force() {
    let settings = parse("", &[]).unwrap();
    for key in keys::KEYS {
        let Some(stated) = toml::from_str::<toml::Table>(&format!("v = {}", key.default)).ok() else { continue };
        let Some(value) = settings.resolved(key.name) else { continue };
        let number = |value: &Value| value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        let stated = &stated["v"];
        assert!(number(stated) == number(value) || stated == value, "{}: stated {stated}, is {value}", key.name);
    }
}

#[test]
fn the_published_schedule_can_be_written_as_a_configuration() {
    let text = include_str!("../../../configs/v3-671b.toml");
    let settings = parse(text, &[]).unwrap();
    let (ours, published) = (settings.schedule().unwrap(), Schedule::v3());
    for at in
        [0, 1_000_000_000, 27_800_000_000, 200_000_000_000, 469_000_000_000, 9_990_000_000_000, 12_000_000_000_000]
    {
        let (a, b) = (ours.at(at), published.at(at));
        assert!((a.lr - b.lr).abs() <= 1e-3 * b.lr, "lr at {at}: {} and {}", a.lr, b.lr);
        assert!(a.batch_size.abs_diff(b.batch_size) < 64, "batch at {at}: {} and {}", a.batch_size, b.batch_size);
        assert_eq!(
            (a.bias_speed, a.mtp_weight, a.balance_alpha),
            (b.bias_speed, b.mtp_weight, b.balance_alpha),
            "{at}"
        );
    }
    let late = ours.at(14_500_000_000_000);
    assert_eq!((late.bias_speed, late.mtp_weight), (0.0, 0.1));
}

#[test]
fn tasks_are_a_list_or_a_text_with_commas() {
    let lists = ["[eval]\ntasks = [\"a\", \"b,c\"]\n", "eval.tasks = \"a, b,c\"\n"];
    for text in lists {
        let eval = parse(text, &["checkpoint.every_steps=7"]).unwrap().eval;
        assert_eq!((&eval.tasks[..], eval.every_steps), (&["a", "b", "c"].map(String::from)[..], 7));
        assert_eq!([0, 6, 7, 10].map(|step| eval.due(step, 10)), [false, false, true, true]);
    }
    let end = parse(lists[0], &["eval.every_steps=0"]).unwrap().eval;
    assert_eq!([7, 10].map(|step| end.due(step, 10)), [false, true]);
    assert!(!parse("", &[]).unwrap().eval.due(10, 10));
}

//! Tests of the tokenizers.

use super::train::{WordCounter, train_bpe};
use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

const MIXED: &str = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n\
    fn main() { println!(\"{:>8.3}\", 3.14159 * 1_000_000.0); }\r\n\tlet x2 = a[12345] << 0xff;\n\
    今天天气很好。すばらしい カタカナ 漢字かな混じり文 한국어 テスト１２３\n\
    naïve café — “quotes” … e\u{301} 👩‍👩‍👧‍👦 🏳️‍🌈 🙂🙂  \u{a0} \u{200b}|\n    it's, they'll   \n\n\n 7 77 777 7777 Ⅷ ½ ٣٤٥\n";

/// A text with something of everything, and repeats to merge.
fn corpus() -> Vec<String> {
    (0..40).map(|i| format!("{MIXED} the theme of them, then there {i} {} ", "anthem ".repeat(i % 5))).collect()
}

fn trained() -> Tokenizer {
    static TRAINED: LazyLock<Tokenizer> =
        LazyLock::new(|| train_bpe(corpus().into_iter().map(Ok), 480, 1 << 20).unwrap());
    TRAINED.clone()
}

/// The general implementation, reading what we write.
fn oracle(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(&tokenizer.inner.json).unwrap()
}

fn from_value(json: &Value) -> Result<Tokenizer> {
    Tokenizer::from_json(pretty(json), None, None, Path::new("test.json"))
}

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = tokenizer.stream_decoder();
    let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text.push_str(&decoder.finish());
    text
}

/// A tokenizer the fast encoder does not cover: words and prefix spaces, as in SentencePiece models.
fn metaspace() -> Tokenizer {
    let pieces = ["<unk>", "</s>", "▁", "a", "b", "▁a", "ab", "▁ab", "<0xE4>", "<0xBB>", "<0x8A>"];
    let vocab: serde_json::Map<_, _> =
        pieces.iter().zip(0..).map(|(p, id): (_, u32)| (p.to_string(), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [byte_level::special_token(1, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["a b", "▁ ab", "▁ a"]},
    });
    from_value(&json).unwrap()
}

#[test]
fn bytes_are_their_own_ids() {
    let bytes = Tokenizer::bytes();
    assert_eq!((bytes.vocab_size(), bytes.eos_id()), (257, 256));
    assert_eq!(bytes.encode_ordinary(b"a\xff<|endoftext|>").unwrap()[..3], [97, 255, 60]);
    assert_eq!(bytes.encode("a<|endoftext|>b").unwrap(), [97, 256, 98]);
    assert_eq!(bytes.decode(&[104, 105, 256, 9999]), "hi");
    assert_eq!(bytes.byte_len(&[0xe4, 256, 1]), 2);
}

#[test]
fn the_byte_tokenizer_is_a_tokenizer_json_too() {
    let bytes = Tokenizer::bytes();
    let general = oracle(&bytes);
    let text = format!("{MIXED}<|endoftext|>x");
    assert_eq!(general.encode_fast(text.as_str(), false).unwrap().get_ids(), bytes.encode(&text).unwrap());
    let dir = tempfile::tempdir().unwrap();
    bytes.save(dir.path()).unwrap();
    let loaded = Tokenizer::load(dir.path()).unwrap();
    assert!(loaded.is_bytes());
    assert_eq!(loaded.fingerprint(), bytes.fingerprint());
}

#[test]
fn training_gives_what_the_general_implementation_reads_alike() {
    let ours = trained();
    let general = oracle(&ours);
    assert_eq!((ours.vocab_size(), ours.eos_id(), ours.bos_id()), (480, 1, Some(0)));
    assert!(matches!(ours.inner.kind, Kind::Bpe(_)), "trained tokenizers take the fast path");
    let long = format!("{MIXED}{}{}", "anthem".repeat(500), " ".repeat(3000));
    let ids = general.encode_fast(long.as_str(), false).unwrap().get_ids().to_vec();
    assert_eq!(ours.encode(&long).unwrap(), ids);
    assert_eq!(ours.decode(&ids), long);
    assert_eq!(ours.byte_len(&ids), long.len() as u64);
    assert!(ids.len() * 2 < long.len(), "{} tokens for {} bytes", ids.len(), long.len());
}

#[test]
fn special_tokens_count_in_prompts_and_not_in_documents() {
    let ours = trained();
    let text = "a<｜end▁of▁sentence｜>b";
    assert_eq!(ours.encode(text).unwrap().iter().filter(|&&id| id == 1).count(), 1);
    let ids = ours.encode_ordinary(text.as_bytes()).unwrap();
    assert!(!ids.contains(&1));
    assert_eq!(ours.decode(&ids), text);
    let mut general = oracle(&ours);
    general.set_encode_special_tokens(true);
    assert_eq!(general.encode_fast(text, false).unwrap().get_ids(), ids);
}

#[test]
fn training_does_not_depend_on_threads_or_order_of_equal_batches() {
    let make = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            // A limit below the number of distinct words, so that forgetting is part of what must agree.
            let mut counter = WordCounter::new(1);
            let many: Vec<String> =
                (0..3000).map(|i| format!("word{} common rare{i}", (b'a' + (i % 26) as u8) as char)).collect();
            for part in many.chunks(700) {
                let words: Vec<String> = part.iter().map(|w| w.replace(|c: char| c.is_ascii_digit(), "q")).collect();
                counter.count(&words).unwrap();
                counter.count(part).unwrap();
            }
            for text in corpus() {
                counter.count(&[text]).unwrap();
            }
            counter.train(500).unwrap()
        })
    };
    let one = make(1);
    assert_eq!(one.inner.json, make(2).inner.json);
    assert_eq!(one.inner.json, make(5).inner.json);
    assert_ne!(one.fingerprint(), trained().fingerprint());
}

/// The general implementation's trainer, with our alphabet, special tokens and split.
fn trained_in_general(texts: &[String], vocab_size: usize) -> Value {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    let specials = train::SPECIAL_TOKENS.map(|name| tokenizers::AddedToken::from(name, true));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens(specials.into())
        .initial_alphabet(byte_level::alphabet().into_iter().collect())
        .build();
    let splitter: tokenizers::PreTokenizerWrapper = serde_json::from_value(split::deepseek_json()).unwrap();
    let mut tokenizer = tokenizers::TokenizerBuilder::<
        BPE,
        tokenizers::NormalizerWrapper,
        tokenizers::PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(splitter))
    .build()
    .unwrap();
    tokenizer.train(&mut trainer, texts.iter().cloned()).unwrap();
    serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap()
}

#[test]
fn merges_are_those_of_the_general_trainer() {
    let source = [include_str!("train/mod.rs"), include_str!("scan.rs"), include_str!("../loader/mod.rs"), MIXED];
    for (texts, vocab_size) in [(corpus(), 480), (source.map(str::to_owned).into(), 2000)] {
        let ours = train_bpe(texts.iter().cloned().map(Ok), vocab_size, 1 << 20).unwrap();
        let ours: Value = serde_json::from_slice(&ours.inner.json).unwrap();
        let theirs = trained_in_general(&texts, vocab_size as usize);
        assert_eq!(ours["model"]["merges"], theirs["model"]["merges"]);
        assert_eq!(ours["model"]["vocab"], theirs["model"]["vocab"]);
    }
}

#[test]
fn further_special_tokens_have_ids_behind_the_usual_ones() {
    let mut counter =
        WordCounter::new(0).with_special_tokens(&crate::fim::FIM_TOKENS).with_special_tokens(&["<pad>", ""]);
    counter.count(&corpus()).unwrap();
    let tokenizer = counter.train(300).unwrap();
    assert_eq!(tokenizer.added_token("<｜fim▁hole｜>"), Some(4));
    assert_eq!(tokenizer.added_token("<pad>"), Some(6));
    assert_eq!(tokenizer.added_token("the"), None);
    assert_eq!(tokenizer.encode("<pad>!").unwrap(), [6, 7]);
    assert!(WordCounter::new(0).with_special_tokens(&["<pad>"]).train(259).is_err());
}

#[test]
fn memory_for_words_is_bounded() {
    let mut counter = WordCounter::new(2000);
    let letters = |mut n: u32| -> String {
        std::iter::repeat_with(|| {
            let c = (b'a' + (n % 26) as u8) as char;
            n /= 26;
            c
        })
        .take(5)
        .collect()
    };
    for batch in 0..20 {
        let text: String = (0..1000).map(|i| format!(" {} often", letters(batch * 1000 + i))).collect();
        counter.count(&[text]).unwrap();
        assert!(counter.words() <= 2000);
    }
    assert!(counter.uncounted().0 > 10_000);
    let tokenizer = counter.train(300).unwrap();
    assert_eq!(tokenizer.encode(" often").unwrap().len(), 1, "the frequent word survives");
}

#[test]
fn training_refuses_what_cannot_be() {
    let too_small = train_bpe([Ok("abc".to_owned())], 258, 100).unwrap_err();
    assert!(matches!(too_small, Error::Training(_)), "{too_small}");
    let nothing = train_bpe([], 300, 100).unwrap_err();
    assert!(matches!(nothing, Error::Training(_)), "{nothing}");
    let all = train_bpe([Ok("ab ab".to_owned())], 5000, 100).unwrap();
    assert!(all.vocab_size() < 270, "no more tokens than the text has pairs");
}

#[test]
fn saving_and_loading_keeps_everything() {
    let ours = trained();
    let dir = tempfile::tempdir().unwrap();
    ours.save(dir.path()).unwrap();
    let loaded = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(loaded.fingerprint(), ours.fingerprint());
    assert_eq!(loaded.entry(), ours.entry());
    assert_eq!(loaded.encode(MIXED).unwrap(), ours.encode(MIXED).unwrap());
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join(TOKENIZER_CONFIG)).unwrap()).unwrap();
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(config["eos_token"], train::SPECIAL_TOKENS[1]);
    // Layout does not change the fingerprint.
    let compact = serde_json::to_vec(&serde_json::from_slice::<Value>(&ours.inner.json).unwrap()).unwrap();
    fs::write(dir.path().join(TOKENIZER), compact).unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().fingerprint(), ours.fingerprint());
}

#[test]
fn the_end_token_is_found_or_asked_for() {
    let mut json: Value = serde_json::from_slice(&trained().inner.json).unwrap();
    json["added_tokens"][1]["content"] = "<done>".into();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    vocab.remove(train::SPECIAL_TOKENS[1]);
    vocab.insert("<done>".into(), 1.into());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(TOKENIZER);
    fs::write(&file, json.to_string()).unwrap();
    let unknown = Tokenizer::load(&file).unwrap_err();
    assert!(unknown.to_string().contains("tokenizer.eos"), "{unknown}");
    assert_eq!(Tokenizer::load_with_eos(&file, Some("<done>")).unwrap().eos_id(), 1);
    let wrong = Tokenizer::load_with_eos(&file, Some("<none>")).unwrap_err();
    assert!(wrong.to_string().contains("<none>"), "{wrong}");
    let beside = serde_json::json!({
        "eos_token": { "content": "<done>" },
        "extra": 5,
        "tokenizer_class": "GPT2Tokenizer",
        "auto_map": { "AutoTokenizer": ["tokenization.Own", null] },
    });
    fs::write(dir.path().join(TOKENIZER_CONFIG), beside.to_string()).unwrap();
    let loaded = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(loaded.eos_id(), 1);
    assert_eq!(loaded.inner.config["extra"], 5);
    // Another class would split text in another way than the file says.
    assert_eq!(loaded.inner.config["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(loaded.inner.config.get("auto_map"), None);
    let beside = r#"{"eos_token": "<done>", "tokenizer_class": "LlamaTokenizerFast"}"#;
    fs::write(dir.path().join(TOKENIZER_CONFIG), beside).unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().inner.config["tokenizer_class"], "LlamaTokenizerFast");
    fs::write(dir.path().join(TOKENIZER_CONFIG), "{").unwrap();
    let broken = Tokenizer::load(dir.path()).unwrap_err();
    assert!(broken.to_string().contains(TOKENIZER_CONFIG), "{broken}");
}

#[test]
fn variants_of_byte_level_bpe_agree_with_the_general_implementation() {
    let base: Value = serde_json::from_slice(&trained().inner.json).unwrap();
    let gpt2 =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let literal = serde_json::json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": "the"}, "behavior": "Isolated", "invert": false}, gpt2.clone()]});
    // The general implementation gives a token it does not know the next free id, whatever the file says.
    let plain = serde_json::json!({"id": 700, "content": "<tag>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": true, "special": false});
    let changes: [(&str, Value); 4] = [
        ("/pre_tokenizer", gpt2),
        ("/pre_tokenizer", literal),
        ("/model/ignore_merges", true.into()),
        ("/added_tokens", [base["added_tokens"].as_array().unwrap().as_slice(), &[plain]].concat().into()),
    ];
    let text = format!("{MIXED} <tag>anthem anthem</tag> <｜end▁of▁sentence｜>");
    for (path, change) in changes {
        let mut json = base.clone();
        *json.pointer_mut(path).unwrap() = change;
        let ours = from_value(&json).unwrap();
        assert!(matches!(ours.inner.kind, Kind::Bpe(_)), "{path}");
        let mut general = oracle(&ours);
        let ids = general.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
        assert_eq!(ours.encode(&text).unwrap(), ids, "{path}");
        assert_eq!(ours.decode(&ids), general.decode(&ids, true).unwrap(), "{path}");
        // The crate can be made blind to special tokens only: so all are.
        for token in json["added_tokens"].as_array_mut().unwrap() {
            token["special"] = true.into();
        }
        general = oracle(&from_value(&json).unwrap());
        general.set_encode_special_tokens(true);
        let ids = general.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
        assert_eq!(ours.encode_ordinary(text.as_bytes()).unwrap(), ids, "{path}");
    }
}

#[test]
fn documents_make_no_added_token_unless_they_are_in_chat_form() {
    let added = |content: &str| {
        serde_json::json!({"id": 0, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false})
    };
    let names = ["<｜User｜>", "<think>", "<｜fim▁hole｜>"];
    for base in [trained(), metaspace()] {
        let mut json: Value = serde_json::from_slice(&base.inner.json).unwrap();
        let tokens = json["added_tokens"].as_array_mut().unwrap();
        tokens.extend(names.iter().chain(&["   "]).map(|name| added(name)));
        let ours = Tokenizer::from_json(json.to_string().into_bytes(), None, None, Path::new("test")).unwrap();
        let ids: Vec<u32> = names.iter().map(|name| ours.added_token(name).unwrap()).collect();
        let text = "a<｜User｜>a<think>a<｜fim▁hole｜>a   a";
        let document = ours.encode_ordinary(text.as_bytes()).unwrap();
        assert!(!ids.iter().any(|id| document.contains(id)), "{document:?}");
        assert!(document.contains(&ours.added_token("   ").unwrap()), "white space is text: {document:?}");
        let mut parsed = Vec::new();
        ours.encoder().encode_parsed(text.as_bytes(), &mut parsed).unwrap();
        assert_eq!(parsed, ours.encode(text).unwrap());
        assert!(ids.iter().all(|id| parsed.contains(id)), "{parsed:?}");
    }
    let mut parsed = Vec::new();
    Tokenizer::bytes().encoder().encode_parsed(b"\xff<|endoftext|>b", &mut parsed).unwrap();
    assert_eq!(parsed, [255, 256, 98]);
}

/// Tokenizers whose model has added tokens in its vocabulary too, with a text that spells one.
fn word_models() -> [(Value, &'static str); 4] {
    let added = |id: u32, content: &str, special: bool| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special})
    };
    let pieces = ["<unk>", "</s>", "<think>", "a", "<", ">", "/", "s", "t", "h", "i", "n", "k"];
    let scored: Vec<_> =
        pieces.iter().map(|piece| serde_json::json!([piece, if piece.len() > 1 { 0.0 } else { -9.0 }])).collect();
    let vocab: serde_json::Map<_, _> =
        pieces.iter().zip(0..).map(|(p, id): (_, u32)| (p.to_string(), id.into())).collect();
    let make = |pre: Value, model: Value| {
        serde_json::json!({"version": "1.0", "added_tokens": [added(0, "<unk>", true), added(1, "</s>", true),
            added(2, "<think>", false)], "normalizer": null, "pre_tokenizer": pre, "post_processor": null,
            "decoder": null, "model": model})
    };
    let mut bytes: Value = serde_json::from_slice(&trained().inner.json).unwrap();
    bytes["model"]["ignore_merges"] = true.into();
    bytes["model"]["vocab"]["<think>"] = 2000.into();
    bytes["pre_tokenizer"] = byte_level::byte_level_part();
    bytes["added_tokens"].as_array_mut().unwrap().push(added(2000, "<think>", false));
    [
        (make(Value::Null, serde_json::json!({"type": "Unigram", "unk_id": 0, "vocab": scored})), "a<think>a"),
        (
            make(
                serde_json::json!({"type": "WhitespaceSplit"}),
                serde_json::json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}),
            ),
            "a <think> a",
        ),
        (
            make(
                serde_json::json!({"type": "WhitespaceSplit"}),
                serde_json::json!({"type": "WordPiece", "vocab": vocab,
            "unk_token": "<unk>", "continuing_subword_prefix": "", "max_input_chars_per_word": 100}),
            ),
            "a <think> a",
        ),
        (bytes, "<think>"),
    ]
}

#[test]
fn a_model_that_knows_an_added_token_as_a_word_does_not_make_it_of_a_document() {
    for (json, text) in word_models() {
        let ours = from_value(&json).unwrap();
        let think = ours.added_token("<think>").unwrap();
        assert!(ours.encode(text).unwrap().contains(&think), "{text}: prompts make it");
        let ids = ours.encode_ordinary(text.as_bytes()).unwrap();
        assert!(!ids.contains(&think) && !ids.is_empty(), "{}: {ids:?}", json["model"]["type"]);
        let end = ours.encode_ordinary(b"a </s> a").unwrap();
        assert!(!end.contains(&ours.eos_id()), "{}: {end:?}", json["model"]["type"]);
        let hiding = ours.encode_ordinary("a \u{fdd0}<think>\u{fdd0} a".as_bytes()).unwrap();
        assert!(!hiding.contains(&think), "{}: {hiding:?}", json["model"]["type"]);
    }
}

#[test]
fn words_that_merges_make_stay_words_though_they_are_added_tokens_too() {
    let mut json: Value = serde_json::from_slice(&trained().inner.json).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let is_word = |token: &&String| token.len() > 1 && token.bytes().all(|byte| byte.is_ascii_lowercase());
    let word = vocab.keys().find(is_word).unwrap().clone();
    let id = vocab[&word].as_u64().unwrap() as u32;
    json["model"]["ignore_merges"] = true.into();
    json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({"id": id, "content": word,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false}));
    assert_eq!(from_value(&json).unwrap().encode_ordinary(word.as_bytes()).unwrap(), [id]);
}

#[test]
fn both_encoders_make_the_same_ids_of_documents() {
    // A flag that the fast encoder leaves to the crate, and that changes nothing else here.
    let added = |id: u32, content: &str, normalized: bool, single_word: bool| {
        serde_json::json!({"id": id, "content": content, "single_word": single_word, "lstrip": false, "rstrip": false,
            "normalized": normalized, "special": false})
    };
    let with = |single_word: bool| {
        let mut json: Value = serde_json::from_slice(&trained().inner.json).unwrap();
        let tokens = json["added_tokens"].as_array_mut().unwrap();
        let next = |tokens: &Vec<Value>| 1000 + tokens.len() as u32;
        for (content, normalized) in [("<think>", false), ("<｜User｜>", true), ("    ", false), ("  ", true)] {
            let token = added(next(tokens), content, normalized, false);
            tokens.push(token);
        }
        let last = added(next(tokens), "<never-seen>", false, single_word);
        tokens.push(last);
        from_value(&json).unwrap()
    };
    let (fast, general) = (with(false), with(true));
    assert!(matches!(fast.inner.kind, Kind::Bpe(_)) && matches!(general.inner.kind, Kind::Other(_)));
    let text = format!("{MIXED} <think>  a</think>    b<｜User｜>   <｜end▁of▁sentence｜> x");
    for text in [text.as_str(), "<think>", "    <think>", "<think>    ", ""] {
        let ids = fast.encode_ordinary(text.as_bytes()).unwrap();
        assert_eq!(ids, general.encode_ordinary(text.as_bytes()).unwrap(), "{text:?}");
        let structure = ["<think>", "<｜User｜>", "<｜end▁of▁sentence｜>"].map(|name| fast.added_token(name).unwrap());
        assert!(!ids.iter().any(|id| structure.contains(id)), "{ids:?}");
        assert_eq!(fast.encode(text).unwrap(), general.encode(text).unwrap(), "{text:?}");
    }
}

#[test]
fn white_space_that_is_special_is_structure() {
    for base in [trained(), metaspace()] {
        let mut json: Value = serde_json::from_slice(&base.inner.json).unwrap();
        json["added_tokens"].as_array_mut().unwrap().push(byte_level::special_token(0, "\n\n\n"));
        let ours = from_value(&json).unwrap();
        let id = ours.added_token("\n\n\n").unwrap();
        assert!(!ours.encode_ordinary(b"a\n\n\na").unwrap().contains(&id));
        assert!(ours.encode("a\n\n\na").unwrap().contains(&id));
    }
}

#[test]
fn documents_get_no_tokens_of_the_post_processor() {
    for base in [trained(), metaspace()] {
        let mut json: Value = serde_json::from_slice(&base.inner.json).unwrap();
        let plain = from_value(&json).unwrap();
        let (name, id) = plain.added_tokens().next().map(|(name, id)| (name.to_owned(), id)).unwrap();
        json["post_processor"] = serde_json::json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name.clone(): {"id": name, "ids": [id], "tokens": [name]}}});
        let ours = from_value(&json).unwrap();
        assert_eq!(ours.encode_ordinary(b"ab a").unwrap(), plain.encode_ordinary(b"ab a").unwrap());
        let mut parsed = Vec::new();
        ours.encoder().encode_parsed(b"ab a", &mut parsed).unwrap();
        assert_eq!(parsed, plain.encode("ab a").unwrap());
    }
}

#[test]
fn a_name_that_is_no_file_is_explained() {
    for name in ["gpt2", "deepseek-ai/DeepSeek-V3"] {
        let error = Tokenizer::load(Path::new(name)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("tokenizer.json") && error.contains("bytes"), "{error}");
    }
}

#[test]
fn other_tokenizers_take_the_general_path() {
    let other = metaspace();
    assert!(matches!(other.inner.kind, Kind::Other(_)));
    let ids = other.encode("ab ab今").unwrap();
    assert_eq!(ids, [7, 7, 8, 9, 10]);
    assert_eq!(other.decode(&ids), "ab ab今");
    assert_eq!(stream(&other, &ids), "ab ab今");
    assert_eq!(other.byte_len(&ids), 8);
    assert_eq!(other.encode("a</s>").unwrap(), [5, 1]);
    assert!(!other.encode_ordinary(b"a</s>").unwrap().contains(&1));
}

#[test]
fn a_stream_holds_back_unfinished_characters() {
    let bytes = Tokenizer::bytes();
    let mut decoder = bytes.stream_decoder();
    let pieces: Vec<String> = "é今🙂".bytes().map(|b| decoder.push(b.into())).collect();
    assert_eq!(pieces, ["", "é", "", "", "今", "", "", "", "🙂"]);
    assert_eq!(decoder.push(0xf0), "");
    assert_eq!(decoder.push(u32::from(b'x')), "\u{fffd}x");
    assert_eq!(decoder.push(0xe4), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
    assert_eq!(decoder.finish(), "");
}

#[test]
fn invalid_utf8_is_replaced_and_reported() {
    let mut out = Vec::new();
    let ours = trained();
    assert!(ours.encoder().encode_ordinary(b"a\xffb", &mut out).unwrap());
    assert_eq!(ours.decode(&out), "a\u{fffd}b");
    out.clear();
    assert!(!Tokenizer::bytes().encoder().encode_ordinary(b"a\xffb", &mut out).unwrap());
    assert_eq!(out, [97, 255, 98]);
}

#[test]
fn damaged_files_are_refused_without_panic() {
    let json = trained().inner.json.clone();
    let load = |bytes: Vec<u8>| Tokenizer::from_json(bytes, None, None, Path::new("damaged.json"));
    for cut in [0, 1, json.len() / 2, json.len() - 3] {
        let error = load(json[..cut].to_vec()).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }) && error.to_string().contains("damaged.json"), "{error}");
    }
    for value in ["null", "[]", "{}", r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#] {
        assert!(load(value.into()).is_err(), "{value}");
    }
    for at in (0..json.len()).step_by(997) {
        let mut changed = json.clone();
        changed[at] ^= 1 << (at % 7);
        if let Ok(tokenizer) = load(changed) {
            tokenizer.encode_ordinary(MIXED.as_bytes()).unwrap();
        }
    }
    let end = byte_level::special_token(u32::MAX, "</s>");
    let model = serde_json::json!({"type": "WordLevel", "vocab": {"</s>": u32::MAX}, "unk_token": "</s>"});
    let huge = serde_json::json!({ "added_tokens": [end], "model": model }).to_string();
    assert!(load(huge.clone().into()).is_err());
    // Tables have a row for every id.
    let far = huge.replace("4294967295", "16000000");
    let error = load(far.into()).unwrap_err().to_string();
    assert!(error.contains("16000000 is beyond any vocabulary: the file has 1 tokens"), "{error}");
    assert_eq!(load(huge.replace("4294967295", "60000").into()).unwrap().vocab_size(), 60_001, "unused ids are usual");
}

#[test]
fn ids_without_a_token_and_with_two_keep_the_others_in_their_places() {
    let mut json: Value = serde_json::from_slice(&trained().inner.json).unwrap();
    let end = json["added_tokens"][0]["id"].as_u64().unwrap();
    json["added_tokens"][0]["id"] = (end + 1000).into();
    let name = json["added_tokens"][0]["content"].as_str().unwrap().to_owned();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64() != Some(end));
    vocab.insert(name, (end + 1000).into());
    vocab.insert("zz".into(), vocab["a"].clone());
    vocab.insert("last".into(), (end + 999).into());
    let tokenizer = from_value(&json).unwrap();
    let ids = tokenizer.encode("a b last").unwrap();
    assert_eq!(tokenizer.decode(&ids), "a b last");
    let one = json["model"]["vocab"]["a"].clone();
    json["model"]["vocab"]["b"] = one.clone();
    let ids = from_value(&json).unwrap().encode("b").unwrap();
    assert_eq!(ids, [one.as_u64().unwrap() as u32], "a byte whose id is another's, too, is not left out");
    let bytes = |id: u64| tokenizer.token_bytes(id as u32);
    assert_eq!((bytes(end + 998), bytes(end + 999), bytes(end + 1000)), (vec![], b"last".to_vec(), vec![]));
}

/// Paths of all values in a JSON document but for most of the vocabulary and the merges, which are alike.
fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let keys = map.keys().take(if at == "/model/vocab" { 3 } else { usize::MAX });
            keys.for_each(|key| {
                pointers(&value[key], format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out)
            });
        }
        Value::Array(items) => {
            items.iter().take(3).zip(0..).for_each(|(item, i): (_, u32)| pointers(item, format!("{at}/{i}"), out));
        }
        _ => {}
    }
    out.push(at);
}

#[test]
fn no_value_in_a_file_makes_it_panic() {
    let gpt2 =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let mut base: Value = serde_json::from_slice(&trained().inner.json).unwrap();
    base["pre_tokenizer"]["pretokenizers"].as_array_mut().unwrap().push(gpt2);
    let mut all = Vec::new();
    pointers(&base, String::new(), &mut all);
    assert!(all.len() > 60, "{all:?}");
    let values = serde_json::json!([
        null,
        true,
        0,
        -1,
        16777216,
        4294967295_u64,
        1e300,
        "",
        "the",
        "(",
        "(?=a)+",
        [],
        {},
        [0],
        ["a"]
    ]);
    for pointer in &all {
        for value in values.as_array().unwrap() {
            let mut changed = base.clone();
            *changed.pointer_mut(pointer).unwrap() = value.clone();
            if let Ok(tokenizer) = from_value(&changed) {
                for text in [MIXED, "", "<｜end▁of▁sentence｜>"] {
                    if let Ok(ids) = tokenizer.encode(text) {
                        tokenizer.decode(&ids);
                    }
                    let _ = tokenizer.encode_ordinary(text.as_bytes());
                }
            }
        }
    }
}

static GENERAL: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| oracle(&trained()));

proptest! {
    #[test]
    fn any_text_survives_and_agrees(text in "(\\PC|[ \n\r\t0-9a-zA-Z.,今のテ🙂])*") {
        let ours = trained();
        let ids = ours.encode(&text).unwrap();
        let general = GENERAL.encode_fast(text.as_str(), false).unwrap();
        prop_assert_eq!(general.get_ids(), &ids[..]);
        prop_assert_eq!(ours.decode(&ids), text.as_str());
        prop_assert_eq!(stream(&ours, &ids), text.as_str());
        prop_assert_eq!(ours.byte_len(&ids), text.len() as u64);
    }

    #[test]
    fn streams_give_what_decoding_at_once_gives(ids in prop::collection::vec(0_u32..500, 0..60)) {
        let ours = trained();
        prop_assert_eq!(stream(&ours, &ids), ours.decode(&ids));
        let bytes = Tokenizer::bytes();
        prop_assert_eq!(stream(&bytes, &ids), bytes.decode(&ids));
        prop_assert_eq!(ours.decode(&ids), GENERAL.decode(&ids, true).unwrap());
    }

    #[test]
    fn all_ways_of_merging_agree(word in prop::collection::vec(prop::sample::select(&b"anthem e"[..]), 2..64)) {
        let ours = trained();
        let Kind::Bpe(bpe) = &ours.inner.kind else { panic!("trained tokenizers take the fast path") };
        let (short, long, found) = bpe.merge_all(&word);
        prop_assert_eq!(&short, &long);
        if let Some(found) = found {
            prop_assert_eq!(found, short);
        }
    }

    /// Rules as no trainer makes them: in any order, several for a token, of tokens that nothing makes.
    #[test]
    fn words_found_without_merging_are_those_of_any_rules(
        rules in prop::collection::vec(("[ab]{1,4}", "[ab]{1,4}"), 1..40),
        words in prop::collection::vec("[ab]{1,20}", 1..20),
    ) {
        let json = odd_rules(&rules);
        let ours = from_value(&json).unwrap();
        let Kind::Bpe(bpe) = &ours.inner.kind else { panic!("it is byte-level") };
        for word in words {
            let (short, long, found) = bpe.merge_all(word.as_bytes());
            prop_assert_eq!(&short, &long);
            if let Some(found) = found {
                prop_assert_eq!(found, short);
            }
        }
    }
}

/// The trained tokenizer with these rules and what they make in place of those it has.
fn odd_rules(rules: &[(String, String)]) -> Value {
    let mut json: Value = serde_json::from_slice(&trained().inner.json).unwrap();
    let model = &mut json["model"];
    let vocab = model["vocab"].as_object_mut().unwrap();
    let merges: Vec<Value> = rules
        .iter()
        .map(|(left, right)| {
            for token in [left.clone(), right.clone(), format!("{left}{right}")] {
                let next = vocab.len() as u64 + 1000;
                vocab.entry(token).or_insert_with(|| next.into());
            }
            serde_json::json!([left, right])
        })
        .collect();
    model["merges"] = merges.into();
    json
}

#[test]
fn most_words_are_found_without_merging() {
    let ours = trained();
    let Kind::Bpe(bpe) = &ours.inner.kind else { panic!("trained tokenizers take the fast path") };
    let words: Vec<&str> = MIXED.split_inclusive(' ').filter(|word| word.len() <= 64).collect();
    let found = words.iter().filter(|word| bpe.merge_all(word.as_bytes()).2.is_some()).count();
    assert!(found * 10 >= words.len() * 9, "{found} of {}", words.len());
}

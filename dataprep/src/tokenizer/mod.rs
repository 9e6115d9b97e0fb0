//! Tokenizers: byte-level, and any Hugging Face `tokenizer.json`.
//!
//! Two kinds: bytes, which needs no file, and any Hugging Face `tokenizer.json`. The byte tokenizer can be written as a
//! `tokenizer.json` too and is recognised when such a file is loaded, so a checkpoint always carries one and the same
//! sort of file. [`train`](mod@train) makes new ones.

mod bpe;
mod byte_level;
mod classes;
mod general;
mod masks;
mod merges;
mod pieces;
mod scan;
mod split;
mod stream;
mod tiktoken;
pub mod train;
mod trie;
mod window;
mod words;

pub use stream::StreamDecoder;
pub use tiktoken::TIKTOKEN;

use crate::durable::{DISK, Files, replace};
use crate::error::{Error, Result};
use crate::shard::TokenizerEntry;
use crate::{hash, json};
use bpe::{Bpe, Cache};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// File name of a tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// File name of what transformers wants to know besides.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Ids without a token that a vocabulary may have beside as many as it has tokens.
const MAX_UNUSED: usize = 1 << 16;

/// Names under which published tokenizers keep their end-of-document token, looked for in this order.
const END_TOKENS: [&str; 7] =
    ["<｜end▁of▁sentence｜>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]"];
/// And their begin-of-text token.
const BEGIN_TOKENS: [&str; 5] = ["<｜begin▁of▁sentence｜>", "<|begin_of_text|>", "<s>", "<bos>", "[BOS]"];

/// A tokenizer. Cloning shares everything.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    kind: Kind,
    vocab_size: u32,
    eos: u32,
    bos: Option<u32>,
    table: Table,
    /// Ids of the tokens that were added to the model's own.
    added: HashMap<String, u32>,
    /// Caches of past encoders, for the next ones.
    idle: Mutex<Vec<Cache>>,
    fingerprint: String,
    /// `tokenizer.json` as it was read or made.
    json: Vec<u8>,
    /// `tokenizer_config.json`, complete.
    config: Value,
}

enum Kind {
    Bytes,
    /// Byte-level BPE.
    Bpe(Box<Bpe>),
    /// Any other tokenizer, through the `tokenizers` crate.
    Other(Box<Other>),
}

struct Other {
    tokenizer: tokenizers::Tokenizer,
    /// The same, but blind to added tokens written out in the text; made when first needed.
    ordinary: OnceLock<std::result::Result<tokenizers::Tokenizer, String>>,
}

/// What each token stands for.
#[derive(Default)]
struct Table {
    /// End of each token's bytes in `bytes`. Empty when tokens do not stand for fixed bytes.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("kind", &self.kind())
            .field("vocab_size", &self.inner.vocab_size)
            .field("fingerprint", &self.inner.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Ids 0–255 are the bytes, 256 ends a document.
    pub fn bytes() -> Self {
        let json = byte_level::byte_tokenizer_json();
        let mut table = Table::default();
        (0..=255).for_each(|byte| table.push(&[byte]));
        table.push(b"");
        Self {
            inner: Arc::new(Inner {
                kind: Kind::Bytes,
                vocab_size: byte_level::END_OF_TEXT_ID + 1,
                eos: byte_level::END_OF_TEXT_ID,
                bos: None,
                table,
                added: [(byte_level::END_OF_TEXT.to_owned(), byte_level::END_OF_TEXT_ID)].into(),
                idle: Mutex::default(),
                fingerprint: hash::of_bytes(json::canonical(&json).as_bytes()),
                json: pretty(&json),
                config: config(byte_level::END_OF_TEXT, None, None),
            }),
        }
    }

    /// Loads a tokenizer: `bytes`, or the path of a `tokenizer.json` or of Moonshot's `tiktoken.model`, or of a folder
    /// that holds one. Where a `tokenizer_config.json` lies beside it, that says which tokens begin and end a text;
    /// otherwise the usual names are looked for.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tokenizer`] when the file is damaged or its end-of-document token cannot be told.
    pub fn load(path: &Path) -> Result<Self> {
        Self::load_with_eos(path, None)
    }

    /// Loads a tokenizer as [`load`](Self::load) does, with the end-of-document token given by its text, whatever the
    /// files say.
    ///
    /// # Errors
    /// Those of [`load`](Self::load); [`Error::Tokenizer`] when there is no such token.
    pub fn load_with_eos(path: &Path, eos: Option<&str>) -> Result<Self> {
        if path == Path::new("bytes") && !path.exists() {
            let unknown = |eos: &&str| *eos != byte_level::END_OF_TEXT;
            return match eos.filter(unknown) {
                Some(eos) => Err(Error::Tokenizer { path: path.into(), what: format!("it has no token {eos:?}") }),
                None => Ok(Self::bytes()),
            };
        }
        if !path.exists() {
            let what = "no such file or folder; tokenizers are not fetched: name a tokenizer.json, or the folder of a \
                        Hugging Face model that holds one (download it first), or bytes";
            return Err(Error::Tokenizer { path: path.into(), what: what.into() });
        }
        let file = if path.is_dir() { path.join(TOKENIZER) } else { path.to_path_buf() };
        let file = if !file.exists() && path.join(TIKTOKEN).exists() { path.join(TIKTOKEN) } else { file };
        let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
        let config = beside(&file, TOKENIZER_CONFIG)?;
        if file.file_name().is_some_and(|name| name == TIKTOKEN) {
            let (config, model) = (config.unwrap_or_default(), beside(&file, "config.json")?.unwrap_or_default());
            let bad = |what| Error::Tokenizer { path: file.clone(), what };
            let json = tiktoken::convert(&bytes, &config, &model).map_err(bad)?;
            return Self::from_json(pretty(&json), Some(config), eos, &file);
        }
        Self::from_json(bytes, config, eos, &file)
    }

    /// Makes a tokenizer from the content of `tokenizer.json` and, if there is one, `tokenizer_config.json`. `origin`
    /// is the path that errors name.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn from_json(bytes: Vec<u8>, beside: Option<Value>, eos: Option<&str>, origin: &Path) -> Result<Self> {
        let bad = |what: String| Error::Tokenizer { path: origin.into(), what };
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if byte_level::is_byte_tokenizer(&value) {
            return Ok(Self::bytes());
        }
        let general = general::load(&bytes, &value).map_err(bad)?;
        let vocab = general.get_vocab(true);
        let largest = vocab.values().copied().max().ok_or_else(|| bad("it has no tokens".into()))?;
        // Tables have a row for every id, so a file of few tokens must not name a large one.
        let most = vocab.len().saturating_mul(2).saturating_add(MAX_UNUSED).min(1 << 24);
        let vocab_size = largest.checked_add(1).filter(|&n| n as usize <= most);
        let vocab_size = vocab_size.ok_or_else(|| {
            let tokens = vocab.len();
            bad(format!("token id {largest} is beyond any vocabulary: the file has {tokens} tokens; repair the id"))
        })?;
        let id_of = |token: &str| vocab.get(token).copied();
        let named = |key: &str| beside.as_ref().and_then(|config| token_name(&config[key]));
        let pick = |asked: Option<&str>, usual: &[&str]| match asked {
            Some(name) => id_of(name).map(|id| (name.to_owned(), id)),
            None => usual.iter().find_map(|name| Some(((*name).to_owned(), id_of(name)?))),
        };
        let asked = eos.or(named("eos_token"));
        let (eos_name, eos) = pick(asked, &END_TOKENS).ok_or_else(|| match asked {
            Some(name) => bad(format!("it has no end-of-document token {name:?}")),
            None => bad("which token ends a document is unknown; set tokenizer.eos to its text".into()),
        })?;
        let bos = pick(named("bos_token"), &BEGIN_TOKENS);
        let mut full = config(&eos_name, bos.as_ref().map(|(name, _)| name.as_str()), None);
        if let (Some(Value::Object(beside)), Some(full)) = (beside.as_ref(), full.as_object_mut()) {
            let theirs = beside.iter().filter(|&(key, value)| is_theirs(key, value));
            full.extend(theirs.map(|(key, value)| (key.clone(), value.clone())));
        }
        let table = if value["decoder"]["type"] == "ByteLevel" {
            Table::of_vocabulary(&vocab, vocab_size, &value)
        } else {
            Table::default()
        };
        let kind = match Bpe::from_json(&value, &vocab) {
            Some(bpe) if !table.ends.is_empty() => Kind::Bpe(Box::new(bpe)),
            _ => Kind::Other(Box::new(Other { tokenizer: general, ordinary: OnceLock::new() })),
        };
        let added = value["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let added =
            added.filter_map(|token| token["content"].as_str().and_then(|name| Some((name.into(), id_of(name)?))));
        let added = added.collect();
        let fingerprint = hash::of_bytes(json::canonical(&value).as_bytes());
        let bos = bos.map(|(_, id)| id);
        Ok(Self {
            inner: Arc::new(Inner {
                kind,
                vocab_size,
                eos,
                bos,
                table,
                added,
                idle: Mutex::default(),
                fingerprint,
                json: bytes,
                config: full,
            }),
        })
    }

    /// Largest id + 1: the rows an embedding needs.
    pub fn vocab_size(&self) -> u32 {
        self.inner.vocab_size
    }

    /// The token that ends a document.
    pub fn eos_id(&self) -> u32 {
        self.inner.eos
    }

    /// The token that begins a text, if there is one.
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.bos
    }

    /// The id of an added token, special or not, such as `<｜fim▁hole｜>`; words of the model's own vocabulary are none.
    pub fn added_token(&self, content: &str) -> Option<u32> {
        self.inner.added.get(content).copied()
    }

    /// The added tokens, special or not, with their ids, in no particular order.
    pub fn added_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.inner.added.iter().map(|(content, &id)| (content.as_str(), id))
    }

    /// SHA-256 of the canonical `tokenizer.json`: equal for equal tokenizers however their files are laid out.
    pub fn fingerprint(&self) -> &str {
        &self.inner.fingerprint
    }

    /// "bytes" or "huggingface".
    pub fn kind(&self) -> &'static str {
        match self.inner.kind {
            Kind::Bytes => "bytes",
            Kind::Bpe(_) | Kind::Other(_) => "huggingface",
        }
    }

    /// Whether it takes any bytes as they are, rather than text.
    pub fn is_bytes(&self) -> bool {
        matches!(self.inner.kind, Kind::Bytes)
    }

    /// Manifest entry of the tokenizer.
    pub fn entry(&self) -> TokenizerEntry {
        TokenizerEntry {
            kind: self.kind().into(),
            fingerprint: self.inner.fingerprint.clone(),
            vocab_size: self.inner.vocab_size,
            eos_id: self.inner.eos,
            bos_id: self.inner.bos,
        }
    }

    /// Encodes a prompt: added tokens written out in it, such as `<｜User｜>`, become their ids; none are put around it.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        self.encoder().encode_parsed(text.as_bytes(), &mut out)?;
        Ok(out)
    }

    /// Encodes a document: added tokens written out in it, such as `<｜User｜>`, are text like any other, so that no
    /// document can end itself or claim a structure that it does not have. Only those that are white space, and not
    /// special, become their ids. Nothing is put around the text, whatever the post-processor says. Bytes that are not
    /// UTF-8 stay as they are for the byte tokenizer and become U+FFFD for the others.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode_ordinary(&self, text: &[u8]) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        self.encoder().encode_ordinary(text, &mut out)?;
        Ok(out)
    }

    /// An encoder that remembers words between calls: faster for many texts.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { tokenizer: self, cache: self.idle().pop().unwrap_or_default() }
    }

    /// Caches that no encoder holds. Building automata and learning words again for every text would cost more than
    /// encoding it.
    fn idle(&self) -> MutexGuard<'_, Vec<Cache>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of `ids`. Special tokens and ids outside the vocabulary give none; what is not UTF-8 gives U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.inner.kind {
            Kind::Other(other) => general::decode(&other.tokenizer, ids),
            Kind::Bytes | Kind::Bpe(_) => {
                let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.inner.table.text(id)).copied().collect();
                String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
            }
        }
    }

    /// The bytes that `id` alone stands for, which may be a part of a character; none for special tokens and ids
    /// outside the vocabulary. Of tokenizers that are not byte-level, the bytes of [`decode`](Self::decode)'s text.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        match self.inner.kind {
            Kind::Other(_) => self.decode(&[id]).into_bytes(),
            Kind::Bytes | Kind::Bpe(_) => self.inner.table.text(id).to_vec(),
        }
    }

    /// Bytes of text that `ids` stand for, for bits per byte. Exact for byte-level tokenizers, even within a character;
    /// for others the length of [`decode`](Self::decode)'s text.
    pub fn byte_len(&self, ids: &[u32]) -> u64 {
        match self.inner.kind {
            Kind::Other(_) => self.decode(ids).len() as u64,
            Kind::Bytes | Kind::Bpe(_) => ids.iter().map(|&id| self.inner.table.text(id).len() as u64).sum(),
        }
    }

    /// Writes `tokenizer.json`, byte for byte as it was loaded, and `tokenizer_config.json` into `folder`;
    /// transformers' `AutoTokenizer` opens the folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_on(&DISK, folder)
    }

    /// As [`save`](Self::save), through the given file operations.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_on(&self, files: &dyn Files, folder: &Path) -> Result<()> {
        self.files().iter().try_for_each(|(name, content)| {
            let path: PathBuf = folder.join(name);
            replace(files, &path, content).map_err(Error::io("write", &path))
        })
    }

    /// The files that [`save`](Self::save) writes, by name.
    pub fn files(&self) -> [(&'static str, Cow<'_, [u8]>); 2] {
        let config = pretty(&self.inner.config);
        [(TOKENIZER, Cow::Borrowed(self.inner.json.as_ref())), (TOKENIZER_CONFIG, Cow::Owned(config))]
    }
}

/// Encodes documents one after the other; see [`Tokenizer::encoder`].
#[derive(Debug)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    cache: Cache,
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        self.tokenizer.idle().push(std::mem::take(&mut self.cache));
    }
}

impl Encoder<'_> {
    /// [`Tokenizer::is_bytes`] of its tokenizer.
    pub fn takes_bytes(&self) -> bool {
        self.tokenizer.is_bytes()
    }

    /// Appends the ids of a document to `out`, as [`Tokenizer::encode_ordinary`] does. True when bytes had to be
    /// replaced because they were not UTF-8.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode_ordinary(&mut self, text: &[u8], out: &mut Vec<u32>) -> Result<bool> {
        let kind = &self.tokenizer.inner.kind;
        if let Kind::Bytes = kind {
            out.extend(text.iter().map(|&byte| u32::from(byte)));
            return Ok(false);
        }
        check_length(text.len())?;
        // Text that is UTF-8 throughout, as nearly all is, is known to be so more quickly.
        let mut text = simdutf8::basic::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
        match kind {
            Kind::Bytes => {}
            Kind::Bpe(bpe) => bpe.encode(&text, false, &mut self.cache, out)?,
            Kind::Other(other) => {
                let json = &self.tokenizer.inner.json;
                let make = || serde_json::from_slice(json).map_err(|e| e.to_string()).and_then(|v| general::blind(&v));
                let ordinary = other.ordinary.get_or_init(make).as_ref();
                if text.contains(general::HIDING) {
                    text = Cow::Owned(text.replace(general::HIDING, "\u{fffd}"));
                }
                general::encode(ordinary.map_err(|what| Error::Tokenize(what.clone()))?, &text, out)?;
            }
        }
        Ok(matches!(text, Cow::Owned(_)))
    }

    /// Appends the ids of a document in which added tokens that are written out become their ids, as
    /// [`Tokenizer::encode`] does: for corpora in chat form. True when bytes had to be replaced because they were not
    /// UTF-8.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode_parsed(&mut self, text: &[u8], out: &mut Vec<u32>) -> Result<bool> {
        match &self.tokenizer.inner.kind {
            Kind::Bytes => {
                byte_level::encode_parsed(text, out);
                Ok(false)
            }
            kind => {
                check_length(text.len())?;
                let text = String::from_utf8_lossy(text);
                match kind {
                    Kind::Bytes => {}
                    Kind::Bpe(bpe) => bpe.encode(&text, true, &mut self.cache, out)?,
                    Kind::Other(other) => general::encode(&other.tokenizer, &text, out)?,
                }
                Ok(matches!(text, Cow::Owned(_)))
            }
        }
    }
}

impl Table {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    /// The bytes of `id`; none for special and unknown tokens.
    fn text(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// What the `ByteLevel` decoder makes of each token.
    fn of_vocabulary(vocab: &HashMap<String, u32>, vocab_size: u32, json: &Value) -> Self {
        let added = json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        let special: HashSet<&str> =
            added.iter().filter(|t| t["special"] == true).filter_map(|t| t["content"].as_str()).collect();
        // A special token's id stands for nothing, also where the vocabulary has another token with it.
        let special: HashSet<u32> = special.iter().filter_map(|&token| vocab.get(token).copied()).collect();
        // Of several tokens with one id an added one counts, as in the `tokenizers` crate.
        let contents: HashSet<&str> = added.iter().filter_map(|t| t["content"].as_str()).collect();
        let ordinary = vocab.iter().filter(|(_, id)| !special.contains(id));
        let mut by_id: Vec<(u32, bool, &str)> =
            ordinary.map(|(token, &id)| (id, !contents.contains(token.as_str()), token.as_str())).collect();
        by_id.sort_unstable();
        by_id.dedup_by_key(|(id, ..)| *id);
        let mut table = Self { ends: Vec::with_capacity(vocab_size as usize), bytes: Vec::new() };
        for (id, _, token) in by_id {
            // Ids of no token, and those of special ones, stand for nothing.
            while table.ends.len() < id as usize {
                table.push(b"");
            }
            match byte_level::to_bytes(token) {
                Some(bytes) => table.push(&bytes),
                None => table.push(token.as_bytes()),
            }
        }
        table.ends.resize(vocab_size as usize, table.bytes.len());
        table
    }
}

/// Places in a text are kept in 32 bits.
fn check_length(bytes: usize) -> Result<()> {
    let too_long = || Error::Tokenize(format!("a text of {bytes} bytes: at most 2^32 - 2 can be encoded at once"));
    if bytes < u32::MAX as usize { Ok(()) } else { Err(too_long()) }
}

/// The content of the JSON file of that name beside `file`, if there is one.
fn beside(file: &Path, name: &str) -> Result<Option<Value>> {
    let path = file.with_file_name(name);
    match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        read => {
            let text = read.map_err(Error::io("read", &path))?;
            let json = serde_json::from_slice(&text);
            json.map(Some).map_err(|e| Error::Tokenizer { path, what: e.to_string() })
        }
    }
}

/// A token in `tokenizer_config.json`: its text, or an object with the text as `content`.
fn token_name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// Whether a setting beside a tokenizer replaces that of [`config`].
///
/// Where `tokenizer_class` is `GPT2Tokenizer` or `Qwen2Tokenizer`, transformers 5.24 splits text by that class's
/// pattern and passes over the one in `tokenizer.json`: other ids than those a model is trained on here, without a
/// message. Llama's, which DeepSeek-V3 has, opens the file as it is, and in transformers 4 it puts the begin token
/// before a text where `add_bos_token` says so. `auto_map` names code that is not in the folder.
fn is_theirs(key: &str, value: &Value) -> bool {
    match key {
        "eos_token" | "auto_map" => false,
        "tokenizer_class" => value.as_str().is_some_and(|class| class.starts_with("LlamaTokenizer")),
        _ => true,
    }
}

/// A `tokenizer_config.json` that makes transformers open the `tokenizer.json` as it is.
fn config(eos: &str, bos: Option<&str>, pad: Option<&str>) -> Value {
    let mut config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "eos_token": eos,
    });
    for (key, token) in [("bos_token", bos), ("pad_token", pad)] {
        if let Some(token) = token {
            config[key] = token.into();
        }
    }
    config
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value can be written");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests;

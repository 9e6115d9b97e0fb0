//! Fill-in-the-middle (FIM): rearranges some documents, so that a model learns to write what stands between two texts.
//!
//! DeepSeek-V3 does it to a tenth of its documents, before packing, in the order prefix, suffix, middle (V3 report
//! §4.1):
//!
//! ```text
//! <｜fim▁begin｜> prefix <｜fim▁hole｜> suffix <｜fim▁end｜> middle <｜end▁of▁sentence｜>
//! ```
//!
//! The document is cut in two places drawn evenly from all places between its characters, its beginning and its end
//! included (Bavarian et al., *Efficient Training of Language Models to Fill in the Middle*, 2022, §3). Whether a
//! document is rearranged, and where it is cut, follows from seed and content alone: not from where it stands among the
//! others.

use crate::error::{Error, Result};
use crate::tokenizer::{Encoder, Tokenizer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// `fim.*`: which documents are rearranged, and with which tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FimConfig {
    /// Share of the documents to rearrange, 0 to 1. DeepSeek-V3 has 0.1; 0 turns it off.
    pub rate: f64,
    /// Token before the prefix.
    pub begin: String,
    /// Token before the suffix.
    pub hole: String,
    /// Token before the middle.
    pub end: String,
}

/// DeepSeek's names for the tokens, in the order they are written.
pub const FIM_TOKENS: [&str; 3] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];

impl Default for FimConfig {
    fn default() -> Self {
        let [begin, hole, end] = FIM_TOKENS.map(str::to_owned);
        Self { rate: 0.0, begin, hole, end }
    }
}

/// A FIM encoder: rearranges documents as a [`FimConfig`] says, with the ids of one tokenizer.
#[derive(Clone, Debug)]
pub struct Fim {
    rate: f64,
    seed: u64,
    /// Begin, hole, end.
    ids: [u32; 3],
}

/// The outcome for a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Whether bytes were replaced because they were not UTF-8.
    pub repaired: bool,
    /// Whether the document was rearranged.
    pub rearranged: bool,
}

/// Where to cut a document: byte positions of the beginning and the end of its middle.
type Cuts = (usize, usize);

impl Fim {
    /// Builds the encoder; `None` when the rate is 0.
    ///
    /// # Errors
    /// [`Error::Config`] when the rate is no share, or names the token that `tokenizer` does not have.
    pub fn new(config: &FimConfig, tokenizer: &Tokenizer, seed: u64) -> Result<Option<Self>> {
        if !(0.0..=1.0).contains(&config.rate) {
            let what = format!("{}; it must lie between 0 and 1", config.rate);
            return Err(Error::Config { field: "fim.rate", what });
        }
        if config.rate == 0.0 {
            return Ok(None);
        }
        let id = |field, token: &str| {
            let what = || {
                format!(
                    "the tokenizer has no added token {token:?}; name the one that it has, use a tokenizer with such \
                     tokens, or set fim.rate = 0"
                )
            };
            tokenizer.added_token(token).ok_or_else(|| Error::Config { field, what: what() })
        };
        let ids = [id("fim.begin", &config.begin)?, id("fim.hole", &config.hole)?, id("fim.end", &config.end)?];
        Ok(Some(Self { rate: config.rate, seed, ids }))
    }

    /// Appends the ids of a document, rearranged or not, without an end-of-document token.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode(&self, encoder: &mut Encoder<'_>, document: &[u8], out: &mut Vec<u32>) -> Result<Encoded> {
        let Some(draws) = self.draw(document) else {
            return Ok(Encoded { repaired: encoder.encode_ordinary(document, out)?, rearranged: false });
        };
        // Bytes that are no text must be replaced before anything is cut, or a cut would change what they become.
        let text = match std::str::from_utf8(document) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) if encoder.takes_bytes() => return self.encode_bytes(encoder, document, draws, out),
            Err(_) => String::from_utf8_lossy(document),
        };
        let cuts = character_cuts(&text, draws);
        self.write(encoder, text.as_bytes(), cuts, out)?;
        Ok(Encoded { repaired: matches!(text, Cow::Owned(_)), rearranged: true })
    }

    /// Bytes that are not text, for a tokenizer that takes any: every byte counts as a character.
    fn encode_bytes(
        &self,
        encoder: &mut Encoder<'_>,
        document: &[u8],
        draws: [u64; 2],
        out: &mut Vec<u32>,
    ) -> Result<Encoded> {
        let [a, b] = draws.map(|draw| place(draw, document.len()));
        self.write(encoder, document, (a.min(b), a.max(b)), out)?;
        Ok(Encoded { repaired: false, rearranged: true })
    }

    fn write(&self, encoder: &mut Encoder<'_>, text: &[u8], (from, to): Cuts, out: &mut Vec<u32>) -> Result<()> {
        let (prefix, middle, suffix) = (&text[..from], &text[from..to], &text[to..]);
        for (id, part) in self.ids.into_iter().zip([prefix, suffix, middle]) {
            out.push(id);
            encoder.encode_ordinary(part, out)?;
        }
        Ok(())
    }

    /// Two random numbers if the document is to be rearranged: of seed and content, and of nothing else.
    fn draw(&self, document: &[u8]) -> Option<[u64; 2]> {
        let hash = Sha256::new().chain_update(b"fill in the middle").chain_update(self.seed.to_le_bytes());
        let digest = hash.chain_update(document).finalize();
        let (numbers, _) = digest.as_chunks::<8>();
        let [chance, first, second] = [0, 1, 2].map(|i| u64::from_le_bytes(numbers[i]));
        // The upper 53 bits are exactly what an f64 holds.
        let chance = (chance >> 11) as f64 / (1_u64 << 53) as f64;
        (chance < self.rate).then_some([first, second])
    }
}

/// Two places between characters.
fn character_cuts(text: &str, draws: [u64; 2]) -> Cuts {
    let characters = text.chars().count();
    let [a, b] = draws.map(|draw| place(draw, characters));
    let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    (byte(a.min(b)), byte(a.max(b)))
}

/// One of the places `0..=n`, evenly.
fn place(draw: u64, n: usize) -> usize {
    ((u128::from(draw) * (n as u128 + 1)) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::train::WordCounter;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let text = "fn fill(in: &Middle) -> Text { in.the().middle() }\n今天天气 ".repeat(20);
        let mut counter = WordCounter::new(1 << 20).with_special_tokens(&FIM_TOKENS);
        counter.count(&[text]).unwrap();
        counter.train(400).unwrap()
    });

    fn fim(rate: f64, seed: u64) -> Fim {
        Fim::new(&FimConfig { rate, ..FimConfig::default() }, &TOKENIZER, seed).unwrap().unwrap()
    }

    /// Prefix, suffix and middle of a rearranged document.
    fn parts(ids: &[u32]) -> [String; 3] {
        let marks = FIM_TOKENS.map(|token| TOKENIZER.added_token(token).unwrap());
        let at = marks.map(|mark| {
            let found: Vec<_> = (0..ids.len()).filter(|&i| ids[i] == mark).collect();
            assert_eq!(found.len(), 1, "each mark stands once in {ids:?}");
            found[0]
        });
        assert_eq!(at[0], 0);
        [&ids[1..at[1]], &ids[at[1] + 1..at[2]], &ids[at[2] + 1..]].map(|part| TOKENIZER.decode(part))
    }

    #[test]
    fn a_tenth_of_the_documents_is_rearranged_whatever_their_order() {
        let (fim, mut encoder) = (fim(0.1, 3), TOKENIZER.encoder());
        let documents: Vec<String> = (0..5000).map(|i| format!("document {i} of the middle")).collect();
        let mut run = |documents: &mut dyn Iterator<Item = &String>| -> Vec<Vec<u32>> {
            let encode = |document: &String| {
                let mut ids = Vec::new();
                let encoded = fim.encode(&mut encoder, document.as_bytes(), &mut ids).unwrap();
                assert_eq!(encoded.rearranged, ids[0] == fim.ids[0]);
                ids
            };
            documents.map(encode).collect()
        };
        let forwards = run(&mut documents.iter());
        let mut backwards = run(&mut documents.iter().rev());
        backwards.reverse();
        assert_eq!(forwards, backwards);
        let rearranged = forwards.iter().filter(|ids| ids[0] == fim.ids[0]).count();
        assert!((420..580).contains(&rearranged), "{rearranged} of 5000");
    }

    #[test]
    fn cuts_are_even_over_the_places_between_characters() {
        let fim = fim(1.0, 0);
        let mut seen = [0; 4];
        for i in 0..30_000_u32 {
            let draws = fim.draw(&i.to_le_bytes()).unwrap();
            let (from, to) = character_cuts("a今é", draws);
            for cut in [from, to] {
                seen[[0, 1, 4, 6].iter().position(|&at| at == cut).expect("a cut between characters")] += 1;
            }
        }
        assert!(seen.iter().all(|n| (14_400..15_600).contains(n)), "{seen:?}");
    }

    #[test]
    fn tokens_that_are_not_there_are_named() {
        let config = FimConfig { rate: 0.1, ..FimConfig::default() };
        let error = Fim::new(&config, &Tokenizer::bytes(), 0).unwrap_err().to_string();
        assert!(
            error.contains("fim.begin") && error.contains("<｜fim▁begin｜>") && error.contains("fim.rate"),
            "{error}"
        );
        let ordinary = FimConfig { end: "middle".into(), ..config.clone() };
        assert!(Fim::new(&ordinary, &TOKENIZER, 0).unwrap_err().to_string().contains("fim.end"), "a word is no mark");
        assert!(Fim::new(&FimConfig::default(), &Tokenizer::bytes(), 0).unwrap().is_none());
        assert!(Fim::new(&FimConfig { rate: 1.5, ..config }, &TOKENIZER, 0).is_err());
    }

    #[test]
    fn what_is_not_text_is_repaired_first() {
        let mut ids = Vec::new();
        let encoded =
            fim(1.0, 1).encode(&mut TOKENIZER.encoder(), b"in\xff\xfe the \xe4\xbb middle", &mut ids).unwrap();
        assert_eq!(encoded, Encoded { repaired: true, rearranged: true });
        let [prefix, suffix, middle] = parts(&ids);
        assert_eq!(prefix + &middle + &suffix, "in\u{fffd}\u{fffd} the \u{fffd} middle");
    }

    proptest! {
        #[test]
        fn the_parts_are_the_document(text in "\\PC*", seed: u64) {
            let mut ids = Vec::new();
            let fim = fim(1.0, seed);
            prop_assert!(fim.encode(&mut TOKENIZER.encoder(), text.as_bytes(), &mut ids).unwrap().rearranged);
            let [prefix, suffix, middle] = parts(&ids);
            prop_assert_eq!(prefix + &middle + &suffix, text);
        }
    }
}

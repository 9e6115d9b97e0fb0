//! Words made of few tokens, found without merging: the longest tokens from left to right, as long as they fit.
//!
//! A row of tokens is what merging makes of a word if it makes each token of the token's bytes alone, and of the bytes
//! of every two neighbours those two. For consider the first merge across a border between tokens, if there is one:
//! until then everything happened within tokens, as it does when two neighbours stand alone, and there such a merge
//! would happen as well. So it is enough to look at neighbours, and that takes a few lookups for each two rather than
//! two for every byte. What is not found so is merged.

use super::trie::Trie;

/// The place of a rule among all: the lowest merges first.
pub(super) type Rank = u32;
/// Two neighbours that are no rule's.
pub(super) const NONE: Rank = Rank::MAX;

/// Longer tokens are not looked for, and longer words merged.
pub(super) const LONGEST: usize = 64;
/// Tokens that are tried and do not fit before a word is left to merging.
const TRIES: u32 = 24;
/// No token.
const NO_TOKEN: u32 = u32::MAX;

/// How a token comes about.
#[derive(Clone, Copy, Debug)]
struct Part {
    left: u32,
    right: u32,
    /// When its halves are merged: a rank and one; 0 if it is a byte.
    time: u32,
    /// The longest token that it begins with, other than itself.
    shorter: u32,
    /// In bytes; 0 if merging does not make it of its bytes, or makes it in another order than that of ranks.
    length: u32,
}

const UNKNOWN: Part = Part { left: 0, right: 0, time: 0, shorter: NO_TOKEN, length: 0 };

/// The tokens that merging makes of their bytes, each merge of a higher rank than those of its halves.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// By id.
    parts: Vec<Part>,
    trie: Trie,
}

impl Pieces {
    /// From all rules by rank (two neighbours and what they become), of tokens up to `largest`. `rank` gives the rank
    /// of two neighbours.
    pub(super) fn new(
        byte_ids: &[u32; 256],
        rules: &[([u32; 2], u32)],
        largest: u32,
        rank: impl Fn(u32, u32) -> Rank,
    ) -> Self {
        let mut parts = vec![UNKNOWN; largest as usize + 1];
        let mut texts: Vec<(Vec<u8>, u32)> = Vec::new();
        // Where a token's text is among them.
        let mut places = vec![0_usize; parts.len()];
        for (byte, &id) in (0..=255_u8).zip(byte_ids) {
            if parts[id as usize].length == 0 {
                parts[id as usize].length = 1;
                places[id as usize] = texts.len();
                texts.push((vec![byte], id));
            }
        }
        let mut pieces = Self { parts, trie: Trie::default() };
        for (&([left, right], id), time) in rules.iter().zip(1..) {
            let [first, second] = [left, right].map(|id| pieces.parts[id as usize]);
            let length = first.length + second.length;
            let known = first.length > 0 && second.length > 0 && pieces.parts[id as usize].length == 0;
            // Of two rules for the same pair only one has an effect.
            let holds = known && rank(left, right) == time - 1 && first.time < time && second.time < time;
            if holds && length as usize <= LONGEST && pieces.meet(left, right, &rank) {
                pieces.parts[id as usize] = Part { left, right, time, shorter: NO_TOKEN, length };
                places[id as usize] = texts.len();
                let text = [left, right].map(|id| texts[places[id as usize]].0.as_slice()).concat();
                texts.push((text, id));
            }
        }
        texts.sort_unstable();
        pieces.trie = Trie::new(&texts);
        for (text, id) in &texts {
            pieces.parts[*id as usize].shorter = match pieces.trie.longest(&text[..text.len() - 1]) {
                Some(id) => id,
                None => NO_TOKEN,
            };
        }
        pieces
    }

    /// Appends the ids of a word, unless it has to be merged.
    #[inline]
    pub(super) fn find(&self, word: &[u8], rank: impl Fn(u32, u32) -> Rank, out: &mut Vec<u32>) -> bool {
        if word.len() > LONGEST {
            return false;
        }
        let (start, mut at, mut tries) = (out.len(), 0, 0);
        while at < word.len() {
            let Some(mut token) = self.trie.longest(&word[at..]) else {
                out.truncate(start);
                return false;
            };
            loop {
                if out.len() == start || self.fit(out[out.len() - 1], token, &rank) {
                    out.push(token);
                    at += self.parts[token as usize].length as usize;
                    break;
                }
                tries += 1;
                token = self.parts[token as usize].shorter;
                while token == NO_TOKEN && out.len() > start {
                    // Nothing fits behind the last token: so that is another.
                    let last = self.parts[out.pop().unwrap_or_default() as usize];
                    at -= last.length as usize;
                    token = last.shorter;
                }
                if token == NO_TOKEN || tries > TRIES {
                    out.truncate(start);
                    return false;
                }
            }
        }
        true
    }

    /// Whether merging the bytes of both tokens gives both.
    #[inline]
    fn fit(&self, left: u32, right: u32, rank: &impl Fn(u32, u32) -> Rank) -> bool {
        rank(left, right) == NONE && self.meet(left, right, rank)
    }

    /// Whether merging the bytes of both tokens comes to a point where both stand beside each other. Time runs
    /// backwards here: of the two tokens at the border, the later one is taken apart until both are bytes. Two
    /// neighbours would have been merged if their rule's turn came before that of the rule that replaces one of them;
    /// where it is the same rule, the pair further left is merged first.
    #[inline]
    fn meet(&self, mut left: u32, mut right: u32, rank: &impl Fn(u32, u32) -> Rank) -> bool {
        loop {
            let [first, second] = [left, right].map(|id| self.parts[id as usize]);
            let end = if first.time > second.time {
                left = first.right;
                first.time
            } else {
                if second.time == 0 {
                    return true;
                }
                right = second.left;
                second.time + 1
            };
            if rank(left, right).saturating_add(1) < end {
                return false;
            }
        }
    }
}

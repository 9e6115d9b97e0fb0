//! Contexts and continuations as the tokens that the engine reads and scores, cut to the model's context.

use crate::codec::Codec;
use crate::error::Result;
use crate::infer::ScoreRequest;

/// Tokens, the last of which are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The text.
    pub tokens: Vec<u32>,
    /// How many of its last tokens are scored.
    pub count: usize,
    /// Tokens that were cut off at the left.
    pub cut: usize,
}

impl Scored {
    fn new(context: &[u32], continuation: &[u32], longest: usize) -> Self {
        let whole = [context, continuation].concat();
        let cut = whole.len().saturating_sub(longest + 1);
        Self { tokens: whole[cut..].to_vec(), count: continuation.len(), cut }
    }

    /// What the engine is asked: the text without its last token, and the ending.
    pub fn request(&self) -> ScoreRequest {
        let (last, start) = (self.tokens.len().saturating_sub(1), self.tokens.len().saturating_sub(self.count));
        ScoreRequest { tokens: self.tokens[..last].to_vec(), endings: vec![self.tokens[start..].to_vec()] }
    }
}

/// A continuation after a context: spaces at the end of the context belong to the continuation; the two are encoded
/// together and divided at the length of the context's own tokens; an empty context is the token that begins a text.
///
/// # Errors
/// A text that the tokenizer refuses; a problem with the continuation, in the inner result.
pub fn pair(codec: &Codec<'_>, context: &str, continuation: &str) -> Result<std::result::Result<Scored, String>> {
    let longest = codec.context();
    let kept = context.trim_end();
    let continuation = format!("{}{continuation}", &context[kept.len()..]);
    let (before, scored) = if kept.is_empty() {
        (codec.opening(), codec.encode_opened(&continuation)?)
    } else {
        let context = codec.encode_open(kept)?;
        let whole = codec.encode_open(&format!("{kept}{continuation}"))?;
        // A merge across the end of the context changes which tokens are scored, as it does in the harness.
        let start = context.len().min(whole.len());
        (context, whole[start..].to_vec())
    };
    Ok(match scored.len() {
        0 => Err(format!("the continuation {continuation:?} adds no token to its context: give it some text")),
        n if n > longest => {
            Err(format!("the continuation has {n} tokens, but the model's context is {longest}: shorten the item"))
        }
        _ => Ok(Scored::new(&before, &scored, longest)),
    })
}

/// A whole text in windows as long as the model's context, each token of it scored once: the first window begins with
/// the token that begins a text; later ones score `stride` further tokens, or all but one, and are filled from the left
/// with tokens that were scored already.
///
/// Windows are made one by one: together they may be as large as the text times the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    tokens: Vec<u32>,
    prefix: u32,
    longest: usize,
    stride: usize,
}

impl Windows {
    /// The windows of a text.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn new(codec: &Codec<'_>, text: &str, stride: Option<usize>) -> Result<Self> {
        let prefix = codec.opening().last().copied().unwrap_or_else(|| codec.prefix_token());
        Ok(Self::of(codec.encode_opened(text)?, prefix, codec.context(), stride))
    }

    fn of(tokens: Vec<u32>, prefix: u32, longest: usize, stride: Option<usize>) -> Self {
        let longest = longest.max(1);
        Self { tokens, prefix, longest, stride: stride.unwrap_or(longest).clamp(1, longest) }
    }

    /// How many there are; none for a text without tokens.
    pub fn len(&self) -> usize {
        match self.tokens.len() {
            0 => 0,
            n => 1 + n.saturating_sub(self.longest).div_ceil(self.stride),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens of the longest window.
    pub fn longest(&self) -> usize {
        self.longest.min(self.tokens.len())
    }

    /// A window by its place, which is below [`len`](Self::len).
    pub fn get(&self, place: usize) -> Scored {
        let n = self.tokens.len();
        // Tokens that are scored before window `place`.
        let before = |place: usize| match place {
            0 => 0,
            place => (self.longest + (place - 1) * self.stride).min(n),
        };
        let (done, end) = (before(place), before(place + 1));
        match place {
            0 => Scored::new(&[self.prefix], &self.tokens[..end], self.longest),
            _ => Scored::new(&self.tokens[end - self.longest - 1..done], &self.tokens[done..end], self.longest),
        }
    }
}

/// A prompt with room for `new` tokens, cut at the left; and how many tokens were cut off.
///
/// # Errors
/// A text that the tokenizer refuses; no room at all, in the inner result.
pub fn prompt(codec: &Codec<'_>, text: &str, new: usize) -> Result<std::result::Result<(Vec<u32>, usize), String>> {
    let context = codec.context();
    if new >= context {
        return Ok(Err(format!(
            "max_tokens = {new} leaves no room in the model's context of {context}: ask for fewer"
        )));
    }
    let mut tokens = codec.encode_open(text)?;
    if tokens.is_empty() {
        tokens = vec![codec.prefix_token()];
    }
    let cut = tokens.len().saturating_sub(context - new);
    Ok(Ok((tokens.split_off(cut), cut)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Prompts;
    use crate::hf::Template;

    #[test]
    fn the_tokens_of_a_template_stand_before_a_text_once() {
        let tokenizer = fathom_dataprep::Tokenizer::bytes();
        let (begin, end) = (u32::from(b'Q'), u32::from(b'Z'));
        let template = Template { before: vec![begin], after: vec![end] };
        let prompts = Prompts { template, ends: Vec::new() };
        let codec = Codec::new(&tokenizer, &prompts, 64);
        for (context, continuation, tokens) in
            [("ab", " c", &[begin, 97, 98, 32, 99][..]), ("", "ab", &[begin, 97, 98])]
        {
            let begun =
                if context.is_empty() { ("", format!("Q{continuation}")) } else { ("Qab", continuation.into()) };
            for (context, continuation) in [(context, continuation), (begun.0, &begun.1)] {
                let scored = pair(&codec, context, continuation).unwrap().unwrap();
                assert_eq!(
                    scored,
                    Scored { tokens: tokens.to_vec(), count: 2, cut: 0 },
                    "{context:?} {continuation:?}"
                );
            }
        }
        for text in ["ab", "Qab"] {
            let windows = Windows::new(&codec, text, None).unwrap();
            assert_eq!(windows.get(0), Scored { tokens: vec![begin, 97, 98], count: 2, cut: 0 });
            assert_eq!(prompt(&codec, text, 1).unwrap().unwrap(), (vec![begin, 97, 98], 0));
            assert_eq!(codec.encode(text).unwrap(), [begin, 97, 98, end]);
        }
        assert_eq!(codec.encode("QabZ").unwrap(), [begin, 97, 98, end]);
    }

    #[test]
    fn every_token_of_a_text_is_scored_once() {
        for (length, stride) in (0..30u32).flat_map(|length| [1, 3, 7].map(|stride| (length, stride))) {
            let tokens: Vec<u32> = (1..=length).collect();
            let windows = Windows::of(tokens.clone(), 0, 7, Some(stride));
            let windows: Vec<Scored> = (0..windows.len()).map(|place| windows.get(place)).collect();
            let scored: Vec<u32> = windows.iter().flat_map(|w| w.tokens[w.tokens.len() - w.count..].to_vec()).collect();
            assert_eq!(scored, tokens);
            for (i, window) in windows.iter().enumerate() {
                assert_eq!((window.tokens.len(), window.cut), (8.min(length as usize + 1), 0), "window {i}");
                let consecutive = window.tokens.windows(2).all(|pair| pair[0] + 1 == pair[1]);
                assert!(consecutive && (i == 0 || window.count <= stride), "{:?}", window.tokens);
            }
        }
    }

    #[test]
    fn contexts_are_cut_at_the_left() {
        let scored = Scored::new(&[1, 2, 3, 4], &[5, 6], 3);
        assert_eq!(scored, Scored { tokens: vec![3, 4, 5, 6], count: 2, cut: 2 });
        assert_eq!(scored.request(), ScoreRequest { tokens: vec![3, 4, 5], endings: vec![vec![5, 6]] });
    }
}

//! The text of an output as its tokens arrive: whole characters, up to a stop string.

use fathom_dataprep::{StreamDecoder, Tokenizer};

use super::stop::StopSearch;

/// Turns tokens into text that can be shown at once. Without a tokenizer there is no text.
#[derive(Clone, Debug)]
pub struct TextStream {
    decoder: Option<StreamDecoder>,
    search: StopSearch,
}

impl TextStream {
    /// The text of an output that ends at the first of `stops`.
    pub fn new(tokenizer: Option<&Tokenizer>, stops: &[String]) -> Self {
        Self { decoder: tokenizer.map(Tokenizer::stream_decoder), search: StopSearch::new(stops) }
    }

    /// The text that `token` completes. [`stopped`](Self::stopped) says whether it completes a stop string.
    pub fn push(&mut self, token: u32) -> String {
        let piece = self.decoder.as_mut().map(|decoder| decoder.push(token)).unwrap_or_default();
        self.search.push(&piece)
    }

    /// Whether a stop string was found.
    pub fn stopped(&self) -> bool {
        self.search.stopped()
    }

    /// The text that was held back, at the end of the output.
    pub fn finish(&mut self) -> String {
        let rest = self.decoder.as_mut().map(StreamDecoder::finish).unwrap_or_default();
        let text = self.search.push(&rest);
        text + &self.search.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_whole_and_stop_strings_are_found_in_their_bytes() {
        let tokenizer = Tokenizer::bytes();
        let mut stream = TextStream::new(Some(&tokenizer), &["é!".into()]);
        let pieces: Vec<String> = "a🙃éé!b".bytes().map(|byte| stream.push(byte.into())).collect();
        assert_eq!(pieces.concat(), "a🙃é");
        assert!(stream.stopped() && stream.finish().is_empty());
    }

    #[test]
    fn an_unfinished_character_is_replaced_at_the_end_only() {
        let tokenizer = Tokenizer::bytes();
        let mut stream = TextStream::new(Some(&tokenizer), &["xyz".into()]);
        let pieces: String = b"ab x\xF0\x9F".iter().map(|&byte| stream.push(byte.into())).collect();
        // The x may begin the stop string until the bytes after it are known.
        assert_eq!((pieces.as_str(), stream.finish().as_str()), ("ab ", "x\u{fffd}"));
        let mut without = TextStream::new(None, &[]);
        assert_eq!(without.push(65) + &without.finish(), "");
    }
}

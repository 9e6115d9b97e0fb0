//! Streaming decoder: token ids to text, one id at a time.

use super::{Kind, Tokenizer};

/// Turns tokens into text as they arrive. What it gives is always whole characters: bytes of a character that is not
/// complete yet wait for the rest. All pieces together are what [`Tokenizer::decode`] gives for all tokens together.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    /// Bytes that wait for the rest of their character.
    pending: Vec<u8>,
    /// For tokenizers that are not byte-level: a window of tokens, of which the text of the first `shown` is out.
    window: Vec<u32>,
    shown: usize,
}

impl Tokenizer {
    /// A decoder that turns tokens into text one by one.
    pub fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder { tokenizer: self.clone(), pending: Vec::new(), window: Vec::new(), shown: 0 }
    }
}

impl StreamDecoder {
    /// The text that `id` completes; empty while a character is unfinished and for special tokens.
    pub fn push(&mut self, id: u32) -> String {
        if let Kind::Other(_) = self.tokenizer.inner.kind {
            return self.push_window(id);
        }
        self.pending.extend_from_slice(self.tokenizer.inner.table.text(id));
        let (text, used) = complete_text(&self.pending);
        self.pending.drain(..used);
        text
    }

    /// The rest at the end: U+FFFD for a character that never became complete, else nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        if self.shown == self.window.len() {
            return rest;
        }
        let text = self.window_text();
        self.window.clear();
        self.shown = 0;
        text
    }

    fn push_window(&mut self, id: u32) -> String {
        self.window.push(id);
        let text = self.window_text();
        if text.is_empty() || text.ends_with('\u{fffd}') {
            return String::new();
        }
        // Text of a token can depend on the one before it (a leading space), so the last shown ones stay as context.
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        text
    }

    /// The text of the window behind the part that is out.
    fn window_text(&self) -> String {
        let before = self.tokenizer.decode(&self.window[..self.shown]);
        let all = self.tokenizer.decode(&self.window);
        all.get(before.len()..).unwrap_or_default().to_owned()
    }
}

/// The longest start of `bytes` that more bytes cannot change, with U+FFFD for what is not UTF-8, and its length.
fn complete_text(bytes: &[u8]) -> (String, usize) {
    let (mut text, mut used) = (String::new(), 0);
    loop {
        match std::str::from_utf8(&bytes[used..]) {
            Ok(rest) => {
                text.push_str(rest);
                return (text, bytes.len());
            }
            Err(error) => {
                let valid = used + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[used..valid]));
                let Some(bad) = error.error_len() else {
                    return (text, valid);
                };
                text.push('\u{fffd}');
                used = valid + bad;
            }
        }
    }
}

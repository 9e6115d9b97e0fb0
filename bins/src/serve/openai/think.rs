//! Reasoning and answer, told apart in the text of a reasoning model: what lies between `<think>` and `</think>`.

/// The tag that opens the reasoning.
pub const OPEN: &str = "<think>";
/// The tag that closes it.
pub const CLOSE: &str = "</think>";

/// Where the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing but white space has come; the text may open with a tag.
    Start,
    /// In the reasoning.
    Reasoning,
    /// In the answer.
    Answer,
}

/// Divides a text that comes in pieces.
#[derive(Clone, Debug)]
pub struct Thinking {
    place: Place,
    held: String,
    /// Whether white space at the beginning of a part is passed over.
    trim: bool,
}

/// A piece of reasoning and a piece of the answer; the reasoning comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The reasoning.
    pub reasoning: String,
    /// The answer.
    pub content: String,
}

impl Thinking {
    /// A text that begins at `place`.
    pub fn new(place: Place) -> Self {
        Self { place, held: String::new(), trim: place == Place::Reasoning }
    }

    /// Where the text is now.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes a piece of text, and gives the pieces that can be shown.
    pub fn push(&mut self, piece: &str) -> Parts {
        let mut parts = Parts::default();
        self.held.push_str(piece);
        if self.place == Place::Start {
            let text = self.held.trim_start();
            if let Some(rest) = text.strip_prefix(OPEN) {
                (self.held, self.place, self.trim) = (rest.to_owned(), Place::Reasoning, true);
            } else if !OPEN.starts_with(text) {
                self.place = Place::Answer;
            }
        }
        if self.place == Place::Reasoning {
            if let Some((reasoning, answer)) = self.held.split_once(CLOSE) {
                let answer = answer.to_owned();
                parts.reasoning = self.trimmed(reasoning.to_owned());
                (self.held, self.place, self.trim) = (answer, Place::Answer, true);
            } else {
                let keep = self.held.len() - tail(&self.held);
                let rest = self.held.split_off(keep);
                let reasoning = std::mem::replace(&mut self.held, rest);
                parts.reasoning = self.trimmed(reasoning);
            }
        }
        if self.place == Place::Answer {
            let content = std::mem::take(&mut self.held);
            parts.content = self.trimmed(content);
        }
        parts
    }

    /// The text that was held back, at the end.
    pub fn finish(&mut self) -> Parts {
        let held = std::mem::take(&mut self.held);
        let text = self.trimmed(held);
        match self.place {
            Place::Reasoning => Parts { reasoning: text, ..Parts::default() },
            Place::Start | Place::Answer => Parts { content: text, ..Parts::default() },
        }
    }

    /// The text without line ends at the beginning of its part.
    fn trimmed(&mut self, text: String) -> String {
        if !self.trim {
            return text;
        }
        let rest = text.trim_start_matches(['\n', '\r']);
        self.trim = rest.is_empty();
        rest.to_owned()
    }
}

/// Bytes of the longest tail that is the start of the closing tag.
fn tail(text: &str) -> usize {
    (1..CLOSE.len()).rev().find(|&n| text.ends_with(&CLOSE[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(place: Place, pieces: &[&str]) -> (String, String) {
        let mut thinking = Thinking::new(place);
        let mut parts: Vec<Parts> = pieces.iter().map(|piece| thinking.push(piece)).collect();
        parts.push(thinking.finish());
        let of = |f: fn(&Parts) -> &str| parts.iter().map(f).collect::<String>();
        (of(|p| &p.reasoning), of(|p| &p.content))
    }

    #[test]
    fn reasoning_and_answer_are_told_apart_in_any_pieces() {
        let text = "<think>\nfirst < then é\n</think>\n\nthe </think> answer";
        let want = ("first < then é\n".to_owned(), "the </think> answer".to_owned());
        assert_eq!(run(Place::Start, &[text]), want);
        let single: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(run(Place::Start, &single.iter().map(String::as_str).collect::<Vec<_>>()), want);
        assert_eq!(run(Place::Reasoning, &["first < then é\n</th", "ink>\n", "\nthe </think> answer"]), want);
    }

    #[test]
    fn a_text_without_reasoning_is_all_answer() {
        let answer = |text: &str| (String::new(), text.to_owned());
        for text in ["", " \n", "a<think>b</think>", "<thin", " <b>", "\nx", "</think>"] {
            assert_eq!(run(Place::Start, &[text]), answer(text));
            let single: Vec<String> = text.chars().map(String::from).collect();
            assert_eq!(run(Place::Start, &single.iter().map(String::as_str).collect::<Vec<_>>()), answer(text));
        }
        assert_eq!(run(Place::Answer, &["<think>x</think>"]), answer("<think>x</think>"));
    }

    #[test]
    fn reasoning_that_never_ends_is_all_reasoning() {
        assert_eq!(run(Place::Start, &["<think>a</thi"]), ("a</thi".into(), String::new()));
        assert_eq!(run(Place::Reasoning, &["a\n"]), ("a\n".into(), String::new()));
    }
}

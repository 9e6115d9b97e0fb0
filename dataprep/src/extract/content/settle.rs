//! Brings the texts of elements in order, and tells those that say nothing.

use super::super::page::{Page, is_blank, trim};
use super::super::tree::{Id, Tag, VOID};
use super::kinds::BREAKS;
use std::borrow::Cow;

impl Page<'_> {
    /// Brings an element's own text in order. Is there anything to say?
    pub(super) fn prepare(&mut self, id: Id, lines_are_paragraphs: bool, keep_spaces: bool) -> bool {
        let tag = self.tree.tag(id);
        let childless = self.tree.element_children(id).next().is_none();
        let no_text = self.tree.head_text(id).is_empty();
        if tag == Tag::Done || (childless && no_text && self.tree.tail_text(id).is_empty()) {
            return false;
        }
        if !lines_are_paragraphs && BREAKS.has(tag) {
            return true;
        }
        if no_text && childless && !VOID.has(tag) {
            let tail = self.tree.tail_text(id).into_owned();
            self.tree.set_head_text(id, &tail);
            self.tree.set_tail_text(id, "");
        }
        if !keep_spaces {
            self.trim_texts(id);
        }
        let text = self.tree.head_text(id);
        !text.is_empty() || !is_noise(&self.tree.tail_text(id))
    }

    /// The same for an element that is taken as it is.
    pub(super) fn settle(&mut self, id: Id) -> bool {
        let tag = self.tree.tag(id);
        let childless = self.tree.element_children(id).next().is_none();
        if tag == Tag::Done || (childless && self.tree.head_text(id).is_empty() && self.tree.tail_text(id).is_empty()) {
            return false;
        }
        self.trim_texts(id);
        if !VOID.has(tag) && self.tree.head_text(id).is_empty() {
            let tail = self.tree.tail_text(id).into_owned();
            self.tree.set_tail_text(id, "");
            if childless {
                self.tree.set_head_text(id, &tail);
            } else if !tail.is_empty() {
                // Behind what it has, as it stood on the page.
                let text = self.tree.new_text(&[" ", &tail].concat());
                self.tree.append(id, text);
            }
        }
        let (text, tail) = (self.tree.head_text(id), self.tree.tail_text(id));
        (text.is_empty() && tail.is_empty()) || !is_noise(if text.is_empty() { &tail } else { &text })
    }

    fn trim_texts(&mut self, id: Id) {
        let trimmed = |text: Cow<'_, str>| match trim(&text) {
            Cow::Borrowed(same) if same.len() == text.len() => None,
            trimmed => Some(trimmed.into_owned()),
        };
        if let Some(text) = trimmed(self.tree.head_text(id)) {
            self.tree.set_head_text(id, &text);
        }
        if let Some(tail) = trimmed(self.tree.tail_text(id)) {
            self.tree.set_tail_text(id, &tail);
        }
    }
}

/// Does a text say nothing, or have a line that is a button for sharing or printing?
fn is_noise(text: &str) -> bool {
    is_blank(text) || text.split('\n').any(is_button)
}

/// Words of such buttons.
const BUTTONS: [&str; 22] = [
    "Drucken",
    "E-Mail",
    "EMail",
    "Facebook",
    "Flipboard",
    "Google",
    "Instagram",
    "Linkedin",
    "Mail",
    "PDF",
    "Pinterest",
    "Pocket",
    "Print",
    "QQ",
    "Reddit",
    "Twitter",
    "WeChat",
    "WeiBo",
    "Whatsapp",
    "Xing",
    "Mehr zum Thema",
    "Mehr zum Thema:",
];

fn is_button(line: &str) -> bool {
    // None is longer, whatever stands in front of it.
    const LONGEST: usize = 64;
    let line = line.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_');
    if line.len() > LONGEST {
        return false;
    }
    let more = "More on this";
    let begins = line.get(..more.len()).is_some_and(|start| start.eq_ignore_ascii_case(more));
    BUTTONS.iter().any(|button| line.eq_ignore_ascii_case(button))
        || (begins && line[more.len()..].chars().count() <= 8)
}
